//! What is exclusive ends at its deadline, whatever becomes of the daemon that moves it on.
//!
//! ```text
//!   asked                      stop at = until − stop                until
//!     │ the daemon asks the store │                                    │
//!     ├───────────────────────────┼────────────────────────────────────┤──▶ CLOCK_BOOTTIME
//!     │  it runs, or may start    │  stop signal; thawed if paused      │ SIGKILL to all of its group
//! ```
//! A timer of the kernel wakes the shim's loop at each of the two; `Limit` sets it anew. A deadline that was missed stays so: from
//! the stop signal on the container is ending, and only a new shim with a new deadline can start it again.
//!
//! Worked example: `db` may run until second 110 and has a stop timeout of 2 s, and the daemon, which was answered in second 100 the
//! last time, is stopped. In second 108 the shim sends SIGTERM; `db` ends in second 109, and its exit status says that its
//! watchdog has stopped it since the store could not be asked for 8 s.

use super::{Phase, Shim};
use crate::{
    error::{ShimError, chain},
    launch::Failure,
};
use coracle_shim_protocol::{
    boottime_ms,
    shim::{Deadline, FailReason},
};
use rustix::{
    io::Errno,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How soon it is tried again to kill what did not go, in milliseconds.
const AGAIN_MS: u64 = 50;

/// See the module.
#[derive(Debug)]
pub(super) struct Watchdog {
    timer: OwnedFd,
    deadline: Deadline,
    /// When it was asked to end.
    struck_ms: Option<u64>,
}

impl Watchdog {
    fn new(deadline: Deadline) -> Result<Self, ShimError> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Boottime, flags)
            .map_err(ShimError::system("make the watchdog's timer"))?;
        let made = Self {
            timer,
            deadline,
            struck_ms: None,
        };
        made.wake_at(deadline.stop_at_ms())?;
        Ok(made)
    }

    /// Has the loop wake at a time, at once if that is over.
    fn wake_at(&self, ms: u64) -> Result<(), ShimError> {
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let at = Itimerspec {
            it_interval: zero,
            it_value: Timespec {
                tv_sec: (ms / 1000) as i64,
                // A time of nothing at all would switch it off.
                tv_nsec: (ms % 1000 * 1_000_000).max(1) as i64,
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &at)
            .map(drop)
            .map_err(ShimError::system("set the watchdog's timer"))
    }

    /// The timer is not readable any more until its next time.
    fn quiet(&self) {
        let mut times = [0; 8];
        while rustix::io::read(&self.timer, &mut times) == Err(Errno::INTR) {}
    }
}

impl AsFd for Watchdog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

impl Shim {
    /// Takes a deadline, or the word that there is none.
    pub(super) fn limit(&mut self, deadline: Option<Deadline>) -> Result<(), ShimError> {
        if self.stopped_by_watchdog().is_some() {
            return Err(ShimError::Invalid(
                "its watchdog is stopping it already".into(),
            ));
        }
        match (&mut self.watchdog, deadline) {
            (_, None) => self.watchdog = None,
            (None, Some(deadline)) => self.watchdog = Some(Watchdog::new(deadline)?),
            // The answer to a later question came first.
            (Some(known), Some(new)) if new.until_ms < known.deadline.until_ms => {}
            (Some(known), Some(new)) => {
                known.wake_at(new.stop_at_ms())?;
                known.deadline = new;
            }
        }
        Ok(())
    }

    /// Why it was stopped, if it was its watchdog.
    pub(super) fn stopped_by_watchdog(&self) -> Option<String> {
        let watchdog = self.watchdog.as_ref()?;
        let since = watchdog
            .struck_ms?
            .saturating_sub(watchdog.deadline.asked_ms);
        Some(format!(
            "stopped by its watchdog: the store could not be asked for {} s",
            since / 1000
        ))
    }

    /// Whether nothing of it may run any more.
    pub(super) fn is_over(&self) -> bool {
        let until = self.watchdog.as_ref().map(|w| w.deadline.until_ms);
        until.is_some_and(|until| until <= boottime_ms())
    }

    /// Does what is due by now.
    pub(super) fn watch_over(&mut self) {
        let now = boottime_ms();
        let Some(watchdog) = &mut self.watchdog else {
            return;
        };
        watchdog.quiet();
        let deadline = watchdog.deadline;
        if now < deadline.stop_at_ms() {
            return;
        }
        let first = watchdog.struck_ms.is_none();
        watchdog.struck_ms.get_or_insert(now);
        let next = match now < deadline.until_ms {
            true => deadline.until_ms,
            false => now + AGAIN_MS,
        };
        match self.phase {
            Phase::Ended { .. } => return,
            Phase::Fresh | Phase::Created => {
                let message = self.stopped_by_watchdog().unwrap_or_default();
                let reason = FailReason::Late;
                return self.fail(Failure { reason, message });
            }
            Phase::Starting { .. } | Phase::Running | Phase::Ending => {}
        }
        if let Some(Err(error)) = self.watchdog.as_ref().map(|w| w.wake_at(next)) {
            // Nobody would come back to it.
            self.note(&chain(&error));
            return self.end_at_once();
        }
        if now >= deadline.until_ms {
            self.end_at_once();
        } else if first && let Some(main) = self.main.as_ref().filter(|t| t.ended.is_none()) {
            let sent = main.kill(deadline.signal);
            if let Some(cgroup) = &self.cgroup {
                cgroup.thaw();
            }
            if let Err(error) = sent {
                self.note(&chain(&error));
                self.end_at_once();
            }
        }
    }

    /// Kills all of it.
    fn end_at_once(&mut self) {
        if let Some(main) = self.main.as_ref().filter(|t| t.ended.is_none()) {
            let _ = main.kill(libc::SIGKILL);
        }
        // Also what is frozen, or was exec'd.
        self.kill_rest();
    }
}
