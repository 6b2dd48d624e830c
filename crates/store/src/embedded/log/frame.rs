//! The bytes of the log: one frame for each group of writes.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..4 | `CLG1` |
//! | 4..8 | length of the changes |
//! | 8..16 | the log's id, which the database knows too |
//! | 16..24 | sequence: one more than the frame before |
//! | 24..28 | CRC-32 of bytes 0..24 and of the changes |
//! | 28..32 | zeros |
//! | 32.. | the changes, then zeros up to a multiple of 512 |
//!
//! A change is a byte that says which, and its fields; numbers are little-endian, byte strings have their length (4 bytes)
//! before them. A frame begins on a sector of its own, so that no sector is written again that was answered for.

use crate::types::{LeaseId, Revision};

/// Where frames may begin.
pub(super) const SECTOR: usize = 512;
pub(super) const HEADER: usize = 32;
const MAGIC: [u8; 4] = *b"CLG1";

const WRITE: u8 = 1;
const GRANT: u8 = 2;
const REVOKE: u8 = 3;
const COMPACT: u8 = 4;

/// The live version of a key that another takes the place of; zeros where there was none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Former {
    pub revision: Revision,
    pub lease: LeaseId,
}

/// What a group of writes did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change<'b> {
    /// A version of a key, as the `versions` table has it, and what stood there before.
    Write {
        revision: Revision,
        former: Former,
        key: &'b [u8],
        record: &'b [u8],
    },
    Grant {
        id: LeaseId,
        ttl: i64,
    },
    Revoke {
        id: LeaseId,
    },
    Compact {
        revision: Revision,
    },
}

/// A frame that is being put together; used again for the next.
pub(crate) struct Building {
    bytes: Vec<u8>,
}

impl Building {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; HEADER],
        }
    }

    /// Begins anew.
    pub(crate) fn clear(&mut self) {
        // One huge group is no reason to keep its memory.
        if self.bytes.capacity() > 1 << 20 {
            self.bytes = Vec::new();
        }
        self.bytes.clear();
        self.bytes.resize(HEADER, 0);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.len() == HEADER
    }

    /// Its length in the file.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len().next_multiple_of(SECTOR)
    }

    pub(crate) fn write(&mut self, revision: Revision, former: Former, key: &[u8], record: &[u8]) {
        self.bytes.push(WRITE);
        self.number(revision);
        self.number(former.revision);
        self.number(former.lease);
        self.string(key);
        self.string(record);
    }

    pub(crate) fn grant(&mut self, id: LeaseId, ttl: i64) {
        self.bytes.push(GRANT);
        self.number(id);
        self.number(ttl);
    }

    pub(crate) fn revoke(&mut self, id: LeaseId) {
        self.bytes.push(REVOKE);
        self.number(id);
    }

    pub(crate) fn compact(&mut self, revision: Revision) {
        self.bytes.push(COMPACT);
        self.number(revision);
    }

    fn number(&mut self, number: i64) {
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    fn string(&mut self, string: &[u8]) {
        // Requests are far smaller; a longer one would not be read back and so is cut here for all to see.
        let length = u32::try_from(string.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(string);
    }

    /// The frame as it is written; None where it is too long for one.
    pub(super) fn finish(&mut self, id: u64, sequence: u64) -> Option<&[u8]> {
        let length = u32::try_from(self.bytes.len() - HEADER).ok()?;
        self.bytes[0..4].copy_from_slice(&MAGIC);
        self.bytes[4..8].copy_from_slice(&length.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&id.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&sequence.to_le_bytes());
        let sum = checksum(&self.bytes[..24], &self.bytes[HEADER..]);
        self.bytes[24..28].copy_from_slice(&sum.to_le_bytes());
        self.bytes.resize(self.len(), 0);
        Some(&self.bytes)
    }
}

fn checksum(head: &[u8], changes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(changes);
    hasher.finalize()
}

/// A whole frame of a log.
pub(super) struct Frame<'b> {
    pub sequence: u64,
    changes: &'b [u8],
    /// Bytes up to the next.
    pub length: usize,
}

