//! A leader's writes: whole groups of steps, each transaction fenced by the leader's key.

use super::{Leader, locked};
use crate::error::{FleetError, Result};
use crate::model::keys;
use coracle_store::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, PutRequest, StoreError, TxnOp,
    TxnRequest,
};
use serde::Serialize;
use std::sync::Arc;

/// Steps of one transaction, below etcd's own bound of 128.
const AT_ONCE: usize = if cfg!(test) { 4 } else { 100 };

/// Steps that are done at one revision of the store.
#[derive(Default, Clone)]
pub(crate) struct Group(Vec<TxnOp>);

impl Group {
    /// Sets a key to a value's JSON.
    pub fn put<T: Serialize>(&mut self, key: String, value: &T) -> Result<(), StoreError> {
        let value = serde_json::to_vec(value).map_err(|source| StoreError::Json {
            key: key.clone(),
            source: Arc::new(source),
        })?;
        self.0.push(TxnOp::Put(PutRequest::new(key, value)));
        Ok(())
    }

    /// Deletes a key.
    pub fn delete(&mut self, key: String) {
        self.0.push(TxnOp::Delete(DeleteRangeRequest::key(key)));
    }

    /// Deletes everything below a prefix.
    pub fn delete_below(&mut self, prefix: String) {
        self.0
            .push(TxnOp::Delete(DeleteRangeRequest::prefix(prefix)));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Leader {
    /// Does these groups in their order, as many at once as a transaction holds.
    ///
    /// # Errors
    /// [`FleetError::NotLeader`] if another machine leads by now; then nothing of the rest is done.
    pub async fn commit(&self, groups: impl IntoIterator<Item = Group>) -> Result<()> {
        let mut steps: Vec<TxnOp> = Vec::new();
        let mut some = false;
        for group in groups {
            if !steps.is_empty() && steps.len() + group.0.len() > AT_ONCE {
                self.write_after(std::mem::take(&mut steps), &mut some)
                    .await?;
            }
            steps.extend(group.0);
        }
        if !steps.is_empty() {
            self.write_after(steps, &mut some).await?;
        }
        Ok(())
    }

    /// As [`Self::write`], after `some` of what belongs together. If that is all that is done, what is in memory is not to be trusted any
    /// more: who asked takes all of it for undone.
    async fn write_after(&self, steps: Vec<TxnOp>, some: &mut bool) -> Result<()> {
        let written = self.write(steps).await;
        if written.is_err() && *some {
            self.over.send_replace(true);
        }
        *some = true;
        written
    }

    async fn write(&self, success: Vec<TxnOp>) -> Result<()> {
        if *self.over.borrow() {
            return Err(FleetError::NotLeader);
        }
        let lead = CompareTarget::Mod(self.fence);
        let txn = TxnRequest {
            compare: vec![Compare::new(keys::LEADER, CompareResult::Equal, lead)],
            success,
            failure: Vec::new(),
        };
        match self.store.txn(txn).await {
            Ok(answer) if answer.succeeded => Ok(()),
            Ok(_) => {
                self.over.send_replace(true);
                Err(FleetError::NotLeader)
            }
            Err(error) => {
                // What others were to be told of units may have been among it: it is told again.
                locked(&self.statuses).clear();
                // It may have been done: what is in memory is not to be trusted any more.
                if matches!(error, StoreError::Unreachable { sent: true, .. }) {
                    self.over.send_replace(true);
                }
                Err(error.into())
            }
        }
    }

    /// Whether somebody else may lead by now.
    pub fn over(&self) -> tokio::sync::watch::Receiver<bool> {
        self.over.subscribe()
    }

    /// Nobody is to trust this any more.
    pub fn end(&self) {
        self.over.send_replace(true);
    }
}
