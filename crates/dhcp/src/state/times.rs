//! How long to wait for an answer.

use std::time::Duration;

/// Before what was sent `tries` times before is sent again: 1, 2, 4, 8, 16, 32, 64, 64 … seconds. From 4 on as in RFC 2131, 4.1, give or
/// take a second; the two before are for machines that start where a message was lost.
pub(super) fn backoff(tries: u32, jitter: i16) -> Duration {
    let seconds = 1 << tries.min(6);
    jittered(seconds, if seconds < 4 { jitter / 10 } else { jitter })
}

/// Before a lease is asked to be prolonged again, `left` before the stage ends: once soon, as one message may be lost, then after half
/// of what is left, but no less than 60 s (RFC 2131, 4.4.5).
pub(super) fn prolong(tries: u32, left: Duration, jitter: i16) -> Duration {
    if tries == 0 {
        jittered(4, jitter)
    } else {
        (left / 2).max(Duration::from_secs(60))
    }
}

/// The message's `secs`.
pub(super) fn secs(begun: Duration, now: Duration) -> u16 {
    u16::try_from(now.saturating_sub(begun).as_secs()).unwrap_or(u16::MAX)
}

fn jittered(seconds: u64, jitter: i16) -> Duration {
    let jitter = i64::from(jitter.clamp(-1000, 1000));
    Duration::from_millis((seconds * 1000).saturating_add_signed(jitter))
}
