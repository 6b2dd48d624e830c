//! From the end of the main process to the shim's last act.

use super::{Phase, Role, Shim, Whom};
use crate::{cgroup::Cgroup, error::chain, launch::Failure, log::Stream};
use chrono::Utc;
use coracle_shim_protocol::shim::{EXIT_FILE, ExitStatus, FailReason, KillMode, Reply, Workload};
use rustix::mount::{UnmountFlags, unmount};
use std::{
    fs::{self, File},
    io::Write,
    time::{Duration, Instant},
};

/// What other processes of a service get between SIGTERM and SIGKILL.
const KILL_GRACE: Duration = Duration::from_secs(5);

impl Shim {
    /// The main process has ended and was reaped.
    pub(super) fn main_ended(&mut self) {
        if let Phase::Starting { .. } = self.phase
            && self.failure.is_none()
        {
            // Its report ended with it: it ran, or was killed on the way.
            self.start_decided();
        }
        self.phase = Phase::Ending;
        match &self.spec.workload {
            Workload::Container { .. } => {
                let own_pids = self.plan.as_ref().is_some_and(|p| p.own_pids);
                if !own_pids {
                    self.kill_rest();
                }
            }
            Workload::Process { kill_mode, .. } => match kill_mode {
                // Time is over for all of it.
                _ if self.is_over() => self.kill_rest(),
                KillMode::Process | KillMode::None if self.stopped_by_watchdog().is_none() => {}
                KillMode::Mixed => self.kill_rest(),
                _ => {
                    let rest = self.rest();
                    if !rest.is_empty() {
                        for pid in rest {
                            if let Ok(held) = coracle_sys::process::hold(pid) {
                                let _ = coracle_sys::process::signal(&held, libc::SIGTERM);
                            }
                        }
                        self.kill_at = Some(Instant::now() + KILL_GRACE);
                    }
                }
            },
        }
    }

    /// Who is in the group and not known to have ended.
    fn rest(&self) -> Vec<u32> {
        let own = std::process::id();
        self.cgroup
            .iter()
            .flat_map(Cgroup::procs)
            .filter(|p| *p != own)
            .collect()
    }

    pub(super) fn kill_rest(&mut self) {
        if self.rest().is_empty() {
            return;
        }
        if let Some(Err(error)) = self.cgroup.as_ref().map(Cgroup::kill_all) {
            self.note(&chain(&error));
        }
    }

    /// Looks whether everything that belongs to the end has happened.
    pub(super) fn go_on_ending(&mut self, now: Instant) {
        if let Some(at) = self.kill_at {
            if self.rest().is_empty() {
                self.kill_at = None;
            } else if at <= now {
                self.kill_at = None;
                self.kill_rest();
            } else {
                return;
            }
            if let Some(main) = &mut self.main {
                main.deadline = Some(now + Duration::from_millis(500));
            }
        }
        let Some(main) = &self.main else { return };
        if main.io.drained() || main.deadline.is_none_or(|d| d <= now) {
            self.drain(Whom::Main);
            self.end();
        }
    }

    fn end(&mut self) {
        let oom_killed = self.cgroup.as_ref().is_some_and(|c| c.oom_kills() > 0);
        let (ended, started_at) = match &self.main {
            Some(main) => (main.ended, main.started_at),
            None => (None, None),
        };
        let (code, signal) = match (&self.failure, ended) {
            (Some(failure), _) => (failure_code(failure.reason), None),
            (None, Some(ended)) => ended,
            (None, None) => (255, None),
        };
        let stopped = self.stopped_by_watchdog();
        if let (Some(why), Some(log)) = (&stopped, &mut self.log) {
            log.write(Stream::Stderr, format!("coracle: {why}\n").as_bytes());
        }
        let failed = self.failure.as_ref().map(|f| f.message.clone());
        self.finish(ExitStatus {
            version: 1,
            code,
            signal,
            oom_killed,
            started_at,
            finished_at: Utc::now(),
            watchdog: stopped.is_some(),
            error: failed.or(stopped),
        });
    }

