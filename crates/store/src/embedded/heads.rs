//! What puts need to know of keys that were moved to the database lately.

use std::collections::HashMap;

use super::memory::Entry;
use super::tables::Record;
use crate::types::{LeaseId, Revision};

/// Keys whose last version is remembered after it moved to the database.
const HEADS: usize = 32_768;

/// Bytes of a key that is worth it.
const LONGEST: usize = 256;

/// What a put needs to know of the version before it, which is in the database.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub revision: Revision,
    pub create_revision: Revision,
    pub version: i64,
    pub lease: LeaseId,
}

/// The heads of the keys moved last, in two halves: when one is full the other is forgotten.
#[derive(Default)]
pub(crate) struct Heads {
    newer: HashMap<Box<[u8]>, Head>,
    older: HashMap<Box<[u8]>, Head>,
}

impl Heads {
    pub(crate) fn get(&self, key: &[u8]) -> Option<Head> {
        self.newer.get(key).or_else(|| self.older.get(key)).copied()
    }

    fn insert(&mut self, key: &[u8], head: Head) {
        if key.len() > LONGEST {
            return;
        }
        if let Some(known) = self.newer.get_mut(key) {
            *known = head;
            return;
        }
        if self.newer.len() >= HEADS / 2 {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(key.into(), head);
    }

    fn remove(&mut self, key: &[u8]) {
        self.newer.remove(key);
        self.older.remove(key);
    }

    /// Before it leaves memory; the newest of a key comes last.
    pub(crate) fn remember(&mut self, entry: &Entry) {
        let key = &entry.key[..];
        match Record::parse(&entry.version.record).filter(|record| !record.deleted) {
            Some(record) => {
                let head = Head {
                    revision: entry.version.revision,
                    create_revision: record.create_revision,
                    version: record.version,
                    lease: record.lease,
                };
                self.insert(key, head);
            }
            None => self.remove(key),
        }
    }
}
