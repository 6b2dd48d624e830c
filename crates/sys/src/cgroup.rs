//! Control groups: which hierarchies this machine has, limits, figures, kill and remove.
//!
//! A cgroup is named by a path such as `/coracle/<id>`, the same below every hierarchy. Three layouts exist
//! (`cgroups(7)`): only version 1 hierarchies, version 1 beside a version 2 tree (*hybrid*, where the controllers
//! are in version 1), and version 2 alone. [`Layout::detect`] reads which from `/proc/self/mountinfo`.
//!
//! # A worked example
//!
//! ```no_run
//! use coracle_sys::cgroup::{Layout, Limits};
//! # fn main() -> Result<(), coracle_sys::cgroup::CgroupError> {
//! let layout = Layout::detect()?;
//! layout.create("/coracle/web")?;
//! layout.set_limits("/coracle/web", &Limits { pids: Some(64), ..Limits::default() })?;
//! layout.attach("/coracle/web", 4711)?;
//! layout.kill_all("/coracle/web")?; // returns when nobody is left in it
//! layout.remove("/coracle/web")?;
//! # Ok(())
//! # }
//! ```

mod control;
mod layout;
mod limits;
mod stats;

pub use layout::{Hierarchy, Layout};
pub use stats::Stats;

use std::{io, path::PathBuf};

/// Why a cgroup could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Neither version is mounted.
    #[error("no cgroup filesystem is mounted; mount one below /sys/fs/cgroup")]
    NoneMounted,
    /// The path could name the root or something outside the hierarchy.
    #[error(
        "{path:?} is no cgroup of ours; give an absolute path below the root, such as /coracle/web"
    )]
    BadPath {
        /// As given.
        path: String,
    },
    /// A file or directory of the hierarchy refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// `read`, `write`, `create`, `remove`.
        action: &'static str,
        /// What was touched.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Processes stayed although they were killed (uninterruptible sleep), or kept arriving.
    #[error(
        "cgroup {path} still has processes {pids:?} after {seconds} s; look at their state in /proc"
    )]
    Busy {
        /// The cgroup.
        path: String,
        /// Who is left.
        pids: Vec<u32>,
        /// How long was waited.
        seconds: u64,
    },
}

/// Limits that are written into a cgroup; what is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together; negative is unlimited. With version 2 only together with `memory`.
    pub memory_swap: Option<i64>,
    /// Bytes that are left to it when memory is short.
    pub memory_reservation: Option<u64>,
    /// Microseconds of processor time in each period; negative is unlimited.
    pub cpu_quota_usec: Option<i64>,
    /// The period in microseconds, [`Limits::CPU_PERIOD_USEC`] if absent.
    pub cpu_period_usec: Option<u64>,
    /// Relative weight as in version 1: 2 to 262144, 1024 being the default.
    pub cpu_shares: Option<u64>,
    /// Processors, as `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, likewise.
    pub cpuset_mems: Option<String>,
    /// How many tasks; zero or less is unlimited.
    pub pids: Option<i64>,
    /// Weight of block I/O, 10 to 1000.
    pub blkio_weight: Option<u16>,
}

impl Limits {
    /// Period of the processor quota where none is said, in microseconds.
    pub const CPU_PERIOD_USEC: u64 = 100_000;
}
