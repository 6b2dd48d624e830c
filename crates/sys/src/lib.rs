//! The ground floor: the only `unsafe` code outside the shim, and thin drivers for kernel interfaces.

pub mod accept;
pub mod cgroup;
pub mod device_mapper;
mod error;
pub mod memory;
pub mod mounts;
pub mod netlink;
pub mod netns;
pub mod overlay;
pub mod partition;
pub mod process;
pub mod signals;
pub mod socket;
pub mod view;
pub mod watchdog;

pub use error::full;
