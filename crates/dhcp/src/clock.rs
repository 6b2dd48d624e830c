//! Time that goes on while the machine sleeps: leases do not sleep.

use std::time::Duration;

/// Time since the machine started, with the time it was suspended (`CLOCK_BOOTTIME`, `clock_gettime(2)`).
pub fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}
