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

use crate::{
    caps::{CapSet, CapSets},
    cgroup::Machine,
    diag,
    error::{ShimError, chain, note},
    os::{self, Forked},
    seccomp::{self, Filter},
    shim::{self, Seed},
    wire::Wire,
};
use coracle_shim_protocol::address::Address;
use coracle_shim_protocol::{
    PROTOCOL_VERSION,
    frame::{self, Kind},
    holder::{Reply, Request, SOCKET},
    shim::{SOCKET as SHIM_SOCKET, Seccomp, ShimSpec, Workload},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{FlockOperation, flock},
};
use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{fs::DirBuilderExt, net::UnixListener},
    },
    path::{Path, PathBuf},
    rc::Rc,
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
    term: OwnedFd,
    conns: BTreeMap<u32, (Wire, bool)>,
    next: u32,
    sockets: BTreeMap<String, OwnedFd>,
    shims: BTreeMap<u32, Child>,
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
    let term = os::term_signals().map_err(ShimError::system("receive signals"))?;
    let mut holder = Holder {
        run_dir,
        lock: Some(lock),
        listener: Some(listener),
        term,
        conns: BTreeMap::new(),
        next: 0,
        sockets: BTreeMap::new(),
        shims: BTreeMap::new(),
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

fn prepare_dir(run_dir: &Path) -> Result<PathBuf, ShimError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o711);
    builder
        .create(run_dir)
        .map_err(ShimError::file("make", run_dir))?;
    let run_dir = run_dir
        .canonicalize()
        .map_err(ShimError::file("find", run_dir))?;
    let shims = run_dir.join("shims");
    builder
        .create(&shims)
        .map_err(ShimError::file("make", shims))?;
    Ok(run_dir)
}

fn take_lock(run_dir: &Path) -> Result<File, ShimError> {
    let path = run_dir.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(ShimError::file("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::AGAIN) => Err(ShimError::Taken {
            run_dir: run_dir.to_owned(),
        }),
        Err(e) => Err(ShimError::file("lock", path)(e.into())),
    }
}

