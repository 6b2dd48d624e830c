//! A leader's writes: whole groups of steps, each transaction fenced by the leader's key.

use super::{Leader, locked};
use crate::error::{FleetError, Result};
use crate::model::keys;
use coracle_store::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, PutRequest, RangeRequest, Revision,
    Store, StoreError, TxnOp, TxnOpResponse, TxnRequest,
};
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Steps of one transaction, below etcd's own bound of 128.
const AT_ONCE: usize = 100;

/// Steps that are done at one revision of the store.
#[derive(Default, Clone)]
pub(crate) struct Group {
    steps: Vec<TxnOp>,
    /// Machines without whose absence nothing of it holds.
    absent: BTreeSet<String>,
}

impl Group {
    /// Sets a key to a value's JSON.
    pub fn put<T: Serialize>(&mut self, key: String, value: &T) -> Result<(), StoreError> {
        let value = serde_json::to_vec(value).map_err(|source| StoreError::Json {
            key: key.clone(),
            source: Arc::new(source),
        })?;
        self.steps.push(TxnOp::Put(PutRequest::new(key, value)));
        Ok(())
    }

    /// Deletes a key.
    pub fn delete(&mut self, key: String) {
        self.steps.push(TxnOp::Delete(DeleteRangeRequest::key(key)));
    }

    /// Deletes everything below a prefix.
    pub fn delete_below(&mut self, prefix: String) {
        self.steps
            .push(TxnOp::Delete(DeleteRangeRequest::prefix(prefix)));
    }

    /// It is done only if these machines do not count as there.
    pub fn only_if_absent(&mut self, machines: &BTreeSet<String>) {
        self.absent.extend(machines.iter().cloned());
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Does all of it, or nothing. `fence` is the revision at which the key of who leads was made.
    async fn write(self, store: &dyn Store, fence: Revision) -> Result<Done, StoreError> {
        let lead = CompareTarget::Create(fence);
        let leads = Compare::new(keys::LEADER, CompareResult::Equal, lead);
        let absent: Vec<String> = self.absent.iter().map(|id| keys::alive(id)).collect();
        let compares = absent.iter().cloned().map(Compare::absent);
        let looks = std::iter::once(keys::LEADER.to_owned()).chain(absent.iter().cloned());
        let txn = TxnRequest {
            compare: std::iter::once(leads).chain(compares).collect(),
            success: self.steps,
            failure: looks.map(RangeRequest::key).map(TxnOp::Range).collect(),
        };
        let answer = store.txn(txn).await?;
        if answer.succeeded {
            return Ok(Done::Yes);
        }
        let made = |at: TxnOpResponse| match at {
            TxnOpResponse::Range(range) => range.kvs.first().map(|kv| kv.create_revision),
            _ => None,
        };
        let mut found = answer.responses.into_iter().map(made);
        if found.next().flatten() != Some(fence) {
            return Ok(Done::NotLeader);
        }
        let back = self.absent.into_iter().zip(found);
        let back = back.filter(|(_, made)| made.is_some());
        Ok(Done::Back(back.map(|(id, _)| id).collect()))
    }
}

/// What became of a group.
#[derive(Debug, PartialEq, Eq)]
enum Done {
    Yes,
    NotLeader,
    /// These machines are there, which must not be.
    Back(Vec<String>),
}

impl Leader {
    /// Does these groups in their order, as many at once as a transaction holds.
    ///
    /// # Errors
    /// [`FleetError::NotLeader`] if another machine leads by now, [`FleetError::Back`] if a machine is there that must not be; then
    /// nothing of the rest is done.
    pub async fn commit(&self, groups: impl IntoIterator<Item = Group>) -> Result<()> {
        let mut all = Group::default();
        for group in groups {
            let more = all.steps.len() + group.steps.len() > AT_ONCE
                || all.absent.len() + group.absent.len() > AT_ONCE;
            if !all.is_empty() && more {
                self.write(std::mem::take(&mut all)).await?;
            }
            all.steps.extend(group.steps);
            all.absent.extend(group.absent);
        }
        if !all.is_empty() {
            self.write(all).await?;
        }
        Ok(())
    }

    async fn write(&self, all: Group) -> Result<()> {
        if *self.over.borrow() {
            return Err(FleetError::NotLeader);
        }
        match all.write(&*self.store, self.fence).await {
            Ok(Done::Yes) => Ok(()),
            Ok(Done::NotLeader) => {
                self.over.send_replace(true);
                Err(FleetError::NotLeader)
            }
            Ok(Done::Back(machines)) => Err(FleetError::Back(machines)),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use coracle_store::{EmbeddedStore, Options, StoreExt as _};

    #[tokio::test]
    async fn a_group_needs_the_lead_and_the_absence_of_who_was_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path(), Options::default()).unwrap();
        let fence = store
            .put(PutRequest::new(keys::LEADER, "me"))
            .await
            .unwrap();
        let fence = fence.revision;
        let group = |value: i32, absent: &[&str]| {
            let mut group = Group::default();
            group.put("/x".into(), &value).unwrap();
            group.only_if_absent(&absent.iter().map(|id| (*id).to_owned()).collect());
            group
        };
        let now = async || store.get_json::<i32>("/x").await.unwrap().map(|(x, _)| x);
        assert_eq!(group(1, &[]).write(&store, fence).await.unwrap(), Done::Yes);
        let given_up = group(2, &["a", "b"]).write(&store, fence).await.unwrap();
        assert_eq!((given_up, now().await), (Done::Yes, Some(2)));
        let alive = PutRequest::new(keys::alive("b"), "since");
        store.put(alive).await.unwrap();
        let back = group(3, &["a", "b"]).write(&store, fence).await.unwrap();
        assert_eq!((back, now().await), (Done::Back(vec!["b".into()]), Some(2)));
        // Whoever leads no more hears that, whatever else is so.
        for absent in [&[][..], &["b"]] {
            let other = group(4, absent).write(&store, fence + 1).await.unwrap();
            assert_eq!((other, now().await), (Done::NotLeader, Some(2)));
        }
    }
}
