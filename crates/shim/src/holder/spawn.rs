//! Forking shims.

use super::{Child, Holder, Turn, error, setup::listen_on};
use crate::{
    caps::{CapSet, CapSets},
    error::{ShimError, chain, note},
    os::{self, Forked},
    seccomp::{self, Filter},
    shim::Seed,
};
use coracle_shim_protocol::{
    PROTOCOL_VERSION,
    address::Address,
    holder::Reply,
    shim::{SOCKET as SHIM_SOCKET, Seccomp, ShimSpec, Workload},
};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::AsRawFd,
        unix::{fs::DirBuilderExt, net::UnixListener},
    },
    path::PathBuf,
    time::{Duration, Instant},
};

/// How long a shim of the same id is given to leave: unmounting writes its filesystem's data to the disk.
const LEAVE: Duration = Duration::from_secs(20);

/// A shim that is wanted while its predecessor unmounts and leaves.
pub(super) struct Waiting {
    conn: u32,
    spec: ShimSpec,
    pub(super) until: Instant,
}

impl Holder {
    /// Forks a shim, or waits with that until its predecessor has left: it was told to a moment ago, and is doing so if
    /// this is no mistake.
    pub(super) fn spawn_for(&mut self, conn: u32, spec: ShimSpec) -> Turn {
        self.waiting.push(Waiting {
            conn,
            spec,
            until: Instant::now() + LEAVE,
        });
        self.go_on_waiting()
    }

    fn lives(&self, id: &str) -> bool {
        self.ours(id) || self.answers(id)
    }

    fn ours(&self, id: &str) -> bool {
        self.shims.values().any(|c| c.id == id)
    }

    /// Whether somebody listens where the shim would: one of a former holder, whose end is not told to this one.
    fn answers(&self, id: &str) -> bool {
        let path = self.run_dir.join("shims").join(id).join(SHIM_SOCKET);
        if !path.exists() {
            return false;
        }
        let connect = || -> Result<(), rustix::io::Errno> {
            // Not blocking: a queue that is full has an owner too.
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            let address = Address::of(&path).map_err(|_| rustix::io::Errno::NOENT)?;
            connect(&socket, &SocketAddrUnix::new(address.path())?)
        };
        matches!(connect(), Ok(()) | Err(rustix::io::Errno::AGAIN))
    }

    /// When to look again at who waits: whether a former holder's shim has left shows in no descriptor.
    pub(super) fn look_again(&self) -> Option<Instant> {
        let soon = Instant::now() + Duration::from_millis(10);
        let due = |w: &Waiting| {
            if self.ours(&w.spec.id) {
                w.until
            } else {
                w.until.min(soon)
            }
        };
        self.waiting.iter().map(due).min()
    }

    /// Spawns what has waited long enough for its predecessor, or refuses what has waited too long.
    pub(super) fn go_on_waiting(&mut self) -> Turn {
        let now = Instant::now();
        let mut at = 0;
        while let Some(waiting) = self.waiting.get(at) {
            if self.lives(&waiting.spec.id) && waiting.until > now {
                at += 1;
                continue;
            }
            let Waiting { conn, spec, .. } = self.waiting.remove(at);
            if !self.conns.contains_key(&conn) {
                // Who asked has left; nobody would look after it.
                continue;
            }
            let reply = match self.spawn(spec) {
                Ok((None, pid)) => Reply::Spawned { pid },
                Ok((Some(seed), _)) => return Turn::Shim(seed),
                Err(e) => error(&chain(&e)),
            };
            if let Some((wire, _)) = self.conns.get_mut(&conn) {
                wire.send(&reply);
            }
        }
        Turn::Holder
    }

    /// Docker's default filter for these capabilities, compiled once.
    pub(super) fn filter(&mut self, caps: CapSet) -> Option<Filter> {
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
        if self.lives(&spec.id) {
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
        if !(1..=PROTOCOL_VERSION).contains(&spec.version) {
            return Err(ShimError::Invalid(format!(
                "the specification has version {}, this holder knows up to {PROTOCOL_VERSION}",
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
