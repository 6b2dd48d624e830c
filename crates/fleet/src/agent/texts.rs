//! Texts of several units at once: a machine that gets many asks the cluster's store once for all, not once for each.

use crate::fleet::Fleet;
use crate::model::{DesiredRecord, Instance, keys};
use coracle_store::{
    PutRequest, RangeRequest, StoreError, StoreExt as _, TxnOp, TxnOpResponse, TxnRequest,
};
use std::collections::BTreeSet;

/// Texts of one request.
const AT_ONCE: usize = 100;

impl Fleet {
    /// Has the texts of these in the own store, as far as the cluster's has them. One alone is left to who needs it.
    pub(super) async fn have_texts(
        &self,
        wanted: impl Iterator<Item = (Instance, DesiredRecord)>,
    ) -> Result<(), StoreError> {
        if self.0.alone() {
            return Ok(());
        }
        let keys = wanted.map(|(instance, record)| keys::revision(&instance.uid, record.revision));
        let keys: BTreeSet<String> = keys.collect();
        let mut missing = Vec::new();
        for key in keys {
            if self.0.local.get(key.clone()).await?.is_none() {
                missing.push(key);
            }
        }
        if missing.len() < 2 {
            return Ok(());
        }
        for some in missing.chunks(AT_ONCE) {
            let read = |key: &String| TxnOp::Range(RangeRequest::key(key.clone()));
            let read = TxnRequest {
                success: some.iter().map(read).collect(),
                ..TxnRequest::default()
            };
            let answers = self.0.cluster.txn(read).await?.responses;
            let found = answers.into_iter().filter_map(|answer| match answer {
                TxnOpResponse::Range(mut range) => range.kvs.pop(),
                _ => None,
            });
            let keep = TxnRequest {
                success: found
                    .map(|kv| TxnOp::Put(PutRequest::new(kv.key, kv.value)))
                    .collect(),
                ..TxnRequest::default()
            };
            self.0.local.txn(keep).await?;
        }
        Ok(())
    }
}
