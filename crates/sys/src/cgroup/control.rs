//! Making, filling, freezing, killing and removing cgroups.

use super::{CgroupError, Layout, layout::io_error};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How long killing and removing may take.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(2);

pub(super) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(path, value).map_err(|e| io_error("write", path, e))
}

impl Layout {
    /// Makes the cgroup in every hierarchy; it may exist.
    ///
    /// # Errors
    /// `BadPath`, or `Io` with the directory.
    pub fn create(&self, path: &str) -> Result<(), CgroupError> {
        for dir in self.dirs(path)? {
            fs::create_dir_all(&dir).map_err(|e| io_error("create", &dir, e))?;
        }
        if let (Self::V2 { root }, Some(leaf)) = (self, self.dir("", path)?) {
            // Version 2 hands a controller down only where every level above says so. One that the kernel
            // lacks is refused alone, so each is written alone; limits that need it then fail by name.
            let mut at = leaf.parent();
            let mut above = Vec::new();
            while let Some(dir) = at.filter(|d| d.starts_with(root)) {
                above.push(dir.join("cgroup.subtree_control"));
                at = dir.parent();
            }
            for file in above.iter().rev() {
                for controller in ["cpu", "cpuset", "io", "memory", "pids"] {
                    let _ = fs::write(file, format!("+{controller}"));
                }
            }
        }
        if let (false, Some(dir)) = (self.is_v2(), self.dir("cpuset", path)?) {
            self.inherit_cpuset(&dir, path)?;
        }
        Ok(())
    }

    /// A new version 1 cpuset is empty and takes nobody in until it has processors and memory nodes.
    fn inherit_cpuset(&self, dir: &Path, path: &str) -> Result<(), CgroupError> {
        let depth = Path::new(path).components().count() - 1;
        let mut levels: Vec<&Path> = dir.ancestors().take(depth + 1).collect();
        levels.reverse();
        for pair in levels.windows(2) {
            for name in ["cpuset.cpus", "cpuset.mems"] {
                let own = pair[1].join(name);
                let have = fs::read_to_string(&own).map_err(|e| io_error("read", &own, e))?;
                if have.trim().is_empty() {
                    let parent = pair[0].join(name);
                    let value =
                        fs::read_to_string(&parent).map_err(|e| io_error("read", &parent, e))?;
                    write(&own, value.trim())?;
                }
            }
        }
        Ok(())
    }

    /// Moves a process into the cgroup, in every hierarchy.
    ///
    /// # Errors
    /// `Io` with the file that refused; the process may then be in some hierarchies already.
    pub fn attach(&self, path: &str, pid: u32) -> Result<(), CgroupError> {
        self.dirs(path)?
            .iter()
            .try_for_each(|d| write(&d.join("cgroup.procs"), &pid.to_string()))
    }

