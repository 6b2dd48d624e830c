//! Requests and answers, field by field those of etcd's `rpc.proto` (v3).

use bytes::Bytes;

mod lease;
pub use lease::*;

/// A number that grows by one with every change of the store; 1 is the empty store.
pub type Revision = i64;
/// A lease's name; 0 means "no lease" in a put and "choose one" in a grant.
pub type LeaseId = i64;

/// The end of the key range that starts at `prefix` and holds all keys beginning with it.
///
/// An empty prefix, or one of 0xff only, gives `\0`: everything from the start on.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

/// A prefix as `(key, range_end)`; the empty prefix is every key.
pub fn prefix_range(prefix: impl Into<Bytes>) -> (Bytes, Bytes) {
    let prefix = prefix.into();
    let end = prefix_end(&prefix);
    if prefix.is_empty() {
        (Bytes::from_static(b"\0"), end)
    } else {
        (prefix, end)
    }
}

/// One key as it stood at some revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, never empty.
    pub key: Bytes,
    /// The value; empty in a deletion's event and when only keys were asked for.
    pub value: Bytes,
    /// The revision that made the key (after its last deletion).
    pub create_revision: Revision,
    /// The revision that last changed it.
    pub mod_revision: Revision,
    /// How often it was put since it was made, from 1 on.
    pub version: i64,
    /// The lease that it dies with, or 0.
    pub lease: LeaseId,
}

/// What a range is sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    /// By key.
    #[default]
    Key,
    /// By version.
    Version,
    /// By create revision.
    Create,
    /// By mod revision.
    Mod,
    /// By value.
    Value,
}

/// Which way a range is sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// By key ascending (ascending by the target, where another target is given).
    #[default]
    None,
    /// Smallest first.
    Ascend,
    /// Largest first.
    Descend,
}

/// Asks for a key or a range of keys.
#[derive(Clone, Debug, Default)]
pub struct RangeRequest {
    /// The key, or the first key of the range; not empty.
    pub key: Bytes,
    /// Empty: only `key`. `\0`: all keys from `key` on. Otherwise the first key not in the range.
    pub range_end: Bytes,
    /// At most so many keys in the answer; 0 is no limit.
    pub limit: i64,
    /// The state as of this revision; 0 or less is now.
    pub revision: Revision,
    /// Which way to sort.
    pub sort_order: SortOrder,
    /// What to sort by.
    pub sort_target: SortTarget,
    /// Leave the values out.
    pub keys_only: bool,
    /// Only count.
    pub count_only: bool,
    /// Only keys changed at this revision or later; 0 is no bound.
    pub min_mod_revision: Revision,
    /// Only keys changed at this revision or before; 0 is no bound.
    pub max_mod_revision: Revision,
    /// Only keys made at this revision or later; 0 is no bound.
    pub min_create_revision: Revision,
    /// Only keys made at this revision or before; 0 is no bound.
    pub max_create_revision: Revision,
}

impl RangeRequest {
    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self {
            key: key.into(),
            ..Self::default()
        }
    }

    /// All keys with a prefix.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let (key, range_end) = prefix_range(prefix);
        Self {
            key,
            range_end,
            ..Self::default()
        }
    }

    /// As of `revision`.
    pub fn at(mut self, revision: Revision) -> Self {
        self.revision = revision;
        self
    }
}

/// A range's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResponse {
    /// The store's revision when it answered.
    pub revision: Revision,
    /// The keys found, after filters, sorting and limit.
    pub kvs: Vec<KeyValue>,
    /// The limit cut the answer short.
    pub more: bool,
    /// Keys in the range, before limit and filters.
    pub count: i64,
}

/// Sets a key.
#[derive(Clone, Debug, Default)]
pub struct PutRequest {
    /// The key, not empty.
    pub key: Bytes,
    /// Its new value.
    pub value: Bytes,
    /// The lease that it dies with, or 0.
    pub lease: LeaseId,
    /// Answer with the former value.
    pub prev_kv: bool,
    /// Keep the present value; the key must be there and `value` empty.
    pub ignore_value: bool,
    /// Keep the present lease; the key must be there and `lease` 0.
    pub ignore_lease: bool,
}

impl PutRequest {
    /// Sets `key` to `value`, without a lease.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
            ..Self::default()
        }
    }

    /// With a lease.
    pub fn with_lease(mut self, lease: LeaseId) -> Self {
        self.lease = lease;
        self
    }
}

/// A put's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutResponse {
    /// The revision that the put made.
    pub revision: Revision,
    /// The former value, where asked for and there was one.
    pub prev_kv: Option<KeyValue>,
}

/// Deletes a key or a range of keys.
#[derive(Clone, Debug, Default)]
pub struct DeleteRangeRequest {
    /// As in [`RangeRequest`].
    pub key: Bytes,
    /// As in [`RangeRequest`].
    pub range_end: Bytes,
    /// Answer with what was deleted.
    pub prev_kv: bool,
}

impl DeleteRangeRequest {
    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self {
            key: key.into(),
            ..Self::default()
        }
    }

    /// All keys with a prefix.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let (key, range_end) = prefix_range(prefix);
        Self {
            key,
            range_end,
            prev_kv: false,
        }
    }
}

/// A deletion's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteRangeResponse {
    /// The store's revision after it; unchanged where nothing was deleted.
    pub revision: Revision,
    /// How many keys went.
    pub deleted: i64,
    /// What they were, where asked for, by key.
    pub prev_kvs: Vec<KeyValue>,
}

