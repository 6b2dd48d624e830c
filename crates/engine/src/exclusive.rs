//! What is exclusive: never two at a time, wherever. It runs no longer than somebody above the engine permits, and its shim sees to
//! that by itself; see [`Deadline`].
//!
//! A container is exclusive by its label [`EXCLUSIVE_LABEL`], so that whoever starts it, also a restart policy or a person, needs
//! the permit; or because that is said of it while it is there ([`Engine::claim`]). Host processes say so in their specification.
//!
//! Its shim and that one's guard end it in time. Where both are stopped, the daemon kills it, once no permit is left.
//!
//! Worked example: the daemon asks the store in second 100 whether the machine still counts as there, is told yes, and permits until
//! second 110. `db`, with a stop timeout of 2 s, may be started until second 108, and has to have ended by second 110. Asked again
//! in second 101, the permit is until second 111, and `db`'s shim is told.

use crate::client::Shim;
use crate::container::Container;
use crate::engine::{Engine, Inner};
use crate::error::{EngineError, Result};
use crate::record::{Phase, Record};
use crate::stop::{STOP_TIMEOUT, signal_number};
use coracle_shim_protocol::shim::{Deadline, Request};
use coracle_shim_protocol::{DEADLINES, boottime_ms};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Label of containers that are exclusive.
pub const EXCLUSIVE_LABEL: &str = "coracle.exclusive";
/// Longest time between the stop signal of a watchdog and SIGKILL. What is given longer to end gets this.
pub const LONGEST_STOP: Duration = Duration::from_secs(6);
/// A shim that does not answer is left alone after this time.
const PATIENCE: Duration = Duration::from_secs(1);
/// So long after the end of all permits, in milliseconds, nothing is left to shims any more.
const OVERDUE_MS: u64 = 500;
/// How soon it is tried again to kill what did not go.
const AGAIN: Duration = Duration::from_millis(500);

/// Until when what is exclusive may run on this machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Permit {
    /// Nobody has said yet: nothing exclusive is started.
    #[default]
    Unknown,
    /// Without an end: nobody else could run it.
    Unlimited,
    /// Until then, in milliseconds of [`boottime_ms`].
    Until {
        /// When the question was sent whose answer permits it.
        asked_ms: u64,
        /// The end.
        until_ms: u64,
    },
}

impl Permit {
    /// The later one of two; whether there is an end at all is said by the newer one.
    fn with(self, newer: Self) -> Self {
        match (self, newer) {
            (
                Self::Until {
                    until_ms: known, ..
                },
                Self::Until { until_ms, .. },
            ) if until_ms < known => self,
            _ => newer,
        }
    }

    /// The deadline of something that ends like this.
    fn deadline(self, ending: Ending) -> Option<Deadline> {
        match self {
            Self::Unknown | Self::Unlimited => None,
            Self::Until { asked_ms, until_ms } => Some(Deadline {
                asked_ms,
                until_ms,
                stop_ms: u64::try_from(ending.time.as_millis()).unwrap_or(u64::MAX),
                signal: ending.signal,
            }),
        }
    }

    /// As [`Self::deadline`], of something that starts at `now`.
    fn to_start(self, what: &str, ending: Ending, now_ms: u64) -> Result<Option<Deadline>> {
        let refuse = |why: &str| {
            Err(EngineError::NotPermitted(format!(
                "{what} is exclusive and cannot be started now: {why}; it can when the cluster's store answers (`coracle cluster status`)"
            )))
        };
        match (self, self.deadline(ending)) {
            (Self::Unknown, _) => refuse("the store was not asked yet"),
            (Self::Until { asked_ms, .. }, Some(deadline)) if deadline.stop_at_ms() <= now_ms => {
                let since = now_ms.saturating_sub(asked_ms) / 1000;
                refuse(&format!("the store could not be asked for {since} s"))
            }
            (_, deadline) => Ok(deadline),
        }
    }
}

/// How something exclusive is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    signal: i32,
    time: Duration,
}

impl Ending {
    /// With this signal; `time` is shortened to [`LONGEST_STOP`].
    pub fn new(signal: i32, time: Duration) -> Self {
        let time = time.min(LONGEST_STOP);
        Self { signal, time }
    }

    fn of(record: &Record) -> Self {
        let signal = record.config.stop_signal.as_deref();
        let signal = signal.and_then(|name| signal_number(name).ok());
        let time = match record.config.stop_timeout {
            Some(seconds) if seconds < 0 => Duration::MAX,
            Some(seconds) => Duration::from_secs(seconds.unsigned_abs()),
            None => STOP_TIMEOUT,
        };
        Self::new(signal.unwrap_or(15), time)
    }
}

