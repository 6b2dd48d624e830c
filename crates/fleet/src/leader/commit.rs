//! A leader's writes: whole groups of steps, each transaction fenced by the leader's key.
//!
//! Groups that have nothing to do with each other are written several transactions at a time ([`Leader::commit_each`]): the store
//! answers one while the next are on their way. Each says by itself whether it was done, so that what is in memory follows what is in
//! the store, also where some were written and others were not.

use super::{Leader, locked};
use crate::error::{FleetError, Result};
use crate::model::keys;
use coracle_store::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, PutRequest, StoreError, TxnOp,
    TxnRequest,
};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use std::sync::Arc;

/// Steps of one transaction, below etcd's own bound of 128.
const AT_ONCE: usize = 100;
/// Transactions that are on their way at a time.
const ON_THE_WAY: usize = 8;

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
}

/// Whether they go into one transaction.
pub(super) fn fits<'a>(groups: impl Iterator<Item = &'a Group>) -> bool {
    groups.map(|group| group.0.len()).sum::<usize>() <= AT_ONCE
}

/// Groups that go into one transaction, with what each is of; one group that is too large for a transaction is alone.
fn bundles<T>(groups: impl IntoIterator<Item = (T, Group)>) -> Vec<(Vec<T>, Vec<TxnOp>)> {
    let mut bundles: Vec<(Vec<T>, Vec<TxnOp>)> = Vec::new();
    for (of, group) in groups {
        match bundles.last_mut() {
            Some((those, steps)) if steps.len() + group.0.len() <= AT_ONCE => {
                those.push(of);
                steps.extend(group.0);
            }
            _ => bundles.push((vec![of], group.0)),
        }
    }
    bundles
}

impl Leader {
    /// Does these groups in their order, as many at once as a transaction holds.
    ///
    /// # Errors
    /// [`FleetError::NotLeader`] if another machine leads by now; then nothing of the rest is done.
    pub async fn commit(&self, groups: impl IntoIterator<Item = Group>) -> Result<()> {
        for (_, steps) in bundles(groups.into_iter().map(|group| ((), group))) {
            self.write_all(steps).await?;
        }
        Ok(())
    }

    /// Does these groups in any order, several transactions at a time. `done` is told of each group that was done, as soon as it was.
    ///
    /// # Errors
    /// The first, once nothing is on its way any more; what `done` was not told of was not done.
    pub async fn commit_each<T>(
        &self,
        groups: impl IntoIterator<Item = (T, Group)>,
        mut done: impl FnMut(T),
    ) -> Result<()> {
        let mut waiting = bundles(groups).into_iter();
        let write = |(those, steps): (Vec<T>, Vec<TxnOp>)| async move {
            (those, self.write_all(steps).await)
        };
        let mut on_the_way: FuturesUnordered<_> =
            waiting.by_ref().take(ON_THE_WAY).map(write).collect();
        let mut failed = None;
        while let Some((those, written)) = on_the_way.next().await {
            match written {
                Ok(()) => those.into_iter().for_each(&mut done),
                Err(error) => failed = failed.or(Some(error)),
            }
            if failed.is_none() {
                on_the_way.extend(waiting.next().map(write));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// In one transaction, or as many as are needed, one after the other.
    async fn write_all(&self, steps: Vec<TxnOp>) -> Result<()> {
        let mut steps = steps.into_iter();
        let mut begun = false;
        loop {
            let some: Vec<TxnOp> = steps.by_ref().take(AT_ONCE).collect();
            if some.is_empty() {
                return Ok(());
            }
            let written = self.write(some).await;
            if begun && written.is_err() {
                // It is done in part: what is in memory is not to be trusted any more.
                self.end();
            }
            written?;
            begun = true;
        }
    }

    async fn write(&self, success: Vec<TxnOp>) -> Result<()> {
        if *self.over.borrow() {
            return Err(FleetError::NotLeader);
        }
        self.work.writes();
        let lead = CompareTarget::Create(self.fence);
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
