//! The tables in the redb file, and the bytes in them.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `meta` | `format` | JSON `{"version": 2}`; unknown fields are left alone |
//! | `meta` | `revision`, `compacted`, `bytes` | 8 bytes, little-endian |
//! | `meta` | `log`, `flushed` | 8 bytes: the id of the log that goes with it, and its newest frame that is in here |
//! | `versions` | (key, revision) | a record, see [`Record`] |
//! | `log` | (revision, step) | the key changed |
//! | `leases` | id | JSON `{"version": 1, "ttl": seconds}` |
//! | `lease_keys` | (id, key) | nothing |

use std::path::Path;

use bytes::Bytes;
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::memory::Base;
use crate::error::StoreError;
use crate::types::{KeyValue, LeaseId, Revision};

pub(crate) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
pub(crate) const VERSIONS: TableDefinition<(&[u8], i64), &[u8]> = TableDefinition::new("versions");
pub(crate) const LOG: TableDefinition<(i64, u32), &[u8]> = TableDefinition::new("log");
pub(crate) const LEASES: TableDefinition<i64, &[u8]> = TableDefinition::new("leases");
pub(crate) const LEASE_KEYS: TableDefinition<(i64, &[u8]), ()> = TableDefinition::new("lease_keys");

/// The format written; readers take unknown additions, and refuse newer ones. In 1 there was no log in front.
pub(crate) const FORMAT: u64 = 2;
/// The same of a lease's entry.
pub(crate) const FORMAT_OF_LEASES: u64 = 1;

/// What a version costs against the quota beside its key (twice: versions and log) and value.
const OVERHEAD: usize = 96;

/// The `format` entry.
#[derive(Serialize, Deserialize)]
pub(crate) struct Format {
    pub version: u64,
}

/// A lease's entry.
#[derive(Serialize, Deserialize)]
pub(crate) struct LeaseEntry {
    pub version: u64,
    pub ttl: i64,
}

/// The numbers of the `meta` table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub revision: Revision,
    pub compacted: Revision,
    pub bytes: u64,
}

impl Counters {
    pub(crate) fn load(
        meta: &impl ReadableTable<&'static str, &'static [u8]>,
        path: &Path,
    ) -> Result<Self, StoreError> {
        let number = |name: &str| -> Result<i64, StoreError> {
            let found = meta.get(name).map_err(|e| StoreError::database(path, e))?;
            let bytes = found.and_then(|v| v.value().try_into().ok());
            bytes
                .map(i64::from_le_bytes)
                .ok_or_else(|| corrupt(path, "a counter is missing"))
        };
        let revision = number("revision")?;
        let compacted = number("compacted")?;
        let bytes = number("bytes")?;
        if revision < 1 || compacted < 0 || compacted > revision || bytes < 0 {
            return Err(corrupt(path, "the counters contradict each other"));
        }
        Ok(Self {
            revision,
            compacted,
            bytes: bytes.unsigned_abs(),
        })
    }

    pub(crate) fn store(
        &self,
        meta: &mut redb::Table<'_, &'static str, &'static [u8]>,
    ) -> Result<(), redb::StorageError> {
        meta.insert("revision", &self.revision.to_le_bytes()[..])?;
        meta.insert("compacted", &self.compacted.to_le_bytes()[..])?;
        meta.insert("bytes", &self.bytes.to_le_bytes()[..])?;
        Ok(())
    }
}

impl Base {
    pub(crate) fn store(
        &self,
        meta: &mut redb::Table<'_, &'static str, &'static [u8]>,
    ) -> Result<(), redb::StorageError> {
        self.counters.store(meta)?;
        meta.insert("flushed", &self.sequence.to_le_bytes()[..])?;
        Ok(())
    }
}

/// The log's id and the newest of its frames that is in the database; None where it has no log.
pub(crate) fn log_of(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    path: &Path,
) -> Result<Option<(u64, u64)>, StoreError> {
    let number = |name: &str| -> Result<Option<u64>, StoreError> {
        let found = meta.get(name).map_err(|e| StoreError::database(path, e))?;
        let bytes = found.and_then(|v| v.value().try_into().ok());
        Ok(bytes.map(u64::from_le_bytes))
    };
    Ok(number("log")?.zip(number("flushed")?))
}

pub(crate) fn corrupt(path: &Path, what: &'static str) -> StoreError {
    StoreError::Corrupt {
        path: path.to_owned(),
        what,
        source: None,
    }
}

/// One version of a key: a length byte, then so many bytes of header, then the value.
///
/// The header is flags (1: deleted), create revision, version, lease (8 bytes each,
/// little-endian) and the step within the revision (4 bytes). A later release may append to the
/// header; this one skips what it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub deleted: bool,
    pub create_revision: Revision,
    pub version: i64,
    pub lease: LeaseId,
    pub step: u32,
    pub value: &'a [u8],
}

const HEADER: usize = 1 + 8 + 8 + 8 + 4;