    /// The container could not be made.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.note(&failure.message);
        // Init may wait already; nobody will start it.
        self.kill_rest();
        while let Ok(Some(_)) = coracle_sys::process::reap() {}
        self.main = None;
        let status = ExitStatus {
            version: 1,
            code: failure_code(failure.reason),
            signal: None,
            oom_killed: false,
            started_at: None,
            finished_at: Utc::now(),
            watchdog: self.stopped_by_watchdog().is_some(),
            error: Some(failure.message.clone()),
        };
        self.failure = Some(failure);
        self.unguard();
        self.write_exit(&status);
        self.finish_attached();
        self.phase = Phase::Ended { status };
    }

    fn finish_attached(&mut self) {
        let attached: Vec<u32> = self
            .conns
            .iter()
            .filter(|(_, c)| matches!(c.role, Role::Attach { .. }))
            .map(|(id, _)| *id)
            .collect();
        for id in attached {
            self.finish_conn(id);
        }
    }

    /// Writes the status down and tells it.
    fn finish(&mut self, status: ExitStatus) {
        self.unguard();
        if !self.released {
            self.write_exit(&status);
        }
        self.finish_attached();
        let reply = Reply::Exited {
            status: status.clone(),
        };
        for conn in self.conns.values_mut() {
            if conn.role == (Role::Control { tell: true }) {
                conn.wire.send(&reply);
            }
        }
        self.phase = Phase::Ended { status };
    }

    fn write_exit(&self, status: &ExitStatus) {
        let dir = &self.spec.state_dir;
        let write = || -> std::io::Result<()> {
            let temporary = dir.join(format!("{EXIT_FILE}.new"));
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(status)?)?;
            // Not synced: a machine that loses power has no running containers to ask about.
            drop(file);
            fs::rename(&temporary, dir.join(EXIT_FILE))
        };
        if let Err(error) = write() {
            self.note(&format!(
                "cannot write {}: {error}",
                dir.join(EXIT_FILE).display()
            ));
        }
    }

    pub(super) fn release(&mut self, id: u32) {
        self.released = true;
        match self.phase {
            Phase::Ended { .. } => {}
            Phase::Fresh => {
                self.phase = Phase::Ended { status: never() };
            }
            Phase::Created => match &self.main {
                Some(main) => {
                    let _ = main.kill(libc::SIGKILL);
                    self.stop_listening(id);
                }
                None => self.phase = Phase::Ended { status: never() },
            },
            // Too early: the container goes on, and its end will be told.
            _ => {
                self.released = false;
                self.say(
                    id,
                    &Reply::Error {
                        message: "the container has not ended".into(),
                    },
                );
            }
        }
    }

    /// Undoes what was made, and last of all closes the connections.
    pub(super) fn leave(&mut self) {
        self.guard = None;
        if self.mounted {
            let root = self.rootfs();
            if let Err(error) = unmount(&root, UnmountFlags::DETACH) {
                self.note(&format!("cannot unmount {}: {error}", root.display()));
            }
        }
        if let Some(cgroup) = &self.cgroup {
            // A service's processes may have been told to live on, and then the group does too.
            if self.rest().is_empty()
                && let Err(error) = cgroup.remove()
            {
                self.note(&chain(&error));
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.spec.run_dir) {
            self.note(&format!(
                "cannot remove {}: {error}",
                self.spec.run_dir.display()
            ));
        }
    }
}

/// What docker gives a container that could not be started.
fn failure_code(reason: FailReason) -> i32 {
    match reason {
        FailReason::NotFound => 127,
        FailReason::NotExecutable => 126,
        FailReason::Late | FailReason::Other => 128,
    }
}

/// The status of a container that was given up before its start; nobody is told.
fn never() -> ExitStatus {
    ExitStatus {
        version: 1,
        code: 0,
        signal: None,
        oom_killed: false,
        started_at: None,
        finished_at: Utc::now(),
        error: None,
        watchdog: false,
    }
}
