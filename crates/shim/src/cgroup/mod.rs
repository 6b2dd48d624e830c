//! A container's control group, reached in a way that costs microseconds.
//!
//! With version 1 hierarchies things are done by hand instead of by libcontainer:
//!
//! * a process *enters* by writing `0` into `tasks`. Moving any other way makes the kernel wait for a grace period,
//!   five to eight milliseconds, whenever nobody was moved for a while;
//! * files are reached from directories that the holder has opened, so no path is walked and no mount table read;
//! * the container's view of the hierarchies is mounted from detached copies ([`View`]).
//!
//! On version 2 a waiting child is moved, which takes that grace period; libcontainer mounts the one hierarchy.
//!
//! # A worked example
//!
//! The holder opens `/sys/fs/cgroup/memory`. The shim of `web` makes `coracle/web` below that descriptor, copies the
//! mount of `/sys/fs/cgroup/memory/coracle/web`, writes `0` into `coracle/web/tasks`, forks init (which is born
//! inside), and writes `0` into its former group's `tasks`. Limits come last, so that setting up is not subject to
//! them.

mod resources;
mod version2;
mod view;

pub use resources::apply;
pub use view::{View, ViewMount};

use crate::error::{ShimError, note};
use coracle_sys::cgroup::{Hierarchy, Layout};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, statat};
use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    rc::Rc,
};

/// What this machine has, looked up once by the holder.
#[derive(Debug)]
pub struct Machine {
    /// Paths as everybody sees them.
    seen: Layout,
    /// Paths through open descriptors.
    reached: Layout,
    /// Version 1 hierarchies: the directory, and `tasks` of where this process was when it looked.
    places: Vec<Place>,
    others: Vec<OwnedFd>,
}

#[derive(Debug)]
struct Place {
    controllers: Vec<String>,
    root: OwnedFd,
    home: Option<OwnedFd>,
}

impl Machine {
    /// Looks.
    ///
    /// # Errors
    /// When no control groups are mounted or one cannot be opened.
    pub fn look() -> Result<Self, ShimError> {
        let seen = Layout::detect()?;
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut places = Vec::new();
        let mut others = Vec::new();
        let mut through = |list: &[Hierarchy]| -> Result<Vec<Hierarchy>, ShimError> {
            let mut reached = Vec::new();
            for h in list {
                let root = open_dir(&h.mount)?;
                reached.push(Hierarchy {
                    controllers: h.controllers.clone(),
                    mount: by_number(&root),
                });
                let tasks = home(&own, &h.controllers).join("tasks");
                let home = openat(
                    &root,
                    &tasks,
                    OFlags::WRONLY | OFlags::CLOEXEC,
                    Mode::empty(),
                )
                .ok();
                places.push(Place {
                    controllers: h.controllers.clone(),
                    root,
                    home,
                });
            }
            Ok(reached)
        };
        let mut other = |path: &Path| -> Result<PathBuf, ShimError> {
            let root = open_dir(path)?;
            let reached = by_number(&root);
            others.push(root);
            Ok(reached)
        };
        let reached = match &seen {
            Layout::V1 { hierarchies } => Layout::V1 {
                hierarchies: through(hierarchies)?,
            },
            Layout::Hybrid {
                hierarchies,
                unified,
            } => Layout::Hybrid {
                hierarchies: through(hierarchies)?,
                unified: other(unified)?,
            },
            Layout::V2 { root } => Layout::V2 { root: other(root)? },
        };
        Ok(Self {
            seen,
            reached,
            places,
            others,
        })
    }

    /// The descriptors that a fork must keep.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> + '_ {
        let places = self
            .places
            .iter()
            .flat_map(|p| [Some(&p.root), p.home.as_ref()]);
        places.flatten().chain(&self.others).map(AsRawFd::as_raw_fd)
    }

    /// Whether controllers are spoken to in version 2's way.
    pub fn is_v2(&self) -> bool {
        self.seen.is_v2()
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd, ShimError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|e| ShimError::file("open", path)(e.into()))
}

fn by_number(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn hierarchies(layout: &Layout) -> &[Hierarchy] {
    match layout {
        Layout::V1 { hierarchies } | Layout::Hybrid { hierarchies, .. } => hierarchies,
        Layout::V2 { .. } => &[],
    }
}

/// Where this process is in a hierarchy, relative to its root, from `/proc/self/cgroup` (`cgroups(7)`).
fn home(own: &str, have: &[String]) -> PathBuf {
    let place = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let same =
            !controllers.is_empty() && controllers.split(',').all(|c| have.iter().any(|h| h == c));
        same.then(|| path.trim_start_matches('/').to_owned())
    });
    PathBuf::from(place.unwrap_or_default())
}

/// One container's group.
#[derive(Debug)]
pub struct Cgroup {
    machine: Rc<Machine>,
    path: String,
}

impl Cgroup {
    /// The group of that path, which need not be there.
    pub fn at(machine: Rc<Machine>, path: &str) -> Self {
        Self {
            machine,
            path: path.to_owned(),
        }
    }

    /// Makes the group, or takes the one that is there.
    ///
    /// # Errors
    /// [`ShimError::Cgroup`] with the directory.
    pub fn create(machine: Rc<Machine>, path: &str) -> Result<Self, ShimError> {
        let group = Self::at(machine, path);
        if !group.try_create() {
            // The way above it is missing, or this is version 2.
            group.machine.reached.create(path)?;
            group.let_children_inherit();
        }
        Ok(group)
    }

