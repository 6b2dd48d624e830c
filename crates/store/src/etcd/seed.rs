//! Files that an etcd begins with: made of the embedded store, or of another etcd's.
//!
//! # What is in them
//! etcd keeps each version of a key in the bucket `key` under `<revision>_<step>`, both as 8 bytes with the highest first, and
//! with a `t` behind where it is a deletion; the value is an `mvccpb.KeyValue`. Three puts and a deletion, compacted at 4:
//!
//! ```text
//! put a=1 (2)   put b=1 (3)   put a=2 (4)   delete b (5)
//!
//! key:  3_0  {b, created 3, changed 3, version 1, "1"}      meta:  finishedCompactRev 4_0
//!       4_0  {a, created 2, changed 4, version 2, "2"}             scheduledCompactRev 4_0
//!       5_0t {b}                                            lease: …
//! ```
//! etcd makes its index of that when it starts, and goes on at revision 6. So nothing that apps have seen changes: revisions,
//! versions, history and leases are the same. Leases have their full time again, as after any change of etcd's leader.
//!
//! # Restoring
//! `etcdctl snapshot restore FILE` makes an etcd's directory of such a file, with its log and its members. The file carries the
//! SHA-256 that it asks for.

use std::path::Path;

use bytes::Bytes;
use coracle_etcd_proto::{leasepb, mvccpb};
use prost::Message as _;

use super::bolt::{Bolt, Writer};
use crate::embedded::{History, Record};
use crate::error::StoreError;
use crate::types::*;

/// The key that a recovered store's revision stands at.
const MOVED: &str = "/coracle/v1/moved";
const KEYS: &[u8] = b"key";
const META: &[u8] = b"meta";
const FINISHED: &[u8] = b"finishedCompactRev";
const SCHEDULED: &[u8] = b"scheduledCompactRev";
/// The mark of a deletion.
const TOMBSTONE: u8 = b't';

/// What [`crate::EmbeddedStore::seed`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeded {
    /// The store's revision.
    pub revision: Revision,
    /// History before this is not in it; 0 where all is.
    pub compacted: Revision,
    /// Versions of keys.
    pub versions: usize,
    /// Leases.
    pub leases: usize,
}

/// What [`recover`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The newest revision in the file that was read.
    pub former: Revision,
    /// The revision that the new one begins with.
    pub revision: Revision,
    /// Versions of keys.
    pub versions: usize,
}

fn name(revision: Revision, step: i64, deleted: bool) -> Bytes {
    let mut name = Vec::with_capacity(18);
    name.extend_from_slice(&revision.to_be_bytes());
    name.push(b'_');
    name.extend_from_slice(&step.to_be_bytes());
    if deleted {
        name.push(TOMBSTONE);
    }
    name.into()
}

/// Revision, step, and whether it is a deletion.
fn parse(name: &[u8]) -> Option<(Revision, i64, bool)> {
    let number = |at: usize| Some(i64::from_be_bytes(name.get(at..at + 8)?.try_into().ok()?));
    let deleted = match name.len() {
        17 => false,
        18 if name[17] == TOMBSTONE => true,
        _ => return None,
    };
    Some((number(0)?, number(9)?, deleted))
}

fn message(revision: Revision, key: &[u8], record: Record<'_>) -> mvccpb::KeyValue {
    let key = Bytes::copy_from_slice(key);
    if record.deleted {
        return mvccpb::KeyValue {
            key,
            ..Default::default()
        };
    }
    mvccpb::KeyValue {
        key,
        create_revision: record.create_revision,
        mod_revision: revision,
        version: record.version,
        value: Bytes::copy_from_slice(record.value),
        lease: record.lease,
    }
}

pub(crate) fn write(history: &History<'_>, path: &Path) -> Result<Seeded, StoreError> {
    let counters = history.counters;
    // etcd takes the newer of the two for where it goes on.
    let standing = history.newest().unwrap_or(1).max(counters.compacted);
    if standing != counters.revision {
        return Err(history.corrupt("its newest revision has no entry"));
    }
    let mut file = Writer::create(path)?;
    for empty in ["alarm", "auth", "authRoles", "authUsers", "cluster"] {
        file.bucket(empty)?;
    }
    file.bucket(KEYS)?;
    history.visit(|revision, key, record| {
        let name = name(revision, record.step.into(), record.deleted);
        file.put(name, message(revision, key, record).encode_to_vec())
    })?;
    file.bucket("lease")?;
    let mut leases = history.leases.clone();
    leases.sort_unstable_by_key(|(id, _)| id.to_be_bytes());
    for (id, ttl) in &leases {
        let lease = leasepb::Lease {
            id: *id,
            ttl: *ttl,
            // etcd 3.4 would give this much at each keep-alive from then on.
            remaining_ttl: 0,
        };
        file.put(id.to_be_bytes().to_vec(), lease.encode_to_vec())?;
    }
    file.bucket("members")?;
    file.bucket("members_removed")?;
    file.bucket(META)?;
    if counters.compacted > 0 {
        let compacted = name(counters.compacted, 0, false);
        file.put(FINISHED, compacted.clone())?;
        file.put(SCHEDULED, compacted)?;
    }
    file.finish()?;
    Ok(Seeded {
        revision: counters.revision,
        compacted: counters.compacted,
        versions: history.len(),
        leases: leases.len(),
    })
}

