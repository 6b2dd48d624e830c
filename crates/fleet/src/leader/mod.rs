//! One machine leads: it keeps the units' records, decides what machines must run, and answers requests.
//!
//! ```text
//! request ─> units/…, revisions/… ┐                    ┌─> desired/<machine>/…
//! alive/…, machines/…, marks/…  ──┼─> Leader: place, ──┤
//! actual/…                      ──┘   bind, order      └─> status/…
//! ```
//! Who leads is a key under the machine's lease. Each of a leader's writes compares that key, so that one that was slow and has been
//! followed by another changes nothing any more. What is decided is in the store before anybody acts; a leader that takes over
//! reads everything, then watches from the revision that it has read.

mod away;
mod change;
mod commit;
mod events;
mod failures;
mod family;
mod fetch;
mod lead;
mod leave;
mod lost;
mod make;
mod needs;
mod operator;
mod place;
mod progress;
mod promote;
mod removed;
mod roll;
mod rollout;
mod services;
mod spec;
mod status;
mod tally;
mod target;
mod vacancy;
mod waits;

use crate::error::{FleetError, Result};
use crate::model::{DesiredRecord, Dropin, RevisionRecord, UnitRecord};
use crate::order::{Known, Units};
use crate::presence::Seen;
use coracle_planner::Planner;
use coracle_store::{Revision, Store, StoreExt as _};
use coracle_unit::{SpecifierContext, Unit, UnitName, implied_dependencies, load};
use lost::Lost;
use needs::Needs;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;
use tally::Work;
use tokio::sync::{Notify, watch};

pub(crate) use change::Change;
pub(crate) use commit::Group;
pub(crate) use failures::keeps_failing;
pub(crate) use family::family;
pub(crate) use roll::Roll;
pub(crate) use spec::is_resource;
pub use tally::Tally;
pub(crate) use target::{Placed, Target};
pub(crate) use waits::Waits;

/// See the module.
pub(crate) struct Leader {
    store: Arc<dyn Store>,
    /// This machine's id.
    machine: String,
    /// Revision at which the leader's key was written for this time as leader.
    fence: Revision,
    specifiers: SpecifierContext,
    targets: RwLock<BTreeMap<String, Arc<Target>>>,
    /// Names by uid.
    names: RwLock<BTreeMap<String, String>>,
    /// Units that were destroyed and that machines have still to forget, by uid.
    leaving: Mutex<BTreeMap<String, Arc<Target>>>,
    machines: Mutex<Roll>,
    /// Uids of the units of which a machine has an instance, or is asked to.
    there: Mutex<BTreeMap<String, BTreeSet<String>>>,
    /// Which unit asks for which.
    needs: Mutex<Needs>,
    planner: Mutex<Planner>,
    lost: Mutex<Lost>,
    /// Whether time alone will change something.
    later: AtomicBool,
    /// Until then machines that give no signs are waited for.
    grace: Option<Instant>,
    /// One change at a time.
    pub change_lock: tokio::sync::Mutex<()>,
    /// Watches that are opened and not listened to yet.
    streams: Mutex<Vec<coracle_store::WatchStream>>,
    /// What was told last of units that others wait for.
    statuses: Mutex<BTreeMap<String, crate::model::StatusRecord>>,
    deploys: Mutex<rollout::Deploys>,
    services: Mutex<services::Services>,
    fetches: Mutex<fetch::Fetches>,
    /// Machines that are no more and on which everything has ended for sure: what is written of them goes.
    ended: Mutex<BTreeSet<String>>,
    /// Keys that are to be deleted: of instances that were to leave before their machine had said anything of them, and of which it has by now; of what
    /// machines say of deploys that are over.
    answered: Mutex<Vec<String>>,
    /// Keys of instances that are to leave, of units that were destroyed under a former leader.
    orphans: Mutex<BTreeSet<String>>,
    /// Set once somebody else may lead.
    over: watch::Sender<bool>,
    /// Ticks with everything that happens to units.
    ticks: watch::Sender<u64>,
    /// Something is left to be decided.
    wake: Notify,
    work: Work,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is changed under these locks is whole after each assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Known for Leader {
    fn unit(&self, name: &str) -> Option<Arc<Unit>> {
        Some(self.target(name)?.unit())
    }

    fn before(&self, name: &str) -> Vec<String> {
        locked(&self.needs).before(name)
    }

    fn against(&self, name: &str) -> Vec<String> {
        locked(&self.needs).against(name)
    }

    fn stops_with(&self, name: &str) -> Vec<String> {
        locked(&self.needs).stops_with(name)
    }
}

impl Leader {
    /// Every unit.
    pub fn all(&self) -> Vec<Arc<Target>> {
        let targets = self.targets.read().unwrap_or_else(PoisonError::into_inner);
        targets.values().cloned().collect()
    }

