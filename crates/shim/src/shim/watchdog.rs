//! What is exclusive ends at its deadline, whatever becomes of the daemon that moves it on.
//!
//! ```text
//!   asked                      stop at = until − stop                until
//!     │ the daemon asks the store │                                    │
//!     ├───────────────────────────┼────────────────────────────────────┤──▶ CLOCK_BOOTTIME
//!     │  it runs, or may start    │  stop signal; thawed if paused      │ SIGKILL to all of its group
//! ```
//! A timer of the kernel wakes the shim's loop at each of the two; `Limit` sets it anew. The loop may be held up, so a [`Guard`] sees
//! to the second one too. A deadline that was missed stays so: from the stop signal on the container is ending, and only a new shim
//! with a new deadline can start it again. What was begun without a deadline may be given one while it runs.
//!
//! Worked example: `db` may run until second 110 and has a stop timeout of 2 s, and the daemon, which was answered in second 100 the
//! last time, is stopped. In second 108 the shim sends SIGTERM; `db` ends in second 109, and its exit status says that its
//! watchdog has stopped it since the store could not be asked for 8 s.

use super::{
    Phase, Shim,
    guard::{Guard, Timer},
};
use crate::{
    error::{ShimError, chain},
    launch::Failure,
};
use coracle_shim_protocol::{
    boottime_ms,
    shim::{Deadline, FailReason},
};
use std::os::fd::{AsFd, BorrowedFd};

/// How soon it is tried again to kill what did not go, in milliseconds.
const AGAIN_MS: u64 = 50;

/// See the module.
#[derive(Debug)]
pub(super) struct Watchdog {
    timer: Timer,
    deadline: Deadline,
    /// When it was asked to end.
    struck_ms: Option<u64>,
}

impl Watchdog {
    fn new(deadline: Deadline) -> Result<Self, ShimError> {
        let timer = Timer::new()?;
        timer.set(Some(deadline.stop_at_ms()))?;
        Ok(Self {
            timer,
            deadline,
            struck_ms: None,
        })
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
        // This loop may have been held up for long.
        self.watch_over();
        let missed = || ShimError::Invalid("its watchdog is stopping it already".into());
        if self.stopped_by_watchdog().is_some() {
            return Err(missed());
        }
        let known = self.watchdog.as_ref().map(|w| w.deadline.until_ms);
        match (known, deadline) {
            (_, None) => {
                self.unguard();
                self.watchdog = None;
            }
            // The answer to a later question came first.
            (Some(known), Some(new)) if new.until_ms < known => {}
            (_, Some(new)) => {
                let in_time = self.guard_until(new.until_ms)?;
                match &mut self.watchdog {
                    Some(known) => {
                        known.timer.set(Some(new.stop_at_ms()))?;
                        known.deadline = new;
                    }
                    None => self.watchdog = Some(Watchdog::new(new)?),
                }
                if !in_time {
                    // The guard was about to kill it, or has.
                    self.strike(boottime_ms());
                    self.end_at_once();
                    return Err(missed());
                }
            }
        }
        Ok(())
    }

    /// Has the guard kill it at that time, if that is not too late.
    fn guard_until(&mut self, until_ms: u64) -> Result<bool, ShimError> {
        let guard = match (&mut self.guard, &self.phase) {
            // What has ended may have left something that is to run on.
            (_, Phase::Ended { .. }) | (None, Phase::Ending) => return Ok(true),
            (Some(guard), _) => guard,
            (None, _) => {
                let inside = self.plan.as_ref();
                let inside = inside.is_some_and(|p| p.own_pids || p.joined_pids.is_some());
                let (group, id) = (&self.spec.cgroup, &self.spec.id);
                let guard = Guard::new(&self.machine, group, id, inside)?;
                self.guard.insert(guard)
            }
        };
        guard.set(Some(until_ms))
    }

    /// Has the guard kill nothing.
    pub(super) fn unguard(&mut self) {
        if let Some(Err(error)) = self.guard.as_mut().map(|guard| guard.set(None)) {
            self.note(&chain(&error));
            self.guard = None;
        }
    }

    /// Remembers that its time is over; whether that was news.
    fn strike(&mut self, now_ms: u64) -> bool {
        let Some(watchdog) = &mut self.watchdog else {
            return false;
        };
        let first = watchdog.struck_ms.is_none();
        watchdog.struck_ms.get_or_insert(now_ms);
        first
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
        let Some(watchdog) = &self.watchdog else {
            return;
        };
        // Not readable any more until its next time.
        watchdog.timer.has_come();
        let deadline = watchdog.deadline;
        if now < deadline.stop_at_ms() {
            return;
        }
        let first = self.strike(now);
        let next = match now < deadline.until_ms {
            true => deadline.until_ms,
            false => now + AGAIN_MS,
        };
        match self.phase {
            // Whoever comes to start it is told then.
            Phase::Ended { .. } | Phase::Fresh => return,
            Phase::Created => {
                let message = self.stopped_by_watchdog().unwrap_or_default();
                let reason = FailReason::Late;
                return self.fail(Failure { reason, message });
            }
            Phase::Starting { .. } | Phase::Running | Phase::Ending => {}
        }
        if let Some(Err(error)) = self.watchdog.as_ref().map(|w| w.timer.set(Some(next))) {
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