/// Reads an etcd's database through; answers the revision of the store in it.
///
/// # Errors
/// `Corrupt` for a file that is damaged or no etcd's, `Io`.
pub fn newest(source: &Bolt) -> Result<Revision, StoreError> {
    let keys = source.bucket(KEYS)?;
    let keys = keys.ok_or_else(|| source.damaged("it has no keys' bucket, so it is no etcd's"))?;
    let mut newest = compacted(source)?.max(1);
    for entry in keys.entries() {
        let parsed = parse(&entry?.0);
        let (revision, ..) =
            parsed.ok_or_else(|| source.damaged("a key's revision has no valid form"))?;
        newest = newest.max(revision);
    }
    Ok(newest)
}

/// Makes of an etcd's database (`member/snap/db` of one that is stopped, or a snapshot) a new file to restore from, whose
/// revision is `ahead` further, at the key `/coracle/v1/moved`: so no revision is given twice, though the file may miss the
/// newest ones. With `compact` all before is compacted: who watches or read at an old revision is told so.
///
/// # Errors
/// `Corrupt` for a file that is damaged or no etcd's, `Io`.
pub fn recover(
    from: &Path,
    to: &Path,
    ahead: Revision,
    compact: bool,
) -> Result<Recovered, StoreError> {
    let source = Bolt::open(from)?;
    let damaged = |what| StoreError::Corrupt {
        path: from.to_owned(),
        what,
        source: None,
    };
    let mut file = Writer::create(to)?;
    let compacted = compacted(&source)?;
    let mut done = Recovered {
        former: compacted.max(1),
        revision: 0,
        versions: 0,
    };
    let mut keys = false;
    for bucket in source.buckets()? {
        file.bucket(bucket.clone())?;
        let Some(entries) = source.bucket(&bucket)? else {
            continue;
        };
        if bucket == KEYS {
            keys = true;
            let mut moved = None;
            for entry in entries.entries() {
                let (name, value) = entry?;
                let (revision, _, deleted) =
                    parse(&name).ok_or_else(|| damaged("a key's revision has no valid form"))?;
                done.former = done.former.max(revision);
                done.versions += 1;
                let kv = mvccpb::KeyValue::decode(value.clone())
                    .map_err(|_| damaged("a key's version has no valid form"))?;
                if kv.key == MOVED {
                    moved = (!deleted).then_some(kv);
                }
                file.put(name, value)?;
            }
            let overflow = || damaged("its revision is too large");
            done.revision = done.former.checked_add(ahead).ok_or_else(overflow)?;
            let kv = mvccpb::KeyValue {
                key: MOVED.into(),
                create_revision: moved
                    .as_ref()
                    .map_or(done.revision, |kv| kv.create_revision),
                mod_revision: done.revision,
                version: moved.as_ref().map_or(1, |kv| kv.version + 1),
                value: format!("{{\"version\":1,\"from\":{}}}", done.former).into(),
                lease: 0,
            };
            file.put(name(done.revision, 0, false), kv.encode_to_vec())?;
            done.versions += 1;
            continue;
        }
        if bucket == META {
            meta(
                &mut file,
                &entries.entries().collect::<Result<Vec<_>, _>>()?,
                compact.then_some(done.revision),
            )?;
            continue;
        }
        for entry in entries.entries() {
            let (key, value) = entry?;
            file.put(key, value)?;
        }
    }
    if !keys {
        return Err(damaged("it has no keys' bucket, so it is no etcd's"));
    }
    file.finish()?;
    Ok(done)
}

/// Copies a `meta` bucket. etcd does a compaction that is scheduled and not finished when it starts.
fn meta(
    file: &mut Writer,
    entries: &[(Bytes, Bytes)],
    compact: Option<Revision>,
) -> Result<(), StoreError> {
    let mut scheduled = compact.map(|revision| name(revision, 0, false));
    for (key, value) in entries {
        if scheduled.is_some() && **key >= *SCHEDULED {
            if let Some(scheduled) = scheduled.take() {
                file.put(SCHEDULED, scheduled)?;
            }
            if **key == *SCHEDULED {
                continue;
            }
        }
        file.put(key.clone(), value.clone())?;
    }
    if let Some(scheduled) = scheduled {
        file.put(SCHEDULED, scheduled)?;
    }
    Ok(())
}

/// The revision up to which an etcd's history is forgotten, or 0.
fn compacted(source: &Bolt) -> Result<Revision, StoreError> {
    let Some(meta) = source.bucket(META)? else {
        return Ok(0);
    };
    let mut compacted = 0;
    for entry in meta.entries() {
        let (key, value) = entry?;
        if *key == *FINISHED || *key == *SCHEDULED {
            compacted = compacted.max(parse(&value).map_or(0, |(revision, ..)| revision));
        }
    }
    Ok(compacted)
}
