//! The holder: forks one shim per container and keeps listening sockets while daemons come and go.
//!
//! It is small so that it can live long: one thread, one loop, no state on disk. What a shim needs is prepared here
//! once, so that every fork has it: the compiled filter, the open control group hierarchies, code that has run before.
//!
//! A lock on `holder.lock` says that a holder runs in this run directory. The lock belongs to the open file, so a shim
//! must close its copy, or no holder could follow one that died.
//!
//! # A worked example
//!
//! A daemon asks `Spawn web`. The holder makes `shims/web/`, binds and listens on `shim.sock` in it, and forks. The
//! child closes everything but its socket and the hierarchies and becomes the shim; the holder answers `Spawned`, and
//! the daemon's connection to `shim.sock` is accepted whenever the shim gets that far. Later the shim's pidfd becomes
//! readable and the holder forgets it. `Retire` closes `holder.sock` at once, so that a newer holder can take the run
//! directory, and this one leaves with its last shim.

mod setup;
mod spawn;

use crate::{
    caps::CapSet,
    cgroup::Machine,
    diag,
    error::{ShimError, note},
    os,
    seccomp::Filter,
    shim::{self, Seed},
    wire::Wire,
};
use coracle_shim_protocol::{
    PROTOCOL_VERSION,
    frame::{self, Kind},
    holder::{Reply, Request, SOCKET},
};
use coracle_sys::signals::Signals;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use setup::{detach, listen, prepare_dir, take_lock};
use spawn::Waiting;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, Instant},
};

/// Name of the lock file inside the run directory.
pub const LOCK: &str = "holder.lock";
/// Connections at once.
const MAX_CONNS: usize = 256;

struct Child {
    id: String,
    held: OwnedFd,
}

struct Holder {
    run_dir: PathBuf,
    lock: Option<File>,
    listener: Option<UnixListener>,
    term: Signals,
    conns: BTreeMap<u32, (Wire, bool)>,
    next: u32,
    sockets: BTreeMap<String, OwnedFd>,
    shims: BTreeMap<u32, Child>,
    waiting: Vec<Waiting>,
    machine: Rc<Machine>,
    /// Docker's default filter for the sets of capabilities that were asked for.
    filters: BTreeMap<CapSet, Filter>,
}

#[derive(Clone, Copy)]
enum Token {
    Term,
    Listener,
    Conn(u32),
    Shim(u32),
}

/// What the process that returns from a round of the loop is.
enum Turn {
    /// Still the holder.
    Holder,
    /// A new shim.
    Shim(Box<Seed>),
}

/// Runs a holder until it has retired and its last shim has left; in a forked shim, until that has left.
///
/// # Errors
/// [`ShimError::Taken`] when a holder runs there already, [`ShimError::File`] when the run directory is unusable.
pub fn run(run_dir: &Path) -> Result<(), ShimError> {
    let run_dir = prepare_dir(run_dir)?;
    let lock = take_lock(&run_dir)?;
    let listener = listen(&run_dir)?;
    detach()?;
    diag::install();
    let term = Signals::take(&[libc::SIGTERM]).map_err(ShimError::system("receive signals"))?;
    let mut holder = Holder {
        run_dir,
        lock: Some(lock),
        listener: Some(listener),
        term,
        conns: BTreeMap::new(),
        next: 0,
        sockets: BTreeMap::new(),
        shims: BTreeMap::new(),
        waiting: Vec::new(),
        machine: Rc::new(Machine::look()?),
        filters: BTreeMap::new(),
    };
    holder.filter(CapSet::DOCKER_DEFAULT);
    os::set_title("coracle-holder");
    while holder.listener.is_some() || !holder.shims.is_empty() || holder.unsent() {
        if let Turn::Shim(seed) = holder.turn()? {
            // What the holder owned was closed by number; its values must not close the numbers again.
            std::mem::forget(holder);
            shim::run(*seed);
            os::exit(0);
        }
    }
    Ok(())
}

impl Holder {
    fn unsent(&self) -> bool {
        self.conns.values().any(|(wire, _)| wire.pending() > 0)
    }