/// Binds and listens, readable and writable for root only from the first moment.
fn listen_on(path: &Path) -> io::Result<UnixListener> {
    let before = rustix::process::umask(rustix::fs::Mode::from_bits_truncate(0o177));
    let bound = Address::of(path).and_then(|address| UnixListener::bind(address.path()));
    rustix::process::umask(before);
    let listener = bound?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn listen(run_dir: &Path) -> Result<UnixListener, ShimError> {
    let path = run_dir.join(SOCKET);
    match fs::remove_file(&path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(ShimError::file("remove", path)(e)),
    }
    listen_on(&path).map_err(ShimError::file("listen on", path))
}

/// Away from the terminal, the directory and the environment of who started it.
fn detach() -> Result<(), ShimError> {
    // Fails for the leader of a process group, which has no terminal to lose if it leads its session as well.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/").map_err(ShimError::system("enter the root directory"))?;
    rustix::process::umask(rustix::fs::Mode::from_bits_truncate(0o022));
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGPIPE] {
        os::ignore_signal(signal);
    }
    for name in [
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
    ] {
        // SAFETY: this process has one thread.
        unsafe { std::env::remove_var(name) };
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
        match poll(&mut fds, None) {
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
                    let mut taken = [0u8; 128];
                    let _ = rustix::io::read(&self.term, &mut taken);
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
        Ok(Turn::Holder)
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
            Request::Spawn { spec } => match self.spawn(*spec) {
                Ok((None, pid)) => Reply::Spawned { pid },
                Ok((Some(seed), _)) => return Turn::Shim(seed),
                Err(e) => error(&chain(&e)),
            },
            Request::Deposit { name } => match wire.take_fd() {
                Some(fd) => {
                    self.sockets.insert(name, fd);
                    Reply::Ok
                }
                None => error("no descriptor came along with the message"),
            },
            Request::Fetch { name } => {
                let copy = self.sockets.get(&name).and_then(|fd| fd.try_clone().ok());
                wire.send_with(
                    &Reply::Socket {
                        found: copy.is_some(),
                    },
                    copy,
                );
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

    /// Docker's default filter for these capabilities, compiled once.
    fn filter(&mut self, caps: CapSet) -> Option<Filter> {
        if let Some(filter) = self.filters.get(&caps) {
            return Some(filter.clone());
        }
        match seccomp::default_filter(caps) {
            Ok(filter) => {
                // Nobody asks for so many sets; who does is served more slowly.
                if self.filters.len() < 64 {
                    self.filters.insert(caps, filter.clone());
                }
                Some(filter)
            }
            Err(error) => {
                // The shim tries again and refuses its container if it cannot either.
                note("holder", &chain(&error));
                None
            }
        }
    }

    /// Forks a shim. The seed comes back in the child.
    fn spawn(&mut self, spec: ShimSpec) -> Result<(Option<Box<Seed>>, u32), ShimError> {
        let run_dir = self.check(&spec)?;
        if self.shims.values().any(|c| c.id == spec.id) {
            return Err(ShimError::Invalid(format!(
                "a shim for {} runs already",
                spec.id
            )));
        }
        match fs::remove_dir_all(&run_dir) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(ShimError::file("remove", run_dir)(e)),
        }
        let filter = wanted_caps(&spec).and_then(|caps| self.filter(caps));
        // Its parent may be gone when somebody has emptied the run directory.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&run_dir)
            .map_err(ShimError::file("make", &run_dir))?;
        let path = run_dir.join(SHIM_SOCKET);
        let listener = listen_on(&path).map_err(ShimError::file("listen on", &path))?;
        match os::fork().map_err(ShimError::system("fork a shim"))? {
            Forked::Parent(pid) => {
                let held =
                    coracle_sys::process::hold(pid).map_err(ShimError::system("hold the shim"))?;
                self.shims.insert(pid, Child { id: spec.id, held });
                Ok((None, pid))
            }
            Forked::Child => Ok((Some(self.become_shim(spec, listener, filter)), 0)),
        }
    }

    fn become_shim(
        &self,
        spec: ShimSpec,
        listener: UnixListener,
        default_filter: Option<Filter>,
    ) -> Box<Seed> {
        let keep: Vec<_> = self
            .machine
            .descriptors()
            .chain([listener.as_raw_fd()])
            .collect();
        os::close_all_but(&keep);
        let _ = rustix::process::setsid();
        os::default_signal_mask();
        // Whoever stops the machine's processes stops containers through their daemon.
        os::ignore_signal(libc::SIGTERM);
        let short: String = spec.id.chars().take(12).collect();
        os::set_title(&format!("coracle-shim {short}"));
        Box::new(Seed {
            spec,
            listener,
            machine: self.machine.clone(),
            default_filter,
        })
    }

    /// Refuses what would lead out of the run directory.
    fn check(&self, spec: &ShimSpec) -> Result<PathBuf, ShimError> {
        if spec.version != PROTOCOL_VERSION {
            return Err(ShimError::Invalid(format!(
                "the specification has version {}, this holder knows {PROTOCOL_VERSION}",
                spec.version
            )));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-+".contains(&b);
        if spec.id.is_empty() || spec.id.starts_with('.') || !spec.id.bytes().all(plain) {
            return Err(ShimError::Invalid(format!(
                "{:?} is no id: letters, digits, '_', '-', '+' and '.' make one",
                spec.id
            )));
        }
        let ours = self.run_dir.join("shims").join(&spec.id);
        let same = spec.run_dir == ours
            || spec
                .run_dir
                .parent()
                .and_then(|p| p.canonicalize().ok())
                .map(|p| p.join(&spec.id))
                .as_ref()
                == Some(&ours);
        if !same {
            return Err(ShimError::Invalid(format!(
                "the shim's run directory must be {}, not {}",
                ours.display(),
                spec.run_dir.display()
            )));
        }
        Ok(ours)
    }
}

/// The capabilities for which a container needs Docker's default filter.
fn wanted_caps(spec: &ShimSpec) -> Option<CapSet> {
    let Workload::Container {
        spec,
        seccomp: Seccomp::Default,
        ..
    } = &spec.workload
    else {
        return None;
    };
    let caps = spec.process().as_ref()?.capabilities().as_ref();
    Some(caps.map_or(CapSet::default(), |c| CapSets::from(c).bounding))
}

fn error(message: &str) -> Reply {
    Reply::Error {
        message: message.to_owned(),
    }
}
