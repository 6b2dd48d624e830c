//! Machines that give no signs or were removed: from when on they are taken for lost, and until when what is exclusive may still run
//! on them. Pure.
//!
//! Worked example: `7f…`, which has something exclusive, gives no signs from second 0, and an operator removes it in second 5. Its key
//! went early, so that it is waited for until second 6. In second 13 it is fenced, once: what is exclusive has stopped there by itself. If it
//! comes back it is forgotten here, and its next absence counts anew.

use crate::hold::FENCE;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// See the module.
#[derive(Default)]
pub(crate) struct Lost {
    away: BTreeMap<String, Away>,
}

struct Away {
    since: Instant,
    /// How long it is waited for.
    patience: Duration,
    fenced: bool,
}

impl Lost {
    /// A machine is away; how long it is waited for is asked if that is news.
    pub fn away(&mut self, id: &str, now: Instant, patience: impl FnOnce() -> Duration) {
        if !self.away.contains_key(id) {
            let away = Away {
                since: now,
                patience: patience(),
                fenced: false,
            };
            self.away.insert(id.to_owned(), away);
        }
    }

    /// Whether a machine is noted as away.
    pub fn is_away(&self, id: &str) -> bool {
        self.away.contains_key(id)
    }

    /// Whether a machine was told as fenced in this absence.
    pub fn is_fenced(&self, id: &str) -> bool {
        self.away.get(id).is_some_and(|away| away.fenced)
    }

    /// A machine is there.
    pub fn back(&mut self, id: &str) {
        self.away.remove(id);
    }

    /// Whether a machine is waited for no more.
    pub fn is_lost(&self, id: &str, now: Instant) -> bool {
        let away = self.away.get(id);
        away.is_some_and(|a| now.saturating_duration_since(a.since) >= a.patience)
    }

    /// Those that are fenced by now, each told once.
    pub fn fenced(&mut self, now: Instant) -> Vec<String> {
        let mut fenced = Vec::new();
        for (id, away) in self.away.iter_mut().filter(|(_, away)| !away.fenced) {
            if now.saturating_duration_since(away.since) >= FENCE {
                away.fenced = true;
                fenced.push(id.clone());
            }
        }
        fenced
    }

    /// Whether time alone will lose or fence one.
    pub fn waits(&self) -> bool {
        self.away.values().any(|away| !away.fenced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_absence_is_fenced_once_and_in_time() {
        let (mut lost, start) = (Lost::default(), Instant::now());
        let away = |lost: &mut Lost, id: &str, at| lost.away(id, at, || Duration::ZERO);
        away(&mut lost, "a", start);
        away(&mut lost, "b", start + 5 * SECOND);
        // Said again, or of one that was removed meanwhile, it is the same absence.
        away(&mut lost, "a", start + 5 * SECOND);
        assert!(lost.fenced(start + FENCE - SECOND).is_empty() && lost.waits());
        assert_eq!(lost.fenced(start + FENCE), ["a"]);
        assert!(lost.fenced(start + FENCE).is_empty() && lost.waits());
        assert!(lost.is_fenced("a") && !lost.is_fenced("b"));
        away(&mut lost, "a", start + FENCE);
        assert_eq!(lost.fenced(start + 2 * FENCE), ["b"]);
        assert!(!lost.waits());
        lost.back("a");
        away(&mut lost, "a", start + 2 * FENCE);
        assert!(lost.waits() && lost.fenced(start + 2 * FENCE + SECOND).is_empty());
        assert_eq!(lost.fenced(start + 3 * FENCE), ["a"]);
    }

    #[test]
    fn what_is_waited_for_is_not_lost_yet() {
        let (mut lost, start) = (Lost::default(), Instant::now());
        assert!(!lost.is_lost("a", start));
        lost.away("a", start, || 6 * SECOND);
        // What its units ask for by then is of no matter.
        lost.away("a", start + SECOND, || Duration::ZERO);
        assert!(!lost.is_lost("a", start + 5 * SECOND) && lost.waits());
        assert!(lost.is_lost("a", start + 6 * SECOND));
        assert_eq!(lost.fenced(start + FENCE), ["a"]);
        lost.back("a");
        assert!(!lost.is_lost("a", start + FENCE));
    }
}
