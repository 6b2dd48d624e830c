//! A container's control group, reached in a way that costs microseconds.
//!
//! With version 1 hierarchies three things are done by hand instead of by libcontainer:
//!
//! * a process *enters* by writing `0` into `tasks`. Moving any other way makes the kernel wait for a grace period,
//!   five to eight milliseconds, whenever nobody was moved for a while;
//! * the hierarchies are *hidden* from libcontainer in the shim's own mount namespace, so that it neither moves its
//!   children once more nor reads the whole mount table twelve times to find out where;
//! * the container's view of them is mounted from detached copies ([`View`]).
//!
//! The shim reaches the hierarchies through directories that the holder has opened, so hiding them does not hinder it.
//! On version 2 libcontainer does its own work, device programs included.
//!
//! # A worked example
//!
//! The holder opens `/sys/fs/cgroup/memory` as descriptor 9. The shim of `web` makes `/proc/self/fd/9/coracle/web`,
//! copies the mount of `/sys/fs/cgroup/memory/coracle/web`, detaches `/sys/fs/cgroup` and puts an empty tmpfs there,
//! writes `0` into `/proc/self/fd/9/coracle/web/tasks`, has libcontainer clone init (which is born inside), and writes
//! `0` into its former group's `tasks`. Limits come last, so that setting up is not subject to them.

mod resources;
mod view;

pub use resources::apply;
pub use view::{View, ViewMount};

use crate::error::{ShimError, note};
use coracle_sys::cgroup::{Hierarchy, Layout};
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    rc::Rc,
};

const ROOT: &str = "/sys/fs/cgroup";

/// What this machine has, looked up once by the holder.
#[derive(Debug)]
pub struct Machine {
    /// Paths as everybody sees them.
    seen: Layout,
    /// Paths through open descriptors.
    reached: Layout,
    /// Where this process was when it looked: `tasks` of each version 1 hierarchy.
    home: Vec<PathBuf>,
    roots: Vec<OwnedFd>,
}

impl Machine {
    /// Looks.
    ///
    /// # Errors
    /// When no control groups are mounted or one cannot be opened.
    pub fn look() -> Result<Self, ShimError> {
        let seen = Layout::detect()?;
        let mut roots = Vec::new();
        let mut open = |path: &Path| -> Result<PathBuf, ShimError> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = openat(CWD, path, flags, Mode::empty())
                .map_err(|e| ShimError::file("open", path)(e.into()))?;
            let reached = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
            roots.push(fd);
            Ok(reached)
        };
        let mut through = |list: &[Hierarchy]| -> Result<Vec<Hierarchy>, ShimError> {
            list.iter()
                .map(|h| {
                    Ok(Hierarchy {
                        controllers: h.controllers.clone(),
                        mount: open(&h.mount)?,
                    })
                })
                .collect()
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
                unified: open(unified)?,
            },
            Layout::V2 { root } => Layout::V2 { root: open(root)? },
        };
        let home = home(hierarchies(&reached));
        Ok(Self {
            seen,
            reached,
            home,
            roots,
        })
    }

    /// The descriptors that a fork must keep.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.roots.iter().map(AsRawFd::as_raw_fd)
    }

    /// Whether controllers are spoken to in version 2's way.
    pub fn is_v2(&self) -> bool {
        self.seen.is_v2()
    }
}

fn hierarchies(layout: &Layout) -> &[Hierarchy] {
    match layout {
        Layout::V1 { hierarchies } | Layout::Hybrid { hierarchies, .. } => hierarchies,
        Layout::V2 { .. } => &[],
    }
}

/// Where this process is, from `/proc/self/cgroup` (`cgroups(7)`).
fn home(list: &[Hierarchy]) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let place = |h: &Hierarchy| {
        text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let same = !controllers.is_empty()
                && controllers
                    .split(',')
                    .all(|c| h.controllers.iter().any(|have| have == c));
            same.then(|| path.trim_start_matches('/').to_owned())
        })
    };
    list.iter()
        .map(|h| h.mount.join(place(h).unwrap_or_default()).join("tasks"))
        .collect()
}

