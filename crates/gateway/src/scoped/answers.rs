//! The store's answers as an app's. Pure, but for watches.

use std::sync::Arc;

use bytes::Bytes;
use coracle_store::*;

use super::Scope;
use super::requests::{FIRST, FORGOTTEN};

impl Scope {
    /// A revision as the app counts it; 0 is "none" on both sides.
    pub(super) fn outer(&self, revision: Revision) -> Revision {
        if revision > 0 {
            revision + self.offset
        } else {
            revision
        }
    }

    /// The oldest revision kept, 0 where none is gone: what was before the offset is.
    pub(super) fn oldest(&self, compacted: Revision) -> Revision {
        match self.offset {
            0 => compacted,
            offset => offset + compacted.max(FIRST),
        }
    }

    pub(super) fn strip(&self, key: &mut Bytes) {
        // All keys asked for are below it.
        if key.starts_with(&self.prefix) {
            *key = key.slice(self.prefix.len()..);
        }
    }

    fn kv(&self, kv: &mut KeyValue) {
        self.strip(&mut kv.key);
        kv.create_revision = self.outer(kv.create_revision);
        kv.mod_revision = self.outer(kv.mod_revision);
        // Such a lease is not there for the app.
        if is_own_lease(kv.lease) {
            kv.lease = 0;
        }
    }

    pub(super) fn range_answer(&self, answer: &mut RangeResponse) {
        answer.revision = self.outer(answer.revision);
        answer.kvs.iter_mut().for_each(|kv| self.kv(kv));
    }

    pub(super) fn put_answer(&self, answer: &mut PutResponse) {
        answer.revision = self.outer(answer.revision);
        answer.prev_kv.iter_mut().for_each(|kv| self.kv(kv));
    }

    pub(super) fn delete_answer(&self, answer: &mut DeleteRangeResponse) {
        answer.revision = self.outer(answer.revision);
        answer.prev_kvs.iter_mut().for_each(|kv| self.kv(kv));
    }

    /// The answer to `asked`, in which a deletion may have become a transaction of its parts.
    pub(super) fn txn_answer(&self, answer: TxnResponse, asked: &TxnRequest) -> TxnResponse {
        let branch = if answer.succeeded {
            &asked.success
        } else {
            &asked.failure
        };
        let steps = answer.responses.into_iter().zip(branch);
        let responses = steps.map(|(answer, asked)| match (answer, asked) {
            (TxnOpResponse::Txn(parts), TxnOp::Delete(_)) => {
                let mut whole = joined(parts);
                self.delete_answer(&mut whole);
                TxnOpResponse::Delete(whole)
            }
            (TxnOpResponse::Txn(inner), TxnOp::Txn(asked)) => {
                TxnOpResponse::Txn(self.txn_answer(inner, asked))
            }
            (TxnOpResponse::Range(mut found), _) => {
                self.range_answer(&mut found);
                TxnOpResponse::Range(found)
            }
            (TxnOpResponse::Put(mut done), _) => {
                self.put_answer(&mut done);
                TxnOpResponse::Put(done)
            }
            (TxnOpResponse::Delete(mut done), _) => {
                self.delete_answer(&mut done);
                TxnOpResponse::Delete(done)
            }
            // A store answers each step in its kind.
            (other, _) => other,
        });
        TxnResponse {
            revision: self.outer(answer.revision),
            succeeded: answer.succeeded,
            responses: responses.collect(),
        }
    }

    /// What went wrong, in the app's terms.
    pub(super) fn error(&self, error: StoreError) -> StoreError {
        let stripped = |mut key: Bytes| {
            self.strip(&mut key);
            key
        };
        match error {
            StoreError::Compacted {
                requested,
                compacted,
            } => StoreError::Compacted {
                requested: self.outer(requested),
                compacted: self.outer(compacted),
            },
            // What exactly was asked for is lost; the newest of the forgotten stands for it.
            StoreError::FutureRevision {
                requested: FORGOTTEN,
                ..
            } if self.offset > 0 => StoreError::Compacted {
                requested: self.offset,
                compacted: self.offset + FIRST,
            },
            StoreError::FutureRevision { requested, current } => StoreError::FutureRevision {
                requested: self.outer(requested),
                current: self.outer(current),
            },
            StoreError::DuplicateKey(key) => StoreError::DuplicateKey(stripped(key)),
            StoreError::KeyNotFound(key) => StoreError::KeyNotFound(stripped(key)),
            other => other,
        }
    }
}

/// The parts of one deletion as one.
pub(super) fn joined(parts: TxnResponse) -> DeleteRangeResponse {
    let mut whole = DeleteRangeResponse::default();
    for part in parts.responses {
        if let TxnOpResponse::Delete(part) = part {
            // Not the transaction's own, which etcd leaves out of an inner one.
            whole.revision = whole.revision.max(part.revision);
            whole.deleted += part.deleted;
            whole.prev_kvs.extend(part.prev_kvs);
        }
    }
    whole
}

/// A watch in the app's terms.
pub(super) struct ScopedWatch {
    scope: Scope,
    stream: WatchStream,
    /// The history asked for is gone; the store knows the oldest that is kept, for the one answer to give.
    forgotten: Option<Arc<dyn Store>>,
    over: bool,
}

impl ScopedWatch {
    pub(super) fn new(
        scope: Scope,
        stream: WatchStream,
        forgotten: Option<Arc<dyn Store>>,
    ) -> Self {
        Self {
            scope,
            stream,
            forgotten,
            over: false,
        }
    }

    async fn answer(&mut self) -> Option<Result<WatchResponse, StoreError>> {
        if self.over {
            return None;
        }
        if let Some(store) = &self.forgotten {
            // As it is now: a compaction may have come since the watch began.
            let found = match store.status().await {
                Ok(found) => found,
                Err(error) => return Some(Err(self.scope.error(error))),
            };
            self.over = true;
            return Some(Ok(WatchResponse {
                revision: self.revision(),
                compact_revision: self.scope.oldest(found.compact_revision),
                canceled: true,
                ..Default::default()
            }));
        }
        let answer = self.stream.next().await?;
        let scope = &self.scope;
        Some(answer.map_err(|e| scope.error(e)).map(|mut answer| {
            answer.revision = scope.outer(answer.revision);
            answer.compact_revision = scope.outer(answer.compact_revision);
            for event in &mut answer.events {
                scope.kv(&mut event.kv);
                event.prev_kv.iter_mut().for_each(|kv| scope.kv(kv));
            }
            answer
        }))
    }
}

impl Watching for ScopedWatch {
    fn next(&mut self) -> WatchNext<'_> {
        Box::pin(self.answer())
    }

    fn handle(&self) -> WatchHandle {
        self.stream.handle()
    }

    fn revision(&self) -> Revision {
        self.scope.outer(self.stream.revision())
    }
}
