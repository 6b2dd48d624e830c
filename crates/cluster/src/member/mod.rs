//! This machine's etcd: finding it, running it, moving the store into it, and who else has one.
//!
//! ```text
//!            find: /usr/bin/etcd ──┐
//! one machine ── moving ──▶ member.json ──▶ run: a process of the engine's, outlives daemons
//! told so ── record ──▶ member.json ───────────┘        │
//!  leads ── keeping: what is to be done ── voters: one step at a time ── api: add, promote, remove
//!            snapshots: a copy now and then, read back ───┘
//! majority lost ── recover ──▶ a new etcd of this machine alone; epoch: the others learn of it
//! ```
//! All of it is in files of the machine, `STATE_DIR/cluster/`, since the store cannot be asked before it runs:
//! `mode.json` (what holds the store, see [`moving`]), `etcd/member.json` ([`config`]), `etcd/data/`, `snapshots/`; what was of a
//! cluster that this machine has left is in `former-N/` ([`aside`]).
//!
//! etcd listens to its clients on loopback, and to its peers with certificates of both sides.

pub mod api;
pub mod aside;
pub mod config;
pub mod epoch;
mod error;
mod files;
pub mod find;
pub mod keeping;
pub mod moving;
pub mod record;
pub mod recover;
pub mod run;
pub mod snapshots;
pub mod unpacked;
pub mod voters;

pub use error::MemberError;
