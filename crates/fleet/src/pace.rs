//! Time, waits, tasks and chance. Leader, agent and drivers have them from here only, so that the simulation can put its own in
//! their place: then a run is the same for the same seed.

use chrono::{DateTime, Utc};
use std::future::Future;
use std::time::{Duration, Instant};

/// Now, on a clock that never goes back.
pub(crate) fn now() -> Instant {
    #[cfg(test)]
    if let Some(world) = crate::simulation::here() {
        return world.instant();
    }
    Instant::now()
}

/// Now, as people count.
pub(crate) fn utc() -> DateTime<Utc> {
    #[cfg(test)]
    if let Some(world) = crate::simulation::here() {
        return world.utc();
    }
    Utc::now()
}

/// Milliseconds since the machine came up, as shims count them.
pub(crate) fn boottime_ms() -> u64 {
    #[cfg(test)]
    if let Some(world) = crate::simulation::here() {
        return world.now().as_millis() as u64;
    }
    coracle_shim_protocol::boottime_ms()
}

/// Waits that long.
pub(crate) async fn sleep(time: Duration) {
    #[cfg(test)]
    if let Some(world) = crate::simulation::here() {
        return world.sleep(time).await;
    }
    tokio::time::sleep(time).await;
}

/// Does something within that time; None if it takes longer.
pub(crate) async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = sleep(time) => None,
    }
}

/// A task, to be ended from outside. It goes on when this is dropped.
pub(crate) struct Task(Kind);

enum Kind {
    Runtime(tokio::task::AbortHandle),
    #[cfg(test)]
    Simulated(crate::simulation::Spawned),
}

impl Task {
    /// Ends it where it waits.
    pub fn abort(&self) {
        match &self.0 {
            Kind::Runtime(handle) => handle.abort(),
            #[cfg(test)]
            Kind::Simulated(spawned) => spawned.abort(),
        }
    }
}

/// Does something beside.
pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Task {
    #[cfg(test)]
    if let Some(world) = crate::simulation::here() {
        return Task(Kind::Simulated(world.spawn(work)));
    }
    Task(Kind::Runtime(tokio::spawn(work).abort_handle()))
}

/// A name that nothing else has: 32 hexadecimal digits.
///
/// # Errors
/// When the kernel has no randomness to give.
pub(crate) fn new_uid() -> Result<String, coracle_engine::EngineError> {
    #[cfg(test)]
    if let Some(world) = crate::simulation::here() {
        return Ok(world.new_uid());
    }
    Ok(coracle_engine::id::random_hex()?[..32].to_owned())
}

/// Steps of a long work, between which others have their turn: the machine's signs of life go over a connection whose own work may wait
/// behind this one.
#[derive(Default)]
pub(crate) struct Steps(u32);

impl Steps {
    /// How many steps are done in a row. Reading a unit takes about a tenth of a millisecond.
    const ROW: u32 = 256;

    /// One is about to be done.
    pub(crate) async fn one_more(&mut self) {
        self.0 += 1;
        if self.0.is_multiple_of(Self::ROW) {
            tokio::task::yield_now().await;
        }
    }
}
