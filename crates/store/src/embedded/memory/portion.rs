//! What goes to the database next, and that it has gone.

use super::{Base, CHUNK, Entry, Memory};
use crate::embedded::tables::{Counters, cost};
use crate::types::LeaseId;

/// What is to be moved to the database next.
pub(crate) struct Portion {
    /// Where the database will stand; the bytes are to be counted yet.
    pub base: Base,
    pub leases: Vec<(LeaseId, Option<i64>)>,
    /// Entries of the log, from its head.
    pub entries: usize,
}

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    /// What is compacted.
    Compacted,
    /// The older half.
    Half,
    All,
}

impl Memory {
    /// What to move to the database.
    pub(crate) fn portion(&self, amount: Amount) -> Portion {
        let inner = self.read();
        let groups = match amount {
            Amount::All => inner.groups.len(),
            Amount::Compacted => inner
                .groups
                .partition_point(|group| group.revision <= inner.visible.compacted),
            Amount::Half => {
                let mut older = 0;
                let within = inner.groups.iter().take_while(|group| {
                    older += group.bytes;
                    older <= inner.waiting / 2
                });
                // One at least, or nothing would ever go.
                within.count().max(1).min(inner.groups.len())
            }
        };
        let last = groups
            .checked_sub(1)
            .and_then(|last| inner.groups.get(last));
        let standing = &inner.base;
        let (sequence, revision) = match last {
            Some(group) => (group.sequence, group.revision),
            None => (standing.sequence, standing.counters.revision),
        };
        let counters = Counters {
            revision,
            // Compacted at most to where it stands, so that the database is a whole store by itself.
            compacted: inner.visible.compacted.min(revision),
            bytes: standing.counters.bytes,
        };
        let leases = inner.leases.iter().take_while(|(of, ..)| *of <= sequence);
        Portion {
            base: Base { counters, sequence },
            leases: leases.map(|(_, id, ttl)| (*id, *ttl)).collect(),
            entries: inner.upto(revision),
        }
    }

    /// The versions of a portion, by key and revision.
    pub(crate) fn entries(&self, portion: &Portion) -> Vec<Entry> {
        self.sorted(portion.entries)
    }

    /// The database has the portion: it goes from here.
    pub(crate) fn moved(&self, portion: &Portion, entries: &[Entry], base: Base) {
        {
            let mut inner = self.write();
            let freed: u64 = entries
                .iter()
                .map(|entry| cost(entry.key().len(), entry.record().len()))
                .sum();
            inner.bytes = inner.bytes.saturating_sub(freed);
            inner.base = base;
            inner.generation += 1;
            let gone = inner
                .groups
                .partition_point(|group| group.sequence <= base.sequence);
            let weight: u64 = inner.groups.drain(..gone).map(|group| group.bytes).sum();
            inner.waiting -= weight;
            let gone = inner
                .leases
                .partition_point(|(sequence, ..)| *sequence <= base.sequence);
            inner.leases.drain(..gone);
        }
        let mut left = portion.entries;
        while left > 0 {
            let mut inner = self.write();
            let some = left.min(CHUNK);
            (0..some).for_each(|_| inner.leave());
            left -= some;
            if left == 0 && inner.log.capacity() > 4 * inner.log.len() + CHUNK {
                let keep = 2 * inner.log.len();
                inner.log.shrink_to(keep);
            }
        }
    }
}
