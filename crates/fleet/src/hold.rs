//! How long what is exclusive may run here without a word of the store, and why there are never two.
//!
//! # Who promises what
//! * The machine `m` sends a question in its second `t`: is `alive/<m>` there, under the lease that I keep? The read is linearizable. Told
//!   yes, it permits until `t +` [`HOLD`], whenever the answer comes. Each shim has stopped its container by then
//!   ([`coracle_engine::exclusive`]), whatever became of the daemon; or its guard, whatever became of the shim.
//! * The leader sees `alive/<m>` gone in its second `s`, waits [`FENCE`] `= HOLD + MARGIN`, and places the unit elsewhere by a transaction
//!   that holds only if `alive/<m>` is not there.
//! * To *start* something exclusive, `m` asks in the same read whether `desired/<m>/<instance>` and its own `actual/<m>/<instance>` are there.
//!
//! # Why that is enough
//! Let `r` be the moment at which a question of `m` takes effect in the store, and `g` the moment at which the key goes for good before
//! the leader's transaction. Linearizable means that `r` lies between sending and answer, and orders it among all writes.
//!
//! 1. `r < g`: then `t ≤ r < g ≤ s`. The container is gone by `t + HOLD`, the successor begins after `s + HOLD + MARGIN`: later by more than
//!    `MARGIN`. The two durations are measured by two clocks that run at rates within `1 ± ρ` of true time, which costs no more than
//!    `2ρ(HOLD + MARGIN)`: 26 ms were the clocks wrong by a part in a thousand, where quartz is wrong by a part in ten thousand. The rest of the
//!    margin is for the time that killed processes take to go, and for a shim that gets no processor at once. `CLOCK_BOOTTIME` counts what a
//!    suspended machine sleeps; the leader's clock does not, and so is late at worst.
//! 2. `r > g`: the key is there again, so the leader's transaction, which needs it absent, is either before `r` or not done. Before `r`: the
//!    same transaction has taken `desired/<m>/<instance>` away, so that nothing is *started*; and what ran has stopped by 1.
//! 3. A unit is withdrawn from a machine that is there: its successor waits until `actual/<m>/<instance>` is gone, which `m` takes away when
//!    it has stopped. That the key is there before the first start is why it is asked for.
//!
//! How long the lease in the store lives is no part of this. It only decides how soon `g` comes, so that it can be shorter where it shall.
//! A keep-alive is not such a question: etcd's leader answers it by itself, and may be none any more.
//!
//! # A worked example
//! `m2` asks in second 100 and is answered; it is cut off in second 100.5. In second 104 its lease of 4 s runs out. `db`, with a stop timeout of 2 s,
//! gets SIGTERM in second 108 and is gone by second 110. The leader places it elsewhere in second 117.
//!
//! A machine that is alone needs no deadline: nobody else could run it.

use crate::fleet::{Fleet, Inner};
use crate::leader::is_resource;
use crate::model::{Active, Desired, Instance, keys};
use crate::pace;
use crate::service::{self, NotUp, Wanted};
use crate::supervise::Supervised;
use coracle_engine::exclusive::{Ending, Permit};
use coracle_engine::{EngineError, full_error};
use coracle_store::{
    RangeRequest, RangeResponse, StoreError, StoreExt as _, TxnOp, TxnOpResponse, TxnRequest,
};
use coracle_unit::container::MountSource;
use coracle_unit::{Kind, Unit, deploy};
use futures_util::StreamExt as _;
use futures_util::future::join;
use futures_util::stream::FuturesUnordered;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long a yes of the store is good for, from the moment at which it was asked.
pub(crate) const HOLD: Duration = deploy::LEASE;
/// For clocks, and for killed processes to go.
const MARGIN: Duration = Duration::from_secs(3);
/// When a machine has not been there for so long, nothing exclusive runs there any more.
pub(crate) const FENCE: Duration = Duration::from_secs(HOLD.as_secs() + MARGIN.as_secs());
/// How often the store is asked, while something exclusive runs.
const ASK: Duration = Duration::from_secs(1);
/// How long an answer is waited for. Several questions have to find room in [`HOLD`].
const ANSWER: Duration = Duration::from_secs(2);

/// Whether there must never be two of it, so that it stops where its machine is cut off. Data in a local volume makes a unit so, unless
/// it says `Exclusive=no`; what is everywhere cannot be.
pub(crate) fn is_exclusive(unit: &Unit) -> bool {
    let has_data = || match &unit.kind {
        Kind::Container { container, .. } => {
            let mut mounts = container.mounts.iter();
            mounts.any(|m| matches!(m.source, MountSource::Named(_) | MountSource::Unit(_)))
        }
        _ => false,
    };
    let able = !unit.fleet.global && !is_resource(unit);
    able && unit.deploy.exclusive.unwrap_or_else(has_data)
}

