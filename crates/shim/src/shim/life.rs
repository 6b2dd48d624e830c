//! From `Prepare` to the shim's last act.

use super::{Phase, Role, Shim};
use crate::{
    caps::CapSet,
    cgroup::Cgroup,
    container::{self, Plan, Report, Shared},
    error::{ShimError, chain},
    launch::{Failure, Launch},
    log::Log,
    os, seccomp,
    spawn::{self, Spawn, Stdio},
    task::{Io, Task},
};
use chrono::Utc;
use coracle_shim_protocol::shim::{Reply, Rootfs, Seccomp, Workload};
use coracle_sys::overlay::mount_overlay;
use rustix::{
    mount::{MountPropagationFlags, mount_change},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space},
};
use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

impl Shim {
    pub(super) fn rootfs(&self) -> PathBuf {
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
        if let Some(error) = self.early.take() {
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
    pub(super) fn namespaces(&mut self) -> Result<(), ShimError> {
        let Workload::Container { spec, seccomp, .. } = &self.spec.workload else {
            return Ok(());
        };
        let mut plan = Plan::new(
            (**spec).clone(),
            &self.rootfs(),
            self.spec.terminal,
            self.machine.is_v2(),
        )?;
        let caps = plan.launch.caps.map_or(CapSet::default(), |c| c.bounding);
        plan.launch.filter = match seccomp {
            Seccomp::Unconfined => None,
            Seccomp::Profile { profile } => Some(seccomp::compile_profile(profile)?),
            Seccomp::Default => match &self.default_filter {
                Some(filter) => Some(filter.clone()),
                None => Some(seccomp::default_filter(caps)?),
            },
        };
        plan.shared = Shared::take(&mut plan.spec)?;
        let mut flags = UnshareFlags::NEWNS;
        if plan.own_network {
            flags |= UnshareFlags::NEWNET;
        }
        if plan.own_pids {
            // For children: init is the first of them, processes of `exec` follow.
            flags |= UnshareFlags::NEWPID;
        }
        if let Some(path) = &plan.joined_pids {
            // For children, too.
            let failed = |e: io::Error| ShimError::file("join the process namespace", path)(e);
            let namespace = fs::File::open(path).map_err(failed)?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::ProcessID))
                .map_err(|e| failed(e.into()))?;
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
        let made = container::create(&self.spec.run_dir, plan, cgroup, child, &report)?;
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
        // Whoever allowed this may have been held up for long.
        self.watch_over();
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

    pub(super) fn stop_listening(&mut self, id: u32) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.role = Role::Control { tell: false };
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
