//! What clients ask.

use super::{Conn, Exec, Phase, Role, Shim};
use crate::{
    container::Report,
    error::{ShimError, chain},
    launch::{Failure, Launch},
    seccomp,
    spawn::{self, Spawn, Stdio},
    task::{Io, Task},
};
use coracle_shim_protocol::{
    frame::{self, Kind},
    shim::{FailReason, Reply, Request, Seccomp, State, Workload},
};
use oci_spec::runtime::Process;
use rustix::event::PollFlags;
use std::os::fd::AsFd;

impl Shim {
    /// A connection is readable, writable or gone.
    pub(super) fn serve(&mut self, id: u32, flags: PollFlags) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if flags.contains(PollFlags::OUT) && conn.wire.flush().is_err() {
            return self.close(id);
        }
        if flags.contains(PollFlags::IN) {
            let more = conn.wire.fill();
            loop {
                let Some(conn) = self.conns.get_mut(&id) else {
                    return;
                };
                match conn.wire.frame() {
                    Ok(Some((Kind::Control, payload))) => self.control(id, &payload),
                    Ok(Some((Kind::Stdin, payload))) => self.input(id, &payload),
                    // Nobody else may write output.
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error) => {
                        conn.wire.send(&Reply::Error {
                            message: error.to_string(),
                        });
                        conn.role = Role::Closing;
                        break;
                    }
                }
            }
            match more {
                Ok(true) => {}
                Ok(false) => self.peer_ended(id),
                Err(_) => return self.close(id),
            }
        }
        if flags.intersects(PollFlags::HUP | PollFlags::ERR) && !flags.contains(PollFlags::IN) {
            self.close(id);
        }
        if self
            .conns
            .get(&id)
            .is_some_and(|c| c.role == Role::Closing && c.wire.pending() == 0)
        {
            self.conns.remove(&id);
        }
    }

    /// The peer sends nothing more; it may still listen to output.
    fn peer_ended(&mut self, id: u32) {
        match self.conns.get(&id).map(|c| c.role) {
            Some(Role::Attach { .. }) => self.input(id, b""),
            Some(Role::Exec { .. }) => self.input(id, b""),
            Some(Role::Closing) | None => {}
            Some(Role::Control { .. }) => self.close(id),
        }
    }

    /// Forgets a connection.
    pub(super) fn close(&mut self, id: u32) {
        let Some(conn) = self.conns.remove(&id) else {
            return;
        };
        match conn.role {
            Role::Attach {
                stdin: true,
                sent: true,
                ..
            } if self.spec.stdin_once => {
                if let Some(main) = &mut self.main {
                    main.io.close_input();
                }
            }
            Role::Exec { number } => {
                if let Some(exec) = self.execs.get_mut(&number) {
                    exec.conn = None;
                    exec.task.io.close_input();
                }
            }
            _ => {}
        }
    }

    fn input(&mut self, id: u32, payload: &[u8]) {
        let once = self.spec.stdin_once;
        let Some(Conn { role, .. }) = self.conns.get_mut(&id) else {
            return;
        };
        match role {
            Role::Attach {
                stdin: true, sent, ..
            } => {
                *sent = true;
                if let Some(main) = &mut self.main {
                    if !payload.is_empty() {
                        main.io.push_input(payload);
                    } else if once {
                        main.io.close_input();
                    }
                }
            }
            Role::Exec { number } => {
                if let Some(exec) = self.execs.get_mut(number) {
                    if payload.is_empty() {
                        exec.task.io.close_input();
                    } else {
                        exec.task.io.push_input(payload);
                    }
                }
            }
            _ => {}
        }
    }

    /// Says something on a connection that may be gone.
    pub(super) fn say(&mut self, id: u32, reply: &Reply) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.wire.send(reply);
        }
    }

    fn answer(&mut self, id: u32, result: Result<(), ShimError>) {
        let reply = match result {
            Ok(()) => Reply::Ok,
            Err(error) => Reply::Error {
                message: chain(&error),
            },
        };
        self.say(id, &reply);
    }

    fn control(&mut self, id: u32, payload: &[u8]) {
        let request = match frame::parse::<Request>(payload) {
            Ok(request) => request,
            Err(error) => {
                let message = format!("the request cannot be read: {error}");
                return self.say(id, &Reply::Error { message });
            }
        };
        match request {
            Request::Prepare => self.prepare(id),
            Request::Start => self.start(id),
            Request::Watch => self.watch(id),
            Request::Attach {
                stdin,
                stdout,
                stderr,
            } => {
                self.say(id, &Reply::Attached);
                let over = matches!(self.phase, Phase::Ended { .. });
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.role = if over {
                        Role::Closing
                    } else {
                        Role::Attach {
                            stdin,
                            stdout,
                            stderr,
                            sent: false,
                        }
                    };
                }
            }
            Request::Exec {
                exec_id,
                process,
                terminal,
                stdin,
                output,
            } => {
                self.exec(id, exec_id, *process, terminal, stdin, output);
            }
            Request::Resize {
                exec_id,
                rows,
                cols,
            } => {
                let done = self
                    .find(exec_id.as_deref())
                    .and_then(|t| t.io.resize(rows, cols));
                self.answer(id, done);
            }
            Request::Kill {
                exec_id,
                signal,
                all,
            } => {
                let done = self.kill(exec_id.as_deref(), signal, all);
                self.answer(id, done);
            }
            Request::Limit { deadline } => {
                let done = self.limit(deadline);
                self.answer(id, done);
            }
            Request::Release => self.release(id),
        }
    }

    fn watch(&mut self, id: u32) {
        let started_at = self.main.as_ref().and_then(|t| t.started_at);
        let state = match (&self.phase, &self.main, started_at) {
            (Phase::Ended { status }, ..) => State::Exited {
                status: status.clone(),
            },
            (_, Some(main), Some(started_at)) => State::Running {
                pid: main.pid,
                started_at,
            },
            _ => State::Prepared,
        };
        self.say(id, &Reply::State { state });
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.role = Role::Control { tell: true };
        }
    }

    fn find(&mut self, exec_id: Option<&str>) -> Result<&mut Task, ShimError> {
        let found = match exec_id {
            None => self.main.as_mut(),
            Some(id) => self
                .execs
                .values_mut()
                .find(|e| e.id == id)
                .map(|e| &mut e.task),
        };
        found.ok_or_else(|| match exec_id {
            None => ShimError::Invalid("the container is not running".into()),
            Some(id) => ShimError::Invalid(format!("exec process {id} is not running")),
        })
    }

    fn kill(&mut self, exec_id: Option<&str>, signal: i32, all: bool) -> Result<(), ShimError> {
        if all && exec_id.is_none() {
            if signal == libc::SIGKILL
                && let Some(cgroup) = &self.cgroup
            {
                return cgroup.kill_all();
            }
            self.find(None)?.kill(signal)?;
            let main = self.main.as_ref().map(|t| t.pid);
            for pid in self.cgroup.iter().flat_map(|c| c.procs()) {
                if Some(pid) != main
                    && let Ok(held) = coracle_sys::process::hold(pid)
                {
                    let _ = coracle_sys::process::signal(&held, signal);
                }
            }
            return Ok(());
        }
        let task = self.find(exec_id)?;
        if task.ended.is_some() {
            return Err(ShimError::Invalid("the process has ended".into()));
        }
        task.kill(signal)?;
        if signal == libc::SIGKILL
            && let Some(cgroup) = &self.cgroup
        {
            cgroup.thaw();
        }
        Ok(())
    }

    fn exec(
        &mut self,
        id: u32,
        exec_id: String,
        process: Process,
        terminal: bool,
        stdin: bool,
        output: bool,
    ) {
        let made = if self.phase == Phase::Running {
            self.try_exec(id, exec_id, process, terminal, stdin, output)
        } else {
            Err(ShimError::Invalid("the container is not running".into()))
        };
        if let Err(error) = made {
            self.say(
                id,
                &Reply::Failed {
                    reason: FailReason::Other,
                    message: chain(&error),
                },
            );
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.role = Role::Closing;
            }
        }
    }

    fn try_exec(
        &mut self,
        id: u32,
        exec_id: String,
        mut process: Process,
        terminal: bool,
        stdin: bool,
        output: bool,
    ) -> Result<(), ShimError> {
        let Some(main) = &self.main else {
            return Err(ShimError::Invalid("the container is not running".into()));
        };
        let mut oom_score_adj = process.oom_score_adj();
        let mut launch = Launch {
            process: process.clone(),
            caps: None,
            filter: None,
        };
        let container = matches!(self.spec.workload, Workload::Container { .. });
        if let Some(plan) = self.plan.as_ref().filter(|_| container) {
            if process.rlimits().is_none() {
                process.set_rlimits(plan.launch.process.rlimits().clone());
            }
            oom_score_adj = oom_score_adj.or(plan.oom_score_adj);
            let caps = process
                .capabilities()
                .as_ref()
                .map(Into::into)
                .or(plan.launch.caps);
            // The container's filter, unless the process has other capabilities than the filter was made for.
            let same = caps.map(|c| c.bounding) == plan.launch.caps.map(|c| c.bounding);
            let default = matches!(
                &self.spec.workload,
                Workload::Container {
                    seccomp: Seccomp::Default,
                    ..
                }
            );
            let filter = match (default && !same, caps) {
                (true, Some(caps)) => Some(seccomp::default_filter(caps.bounding)?),
                _ => plan.launch.filter.clone(),
            };
            launch = Launch {
                process,
                caps,
                filter,
            };
        }
        let size = launch
            .process
            .console_size()
            .map(|s| (clamp(s.height()), clamp(s.width())));
        let (io, stdio) = if terminal {
            (Io::default(), Stdio::Terminal(size))
        } else {
            let (io, child) = Io::pipes(stdin, output)?;
            (io, Stdio::Pipes(child))
        };
        let (pid, report) = spawn::spawn(
            Spawn {
                launch: &launch,
                stdio,
                cgroup: self.cgroup.as_ref(),
                namespaces: container.then_some(main.held.as_fd()),
                oom_score_adj,
            },
            Report::new()?,
        )?;
        let task = Task::new(pid, io, Some(report))?;
        self.next += 1;
        let number = self.next;
        self.execs.insert(
            number,
            Exec {
                id: exec_id,
                conn: Some(id),
                task,
            },
        );
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.role = Role::Exec { number };
        }
        Ok(())
    }

    /// The launch of an exec'd process is decided.
    pub(super) fn exec_decided(&mut self, number: u32) {
        let Some(exec) = self.execs.get_mut(&number) else {
            return;
        };
        let reply = match &exec.task.failure {
            None => {
                exec.task.started_at = Some(chrono::Utc::now());
                Reply::Started { pid: exec.task.pid }
            }
            Some(Failure { reason, message }) => Reply::Failed {
                reason: *reason,
                message: message.clone(),
            },
        };
        let failed = exec.task.failure.is_some();
        let Some(id) = exec.conn else { return };
        self.say(id, &reply);
        if failed && let Some(conn) = self.conns.get_mut(&id) {
            conn.role = Role::Closing;
        }
    }
}

fn clamp(n: u64) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}
