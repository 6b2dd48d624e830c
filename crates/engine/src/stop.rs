//! Ending, freezing, renaming and waiting.

use crate::client::Shim;
use crate::container::Container;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::names::{SERVICE_LABEL, Stopping};
use crate::record::Phase;
use coracle_shim_protocol::shim::Request;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Seconds between the stop signal and SIGKILL when nothing else is said.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// What [`Engine::wait`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// It does not run; at once if it does not run now.
    NotRunning,
    /// The next end of a run.
    NextExit,
    /// It is gone.
    Removed,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waited {
    /// Exit code.
    pub code: i32,
    /// Why it could not be started, if so.
    pub error: String,
}

/// Reads a signal: a number, or a name with or without `SIG`.
///
/// # Errors
/// [`EngineError::Invalid`] naming it.
pub fn signal_number(text: &str) -> Result<i32> {
    const NAMES: &[(&str, i32)] = &[
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ILL", 4),
        ("TRAP", 5),
        ("ABRT", 6),
        ("IOT", 6),
        ("BUS", 7),
        ("FPE", 8),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
        ("STKFLT", 16),
        ("CHLD", 17),
        ("CLD", 17),
        ("CONT", 18),
        ("STOP", 19),
        ("TSTP", 20),
        ("TTIN", 21),
        ("TTOU", 22),
        ("URG", 23),
        ("XCPU", 24),
        ("XFSZ", 25),
        ("VTALRM", 26),
        ("PROF", 27),
        ("WINCH", 28),
        ("IO", 29),
        ("POLL", 29),
        ("PWR", 30),
        ("SYS", 31),
        ("RTMIN", 34),
        ("RTMAX", 64),
    ];
    let invalid = || EngineError::Invalid(format!("Invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) {
            Ok(number)
        } else {
            Err(invalid())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(n, _)| *n == name) {
        return Ok(*number);
    }
    let offset = |prefix: &str, base: i32, sign: i32| {
        let n = name.strip_prefix(prefix)?.parse::<i32>().ok()?;
        Some(base + sign * n).filter(|n| (34..=64).contains(n))
    };
    offset("RTMIN+", 34, 1)
        .or_else(|| offset("RTMAX-", 64, -1))
        .ok_or_else(invalid)
}

fn not_running(container: &Container) -> EngineError {
    EngineError::Conflict(format!("container {} is not running", container.id))
}

impl Engine {
    /// Asks it to end and returns once it has; after `timeout` (by default the container's own, or ten seconds; zero
    /// or negative in Docker's terms is expressed as `Duration::ZERO` and `Duration::MAX`) with SIGKILL.
    ///
    /// # Errors
    /// [`EngineError::NotModified`] if it does not run.
    pub async fn stop(
        &self,
        key: &str,
        signal: Option<&str>,
        timeout: Option<Duration>,
    ) -> Result<()> {
        let container = self.find(key)?;
        let signal = signal.map(signal_number).transpose()?;
        let _op = self.op_to_end(&container, timeout).await?;
        self.stop_locked(&container, signal, timeout).await
    }

    /// Whether it may be found as an instance of its service. One that may not runs as ever: it is still to prove itself, or to be
    /// stopped soon. A daemon that starts anew has to be told again.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub fn serve(&self, key: &str, serves: bool) -> Result<()> {
        let container = self.find(key)?;
        if container.left.swap(!serves, Ordering::AcqRel) == serves {
            self.names_changed();
        }
        Ok(())
    }

    /// The container's turn, for who wants it to end. Another stop that is going on is waited for no longer than `timeout`
    /// (by default ten seconds), then its container is killed: as with Docker, the more impatient of two has its way.
    pub(crate) async fn op_to_end<'c>(
        &self,
        container: &'c Container,
        timeout: Option<Duration>,
    ) -> Result<tokio::sync::MutexGuard<'c, ()>> {
        let timeout = timeout.unwrap_or(STOP_TIMEOUT);
        if timeout < Duration::MAX
            && let Ok(op) = tokio::time::timeout(timeout, container.op.lock()).await
        {
            return Ok(op);
        }
        if timeout < Duration::MAX && container.stopping.load(Ordering::Acquire) {
            self.tell(container, "kill", &[("signal", SIGKILL.to_string())]);
            self.signal(container, SIGKILL, false).await?;
        }
        Ok(container.op.lock().await)
    }

    /// Stops it; the caller holds `op`.
    pub(crate) async fn stop_locked(
        &self,
        container: &Arc<Container>,
        signal: Option<i32>,
        timeout: Option<Duration>,
    ) -> Result<()> {
        let runs = container.phase() == Phase::Running;
        let _stopping = runs.then(|| Stopping::begin(self, container));
        if runs && container.read(|r| r.config.labels.contains_key(SERVICE_LABEL)) {
            // Nobody is sent to who ends.
            self.traffic_follows().await;
        }
        match container.phase() {
            Phase::Running => {}
            Phase::Restarting => {
                container.set_restart_timer(None);
                return container.change(|r| {
                    r.state.phase = Phase::Exited;
                    r.state.stopped_by_hand = true;
                });
            }
            _ => return Err(EngineError::NotModified),
        }
        let (own_signal, own_timeout, paused) = container.read(|r| {
            (
                r.config.stop_signal.clone(),
                r.config.stop_timeout,
                r.state.paused,
            )
        });
        let signal = match (signal, own_signal) {
            (Some(signal), _) => signal,
            (None, Some(name)) => signal_number(&name)?,
            (None, None) => SIGTERM,
        };
        let timeout = timeout.unwrap_or_else(|| match own_timeout {
            Some(seconds) if seconds < 0 => Duration::MAX,
            Some(seconds) => Duration::from_secs(seconds.unsigned_abs()),
            None => STOP_TIMEOUT,
        });
        container.happened(false, |r| {
            r.state.stopped_by_hand = true;
            r.state.stopping = true;
        });
        let ended = container.watch();
        if paused {
            self.0.cgroups.thaw(&container.cgroup())?;
        }
        self.tell(container, "kill", &[("signal", signal.to_string())]);
        self.signal(container, signal, false).await?;
        if !ends_within(ended.clone(), timeout).await {
            self.tell(container, "kill", &[("signal", SIGKILL.to_string())]);
            self.signal(container, SIGKILL, false).await?;
            ends_within(ended, Duration::MAX).await;
        }
        self.tell(container, "stop", &[]);
        Ok(())
    }

    /// Sends a signal. SIGKILL, and the container's own stop signal, count as being stopped by hand.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] if it does not run, [`EngineError::Invalid`] for no signal.
    pub async fn kill(&self, key: &str, signal: &str) -> Result<()> {
        let number = signal_number(if signal.is_empty() { "KILL" } else { signal })?;
        let container = self.find(key)?;
        let own = container.read(|r| r.config.stop_signal.clone());
        let own = own.and_then(|s| signal_number(&s).ok()).unwrap_or(SIGTERM);
        if container.phase() == Phase::Restarting && (number == SIGKILL || number == own) {
            // There is no process yet; what can be ended is that there will be one.
            let _op = container.op.lock().await;
            if container.phase() == Phase::Restarting {
                return self.stop_locked(&container, None, None).await;
            }
        }
        if container.phase() != Phase::Running {
            return Err(EngineError::Conflict(format!(
                "cannot kill container: {key}: container {} is not running",
                container.id
            )));
        }
        if number == SIGKILL || number == own {
            container.happened(false, |r| r.state.stopped_by_hand = true);
        }
        if number == SIGKILL && container.read(|r| r.state.paused) {
            self.0.cgroups.thaw(&container.cgroup())?;
        }
        let ended = container.watch();
        self.signal(&container, number, false).await?;
        self.tell(&container, "kill", &[("signal", number.to_string())]);
        if number == SIGKILL {
            // Nothing withstands it; Docker returns when it has taken effect.
            ends_within(ended, STOP_TIMEOUT).await;
        }
        Ok(())
    }

    async fn signal(&self, container: &Container, signal: i32, all: bool) -> Result<()> {
        let request = Request::Kill {
            exec_id: None,
            signal,
            all,
        };
        match Shim::request(&container.run_dir, container.id.short(), &request).await {
            // It has ended by itself meanwhile, or is just about to be seen as ended.
            Err(_) if container.phase() != Phase::Running => Ok(()),
            Err(EngineError::Refused { .. } | EngineError::Shim { .. }) => {
                // A shim that does not answer any more: its container ends with it.
                if signal == SIGKILL {
                    self.0.cgroups.kill_all(&container.cgroup())?;
                }
                Ok(())
            }
            other => other,
        }
    }

    /// Stops it, if it runs, and starts it.
    ///
    /// # Errors
    /// As `stop` and `start`.
    pub async fn restart(
        &self,
        key: &str,
        signal: Option<&str>,
        timeout: Option<Duration>,
    ) -> Result<()> {
        let container = self.find(key)?;
        let signal = signal.map(signal_number).transpose()?;
        let _op = container.op.lock().await;
        // A container that goes with its end stays for a restart.
        match self.stop_locked(&container, signal, timeout).await {
            Ok(()) | Err(EngineError::NotModified) => {}
            Err(error) => return Err(error),
        }
        container.set_restart_timer(None);
        self.run(&container, |r| {
            r.state.restart_count = 0;
            r.state.stopped_by_hand = false;
        })
        .await?;
        self.tell(&container, "restart", &[]);
        Ok(())
    }

    /// Freezes every process of it.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] if it does not run or is paused.
    pub async fn pause(&self, key: &str) -> Result<()> {
        let container = self.find(key)?;
        let _op = container.op.lock().await;
        match container.read(|r| (r.state.phase, r.state.paused)) {
            (Phase::Running, false) => {}
            (Phase::Running, true) => {
                return Err(EngineError::Conflict(format!(
                    "container {key} is already paused"
                )));
            }
            _ => return Err(not_running(&container)),
        }
        self.0.cgroups.freeze(&container.cgroup())?;
        container.happened(false, |r| r.state.paused = true);
        self.names_changed();
        self.tell(&container, "pause", &[]);
        Ok(())
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] if it is not paused.
    pub async fn unpause(&self, key: &str) -> Result<()> {
        let container = self.find(key)?;
        let _op = container.op.lock().await;
        if !container.read(|r| r.state.paused) {
            return Err(EngineError::Conflict(format!(
                "container {key} is not paused"
            )));
        }
        self.0.cgroups.thaw(&container.cgroup())?;
        container.happened(false, |r| r.state.paused = false);
        self.names_changed();
        self.tell(&container, "unpause", &[]);
        Ok(())
    }

    /// Gives it another name.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] if another container has it, [`EngineError::Invalid`] if it cannot be one.
    pub async fn rename(&self, key: &str, name: &str) -> Result<()> {
        let name = name.strip_prefix('/').unwrap_or(name);
        crate::create::check_name(name)?;
        let container = self.find(key)?;
        let _op = container.op.lock().await;
        let former = container.name();
        if former == name {
            return Err(EngineError::Conflict(
                "Renaming a container with the same name as its current name".into(),
            ));
        }
        self.table_mut().reserve(name, &container.id)?;
        if let Err(error) = container.change(|r| name.clone_into(&mut r.name)) {
            self.table_mut().free(name, &container.id);
            return Err(error);
        }
        self.table_mut().free(&former, &container.id);
        self.names_changed();
        self.tell(&container, "rename", &[("oldName", format!("/{former}"))]);
        Ok(())
    }

    /// Waits.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub async fn wait(&self, key: &str, until: Until) -> Result<Waited> {
        self.waiter(key, until)?.await
    }

    /// Begins to wait now; the future returned may be awaited later and misses nothing in between.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub fn waiter(
        &self,
        key: &str,
        until: Until,
    ) -> Result<impl Future<Output = Result<Waited>> + Send + use<>> {
        let container = self.find(key)?;
        let mut watch = container.watch();
        let before = watch.borrow().exits;
        Ok(async move {
            // The sender lives in the container, which this future holds.
            let done = watch
                .wait_for(|s| match until {
                    // The end of a run counts, also of one that runs again at once.
                    Until::NotRunning => {
                        let up = matches!(s.phase, Phase::Running | Phase::Restarting);
                        s.removed || !up || s.exits > before
                    }
                    Until::NextExit => s.removed || s.exits > before,
                    Until::Removed => s.removed,
                })
                .await
                .map_err(|_| EngineError::not_found("container", container.id.as_str()))?;
            Ok(Waited {
                code: done.code,
                error: done.error.clone(),
            })
        })
    }
}

impl Engine {
    /// Exit code of a container that went with its end (`--rm`), by its full id. The last thousand since the daemon came
    /// up are known.
    pub fn gone(&self, id: &str) -> Option<i32> {
        self.table().gone(id)
    }
}

async fn ends_within(
    mut status: tokio::sync::watch::Receiver<crate::container::Status>,
    time: Duration,
) -> bool {
    let ended = status.wait_for(|s| s.phase != Phase::Running || s.removed);
    if time == Duration::MAX {
        return ended.await.is_ok();
    }
    tokio::time::timeout(time, ended).await.is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn signals() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGTERM", 15),
            ("sigusr1", 10),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
        ] {
            assert_eq!(signal_number(text).unwrap(), number, "{text}");
        }
        for bad in ["", "0", "65", "NOPE", "RTMIN+40"] {
            assert!(signal_number(bad).unwrap_err().to_string().contains(bad));
        }
    }
}
