//! Reading versions: the state as of a revision, from memory and the database together.

use std::cell::{Ref, RefCell};
use std::path::Path;

use bytes::Bytes;

use super::disk::Disk;
use super::memory::Memory;
use super::read::{Bounds, End, version_at, visit};
use super::tables::{Counters, Reader, Record};
use crate::error::StoreError;
use crate::types::*;

/// The whole store as of now: see [`super::memory`] for how the two parts fit.
pub(crate) struct View<'s> {
    memory: &'s Memory,
    disk: &'s Disk,
    /// The store's numbers when it began.
    pub counters: Counters,
    /// The database's snapshot, the memory's generation that it goes with, and how far history was forgotten when it was opened.
    base: RefCell<Option<(u64, Revision, Reader<'s>)>>,
}

impl<'s> View<'s> {
    pub(crate) fn new(memory: &'s Memory, disk: &'s Disk) -> Self {
        Self {
            memory,
            disk,
            counters: memory.counters(),
            base: RefCell::new(None),
        }
    }

    pub(crate) fn memory(&self) -> &'s Memory {
        self.memory
    }

    pub(crate) fn path(&self) -> &'s Path {
        self.disk.path()
    }

    /// The database's part, for a look at revision `at` that found memory at `generation`.
    ///
    /// # Errors
    /// `Compacted` where `at` has been compacted since the look: what it would have seen may have gone from memory for good.
    pub(crate) fn base(
        &self,
        generation: u64,
        at: Revision,
    ) -> Result<Ref<'_, Reader<'s>>, StoreError> {
        let of = self.base.borrow().as_ref().map(|(of, ..)| *of);
        let held = of == Some(generation);
        if !held {
            // The old one first: it keeps pages from being used again.
            self.base.replace(None);
            let reader = Reader::new(self.disk.begin_read()?, self.disk.path())?;
            // After it: a flush may have come in between, but no later one counts.
            let compacted = self.memory.counters().compacted;
            self.base.replace(Some((generation, compacted, reader)));
        }
        let base = self.base.borrow();
        if let Some((_, compacted, _)) = *base
            && compacted > at
        {
            return Err(StoreError::Compacted {
                requested: at,
                compacted,
            });
        }
        let missing = || StoreError::Closed {
            path: self.disk.path().to_owned(),
        };
        Ref::filter_map(base, |base| base.as_ref().map(|(.., reader)| reader))
            .map_err(|_| missing())
    }

    /// The version of `key` that stood at `at`, with its revision; deletions are answered too.
    pub(crate) fn version_at<T>(
        &self,
        key: &[u8],
        at: Revision,
        take: impl FnOnce(Revision, Record<'_>) -> T,
    ) -> Result<Option<T>, StoreError> {
        let (found, generation) = self.memory.version_at(key, at);
        match found {
            Some(version) => {
                let record = Record::decode(version.record(), self.path())?;
                Ok(Some(take(version.revision, record)))
            }
            None => {
                let base = self.base(generation, at)?;
                version_at(base.versions(), key, at, self.path(), take)
            }
        }
    }

    /// The live key as it stood at `at`.
    pub(crate) fn live_at(&self, key: &[u8], at: Revision) -> Result<Option<KeyValue>, StoreError> {
        let take = |revision, record: Record<'_>| {
            (!record.deleted).then(|| record.to_kv(key, revision, true))
        };
        Ok(self.version_at(key, at, take)?.flatten())
    }

    /// Visits every live key in `bounds` as of `at`, by key.
    pub(crate) fn visit(
        &self,
        bounds: &Bounds,
        at: Revision,
        mut each: impl FnMut(&[u8], Revision, Record<'_>),
    ) -> Result<(), StoreError> {
        if bounds.is_empty() {
            return Ok(());
        }
        if bounds.end == End::Single {
            let key = &bounds.start[..];
            self.version_at(key, at, |revision, record| {
                if !record.deleted {
                    each(key, revision, record);
                }
            })?;
            return Ok(());
        }
        let path = self.path();
        let (recent, generation) = self.memory.range(bounds, at);
        let base = self.base(generation, at)?;
        let mut decoded = Vec::with_capacity(recent.len());
        for entry in &recent {
            let record = Record::decode(entry.record(), path)?;
            decoded.push((entry.key(), entry.revision, record));
        }
        let mut recent = decoded.into_iter().peekable();
        let mut tell = |(key, revision, record): (&[u8], Revision, Record<'_>)| {
            if !record.deleted {
                each(key, revision, record);
            }
        };
        visit(
            base.versions(),
            bounds,
            at,
            path,
            |key, revision, record| {
                while let Some(newer) = recent.next_if(|(recent, ..)| *recent < key) {
                    tell(newer);
                }
                match recent.next_if(|(recent, ..)| *recent == key) {
                    Some(newer) => tell(newer),
                    None => tell((key, revision, record)),
                }
            },
        )?;
        recent.for_each(tell);
        Ok(())
    }

    /// The live keys of a lease as of `at`, in order, with their mod revisions.
    pub(crate) fn lease_keys(
        &self,
        id: LeaseId,
        at: Revision,
    ) -> Result<Vec<(Bytes, Revision)>, StoreError> {
        let mut keys = self.memory.attached(id);
        // After it, as what left memory in between must be in the snapshot.
        let generation = self.memory.generation();
        keys.extend(self.base(generation, at)?.lease_keys(id)?);
        keys.sort_unstable();
        keys.dedup();
        let mut held = Vec::with_capacity(keys.len());
        for key in keys {
            let holds = |revision, record: Record<'_>| {
                (!record.deleted && record.lease == id).then_some(revision)
            };
            if let Some(revision) = self.version_at(&key, at, holds)?.flatten() {
                held.push((key, revision));
            }
        }
        Ok(held)
    }
}
