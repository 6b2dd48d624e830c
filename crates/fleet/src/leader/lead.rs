//! How a machine comes to lead, and what it does while it does.

use super::events::until;
use super::family::family;
use super::fetch::Fetches;
use super::services::Services;
use super::vacancy::{end_of_a_former_life, vacancy};
use super::{Leader, Needs, Placed, Roll, Target, Work, events, locked};
use crate::error::{FleetError, Result};
use crate::fleet::{Fleet, Inner};
use crate::model::{
    Actual, Desired, DesiredRecord, FetchRecord, HadRecord, LeaderRecord, Machine, Marks,
    RevisionRecord, UnitRecord, VERSION, VolumeRecord, keys,
};
use crate::pace::{self, Steps};
use crate::presence::Seen;
use crate::rollout::DeployRecord;
use crate::services::ServiceRecord;
use coracle_engine::full_error;
use coracle_planner::{Planner, Settings};
use coracle_store::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, LeaseId, PutRequest, RangeRequest,
    Revision, StoreError, StoreExt as _, TxnOp, TxnRequest,
};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How long a store that does not answer is left alone.
pub(super) const REST: Duration = Duration::from_secs(1);
/// How long after its own start a leader waits for machines that do not give signs before it takes them for lost.
const GRACE: Duration = Duration::from_secs(15);
/// How often it is tried to give up the lead.
const RESIGN: usize = 30;
/// Decisions of one plan: between two, requests are answered and machines listened to.
const BATCH: usize = 10_000;

impl Fleet {
    /// A machine that is alone leads before it serves anybody.
    pub(crate) async fn lead_at_once(&self, lease: LeaseId) -> Result<()> {
        // Without a lease (the disk is full) it leads all the same: nobody else could.
        let tried = async {
            match stand(&self.0, lease, true).await? {
                Some(fence) => self.take_the_lead(fence).await,
                None => Ok(()),
            }
        };
        match tried.await {
            // What runs is looked after all the same; it is tried again.
            Err(FleetError::Store(error @ StoreError::NoSpace { .. })) => {
                tracing::error!(error = full_error(&error), "units cannot be changed now");
                Ok(())
            }
            other => other,
        }
    }

    /// Leads whenever it may and nobody else does.
    pub(crate) fn stand_for_election(
        &self,
        lease: watch::Receiver<LeaseId>,
        may_lead: watch::Receiver<bool>,
    ) {
        let weak = Arc::downgrade(&self.0);
        pace::spawn(campaign(weak, lease, may_lead));
    }

    async fn take_the_lead(&self, fence: Revision) -> Result<()> {
        let leader = load(&self.0, fence).await?;
        self.0.leader.send_replace(Some(leader));
        Ok(())
    }
}

/// Tries to lead; answers the fence if this machine leads. `alone` takes the place of whoever is written there: of a machine's own
/// former life.
async fn stand(inner: &Inner, lease: LeaseId, alone: bool) -> Result<Option<Revision>, StoreError> {
    let store = &inner.cluster;
    let record = LeaderRecord {
        version: VERSION,
        machine: inner.machine.id.clone(),
    };
    let put = || {
        let value = serde_json::to_vec(&record).unwrap_or_default();
        TxnOp::Put(PutRequest::new(keys::LEADER, value).with_lease(lease))
    };
    let Some(found) = store.get(keys::LEADER).await? else {
        let txn = TxnRequest {
            compare: vec![Compare::absent(keys::LEADER)],
            success: vec![put()],
            failure: Vec::new(),
        };
        let answer = store.txn(txn).await?;
        return Ok(answer.succeeded.then_some(answer.revision));
    };
    let leads = serde_json::from_slice::<LeaderRecord>(&found.value);
    let ours = leads.is_ok_and(|l| l.machine == inner.machine.id);
    if !ours && !alone {
        return Ok(None);
    }
    // Of this machine's last time as leader, or of a former life under a lease that is not kept any more. What was decided then stands, and
    // what is still on its way is refused from here on: nobody would know of it.
    let txn = TxnRequest {
        compare: vec![Compare::unchanged(keys::LEADER, found.mod_revision)],
        success: vec![put()],
        failure: Vec::new(),
    };
    match store.txn(txn).await {
        Ok(answer) => Ok(answer.succeeded.then_some(answer.revision)),
        // The disk is full. Of a machine that is alone nothing can be on its way still: its store went with that life.
        Err(StoreError::NoSpace { .. }) if alone && ours => Ok(Some(found.mod_revision)),
        Err(error) => Err(error),
    }
}