    /// One unit, by its full name.
    pub fn target(&self, name: &str) -> Option<Arc<Target>> {
        let targets = self.targets.read().unwrap_or_else(PoisonError::into_inner);
        targets.get(name).cloned()
    }

    /// The files of a unit's volumes and networks, by name, as far as they were submitted.
    pub fn resources_of(&self, unit: &Unit) -> Units {
        let names = implied_dependencies(unit);
        let found = names.iter().filter_map(|name| self.target(name.as_str()));
        found
            .map(|target| target.unit())
            .map(|unit| (unit.name.to_string(), unit))
            .collect()
    }

    /// Machines by id.
    pub fn machines(&self) -> BTreeMap<String, Seen> {
        locked(&self.machines).all()
    }

    /// Ticks with everything that happens to units.
    pub fn ticks(&self) -> watch::Receiver<u64> {
        self.ticks.subscribe()
    }

    pub fn insert(&self, name: &str, target: Arc<Target>) {
        let uid = target.record().uid;
        self.renewed(name, &target);
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        names.insert(uid, name.to_owned());
        let mut targets = self.targets.write().unwrap_or_else(PoisonError::into_inner);
        targets.insert(name.to_owned(), target);
        drop(targets);
        // A volume that is known from now on keeps its users to its machine.
        for user in self.users(name) {
            self.tell_unit(&user, &user.record(), &user.unit());
        }
    }

    /// Units that need a volume or network.
    fn users(&self, name: &str) -> Vec<Arc<Target>> {
        let users = locked(&self.needs).users(name);
        users.iter().filter_map(|user| self.target(user)).collect()
    }

    /// A unit is no more; its machines have still to forget it.
    pub fn remove(&self, name: &str) {
        locked(&self.needs).set(name, None);
        locked(&self.statuses).remove(name);
        let mut targets = self.targets.write().unwrap_or_else(PoisonError::into_inner);
        let Some(target) = targets.remove(name) else {
            return;
        };
        drop(targets);
        self.service_lost(name);
        let uid = target.record().uid;
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        names.remove(&uid);
        drop(names);
        if !target.placed().is_empty() {
            locked(&self.leaving).insert(uid, target);
        }
        let name = coracle_planner::UnitName::from(name);
        self.with_planner(|planner| planner.set_unit(&name, None));
    }

    /// A unit's text was changed.
    pub fn renewed(&self, name: &str, target: &Target) {
        let unit = target.unit();
        locked(&self.needs).set(name, Some(&unit));
        self.service_of(name, &unit);
    }

    pub fn parse(&self, name: &str, text: &str, dropins: &[Dropin]) -> Result<Unit> {
        let name = UnitName::new(name)?;
        let dropins: Vec<(String, String)> = dropins
            .iter()
            .map(|d| (d.file.clone(), d.text.clone()))
            .collect();
        load(&name, text, &dropins, &self.specifiers).map_err(FleetError::Refused)
    }

    /// A unit's present text.
    pub async fn revision(&self, record: &UnitRecord) -> Result<RevisionRecord> {
        let key = crate::model::keys::revision(&record.uid, record.revision);
        let found = self.store.get_json::<RevisionRecord>(&key).await?;
        Ok(found.ok_or_else(|| FleetError::NotFound(key))?.0)
    }

    /// What a machine is asked of a unit now.
    fn desired(&self, name: &str, record: &UnitRecord) -> DesiredRecord {
        let needs = locked(&self.needs);
        // What others say of a unit they say of its successor.
        let base = UnitName::new(name).map_or_else(|_| name.to_owned(), |n| n.base().to_string());
        let mut conflicts = needs.conflicts(name);
        if base != name {
            conflicts.extend(needs.against(&base));
            conflicts.retain(|other| *other != base);
        }
        DesiredRecord {
            version: crate::model::VERSION,
            unit: name.to_owned(),
            revision: record.revision,
            generation: record.generation,
            order: record.order,
            desired: record.desired,
            after: needs.before(&base),
            conflicts,
            leaving: false,
            held: record.held,
        }
    }
}
