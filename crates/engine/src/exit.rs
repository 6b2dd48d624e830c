//! What happens when a container ends: the record, the teardown, and the restart policy.

use crate::client::Shim;
use crate::container::Container;
use crate::engine::Engine;
use crate::model::RestartPolicy;
use crate::record::{Phase, Record};
use chrono::Utc;
use coracle_shim_protocol::shim::{EXIT_FILE, ExitStatus};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A run of this length shows that the container works; its next restart comes quickly again.
const SETTLED: Duration = Duration::from_secs(10);

/// How a run ended, for [`decide`].
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Exit code.
    pub code: i32,
    /// Whether a person or unit stopped it.
    pub by_hand: bool,
    /// Restarts so far.
    pub restarts: u32,
    /// How long it ran.
    pub ran: Duration,
}

/// Whether and after which delay a container is started again: 100 ms, doubled with each restart up to a minute, as
/// long as runs are shorter than ten seconds.
///
/// ```
/// # use coracle_engine::exit::{decide, Ended};
/// # use coracle_engine::model::RestartPolicy;
/// # use std::time::Duration;
/// let policy = RestartPolicy { name: "on-failure".into(), maximum_retry_count: 2 };
/// let ended = |code, restarts| Ended { code, by_hand: false, restarts, ran: Duration::ZERO };
/// assert_eq!(decide(&policy, ended(0, 0)), None);
/// assert_eq!(decide(&policy, ended(1, 0)), Some(Duration::from_millis(100)));
/// assert_eq!(decide(&policy, ended(1, 1)), Some(Duration::from_millis(200)));
/// assert_eq!(decide(&policy, ended(1, 2)), None);
/// ```
pub fn decide(policy: &RestartPolicy, ended: Ended) -> Option<Duration> {
    let again = match policy.name.as_str() {
        _ if ended.by_hand => false,
        "always" | "unless-stopped" => true,
        "on-failure" => {
            let most = policy.maximum_retry_count;
            ended.code != 0 && (most <= 0 || i64::from(ended.restarts) < most)
        }
        _ => false,
    };
    again.then(|| {
        if ended.ran >= SETTLED {
            return FIRST_DELAY;
        }
        let doubled = FIRST_DELAY.saturating_mul(1 << ended.restarts.min(16));
        doubled.min(LONGEST_DELAY)
    })
}

/// As [`decide`], for a run that ended so.
fn restart(r: &Record, status: &ExitStatus) -> Option<Duration> {
    let ran = r.state.started_at.map_or(Duration::ZERO, |from| {
        (status.finished_at - from).to_std().unwrap_or_default()
    });
    let ended = Ended {
        code: status.code,
        by_hand: r.state.stopped_by_hand,
        restarts: r.state.restart_count,
        ran,
    };
    decide(&r.host_config.restart_policy, ended)
}

/// Reads what a shim wrote at its container's end.
pub(crate) fn read_exit(dir: &Path) -> Option<ExitStatus> {
    serde_json::from_slice(&fs::read(dir.join(EXIT_FILE)).ok()?).ok()
}

/// The status of a container whose shim is gone without a word.
pub(crate) fn lost(code: i32, why: &str) -> ExitStatus {
    ExitStatus {
        version: 1,
        code,
        signal: (code == 137).then_some(9),
        oom_killed: false,
        started_at: None,
        finished_at: Utc::now(),
        error: Some(why.to_owned()),
        watchdog: false,
    }
}

impl Engine {
    /// Waits for the end of a run in the background. `run` is held until its teardown is done.
    pub(crate) fn watch_exit(
        &self,
        container: Arc<Container>,
        mut shim: Shim,
        run: OwnedMutexGuard<()>,
    ) {
        let engine = self.clone();
        tokio::spawn(async move {
            let exited = shim.exited().await;
            let lost_shim = exited.is_err();
            let status = match exited {
                Ok(status) => status,
                Err(_) => {
                    // The shim was killed: what it left is ended here, so that nothing runs unseen.
                    let _ = engine.0.cgroups.kill_all(&container.cgroup());
                    read_exit(&container.dir).unwrap_or_else(|| {
                        lost(137, "its shim was killed, and the container with it")
                    })
                }
            };
            engine.ended(&container, &status);
            // A container that goes with its end goes now: nobody waits for links to be taken down.
            let auto_remove = container.read(Record::goes_by_itself);
            if auto_remove {
                let (engine, id) = (engine.clone(), container.id.to_string());
                tokio::spawn(async move { engine.remove_ended(&id).await });
            }
            let left = shim.release().await;
            if lost_shim {
                engine.clean_up(&container).await;
            } else if container.is_going() {
                engine.give_back_with_namespace(&container).await;
            } else {
                engine.give_back(&container).await;
            }
            // Unmounting may take a while; a next run of this container needs it done.
            left.await;
            drop(run);
            if !auto_remove {
                engine.after(&container, &status);
            }
        });
    }

