//! The machine's watchdog, from the first stage to the last moment: whoever has the machine feeds it, and a machine that hangs restarts, into the
//! other slot where this one is unproven.

use crate::console::{Level, failed, say};
use coracle_sys::watchdog::Watchdog;
use std::{
    io,
    os::fd::RawFd,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

const DEVICE: &str = "/dev/watchdog0";
/// The module that is one where no hardware is: it notices that processes have no turn, not that the kernel hangs with interrupts off.
pub const SOFT: &str = "softdog";
/// Says to the second stage which descriptor it is.
const VARIABLE: &str = "CORACLE_WATCHDOG";
/// How long nobody may feed it. Emulated machines beside others are slow.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is fed.
pub const FEED: Duration = Duration::from_secs(10);
/// How long the machine may take to go down: more than containers and everybody else are given, and then what is not on the disk yet.
const DOWN: Duration = Duration::from_secs(900);

/// Starts the watchdog, in the first stage; `soft` loads the module if there is no hardware.
pub fn start(soft: impl FnOnce()) -> Option<Watchdog> {
    if !Path::new(DEVICE).exists() {
        soft();
    }
    let started = Watchdog::start(Path::new(DEVICE));
    let watchdog = match started {
        Ok(watchdog) => watchdog,
        Err(error) => {
            failed("no watchdog", &error);
            return None;
        }
    };
    if let Err(error) = watchdog.set_timeout(TIMEOUT) {
        say(Level::Warning, &format!("the watchdog's time: {error}"));
    }
    Some(watchdog)
}

/// Leaves it to the program that is executed next.
pub fn leave(watchdog: Option<Watchdog>, command: &mut Command) {
    if let Some(watchdog) = watchdog {
        feed(&watchdog);
        command.env(VARIABLE, watchdog.left().to_string());
    }
}

/// Takes it over, in the second stage.
pub fn take() -> Option<Watchdog> {
    let fd: RawFd = std::env::var(VARIABLE).ok()?.parse().ok()?;
    match Watchdog::taken(fd) {
        Ok(watchdog) => Some(watchdog),
        Err(error) => {
            failed("no watchdog", &error);
            None
        }
    }
}

/// Feeds it.
pub fn feed(watchdog: &Watchdog) {
    if let Err(error) = watchdog.feed() {
        say(Level::Warning, &format!("feeding the watchdog: {error}"));
    }
}

/// Feeds it while the machine goes down, and no longer than that may take.
pub fn going_down(watchdog: Watchdog) {
    let end = Instant::now() + DOWN;
    let feeding = thread::Builder::new().name("watchdog".to_owned());
    let started: io::Result<_> = feeding.spawn(move || {
        while Instant::now() < end {
            feed(&watchdog);
            thread::sleep(FEED);
        }
        // Closed without a word it goes on, and bites.
    });
    if let Err(error) = started {
        failed("feeding the watchdog", &error);
    }
}