/// Leads, and when that is over tries again, as long as there is a fleet.
async fn campaign(
    weak: Weak<Inner>,
    mut lease: watch::Receiver<LeaseId>,
    mut may_lead: watch::Receiver<bool>,
) {
    loop {
        let Some(inner) = weak.upgrade() else { return };
        let leader = inner.leader.borrow().clone();
        if let Some(leader) = leader {
            drop(inner);
            events::lead(&leader, &weak, &mut lease, &mut may_lead).await;
            leader.end();
            let Some(inner) = weak.upgrade() else { return };
            inner.leader.send_replace(None);
            tracing::info!("this machine does not lead any more");
            if !*may_lead.borrow() {
                let resigning = leader.resign();
                tokio::select! {
                    () = resigning => {}
                    () = until(&mut may_lead, |may| *may) => {}
                }
            }
            continue;
        }
        if !*may_lead.borrow_and_update() {
            let (store, machine) = (inner.cluster.clone(), inner.machine.id.clone());
            drop(inner);
            let end = async {
                end_of_a_former_life(&*store, &machine).await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                biased;
                changed = may_lead.changed() => if changed.is_err() { return },
                () = end => {}
            }
            continue;
        }
        let (under, alone) = (*lease.borrow_and_update(), inner.alone());
        if under == 0 && !alone {
            drop(inner);
            tokio::select! {
                biased;
                () = changed(&mut lease) => {}
                () = changed(&mut may_lead) => {}
            }
            continue;
        }
        let tried = async {
            match stand(&inner, under, alone).await? {
                Some(fence) => load(&inner, fence).await.map(Some),
                None => Ok(None),
            }
        };
        match tried.await {
            Ok(Some(leader)) => {
                tracing::info!("this machine leads");
                inner.leader.send_replace(Some(leader));
            }
            Ok(None) => {
                let (store, machine) = (inner.cluster.clone(), inner.machine.id.clone());
                drop(inner);
                vacancy(&*store, &machine, &mut lease, &mut may_lead).await;
            }
            Err(error) => {
                tracing::debug!(error = full_error(&error), "this machine cannot lead now");
                drop(inner);
                pace::sleep(REST).await;
            }
        }
    }
}

impl Leader {
    /// Leaves the lead to another machine at once; this one's lease is kept, so that its key would stay. A store that cannot be asked is asked
    /// a few times.
    async fn resign(&self) {
        let own = CompareTarget::Mod(self.fence);
        let txn = TxnRequest {
            compare: vec![Compare::new(keys::LEADER, CompareResult::Equal, own)],
            success: vec![TxnOp::Delete(DeleteRangeRequest::key(keys::LEADER))],
            failure: Vec::new(),
        };
        for _ in 0..RESIGN {
            match self.store.txn(txn.clone()).await {
                Ok(_) => return,
                Err(error) => tracing::debug!(
                    error = full_error(&error),
                    "the lead could not be given up yet"
                ),
            }
            pace::sleep(REST).await;
        }
    }
}

