//! Compaction: forgetting history.
//!
//! The decision (`compacted` in the counters) takes effect at once and with it what readers are
//! refused. History in memory is forgotten by not being brought to the database. The cleaning of
//! the database walks its log up to that revision: each entry's key loses the versions
//! before it, and a deletion older than the compaction loses itself. The entries at the very
//! revision stay, as a watch may start there.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use redb::ReadableTable;

use super::flush::Tables;
use super::tables::{Counters, Record};
use crate::error::StoreError;
use crate::types::*;

/// The revision to compact to by itself, once twice as much as is to be kept piled up.
pub(crate) fn due(counters: &Counters, keep: i64) -> Option<Revision> {
    let held = counters.revision - counters.compacted;
    (keep > 0 && held > keep.saturating_mul(2)).then(|| counters.revision - keep)
}

/// When which revision was the newest, so that history can be forgotten by its age.
pub(crate) struct Ages {
    keep: Duration,
    samples: VecDeque<(Instant, Revision)>,
}

impl Ages {
    pub(crate) fn new(keep: Duration) -> Self {
        Self {
            keep,
            samples: VecDeque::new(),
        }
    }

    /// As fine as is worth it.
    fn interval(&self) -> Duration {
        self.keep / 16
    }

    /// Notes the newest revision.
    pub(crate) fn note(&mut self, revision: Revision, now: Instant) {
        let last = self.samples.back();
        if last.is_none_or(|(at, last)| *last < revision && now >= *at + self.interval()) {
            self.samples.push_back((now, revision));
        }
    }

    /// The revision up to which all is old enough to be forgotten, once.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Revision> {
        let old = |(at, _): &(Instant, Revision)| *at + self.keep <= now;
        let gone = self.samples.partition_point(old);
        let due = self.samples.drain(..gone).next_back();
        due.map(|(_, revision)| revision)
    }

    /// When to look again, with `revision` the newest.
    pub(crate) fn next(&self, revision: Revision) -> Option<Instant> {
        let old = self.samples.front().map(|(at, _)| *at + self.keep);
        let noted = match self.samples.back() {
            Some((at, last)) if *last < revision => Some(*at + self.interval()),
            _ => None,
        };
        old.into_iter().chain(noted).min()
    }
}

impl Tables<'_> {
    /// Cleans at most `most` log entries; answers whether there is more to do.
    pub(crate) fn clean(&mut self, most: usize) -> Result<bool, StoreError> {
        let path = self.path;
        let error = |e: redb::StorageError| StoreError::database(path, e);
        let upto = self.base.counters.compacted;
        let mut slice = Vec::with_capacity(most.min(1024));
        for item in self.log.range(..(upto, 0)).map_err(error)?.take(most) {
            let (at, key) = item.map_err(error)?;
            let (revision, step) = at.value();
            slice.push((revision, step, key.value().to_vec()));
        }
        for (revision, step, key) in &slice {
            self.forget_unseen(key, upto)?;
            self.log.remove((*revision, *step)).map_err(error)?;
        }
        Ok(slice.len() == most)
    }

    /// Drops the versions of `key` that a read at `upto` or later cannot see.
    fn forget_unseen(&mut self, key: &[u8], upto: Revision) -> Result<(), StoreError> {
        let path = self.path;
        let error = |e: redb::StorageError| StoreError::database(path, e);
        // The version that a read at `upto` sees, and those before it.
        let mut dead = Vec::new();
        let mut range = self
            .versions
            .range((key, i64::MIN)..=(key, upto))
            .map_err(error)?;
        if let Some(item) = range.next_back() {
            let (at, bytes) = item.map_err(error)?;
            let newest = at.value().1;
            let record = Record::decode(bytes.value(), path)?;
            if record.deleted && newest < upto {
                dead.push(newest);
            }
            for item in range {
                let (at, _) = item.map_err(error)?;
                dead.push(at.value().1);
            }
        }
        for at in dead {
            self.drop_version(key, at)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn history_is_forgotten_by_its_age() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut ages = Ages::new(Duration::from_secs(160));
        ages.note(1, at(0));
        ages.note(5, at(3));
        assert_eq!(ages.next(5), Some(at(10)), "5 is to be noted soon");
        ages.note(7, at(12));
        assert_eq!(ages.next(7), Some(at(160)));
        assert_eq!(ages.due(at(159)), None);
        assert_eq!(ages.due(at(160)), Some(1));
        assert_eq!(ages.due(at(171)), None);
        assert_eq!(ages.next(7), Some(at(172)));
        assert_eq!(ages.due(at(500)), Some(7));
        assert_eq!(ages.next(7), None, "an idle store sleeps");
    }
}
