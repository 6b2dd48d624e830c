//! Files of bbolt, etcd's database, format version 2: written from sorted entries, and read.
//!
//! # The file
//! Pages of one size, counted from 0. Pages 0 and 1 are two copies of the meta, of which the valid one with the higher
//! transaction counts; the others are the leaves and branches of one tree, whose entries are named buckets, each a tree of its
//! own. Two entries that make a bucket `b` of two leaves:
//!
//! ```text
//! 0 meta ┐                    5 branch  k1→3  k7→4
//! 1 meta ┴─ root: 6           6 leaf    b = {root: 5}
//! 2 free list, empty
//! 3 leaf  k1=…  k2=…          an entry that is larger than a page has a leaf alone,
//! 4 leaf  k7=…  k8=…          which goes on over the pages that follow
//! ```
//!
//! # Writing
//! Entries come in order. A leaf is written as soon as it is full, and only its first key and its number go up to the branch
//! above, so what is held in memory is two pages for each floor of the tree, whatever comes. The metas are written last.
//!
//! # Reading
//! What is read is not trusted: numbers of pages, lengths and the order of keys are looked at, and what does not fit is
//! [`crate::StoreError::Corrupt`]. A snapshot's SHA-256, which etcd appends to the file, is held against it.

mod page;
mod read;
mod write;

pub use read::{Bolt, Bucket, Entries};
pub use write::Writer;