pub(super) async fn changed<T>(from: &mut watch::Receiver<T>) {
    if from.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Reads everything.
async fn load(inner: &Inner, fence: Revision) -> Result<Arc<Leader>> {
    let store = &*inner.cluster;
    // Who answers that may be behind who was asked for the lead.
    let at = store.status().await?.revision.max(fence);
    let units: BTreeMap<String, UnitRecord> = family(store, keys::UNITS, at).await?;
    let texts: BTreeMap<String, RevisionRecord> = family(store, keys::REVISIONS, at).await?;
    let desired: BTreeMap<String, DesiredRecord> = family(store, keys::DESIRED, at).await?;
    let actual: BTreeMap<String, Actual> = family(store, keys::ACTUAL, at).await?;
    let machines: BTreeMap<String, Machine> = family(store, keys::MACHINES, at).await?;
    let volumes: BTreeMap<String, VolumeRecord> = family(store, keys::VOLUMES, at).await?;
    let deploys: BTreeMap<String, DeployRecord> = family(store, keys::DEPLOYS, at).await?;
    let services: BTreeMap<String, ServiceRecord> = family(store, keys::SERVICES, at).await?;
    let asked: BTreeMap<String, FetchRecord> = family(store, keys::FETCH, at).await?;
    let had: BTreeMap<String, HadRecord> = family(store, keys::IMAGES, at).await?;
    let mut marks: BTreeMap<String, Marks> = family(store, keys::MARKS, at).await?;
    let alive = RangeRequest {
        revision: at,
        keys_only: true,
        ..RangeRequest::prefix(keys::ALIVE)
    };
    let alive = store.range(alive).await?.kvs.into_iter();
    let alive: HashSet<_> = alive.map(|kv| kv.key).collect();
    let is_alive = |id: &str| alive.contains(keys::alive(id).as_bytes());
    let machines = machines.into_iter().map(|(id, machine)| {
        let (alive, marks) = (is_alive(&id), marks.remove(&id).unwrap_or_default());
        (id, Seen::new(machine, alive, marks))
    });
    let leader = Arc::new(Leader {
        store: inner.cluster.clone(),
        machine: inner.machine.id.clone(),
        fence,
        specifiers: crate::machine::specifiers(&inner.machine),
        targets: RwLock::default(),
        names: RwLock::default(),
        machines: Mutex::new(Roll::new(machines.collect())),
        there: Mutex::default(),
        needs: Mutex::new(Needs::default()),
        change_lock: tokio::sync::Mutex::default(),
        streams: Mutex::default(),
        leaving: Mutex::default(),
        planner: Mutex::new(Planner::new(Settings {
            batch: BATCH,
            ..Settings::default()
        })),
        lost: Mutex::default(),
        later: AtomicBool::new(false),
        // Who has just come up itself gives the others time to come up too.
        grace: (!inner.alone()).then(|| inner.opened + GRACE),
        statuses: Mutex::default(),
        answered: Mutex::default(),
        orphans: Mutex::default(),
        deploys: Mutex::default(),
        fetches: Mutex::new(Fetches::new(asked, had)),
        services: Mutex::new(Services::new(inner.services_range(), services)),
        ended: Mutex::default(),
        over: watch::Sender::new(false),
        ticks: watch::Sender::new(0),
        wake: Notify::new(),
        work: Work::default(),
    });
    let mut steps = Steps::default();
    for (name, record) in units {
        steps.one_more().await;
        let text = texts.get(&format!("{}/{}", record.uid, record.revision));
        let read = text
            .ok_or_else(|| FleetError::NotFound(keys::revision(&record.uid, record.revision)))
            .and_then(|text| leader.parse(&name, &text.text, &text.dropins));
        match read {
            Ok(unit) => leader.insert(&name, Target::new(record, unit)),
            Err(error) => tracing::error!(
                unit = name,
                error = full_error(&error),
                "the unit cannot be read"
            ),
        }
    }
    drop(texts);
    leader.take_deploys(deploys);
    leader.drop_fetches().await?;
    let written = desired.keys().chain(actual.keys());
    let written: BTreeSet<String> = written
        .filter_map(|key| Some(keys::placed(key, "")?.0))
        .collect();
    leader.take_in(desired, actual).await;
    leader.adopt().await?;
    leader.away(&written);
    leader.tell_all(volumes).await;
    leader.begin(at).await?;
    // What was read is larger than what is kept of it.
    coracle_sys::memory::give_back();
    Ok(leader)
}

impl Leader {
    /// Tells the planner everything that was read.
    async fn tell_all(&self, volumes: BTreeMap<String, VolumeRecord>) {
        self.later.store(self.tell_machines(), Ordering::Relaxed);
        self.with_planner(|planner| {
            for (name, record) in volumes {
                let machine = record.machine.as_str().into();
                planner.set_volume(&name.into(), Some(&machine));
            }
        });
        let mut steps = Steps::default();
        for target in self.all() {
            steps.one_more().await;
            self.tell_unit(&target, &target.record(), &target.unit());
            self.tell_failures(&target);
            self.tell_placed(&target);
        }
    }

    /// Machines that were removed under a former leader and of which instances are written still, also of units that nobody knows any
    /// more, are away from now on.
    fn away(&self, written: &BTreeSet<String>) {
        let (known, now) = (self.machines(), pace::now());
        for id in written.iter().filter(|id| !known.contains_key(*id)) {
            locked(&self.lost).away(id, now, || Duration::ZERO);
        }
    }

    /// What is asked of machines, and what they say.
    async fn take_in(
        &self,
        desired: BTreeMap<String, DesiredRecord>,
        actual: BTreeMap<String, Actual>,
    ) {
        let machines = self.machines();
        let alive = |machine: &str| machines.get(machine).is_some_and(|m| m.alive);
        let mut steps = Steps::default();
        for (key, record) in desired {
            steps.one_more().await;
            let Some((machine, instance)) = keys::placed(&key, "") else {
                continue;
            };
            if let Some(target) = self.of_uid(&instance.uid) {
                let placed = match record.leaving {
                    true => Placed::leaving(instance, alive(&machine)),
                    false => Placed {
                        alive: alive(&machine),
                        ..Placed::new(instance, record)
                    },
                };
                self.change(&target, |all| drop(all.insert(machine, placed)));
            } else if record.leaving {
                locked(&self.orphans).insert(keys::desired(&machine, &instance));
            }
        }
        for (key, actual) in actual {
            steps.one_more().await;
            let Some((machine, instance)) = keys::placed(&key, "") else {
                continue;
            };
            self.told(&machine, instance, Some(actual), alive(&machine));
        }
    }

    /// A unit by its uid, also one that was destroyed and is not forgotten yet.
    pub fn of_uid(&self, uid: &str) -> Option<Arc<Target>> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let name = names.get(uid).cloned();
        drop(names);
        match name {
            Some(name) => self.target(&name),
            None => locked(&self.leaving).get(uid).cloned(),
        }
    }

    /// A machine says where an instance stands.
    pub fn told(
        &self,
        machine: &str,
        instance: crate::model::Instance,
        actual: Option<Actual>,
        alive: bool,
    ) -> Option<Arc<Target>> {
        let Some(target) = self.of_uid(&instance.uid) else {
            let key = keys::desired(machine, &instance);
            if actual.is_some() && locked(&self.orphans).remove(&key) {
                locked(&self.answered).push(key);
            }
            return None;
        };
        let (uid, actual) = (instance.uid.clone(), actual.map(Box::new));
        self.change(&target, |all| match all.get_mut(machine) {
            Some(placed) if placed.instance == instance => {
                if actual.is_some() && std::mem::take(&mut placed.leaving) {
                    locked(&self.answered).push(keys::desired(machine, &instance));
                }
                placed.actual = actual;
            }
            // Of one that was there before, while the next is asked for.
            Some(_) => {}
            None if actual.is_some() => {
                let placed = Placed {
                    instance,
                    desired: None,
                    actual,
                    alive,
                    leaving: false,
                };
                all.insert(machine.to_owned(), placed);
            }
            None => {}
        });
        if target.placed().is_empty() {
            locked(&self.leaving).remove(uid.as_str());
        }
        Some(target)
    }

    /// Has every machine asked what the units' records say. A release before this one asked machines for running units only: what
    /// has stopped and left its output is theirs still. A leader that was cut off may have told a new record to some machines only.
    async fn adopt(&self) -> Result<()> {
        let (mut groups, mut steps) = (Vec::new(), Steps::default());
        for target in self.all() {
            steps.one_more().await;
            let record = target.record();
            let name = target.unit().name.to_string();
            let placed = target.placed();
            let left =
                record.desired == Desired::Inactive && placed.values().all(|p| p.desired.is_none());
            for (machine, placed) in placed {
                let desired = self.desired(&name, &record);
                let key = keys::desired(&machine, &placed.instance);
                let is_told = match &placed.desired {
                    Some(told) => **told == desired,
                    None => {
                        !left || placed.actual.is_none() || locked(&self.answered).contains(&key)
                    }
                };
                if is_told {
                    continue;
                }
                let mut group = super::Group::default();
                group.put(key, &desired)?;
                groups.push(group);
                self.change(&target, |all| {
                    if let Some(placed) = all.get_mut(&machine) {
                        placed.desired = Some(Box::new(desired));
                    }
                });
            }
        }
        self.commit(groups).await
    }
}