/// One container's group.
#[derive(Debug)]
pub struct Cgroup {
    machine: Rc<Machine>,
    path: String,
}

impl Cgroup {
    /// Makes the group, or takes the one that is there.
    ///
    /// # Errors
    /// [`ShimError::Cgroup`] with the directory.
    pub fn create(machine: Rc<Machine>, path: &str) -> Result<Self, ShimError> {
        machine.reached.create(path)?;
        Ok(Self {
            machine,
            path: path.to_owned(),
        })
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
        if let Layout::V2 { root } = &self.machine.reached {
            return write_self(&root.join(self.below()).join("cgroup.procs"));
        }
        hierarchies(&self.machine.reached)
            .iter()
            .try_for_each(|h| write_self(&h.mount.join(self.below()).join("tasks")))
    }

    /// Puts the calling process back to where the holder was.
    pub fn leave(&self) {
        for tasks in &self.machine.home {
            if let Err(error) = write_self(tasks) {
                note("shim", &crate::error::chain(&error));
            }
        }
    }

    fn below(&self) -> &str {
        self.path.trim_start_matches('/')
    }

    /// The directory of a version 1 controller.
    fn controller(&self, name: &str) -> Option<PathBuf> {
        hierarchies(&self.machine.reached)
            .iter()
            .find(|h| h.controllers.iter().any(|c| c == name))
            .map(|h| h.mount.join(self.below()))
    }

    /// How often the kernel killed for want of memory here.
    pub fn oom_kills(&self) -> u64 {
        self.machine.reached.oom_kills(&self.path).unwrap_or(0)
    }

    /// Who is inside.
    pub fn procs(&self) -> Vec<u32> {
        self.machine.reached.procs(&self.path).unwrap_or_default()
    }

    /// Kills everybody inside.
    ///
    /// # Errors
    /// As [`Layout::kill_all`].
    pub fn kill_all(&self) -> Result<(), ShimError> {
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
        Ok(self.machine.reached.remove(&self.path)?)
    }

    /// Takes the hierarchies out of the calling process's mount namespace, which must be its own and not share mounts
    /// with another. `false` when they are mounted in a way that this does not know.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn hide(&self) -> Result<bool, ShimError> {
        let all_below = |layout: &Layout| match layout {
            Layout::V1 { hierarchies } => hierarchies.iter().all(|h| h.mount.starts_with(ROOT)),
            Layout::Hybrid {
                hierarchies,
                unified,
            } => hierarchies.iter().all(|h| h.mount.starts_with(ROOT)) && unified.starts_with(ROOT),
            Layout::V2 { .. } => false,
        };
        if !all_below(&self.machine.seen) {
            return Ok(false);
        }
        match unmount(ROOT, UnmountFlags::DETACH) {
            Ok(()) => {}
            // No mount of its own, so the hierarchies stay visible.
            Err(rustix::io::Errno::INVAL) => return Ok(false),
            Err(e) => return Err(ShimError::file("hide", ROOT)(e.into())),
        }
        mount("tmpfs", ROOT, "tmpfs", MountFlags::RDONLY, None)
            .map_err(|e| ShimError::file("mount a tmpfs on", ROOT)(e.into()))?;
        Ok(true)
    }
}

/// Whether hiding the hierarchies would show in a mount with this source.
pub fn shows_hierarchies(source: &Path) -> bool {
    let root = Path::new(ROOT);
    let real = source.canonicalize();
    let source = real.as_deref().unwrap_or(source);
    root.starts_with(source) || source.starts_with(root)
}

fn write_self(path: &Path) -> Result<(), ShimError> {
    let write = || -> io::Result<()> {
        let fd = openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&fd, b"0")?;
        Ok(())
    };
    write().map_err(ShimError::file("enter", path))
}
