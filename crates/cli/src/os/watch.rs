//! After a start: is the release good?
//!
//! It is when the daemon serves, the store is reached if it was before the update, and the containers that were well are well again, for a while. What
//! takes too long, or ends the daemon, is not good: the machine restarts, three times by the boot loader's count, then from the other slot.

use super::{Os, error::OsError};
use coracle_os::{
    history::{Before, Outcome},
    machine::Machine,
};
use std::time::{Duration, Instant};

/// How long everything may take to be well again: images are here, but databases recover.
const LIMIT: Duration = Duration::from_secs(300);
/// How long it has to be well without a break.
const STEADY: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(500);

impl Os {
    /// Watches the release that was started, if it is on trial, and ends when that is over.
    pub async fn watch(&self) {
        if let Err(error) = self.judge().await {
            let error = coracle_engine::full_error(&error);
            tracing::error!(error, "the release cannot be judged");
        }
    }

    async fn judge(&self) -> Result<(), OsError> {
        let slot = self.machine.slot;
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
            Err(why) => {
                tracing::error!(why, "the release is not good: going back");
                let noted = self.change(|history| {
                    if let Some(update) = history.under_way() {
                        update.reason = Some(why);
                    }
                });
                if let Err(error) = noted {
                    // A full disk may be what is wrong with it.
                    let error = coracle_engine::full_error(&error);
                    tracing::error!(error, "why it is not good is not written down");
                }
                self.machine.condemn()?;
                self.restart()
            }
        }
    }

    /// Containers that were well before and are not now, and whether the store is reached if it was.
    async fn missing(&self, before: &Before) -> (Vec<String>, bool) {
        let now = self.before().await;
        let missing = before.containers.difference(&now.containers);
        (missing.cloned().collect(), now.store || !before.store)
    }

    /// Whether all is well that was.
    pub async fn is_well(&self, before: &Before) -> bool {
        let (missing, store) = self.missing(before).await;
        missing.is_empty() && store
    }

    /// Waits until all is well that was, or says what is not.
    async fn well(&self, before: &Before) -> Result<(), String> {
        let begun = Instant::now();
        let mut well_since = None;
        loop {
            let (missing, store) = self.missing(before).await;
            if missing.is_empty() && store {
                if well_since.get_or_insert_with(Instant::now).elapsed() > STEADY {
                    return Ok(());
                }
                tokio::time::sleep(LOOK).await;
                continue;
            }
            well_since = None;
            if begun.elapsed() > LIMIT {
                let mut what = Vec::new();
                if !store {
                    what.push("the store is not reached".to_owned());
                }
                if !missing.is_empty() {
                    what.push(format!("not well again: {}", missing.join(", ")));
                }
                return Err(format!("{} after {} s", what.join("; "), LIMIT.as_secs()));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
