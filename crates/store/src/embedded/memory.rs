//! What the log holds and the database does not yet: the newest part of the store, in memory.
//!
//! ```text
//! database: all up to 40     memory: 41 … 55 visible, 56 being applied     log: 41 … 55
//! ```
//! A read takes what it finds here and the rest from the database. Entries leave only after the database has them, and
//! `generation` counts that. So whoever looks here first and opens its snapshot of the database after, misses nothing; and a
//! snapshot opened at the same generation as the look need not be opened again. A version that a compaction has made
//! useless need not reach the database at all, so that a read which finds itself compacted when it opens its snapshot begins
//! anew (see [`super::view::View`]).

mod portion;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::heads::{Head, Heads};
use super::log::{Change, Former};
use super::read::{Bounds, End};
use super::tables::{Counters, Record, corrupt, cost};
use crate::error::StoreError;
use crate::types::{LeaseId, Revision};
use std::path::Path;

pub(crate) use portion::{Amount, Portion};

/// One version of a key.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub revision: Revision,
    /// What it took the place of.
    pub former: Former,
    /// As [`Record`] encodes it.
    pub record: Bytes,
}

/// A version with its key, on its way to the database or to a watch.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: Bytes,
    pub version: Version,
}

/// A group of writes that is in the log.
#[derive(Clone, Copy, Debug)]
struct Logged {
    sequence: u64,
    /// The newest revision after it.
    revision: Revision,
    /// What its versions take here.
    bytes: u64,
}

/// How far the database has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Base {
    pub counters: Counters,
    /// The newest frame of the log that it holds.
    pub sequence: u64,
}

#[derive(Default)]
pub(crate) struct Inner {
    versions: BTreeMap<Bytes, Vec<Version>>,
    /// The key of each version by revision and step.
    log: VecDeque<(Revision, Bytes)>,
    /// Keys that got a lease here; they may have lost it since.
    attached: BTreeMap<LeaseId, BTreeMap<Bytes, Revision>>,
    groups: VecDeque<Logged>,
    leases: VecDeque<(u64, LeaseId, Option<i64>)>,
    base: Base,
    /// Live keys of the database that were moved there lately: their next put need not look there.
    heads: Heads,
    /// What readers may see.
    visible: Counters,
    /// Bytes against the quota of what is here.
    bytes: u64,
    /// Bytes that the groups take.
    waiting: u64,
    generation: u64,
}

/// See the module.
pub(crate) struct Memory(RwLock<Inner>);

/// What a version takes in memory beside its bytes, about.
const OVERHEAD: usize = 200;
/// Entries looked at under one lock.
const CHUNK: usize = 256;

impl Memory {
    pub(crate) fn new(base: Base) -> Self {
        Self(RwLock::new(Inner {
            base,
            visible: base.counters,
            ..Inner::default()
        }))
    }

    /// Becomes `other`, which was read anew.
    pub(crate) fn replace(&self, other: Self) {
        let mut fresh = other.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut inner = self.write();
        fresh.generation = inner.generation + 1;
        *inner = fresh;
    }

