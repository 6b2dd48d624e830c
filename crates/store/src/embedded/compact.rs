//! Compaction: forgetting history.
//!
//! The decision (`compacted` in the counters) takes effect at once and with it what readers are
//! refused. History in memory is forgotten by not being brought to the database. The cleaning of
//! the database walks its log up to that revision: each entry's key loses the versions
//! before it, and a deletion older than the compaction loses itself. The entries at the very
//! revision stay, as a watch may start there.

use redb::ReadableTable;

use super::flush::Tables;
use super::tables::{Counters, Record};
use crate::error::StoreError;
use crate::types::*;

/// The revision to compact to by itself, once half as much again as is to be kept piled up.
pub(crate) fn due(counters: &Counters, keep: i64) -> Option<Revision> {
    let held = counters.revision - counters.compacted;
    (keep > 0 && held > keep.saturating_add(keep / 2)).then(|| counters.revision - keep)
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
                dead.push((newest, bytes.value().len()));
            }
            for item in range {
                let (at, bytes) = item.map_err(error)?;
                dead.push((at.value().1, bytes.value().len()));
            }
        }
        self.drop_versions(key, &dead)
    }
}
