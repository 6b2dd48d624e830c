//! Waiting for children and holding on to processes.

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, wait},
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Host process id.
    pub pid: u32,
    /// Exit code; 128 + n when signal n ended it.
    pub code: i32,
    /// The signal, when one ended it.
    pub signal: Option<i32>,
}

/// Takes one ended child off the kernel's list without waiting; `None` if none has ended or there are no children.
///
/// # Errors
/// The kernel's own.
pub fn reap() -> io::Result<Option<Ended>> {
    take(WaitOptions::NOHANG)
}

/// Waits for a child to end and takes it off the kernel's list; `None` if there are no children.
///
/// # Errors
/// The kernel's own.
pub fn reap_next() -> io::Result<Option<Ended>> {
    take(WaitOptions::empty())
}

fn take(options: WaitOptions) -> io::Result<Option<Ended>> {
    loop {
        return match wait(options) {
            Ok(Some((pid, status))) => {
                let signal = status.terminating_signal();
                let code = signal.map_or(status.exit_status().unwrap_or(0), |n| 128 + n);
                Ok(Some(Ended {
                    pid: pid.as_raw_nonzero().get().unsigned_abs(),
                    code,
                    signal,
                }))
            }
            Ok(None) | Err(Errno::CHILD) => Ok(None),
            Err(Errno::INTR) => continue,
            Err(e) => Err(e.into()),
        };
    }
}

/// A hold on a process that no later process of the same id can take over. Readable once it ended.
///
/// # Errors
/// `ESRCH` if there is no such process.
pub fn hold(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(Errno::SRCH)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Sends a signal to a held process.
///
/// # Errors
/// `EINVAL` for a number that is no signal, `ESRCH` if it ended.
pub fn signal(held: impl AsFd, number: i32) -> io::Result<()> {
    if !matches!(number, 1..=31 | 34..=64) {
        return Err(Errno::INVAL.into());
    }
    // SAFETY: the number is a signal of Linux and none of 32 and 33, which the C library keeps for itself.
    let signal = unsafe { Signal::from_raw_unchecked(number) };
    Ok(pidfd_send_signal(held, signal)?)
}
