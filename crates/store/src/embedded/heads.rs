//! What puts need to know of keys that were moved to the database lately.
//!
//! A key is told by 128 bits of keyed hashes, drawn anew whenever the log is read, instead of by its bytes: among so few keys no two
//! have the same by chance, and nobody can look for some that do.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::memory::Entry;
use super::tables::Record;
use crate::types::{LeaseId, Revision};

/// Keys whose last version is remembered after it moved to the database: as many as two hash tables of 16,384 places take
/// before they grow.
const HEADS: usize = 28_672;

/// What a put needs to know of the version before it, which is in the database.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub revision: Revision,
    pub create_revision: Revision,
    pub version: i64,
    pub lease: LeaseId,
}

/// Stands for a key.
type Name = (u64, u64);

/// The heads of the keys moved last, in two halves: when one is full the other is forgotten.
#[derive(Default)]
pub(crate) struct Heads {
    newer: HashMap<Name, Head>,
    older: HashMap<Name, Head>,
    hashers: (RandomState, RandomState),
}

impl Heads {
    fn name(&self, key: &[u8]) -> Name {
        (self.hashers.0.hash_one(key), self.hashers.1.hash_one(key))
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Head> {
        let name = self.name(key);
        let found = self.newer.get(&name).or_else(|| self.older.get(&name));
        found.copied()
    }

    fn insert(&mut self, name: Name, head: Head) {
        if let Some(known) = self.newer.get_mut(&name) {
            *known = head;
            return;
        }
        if self.newer.len() >= HEADS / 2 {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(name, head);
    }

    /// Before it leaves memory; the newest of a key comes last.
    pub(crate) fn remember(&mut self, entry: &Entry) {
        let name = self.name(entry.key());
        match Record::parse(entry.record()).filter(|record| !record.deleted) {
            Some(record) => {
                let head = Head {
                    revision: entry.revision,
                    create_revision: record.create_revision,
                    version: record.version,
                    lease: record.lease,
                };
                self.insert(name, head);
            }
            None => {
                self.newer.remove(&name);
                self.older.remove(&name);
            }
        }
    }
}