impl Engine {
    /// Starts a container under this permit and no other, which is one for this start alone.
    ///
    /// # Errors
    /// As [`Self::start`]; [`EngineError::NotPermitted`] if it is over.
    pub async fn start_permitted(&self, key: &str, permit: Permit) -> Result<()> {
        let container = self.find(key)?;
        container.set_permit(Some(permit));
        let started = self.start(key).await;
        container.set_permit(None);
        started
    }

    /// Says until when what is exclusive may run here. What runs is told by [`Self::prolong`].
    pub fn permit(&self, permit: Permit) {
        self.0
            .permit
            .send_modify(|known| *known = known.with(permit));
    }

    /// Until when a container may run that is about to be started; nothing of one that is not exclusive.
    pub(crate) async fn deadline(
        &self,
        container: &Container,
        record: &Record,
    ) -> Result<Option<Deadline>> {
        let own = container.permit();
        if own.is_none() && !is_exclusive(container) {
            return Ok(None);
        }
        let permit = own.unwrap_or_else(|| *self.0.permit.borrow());
        self.deadline_of(&record.name, Ending::of(record), permit)
            .await
    }

    /// As [`Self::deadline`], of something exclusive.
    pub(crate) async fn deadline_of(
        &self,
        what: &str,
        ending: Ending,
        permit: Permit,
    ) -> Result<Option<Deadline>> {
        let deadline = permit.to_start(what, ending, boottime_ms())?;
        if deadline.is_some() {
            let (version, _) = self.0.holder.hello().await?;
            if version < DEADLINES {
                return Err(EngineError::Refused {
                    whom: "holder".into(),
                    message: format!(
                        "it is of an older release, whose shims stop nothing by themselves, and {what} is exclusive: `coracle system down` and the daemon's next start replace it"
                    ),
                });
            }
        }
        Ok(deadline)
    }

    /// From now on a container is exclusive, also if it was not made so. One that is not there is none.
    pub fn claim(&self, container: &str) {
        if let Ok(container) = self.find(container) {
            container.claimed.store(true, Ordering::Relaxed);
        }
    }

    /// As [`Self::claim`], of a host process.
    pub fn process_claim(&self, id: &str, ending: Ending) {
        self.permitted().insert(id.to_owned(), ending);
    }

    /// A container is exclusive no more, unless it was made so: it runs without a deadline from now on.
    ///
    /// # Errors
    /// As [`Self::prolong`]; then it has its deadline still.
    pub async fn release(&self, container: &str) -> Result<()> {
        let Ok(container) = self.find(container) else {
            return Ok(());
        };
        container.claimed.store(false, Ordering::Relaxed);
        if is_exclusive(&container) || container.phase() != Phase::Running {
            return Ok(());
        }
        self.set_limit(&container.run_dir, container.id.short(), None)
            .await
    }

    /// As [`Self::release`], of a host process.
    ///
    /// # Errors
    /// As [`Self::release`].
    pub async fn process_release(&self, id: &str) -> Result<()> {
        self.permitted().remove(id);
        let dir = self.process_run_dir(id);
        if !dir.exists() {
            return Ok(());
        }
        self.set_limit(&dir, id, None).await
    }

    /// Tells the shim of a container that runs until when it may. Nothing happens to one that does not run.
    ///
    /// # Errors
    /// [`EngineError::Shim`] if it does not answer, [`EngineError::Refused`] if it is stopping it already or of a release that knows no
    /// deadlines.
    pub async fn prolong(&self, container: &str) -> Result<()> {
        let Ok(container) = self.find(container) else {
            return Ok(());
        };
        if container.phase() != Phase::Running {
            return Ok(());
        }
        let ending = container.read(Ending::of);
        self.limit(&container.run_dir, container.id.short(), ending)
            .await
    }

    /// As [`Self::prolong`], of a host process.
    ///
    /// # Errors
    /// As [`Self::prolong`].
    pub async fn process_prolong(&self, id: &str, ending: Ending) -> Result<()> {
        let dir = self.process_run_dir(id);
        if !dir.exists() {
            return Ok(());
        }
        self.limit(&dir, id, ending).await
    }

    /// As [`Self::process_prolong`], of every host process that is known to be exclusive, all at once. What goes wrong with one
    /// shows at its end.
    pub async fn prolong_commands(&self) {
        let mut all = JoinSet::new();
        let known = self.permitted().clone();
        for (id, ending) in known {
            let engine = self.clone();
            all.spawn(async move {
                if let Err(error) = engine.process_prolong(&id, ending).await {
                    let error = coracle_sys::full(&error);
                    tracing::debug!(process = id, error, "its deadline was not moved");
                }
            });
        }
        all.join_all().await;
    }

    /// Kills what is exclusive when no permit is left, for as long as there is an engine.
    pub(crate) fn enforce(&self) {
        let permits = self.0.permit.subscribe();
        tokio::spawn(enforce(Arc::downgrade(&self.0), permits));
    }