impl<'a> Record<'a> {
    pub(crate) fn encoded_len(&self) -> usize {
        1 + HEADER + self.value.len()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.encoded_len());
        out.push(HEADER as u8);
        out.push(u8::from(self.deleted));
        out.extend_from_slice(&self.create_revision.to_le_bytes());
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.lease.to_le_bytes());
        out.extend_from_slice(&self.step.to_le_bytes());
        out.extend_from_slice(self.value);
    }

    pub(crate) fn decode(bytes: &'a [u8], path: &Path) -> Result<Self, StoreError> {
        Self::parse(bytes).ok_or_else(|| corrupt(path, "a version's record is too short"))
    }

    /// The lease in an encoded record, if it has one.
    pub(crate) fn lease_of(bytes: &[u8]) -> Option<LeaseId> {
        Record::parse(bytes)
            .map(|record| record.lease)
            .filter(|lease| *lease != 0)
    }

    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (&length, rest) = bytes.split_first()?;
        let (header, value) = rest.split_at_checked(usize::from(length))?;
        let number = |at: usize| Some(i64::from_le_bytes(header.get(at..at + 8)?.try_into().ok()?));
        Some(Self {
            deleted: header.first()? & 1 != 0,
            create_revision: number(1)?,
            version: number(9)?,
            lease: number(17)?,
            step: u32::from_le_bytes(header.get(25..29)?.try_into().ok()?),
            value,
        })
    }

    pub(crate) fn to_kv(self, key: &[u8], revision: Revision, with_value: bool) -> KeyValue {
        KeyValue {
            key: Bytes::copy_from_slice(key),
            value: if with_value {
                Bytes::copy_from_slice(self.value)
            } else {
                Bytes::new()
            },
            create_revision: self.create_revision,
            mod_revision: revision,
            version: self.version,
            lease: self.lease,
        }
    }
}

/// What a version of so many bytes counts against the quota.
pub(crate) fn cost(key: usize, record: usize) -> u64 {
    (2 * key + record + OVERHEAD) as u64
}

/// The tables of one snapshot.
pub(crate) struct Reader<'p> {
    txn: ReadTransaction,
    versions: ReadOnlyTable<(&'static [u8], i64), &'static [u8]>,
    path: &'p Path,
}

impl<'p> Reader<'p> {
    pub(crate) fn new(txn: ReadTransaction, path: &'p Path) -> Result<Self, StoreError> {
        let versions = txn
            .open_table(VERSIONS)
            .map_err(|e| StoreError::database(path, e))?;
        Ok(Self {
            txn,
            versions,
            path,
        })
    }

    pub(crate) fn path(&self) -> &'p Path {
        self.path
    }

    pub(crate) fn txn(&self) -> &ReadTransaction {
        &self.txn
    }

    pub(crate) fn versions(&self) -> &ReadOnlyTable<(&'static [u8], i64), &'static [u8]> {
        &self.versions
    }

    pub(crate) fn log(&self) -> Result<ReadOnlyTable<(i64, u32), &'static [u8]>, StoreError> {
        self.txn.open_table(LOG).map_err(|e| self.error(e))
    }

    pub(crate) fn error(&self, source: impl Into<redb::Error>) -> StoreError {
        StoreError::database(self.path, source)
    }

    pub(crate) fn counters(&self) -> Result<Counters, StoreError> {
        let meta = self.txn.open_table(META).map_err(|e| self.error(e))?;
        Counters::load(&meta, self.path)
    }

    /// The log's id and the newest of its frames that is in here.
    pub(crate) fn log_of(&self) -> Result<(u64, u64), StoreError> {
        let meta = self.txn.open_table(META).map_err(|e| self.error(e))?;
        log_of(&meta, self.path)?.ok_or_else(|| corrupt(self.path, "it names no log"))
    }

    pub(crate) fn leases(&self) -> Result<Vec<(LeaseId, i64)>, StoreError> {
        let table = self.txn.open_table(LEASES).map_err(|e| self.error(e))?;
        let mut found = Vec::new();
        for item in table.iter().map_err(|e| self.error(e))? {
            let (id, entry) = item.map_err(|e| self.error(e))?;
            let entry: LeaseEntry = serde_json::from_slice(entry.value())
                .map_err(|_| corrupt(self.path, "a lease's entry is no JSON of ours"))?;
            if entry.version != FORMAT_OF_LEASES {
                return Err(StoreError::UnknownFormat {
                    path: self.path.to_owned(),
                    found: entry.version,
                    known: FORMAT_OF_LEASES,
                });
            }
            found.push((id.value(), entry.ttl));
        }
        Ok(found)
    }

    pub(crate) fn lease_keys(&self, id: LeaseId) -> Result<Vec<Bytes>, StoreError> {
        let table = self.txn.open_table(LEASE_KEYS).map_err(|e| self.error(e))?;
        lease_keys(&table, id, self.path)
    }
}

/// The keys of a lease, in order.
pub(crate) fn lease_keys(
    table: &impl ReadableTable<(i64, &'static [u8]), ()>,
    id: LeaseId,
    path: &Path,
) -> Result<Vec<Bytes>, StoreError> {
    let mut keys = Vec::new();
    let range = table
        .range((id, &b""[..])..)
        .map_err(|e| StoreError::database(path, e))?;
    for item in range {
        let (entry, _) = item.map_err(|e| StoreError::database(path, e))?;
        let (owner, key) = entry.value();
        if owner != id {
            break;
        }
        keys.push(Bytes::copy_from_slice(key));
    }
    Ok(keys)
}
