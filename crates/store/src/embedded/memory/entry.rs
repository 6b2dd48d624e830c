//! One version of a key, with its key.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::Arc;

use crate::embedded::log::Former;
use crate::types::Revision;

/// A version. Its bytes are shared with its copies; it must be small, as there are many.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub revision: Revision,
    /// What it took the place of.
    pub former: Former,
    /// The key, then the record as [`super::Record`] encodes it.
    bytes: Arc<[u8]>,
    /// Bytes of the key.
    key: u32,
    /// How many versions before this one the one before of its key stands in memory's log.
    distance: Option<NonZeroU32>,
}

impl Entry {
    /// Of `bytes` the first `key` are the key, the others the record.
    pub(crate) fn new(revision: Revision, former: Former, bytes: &[u8], key: usize) -> Self {
        Self {
            revision,
            former,
            bytes: bytes.into(),
            // Keys come in frames, whose length goes into 32 bits.
            key: key as u32,
            distance: None,
        }
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.bytes[..self.key as usize]
    }

    /// As [`super::Record`] encodes it.
    pub(crate) fn record(&self) -> &[u8] {
        &self.bytes[self.key as usize..]
    }

    /// Bytes of both.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn owned_key(&self) -> Key {
        Key {
            bytes: Arc::clone(&self.bytes),
            length: self.key,
        }
    }

    /// The version of the same key before it stands so far before it. One that is too far away is not found any more by who
    /// looks for older ones here, which would hide it: memory never holds so many.
    pub(super) fn stands_after(&mut self, distance: u64) {
        self.distance = u32::try_from(distance).ok().and_then(NonZeroU32::new);
    }

    pub(super) fn distance(&self) -> Option<u64> {
        self.distance.map(|distance| u64::from(distance.get()))
    }
}

/// A key whose bytes are those of one of its versions.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    bytes: Arc<[u8]>,
    length: u32,
}

impl Key {
    /// Whether its bytes are that version's.
    pub(super) fn is_of(&self, entry: &Entry) -> bool {
        Arc::ptr_eq(&self.bytes, &entry.bytes)
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length as usize]
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}