    /// Process ids in the cgroup and below it, in any hierarchy; empty if there is no such cgroup.
    ///
    /// # Errors
    /// `BadPath` or `Io`.
    pub fn procs(&self, path: &str) -> Result<Vec<u32>, CgroupError> {
        let mut found = BTreeSet::new();
        for dir in self.dirs(path)? {
            for dir in tree(&dir)? {
                let file = dir.join("cgroup.procs");
                match fs::read_to_string(&file) {
                    // 0 stands for a process of another pid namespace, out of our reach.
                    Ok(text) => found.extend(
                        text.lines()
                            .filter_map(|l| l.parse::<u32>().ok())
                            .filter(|p| *p != 0),
                    ),
                    Err(e) if gone(&e) => {}
                    Err(e) => return Err(io_error("read", &file, e)),
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Stops every process in the cgroup from running until [`Layout::thaw`].
    ///
    /// # Errors
    /// `Io` with the file.
    pub fn freeze(&self, path: &str) -> Result<(), CgroupError> {
        self.set_frozen(path, true)
    }

    /// Lets a frozen cgroup run again.
    ///
    /// # Errors
    /// `Io` with the file.
    pub fn thaw(&self, path: &str) -> Result<(), CgroupError> {
        self.set_frozen(path, false)
    }

    fn set_frozen(&self, path: &str, frozen: bool) -> Result<(), CgroupError> {
        let Some(dir) = self.dir("freezer", path)? else {
            return Err(io_error(
                "write",
                Path::new("freezer.state"),
                io::ErrorKind::NotFound.into(),
            ));
        };
        if self.is_v2() {
            write(&dir.join("cgroup.freeze"), if frozen { "1" } else { "0" })
        } else {
            write(
                &dir.join("freezer.state"),
                if frozen { "FROZEN" } else { "THAWED" },
            )
        }
    }

    /// Whether the cgroup is frozen or about to be.
    ///
    /// # Errors
    /// `BadPath`; a missing cgroup is not frozen.
    pub fn is_frozen(&self, path: &str) -> Result<bool, CgroupError> {
        let Some(dir) = self.dir("freezer", path)? else {
            return Ok(false);
        };
        let file = if self.is_v2() {
            "cgroup.freeze"
        } else {
            "freezer.state"
        };
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        Ok(matches!(text.trim(), "1" | "FROZEN" | "FREEZING"))
    }

    /// Kills every process in the cgroup, whatever it does meanwhile, and returns when none is left.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] after ten seconds.
    pub fn kill_all(&self, path: &str) -> Result<(), CgroupError> {
        let deadline = Instant::now() + PATIENCE;
        let own = std::process::id();
        loop {
            let killed_by_kernel = match self {
                Self::V2 { .. } => self
                    .dir("", path)?
                    .is_some_and(|d| fs::write(d.join("cgroup.kill"), "1").is_ok()),
                _ => false,
            };
            if !killed_by_kernel {
                // Frozen processes neither fork nor end, so that the list stays true while it is worked on.
                let _ = self.freeze(path);
                let listed = self.procs(path);
                for pid in listed.iter().flatten().filter(|p| **p != own) {
                    if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                        let _ = kill_process(pid, Signal::KILL);
                    }
                }
                let _ = self.thaw(path);
                listed?;
            }
            let mut pids = self.procs(path)?;
            pids.retain(|p| *p != own);
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(CgroupError::Busy {
                    path: path.to_owned(),
                    pids,
                    seconds: PATIENCE.as_secs(),
                });
            }
            thread::sleep(PAUSE);
        }
    }

    /// Removes the cgroup and those below it; it may be gone. The kernel frees a dead process's place a moment
    /// after it was reaped, so `EBUSY` is tried again while nobody is inside.
    ///
    /// # Errors
    /// `Busy` at once if processes are inside, or `Io`.
    pub fn remove(&self, path: &str) -> Result<(), CgroupError> {
        let deadline = Instant::now() + PATIENCE;
        for dir in self.dirs(path)? {
            // Deepest first.
            for dir in tree(&dir)?.iter().rev() {
                loop {
                    match fs::remove_dir(dir) {
                        Ok(()) => break,
                        Err(e) if gone(&e) => break,
                        Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                            let pids = self.procs(path)?;
                            if !pids.is_empty() || Instant::now() > deadline {
                                return Err(CgroupError::Busy {
                                    path: path.to_owned(),
                                    pids,
                                    seconds: 0,
                                });
                            }
                            thread::sleep(PAUSE);
                        }
                        Err(e) => return Err(io_error("remove", dir, e)),
                    }
                }
            }
        }
        Ok(())
    }

    /// Removes the cgroup where nothing is below it; otherwise it stays.
    ///
    /// # Errors
    /// `BadPath`.
    pub fn remove_if_empty(&self, path: &str) -> Result<(), CgroupError> {
        for dir in self.dirs(path)? {
            // The kernel refuses while there is anything below.
            let _ = fs::remove_dir(dir);
        }
        Ok(())
    }

    /// Kills and removes everything below `path` and itself, such as `/coracle` for `make down`.
    ///
    /// # Errors
    /// As [`Layout::kill_all`] and [`Layout::remove`].
    pub fn remove_root(&self, path: &str) -> Result<(), CgroupError> {
        self.kill_all(path)?;
        self.remove(path)
    }
}

fn gone(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENODEV)
}

/// The directory and all below it, parents first; empty if it does not exist.
fn tree(dir: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        match fs::read_dir(&dir) {
            Ok(entries) => {
                let below = entries
                    .flatten()
                    .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
                todo.extend(below.map(|e| e.path()));
                found.push(dir);
            }
            Err(e) if gone(&e) => {}
            Err(e) => return Err(io_error("read", &dir, e)),
        }
    }
    Ok(found)
}
