//! What the machine's own store holds of what is wanted: a copy, written before anything is done about it, and what is left over.

use super::{Wanted, instance};
use crate::fleet::Fleet;
use crate::model::{Desired, DesiredRecord, keys};
use crate::supervise::Supervised;
use coracle_engine::full_error;
use coracle_store::{
    DeleteRangeRequest, KeyValue, PutRequest, StoreError, StoreExt as _, TxnOp, TxnRequest,
};
use std::sync::Arc;

impl Fleet {
    /// Keeps a copy of what is wanted in the own store, before anything is done about it.
    pub(super) async fn copy(
        &self,
        key: &[u8],
        value: Option<&KeyValue>,
    ) -> Result<(), StoreError> {
        if self.0.alone() {
            return Ok(());
        }
        let key = key.to_vec();
        match value {
            Some(kv) => {
                let mut puts = vec![PutRequest::new(key.clone(), kv.value.clone())];
                if let Some(instance) = instance(&key) {
                    let fence = kv.create_revision.to_string();
                    puts.push(PutRequest::new(keys::fence(&instance), fence));
                }
                let both = TxnRequest {
                    success: puts.into_iter().map(TxnOp::Put).collect(),
                    ..TxnRequest::default()
                };
                self.0.local.txn(both).await?;
            }
            None => match self.supervised_as(&key) {
                // The record of an instance that is retired leaves last: a daemon that starts anew must know of it.
                Some(unit) => {
                    let down = DesiredRecord {
                        desired: Desired::Inactive,
                        ..unit.record()
                    };
                    let key = keys::desired(&self.0.machine.id, &unit.instance);
                    self.0.local.put_json(&key, &down).await?;
                }
                None => {
                    self.0
                        .local
                        .delete_range(DeleteRangeRequest::key(key))
                        .await?;
                }
            },
        }
        Ok(())
    }

    fn supervised_as(&self, key: &[u8]) -> Option<Arc<Supervised>> {
        let instance = instance(key)?;
        self.all().into_iter().find(|u| u.instance == instance)
    }

    /// Removes what is left of instances that are wanted no more and that no driver has: their records, and with these their containers.
    pub(super) async fn collect(&self, wanted: &Wanted) -> Result<(), StoreError> {
        let machine = &self.0.machine.id;
        let kept = self.0.local.list(keys::actual_of(machine)).await?;
        for kv in kept.kvs {
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            let Some((_, instance)) = keys::placed(&key, keys::ACTUAL) else {
                continue;
            };
            let is_wanted = wanted.values().any(|of| of.contains_key(&instance));
            if is_wanted || self.all().iter().any(|u| u.instance == instance) {
                continue;
            }
            let same = wanted
                .values()
                .any(|of| of.keys().any(|i| i.uid == instance.uid));
            if !same && let Err(error) = self.remove_containers(&instance.uid).await {
                tracing::error!(
                    uid = instance.uid,
                    error = full_error(&error),
                    "what an instance left could not be removed"
                );
                continue;
            }
            self.forget(&instance).await?;
        }
        Ok(())
    }
}
