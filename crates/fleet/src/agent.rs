//! What this machine must run: learnt from the store, kept in the machine's own, brought to the units' drivers.
//!
//! ```text
//! cluster's store                 this machine
//! desired/<machine>/… ── watch ──> own store (synced) ──> one driver a unit ──> engine
//! actual/<machine>/…  <── report ── own store (synced) <──┘
//! ```
//! A machine that is alone has one store, which is both. In a cluster the own one is what the machine goes by: a daemon that starts while
//! the cluster's store is away runs what was asked of it last, and what happens meanwhile is reported later.
//!
//! Everything is level-triggered: what is wanted of a unit's name is compared with what is there, and one step is taken. An instance
//! that is wanted no more is *retired*: stopped, its containers removed, its record too; only then another one of that
//! unit begins.

mod images;
mod own;
mod report;
mod retire;
mod text;
mod texts;

use crate::error::Result;
use crate::fleet::{Fleet, Inner};
use crate::model::{Active, Actual, Desired, DesiredRecord, Instance, keys};
use crate::pace;
use crate::supervise::Supervised;
use coracle_engine::full_error;
use coracle_store::{EventKind, KeyValue, StoreError, StoreExt as _, WatchRequest};
pub(crate) use report::Reports;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a store that does not answer is left alone.
const REST: Duration = Duration::from_secs(1);

/// What is wanted of each unit, by its name. There is more than one instance for a moment only.
type Wanted = BTreeMap<String, BTreeMap<Instance, DesiredRecord>>;

/// A record of what is wanted, if this release can read it.
fn read(kv: &KeyValue) -> Option<DesiredRecord> {
    let read = serde_json::from_slice(&kv.value);
    let unread = |error: &serde_json::Error| tracing::error!(key = %String::from_utf8_lossy(&kv.key), %error, "what is to run cannot be read");
    read.inspect_err(unread).ok()
}

fn instance(key: &[u8]) -> Option<Instance> {
    Some(keys::placed(std::str::from_utf8(key).ok()?, keys::DESIRED)?.1)
}

fn wanted(kvs: &[KeyValue]) -> Wanted {
    let mut all = Wanted::new();
    for kv in kvs {
        if let (Some(instance), Some(record)) = (instance(&kv.key), read(kv)) {
            let of = all.entry(record.unit.clone()).or_default();
            of.insert(instance, record);
        }
    }
    all
}

impl Fleet {
    /// Takes up what the machine's own store says, and follows the cluster's from here on.
    ///
    /// # Errors
    /// When the own store cannot be read.
    pub(crate) async fn take_up(&self) -> Result<()> {
        let prefix = keys::desired_of(&self.0.machine.id);
        let wanted = wanted(&self.0.local.list(prefix).await?.kvs);
        let names: Vec<String> = wanted.keys().cloned().collect();
        let mut agent = Agent::new(Arc::downgrade(&self.0), wanted);
        for name in names {
            agent.reconcile(self, &name).await;
        }
        agent.begin(self);
        Ok(())
    }

    /// Follows what is wanted of this machine, for as long as there is a fleet.
    pub(crate) fn follow(&self) {
        let agent = Agent::new(Arc::downgrade(&self.0), Wanted::new());
        pace::spawn(agent.run());
    }

    /// Writes where an instance stands: at once to the own store, and to the cluster's when it can be had.
    pub(crate) async fn write_actual(&self, instance: &Instance, actual: &Actual) -> Result<()> {
        let key = keys::actual(&self.0.machine.id, instance);
        if self.0.alone() {
            self.0.cluster.put_json(&key, actual).await?;
            if self.0.alone() {
                return Ok(());
            }
            // It was switched over meanwhile.
        }
        self.0.local.put_json(&key, actual).await?;
        self.0.reports.tell(instance);
        Ok(())
    }
}

/// Follows what is wanted.
struct Agent {
    fleet: Weak<Inner>,
    wanted: Wanted,
    /// Names of units of which an instance is retired just now.
    retiring: BTreeSet<String>,
    /// Of these, those that are retired by now.
    retired: (
        mpsc::UnboundedSender<String>,
        mpsc::UnboundedReceiver<String>,
    ),
    /// Names of units that could not be read, and are tried again.
    unread: BTreeSet<String>,
    /// What was asked of those of them of which that was said.
    told: BTreeMap<String, DesiredRecord>,
    /// Those that came, and are not driven yet: a unit's text may name another that comes with it, so all are known before any begins.
    come: Vec<Arc<Supervised>>,
}

impl Agent {
    fn new(fleet: Weak<Inner>, wanted: Wanted) -> Self {
        Self {
            fleet,
            wanted,
            retiring: BTreeSet::new(),
            retired: mpsc::unbounded_channel(),
            unread: BTreeSet::new(),
            told: BTreeMap::new(),
            come: Vec::new(),
        }
    }

