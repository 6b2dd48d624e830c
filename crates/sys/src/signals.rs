//! Signals as something to be read (`signalfd(2)`).

use std::{
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
    ptr,
};

/// Signals that wait until they are read. They stay blocked when this is gone.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks signals in the calling thread, and in those and the programs that it starts from then on ([`unblocked`]), and takes
    /// them instead.
    ///
    /// # Errors
    /// `EINVAL` for a number that is no signal; the kernel's own.
    pub fn take(numbers: &[i32]) -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset writes all of the set before it is read; the descriptor is new and owned by nobody else.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for number in numbers {
                if libc::sigaddset(set.as_mut_ptr(), *number) != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            match libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(Self(OwnedFd::from_raw_fd(fd))),
            }
        }
    }

    /// The number of a signal that came; `None` if none waits.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn next(&self) -> io::Result<Option<i32>> {
        // `struct signalfd_siginfo`, which begins with the number.
        let mut told = [0; 128];
        match rustix::io::read(&self.0, &mut told) {
            Ok(_) => Ok(Some(i32::from_ne_bytes([
                told[0], told[1], told[2], told[3],
            ]))),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Has a program start with nothing blocked.
pub fn unblocked(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only calls that are safe there: the set is initialised before its use.
    unsafe {
        command.pre_exec(|| {
            let mut set = MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigemptyset(set.as_mut_ptr());
            match libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut()) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
