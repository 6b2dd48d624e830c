//! The operating system of a machine that runs our own image: updates into the other slot, and whether one is good.

mod api;
mod error;
mod update;
mod watch;

use coracle_engine::Engine;
use coracle_os::{history::History, machine::Machine};
use coracle_store::Store;
use error::OsError;
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Semaphore;

pub use api::routes;

/// What became of updates; on the state partition, beside process 1's own.
const HISTORY: &str = "/var/lib/coracle-os/updates.json";
/// How process 1 reports of the boot.
const BOOT: &str = "/run/coracle-os/boot.json";
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
}

impl Os {
    /// The system, on a machine that runs our image.
    ///
    /// # Errors
    /// That it does not, or that something is missing that the image has.
    pub fn here(engine: &Engine, store: Arc<dyn Store>) -> Result<Arc<Self>, OsError> {
        Ok(Arc::new(Self {
            machine: Machine::here()?,
            engine: engine.clone(),
            store,
            history: Mutex::default(),
            busy: Semaphore::new(1),
        }))
    }

    fn path() -> PathBuf {
        PathBuf::from(HISTORY)
    }

    fn locked(&self) -> MutexGuard<'_, ()> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn history(&self) -> Result<History, OsError> {
        let _alone = self.locked();
        History::read(&Self::path()).map_err(OsError::History)
    }

    /// Changes the history, on the disk before it is answered.
    fn change<T>(&self, change: impl FnOnce(&mut History) -> T) -> Result<T, OsError> {
        let _alone = self.locked();
        let mut history = History::read(&Self::path()).map_err(OsError::History)?;
        let before = history.clone();
        let done = change(&mut history);
        if history != before {
            history.write(&Self::path()).map_err(OsError::History)?;
        }
        Ok(done)
    }

    /// Has process 1 take the machine down in order and start it again.
    fn restart(&self) -> Result<(), OsError> {
        coracle_sys::process::hold(RESTART.0 as u32)
            .and_then(|init| coracle_sys::process::signal(init, RESTART.1))
            .map_err(OsError::Restart)
    }
}
