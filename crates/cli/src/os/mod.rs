//! The operating system of a machine that runs our own image: updates into the other slot, and whether one is good.

mod api;
mod error;
mod install;
mod rollout;
mod update;
mod watch;

use coracle_engine::Engine;
use coracle_os::{
    history::{self, History, Outcome, Update},
    machine::Machine,
};
use coracle_store::Store;
use error::OsError;
use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Semaphore;

pub use api::routes;
pub use rollout::{Rollout, Updates, UpdatesOf};

/// The first process, and the signal by which it restarts the machine.
const RESTART: (i32, i32) = (1, 15);

/// The system of this machine.
pub struct Os {
    machine: Machine,
    engine: Engine,
    store: Arc<dyn Store>,
    history: Mutex<()>,
    /// One update at a time.
    busy: Semaphore,
    rollout: Rollout,
}

impl Os {
    /// The system, on a machine that runs our image.
    ///
    /// # Errors
    /// That it does not, or that something is missing that the image has.
    pub fn here(
        engine: &Engine,
        store: Arc<dyn Store>,
        rollout: Rollout,
    ) -> Result<Arc<Self>, OsError> {
        Ok(Arc::new(Self {
            machine: Machine::here()?,
            engine: engine.clone(),
            store,
            history: Mutex::default(),
            busy: Semaphore::new(1),
            rollout,
        }))
    }

    fn locked(&self) -> MutexGuard<'_, ()> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn history(&self) -> Result<History, OsError> {
        let _alone = self.locked();
        History::read(Path::new(history::PATH)).map_err(OsError::History)
    }

    /// Changes the history, on the disk before it is answered.
    fn change<T>(&self, change: impl FnOnce(&mut History) -> T) -> Result<T, OsError> {
        let _alone = self.locked();
        let mut known = History::read(Path::new(history::PATH)).map_err(OsError::History)?;
        let before = known.clone();
        let done = change(&mut known);
        if known != before {
            known
                .write(Path::new(history::PATH))
                .map_err(OsError::History)?;
        }
        Ok(done)
    }

    /// Has the other slot not started after all, which holds the update that is under way; `end` says what became of it.
    fn take_back(&self, end: impl FnOnce(&mut Update)) -> Result<(), OsError> {
        // If the power goes in between, it was being written, and that is no failure of the release.
        self.change(|history| {
            if let Some(update) = history.under_way() {
                update.outcome = Outcome::Writing;
            }
        })?;
        self.machine.forget_other()?;
        self.change(|history| history.under_way().map(end))?;
        Ok(())
    }

    /// Has process 1 take the machine down in order and start it again.
    fn restart(&self) -> Result<(), OsError> {
        coracle_sys::process::hold(RESTART.0 as u32)
            .and_then(|init| coracle_sys::process::signal(init, RESTART.1))
            .map_err(OsError::Restart)
    }
}
