//! Which hierarchies are mounted where.

use super::CgroupError;
use crate::mounts::{mountinfo, unescaped};
use std::{
    io,
    path::{Component, Path, PathBuf},
};

/// One version 1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Controllers and `name=…` options it was mounted with.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
}

/// What this machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// Version 1 hierarchies only.
    V1 {
        /// All of them.
        hierarchies: Vec<Hierarchy>,
    },
    /// Version 1 with a version 2 tree beside it.
    Hybrid {
        /// The version 1 ones, which have the controllers.
        hierarchies: Vec<Hierarchy>,
        /// Where version 2 is mounted.
        unified: PathBuf,
    },
    /// Version 2 only.
    V2 {
        /// Where it is mounted.
        root: PathBuf,
    },
}

const CONTROLLERS: [&str; 14] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "net_cls",
    "net_prio",
    "perf_event",
    "hugetlb",
    "rdma",
    "misc",
];

impl Layout {
    /// Reads `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// [`CgroupError::NoneMounted`], or `Io` if `/proc` is not mounted.
    pub fn detect() -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let text = mountinfo().map_err(|e| io_error("read", path, e))?;
        Self::parse(&text).ok_or(CgroupError::NoneMounted)
    }

    /// Reads the text of `mountinfo` (`proc(5)`); `None` if it has no cgroup mount.
    pub fn parse(mountinfo: &str) -> Option<Self> {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        let mut unified = None;
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let (Some(mount), mut right) = (left.split(' ').nth(4), right.split(' ')) else {
                continue;
            };
            let (kind, options) = (right.next(), right.nth(1).unwrap_or(""));
            let mount = unescaped(mount);
            match kind {
                Some("cgroup2") => unified = unified.or(Some(mount)),
                Some("cgroup") => {
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|o| CONTROLLERS.contains(o) || o.starts_with("name="))
                        .map(str::to_owned)
                        .collect();
                    // The same hierarchy may be mounted in several places; the first serves.
                    if !hierarchies.iter().any(|h| h.controllers == controllers) {
                        hierarchies.push(Hierarchy { controllers, mount });
                    }
                }
                _ => {}
            }
        }
        match (hierarchies.is_empty(), unified) {
            (true, None) => None,
            (true, Some(root)) => Some(Self::V2 { root }),
            (false, None) => Some(Self::V1 { hierarchies }),
            (false, Some(unified)) => Some(Self::Hybrid {
                hierarchies,
                unified,
            }),
        }
    }

    /// The directory of `path` in every hierarchy, version 2 last.
    pub(super) fn dirs(&self, path: &str) -> Result<Vec<PathBuf>, CgroupError> {
        let below = check(path)?;
        let (v1, v2): (&[Hierarchy], _) = match self {
            Self::V1 { hierarchies } => (hierarchies, None),
            Self::Hybrid {
                hierarchies,
                unified,
            } => (hierarchies, Some(unified)),
            Self::V2 { root } => (&[], Some(root)),
        };
        Ok(v1
            .iter()
            .map(|h| &h.mount)
            .chain(v2)
            .map(|m| m.join(below))
            .collect())
    }

    /// The directory where a controller's files are: `None` if this machine lacks the controller.
    pub(super) fn dir(&self, controller: &str, path: &str) -> Result<Option<PathBuf>, CgroupError> {
        let below = check(path)?;
        Ok(match self {
            Self::V2 { root } => Some(root.join(below)),
            Self::V1 { hierarchies } | Self::Hybrid { hierarchies, .. } => hierarchies
                .iter()
                .find(|h| h.controllers.iter().any(|c| c == controller))
                .map(|h| h.mount.join(below)),
        })
    }

    /// Whether controllers are spoken to in version 2's way.
    pub fn is_v2(&self) -> bool {
        matches!(self, Self::V2 { .. })
    }
}

pub(super) fn io_error(action: &'static str, path: &Path, source: io::Error) -> CgroupError {
    CgroupError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Refuses the root and everything with `..`: a mistake here would kill the whole machine.
fn check(path: &str) -> Result<&Path, CgroupError> {
    let bad = || CgroupError::BadPath {
        path: path.to_owned(),
    };
    let below = Path::new(path.strip_prefix('/').ok_or_else(bad)?);
    let mut parts = below.components().peekable();
    if parts.peek().is_none() || parts.any(|c| !matches!(c, Component::Normal(_))) {
        return Err(bad());
    }
    Ok(below)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const V1: &str = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                      40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
    const V2: &str = "41 31 0:38 / /sys/fs/cg\\040x rw,relatime shared:4 - cgroup2 cgroup2 rw\n";

    #[test]
    fn all_layouts_are_told_apart() {
        assert_eq!(Layout::parse("1 2 0:1 / / rw - ext4 x rw\nnonsense"), None);
        assert_eq!(
            Layout::parse(V2),
            Some(Layout::V2 {
                root: "/sys/fs/cg x".into()
            })
        );
        assert!(
            matches!(Layout::parse(V1), Some(Layout::V1 { hierarchies }) if hierarchies.len() == 2)
        );
        let hybrid = Layout::parse(&format!("{V1}{V2}")).unwrap();
        assert!(!hybrid.is_v2());
        assert_eq!(
            hybrid.dir("cpuacct", "/a/b").unwrap(),
            Some("/sys/fs/cgroup/cpu/a/b".into())
        );
        assert_eq!(hybrid.dir("memory", "/a").unwrap(), None);
        assert_eq!(hybrid.dirs("/a").unwrap().len(), 3);
    }

    #[test]
    fn the_root_and_ways_out_are_refused() {
        for path in ["", "/", "//", "a", "/../x", "/a/../..", "/."] {
            assert!(
                matches!(check(path), Err(CgroupError::BadPath { .. })),
                "{path:?}"
            );
        }
        assert!(check("/coracle/web.1").is_ok());
    }
}
