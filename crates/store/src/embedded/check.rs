//! What can be told of a request before looking at the store; etcd's rules. Pure.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::read::Bounds;
use super::tables::Counters;
use crate::error::StoreError;
use crate::types::*;

pub(crate) fn range(request: &RangeRequest) -> Result<(), StoreError> {
    not_empty(&request.key)
}

pub(crate) fn delete(request: &DeleteRangeRequest) -> Result<(), StoreError> {
    not_empty(&request.key)
}

pub(crate) fn put(request: &PutRequest) -> Result<(), StoreError> {
    not_empty(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(StoreError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(StoreError::LeaseProvided);
    }
    Ok(())
}

fn not_empty(key: &Bytes) -> Result<(), StoreError> {
    if key.is_empty() {
        Err(StoreError::EmptyKey)
    } else {
        Ok(())
    }
}

/// Whether the store can be read as of a revision.
pub(crate) fn revision(requested: Revision, counters: &Counters) -> Result<(), StoreError> {
    if requested > counters.revision {
        return Err(StoreError::FutureRevision {
            requested,
            current: counters.revision,
        });
    }
    if requested > 0 && requested < counters.compacted {
        return Err(StoreError::Compacted {
            requested,
            compacted: counters.compacted,
        });
    }
    Ok(())
}

/// A transaction's shape: sizes, keys, and that no key is changed twice.
pub(crate) fn txn(request: &TxnRequest, max: usize) -> Result<(), StoreError> {
    shape(request, max)?;
    changes(&request.success)?;
    changes(&request.failure)?;
    Ok(())
}

// As etcd counts: what an outer transaction takes is not left for the ones inside it, which also
// bounds how deep they go.
fn shape(request: &TxnRequest, max: usize) -> Result<(), StoreError> {
    let count = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    if count > max {
        return Err(StoreError::TooManyOps { count, max });
    }
    for compare in &request.compare {
        not_empty(&compare.key)?;
    }
    for op in request.success.iter().chain(&request.failure) {
        match op {
            TxnOp::Range(inner) => range(inner)?,
            TxnOp::Put(inner) => put(inner)?,
            TxnOp::Delete(inner) => delete(inner)?,
            TxnOp::Txn(inner) => shape(inner, max - count)?,
        }
    }
    Ok(())
}

#[derive(Default)]
struct Changes {
    puts: BTreeSet<Bytes>,
    deletes: Vec<Bounds>,
}

impl Changes {
    fn clash<'a>(&self, other: &'a Changes) -> Option<&'a Bytes> {
        let deleted = |key: &&Bytes| self.deletes.iter().any(|range| range.contains(key));
        other
            .puts
            .iter()
            .find(|key| self.puts.contains(*key) || deleted(key))
    }

    /// Adds what another step of the same list does.
    fn join(&mut self, other: Changes) -> Result<(), StoreError> {
        if let Some(key) = self.clash(&other) {
            return Err(StoreError::DuplicateKey(key.clone()));
        }
        let deleted = |key: &&Bytes| other.deletes.iter().any(|range| range.contains(key));
        if let Some(key) = self.puts.iter().find(deleted) {
            return Err(StoreError::DuplicateKey(key.clone()));
        }
        self.either(other);
        Ok(())
    }

    /// Adds what is done instead: the two branches of a transaction may change the same key.
    fn either(&mut self, other: Changes) {
        self.puts.extend(other.puts);
        self.deletes.extend(other.deletes);
    }
}

// Stricter than etcd in one case: a put and a deletion of one key in two *sibling* transactions
// are refused in either order, so that a key changes at most once in a revision.
fn changes(ops: &[TxnOp]) -> Result<Changes, StoreError> {
    let mut all = Changes::default();
    for op in ops {
        let mut one = Changes::default();
        match op {
            TxnOp::Range(_) => continue,
            TxnOp::Put(put) => {
                one.puts.insert(put.key.clone());
            }
            TxnOp::Delete(delete) => one
                .deletes
                .push(Bounds::new(&delete.key, &delete.range_end)),
            TxnOp::Txn(inner) => {
                one = changes(&inner.success)?;
                one.either(changes(&inner.failure)?);
            }
        }
        all.join(one)?;
    }
    Ok(all)
}

/// No branch changes anything.
pub(crate) fn read_only(request: &TxnRequest) -> bool {
    request
        .success
        .iter()
        .chain(&request.failure)
        .all(|op| match op {
            TxnOp::Range(_) => true,
            TxnOp::Put(_) | TxnOp::Delete(_) => false,
            TxnOp::Txn(inner) => read_only(inner),
        })
}

/// Bytes of keys and values in a transaction.
pub(crate) fn txn_size(request: &TxnRequest) -> usize {
    let compares = request.compare.iter().map(|compare| {
        let value = match &compare.target {
            CompareTarget::Value(value) => value.len(),
            _ => 8,
        };
        compare.key.len() + compare.range_end.len() + value
    });
    let ops = request
        .success
        .iter()
        .chain(&request.failure)
        .map(|op| match op {
            TxnOp::Range(range) => range.key.len() + range.range_end.len(),
            TxnOp::Put(put) => put.key.len() + put.value.len(),
            TxnOp::Delete(delete) => delete.key.len() + delete.range_end.len(),
            TxnOp::Txn(inner) => txn_size(inner),
        });
    compares.chain(ops).sum()
}
