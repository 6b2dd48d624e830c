//! What the daemon asks of the holder, over `RUN_DIR/holder.sock`.
//!
//! A file descriptor travels with [`Request::Deposit`] and [`Reply::Socket`] as `SCM_RIGHTS` ancillary
//! data on the first byte of the frame.

use crate::shim::ShimSpec;
use serde::{Deserialize, Serialize};

/// Name of the holder's socket inside the run directory.
pub const SOCKET: &str = "holder.sock";

/// A request to the holder.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// Asks for the holder's version and pid.
    Hello {
        /// The asker's [`crate::PROTOCOL_VERSION`].
        version: u32,
    },
    /// Forks a shim.
    Spawn {
        /// What the shim shall run.
        spec: Box<ShimSpec>,
    },
    /// Keeps a listening socket (sent along) under a name, replacing an older one of that name.
    Deposit {
        /// For example `api`, `docker`, `dns-udp-10.88.0.1`.
        name: String,
    },
    /// Asks for a duplicate of a kept socket.
    Fetch {
        /// The name given at deposit.
        name: String,
    },
    /// Closes a kept socket.
    Discard {
        /// The name given at deposit.
        name: String,
    },
    /// Lists the names of the kept sockets and the live shims.
    List,
    /// Closes kept sockets, serves the last shim, and leaves.
    Retire,
}

/// The holder's answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// Answer to [`Request::Hello`].
    Hello {
        /// The holder's [`crate::PROTOCOL_VERSION`].
        version: u32,
        /// The holder's process id.
        pid: u32,
    },
    /// The shim runs; `shim.sock` accepts connections.
    Spawned {
        /// The shim's process id.
        pid: u32,
    },
    /// A duplicate of the socket comes along; absent (`found: false`) if none is kept.
    Socket {
        /// Whether a descriptor came along.
        found: bool,
    },
    /// Answer to [`Request::List`].
    Listing {
        /// Names of kept sockets.
        sockets: Vec<String>,
        /// Ids and process ids of live shims.
        shims: Vec<(String, u32)>,
    },
    /// Done.
    Ok,
    /// Refused or failed.
    Error {
        /// Cause, for people.
        message: String,
    },
}
