//! Ranges, compares and hashes, and the database's part of a look at a revision.

use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;
use redb::ReadableTable;

use super::check;
use super::tables::Record;
use super::view::View;
use crate::error::StoreError;
use crate::types::*;

/// The `versions` table, of a snapshot or of who moves versions there.
pub(crate) trait Versions: ReadableTable<(&'static [u8], i64), &'static [u8]> {}
impl<T: ReadableTable<(&'static [u8], i64), &'static [u8]>> Versions for T {}

type Item<'a> = (
    redb::AccessGuard<'a, (&'static [u8], i64)>,
    redb::AccessGuard<'a, &'static [u8]>,
);

/// A key range as etcd writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub start: Bytes,
    pub end: End,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Only the start.
    Single,
    /// No end.
    Open,
    /// The first key after the range.
    Before(Bytes),
}

impl Bounds {
    pub(crate) fn new(key: &Bytes, range_end: &Bytes) -> Self {
        let end = match &range_end[..] {
            b"" => End::Single,
            b"\0" => End::Open,
            _ => End::Before(range_end.clone()),
        };
        Self {
            start: key.clone(),
            end,
        }
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Single => key == self.start,
            End::Open => key >= &self.start[..],
            End::Before(end) => key >= &self.start[..] && key < &end[..],
        }
    }

    /// A range whose end is not after its start holds nothing (and redb would not take it).
    pub(crate) fn is_empty(&self) -> bool {
        matches!(&self.end, End::Before(end) if *end <= self.start)
    }

    fn after(&self) -> Bound<(&[u8], i64)> {
        match &self.end {
            End::Single => Bound::Included((&self.start[..], i64::MAX)),
            End::Open => Bound::Unbounded,
            End::Before(end) => Bound::Excluded((&end[..], i64::MIN)),
        }
    }
}

/// The version of `key` in the database that stood at `at`, with its revision; deletions are answered too.
pub(crate) fn version_at<T>(
    versions: &impl Versions,
    key: &[u8],
    at: Revision,
    path: &Path,
    take: impl FnOnce(Revision, Record<'_>) -> T,
) -> Result<Option<T>, StoreError> {
    let error = |e: redb::StorageError| StoreError::database(path, e);
    let mut range = versions.range((key, i64::MIN)..=(key, at)).map_err(error)?;
    let Some(item) = range.next_back() else {
        return Ok(None);
    };
    let (entry, bytes) = item.map_err(error)?;
    let record = Record::decode(bytes.value(), path)?;
    Ok(Some(take(entry.value().1, record)))
}

/// After so many versions of one key in a row, jump to the wanted one instead of walking on.
const WALK: usize = 8;

/// Visits every live key of the database in `bounds` as of `at`, by key.
pub(crate) fn visit(
    versions: &impl Versions,
    bounds: &Bounds,
    at: Revision,
    path: &Path,
    mut each: impl FnMut(&[u8], Revision, Record<'_>),
) -> Result<(), StoreError> {
    let error = |e: redb::StorageError| StoreError::database(path, e);
    let mut from = Bound::Included((bounds.start.to_vec(), i64::MIN));
    loop {
        let start = match &from {
            Bound::Included((key, revision)) => Bound::Included((&key[..], *revision)),
            Bound::Excluded((key, revision)) => Bound::Excluded((&key[..], *revision)),
            Bound::Unbounded => Bound::Unbounded,
        };
        let range = versions
            .range::<(&[u8], i64)>((start, bounds.after()))
            .map_err(error)?;
        // The newest version not after `at` seen so far of the key that the walk is in.
        let mut held: Option<Item<'_>> = None;
        let mut jump = None;
        let mut run = 0;
        let mut current: Vec<u8> = Vec::new();
        for item in range {
            let (entry, bytes) = item.map_err(error)?;
            let (key, revision) = entry.value();
            if key != current {
                if let Some((entry, bytes)) = held.take() {
                    let (key, revision) = entry.value();
                    let record = Record::decode(bytes.value(), path)?;
                    if !record.deleted {
                        each(key, revision, record);
                    }
                }
                current.clear();
                current.extend_from_slice(key);
                run = 0;
            }
            run += 1;
            if run > WALK {
                version_at(versions, &current, at, path, |revision, record| {
                    if !record.deleted {
                        each(&current, revision, record);
                    }
                })?;
                held = None;
                jump = Some(current);
                break;
            }
            if revision <= at {
                held = Some((entry, bytes));
            }
        }
        if let Some((entry, bytes)) = held {
            let (key, revision) = entry.value();
            let record = Record::decode(bytes.value(), path)?;
            if !record.deleted {
                each(key, revision, record);
            }
        }
        match jump {
            Some(key) => from = Bound::Excluded((key, i64::MAX)),
            None => return Ok(()),
        }
    }
}

/// Hashes what a reader can still see, so that a compaction that is decided but not yet cleaned up after makes no difference.
/// Nothing may be flushed meanwhile.
pub(crate) fn hash(view: &View<'_>, requested: Revision) -> Result<HashResponse, StoreError> {
    let counters = view.counters;
    check::revision(requested, &counters)?;
    let upto = if requested > 0 {
        requested
    } else {
        counters.revision
    };
    let mut hashing = Hashing {
        compacted: counters.compacted,
        upto,
        standing: None,
        hasher: crc32fast::Hasher::new(),
    };
    let path = view.path();
    let mut recent = view.memory().all(counters.revision).into_iter().peekable();
    let base = view.base(view.memory().generation(), counters.revision)?;
    let error = |e: redb::StorageError| StoreError::database(path, e);
    let all = base.versions().range::<(&[u8], i64)>(..).map_err(error)?;
    for item in all {
        let (at, record) = item.map_err(error)?;
        let (key, revision) = at.value();
        // A key's versions in memory come after those in the database.
        while let Some(entry) = recent.next_if(|entry| entry.key() < key) {
            hashing.add(entry.key(), entry.revision, entry.record(), path)?;
        }
        hashing.add(key, revision, record.value(), path)?;
    }
    for entry in recent {
        hashing.add(entry.key(), entry.revision, entry.record(), path)?;
    }
    hashing.stands(path)?;
    Ok(HashResponse {
        revision: counters.revision,
        hash: hashing.hasher.finalize(),
        hash_revision: upto,
        compact_revision: counters.compacted,
    })
}

/// Versions by key and revision, as they come.
struct Hashing {
    compacted: Revision,
    upto: Revision,
    /// The newest version of a key that is not after the compaction: what stands there, unless it is a deletion.
    standing: Option<(Vec<u8>, Revision, Vec<u8>)>,
    hasher: crc32fast::Hasher,
}

impl Hashing {
    fn add(
        &mut self,
        key: &[u8],
        revision: Revision,
        record: &[u8],
        path: &Path,
    ) -> Result<(), StoreError> {
        let same = self.standing.as_ref().is_some_and(|(of, ..)| of == key);
        if !same || revision > self.compacted {
            self.stands(path)?;
        }
        if revision <= self.compacted {
            self.standing = Some((key.to_vec(), revision, record.to_vec()));
        } else if revision <= self.upto {
            self.hash(key, revision, record);
        }
        Ok(())
    }

    /// What stood there is seen by a reader.
    fn stands(&mut self, path: &Path) -> Result<(), StoreError> {
        if let Some((key, revision, record)) = self.standing.take()
            && !Record::decode(&record, path)?.deleted
        {
            self.hash(&key, revision, &record);
        }
        Ok(())
    }

    fn hash(&mut self, key: &[u8], revision: Revision, record: &[u8]) {
        self.hasher.update(&(key.len() as u64).to_le_bytes());
        self.hasher.update(key);
        self.hasher.update(&revision.to_le_bytes());
        self.hasher.update(&(record.len() as u64).to_le_bytes());
        self.hasher.update(record);
    }
}

/// Answers a range as etcd does; `current` is the newest revision to be seen.
pub(crate) fn range(
    view: &View<'_>,
    request: &RangeRequest,
    current: Revision,
) -> Result<RangeResponse, StoreError> {
    let at = if request.revision > 0 {
        request.revision
    } else {
        current
    };
    let bounds = Bounds::new(&request.key, &request.range_end);
    let limit = usize::try_from(request.limit).unwrap_or(0);
    let filtered = request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0;
    // Sorting and filters need all of it; else one more than asked for tells whether there is more.
    let most = match limit {
        0 => usize::MAX,
        _ if filtered || request.sort_order != SortOrder::None => usize::MAX,
        _ => limit + 1,
    };
    let within =
        |revision, min, max| (min == 0 || revision >= min) && (max == 0 || revision <= max);
    let with_value = !request.keys_only || request.sort_target == SortTarget::Value;
    let mut count = 0;
    let mut kvs = Vec::new();
    view.visit(&bounds, at, |key, revision, record| {
        count += 1;
        if !request.count_only
            && kvs.len() < most
            && within(revision, request.min_mod_revision, request.max_mod_revision)
            && within(
                record.create_revision,
                request.min_create_revision,
                request.max_create_revision,
            )
        {
            kvs.push(record.to_kv(key, revision, with_value));
        }
    })?;
    sort(&mut kvs, request.sort_target, request.sort_order);
    let more = limit > 0 && kvs.len() > limit;
    if more {
        kvs.truncate(limit);
    }
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value.clear());
    }
    Ok(RangeResponse {
        revision: current,
        kvs,
        more,
        count,
    })
}

