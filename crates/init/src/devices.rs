//! Devices: the modules that drive them are loaded as the kernel tells of them.

use crate::console::{Level, say};
use coracle_os::modules::Modules;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_KOBJECT_UEVENT};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

/// The kernel's own events, which no program sends.
const KERNEL: u32 = 1;
const NO_DEVICE: i32 = rustix::io::Errno::NODEV.raw_os_error();

/// Loads modules for devices, those that are there and those that come.
pub struct Devices {
    modules: Modules,
    events: Socket,
    /// Aliases that were looked at.
    seen: BTreeSet<String>,
}

impl Devices {
    /// Listens from now on.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn new(modules: Modules) -> io::Result<Self> {
        let mut events = Socket::new(NETLINK_KOBJECT_UEVENT)?;
        events.bind(&SocketAddr::new(0, KERNEL))?;
        events.set_non_blocking(true)?;
        Ok(Self {
            modules,
            events,
            seen: BTreeSet::new(),
        })
    }

    /// The modules.
    pub fn modules(&self) -> &Modules {
        &self.modules
    }

    /// Loads what the devices that are there need; what they bring to light comes as events.
    pub fn look(&mut self) {
        let mut aliases = Vec::new();
        collect(Path::new("/sys/devices"), &mut aliases);
        for alias in aliases {
            self.load(&alias);
        }
    }

    fn load(&mut self, alias: &str) {
        if alias.is_empty() || !self.seen.insert(alias.to_owned()) {
            return;
        }
        for name in self.modules.find(alias) {
            match self.modules.load(name) {
                Ok(()) => {}
                // A driver that finds out that the device is none for it.
                Err(error) if error.raw_os_error() == Some(NO_DEVICE) => {}
                Err(error) => say(Level::Warning, &format!("module {name}: {error}")),
            }
        }
    }

    /// Handles events until `found` has something or the time is over.
    pub fn until<T>(&mut self, limit: Duration, mut found: impl FnMut() -> Option<T>) -> Option<T> {
        let end = Instant::now() + limit;
        self.look();
        loop {
            self.take();
            if let Some(thing) = found() {
                return Some(thing);
            }
            let left = end.checked_duration_since(Instant::now())?;
            // What fails is tried again, until the time is over.
            self.wait(left).ok();
        }
    }

    /// Waits for an event.
    fn wait(&self, limit: Duration) -> io::Result<()> {
        let limit = Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: limit.subsec_nanos().into(),
        };
        poll(
            &mut [PollFd::new(&self.events, PollFlags::IN)],
            Some(&limit),
        )?;
        Ok(())
    }

    /// Handles the events that wait.
    pub fn take(&mut self) {
        let mut buffer = Vec::with_capacity(16 << 10);
        loop {
            buffer.clear();
            match self.events.recv(&mut buffer, 0) {
                Ok(_) => {
                    let fields = buffer.split(|b| *b == 0);
                    let alias = fields
                        .filter_map(|f| std::str::from_utf8(f).ok())
                        .find_map(|f| f.strip_prefix("MODALIAS="))
                        .map(str::to_owned);
                    if let Some(alias) = alias {
                        self.load(&alias);
                    }
                }
                // There were more than the socket holds.
                Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                    self.look();
                }
                Err(_) => return,
            }
        }
    }
}

/// The aliases of all devices below a directory of sysfs; links are not followed.
fn collect(directory: &Path, aliases: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            collect(&entry.path(), aliases);
        } else if entry.file_name() == "modalias"
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            aliases.push(text.trim_end().to_owned());
        }
    }
}
