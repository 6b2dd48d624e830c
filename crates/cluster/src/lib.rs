//! Machines that know each other.
//!
//! [`member`] runs this machine's etcd and moves the store into it.

mod id;
pub mod member;

pub use id::{BadMachineId, MachineId};
