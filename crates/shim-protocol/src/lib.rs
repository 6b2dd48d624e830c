//! Messages between the daemon, the holder and the shims.
//!
//! Three kinds of process take part:
//!
//! * the **daemon** (`coracle daemon`) comes and goes;
//! * the **holder** (`coracle-holder`) forks one shim per container and keeps listening sockets;
//! * a **shim** is the parent of one container's init: it owns stdio, writes the log, and keeps the exit status.
//!
//! # Wire format
//!
//! Every connection (Unix stream socket) carries [frames](frame): an eight-byte header as Docker's multiplexed
//! streams have it (`[kind, 0, 0, 0, length as big-endian u32]`) and the payload. Kinds 0 to 2 are stdin,
//! stdout and stderr, so that the bytes of an attached stream need no translation on their way to a Docker
//! client; kind 3 holds one JSON message of [`shim`] or [`holder`].
//!
//! # One container's life
//!
//! ```text
//! daemon → holder   Spawn { ShimSpec }            holder binds RUN/shims/<id>/shim.sock, forks
//! holder → daemon   Spawned { pid }
//! daemon → shim     Prepare                       (connection 1)
//! shim   → daemon   Prepared                      own mount and network namespace exist;
//!                                                 the shim goes on to mount the root and create the container
//! daemon            puts the veth into /proc/<pid>/ns/net
//! daemon → shim     Attach { … }                  (connection 2; answered by Attached, then frames)
//! daemon → shim     Start                         (connection 1)
//! shim   → daemon   Started { pid } | Failed { reason, message }
//!                   …
//! shim   → daemon   Exited { ExitStatus }         on connection 1 and every Watch connection; exit.json is on disk
//! daemon → shim     Release                       the status is recorded; the shim leaves
//! ```
//!
//! What is exclusive has a [deadline](shim::Deadline) from before its start, or from when it became so, which `Limit` moves on;
//! without a daemon that does so the shim ends it.
//!
//! A daemon that comes back connects to `shim.sock`, sends `Watch` and gets the present [`shim::State`] first.
//! A shim whose container ended while no daemon was there leaves as soon as `exit.json` is written.

pub mod address;
pub mod fds;
pub mod frame;
pub mod holder;
pub mod shim;

/// Version of every message in this crate. A holder answers [`holder::Reply::Hello`] with its own; a daemon
/// speaks the older of the two. What needs no more than version 1 is said in it.
pub const PROTOCOL_VERSION: u32 = 2;

/// The first version that knows deadlines ([`shim::Deadline`]).
pub const DEADLINES: u32 = 2;

/// Milliseconds since the machine's boot, those included in which it slept (`CLOCK_BOOTTIME`). The clock of all deadlines:
/// nobody sets it, and all processes of a machine read the same.
pub fn boottime_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // Neither is ever negative.
    now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
}
