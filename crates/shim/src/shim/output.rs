//! Reports, output and ends of processes.

use super::{Phase, Role, Shim, Whom};
use crate::{
    diag,
    launch::Failure,
    os,
    spawn::TERMINAL,
    task::{Io, Read, stream},
};
use coracle_shim_protocol::{
    frame::Kind,
    shim::{ExitStatus, Reply},
};
use rustix::{
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
};
use std::{
    io::IoSliceMut,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

/// How long output is waited for when the process has ended and somebody else holds its pipes.
const GRACE: Duration = Duration::from_millis(500);
const READ_SIZE: usize = 32 << 10;

impl Shim {
    /// The report socket of a launch says something or ends.
    pub(super) fn hear(&mut self, whom: Whom) {
        loop {
            let Some(task) = self.task(whom) else { return };
            let Some(report) = &task.report else { return };
            match receive(report) {
                Ok((message, fd)) => match (message.first(), fd) {
                    (None, _) => break,
                    (Some(&TERMINAL), Some(master)) => match Io::terminal(master, None) {
                        Ok(io) => task.io = io,
                        Err(error) => {
                            task.failure = Some(Failure::other(crate::error::chain(&error)))
                        }
                    },
                    (Some(&diag::MARK), _) => {
                        let text = String::from_utf8_lossy(&message[1..]).into_owned();
                        task.complaint.get_or_insert(text);
                    }
                    _ => task.failure = Failure::decode(&message),
                },
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        let Some(task) = self.task(whom) else { return };
        task.report = None;
        if task.failure.is_none()
            && let Some(complaint) = task.complaint.take()
        {
            task.failure = Some(Failure::other(complaint));
        }
        match whom {
            Whom::Main => self.start_decided(),
            Whom::Exec(number) => self.exec_decided(number),
        }
    }

    /// An output is readable.
    pub(super) fn pump(&mut self, whom: Whom, index: usize) {
        // A launch is decided before anything of its output is passed on.
        if self.task(whom).is_some_and(|t| t.report.is_some()) {
            self.hear(whom);
            if self.task(whom).is_some_and(|t| t.report.is_some()) {
                return;
            }
        }
        self.pump_once(whom, index);
    }

    /// Reads once; `false` when there is nothing (more).
    fn pump_once(&mut self, whom: Whom, index: usize) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(READ_SIZE, 0);
        let read = match self.task(whom) {
            Some(task) => task.io.read(index, &mut buffer),
            None => Read::End,
        };
        let more = match read {
            Read::Data(n) => {
                self.deliver(whom, index, &buffer[..n]);
                true
            }
            Read::Nothing => false,
            Read::End => {
                if whom == Whom::Main
                    && let Some(log) = &mut self.log
                {
                    log.finish(stream(index));
                }
                false
            }
        };
        self.buffer = buffer;
        more
    }

    fn deliver(&mut self, whom: Whom, index: usize, bytes: &[u8]) {
        let kind = if index == 0 {
            Kind::Stdout
        } else {
            Kind::Stderr
        };
        match whom {
            Whom::Main => {
                if let Some(log) = &mut self.log {
                    log.write(stream(index), bytes);
                }
                for conn in self.conns.values_mut() {
                    if let Role::Attach { stdout, stderr, .. } = conn.role
                        && (if index == 0 { stdout } else { stderr })
                    {
                        conn.wire.output(kind, bytes);
                    }
                }
            }
            Whom::Exec(number) => {
                let id = self.execs.get(&number).and_then(|e| e.conn);
                if let Some(conn) = id.and_then(|id| self.conns.get_mut(&id)) {
                    conn.wire.output(kind, bytes);
                }
            }
        }
    }

    /// A process has ended.
    pub(super) fn reap(&mut self, whom: Whom) {
        // Its report may have come in the same moment and says how to read its end.
        self.hear(whom);
        let undecided = self.task(whom).is_some_and(|t| t.report.is_some());
        let Some(task) = self.task(whom) else { return };
        match os::reap(task.pid) {
            Ok(Some(ended)) => task.ended = Some(ended),
            Ok(None) => return,
            // Somebody else has waited for it: libcontainer does not, so this does not happen; 255 says that nobody knows.
            Err(_) => task.ended = Some((255, None)),
        }
        task.deadline = Some(Instant::now() + GRACE);
        task.io.close_input();
        if undecided {
            // Killed on the way, in a moment in which a fork of it had the report open.
            task.report = None;
            if let Whom::Exec(number) = whom {
                self.exec_decided(number);
            }
        }
        if whom == Whom::Main {
            self.main_ended();
        }
    }

    /// What is due by now.
    pub(super) fn pass_time(&mut self) {
        let now = Instant::now();
        let stalled: Vec<u32> = self
            .conns
            .iter()
            .filter(|(_, c)| c.wire.is_full() || c.role == Role::Closing)
            .filter(|(_, c)| c.wire.patience().is_some_and(|p| p <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in stalled {
            self.note("a client took nothing for 30 s while output waited; it is dropped");
            self.close(id);
        }
        let done: Vec<u32> = self
            .execs
            .iter()
            .filter(|(_, e)| e.task.ended.is_some())
            .filter(|(_, e)| e.task.io.drained() || e.task.deadline.is_some_and(|d| d <= now))
            .map(|(number, _)| *number)
            .collect();
        for number in done {
            self.finish_exec(number);
        }
        if self.phase == Phase::Ending {
            self.go_on_ending(now);
        }
    }

    /// Takes what lies in the pipes and closes them.
    pub(super) fn drain(&mut self, whom: Whom) {
        for index in 0..2 {
            // As much as a pipe can hold and then some: a writer that is still there must not keep us.
            for _ in 0..128 {
                if !self.pump_once(whom, index) {
                    break;
                }
            }
        }
        let open: Vec<usize> = (0..2)
            .filter(|i| self.task(whom).is_some_and(|t| t.io.output(*i).is_some()))
            .collect();
        if let Some(task) = self.task(whom) {
            task.io.close_outputs();
        }
        if whom == Whom::Main
            && let Some(log) = &mut self.log
        {
            for index in open {
                log.finish(stream(index));
            }
        }
    }

    fn finish_exec(&mut self, number: u32) {
        self.drain(Whom::Exec(number));
        let Some(exec) = self.execs.remove(&number) else {
            return;
        };
        let Some(id) = exec.conn else { return };
        let (code, signal) = exec.task.ended.unwrap_or((255, None));
        if exec.task.started_at.is_some() {
            let status = ExitStatus {
                version: 1,
                code,
                signal,
                oom_killed: false,
                started_at: exec.task.started_at,
                finished_at: chrono::Utc::now(),
                error: None,
                watchdog: false,
            };
            self.say(id, &Reply::Exited { status });
        }
        self.finish_conn(id);
    }

    /// Closes a connection once its peer has taken everything.
    pub(super) fn finish_conn(&mut self, id: u32) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.role = Role::Closing;
            if conn.wire.pending() == 0 {
                self.conns.remove(&id);
            }
        }
    }
}

fn receive(report: &OwnedFd) -> Result<(Vec<u8>, Option<OwnedFd>), Errno> {
    let mut bytes = vec![0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(
        report.as_fd(),
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    bytes.truncate(message.bytes);
    let mut fd = None;
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = part {
            fd = fds.next();
        }
    }
    Ok((bytes, fd))
}
