//! After a start: is the release good?
//!
//! It is when the daemon serves, the store is reached if it was before the update, and the containers that were well are well again, for a while. What
//! takes too long, or ends the daemon, is not good: the machine restarts, three times by the boot loader's count, then from the other slot.

use super::update::STORE;
use super::{Os, error::OsError};
use coracle_fleet::model::{Active, Actual, Desired, DesiredRecord, keys};
use coracle_os::{
    history::{Before, Outcome},
    machine::Machine,
};
use coracle_store::StoreExt as _;
use std::{
    collections::BTreeSet,
    fmt,
    time::{Duration, Instant},
};

/// How long everything may take to be well again: images are here, but databases recover.
const LIMIT: Duration = Duration::from_secs(300);
/// How long it has to be well without a break.
const STEADY: Duration = Duration::from_secs(20);
/// Pause before a judgement is tried again that could not be made.
const AGAIN: Duration = Duration::from_secs(30);
/// How long after the machine's start all has to be well, however often the daemon was started anew meanwhile.
const BOOT: Duration = Duration::from_secs(900);
const LOOK: Duration = Duration::from_millis(500);

impl Os {
    /// Watches the release that was started, if it is on trial, and ends when that is over. With one that is not good it does not end: the machine
    /// restarts.
    pub async fn watch(&self) {
        while let Err(error) = self.judge().await {
            let error = coracle_engine::full_error(&error);
            tracing::error!(error, "the release cannot be judged");
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn judge(&self) -> Result<(), OsError> {
        let slot = self.machine.slot;
        if self.history()?.under_way().is_some_and(|update| {
            update.outcome == Outcome::Writing && update.boot == Machine::boot()
        }) {
            // A daemon that was killed may have got as far as the entry.
            self.machine.forget_other()?;
        }
        let watched = self.change(|history| {
            let watched = history.started(slot, &Machine::boot());
            let under_way = history.under_way().filter(|_| watched);
            under_way.map(|update| update.before.clone())
        })?;
        let Some(before) = watched else {
            // One that was never updated, or that somebody went back to: that it serves is enough.
            self.machine.prove()?;
            return Ok(());
        };
        match self.well(&before).await {
            Ok(()) => {
                self.machine.prove()?;
                let about = self.machine.about.clone();
                self.change(|history| {
                    if let Some(update) = history.under_way() {
                        update.outcome = Outcome::Good;
                        update.reason = None;
                    }
                    history.floor = history.floor.take().max(Some(about.floor));
                })?;
                tracing::info!(version = %about.version, "the release is good");
                Ok(())
            }
            Err(unwell) => {
                let why = format!("{unwell} after {} s", LIMIT.as_secs());
                tracing::error!(why, "the release is not good: going back");
                let noted = self.change(|history| {
                    if let Some(update) = history.under_way() {
                        update.reason = Some(why);
                        update.missed = Some(unwell.of(&update.before));
                    }
                });
                if let Err(error) = noted {
                    // A full disk may be what is wrong with it.
                    let error = coracle_engine::full_error(&error);
                    tracing::error!(error, "why it is not good is not written down");
                }
                self.machine.condemn()?;
                self.restart()?;
                // Until the daemon is taken down, nobody is to think that the trial is over.
                std::future::pending().await
            }
        }
    }

    /// What was well before and is not now.
    async fn missing(&self, before: &Before) -> Unwell {
        let now = self.before().await;
        let mut missing: Vec<String> = before
            .containers
            .difference(&now.containers)
            .cloned()
            .collect();
        if missing.iter().any(|one| before.units.contains_key(one))
            && let Some(here) = self.desired_here().await
        {
            // What was moved, stopped or ended well meanwhile is not this machine's to have any more.
            missing.retain(|one| before.units.get(one).is_none_or(|unit| here.contains(unit)));
        }
        Unwell {
            store: before.store && !now.store,
            containers: missing,
        }
    }

    /// Units that are to run here and have not ended well, if the store can be asked.
    async fn desired_here(&self) -> Option<BTreeSet<String>> {
        let own = self.engine.machine_id();
        let read = async {
            let desired = self.store.list(keys::desired_of(own)).await.ok()?;
            let actual = self.store.list(keys::actual_of(own)).await.ok()?;
            Some((desired.kvs, actual.kvs))
        };
        let (desired, actual) = tokio::time::timeout(STORE, read).await.ok()??;
        let done: BTreeSet<String> = actual
            .iter()
            .filter_map(|kv| serde_json::from_slice::<Actual>(&kv.value).ok())
            .filter(|actual| actual.settled && actual.active == Active::Inactive)
            .map(|actual| actual.unit)
            .collect();
        let units = desired
            .iter()
            .filter_map(|kv| serde_json::from_slice::<DesiredRecord>(&kv.value).ok())
            .filter(|desired| desired.desired == Desired::Active)
            .map(|desired| desired.unit);
        Some(units.filter(|unit| !done.contains(unit)).collect())
    }

    /// Whether all is well that was.
    pub async fn is_well(&self, before: &Before) -> bool {
        self.missing(before).await.is_nothing()
    }

    /// Waits until all is well that was, for a while without a break, or says what is not.
    async fn well(&self, before: &Before) -> Result<(), Unwell> {
        let begun = Instant::now();
        let over = || begun.elapsed() > LIMIT || Machine::up() > BOOT;
        self.steadily_well(before, over).await
    }

    /// Waits until all is well that was, for a while without a break; or, once it is `over`, says what is not.
    pub async fn steadily_well(
        &self,
        before: &Before,
        over: impl Fn() -> bool,
    ) -> Result<(), Unwell> {
        let mut well_since = None;
        loop {
            let unwell = self.missing(before).await;
            if unwell.is_nothing() {
                if well_since.get_or_insert_with(Instant::now).elapsed() > STEADY {
                    return Ok(());
                }
            } else {
                well_since = None;
                if over() {
                    return Err(unwell);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// What was well and is not.
#[derive(Debug)]
pub struct Unwell {
    /// The store is not reached.
    store: bool,
    /// Containers, by name.
    containers: Vec<String>,
}

impl Unwell {
    fn is_nothing(&self) -> bool {
        !self.store && self.containers.is_empty()
    }

    /// Only that of what was well before.
    fn of(&self, before: &Before) -> Before {
        let units = before.units.iter();
        let units = units.filter(|(name, _)| self.containers.contains(name));
        Before {
            store: self.store,
            containers: self.containers.iter().cloned().collect(),
            units: units
                .map(|(name, unit)| (name.clone(), unit.clone()))
                .collect(),
        }
    }
}

impl fmt::Display for Unwell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut what = Vec::new();
        if self.store {
            what.push("the store is not reached".to_owned());
        }
        if !self.containers.is_empty() {
            what.push(format!("not well again: {}", self.containers.join(", ")));
        }
        f.write_str(&what.join("; "))
    }
}
