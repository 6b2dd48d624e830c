//! What it means for who listens that accept(2) failed. Pure.

use std::io;
use std::time::Duration;

/// How long who listens waits when there is no room for a connection: the next try would fail at once, and those who knock wait in
/// the socket.
pub const SHORTAGE: Duration = Duration::from_millis(100);

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// This one is gone or broken, which says nothing of the next.
    One,
    /// No descriptors or memory are left; some will come back ([`SHORTAGE`]).
    Room,
    /// The socket is of no use any more.
    All,
}

impl Missed {
    /// Of an error of accept(2). Linux gives errors of the network, which are a connection's that waits already, as its own.
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(
                libc::ECONNABORTED
                | libc::EINTR
                | libc::EAGAIN
                | libc::EPERM
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
                | libc::ETIMEDOUT
                | libc::ECONNRESET,
            ) => Self::One,
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Self::Room,
            _ => Self::All,
        }
    }
}
