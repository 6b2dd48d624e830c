//! An app's requests as the store's. Pure.

use bytes::Bytes;
use coracle_store::*;

use super::{DISCOVERY, Scope, hidden};

/// The lowest revision there is, of the empty store: below every key's, above "not there".
pub(super) const FIRST: Revision = 1;

/// In place of a revision of before the offset, which the store cannot tell as compacted. It refuses this as a future one if it
/// comes to read it, which in a branch not taken it does not; [`Scope::error`] has the right name for that. With an
/// offset no request of an app becomes this.
pub(super) const FORGOTTEN: Revision = Revision::MAX;

fn read_only() -> StoreError {
    StoreError::ReadOnly("/discovery/")
}

/// Bytes of keys and values that a transaction may put.
pub(super) fn puts(request: &TxnRequest) -> usize {
    let branch = |ops: &[TxnOp]| -> usize {
        let op = |op: &TxnOp| match op {
            TxnOp::Put(put) => put.key.len() + put.value.len(),
            TxnOp::Txn(inner) => puts(inner),
            TxnOp::Range(_) | TxnOp::Delete(_) => 0,
        };
        ops.iter().map(op).sum()
    };
    branch(&request.success).max(branch(&request.failure))
}

impl Scope {
    fn key(&self, key: &Bytes) -> Result<Bytes, StoreError> {
        if key.is_empty() {
            return Err(StoreError::EmptyKey);
        }
        Ok(self.below(key))
    }

    fn below(&self, key: &[u8]) -> Bytes {
        [&self.prefix[..], key].concat().into()
    }

    fn end(&self, range_end: &Bytes) -> Bytes {
        match &range_end[..] {
            b"" => Bytes::new(),
            b"\0" => prefix_end(&self.prefix),
            end => self.below(end),
        }
    }

    /// A revision as the store counts it; 0 and less mean "now" on both sides.
    pub(super) fn inner(&self, revision: Revision) -> Result<Revision, StoreError> {
        if revision <= 0 {
            return Ok(revision);
        }
        match revision - self.offset {
            below if below < FIRST => Err(StoreError::Compacted {
                requested: revision,
                compacted: self.offset + FIRST,
            }),
            inner => Ok(inner),
        }
    }

    /// A bound to compare with: what is before the offset stays above 0, which is "not there".
    fn bound(&self, revision: Revision) -> Revision {
        if revision <= 0 {
            revision
        } else {
            (revision - self.offset).max(FIRST)
        }
    }

    /// The largest revision allowed; what is before the offset allows none, and no key has 1.
    pub(super) fn range(&self, mut request: RangeRequest) -> Result<RangeRequest, StoreError> {
        request.range_end = self.end(&request.range_end);
        request.key = self.key(&request.key)?;
        request.revision = self.inner(request.revision).unwrap_or(FORGOTTEN);
        for bound in [
            &mut request.min_mod_revision,
            &mut request.max_mod_revision,
            &mut request.min_create_revision,
            &mut request.max_create_revision,
        ] {
            *bound = self.bound(*bound);
        }
        Ok(request)
    }

    pub(super) fn put(&self, mut request: PutRequest) -> Result<PutRequest, StoreError> {
        let key = self.key(&request.key)?;
        if request.key.starts_with(DISCOVERY) {
            return Err(read_only());
        }
        hidden(request.lease)?;
        request.key = key;
        Ok(request)
    }

    /// The ranges to delete: none, one, or the two beside what may only be read.
    pub(super) fn delete(
        &self,
        request: DeleteRangeRequest,
    ) -> Result<Vec<DeleteRangeRequest>, StoreError> {
        if request.key.is_empty() {
            return Err(StoreError::EmptyKey);
        }
        let (key, end) = (&request.key, &request.range_end);
        let part = |key: &Bytes, end: &Bytes| DeleteRangeRequest {
            key: self.below(key),
            range_end: self.end(end),
            prev_kv: request.prev_kv,
        };
        let first = Bytes::from_static(DISCOVERY);
        let after = prefix_end(DISCOVERY);
        if end.is_empty() {
            return match key.starts_with(DISCOVERY) {
                true => Err(read_only()),
                false => Ok(vec![part(key, end)]),
            };
        }
        let open = &end[..] == b"\0";
        if !open && end <= key {
            // Holds nothing, which the store knows as well.
            return Ok(vec![part(key, end)]);
        }
        if *key >= after || (!open && *end <= first) {
            return Ok(vec![part(key, end)]);
        }
        let mut parts = Vec::new();
        if *key < first {
            parts.push(part(key, &first));
        }
        if open || *end > after {
            parts.push(part(&after, end));
        }
        if parts.is_empty() {
            return Err(read_only());
        }
        Ok(parts)
    }

    pub(super) fn txn(&self, request: TxnRequest) -> Result<TxnRequest, StoreError> {
        let compare = request.compare.into_iter().map(|mut compare| {
            compare.range_end = self.end(&compare.range_end);
            compare.key = self.key(&compare.key)?;
            compare.target = match compare.target {
                CompareTarget::Create(revision) => CompareTarget::Create(self.bound(revision)),
                CompareTarget::Mod(revision) => CompareTarget::Mod(self.bound(revision)),
                other => other,
            };
            Ok(compare)
        });
        Ok(TxnRequest {
            compare: compare.collect::<Result<_, StoreError>>()?,
            success: self.ops(request.success)?,
            failure: self.ops(request.failure)?,
        })
    }

    /// Whether a deletion of it becomes two, which stand in a transaction of their own then.
    pub(super) fn splits(&self, request: &TxnRequest) -> bool {
        let all = request.success.iter().chain(&request.failure);
        let mut all = all.map(|op| match op {
            TxnOp::Delete(delete) => self
                .delete(delete.clone())
                .is_ok_and(|parts| parts.len() > 1),
            TxnOp::Txn(inner) => self.splits(inner),
            TxnOp::Range(_) | TxnOp::Put(_) => false,
        });
        all.any(|splits| splits)
    }

    fn ops(&self, ops: Vec<TxnOp>) -> Result<Vec<TxnOp>, StoreError> {
        let op = |op| {
            Ok(match op {
                TxnOp::Range(request) => TxnOp::Range(self.range(request)?),
                TxnOp::Put(request) => TxnOp::Put(self.put(request)?),
                TxnOp::Txn(request) => TxnOp::Txn(self.txn(request)?),
                TxnOp::Delete(request) => {
                    let mut parts = self.delete(request)?;
                    match (parts.len(), parts.pop()) {
                        (1, Some(one)) => TxnOp::Delete(one),
                        (_, last) => TxnOp::Txn(TxnRequest {
                            success: parts.into_iter().chain(last).map(TxnOp::Delete).collect(),
                            ..TxnRequest::default()
                        }),
                    }
                }
            })
        };
        ops.into_iter().map(op).collect()
    }

    /// And whether it asks for history of before the offset.
    pub(super) fn watch(&self, mut request: WatchRequest) -> (WatchRequest, bool) {
        if request.key.is_empty() {
            request.key = Bytes::from_static(b"\0");
        }
        request.range_end = self.end(&request.range_end);
        request.key = self.below(&request.key);
        let forgotten = match self.inner(request.start_revision) {
            Ok(revision) => {
                request.start_revision = revision;
                false
            }
            Err(_) => {
                request.start_revision = 0;
                true
            }
        };
        (request, forgotten)
    }
}
