//! A watchdog: what restarts the machine when nobody has fed it for a while (`Documentation/watchdog/watchdog-api.rst` of the kernel).

use rustix::{
    fs::{Mode, OFlags, open},
    io::{FdFlags, fcntl_setfd, write},
};
use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd},
    path::Path,
    time::Duration,
};

const SET_TIMEOUT: libc::c_ulong = 0xc004_5706;
const GET_TIMEOUT: libc::c_ulong = 0x8004_5707;

/// A watchdog that runs. Closing it does not stop it.
#[derive(Debug)]
pub struct Watchdog(OwnedFd);

impl Watchdog {
    /// Starts one (`/dev/watchdog0`). The descriptor stays open over `exec`, so that the next program can feed it.
    ///
    /// # Errors
    /// Those of opening: `EBUSY` if somebody has it.
    pub fn start(path: &Path) -> io::Result<Self> {
        Ok(Self(open(path, OFlags::WRONLY, Mode::empty())?))
    }

    /// Takes one over that the program before has started and left open at `fd`; children do not inherit it.
    ///
    /// # Errors
    /// `ENOTTY` or `EBADF` if it is none.
    pub fn taken(fd: RawFd) -> io::Result<Self> {
        let mut seconds = 0;
        // SAFETY: the kernel writes one integer, or nothing where `fd` is no watchdog.
        if unsafe { libc::ioctl(fd, GET_TIMEOUT as _, &raw mut seconds) } == -1 {
            let error = io::Error::last_os_error();
            // One whose driver does not know its time.
            if error.raw_os_error() != Some(libc::EOPNOTSUPP) {
                return Err(error);
            }
        }
        // SAFETY: it is open, as was just seen, and the program before left it to this one alone.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
        Ok(Self(fd))
    }

    /// Leaves it open for the program that is executed next; the number of the descriptor.
    pub fn left(self) -> RawFd {
        self.0.into_raw_fd()
    }

    /// After how long without food it restarts the machine, in whole seconds; what the hardware made of it.
    ///
    /// # Errors
    /// The driver's, if it has one time only.
    pub fn set_timeout(&self, timeout: Duration) -> io::Result<Duration> {
        let mut seconds = i32::try_from(timeout.as_secs()).unwrap_or(i32::MAX);
        // SAFETY: the kernel reads and writes one integer.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), SET_TIMEOUT as _, &raw mut seconds) };
        match done {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(Duration::from_secs(seconds.unsigned_abs().into())),
        }
    }

    /// Feeds it.
    ///
    /// # Errors
    /// Those of writing.
    pub fn feed(&self) -> io::Result<()> {
        // Any byte but `V` does; that one would let it sleep when it is closed.
        write(&self.0, b"\0")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_watchdog_is_not_taken() {
        let (reader, _writer) = io::pipe().expect("pipes");
        let fd = reader.as_raw_fd();
        let error = Watchdog::taken(fd).expect_err("a pipe is none");
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }
}
