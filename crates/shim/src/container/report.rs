//! How a child's launch went.

use crate::{diag, error::ShimError};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// The channel over which a child says how its launch went (`SOCK_SEQPACKET`): [`launch::Failure`]s, complaints of
/// the runtime, a terminal. It closes on exec.
#[derive(Debug)]
pub struct Report {
    /// Our end, non-blocking.
    pub parent: OwnedFd,
    /// The child's.
    pub child: OwnedFd,
}

impl Report {
    /// Makes one.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn new() -> Result<Self, ShimError> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (parent, child) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(ShimError::system("make a pair of sockets"))?;
        rustix::io::ioctl_fionbio(&parent, true)
            .map_err(ShimError::system("make a socket non-blocking"))?;
        Ok(Self { parent, child })
    }

    /// Takes everything that was said and gives back the first complaint, which is the cause of the others.
    pub(super) fn first_complaint(&self) -> Option<String> {
        let mut first = None;
        let mut buffer = [0u8; 4096];
        loop {
            match rustix::io::read(&self.parent, &mut buffer) {
                Ok(n) if n > 0 => {
                    if buffer[0] == diag::MARK && first.is_none() {
                        first = Some(String::from_utf8_lossy(&buffer[1..n]).into_owned());
                    }
                }
                Err(Errno::INTR) => {}
                _ => return first,
            }
        }
    }
}
