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

mod entry;
mod portion;

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry as Place};
use std::ops::Bound;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::heads::{Head, Heads};
use super::log::Change;
use super::read::{Bounds, End};
use super::tables::{Counters, Record, corrupt, cost};
use crate::error::StoreError;
use crate::types::{LeaseId, Revision};
use std::path::Path;

pub(crate) use entry::{Entry, Key};
pub(crate) use portion::{Amount, Portion};

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
    /// All versions, by revision and step. Their places count on when the first ones leave.
    log: VecDeque<Entry>,
    /// The place of the first.
    first: u64,
    /// Each key's newest version.
    newest: BTreeMap<Key, u64>,
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
const OVERHEAD: usize = 150;
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

    /// Adds a version, invisible yet.
    pub(crate) fn insert(&self, entry: Entry, lease: LeaseId) {
        self.write().insert(entry, lease);
    }

    /// The newest version of `key` not after `at`, and the generation looked at.
    pub(crate) fn version_at(&self, key: &[u8], at: Revision) -> (Option<Entry>, u64) {
        let inner = self.read();
        let newest = match inner.in_base(at) {
            true => None,
            false => inner.newest.get(key).copied(),
        };
        let found = newest.and_then(|place| inner.not_after(place, at));
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
            if inner.in_base(at) {
                return (Vec::new(), generation);
            }
            let upto = match &bounds.end {
                End::Before(end) => Bound::Excluded(&end[..]),
                End::Single => Bound::Included(&bounds.start[..]),
                End::Open => Bound::Unbounded,
            };
            let start = from.as_ref().map(|key| &key[..]);
            let mut last = None;
            for (key, place) in inner.newest.range::<[u8], _>((start, upto)).take(CHUNK) {
                found.extend(inner.not_after(*place, at).cloned());
                last = Some(key);
            }
            match last {
                Some(key) => from = Bound::Excluded(Bytes::copy_from_slice(key)),
                None => return (found, generation),
            }
        }
    }

    /// All versions up to `upto` that are here, by key and revision. Nothing may be flushed meanwhile.
    pub(crate) fn all(&self, upto: Revision) -> Vec<Entry> {
        let inner = self.read();
        let versions = inner.upto(upto);
        drop(inner);
        self.sorted(versions)
    }

    /// Keys that got lease `id` here; whether they still have it is to be looked at.
    pub(crate) fn attached(&self, id: LeaseId) -> Vec<Bytes> {
        let inner = self.read();
        let keys = inner.attached.get(&id);
        keys.map_or_else(Vec::new, |keys| keys.keys().cloned().collect())
    }

    /// Versions from `from` to `upto`, each with the one before it of its key where that is here, too, while `more` says so
    /// between revisions; Err with how far the database has come where the first ones must be read there.
    pub(crate) fn logged(
        &self,
        from: Revision,
        upto: Revision,
        mut more: impl FnMut(&Entry, Option<&Entry>) -> bool,
    ) -> Result<(), Revision> {
        let inner = self.read();
        if from <= inner.base.counters.revision {
            return Err(inner.base.counters.revision);
        }
        let begin = inner.upto(from - 1);
        for (at, entry) in inner.log.range(begin..).enumerate() {
            let place = inner.first + (begin + at) as u64;
            if entry.revision > upto || !more(entry, inner.before(place, entry)) {
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
        changes: Vec<Change<'_>>,
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
                    let lease = Record::decode(record, path)?.lease;
                    let entry = Entry::new(revision, former, &[key, record].concat(), key.len());
                    bytes += weight(&entry);
                    inner.insert(entry, lease);
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

    /// The first so many versions, by key and revision. Nothing may leave meanwhile.
    fn sorted(&self, versions: usize) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(versions);
        while entries.len() < versions {
            let inner = self.read();
            let end = versions.min(entries.len() + CHUNK);
            entries.extend(inner.log.range(entries.len()..end).cloned());
        }
        entries.sort_unstable_by(|a, b| (a.key(), a.revision).cmp(&(b.key(), b.revision)));
        entries
    }

    pub(crate) fn base(&self) -> Base {
        self.read().base
    }
}

/// What a version takes in memory.
pub(crate) fn weight(entry: &Entry) -> u64 {
    (entry.len() + OVERHEAD) as u64
}

impl Inner {
    fn insert(&mut self, mut entry: Entry, lease: LeaseId) {
        self.bytes += cost(entry.key().len(), entry.record().len());
        if lease != 0 {
            let keys = self.attached.entry(lease).or_default();
            keys.insert(Bytes::copy_from_slice(entry.key()), entry.revision);
        }
        let place = self.first + self.log.len() as u64;
        match self.newest.get_mut(entry.key()) {
            Some(newest) => {
                entry.stands_after(place - *newest);
                *newest = place;
            }
            None => {
                self.newest.insert(entry.owned_key(), place);
            }
        }
        self.log.push_back(entry);
    }

    /// The database has the store as of then: nobody need walk through newer versions to find that out.
    fn in_base(&self, at: Revision) -> bool {
        at <= self.base.counters.revision
    }

    fn at(&self, place: u64) -> Option<&Entry> {
        self.log.get(place.checked_sub(self.first)? as usize)
    }

    /// The version before the one at `place`, which is `entry`, of its key, if it is here.
    fn before(&self, place: u64, entry: &Entry) -> Option<&Entry> {
        self.at(place.checked_sub(entry.distance()?)?)
    }

    /// The newest version not after `at` of the key whose newest of all is at `place`.
    fn not_after(&self, mut place: u64, at: Revision) -> Option<&Entry> {
        let mut entry = self.at(place)?;
        while entry.revision > at {
            place = place.checked_sub(entry.distance()?)?;
            entry = self.at(place)?;
        }
        Some(entry)
    }

    /// How many versions there are up to a revision.
    fn upto(&self, revision: Revision) -> usize {
        self.log.partition_point(|entry| entry.revision <= revision)
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

    /// The oldest version leaves: the database has it.
    fn leave(&mut self) {
        let Some(entry) = self.log.pop_front() else {
            return;
        };
        let place = self.first;
        self.first += 1;
        if let Some(lease) = Record::lease_of(entry.record()) {
            self.detach(lease, entry.key(), entry.revision);
        }
        let Place::Occupied(found) = self.newest.entry(entry.owned_key()) else {
            return;
        };
        let newest = *found.get();
        if newest == place {
            found.remove();
            self.heads.remember(&entry);
        } else if found.key().is_of(&entry) {
            // The name is to be the newest's, so that this version's bytes do not stay for it.
            found.remove();
            if let Some(key) = self.at(newest).map(Entry::owned_key) {
                self.newest.insert(key, newest);
            }
        }
    }

    fn detach(&mut self, lease: LeaseId, key: &[u8], upto: Revision) {
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
