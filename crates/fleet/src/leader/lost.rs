//! Machines that give no signs or were removed, and until when what is exclusive may still run on them. Pure.
//!
//! Worked example: `7f…` gives no signs from second 0, and an operator removes it in second 5. In second 13 it is fenced, once:
//! what is exclusive has stopped there by itself. If it comes back it is forgotten here, and its next absence counts anew.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// By then a machine's exclusive units have ended: its whole lease, which its shims keep to, and a margin for clocks.
pub(crate) const FENCE: Duration = Duration::from_secs(crate::presence::LEASE as u64 + 3);

/// See the module.
#[derive(Default)]
pub(crate) struct Lost {
    /// None of those that are fenced.
    since: BTreeMap<String, Option<Instant>>,
}

impl Lost {
    /// A machine is away.
    pub fn away(&mut self, id: &str, now: Instant) {
        if !self.since.contains_key(id) {
            self.since.insert(id.to_owned(), Some(now));
        }
    }

    /// A machine is there.
    pub fn back(&mut self, id: &str) {
        self.since.remove(id);
    }

    /// Those that are fenced by now, each told once.
    pub fn fenced(&mut self, now: Instant) -> Vec<String> {
        let over = |since: &Option<Instant>| {
            since.is_some_and(|since| now.saturating_duration_since(since) >= FENCE)
        };
        let mut fenced = Vec::new();
        for (id, since) in self.since.iter_mut().filter(|(_, since)| over(since)) {
            *since = None;
            fenced.push(id.clone());
        }
        fenced
    }

    /// Whether time alone will fence one.
    pub fn waits(&self) -> bool {
        self.since.values().any(Option::is_some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_absence_is_fenced_once_and_in_time() {
        let (mut lost, start) = (Lost::default(), Instant::now());
        let second = Duration::from_secs(1);
        lost.away("a", start);
        lost.away("b", start + 5 * second);
        // Said again, or of one that was removed meanwhile, it is the same absence.
        lost.away("a", start + 5 * second);
        assert!(lost.fenced(start + FENCE - second).is_empty() && lost.waits());
        assert_eq!(lost.fenced(start + FENCE), ["a"]);
        assert!(lost.fenced(start + FENCE).is_empty() && lost.waits());
        lost.away("a", start + FENCE);
        assert_eq!(lost.fenced(start + 2 * FENCE), ["b"]);
        assert!(!lost.waits());
        lost.back("a");
        lost.away("a", start + 2 * FENCE);
        assert!(lost.waits() && lost.fenced(start + 2 * FENCE + second).is_empty());
        assert_eq!(lost.fenced(start + 3 * FENCE), ["a"]);
    }
}
