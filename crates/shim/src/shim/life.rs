//! From `Prepare` to the shim's last act.

use super::{Phase, Role, Shim, Whom};
use crate::{
    caps::CapSet,
    cgroup::Cgroup,
    container::{self, Plan, Report},
    error::{ShimError, chain},
    launch::{Failure, Launch},
    log::Log,
    os, seccomp,
    spawn::{self, Spawn, Stdio},
    task::{Io, Task},
};
use chrono::Utc;
use coracle_shim_protocol::shim::{
    EXIT_FILE, ExitStatus, FailReason, KillMode, Reply, Rootfs, Seccomp, Workload,
};
use coracle_sys::overlay::mount_overlay;
use rustix::{
    mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount},
    thread::UnshareFlags,
};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What other processes of a service get between SIGTERM and SIGKILL.
const KILL_GRACE: Duration = Duration::from_secs(5);

impl Shim {
    fn rootfs(&self) -> PathBuf {
        self.spec.run_dir.join("rootfs")
    }

    pub(super) fn prepare(&mut self, id: u32) {
        if self.phase != Phase::Fresh {
            let reply = match self.phase {
                // A daemon that lost its answer asks again.
                Phase::Created => Reply::Prepared,
                _ => Reply::Error {
                    message: "the container was prepared already".into(),
                },
            };
            self.say(id, &reply);
            return self.listen(id);
        }
        self.log = self.spec.log.clone().map(Log::open);
        if let Err(error) = self.namespaces() {
            let message = chain(&error);
            self.say(
                id,
                &Reply::Error {
                    message: message.clone(),
                },
            );
            self.listen(id);
            return self.fail(Failure::other(message));
        }
        self.say(id, &Reply::Prepared);
        self.listen(id);
        self.phase = Phase::Created;
        // The daemon plugs the network in meanwhile.
        if let Err(error) = self.create() {
            self.fail(Failure::other(chain(&error)));
        }
    }

