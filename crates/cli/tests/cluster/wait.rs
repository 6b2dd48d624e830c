//! Waiting for conditions.

use std::time::{Duration, Instant};

/// Longest time that what needs no machine to be noticed as lost may take.
pub const MINUTE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until `so` gives something, and gives that; fails with `what` and the last reason why not.
pub fn wait_until<T>(what: &str, within: Duration, mut so: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match so() {
            Ok(value) => return value,
            Err(why) => assert!(
                begun.elapsed() < within,
                "waited {within:?} in vain until {what}: {why}"
            ),
        }
        std::thread::sleep(PAUSE);
    }
}

/// As [`wait_until`], where there is nothing to give and no reason.
pub fn wait_for(what: &str, within: Duration, mut so: impl FnMut() -> bool) {
    wait_until(what, within, || {
        so().then_some(()).ok_or_else(|| "it is not so".to_owned())
    });
}

/// Whether something stays so for all of a time: it is looked at again and again.
pub fn stays(so_long: Duration, mut so: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < so_long {
        if !so() {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
    so()
}