impl Supervised {
    /// Whether it is by what it runs, or by its text, by which the leader goes: a unit may become so while it runs.
    pub(crate) fn is_exclusive(&self) -> bool {
        is_exclusive(&self.running()) || is_exclusive(&self.unit())
    }
}

/// How a unit that is exclusive is asked to end.
fn ending(unit: &Unit) -> Ending {
    let signal = service::section(unit)
        .and_then(|s| coracle_engine::stop::signal_number(&s.kill_signal).ok());
    let time = coracle_unit::unit::stop_time(&unit.kind).map_or(Duration::MAX, |time| {
        time.duration().unwrap_or(Duration::MAX)
    });
    Ending::new(signal.unwrap_or(15), time)
}

/// What the store says to a question.
enum Word {
    /// The machine counts as there; of an instance that was asked for, the fence.
    Yes(Permit, i64),
    /// The machine does not count as there.
    Absent,
    /// The instance is another machine's business, or the leader does not know of it yet.
    NotHere,
    /// Nothing.
    Silence(Option<StoreError>),
}

/// Asks whether this machine counts as there, and whether an instance is its business.
async fn ask(inner: &Inner, instance: Option<&Instance>) -> Word {
    // Before the question: see the module.
    let asked_ms = pace::boottime_ms();
    let machine = &inner.machine.id;
    let mut wanted = vec![keys::alive(machine)];
    if let Some(instance) = instance {
        wanted.extend([
            keys::desired(machine, instance),
            keys::actual(machine, instance),
        ]);
    }
    let reads = wanted.into_iter().map(RangeRequest::key).map(TxnOp::Range);
    let all = TxnRequest {
        success: reads.collect(),
        ..TxnRequest::default()
    };
    let answer = match pace::within(ANSWER, inner.cluster.txn(all)).await {
        Some(Ok(answer)) => answer,
        Some(Err(error)) => return Word::Silence(Some(error)),
        None => return Word::Silence(None),
    };
    let mut found = answer.responses.into_iter().map(|read| match read {
        TxnOpResponse::Range(RangeResponse { mut kvs, .. }) => kvs.pop(),
        _ => None,
    });
    let lease = *inner.signs.borrow();
    let alive = found.next().flatten();
    if lease == 0 || alive.is_none_or(|kv| kv.lease != lease) {
        return Word::Absent;
    }
    let permit = Permit::Until {
        asked_ms,
        until_ms: asked_ms + u64::try_from(HOLD.as_millis()).unwrap_or(u64::MAX),
    };
    if instance.is_none() {
        return Word::Yes(permit, 0);
    }
    match (found.next().flatten(), found.next().flatten()) {
        (Some(desired), Some(_)) => Word::Yes(permit, desired.create_revision),
        _ => Word::NotHere,
    }
}

impl Fleet {
    /// Keeps what is exclusive running as long as this machine counts as there, for as long as there is a fleet.
    pub(crate) fn hold(&self) {
        pace::spawn(keep(Arc::downgrade(&self.0)));
    }

    /// Waits until this machine may start an instance that is exclusive. Answers the permit for this one start.
    pub(crate) async fn permit(&self, unit: &Supervised, wanted: &Wanted) -> Permit {
        let (begun, mut said) = (pace::now(), false);
        loop {
            if self.0.alone() {
                self.containers().permit(Permit::Unlimited);
                return Permit::Unlimited;
            }
            let word = ask(&self.0, Some(&unit.instance)).await;
            if let Word::Yes(permit, fence) = word {
                self.containers().permit(permit);
                self.0.held.notify_one();
                unit.set_fence(fence);
                return permit;
            }
            // A moment is nothing to speak of.
            if pace::now().duration_since(begun) >= ASK && !std::mem::replace(&mut said, true) {
                let why = match &word {
                    Word::Silence(_) => "the cluster's store does not answer",
                    Word::Absent => "this machine does not count as there yet",
                    _ => "its place is not confirmed yet",
                };
                let reason = unit.actual().reason;
                let reason = format!("{reason}; it is exclusive and waits, since {why}");
                let (active, goal) = (Active::Activating, wanted.goal());
                self.say(unit, goal, active, "start", reason, false).await;
            }
            // That its place is confirmed takes no longer than a write.
            let rest = match word {
                Word::NotHere => ASK / 20,
                _ => ASK / 4,
            };
            pace::sleep(rest).await;
        }
    }

