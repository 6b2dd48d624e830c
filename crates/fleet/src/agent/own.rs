//! What the machine's own store holds of what is wanted: a copy, written before anything is done about it, and what is left over.

use super::{Wanted, instance};
use crate::error::Result;
use crate::fleet::Fleet;
use crate::model::{Desired, DesiredRecord, Instance, keys};
use crate::supervise::Supervised;
use coracle_engine::full_error;
use coracle_store::{
    Compare, DeleteRangeRequest, KeyValue, PutRequest, StoreError, StoreExt as _, TxnOp, TxnRequest,
};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// How long a container has to end of which nobody knows more than that it is to go.
const LAST: Duration = Duration::from_secs(10);

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
                    let Some(kept) = self.0.local.get(key.clone()).await? else {
                        return Ok(());
                    };
                    let value = serde_json::to_vec(&down).unwrap_or_default();
                    // It may be forgotten in this moment, and is not to come back by this.
                    let put = TxnRequest {
                        compare: vec![Compare::unchanged(key.clone(), kept.mod_revision)],
                        success: vec![TxnOp::Put(PutRequest::new(key, value))],
                        failure: Vec::new(),
                    };
                    self.0.local.txn(put).await?;
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

    /// Containers that no driver has end as they were made to be stopped.
    async fn end_containers(&self, uid: &str) {
        for id in self.containers().of_unit(uid) {
            // It may have ended, or be gone; what still runs after this is removed all the same.
            let _ = self.containers().stop(&id, None, Some(LAST)).await;
        }
    }

    /// The name under which an instance has its driver.
    pub(super) fn name_here(&self, instance: &Instance) -> Option<String> {
        let units = self.0.units.read().unwrap_or_else(PoisonError::into_inner);
        let mut all = units.iter();
        let found = all.find(|(_, unit)| unit.instance == *instance);
        found.map(|(name, _)| name.clone())
    }

    /// Forgets what was said of an instance that has no driver.
    pub(super) async fn forget_said(&self, instance: &Instance) -> Result<(), StoreError> {
        let key = keys::actual(&self.0.machine.id, instance);
        match self.0.local.get(key).await? {
            Some(_) => self.forget(instance).await,
            None => Ok(()),
        }
    }

    fn supervised_as(&self, key: &[u8]) -> Option<Arc<Supervised>> {
        let instance = instance(key)?;
        self.all().into_iter().find(|u| u.instance == instance)
    }

    /// Forgets units' texts of which the cluster's store has another or none: it was made anew of an older copy, and gives their
    /// numbers once more.
    ///
    /// # Errors
    /// [`crate::FleetError::Store`].
    pub async fn check_texts(&self) -> Result<()> {
        if self.0.alone() {
            return Ok(());
        }
        for kept in self.0.local.list(keys::REVISIONS).await?.kvs {
            let told = self.0.cluster.get(kept.key.clone()).await?;
            if told.is_none_or(|told| told.value != kept.value) {
                let stale = DeleteRangeRequest::key(kept.key);
                self.0.local.delete_range(stale).await?;
            }
        }
        Ok(())
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
            if !same {
                self.end_containers(&instance.uid).await;
            }
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
