//! What happens here, told to the cluster's store: each instance's record as the own store has it, the newest only, as soon as it can
//! be had. A machine that is alone has nothing to report: both are one.
//!
//! Each is written over what this daemon knows to be there. A report that was given up and comes through late finds something else
//! there, and takes nothing back. What has gone meanwhile would look like what was not there yet, so each also depends on the machine's
//! own entry, which is written anew, as it is, once a report was given up: what was sent before is in what is read then, or is refused.

use crate::fleet::{Fleet, Inner};
use crate::model::{Instance, keys};
use crate::pace;
use coracle_engine::full_error;
use coracle_store::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, Revision, StoreError, StoreExt as _,
    TxnOp, TxnOpResponse, TxnRequest,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Records of one transaction.
const AT_ONCE: usize = 100;
/// How long a store that does not answer is left alone.
const REST: Duration = Duration::from_secs(1);

/// Instances of which there is news.
pub(crate) struct Reports {
    alone: watch::Receiver<bool>,
    news: Mutex<BTreeSet<Instance>>,
    come: Notify,
}

impl Reports {
    /// Of a machine that reports from when it is not alone any more.
    pub(crate) fn new(alone: watch::Receiver<bool>) -> Self {
        Self {
            alone,
            news: Mutex::default(),
            come: Notify::new(),
        }
    }

    fn news(&self) -> MutexGuard<'_, BTreeSet<Instance>> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is news of an instance.
    pub(crate) fn tell(&self, instance: &Instance) {
        if !*self.alone.borrow() {
            self.news().insert(instance.clone());
            self.come.notify_one();
        }
    }

    fn take(&self) -> BTreeSet<Instance> {
        std::mem::take(&mut *self.news())
    }
}

impl Fleet {
    /// Reports for as long as there is a fleet.
    pub(crate) fn report(&self) {
        let (weak, mut alone) = (Arc::downgrade(&self.0), self.0.reports.alone.clone());
        pace::spawn(async move {
            if alone.wait_for(|alone| !alone).await.is_ok() {
                run(weak).await;
            }
        });
    }
}

/// What the cluster's store has.
#[derive(Default)]
struct Known {
    /// When the machine's own entry was written; 0 without one.
    own: Revision,
    /// When what is there of instances was written; of others there is nothing.
    instances: BTreeMap<Instance, Revision>,
}

async fn run(weak: Weak<Inner>) {
    let mut all = true;
    let mut said = false;
    let mut known = Known::default();
    loop {
        let Some(inner) = weak.upgrade() else { return };
        match turn(&inner, &mut all, &mut known).await {
            Ok(()) => {
                said = false;
                let reports = inner.reports.clone();
                drop(inner);
                reports.come.notified().await;
            }
            Err(error) => {
                tell_once(&mut said, &error);
                drop(inner);
                pace::sleep(REST).await;
            }
        }
    }
}

/// Writes all news; `all` is whether everything is to be compared first.
async fn turn(inner: &Inner, all: &mut bool, known: &mut Known) -> Result<(), StoreError> {
    if *all {
        *known = everything(inner).await?;
        *all = false;
    }
    let news: Vec<Instance> = inner.reports.take().into_iter().collect();
    for (at, some) in news.chunks(AT_ONCE).enumerate() {
        if let Err(error) = write(inner, some, known).await {
            for one in news.iter().skip(at * AT_ONCE) {
                inner.reports.tell(one);
            }
            *all = true;
            return Err(error);
        }
    }
    Ok(())
}

fn tell_once(said: &mut bool, error: &StoreError) {
    if !std::mem::replace(said, true) {
        tracing::warn!(
            error = full_error(error),
            "how units stand could not be reported; it is tried again"
        );
    }
}

/// What the cluster's store has of this machine and what is so may differ after a time without it. Answers what it has.
async fn everything(inner: &Inner) -> Result<Known, StoreError> {
    let prefix = keys::actual_of(&inner.machine.id);
    let owned = write_own(inner).await?;
    let by_key = |kvs: Vec<coracle_store::KeyValue>| -> BTreeMap<_, _> {
        kvs.into_iter().map(|kv| (kv.key, kv.value)).collect()
    };
    let own = by_key(inner.local.list(prefix.clone()).await?.kvs);
    let told = inner.cluster.list(prefix).await?.kvs;
    let known = told.iter().filter_map(|kv| {
        let key = std::str::from_utf8(&kv.key).ok()?;
        Some((keys::placed(key, keys::ACTUAL)?.1, kv.mod_revision))
    });
    let known = Known {
        own: owned,
        instances: known.collect(),
    };
    let told = by_key(told);
    let differ = |key: &&bytes::Bytes| own.get(*key) != told.get(*key);
    for key in own.keys().chain(told.keys()).filter(differ) {
        let key = String::from_utf8_lossy(key);
        if let Some((_, instance)) = keys::placed(&key, keys::ACTUAL) {
            inner.reports.tell(&instance);
        }
    }
    Ok(known)
}

/// Writes the machine's own entry once more, as it is. Answers when that was.
async fn write_own(inner: &Inner) -> Result<Revision, StoreError> {
    let key = keys::machine(&inner.machine.id);
    loop {
        let Some(kv) = inner.cluster.get(key.clone()).await? else {
            return Ok(0);
        };
        let again = TxnRequest {
            compare: vec![Compare::unchanged(key.clone(), kv.mod_revision)],
            success: vec![TxnOp::Put(PutRequest::new(key.clone(), kv.value))],
            failure: Vec::new(),
        };
        let answer = inner.cluster.txn(again).await?;
        if answer.succeeded {
            return Ok(answer.revision);
        }
    }
}

async fn write(inner: &Inner, some: &[Instance], known: &mut Known) -> Result<(), StoreError> {
    loop {
        let own = keys::machine(&inner.machine.id);
        let mut all = TxnRequest::default();
        all.compare.push(Compare::unchanged(own.clone(), known.own));
        for instance in some {
            let key = keys::actual(&inner.machine.id, instance);
            let then = known.instances.get(instance).copied().unwrap_or(0);
            all.compare.push(Compare::unchanged(key.clone(), then));
            all.failure
                .push(TxnOp::Range(RangeRequest::key(key.clone())));
            all.success.push(match inner.local.get(key.clone()).await? {
                Some(kv) => TxnOp::Put(PutRequest::new(key, kv.value)),
                None => TxnOp::Delete(DeleteRangeRequest::key(key)),
            });
        }
        all.failure.push(TxnOp::Range(RangeRequest::key(own)));
        let answer = inner.cluster.txn(all).await?;
        // After all of the instances.
        if let Some(TxnOpResponse::Range(range)) = answer.responses.get(some.len()) {
            known.own = range.kvs.first().map_or(0, |kv| kv.mod_revision);
        }
        for (instance, response) in some.iter().zip(&answer.responses) {
            let written = match response {
                TxnOpResponse::Put(put) => Some(put.revision),
                TxnOpResponse::Range(range) => range.kvs.first().map(|kv| kv.mod_revision),
                _ => None,
            };
            match written {
                Some(revision) => known.instances.insert(instance.clone(), revision),
                None => known.instances.remove(instance),
            };
        }
        if answer.succeeded {
            return Ok(());
        }
        // An earlier one came through after all, or somebody took it away: it is written over what is there now.
    }
}