/// What a compare looks at, and what it holds it against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    /// The version; 0 is a key that is not there.
    Version(i64),
    /// The create revision; 0 is a key that is not there.
    Create(Revision),
    /// The mod revision; 0 is a key that is not there.
    Mod(Revision),
    /// The value; a key that is not there fails every value compare.
    Value(Bytes),
    /// The lease; 0 is none.
    Lease(LeaseId),
}

/// How a compare's two sides must stand: *stored* `result` *given*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareResult {
    /// Equal.
    Equal,
    /// The stored one is greater.
    Greater,
    /// The stored one is less.
    Less,
    /// Not equal.
    NotEqual,
}

/// One condition of a transaction; with a range, every key in it must meet it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// As in [`RangeRequest`].
    pub key: Bytes,
    /// As in [`RangeRequest`].
    pub range_end: Bytes,
    /// How the sides must stand.
    pub result: CompareResult,
    /// What is compared.
    pub target: CompareTarget,
}

impl Compare {
    /// `key`'s target stands in `result` to the one given.
    pub fn new(key: impl Into<Bytes>, result: CompareResult, target: CompareTarget) -> Self {
        Self {
            key: key.into(),
            range_end: Bytes::new(),
            result,
            target,
        }
    }

    /// `key` is not there.
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Self::new(key, CompareResult::Equal, CompareTarget::Create(0))
    }

    /// `key` was last changed at `revision`.
    pub fn unchanged(key: impl Into<Bytes>, revision: Revision) -> Self {
        Self::new(key, CompareResult::Equal, CompareTarget::Mod(revision))
    }
}

/// One step of a transaction.
#[derive(Clone, Debug)]
pub enum TxnOp {
    /// A range, which sees the steps before it.
    Range(RangeRequest),
    /// A put.
    Put(PutRequest),
    /// A deletion.
    Delete(DeleteRangeRequest),
    /// A transaction inside; its compares see the state before the outermost one.
    Txn(TxnRequest),
}

impl TxnOp {
    /// Deletes a key, or what is below it where it ends with a slash.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        let key = key.into();
        Self::Delete(match key.ends_with(b"/") {
            true => DeleteRangeRequest::prefix(key),
            false => DeleteRangeRequest::key(key),
        })
    }
}

/// If all compares hold do `success`, else `failure`; all of it at one revision, or nothing.
#[derive(Clone, Debug, Default)]
pub struct TxnRequest {
    /// The conditions, all of which must hold; none hold always.
    pub compare: Vec<Compare>,
    /// Done when they hold.
    pub success: Vec<TxnOp>,
    /// Done when they do not.
    pub failure: Vec<TxnOp>,
}

/// The answer of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOpResponse {
    /// A range's.
    Range(RangeResponse),
    /// A put's.
    Put(PutResponse),
    /// A deletion's.
    Delete(DeleteRangeResponse),
    /// An inner transaction's.
    Txn(TxnResponse),
}

/// A transaction's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnResponse {
    /// The store's revision after it.
    pub revision: Revision,
    /// The compares held.
    pub succeeded: bool,
    /// The answers of the steps done, in order.
    pub responses: Vec<TxnOpResponse>,
}

/// A compaction's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactResponse {
    /// The store's revision.
    pub revision: Revision,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was put.
    Put,
    /// It was deleted, or died with its lease.
    Delete,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key after it; for a deletion only the key and the revision of the deletion.
    pub kv: KeyValue,
    /// The key before it, where asked for, there was one and it is not compacted.
    pub prev_kv: Option<KeyValue>,
}

/// Asks to be told of changes.
#[derive(Clone, Debug, Default)]
pub struct WatchRequest {
    /// As in [`RangeRequest`]; empty is the first key.
    pub key: Bytes,
    /// As in [`RangeRequest`].
    pub range_end: Bytes,
    /// The first revision to be told of; 0 is the next one.
    pub start_revision: Revision,
    /// With the key before each change.
    pub prev_kv: bool,
    /// Leave puts out.
    pub no_put: bool,
    /// Leave deletions out.
    pub no_delete: bool,
    /// An empty answer with the revision now and then, while nothing happens.
    pub progress_notify: bool,
}

impl WatchRequest {
    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self {
            key: key.into(),
            ..Self::default()
        }
    }

    /// All keys with a prefix.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let (key, range_end) = prefix_range(prefix);
        Self {
            key,
            range_end,
            ..Self::default()
        }
    }

    /// From `revision` on.
    pub fn from(mut self, revision: Revision) -> Self {
        self.start_revision = revision;
        self
    }
}

/// What a watch tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchResponse {
    /// All events up to and with this revision are told: to go on later, start at the next one.
    pub revision: Revision,
    /// The events in order; a revision's events are never split. Empty for a progress answer.
    pub events: Vec<Event>,
    /// Not 0: the revision asked for is compacted; this is the first one still there.
    pub compact_revision: Revision,
    /// The watch is over.
    pub canceled: bool,
}

/// A hash of what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashResponse {
    /// The store's revision.
    pub revision: Revision,
    /// The hash.
    pub hash: u32,
    /// The newest revision that went into it.
    pub hash_revision: Revision,
    /// History before this is not in it.
    pub compact_revision: Revision,
}

/// How the store stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The newest revision.
    pub revision: Revision,
    /// History before this revision is gone; 0 where none is.
    pub compact_revision: Revision,
    /// Bytes of keys, values and their bookkeeping, history counted; held against the quota.
    pub bytes_in_use: u64,
    /// Bytes that the file takes on disk.
    pub bytes_on_disk: u64,
    /// The quota, in bytes.
    pub quota_bytes: u64,
    /// Puts are refused for want of space.
    pub no_space: bool,
    /// Leases alive.
    pub leases: usize,
}
