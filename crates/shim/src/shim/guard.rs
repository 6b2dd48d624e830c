//! The second process of a shim whose container is exclusive: it kills all of it when its time is over, whatever holds the shim up.
//!
//! The shim's loop writes the log, and a disk that does not answer keeps it there, as a `SIGSTOP` does anywhere. So the end is seen to by
//! a process that has nothing else to do: it waits for a timer of the kernel, which the shim moves on, and for the end of the shim. It
//! writes to no file but those of control groups.
//!
//! It is a process and no thread, since a shim forks, and what it forks runs on as Rust: holder and shims have one thread each. Only who
//! is exclusive has one.
//!
//! ```text
//!   shim, moves the timer on ──▶ timer ──▶ guard ── until ──▶ SIGKILL to the group, again until nobody is left
//!        │ ends in its turn ── SIGKILL ──────▶│
//!        └ is killed ─────────── pidfd ──────▶│ waits for the timer all the same, then leaves
//! ```
//!
//! Worked example: `db` may run until second 110, and in second 101 its shim hangs in a write to a disk that was pulled out. The daemon,
//! which the shim does not answer, can move nothing on. In second 110 the guard kills `db`. When the disk is back in second 300, the shim
//! finds its time over and `db` ended, and writes down that its watchdog did it.

use crate::{
    cgroup::{Cgroup, Machine},
    error::ShimError,
    os::{self, Forked},
};
use coracle_sys::process::{hold, signal};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    thread::{LinkNameSpaceType, move_into_link_name_space},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_gettime, timerfd_settime,
    },
};
use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    rc::Rc,
    thread,
    time::Duration,
};

/// How soon it is tried again to kill what did not go.
const AGAIN: Duration = Duration::from_millis(50);

/// A timer of the kernel that goes by the clock of deadlines.
#[derive(Debug)]
pub(super) struct Timer(OwnedFd);

impl Timer {
    /// One that is not set.
    pub fn new() -> Result<Self, ShimError> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        timerfd_create(TimerfdClockId::Boottime, flags)
            .map(Self)
            .map_err(ShimError::system("make the watchdog's timer"))
    }

    /// Sets it to a time in milliseconds, of which one that is over comes at once; or to never. Answers whether it was set before and
    /// had not come.
    pub fn set(&self, at_ms: Option<u64>) -> Result<bool, ShimError> {
        let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
        let at = Itimerspec {
            it_interval: time(0, 0),
            it_value: match at_ms {
                // A time of nothing at all would switch it off.
                Some(ms) => time((ms / 1000) as i64, (ms % 1000 * 1_000_000).max(1) as i64),
                None => time(0, 0),
            },
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &at)
            .map(|former| is_set(&former))
            .map_err(ShimError::system("set the watchdog's timer"))
    }

    /// Whether it has come since it was set or asked last; not readable any more until its next time.
    pub fn has_come(&self) -> bool {
        let mut times = [0; 8];
        loop {
            match rustix::io::read(&self.0, &mut times) {
                Err(Errno::INTR) => {}
                read => return read.is_ok(),
            }
        }
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn is_set(timer: &Itimerspec) -> bool {
    timer.it_value.tv_sec != 0 || timer.it_value.tv_nsec != 0
}

/// The shim's side of it.
#[derive(Debug)]
pub(super) struct Guard {
    timer: Timer,
    set: bool,
    pid: u32,
    held: OwnedFd,
}

impl Guard {
    /// Forks one. `inside` says that children of this process are born in another process namespace, which is none for a guard.
    ///
    /// # Errors
    /// When it cannot be forked.
    pub fn new(
        machine: &Rc<Machine>,
        group: &str,
        id: &str,
        inside: bool,
    ) -> Result<Self, ShimError> {
        let timer = Timer::new()?;
        let shim = hold(std::process::id()).map_err(ShimError::system("hold the shim"))?;
        let forked = match inside {
            true => fork_outside()?,
            false => os::fork().map_err(ShimError::system("fork the watchdog's guard"))?,
        };
        match forked {
            Forked::Parent(pid) => {
                let held = hold(pid).map_err(ShimError::system("hold the watchdog's guard"))?;
                Ok(Self {
                    timer,
                    set: false,
                    pid,
                    held,
                })
            }
            Forked::Child => {
                let keep: Vec<_> = machine
                    .descriptors()
                    .chain([timer.as_fd().as_raw_fd(), shim.as_raw_fd()])
                    .collect();
                os::close_all_but(&keep);
                let _ = rustix::process::setsid();
                let short: String = id.chars().take(12).collect();
                os::set_title(&format!("coracle-guard {short}"));
                watch(&timer, &shim, &Cgroup::at(machine.clone(), group));
                os::exit(0);
            }
        }
    }

    /// Sets when it kills, in milliseconds, or that it does not. Answers `false` if that is too late, since its time has come already.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn set(&mut self, until_ms: Option<u64>) -> Result<bool, ShimError> {
        let was_set = std::mem::replace(&mut self.set, until_ms.is_some());
        let in_time = self.timer.set(until_ms)?;
        Ok(in_time || !was_set)
    }
}

impl Drop for Guard {
    /// It is needed no more.
    fn drop(&mut self) {
        // Also one that was stopped ends by that.
        let _ = signal(&self.held, libc::SIGKILL);
        let mut ended = [PollFd::new(&self.held, PollFlags::IN)];
        while poll(&mut ended, None) == Err(Errno::INTR) {}
        let _ = os::reap(self.pid);
    }
}

/// Forks a process into the namespace that this one is in, and not into the one of its other children.
fn fork_outside() -> Result<Forked, ShimError> {
    let open = |name: &str| {
        let path = format!("/proc/self/ns/{name}");
        File::open(&path).map_err(ShimError::file("open", path))
    };
    let (own, childrens) = (open("pid")?, open("pid_for_children")?);
    let into = |namespace: &File| {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::ProcessID)).map_err(
            ShimError::system("change the process namespace of children"),
        )
    };
    into(&own)?;
    let forked = os::fork();
    if matches!(forked, Ok(Forked::Child)) {
        return Ok(Forked::Child);
    }
    if let Err(error) = into(&childrens) {
        // What is exec'd from here on would be outside of the container.
        crate::error::note("shim", &crate::error::chain(&error));
        os::exit(1);
    }
    forked.map_err(ShimError::system("fork the watchdog's guard"))
}

/// The guard's own life.
fn watch(timer: &Timer, shim: &OwnedFd, group: &Cgroup) {
    let (mut orphan, mut own) = (false, None);
    loop {
        let mut fds = vec![PollFd::new(timer, PollFlags::IN)];
        let mut rest = None;
        if orphan {
            // The daemon ends what is left, and may begin another run in a group of the same name, which is none of ours.
            if own.is_none() || group.inode() != own {
                return;
            }
            rest = Some(Timespec {
                tv_sec: 0,
                tv_nsec: AGAIN.as_nanos() as i64,
            });
        } else {
            fds.push(PollFd::new(shim, PollFlags::IN));
        }
        match poll(&mut fds, rest.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => {
                thread::sleep(AGAIN);
                continue;
            }
        }
        if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            (orphan, own) = (true, group.inode());
        }
        if orphan && group.inode() != own {
            return;
        }
        if timer.has_come() {
            while group.kill_all().is_err() {
                thread::sleep(AGAIN);
            }
        }
        // What a shim that was killed leaves running has its time still.
        let more = timerfd_gettime(timer).is_ok_and(|left| is_set(&left));
        if orphan && !more {
            return;
        }
    }
}