    fn listen(&mut self, id: u32) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.role = Role::Control { tell: true };
        }
    }

    /// Makes the shim's own namespaces.
    fn namespaces(&mut self) -> Result<(), ShimError> {
        let Workload::Container { spec, seccomp, .. } = &self.spec.workload else {
            return Ok(());
        };
        let mut plan = Plan::new(
            (**spec).clone(),
            &self.rootfs(),
            &self.spec.cgroup,
            self.spec.terminal,
            self.machine.is_v2(),
        )?;
        let caps = plan.launch.caps.map_or(CapSet::default(), |c| c.bounding);
        plan.launch.filter = match seccomp {
            Seccomp::Unconfined => None,
            Seccomp::Profile { profile } => Some(seccomp::compile_profile(profile)?),
            Seccomp::Default if caps == CapSet::DOCKER_DEFAULT && self.default_filter.is_some() => {
                self.default_filter.clone()
            }
            Seccomp::Default => Some(seccomp::default_filter(caps)?),
        };
        let mut flags = UnshareFlags::NEWNS;
        if plan.own_network {
            flags |= UnshareFlags::NEWNET;
        }
        os::unshare(flags).map_err(ShimError::system(
            "make namespaces (CAP_SYS_ADMIN is needed)",
        ))?;
        // What is mounted on the host shows here, what is mounted here does not show there.
        mount_change(
            "/",
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
        )
        .map_err(ShimError::system("take the mounts for its own"))?;
        if plan.own_network {
            os::raise_loopback().map_err(ShimError::system("raise the loopback interface"))?;
        }
        self.plan = Some(plan);
        Ok(())
    }

    /// Makes everything up to the point where only `Start` is missing.
    fn create(&mut self) -> Result<(), ShimError> {
        let cgroup = Cgroup::create(self.machine.clone(), &self.spec.cgroup)?;
        let cgroup = self.cgroup.insert(cgroup);
        let Workload::Container { rootfs, .. } = &self.spec.workload else {
            return Ok(());
        };
        let Some(plan) = &self.plan else {
            return Err(ShimError::Invalid("the container was not prepared".into()));
        };
        let target = self.spec.run_dir.join("rootfs");
        mount_root(rootfs, &target)?;
        self.mounted = true;
        for (path, value) in &plan.sysctls {
            fs::write(path, value).map_err(ShimError::file("set", path))?;
        }
        let (io, child) = if self.spec.terminal {
            (None, None)
        } else {
            let (io, child) = Io::pipes(self.spec.open_stdin, true)?;
            (Some(io), Some(child))
        };
        let report = Report::new()?;
        let made = container::create(
            &self.spec.id,
            &self.spec.run_dir,
            plan,
            cgroup,
            child,
            &report,
        )?;
        let mut task = Task::new(made.pid, io.unwrap_or_default(), Some(report.parent))?;
        let mut made = made;
        if let Some(master) = made.terminal.take() {
            task.io = Io::terminal(master, self.spec.terminal_size)?;
        }
        self.made = Some(made);
        self.main = Some(task);
        Ok(())
    }

    pub(super) fn start(&mut self, id: u32) {
        match (&self.phase, &self.failure) {
            (Phase::Created, _) => {}
            (_, Some(failure)) => {
                let reply = Reply::Failed {
                    reason: failure.reason,
                    message: failure.message.clone(),
                };
                self.say(id, &reply);
                return self.stop_listening(id);
            }
            (Phase::Fresh, None) => {
                return self.say(
                    id,
                    &Reply::Error {
                        message: "prepare the container first".into(),
                    },
                );
            }
            _ => {
                return self.say(
                    id,
                    &Reply::Error {
                        message: "the container was started already".into(),
                    },
                );
            }
        }
        self.phase = Phase::Starting { asker: id };
        let done = match &self.made {
            Some(made) => made.start(),
            None => self.start_process(),
        };
        if let Err(error) = done {
            let failure = Failure::other(chain(&error));
            match &mut self.main {
                // Init's own report may say more; it ends now in any case.
                Some(main) => {
                    main.failure.get_or_insert(failure);
                    let _ = main.kill(libc::SIGKILL);
                }
                None => {
                    self.say(
                        id,
                        &Reply::Failed {
                            reason: failure.reason,
                            message: failure.message.clone(),
                        },
                    );
                    self.stop_listening(id);
                    self.fail(failure);
                }
            }
        }
    }

    /// Starts a host process.
    fn start_process(&mut self) -> Result<(), ShimError> {
        let Workload::Process { process, .. } = &self.spec.workload else {
            return Err(ShimError::Invalid("the container was not made".into()));
        };
        let launch = Launch {
            process: (**process).clone(),
            caps: None,
            filter: None,
        };
        let (io, stdio) = if self.spec.terminal {
            (Io::default(), Stdio::Terminal(self.spec.terminal_size))
        } else {
            let (io, child) = Io::pipes(self.spec.open_stdin, true)?;
            (io, Stdio::Pipes(child))
        };
        let (pid, report) = spawn::spawn(
            Spawn {
                launch: &launch,
                stdio,
                cgroup: self.cgroup.as_ref(),
                namespaces: None,
                oom_score_adj: process.oom_score_adj(),
            },
            Report::new()?,
        )?;
        self.main = Some(Task::new(pid, io, Some(report))?);
        Ok(())
    }

    /// Exec has succeeded or failed, or init died before it was started.
    pub(super) fn start_decided(&mut self) {
        let Phase::Starting { asker } = self.phase else {
            return;
        };
        let Some(main) = &mut self.main else { return };
        if let Some(failure) = &main.failure {
            let reply = Reply::Failed {
                reason: failure.reason,
                message: failure.message.clone(),
            };
            self.failure = Some(failure.clone());
            self.say(asker, &reply);
            // It has its answer; `Exited` would be a second one.
            self.stop_listening(asker);
            return;
        }
        main.started_at = Some(Utc::now());
        let pid = main.pid;
        self.phase = Phase::Running;
        self.say(asker, &Reply::Started { pid });
        os::trim_memory();
    }

    fn stop_listening(&mut self, id: u32) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.role = Role::Control { tell: false };
        }
    }

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
                KillMode::ControlGroup => {
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
                KillMode::Mixed => self.kill_rest(),
                KillMode::Process | KillMode::None => {}
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

    fn kill_rest(&mut self) {
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
        self.finish(ExitStatus {
            version: 1,
            code,
            signal,
            oom_killed,
            started_at,
            finished_at: Utc::now(),
            error: self.failure.as_ref().map(|f| f.message.clone()),
        });
    }

    /// The container could not be made.
    fn fail(&mut self, failure: Failure) {
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
            error: Some(failure.message.clone()),
        };
        self.failure = Some(failure);
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

fn mount_root(rootfs: &Rootfs, target: &Path) -> Result<(), ShimError> {
    fs::create_dir_all(target).map_err(ShimError::file("make", target))?;
    Ok(mount_overlay(
        &rootfs.lower,
        &rootfs.upper,
        &rootfs.work,
        target,
    )?)
}

/// What docker gives a container that could not be started.
fn failure_code(reason: FailReason) -> i32 {
    match reason {
        FailReason::NotFound => 127,
        FailReason::NotExecutable => 126,
        FailReason::Other => 128,
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
    }
}