impl<'b> Frame<'b> {
    /// The frame of log `id` at the head of `bytes`, if one is there and whole.
    pub(super) fn at(bytes: &'b [u8], id: u64) -> Option<Self> {
        let head = bytes.get(..HEADER)?;
        if head[..4] != MAGIC || head[8..16] != id.to_le_bytes() {
            return None;
        }
        let length = u32::from_le_bytes(head[4..8].try_into().ok()?) as usize;
        let changes = bytes.get(HEADER..HEADER.checked_add(length)?)?;
        if head[24..28] != checksum(&head[..24], changes).to_le_bytes() {
            return None;
        }
        Some(Self {
            sequence: u64::from_le_bytes(head[16..24].try_into().ok()?),
            changes,
            length: (HEADER + length).next_multiple_of(SECTOR),
        })
    }

    /// What it says, in order; None where it says what this release does not know.
    pub(super) fn changes(&self) -> Option<Vec<Change<'b>>> {
        let mut rest = self.changes;
        let mut found = Vec::new();
        while let Some((&kind, after)) = rest.split_first() {
            rest = after;
            found.push(match kind {
                WRITE => Change::Write {
                    revision: number(&mut rest)?,
                    former: Former {
                        revision: number(&mut rest)?,
                        lease: number(&mut rest)?,
                    },
                    key: string(&mut rest)?,
                    record: string(&mut rest)?,
                },
                GRANT => Change::Grant {
                    id: number(&mut rest)?,
                    ttl: number(&mut rest)?,
                },
                REVOKE => Change::Revoke {
                    id: number(&mut rest)?,
                },
                COMPACT => Change::Compact {
                    revision: number(&mut rest)?,
                },
                _ => return None,
            });
        }
        Some(found)
    }
}

fn number(rest: &mut &[u8]) -> Option<i64> {
    let (number, after) = rest.split_first_chunk::<8>()?;
    *rest = after;
    Some(i64::from_le_bytes(*number))
}

fn string<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (string, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *rest = after;
    Some(string)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FORMER: Former = Former {
        revision: 4,
        lease: 7,
    };

    fn filled() -> Building {
        let mut building = Building::new();
        building.grant(7, 60);
        building.write(5, FORMER, b"key", b"record");
        building.compact(4);
        building.revoke(7);
        building
    }

    #[test]
    fn a_frame_says_what_was_put_into_it() {
        let mut building = filled();
        let bytes = building.finish(9, 3).unwrap().to_vec();
        assert_eq!(bytes.len(), SECTOR);
        let frame = Frame::at(&bytes, 9).unwrap();
        assert_eq!((frame.sequence, frame.length), (3, SECTOR));
        let key = &b"key"[..];
        let record = &b"record"[..];
        let (revision, former) = (5, FORMER);
        let expected = [
            Change::Grant { id: 7, ttl: 60 },
            Change::Write {
                revision,
                former,
                key,
                record,
            },
            Change::Compact { revision: 4 },
            Change::Revoke { id: 7 },
        ];
        assert_eq!(frame.changes().unwrap(), expected);
        assert!(Frame::at(&bytes, 8).is_none(), "another log's");
    }

    #[test]
    fn a_frame_with_any_bit_changed_is_none() {
        let mut building = filled();
        let whole = building.finish(9, 3).unwrap().to_vec();
        let used = HEADER + u32::from_le_bytes(whole[4..8].try_into().unwrap()) as usize;
        for at in (0..28).chain(HEADER..used) {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                assert!(Frame::at(&bytes, 9).is_none(), "bit {bit} of byte {at}");
            }
        }
        for length in 0..used {
            assert!(Frame::at(&whole[..length], 9).is_none(), "cut at {length}");
        }
    }
}
