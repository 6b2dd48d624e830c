//! A leader's writes: whole groups of steps, each transaction fenced by the leader's key.
//!
//! Groups that have nothing to do with each other are written several transactions at a time ([`Leader::commit_each`]): the store
//! answers one while the next are on their way. Each says by itself whether it was done, so that what is in memory follows what is in
//! the store, also where some were written and others were not.

use super::{Leader, locked};
use crate::error::{FleetError, Result};
use crate::model::keys;
use coracle_store::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, PutRequest, RangeRequest, Revision,
    Store, StoreError, TxnOp, TxnOpResponse, TxnRequest,
};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Steps of one transaction, below etcd's own bound of 128.
const AT_ONCE: usize = 100;
/// Transactions that are on their way at a time.
const ON_THE_WAY: usize = 8;

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

    /// Does what another one does, too.
    pub fn join(&mut self, other: Self) {
        self.steps.extend(other.steps);
        self.absent.extend(other.absent);
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

    /// Does all of it, or nothing. `fence` is the revision at which the key of who leads was written.
    async fn write(self, store: &dyn Store, fence: Revision) -> Result<Done, StoreError> {
        let lead = CompareTarget::Mod(fence);
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
            TxnOpResponse::Range(range) => range.kvs.first().map(|kv| kv.mod_revision),
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

/// Whether they go into one transaction.
pub(super) fn fits<'a>(groups: impl Iterator<Item = &'a Group>) -> bool {
    let (mut steps, mut absent) = (0, 0);
    for group in groups {
        steps += group.steps.len();
        absent += group.absent.len();
    }
    steps <= AT_ONCE && absent <= AT_ONCE
}

/// Groups that go into one transaction, with what each is of; one group that is too large for a transaction is alone.
fn bundles<T>(groups: impl IntoIterator<Item = (T, Group)>) -> Vec<(Vec<T>, Group)> {
    let mut bundles: Vec<(Vec<T>, Group)> = Vec::new();
    for (of, group) in groups {
        match bundles.last_mut() {
            Some((those, all)) if fits([&*all, &group].into_iter()) => {
                those.push(of);
                all.steps.extend(group.steps);
                all.absent.extend(group.absent);
            }
            _ => bundles.push((vec![of], group)),
        }
    }
    bundles
}

impl Leader {
    /// Does these groups in their order, as many at once as a transaction holds.
    ///
    /// # Errors
    /// [`FleetError::NotLeader`] if another machine leads by now, [`FleetError::Back`] if a machine is there that must not be; then
    /// nothing of the rest is done.
    pub async fn commit(&self, groups: impl IntoIterator<Item = Group>) -> Result<()> {
        for (_, group) in bundles(groups.into_iter().map(|group| ((), group))) {
            self.write_all(group).await?;
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
        let write =
            |(those, group): (Vec<T>, Group)| async move { (those, self.write_all(group).await) };
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
    async fn write_all(&self, Group { steps, absent }: Group) -> Result<()> {
        let mut steps = steps.into_iter();
        let mut begun = false;
        loop {
            let some: Vec<TxnOp> = steps.by_ref().take(AT_ONCE).collect();
            if some.is_empty() {
                return Ok(());
            }
            let some = Group {
                steps: some,
                absent: absent.clone(),
            };
            let written = self.write(some).await;
            if begun && written.is_err() {
                // It is done in part: what is in memory is not to be trusted any more.
                self.end();
            }
            written?;
            begun = true;
        }
    }

    async fn write(&self, all: Group) -> Result<()> {
        if *self.over.borrow() {
            return Err(FleetError::NotLeader);
        }
        self.work.writes();
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
