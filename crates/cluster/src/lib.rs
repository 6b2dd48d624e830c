//! Machines that know each other.
//!
//! ```text
//!  coracle join ──token──▶ join ──▶ token (redeemed once) ──▶ members (who may come in)
//!                            │                                   │
//!                            ▼                                   ▼
//!  pki: the cluster's CA, a certificate for each machine ──▶ door: one TLS port between machines
//!                                                                │
//!                                     guard: the store as one machine may use it, etcd's v3 API
//! ```
//! [`pki`] keeps keys and certificates and renews them. [`token`] is what an operator carries to a new machine. [`members`]
//! is the list in the store that says who belongs here. [`door`] is the port that all of it goes through, and [`guard`] what
//! the store shows to each machine there. [`join`] is how a machine comes in. [`member`] runs this machine's etcd and moves the
//! store into it. [`clients`] lets people's workstations in, at a port of its own.

pub mod clients;
pub mod door;
mod follow;
pub mod guard;
mod id;
pub mod join;
pub mod member;
pub mod members;
pub mod pki;
mod tls13;
pub mod token;

pub use id::{BadMachineId, MachineId};