    /// The common case: everything above exists, and the group's processors are inherited.
    fn try_create(&self) -> bool {
        let below = Path::new(self.below());
        // What leads out, the slow way refuses by name.
        let plain = below
            .components()
            .all(|c| matches!(c, std::path::Component::Normal(_)));
        let inherits = |place: &Place| {
            let file = below
                .parent()
                .unwrap_or(below)
                .join("cgroup.clone_children");
            let read = || -> io::Result<bool> {
                let fd = openat(
                    &place.root,
                    &file,
                    OFlags::RDONLY | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                let mut byte = [0u8; 1];
                rustix::io::read(&fd, &mut byte)?;
                Ok(byte[0] == b'1')
            };
            read().unwrap_or(false)
        };
        plain
            && !self.machine.is_v2()
            && self.machine.places.iter().all(|place| {
                let cpuset = place.controllers.iter().any(|c| c == "cpuset");
                (!cpuset || inherits(place))
                    && mkdirat(&place.root, below, Mode::from_bits_truncate(0o755)).is_ok()
            })
    }

    /// New groups beside this one get its parent's processors and memory nodes from the kernel.
    fn let_children_inherit(&self) {
        let parent = Path::new(self.below())
            .parent()
            .map(Path::to_owned)
            .unwrap_or_default();
        for place in &self.machine.places {
            if place.controllers.iter().any(|c| c == "cpuset") && !parent.as_os_str().is_empty() {
                let file = parent.join("cgroup.clone_children");
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                if let Ok(fd) = openat(&place.root, &file, flags, Mode::empty()) {
                    // Without it the slow way is taken every time.
                    let _ = rustix::io::write(&fd, b"1");
                }
            }
        }
    }

    /// The machine's groups.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Puts the calling process inside. Children that it forks are born there.
    ///
    /// # Errors
    /// With the file that refused.
    pub fn enter(&self) -> Result<(), ShimError> {
        let write = |root: &OwnedFd, file: &Path| -> Result<(), ShimError> {
            openat(root, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .and_then(|fd| rustix::io::write(&fd, b"0"))
                .map(|_| ())
                .map_err(|e| ShimError::file("enter", file)(e.into()))
        };
        if self.machine.is_v2() {
            let file = Path::new(self.below()).join("cgroup.procs");
            return self
                .machine
                .others
                .iter()
                .try_for_each(|root| write(root, &file));
        }
        let file = Path::new(self.below()).join("tasks");
        self.machine
            .places
            .iter()
            .try_for_each(|p| write(&p.root, &file))
    }

    /// Puts the calling process back to where the holder was.
    pub fn leave(&self) {
        for place in &self.machine.places {
            let done = match &place.home {
                Some(tasks) => rustix::io::write(tasks, b"0").map(|_| ()),
                None => openat(
                    &place.root,
                    "tasks",
                    OFlags::WRONLY | OFlags::CLOEXEC,
                    Mode::empty(),
                )
                .and_then(|fd| rustix::io::write(&fd, b"0").map(|_| ())),
            };
            if let Err(error) = done {
                note(
                    "shim",
                    &format!(
                        "cannot leave a control group of {:?}: {error}",
                        place.controllers
                    ),
                );
            }
        }
    }

    /// Leaving may have failed once; frozen with the others, this process could not kill them.
    fn leave_if_inside(&self) {
        if self.procs().contains(&std::process::id()) {
            self.leave();
        }
    }

    fn below(&self) -> &str {
        self.path.trim_start_matches('/')
    }

    /// A file of a controller, opened for writing; `None` if this machine lacks the controller.
    fn open(&self, controller: &str, key: &str) -> Option<Result<OwnedFd, rustix::io::Errno>> {
        let v1 = || {
            let mut places = self.machine.places.iter();
            let place = places.find(|p| p.controllers.iter().any(|c| c == controller))?;
            Some(&place.root)
        };
        let root = if self.machine.is_v2() {
            self.machine.others.first()?
        } else {
            v1()?
        };
        let file = Path::new(self.below()).join(key);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        Some(openat(root, &file, flags, Mode::empty()))
    }

    /// Whether the group has this file.
    fn has(&self, controller: &str, key: &str) -> bool {
        matches!(self.open(controller, key), Some(Ok(_)))
    }

    /// How often the kernel killed for want of memory here.
    pub fn oom_kills(&self) -> u64 {
        self.machine.reached.oom_kills(&self.path).unwrap_or(0)
    }

    /// Who is inside.
    pub fn procs(&self) -> Vec<u32> {
        self.machine.reached.procs(&self.path).unwrap_or_default()
    }

    /// What tells the group from a later one of its name; nothing if it is not there.
    pub fn inode(&self) -> Option<u64> {
        let mut places = self.machine.places.iter().map(|place| &place.root);
        let root = places.next().or_else(|| self.machine.others.first())?;
        let found = statat(root, self.below(), AtFlags::empty()).ok()?;
        Some(found.st_ino)
    }

    /// Kills everybody inside.
    ///
    /// # Errors
    /// As [`Layout::kill_all`].
    pub fn kill_all(&self) -> Result<(), ShimError> {
        self.leave_if_inside();
        Ok(self.machine.reached.kill_all(&self.path)?)
    }

    /// Lets a frozen group run again, so that who was killed can die.
    pub fn thaw(&self) {
        if self.machine.reached.is_frozen(&self.path).unwrap_or(false) {
            let _ = self.machine.reached.thaw(&self.path);
        }
    }

    /// Removes the group.
    ///
    /// # Errors
    /// As [`Layout::remove`].
    pub fn remove(&self) -> Result<(), ShimError> {
        self.leave_if_inside();
        Ok(self.machine.reached.remove(&self.path)?)
    }

    /// Puts a waiting process inside, the slow way that version 2 leaves.
    ///
    /// # Errors
    /// With the file that refused.
    pub fn take_in(&self, pid: u32) -> Result<(), ShimError> {
        Ok(self.machine.reached.attach(&self.path, pid)?)
    }
}
