//! Holder and shims: one small process per container.
//!
//! [`holder`] is the process that forks, [`shim`] what it forks. Their messages are described in
//! `coracle-shim-protocol`. A shim is the parent of its container's init: when it dies, init and every process that it
//! started die with it, because nobody would log what they say or learn how they end.

pub mod caps;
pub mod cgroup;
pub mod container;
pub mod diag;
pub mod error;
pub mod holder;
pub mod launch;
pub mod log;
pub mod os;
pub mod seccomp;
pub mod shim;
pub mod spawn;
pub mod task;
pub mod wire;