    fn begin(&mut self, fleet: &Fleet) {
        for unit in self.come.drain(..) {
            fleet.drive(&unit);
        }
    }

    async fn run(mut self) {
        let mut said = false;
        while let Some(inner) = self.fleet.upgrade() {
            match self.listen(Fleet(inner)).await {
                Ok(()) => said = false,
                Err(error) => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!(
                            error = full_error(&error),
                            "what this machine is to run cannot be asked; what runs runs on, and it is tried again"
                        );
                    }
                    tokio::select! {
                        biased;
                        Some(done) = self.retired.1.recv() => self.done(&done).await,
                        () = pace::sleep(REST) => {}
                    }
                }
            }
        }
    }

    /// Takes all that is wanted, then each change of it, until the watch ends.
    async fn listen(&mut self, fleet: Fleet) -> Result<(), StoreError> {
        let prefix = keys::desired_of(&fleet.0.machine.id);
        let found = fleet.0.cluster.list(prefix.clone()).await?;
        let mut watch = fleet
            .0
            .cluster
            .watch(WatchRequest::prefix(prefix).from(found.revision + 1))
            .await?;
        self.all(&fleet, found.kvs).await?;
        // Nothing is held of it while it is waited.
        drop(fleet);
        loop {
            let answer = tokio::select! {
                biased;
                Some(done) = self.retired.1.recv() => {
                    self.done(&done).await;
                    continue;
                }
                answer = watch.next() => answer,
                () = pace::sleep(REST), if !self.unread.is_empty() => {
                    let Some(inner) = self.fleet.upgrade() else { return Ok(()) };
                    let fleet = Fleet(inner);
                    for name in std::mem::take(&mut self.unread) {
                        self.reconcile(&fleet, &name).await;
                    }
                    self.begin(&fleet);
                    continue;
                }
            };
            let (Some(answer), Some(inner)) = (answer, self.fleet.upgrade()) else {
                return Ok(());
            };
            let (answer, fleet) = (answer?, Fleet(inner));
            if answer.canceled {
                return Ok(());
            }
            let puts = answer.events.iter().filter(|e| e.kind == EventKind::Put);
            let wanted = puts.filter_map(|e| instance(&e.kv.key).zip(read(&e.kv)));
            fleet.have_texts(wanted).await?;
            for event in answer.events {
                let key = event.kv.key.clone();
                let Some(instance) = instance(&key) else {
                    continue;
                };
                let record = match event.kind {
                    EventKind::Put => read(&event.kv),
                    EventKind::Delete => None,
                };
                fleet
                    .copy(&key, record.is_some().then_some(&event.kv))
                    .await?;
                let name = match &record {
                    Some(record) => Some(record.unit.clone()),
                    None => self.name_of(&instance),
                };
                let Some(name) = name else { continue };
                let former = self.name_of(&instance).filter(|former| *former != name);
                if let Some(of) = former.as_ref().and_then(|f| self.wanted.get_mut(f)) {
                    of.remove(&instance);
                }
                // It may wait for its name to be free.
                let held = fleet.name_here(&instance).filter(|held| *held != name);
                let unheld = record.is_none() && held.is_none();
                let gone = instance.clone();
                let of = self.wanted.entry(name.clone()).or_default();
                match record {
                    Some(record) => of.insert(instance, record),
                    None => of.remove(&instance),
                };
                for name in std::iter::once(name).chain(former).chain(held) {
                    self.reconcile(&fleet, &name).await;
                }
                if unheld && !fleet.all().iter().any(|u| u.instance == gone) {
                    fleet.forget_said(&gone).await?;
                }
            }
            self.begin(&fleet);
        }
    }

    fn name_of(&self, instance: &Instance) -> Option<String> {
        let mut all = self.wanted.iter();
        all.find(|(_, of)| of.contains_key(instance))
            .map(|(name, _)| name.clone())
    }

    /// What is wanted is just this.
    async fn all(&mut self, fleet: &Fleet, kvs: Vec<KeyValue>) -> Result<(), StoreError> {
        if !fleet.0.alone() {
            let own = fleet
                .0
                .local
                .list(keys::desired_of(&fleet.0.machine.id))
                .await?;
            let kept: BTreeMap<_, _> = own.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect();
            for kv in &kvs {
                if kept.get(&kv.key) != Some(&kv.value) {
                    fleet.copy(&kv.key, Some(kv)).await?;
                }
            }
            for key in kept
                .keys()
                .filter(|key| !kvs.iter().any(|kv| kv.key == **key))
            {
                fleet.copy(key, None).await?;
            }
        }
        let all = kvs.iter().filter_map(|kv| instance(&kv.key).zip(read(kv)));
        fleet.have_texts(all).await?;
        self.wanted = wanted(&kvs);
        let here = fleet.all();
        let names: BTreeSet<String> = here
            .iter()
            .map(|unit| unit.unit().name.to_string())
            .chain(self.wanted.keys().cloned())
            .collect();
        for name in names {
            self.reconcile(fleet, &name).await;
        }
        self.begin(fleet);
        fleet.collect(&self.wanted).await
    }

    async fn done(&mut self, name: &str) {
        self.retiring.remove(name);
        if let Some(inner) = self.fleet.upgrade() {
            let fleet = Fleet(inner);
            self.reconcile(&fleet, name).await;
            self.begin(&fleet);
        }
    }

    /// One step towards what is wanted of a unit.
    async fn reconcile(&mut self, fleet: &Fleet, name: &str) {
        if self.retiring.contains(name) || fleet.is_leaving() {
            return;
        }
        let of = self.wanted.get(name);
        // One that is to run has the name of one that is still on its way out.
        let runs = |record: &DesiredRecord| record.desired == Desired::Active;
        let newest = of.and_then(|of| of.iter().max_by_key(|(i, record)| (runs(record), *i)));
        self.answer_for(fleet, name, newest.map(|(i, _)| i)).await;
        match (fleet.supervised(name), newest) {
            (None, None) => {
                self.wanted.remove(name);
                // What was said of one that could not be read is forgotten with it.
                if self.told.remove(name).is_some()
                    && let Err(error) = fleet.collect(&self.wanted).await
                {
                    tracing::error!(
                        unit = name,
                        error = full_error(&error),
                        "what was said of it could not be taken back"
                    );
                }
            }
            (Some(unit), Some((instance, record))) if unit.instance == *instance => {
                let before = unit.record();
                if before == *record {
                    return;
                }
                let text = if before.revision == record.revision {
                    Ok(None)
                } else {
                    fleet.read_text(name, &instance.uid, record.revision).await
                };
                match text {
                    Ok(text) => {
                        unit.set(record.clone(), text);
                        // It may be so from now on.
                        if unit.is_exclusive() {
                            fleet.0.held.notify_one();
                        }
                    }
                    Err(error) => {
                        // It is stopped by the text that it runs by.
                        if record.desired != Desired::Active {
                            let revision = before.revision;
                            let record = DesiredRecord {
                                revision,
                                ..record.clone()
                            };
                            unit.set(record, None);
                        }
                        self.cannot(name, record.clone(), &error);
                    }
                }
            }
            (None, Some((instance, record))) => match fleet.taken_over(instance, record).await {
                Ok(Some(unit)) => {
                    let mut units = fleet
                        .0
                        .units
                        .write()
                        .unwrap_or_else(PoisonError::into_inner);
                    units.insert(name.to_owned(), unit.clone());
                    drop(units);
                    self.told.remove(name);
                    self.come.push(unit);
                }
                // Its text went with the unit, before this machine ever had it, and its leader waits to hear that.
                Ok(None) if record.leaving => fleet.never_ran(name, instance, record).await,
                // That it is wanted no more comes next.
                Ok(None) => {}
                // Nothing is wrong with it: the store is away.
                Err(crate::FleetError::Store(error)) => {
                    tracing::debug!(
                        unit = name,
                        error = full_error(&error),
                        "its text cannot be asked"
                    );
                    self.unread.insert(name.to_owned());
                }
                Err(error) => {
                    let unread = Actual {
                        active: Active::Failed,
                        sub: "unreadable".into(),
                        reason: format!("this machine cannot read it: {}", full_error(&error)),
                        generation: record.generation,
                        order: record.order,
                        settled: true,
                        ..Actual::new(name, pace::utc())
                    };
                    let (instance, record) = (instance.clone(), record.clone());
                    if self.cannot(name, record, &error)
                        && let Err(error) = fleet.write_actual(&instance, &unread).await
                    {
                        tracing::error!(
                            unit = name,
                            error = full_error(&error),
                            "where the unit stands could not be written"
                        );
                    }
                }
            },
            // It has another name from now on, and gets it once that is free.
            (Some(unit), _)
                if self
                    .name_of(&unit.instance)
                    .is_some_and(|other| other != name) => {}
            (Some(unit), _) => {
                self.retiring.insert(name.to_owned());
                let (fleet, name) = (fleet.clone(), name.to_owned());
                let retired = self.retired.0.clone();
                pace::spawn(async move {
                    fleet.retire(&unit).await;
                    // Who does not listen any more need not know.
                    let _ = retired.send(name);
                });
            }
        }
    }

    /// One that cannot be read, perhaps of a newer release, must not keep the others from running. Whether that is news: each request
    /// is answered.
    fn cannot(&mut self, name: &str, record: DesiredRecord, error: &crate::FleetError) -> bool {
        self.unread.insert(name.to_owned());
        let news = self.told.get(name) != Some(&record);
        self.told.insert(name.to_owned(), record);
        if news {
            tracing::error!(
                unit = name,
                error = full_error(error),
                "the unit cannot be read; it is tried again"
            );
        }
        news
    }
}
