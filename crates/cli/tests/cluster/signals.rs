//! Signals to processes that the harness started.

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// Sends a signal; that the process has gone is no failure.
pub fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal);
    }
}