    pub(crate) fn generation(&self) -> u64 {
        self.read().generation
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What readers may see; bytes in use included.
    pub(crate) fn counters(&self) -> Counters {
        let inner = self.read();
        Counters {
            bytes: inner.base.counters.bytes + inner.bytes,
            ..inner.visible
        }
    }

    /// Bytes that wait for the database, about.
    pub(crate) fn waiting(&self) -> u64 {
        self.read().waiting
    }

    /// The newest frame that the database holds.
    pub(crate) fn flushed(&self) -> u64 {
        self.read().base.sequence
    }

    /// Adds a version, invisible yet; answers its key and its record as they are kept.
    pub(crate) fn insert(
        &self,
        key: &[u8],
        revision: Revision,
        former: Former,
        record: &Record<'_>,
    ) -> (Bytes, Bytes) {
        // One allocation for both, so that no request's buffer is kept for its key.
        let encoded = record.encoded_len();
        let mut buffer = Vec::with_capacity(key.len() + encoded);
        buffer.extend_from_slice(key);
        record.encode(&mut buffer);
        let mut kept = Bytes::from(buffer);
        let encoded = kept.split_off(key.len());
        let version = Version {
            revision,
            former,
            record: encoded.clone(),
        };
        self.write().insert(kept.clone(), version, record.lease);
        (kept, encoded)
    }

    /// The newest version of `key` not after `at`, and the generation looked at.
    pub(crate) fn version_at(&self, key: &[u8], at: Revision) -> (Option<Version>, u64) {
        let inner = self.read();
        let found = inner
            .versions
            .get(key)
            .and_then(|versions| newest(versions, at));
        (found.cloned(), inner.generation)
    }

    /// The newest version of a key that is not here but was a while ago.
    pub(crate) fn head(&self, key: &[u8]) -> Option<Head> {
        self.read().heads.get(key)
    }

    /// The newest version not after `at` of every key in `bounds` that has one here, by key, deletions too; and the generation.
    pub(crate) fn range(&self, bounds: &Bounds, at: Revision) -> (Vec<Entry>, u64) {
        let mut found = Vec::new();
        let mut from = Bound::Included(bounds.start.clone());
        loop {
            let inner = self.read();
            let generation = inner.generation;
            let upto = match &bounds.end {
                End::Before(end) => Bound::Excluded(&end[..]),
                End::Single => Bound::Included(&bounds.start[..]),
                End::Open => Bound::Unbounded,
            };
            let start = from.as_ref().map(|key| &key[..]);
            let mut last = None;
            for (key, versions) in inner.versions.range::<[u8], _>((start, upto)).take(CHUNK) {
                if let Some(version) = newest(versions, at) {
                    found.push(Entry {
                        key: key.clone(),
                        version: version.clone(),
                    });
                }
                last = Some(key.clone());
            }
            match last {
                Some(key) => from = Bound::Excluded(key),
                None => return (found, generation),
            }
        }
    }

    /// All versions up to `upto` that are here, by key and revision. Nothing may be flushed meanwhile.
    pub(crate) fn all(&self, upto: Revision) -> Vec<Entry> {
        let inner = self.read();
        let keys = inner.log.partition_point(|(revision, _)| *revision <= upto);
        drop(inner);
        self.versions_of(keys, upto)
    }

    /// Keys that got lease `id` here; whether they still have it is to be looked at.
    pub(crate) fn attached(&self, id: LeaseId) -> Vec<Bytes> {
        let inner = self.read();
        let keys = inner.attached.get(&id);
        keys.map_or_else(Vec::new, |keys| keys.keys().cloned().collect())
    }

    /// Versions of the log from `from` to `upto` while `more` says so between revisions; Err with how far the database has
    /// come where the first ones must be read there.
    pub(crate) fn logged(
        &self,
        from: Revision,
        upto: Revision,
        mut more: impl FnMut(Revision, &Bytes) -> bool,
    ) -> Result<(), Revision> {
        let inner = self.read();
        if from <= inner.base.counters.revision {
            return Err(inner.base.counters.revision);
        }
        let begin = inner.log.partition_point(|(revision, _)| *revision < from);
        for (revision, key) in inner.log.range(begin..) {
            if *revision > upto || !more(*revision, key) {
                break;
            }
        }
        Ok(())
    }

    /// A group is in the log: readers may see it. `bytes` is the [`weight`] of its versions.
    pub(crate) fn publish(
        &self,
        sequence: u64,
        visible: Counters,
        bytes: u64,
        leases: impl IntoIterator<Item = (LeaseId, Option<i64>)>,
    ) {
        self.write().publish(sequence, visible, bytes, leases);
    }

    /// Applies a frame that was read from the log.
    pub(crate) fn replay(
        &self,
        sequence: u64,
        changes: Vec<Change>,
        path: &Path,
    ) -> Result<(), StoreError> {
        let mut inner = self.write();
        let mut visible = inner.visible;
        let (mut bytes, mut leases) = (0, Vec::new());
        for change in changes {
            match change {
                Change::Write {
                    revision,
                    former,
                    key,
                    record,
                } => {
                    if revision < visible.revision || revision > visible.revision + 1 {
                        return Err(corrupt(path, "the log's revisions are out of order"));
                    }
                    visible.revision = revision;
                    let lease = Record::decode(&record, path)?.lease;
                    bytes += weight(&key, &record);
                    inner.insert(
                        key,
                        Version {
                            revision,
                            former,
                            record,
                        },
                        lease,
                    );
                }
                Change::Grant { id, ttl } => leases.push((id, Some(ttl))),
                Change::Revoke { id } => leases.push((id, None)),
                // The database may be ahead of this frame.
                Change::Compact { revision } => visible.compacted = visible.compacted.max(revision),
            }
        }
        inner.publish(sequence, visible, bytes, leases);
        Ok(())
    }

    /// Leases granted (with their time) and ended, in order.
    pub(crate) fn leases(&self) -> Vec<(LeaseId, Option<i64>)> {
        let inner = self.read();
        inner
            .leases
            .iter()
            .map(|(_, id, ttl)| (*id, *ttl))
            .collect()
    }

    /// The versions up to `upto` of the keys that the first `logged` entries of the log name.
    fn versions_of(&self, logged: usize, upto: Revision) -> Vec<Entry> {
        let mut keys: Vec<Bytes> = Vec::with_capacity(logged);
        while keys.len() < logged {
            // The head stays where it is: only flushing moves it, and this is part of that.
            let inner = self.read();
            let end = logged.min(keys.len() + CHUNK);
            keys.extend(inner.log.range(keys.len()..end).map(|(_, key)| key.clone()));
        }
        keys.sort_unstable();
        keys.dedup();
        let mut entries = Vec::with_capacity(logged);
        for some in keys.chunks(CHUNK) {
            let inner = self.read();
            for key in some {
                let versions = inner.versions.get(key).into_iter().flatten();
                let older = versions.take_while(|version| version.revision <= upto);
                entries.extend(older.map(|version| Entry {
                    key: key.clone(),
                    version: version.clone(),
                }));
            }
        }
        entries
    }

    pub(crate) fn base(&self) -> Base {
        self.read().base
    }
}

/// What a version takes in memory.
pub(crate) fn weight(key: &[u8], record: &[u8]) -> u64 {
    (key.len() + record.len() + OVERHEAD) as u64
}

fn newest(versions: &[Version], at: Revision) -> Option<&Version> {
    let upto = versions.partition_point(|version| version.revision <= at);
    versions.get(upto.checked_sub(1)?)
}

impl Inner {
    fn insert(&mut self, key: Bytes, version: Version, lease: LeaseId) {
        self.bytes += cost(key.len(), version.record.len());
        self.log.push_back((version.revision, key.clone()));
        if lease != 0 {
            self.attached
                .entry(lease)
                .or_default()
                .insert(key.clone(), version.revision);
        }
        match self.versions.get_mut(&key) {
            Some(versions) => versions.push(version),
            None => {
                // Most keys have one version here, and this takes no more than that.
                self.versions.insert(key, vec![version]);
            }
        }
    }

    fn publish(
        &mut self,
        sequence: u64,
        visible: Counters,
        bytes: u64,
        leases: impl IntoIterator<Item = (LeaseId, Option<i64>)>,
    ) {
        self.visible = visible;
        self.leases
            .extend(leases.into_iter().map(|(id, ttl)| (sequence, id, ttl)));
        self.waiting += bytes;
        self.groups.push_back(Logged {
            sequence,
            revision: visible.revision,
            bytes,
        });
    }

    fn forget(&mut self, key: &Bytes, upto: Revision) {
        if let Some(versions) = self.versions.get_mut(key) {
            versions.retain(|version| version.revision > upto);
            if versions.is_empty() {
                self.versions.remove(key);
            }
        }
    }

    fn detach(&mut self, lease: LeaseId, key: &Bytes, upto: Revision) {
        if let Some(keys) = self.attached.get_mut(&lease) {
            if keys.get(key).is_some_and(|revision| *revision <= upto) {
                keys.remove(key);
            }
            if keys.is_empty() {
                self.attached.remove(&lease);
            }
        }
    }
}