    fn turn(&mut self) -> Result<Turn, ShimError> {
        let mut tokens = vec![Token::Term];
        let mut fds = vec![PollFd::new(&self.term, PollFlags::IN)];
        if let Some(listener) = self
            .listener
            .as_ref()
            .filter(|_| self.conns.len() < MAX_CONNS)
        {
            tokens.push(Token::Listener);
            fds.push(PollFd::new(listener, PollFlags::IN));
        }
        for (id, (wire, closing)) in &self.conns {
            let mut flags = PollFlags::empty();
            if wire.pending() > 0 {
                flags |= PollFlags::OUT;
            }
            // Who does not take answers is not asked for more questions.
            if !closing && wire.pending() < 1 << 20 {
                flags |= PollFlags::IN;
            }
            tokens.push(Token::Conn(*id));
            fds.push(PollFd::from_borrowed_fd(wire.as_fd(), flags));
        }
        for (pid, child) in &self.shims {
            tokens.push(Token::Shim(*pid));
            fds.push(PollFd::new(&child.held, PollFlags::IN));
        }
        let timeout = self.look_again().map(|until| {
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec {
                // Some seconds.
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(ShimError::system("poll")(e)),
        }
        let ready: Vec<(Token, PollFlags)> = tokens
            .into_iter()
            .zip(fds.iter().map(PollFd::revents))
            .filter(|(_, flags)| !flags.is_empty())
            .collect();
        drop(fds);
        for (token, flags) in ready {
            match token {
                Token::Term => {
                    // Whatever reading says, the signal came.
                    self.term.next().ok();
                    self.retire();
                }
                Token::Listener => self.accept(),
                Token::Conn(id) => {
                    if let Turn::Shim(seed) = self.serve(id, flags) {
                        return Ok(Turn::Shim(seed));
                    }
                }
                Token::Shim(pid) => self.reap(pid),
            }
        }
        Ok(self.go_on_waiting())
    }

    fn wire(&mut self, id: u32) -> Option<&mut Wire> {
        self.conns.get_mut(&id).map(|(wire, _)| wire)
    }

    fn accept(&mut self) {
        let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) else {
            return;
        };
        match Wire::new(stream) {
            Ok(wire) => {
                self.next += 1;
                self.conns.insert(self.next, (wire, false));
            }
            Err(error) => note("holder", &format!("cannot serve a connection: {error}")),
        }
    }

    fn reap(&mut self, pid: u32) {
        if let Ok(None) = os::reap(pid) {
            return;
        }
        // One that was killed leaves its directory behind; its next life begins with removing it.
        self.shims.remove(&pid);
    }

    fn serve(&mut self, id: u32, flags: PollFlags) -> Turn {
        let Some((wire, _)) = self.conns.get_mut(&id) else {
            return Turn::Holder;
        };
        if flags.contains(PollFlags::OUT) && wire.flush().is_err() {
            self.conns.remove(&id);
            return Turn::Holder;
        }
        if flags.contains(PollFlags::IN) {
            let more = wire.fill();
            loop {
                let Some((wire, closing)) = self.conns.get_mut(&id) else {
                    return Turn::Holder;
                };
                match wire.frame() {
                    Ok(Some((Kind::Control, payload))) => {
                        if let Turn::Shim(seed) = self.request(id, &payload) {
                            return Turn::Shim(seed);
                        }
                    }
                    Ok(Some(_)) => wire.send(&error("a message was expected")),
                    Ok(None) => break,
                    Err(e) => {
                        wire.send(&error(&e.to_string()));
                        *closing = true;
                        break;
                    }
                }
            }
            if !matches!(more, Ok(true)) {
                self.conns.remove(&id);
                return Turn::Holder;
            }
        } else if flags.intersects(PollFlags::HUP | PollFlags::ERR) {
            self.conns.remove(&id);
            return Turn::Holder;
        }
        if self
            .conns
            .get(&id)
            .is_some_and(|(wire, closing)| *closing && wire.pending() == 0)
        {
            self.conns.remove(&id);
        }
        Turn::Holder
    }

    fn request(&mut self, id: u32, payload: &[u8]) -> Turn {
        let Some((wire, _)) = self.conns.get_mut(&id) else {
            return Turn::Holder;
        };
        let request = match frame::parse::<Request>(payload) {
            Ok(request) => request,
            Err(e) => {
                wire.send(&error(&format!("the request cannot be read: {e}")));
                return Turn::Holder;
            }
        };
        let reply = match request {
            Request::Hello { version: _ } => Reply::Hello {
                version: PROTOCOL_VERSION,
                pid: std::process::id(),
            },
            Request::Spawn { spec } => return self.spawn_for(id, *spec),
            Request::Deposit { name } => match self.wire(id).and_then(Wire::take_fd) {
                Some(fd) => {
                    self.sockets.insert(name, fd);
                    Reply::Ok
                }
                None => error("no descriptor came along with the message"),
            },
            Request::Fetch { name } => {
                let copy = self.sockets.get(&name).and_then(|fd| fd.try_clone().ok());
                let reply = Reply::Socket {
                    found: copy.is_some(),
                };
                if let Some(wire) = self.wire(id) {
                    wire.send_with(&reply, copy);
                }
                return Turn::Holder;
            }
            Request::Discard { name } => {
                self.sockets.remove(&name);
                Reply::Ok
            }
            Request::List => Reply::Listing {
                sockets: self.sockets.keys().cloned().collect(),
                shims: self
                    .shims
                    .iter()
                    .map(|(pid, child)| (child.id.clone(), *pid))
                    .collect(),
            },
            Request::Retire => {
                self.retire();
                Reply::Ok
            }
        };
        if let Some((wire, _)) = self.conns.get_mut(&id) {
            wire.send(&reply);
        }
        Turn::Holder
    }

    /// Makes room for a next holder at once; the shims are served to their ends.
    fn retire(&mut self) {
        self.sockets.clear();
        if self.listener.take().is_some() {
            let _ = fs::remove_file(self.run_dir.join(SOCKET));
        }
        self.lock = None;
    }
}

fn error(message: &str) -> Reply {
    Reply::Error {
        message: message.to_owned(),
    }
}