fn sort(kvs: &mut [KeyValue], target: SortTarget, order: SortOrder) {
    // They come by key already.
    if target == SortTarget::Key && order != SortOrder::Descend {
        return;
    }
    kvs.sort_by(|a, b| {
        let ordering = match target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        if order == SortOrder::Descend {
            ordering.reverse()
        } else {
            ordering
        }
    });
}

/// Whether a compare holds as of `at`.
pub(crate) fn holds(view: &View<'_>, compare: &Compare, at: Revision) -> Result<bool, StoreError> {
    let bounds = Bounds::new(&compare.key, &compare.range_end);
    let (mut any, mut all) = (false, true);
    let meets = |record: &Record<'_>, mod_revision: Revision| {
        let ordering = match &compare.target {
            CompareTarget::Version(given) => record.version.cmp(given),
            CompareTarget::Create(given) => record.create_revision.cmp(given),
            CompareTarget::Mod(given) => mod_revision.cmp(given),
            CompareTarget::Value(given) => record.value.cmp(&given[..]),
            CompareTarget::Lease(given) => record.lease.cmp(given),
        };
        match compare.result {
            CompareResult::Equal => ordering.is_eq(),
            CompareResult::Greater => ordering.is_gt(),
            CompareResult::Less => ordering.is_lt(),
            CompareResult::NotEqual => ordering.is_ne(),
        }
    };
    view.visit(&bounds, at, |_, revision, record| {
        any = true;
        all &= meets(&record, revision);
    })?;
    if any {
        return Ok(all);
    }
    // Nothing there compares as zeros, except for values.
    let nothing = Record {
        deleted: false,
        create_revision: 0,
        version: 0,
        lease: 0,
        step: 0,
        value: b"",
    };
    Ok(!matches!(compare.target, CompareTarget::Value(_)) && meets(&nothing, 0))
}