    /// Starts a container; of a unit that is exclusive as soon as it may, and only then.
    pub(crate) async fn start_container(
        &self,
        unit: &Supervised,
        id: &str,
        wanted: &Wanted,
    ) -> Result<(), NotUp> {
        loop {
            let started = if unit.is_exclusive() {
                let permit = wanted.unless(self.permit(unit, wanted)).await?;
                self.containers().start_permitted(id, permit).await
            } else {
                self.containers().start(id).await
            };
            match started {
                Ok(()) | Err(EngineError::NotModified) => return Ok(()),
                // The permit ran out on the way.
                Err(EngineError::NotPermitted(_)) if unit.is_exclusive() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// As [`Self::start_container`], of a process of a unit's start.
    pub(crate) async fn start_process(
        &self,
        unit: &Supervised,
        file: &Unit,
        mut spec: coracle_engine::process::ProcessSpec,
        wanted: &Wanted,
    ) -> Result<(), NotUp> {
        loop {
            if unit.is_exclusive() {
                let permit = wanted.unless(self.permit(unit, wanted)).await?;
                spec.exclusive = Some((ending(file), permit));
            }
            match self.engine().process_start(spec.clone()).await {
                Ok(_) => return Ok(()),
                Err(EngineError::NotPermitted(_)) if unit.is_exclusive() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The number that grows with every instance of a unit, also over machines and when its name is given anew: the store's
    /// revision at which it was placed. 0 is not known.
    pub(crate) async fn fence(&self, instance: &Instance) -> i64 {
        let key = keys::desired(&self.0.machine.id, instance);
        let kept = match self.0.alone() {
            true => None,
            false => self
                .0
                .local
                .get_json::<i64>(&keys::fence(instance))
                .await
                .ok(),
        };
        if let Some(Some((fence, _))) = kept {
            return fence;
        }
        let asked = pace::within(ANSWER, self.0.cluster.get(key)).await;
        match asked {
            Some(Ok(Some(kv))) => kv.create_revision,
            _ => 0,
        }
    }
}

impl Inner {
    /// What is exclusive and runs here, or is asked to.
    fn exclusive(&self) -> Vec<Arc<Supervised>> {
        let units = self.units.read();
        let units = units.unwrap_or_else(std::sync::PoisonError::into_inner);
        let wanted = |unit: &&Arc<Supervised>| {
            let wanted = unit.goal.borrow().desired == Desired::Active;
            let is_down = matches!(
                unit.actual.borrow().active,
                Active::Inactive | Active::Failed
            );
            (wanted || !is_down) && unit.is_exclusive()
        };
        units.values().filter(wanted).cloned().collect()
    }

    /// What the units that are asked to run here ask of this machine's signs.
    pub(crate) fn signs_wanted(&self) -> Signs {
        let units = self.units.read();
        let units = units.unwrap_or_else(std::sync::PoisonError::into_inner);
        let active = |unit: &&Arc<Supervised>| unit.goal.borrow().desired == Desired::Active;
        Signs::of(units.values().filter(active).map(|unit| unit.unit()))
    }
}

/// Asks again and again, and tells the shims.
async fn keep(weak: Weak<Inner>) {
    let mut said = BTreeSet::new();
    let mut unlimited = false;
    let mut claimed: BTreeMap<String, Arc<Supervised>> = BTreeMap::new();
    loop {
        let Some(inner) = weak.upgrade() else { return };
        let (held, mut alone) = (inner.held.clone(), inner.follow_alone());
        let is_alone = *alone.borrow_and_update();
        let those = inner.exclusive();
        let released = release(&inner, &mut claimed).await;
        if is_alone {
            inner.containers.permit(Permit::Unlimited);
            if !std::mem::replace(&mut unlimited, true) {
                // A former life's deadlines.
                prolong(&inner, &those, &mut said).await;
            }
            drop(inner);
            if alone.wait_for(|alone| !alone).await.is_err() {
                return std::future::pending().await;
            }
            continue;
        }
        if those.is_empty() {
            drop(inner);
            match released {
                true => held.notified().await,
                false => pace::sleep(ASK).await,
            }
            continue;
        }
        // Whatever the answer: what was begun before it was exclusive is so now.
        for unit in &those {
            claim(&inner, unit);
            claimed.insert(unit.unit().name.to_string(), unit.clone());
        }
        let mut rest = ASK;
        match ask(&inner, None).await {
            Word::Yes(permit, _) => {
                inner.containers.permit(permit);
                let begun = pace::now();
                prolong(&inner, &those, &mut said).await;
                // A shim that does not answer keeps nobody from the next question.
                rest = ASK.saturating_sub(pace::now().duration_since(begun));
            }
            Word::Silence(Some(error)) => tracing::debug!(
                error = full_error(&error),
                "the store could not be asked whether this machine counts as there"
            ),
            _ => {}
        }
        drop(inner);
        pace::sleep(rest).await;
    }
}

/// Its container and its process.
fn runs(unit: &Supervised) -> (Option<String>, Option<String>) {
    let actual = unit.actual.borrow();
    (actual.container.clone(), actual.process.clone())
}

/// From now on nobody starts it without a permit, and it ends where none is left.
fn claim(inner: &Inner, unit: &Supervised) {
    let (container, process) = runs(unit);
    if let Some(id) = container {
        inner.containers.claim(&id);
    }
    if let Some(id) = process {
        let ending = ending(&unit.running());
        inner.engine().process_claim(&id, ending);
    }
}

/// What was claimed and is exclusive no more, since its text was changed back, has no deadline any more; whether that could be told to
/// all of them.
async fn release(inner: &Inner, claimed: &mut BTreeMap<String, Arc<Supervised>>) -> bool {
    let mut left = BTreeMap::new();
    for (name, unit) in std::mem::take(claimed) {
        if unit.is_exclusive() {
            // Of one that has gone nothing is to be told, and it is claimed again where it is still there.
            continue;
        }
        let (container, process) = runs(&unit);
        let mut told = Ok(());
        if let Some(id) = container {
            told = inner.containers.release(&id).await;
        }
        if let Some(id) = process {
            told = told.and(inner.engine().process_release(&id).await);
        }
        if told.is_err() {
            left.insert(name, unit);
        }
    }
    *claimed = left;
    claimed.is_empty()
}

async fn prolong_one(inner: &Inner, unit: Arc<Supervised>) -> (String, Result<(), EngineError>) {
    let (container, process) = runs(&unit);
    let mut told = Ok(());
    if let Some(id) = container {
        told = inner.containers.prolong(&id).await;
    }
    if let Some(id) = process {
        let ending = ending(&unit.running());
        told = told.and(inner.engine().process_prolong(&id, ending).await);
    }
    (unit.unit().name.to_string(), told)
}

/// Moves on the deadlines of these, all at once, so that one that does not answer keeps none from it; of each that cannot be, that is
/// said once.
async fn prolong(inner: &Inner, those: &[Arc<Supervised>], said: &mut BTreeSet<String>) {
    let mut all = FuturesUnordered::new();
    for unit in those {
        all.push(prolong_one(inner, unit.clone()));
    }
    let units = async {
        while let Some((name, told)) = all.next().await {
            was_told(name, told, said);
        }
    };
    join(units, inner.containers.prolong_commands()).await;
}

fn was_told(name: String, told: Result<(), EngineError>, said: &mut BTreeSet<String>) {
    match told {
        Err(EngineError::Refused { message, .. }) if message.contains("cannot be read") => {
            if said.insert(name.clone()) {
                tracing::error!(
                    unit = name,
                    "it was started by an older release and would run on if this machine were cut off: restart it (`coracle unit restart`)"
                );
            }
        }
        // It ends just now.
        Err(error) => tracing::debug!(
            unit = name,
            error = full_error(&error),
            "its deadline was not moved"
        ),
        Ok(()) => {}
    }
}

/// What a machine's signs have to be like for the units that it has. Machines and leader come to the same of the same units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signs {
    /// Seconds after the last sign at which its key goes.
    pub lease: i64,
    /// How long after that it is taken for lost.
    pub patience: Duration,
}

/// From the loss of a machine to what runs elsewhere: the time of the lease is rounded up by the store, and a place has to be found.
const ELSEWHERE: i64 = 2;
/// The shortest lease: two signs may be lost.
const SHORTEST: i64 = 3;
/// The lease of a machine with something exclusive: with [`FENCE`] it is elsewhere within 20 s, too.
const EXCLUSIVE: i64 = 4;

impl Signs {
    /// Of a machine whose units ask for nothing else.
    pub const USUAL: Self = Self {
        lease: crate::presence::LEASE,
        patience: Duration::ZERO,
    };

    /// Those that the most impatient of these units needs.
    pub fn of(units: impl Iterator<Item = Arc<Unit>>) -> Self {
        let usual = Self::USUAL.lease;
        let (mut lost, mut lease) = (usual, usual);
        for unit in units {
            if is_exclusive(&unit) {
                lease = lease.min(EXCLUSIVE);
            }
            if let Some(within) = unit.deploy.lost_after {
                lost = lost.min((i64::from(within) - ELSEWHERE).max(SHORTEST));
            }
        }
        let lease = lease.min(lost);
        Self {
            lease,
            patience: Duration::from_secs(u64::try_from(lost - lease).unwrap_or_default()),
        }
    }

    /// How often a sign is given.
    pub fn beat(self) -> Duration {
        match self.lease == Self::USUAL.lease {
            true => Duration::from_secs(3),
            false => Duration::from_secs(1),
        }
    }
}

#[cfg(test)]
mod tests;
