//! One container's shim: parent of its init, owner of its stdio, keeper of its exit status.
//!
//! One thread, one loop around `poll(2)`; nothing in it waits but the making of the container itself, and the disk that the log is on. So
//! what is exclusive has a second process for its end: `guard`.
//!
//! ```text
//!            Prepare                    Start                exec succeeded
//!   Fresh ───────────▶ Created ───────────────▶ Starting ───────────────▶ Running
//!     │  namespaces,      │ Release,               │ exec failed             │ init ended
//!     │  root, runtime    │ SIGKILL                ▼                         ▼
//!     │                   └──────────────────▶ Ending: leftovers killed, output drained
//!     │ that failed                                │ exit.json written, Exited told
//!     └───────────────────────────────────────▶  Ended ──▶ unmount, remove, leave
//!                                                     Release, or nobody listens
//! ```
//!
//! # A worked example
//!
//! `run web`: the daemon's first connection says `Prepare`, the loop unshares, answers, mounts, has libcontainer clone
//! init, and polls again, all in one turn. `Attach` comes on a second connection, then `Start` on the first: init is
//! told over its socket, and the loop goes on. The report socket ends without a word: `Started`. `hello` comes out of
//! the pipe: one line into the log, one frame to the attached client. Init's pidfd becomes readable: both pipes are
//! read to their ends, `exit.json` is written, `Exited` goes out, `Release` comes in, and the loop returns.

mod ending;
mod guard;
mod life;
mod output;
mod requests;
mod watchdog;

use crate::{
    cgroup::{Cgroup, Machine},
    container::{Made, Plan},
    error::{ShimError, note},
    launch::Failure,
    log::Log,
    seccomp::Filter,
    task::Task,
    wire::Wire,
};
use coracle_shim_protocol::shim::{ExitStatus, ShimSpec};
use guard::Guard;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    collections::BTreeMap,
    os::{fd::AsFd, unix::net::UnixListener},
    rc::Rc,
    time::{Duration, Instant},
};
use watchdog::Watchdog;

/// What a shim is born with.
pub struct Seed {
    /// What it shall run.
    pub spec: ShimSpec,
    /// Bound and listening.
    pub listener: UnixListener,
    /// Control groups.
    pub machine: Rc<Machine>,
    /// Docker's default filter for the container's capabilities, when the holder had it.
    pub default_filter: Option<Filter>,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Requests and answers; whether `Exited` is to be told.
    Control { tell: bool },
    /// Joined to the container's stdio.
    Attach {
        stdin: bool,
        stdout: bool,
        stderr: bool,
        sent: bool,
    },
    /// Joined to an exec'd process.
    Exec { number: u32 },
    /// Nothing more is said; closed once the peer has taken everything.
    Closing,
}

struct Conn {
    wire: Wire,
    role: Role,
}

struct Exec {
    id: String,
    conn: Option<u32>,
    task: Task,
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Fresh,
    Created,
    Starting { asker: u32 },
    Running,
    Ending,
    Ended { status: ExitStatus },
}

/// What a descriptor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whom {
    Main,
    Exec(u32),
}

#[derive(Debug, Clone, Copy)]
enum Token {
    Listener,
    Conn(u32),
    Report(Whom),
    Ended(Whom),
    Output(Whom, usize),
    Input(Whom),
    Watchdog,
}

/// Connections at once; more wait in the socket's queue.
const MAX_CONNS: usize = 512;

struct Shim {
    spec: ShimSpec,
    listener: UnixListener,
    machine: Rc<Machine>,
    default_filter: Option<Filter>,
    conns: BTreeMap<u32, Conn>,
    execs: BTreeMap<u32, Exec>,
    next: u32,
    phase: Phase,
    plan: Option<Plan>,
    made: Option<Made>,
    main: Option<Task>,
    cgroup: Option<Cgroup>,
    log: Option<Log>,
    /// Why the namespaces could not be made, until somebody asks for them.
    early: Option<ShimError>,
    failure: Option<Failure>,
    mounted: bool,
    released: bool,
    /// Set while processes of the group are given time after SIGTERM.
    kill_at: Option<Instant>,
    /// Of what is exclusive.
    watchdog: Option<Watchdog>,
    guard: Option<Guard>,
    buffer: Vec<u8>,
}

/// Serves until the container's end was told. Returns when the process may end.
pub fn run(seed: Seed) {
    let mut shim = Shim {
        log: None,
        spec: seed.spec,
        listener: seed.listener,
        machine: seed.machine,
        default_filter: seed.default_filter,
        conns: BTreeMap::new(),
        execs: BTreeMap::new(),
        next: 0,
        phase: Phase::Fresh,
        plan: None,
        made: None,
        main: None,
        cgroup: None,
        early: None,
        failure: None,
        mounted: false,
        released: false,
        kill_at: None,
        watchdog: None,
        guard: None,
        buffer: Vec::new(),
    };
    if let Err(error) = shim.listener.set_nonblocking(true) {
        shim.note(&format!("cannot make its socket non-blocking: {error}"));
    }
    // The guard comes first: it is none of the container's.
    let limited = shim.limit(shim.spec.deadline);
    // Whoever asks for it will ask in a moment.
    shim.early = limited.and_then(|()| shim.namespaces()).err();
    while !shim.may_leave() {
        if let Err(error) = shim.turn() {
            shim.note(&format!("cannot poll: {error}"));
            break;
        }
    }
    shim.leave();
}

