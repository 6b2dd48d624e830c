//! A release on trial whose daemon does not serve cannot judge itself: process 1 does.

use super::daemon;
use crate::console::{Level, failed, say};
use coracle_os::{
    entries::{Entry, Standing},
    history::{self, History},
    machine::{Machine, MachineError},
};
use std::{io, path::Path, time::Duration};

/// Whether the machine has to restart, because the slot that runs is on trial and `error` is why it is not good.
pub fn over(error: &io::Error) -> bool {
    match give_up(error) {
        Ok(restart) => restart,
        Err(error) => {
            failed("the slot cannot be given up", &error);
            false
        }
    }
}

/// How long after the machine's start a release on trial may be without a daemon that serves, and how long it may be on trial at all. What should have
/// ended it by then hangs itself.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(900), Duration::from_secs(1800));

/// Whether there is still hope for the release that runs.
#[derive(Debug, Default)]
pub struct Trial {
    /// It is over, or there was none.
    over: bool,
}

impl Trial {
    /// Whether the release is on trial and has had its time: then only the watchdog is left to end it.
    pub fn is_hopeless(&mut self) -> bool {
        let patience = match daemon::serves() {
            true => PATIENCE.1,
            false => PATIENCE.0,
        };
        if self.over || Machine::up() < patience {
            return false;
        }
        self.over = !is_on();
        !self.over
    }
}

/// Whether the slot that runs is on trial, and the other one is there to go back to.
pub fn is_on() -> bool {
    let on = Machine::here().and_then(|machine| {
        let entries = machine.entries()?;
        let own = entries.get(&machine.slot).map(|e| e.standing);
        let other = entries.get(&machine.slot.other());
        let back = other.is_some_and(Entry::hopeful);
        Ok(matches!(own, Some(Standing::Tries { .. })) && back)
    });
    on.unwrap_or(false)
}

fn give_up(error: &io::Error) -> Result<bool, MachineError> {
    let machine = Machine::here()?;
    let entries = machine.entries()?;
    let own = entries.get(&machine.slot).map(|e| e.standing);
    if !matches!(own, Some(Standing::Tries { .. })) {
        // Nothing says that the other one would be better.
        return Ok(false);
    }
    say(Level::Error, "the release is not good: going back");
    let noted = History::read(Path::new(history::PATH)).and_then(|mut known| {
        known.started(machine.slot, &Machine::boot());
        if let Some(update) = known.under_way() {
            update.reason = Some(error.to_string());
        }
        known.write(Path::new(history::PATH))
    });
    if let Err(error) = noted {
        failed(history::PATH, &error);
    }
    machine.condemn()?;
    Ok(true)
}