    /// Writes down that a run has ended and tells everybody.
    pub(crate) fn ended(&self, container: &Arc<Container>, status: &ExitStatus) {
        container.set_health_task(None);
        container.set_health(None);
        let before = container.record();
        container.happened(true, |r| {
            // One that is to run again was never over for those who look.
            let again = restart(r, status).is_some();
            let state = &mut r.state;
            state.phase = if again {
                Phase::Restarting
            } else {
                Phase::Exited
            };
            state.stopping = false;
            state.paused = false;
            state.pid = 0;
            state.shim_pid = 0;
            state.exit_code = status.code;
            state.oom_killed = status.oom_killed;
            state.error = status.error.clone().unwrap_or_default();
            state.watchdog = status.watchdog;
            state.starting = false;
            state.finished_at = Some(status.finished_at);
            state.clear_network();
        });
        if status.oom_killed {
            self.tell(container, "oom", &[]);
        }
        self.tell(container, "die", &[("exitCode", status.code.to_string())]);
        self.tell_links(&before, "disconnect");
        self.tell_mounts(&before, "unmount");
        self.names_changed();
    }

    /// Gives everything of a run back whose shim did not do its part.
    pub(crate) async fn clean_up(&self, container: &Arc<Container>) {
        self.give_back(container).await;
        let (layout, cgroup) = (self.0.cgroups.clone(), container.cgroup());
        let run_dir = container.run_dir.clone();
        let _ = tokio::task::spawn_blocking(move || {
            // Usually the shim has done so; it may have been killed.
            if layout.procs(&cgroup).is_ok() {
                let _ = layout.kill_all(&cgroup);
                let _ = layout.remove(&cgroup);
            }
        })
        .await;
        let _ = fs::remove_dir_all(run_dir);
    }

    /// Restarts a container that has ended, if it was asked to and nobody stopped or started it meanwhile.
    fn after(&self, container: &Arc<Container>, status: &ExitStatus) {
        let again = container.read(|r| {
            let waits = r.state.phase == Phase::Restarting;
            waits.then(|| restart(r, status)).flatten()
        });
        if let Some(delay) = again {
            self.restart_later(container, delay);
        }
    }

    /// Starts a container again after `delay`, unless somebody stops, starts or removes it before.
    pub(crate) fn restart_later(&self, container: &Arc<Container>, delay: Duration) {
        container.happened(false, |r| {
            if r.state.phase == Phase::Exited {
                r.state.phase = Phase::Restarting;
            }
        });
        let (engine, waiting) = (self.clone(), container.clone());
        let timer = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let _op = waiting.op.lock().await;
            // From here on it is a start like any other, which nobody cancels half done.
            waiting.restart_timer_fired();
            if waiting.phase() != Phase::Restarting {
                return;
            }
            let count = |r: &mut crate::record::Record| r.state.restart_count += 1;
            if let Err(error) = engine.run(&waiting, count).await {
                tracing::warn!(container = %waiting.id, error = coracle_sys::full(&error), "restart failed");
                let status = lost(125, &coracle_sys::full(&error));
                let again = waiting.read(|r| {
                    let ended = Ended {
                        code: status.code,
                        by_hand: r.state.stopped_by_hand,
                        restarts: r.state.restart_count,
                        ran: Duration::ZERO,
                    };
                    decide(&r.host_config.restart_policy, ended)
                });
                if let Some(delay) = again {
                    waiting.happened(false, |r| r.state.restart_count += 1);
                    engine.restart_later(&waiting, delay);
                }
            }
        });
        container.set_restart_timer(Some(timer.abort_handle()));
    }
}