    /// What is exclusive: names and control groups.
    fn exclusive_groups(&self) -> Vec<(String, String)> {
        let containers = self.containers().into_iter().filter(|c| is_exclusive(c));
        let containers = containers.map(|c| (c.name(), c.cgroup()));
        let processes: Vec<String> = self.permitted().keys().cloned().collect();
        let processes = processes.into_iter().map(|id| {
            let group = self.process_cgroup(&id);
            (id, group)
        });
        containers.chain(processes).collect()
    }

    /// Kills a group whose time is over; whether nothing is left in it. Waits for that.
    fn kill_late(&self, name: &str, group: &str) -> bool {
        if self.0.cgroups.procs(group).is_ok_and(|p| p.is_empty()) {
            return true;
        }
        tracing::warn!(
            name,
            "it is exclusive, its time is over, and its shim has not ended it: it is killed"
        );
        let killed = self.0.cgroups.kill_all(group);
        if let Err(error) = &killed {
            let error = coracle_sys::full(error);
            tracing::error!(name, error, "it is exclusive and could not be killed");
        }
        killed.is_ok()
    }

    pub(crate) fn permitted(&self) -> MutexGuard<'_, BTreeMap<String, Ending>> {
        let permitted = self.0.permitted.lock();
        permitted.unwrap_or_else(PoisonError::into_inner)
    }

    async fn limit(&self, run_dir: &Path, whom: &str, ending: Ending) -> Result<()> {
        let permit = *self.0.permit.borrow();
        if permit == Permit::Unknown {
            return Ok(());
        }
        self.set_limit(run_dir, whom, permit.deadline(ending)).await
    }

    async fn set_limit(
        &self,
        run_dir: &Path,
        whom: &str,
        deadline: Option<Deadline>,
    ) -> Result<()> {
        let request = Request::Limit { deadline };
        let told = tokio::time::timeout(PATIENCE, Shim::request(run_dir, whom, &request));
        told.await.unwrap_or_else(|_| {
            Err(EngineError::Shim {
                whom: format!("shim of {whom}"),
                action: "moving its deadline",
                source: std::io::ErrorKind::TimedOut.into(),
            })
        })
    }
}

fn is_exclusive(container: &Container) -> bool {
    let labelled = |record: &Record| record.config.labels.contains_key(EXCLUSIVE_LABEL);
    container.claimed.load(Ordering::Relaxed) || container.read(labelled)
}

/// See [`Engine::enforce`].
async fn enforce(inner: Weak<Inner>, mut permits: watch::Receiver<Permit>) {
    let mut done = false;
    loop {
        let permit = *permits.borrow_and_update();
        let left = match permit {
            Permit::Until { until_ms, .. } if !done => {
                let end = until_ms.saturating_add(OVERDUE_MS);
                Some(end.saturating_sub(boottime_ms()))
            }
            _ => None,
        };
        let Some(left) = left else {
            if permits.changed().await.is_err() {
                return;
            }
            done = false;
            continue;
        };
        if left > 0 {
            tokio::select! {
                changed = permits.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(Duration::from_millis(left)) => {}
            }
            continue;
        }
        let Some(engine) = inner.upgrade().map(Engine) else {
            return;
        };
        // All at once: one that cannot be killed keeps the others from nothing.
        let mut killing = JoinSet::new();
        for (name, group) in engine.exclusive_groups() {
            let engine = engine.clone();
            killing.spawn_blocking(move || engine.kill_late(&name, &group));
        }
        done = true;
        while let Some(gone) = killing.join_next().await {
            done &= gone.unwrap_or(false);
        }
        if !done {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_start_needs_a_permit_that_is_not_over() {
        let until = |asked_ms| Permit::Until {
            asked_ms,
            until_ms: asked_ms + 10_000,
        };
        let ending = Ending::new(15, Duration::from_secs(2));
        let start = |permit: Permit, now| permit.to_start("db", ending, now);
        assert!(start(Permit::Unknown, 0).is_err());
        assert_eq!(start(Permit::Unlimited, 0).unwrap(), None);
        let deadline = start(until(100_000), 107_999).unwrap().unwrap();
        assert_eq!(
            (deadline.until_ms, deadline.stop_at_ms()),
            (110_000, 108_000)
        );
        let late = start(until(100_000), 108_000).unwrap_err().to_string();
        assert!(late.contains("db") && late.contains("for 8 s"), "{late}");
        // Answers may come in any order.
        assert_eq!(until(2).with(until(1)), until(2));
        assert_eq!(until(1).with(until(2)), until(2));
        assert_eq!(Permit::Unlimited.with(until(1)), until(1));
        assert_eq!(until(1).with(Permit::Unlimited), Permit::Unlimited);
        let long = Ending::new(15, Duration::MAX);
        let deadline = until(0).deadline(long).unwrap();
        assert_eq!(Duration::from_millis(deadline.stop_ms), LONGEST_STOP);
    }
}