impl Shim {
    fn note(&self, text: &str) {
        note(&format!("shim {}", self.spec.id), text);
    }

    fn task(&mut self, whom: Whom) -> Option<&mut Task> {
        match whom {
            Whom::Main => self.main.as_mut(),
            Whom::Exec(number) => self.execs.get_mut(&number).map(|e| &mut e.task),
        }
    }

    fn everybody(&self) -> Vec<Whom> {
        let main = self.main.is_some().then_some(Whom::Main);
        main.into_iter()
            .chain(self.execs.keys().map(|n| Whom::Exec(*n)))
            .collect()
    }

    /// Whether some client of this output has so much to take that more would only grow our memory.
    fn held_up(&self, whom: Whom) -> bool {
        self.conns.values().any(|c| {
            c.wire.is_full()
                && match (c.role, whom) {
                    (Role::Attach { .. }, Whom::Main) => true,
                    (Role::Exec { number }, Whom::Exec(n)) => number == n,
                    _ => false,
                }
        })
    }

    /// One round of the loop.
    fn turn(&mut self) -> std::io::Result<()> {
        let mut tokens = Vec::with_capacity(8);
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(8);
        if self.conns.len() < MAX_CONNS {
            tokens.push(Token::Listener);
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        if let Some(watchdog) = &self.watchdog {
            tokens.push(Token::Watchdog);
            fds.push(PollFd::from_borrowed_fd(watchdog.as_fd(), PollFlags::IN));
        }
        for (id, conn) in &self.conns {
            let mut flags = PollFlags::empty();
            if conn.wire.pending() > 0 {
                flags |= PollFlags::OUT;
            }
            let takes = match conn.role {
                Role::Attach { .. } => self.main.as_ref().is_none_or(|t| t.io.takes_input()),
                Role::Exec { number } => self
                    .execs
                    .get(&number)
                    .is_none_or(|e| e.task.io.takes_input()),
                Role::Control { .. } => true,
                Role::Closing => false,
            };
            if takes && !conn.wire.ended() {
                flags |= PollFlags::IN;
            }
            tokens.push(Token::Conn(*id));
            fds.push(PollFd::from_borrowed_fd(conn.wire.as_fd(), flags));
        }
        for whom in self.everybody() {
            let task = match whom {
                Whom::Main => self.main.as_ref(),
                Whom::Exec(number) => self.execs.get(&number).map(|e| &e.task),
            };
            let Some(task) = task else { continue };
            let mut add = |token, fd, flags| {
                tokens.push(token);
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            };
            if let Some(report) = &task.report {
                add(Token::Report(whom), report.as_fd(), PollFlags::IN);
            }
            if task.ended.is_none() {
                add(Token::Ended(whom), task.held.as_fd(), PollFlags::IN);
            }
            if !self.held_up(whom) {
                for index in 0..2 {
                    if let Some(fd) = task.io.output(index) {
                        add(Token::Output(whom, index), fd, PollFlags::IN);
                    }
                }
            }
            if let Some(fd) = task.io.waiting_input() {
                add(Token::Input(whom), fd, PollFlags::OUT);
            }
        }
        let timeout = self.next_deadline().map(|at| {
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec {
                tv_sec: left.as_secs().min(3600) as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ready: Vec<(Token, PollFlags)> = tokens
            .into_iter()
            .zip(fds.iter().map(PollFd::revents))
            .filter(|(_, flags)| !flags.is_empty())
            .collect();
        drop(fds);
        for (token, flags) in ready {
            match token {
                Token::Watchdog => self.watch_over(),
                Token::Listener => self.accept(),
                Token::Conn(id) => self.serve(id, flags),
                Token::Report(whom) => self.hear(whom),
                Token::Ended(whom) => self.reap(whom),
                Token::Output(whom, index) => self.pump(whom, index),
                Token::Input(whom) => {
                    if let Some(task) = self.task(whom) {
                        task.io.flush_input();
                    }
                }
            }
        }
        self.pass_time();
        Ok(())
    }

    /// When something is due that no descriptor tells.
    fn next_deadline(&self) -> Option<Instant> {
        let over = matches!(self.phase, Phase::Ended { .. });
        let drains = self
            .main
            .iter()
            // What was to be drained was drained.
            .filter(|_| !over)
            .chain(self.execs.values().map(|e| &e.task))
            .filter_map(|t| t.deadline);
        let stalls = self
            .conns
            .values()
            .filter(|c| c.wire.is_full() || c.role == Role::Closing)
            .filter_map(|c| c.wire.patience());
        // Who is left of a group shows in no descriptor.
        let kill = self
            .kill_at
            .map(|at| at.min(Instant::now() + Duration::from_millis(20)));
        drains.chain(stalls).chain(kill).min()
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else {
            return;
        };
        match Wire::new(stream) {
            Ok(wire) => {
                self.next += 1;
                self.conns.insert(
                    self.next,
                    Conn {
                        wire,
                        role: Role::Control { tell: false },
                    },
                );
            }
            Err(error) => self.note(&format!("cannot serve a connection: {error}")),
        }
    }

    fn may_leave(&self) -> bool {
        let told = match &self.phase {
            Phase::Ended { .. } => {
                self.released
                    || !self
                        .conns
                        .values()
                        .any(|c| c.role == Role::Control { tell: true })
            }
            _ => false,
        };
        let flushed = !self.conns.values().any(|c| c.wire.pending() > 0);
        told && self.execs.is_empty() && flushed
    }
}
