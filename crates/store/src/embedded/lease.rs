//! Leases: what lives in memory of them. Pure; the clock is given.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::types::LeaseId;

/// The longest time to live, in seconds, as etcd's.
pub(crate) const MAX_TTL: i64 = 9_000_000_000;

struct Lease {
    ttl: i64,
    deadline: Instant,
}

/// The leases alive and when each runs out.
pub(crate) struct Lessor {
    leases: BTreeMap<LeaseId, Lease>,
    deadlines: BTreeSet<(Instant, LeaseId)>,
}

fn after(now: Instant, ttl: i64) -> Instant {
    let ttl = u64::try_from(ttl.clamp(0, MAX_TTL)).unwrap_or(0);
    // So far in the future that the clock cannot say it is as good as never.
    let never = Duration::from_secs(86_400 * 365 * 30);
    now.checked_add(Duration::from_secs(ttl))
        .unwrap_or(now + never)
}

impl Lessor {
    /// Leases read from disk start with their full time.
    pub(crate) fn new(leases: Vec<(LeaseId, i64)>, now: Instant) -> Self {
        let mut lessor = Self {
            leases: BTreeMap::new(),
            deadlines: BTreeSet::new(),
        };
        for (id, ttl) in leases {
            lessor.insert(id, ttl, now);
        }
        lessor
    }

    pub(crate) fn insert(&mut self, id: LeaseId, ttl: i64, now: Instant) {
        self.remove(id);
        let deadline = after(now, ttl);
        self.leases.insert(id, Lease { ttl, deadline });
        self.deadlines.insert((deadline, id));
    }

    pub(crate) fn remove(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.remove(&id) {
            self.deadlines.remove(&(lease.deadline, id));
        }
    }

    /// Takes over what the disk says after a group's fate was unknown; the others keep their time.
    pub(crate) fn reconcile(&mut self, leases: &[(LeaseId, i64)], now: Instant) {
        let kept: BTreeMap<LeaseId, i64> = leases.iter().copied().collect();
        for id in self.ids() {
            if !kept.contains_key(&id) {
                self.remove(id);
            }
        }
        for (id, ttl) in kept {
            if !self.leases.contains_key(&id) {
                self.insert(id, ttl, now);
            }
        }
    }

    fn alive(&mut self, id: LeaseId, now: Instant) -> Result<&mut Lease, StoreError> {
        let lease = self
            .leases
            .get_mut(&id)
            .filter(|lease| lease.deadline > now);
        lease.ok_or(StoreError::LeaseNotFound(id))
    }

    /// Gives the full time again; a lease that ran out stays so, even if its keys still stand.
    pub(crate) fn renew(&mut self, id: LeaseId, now: Instant) -> Result<i64, StoreError> {
        let lease = self.alive(id, now)?;
        let (ttl, old) = (lease.ttl, lease.deadline);
        lease.deadline = after(now, ttl);
        let new = lease.deadline;
        self.deadlines.remove(&(old, id));
        self.deadlines.insert((new, id));
        Ok(ttl)
    }

    /// Seconds left (rounded up) and granted.
    pub(crate) fn remaining(
        &mut self,
        id: LeaseId,
        now: Instant,
    ) -> Result<(i64, i64), StoreError> {
        let lease = self.alive(id, now)?;
        let left = lease.deadline.duration_since(now);
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        Ok((i64::try_from(seconds).unwrap_or(i64::MAX), lease.ttl))
    }

    pub(crate) fn ids(&self) -> Vec<LeaseId> {
        self.leases.keys().copied().collect()
    }

    /// The one that runs out first at the head.
    pub(crate) fn by_deadline(&self) -> Vec<LeaseId> {
        self.deadlines.iter().map(|(_, id)| *id).collect()
    }

    /// When the next one runs out.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Those that have run out, oldest first, at most `most`.
    pub(crate) fn expired(&self, now: Instant, most: usize) -> Vec<LeaseId> {
        let due = self
            .deadlines
            .iter()
            .take_while(|(deadline, _)| *deadline <= now);
        due.take(most).map(|(_, id)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_lease_runs_out_unless_renewed() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut lessor = Lessor::new(vec![(1, 10), (2, 20)], start);
        assert_eq!(lessor.remaining(1, at(3)).unwrap(), (7, 10));
        assert_eq!(lessor.renew(1, at(9)).unwrap(), 10);
        assert_eq!(lessor.expired(at(18), 9), Vec::<LeaseId>::new());
        assert_eq!(lessor.next_deadline(), Some(at(19)));
        assert_eq!(lessor.expired(at(20), 9), [1, 2]);
        assert!(matches!(
            lessor.renew(1, at(20)),
            Err(StoreError::LeaseNotFound(1))
        ));
        lessor.remove(1);
        assert_eq!(lessor.ids(), [2]);
    }

    #[test]
    fn the_longest_lease_does_not_overflow_the_clock() {
        let mut lessor = Lessor::new(vec![(1, i64::MAX), (2, -5)], Instant::now());
        assert!(lessor.remaining(1, Instant::now()).unwrap().0 > 86_400);
        assert!(lessor.remaining(2, Instant::now()).is_err());
    }
}
