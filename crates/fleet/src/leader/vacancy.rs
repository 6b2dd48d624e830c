//! When nobody leads: how that is seen, and how a machine that may not lead does not stand in the way.

use super::lead::{REST, changed};
use crate::model::{LeaderRecord, keys};
use crate::pace;
use coracle_engine::full_error;
use coracle_store::{
    Compare, DeleteRangeRequest, EventKind, LeaseId, RangeRequest, Store, StoreError,
    StoreExt as _, TxnOp, TxnRequest, WatchRequest,
};
use tokio::sync::watch;

/// Waits until the leader's key goes, or something of ours changes.
pub(super) async fn vacancy(
    store: &dyn Store,
    machine: &str,
    lease: &mut watch::Receiver<LeaseId>,
    may_lead: &mut watch::Receiver<bool>,
) {
    let gone = async {
        let found = store.range(RangeRequest::key(keys::LEADER)).await?;
        let Some(kv) = found.kvs.first() else {
            return Ok(());
        };
        let leads = serde_json::from_slice::<LeaderRecord>(&kv.value);
        if leads.is_ok_and(|leads| leads.machine == machine) {
            // An earlier try was thought to have failed, and came through.
            pace::sleep(REST).await;
            return Ok(());
        }
        let from = WatchRequest::key(keys::LEADER).from(found.revision + 1);
        let mut watch = store.watch(from).await?;
        while let Some(answer) = watch.next().await {
            let answer = answer?;
            if answer.canceled || answer.events.iter().any(|e| e.kind == EventKind::Delete) {
                break;
            }
        }
        Ok::<_, StoreError>(())
    };
    tokio::select! {
        biased;
        gone = gone => if gone.is_err() {
            pace::sleep(REST).await;
        },
        () = changed(lease) => {}
        () = changed(may_lead) => {}
    }
}

/// Ends the lead of this machine's former life, if that is written still: its lease outlives its daemons, and nobody else would lead.
pub(super) async fn end_of_a_former_life(store: &dyn Store, machine: &str) {
    let ended = async || {
        let Some(found) = store.get(keys::LEADER).await? else {
            return Ok(());
        };
        let leads = serde_json::from_slice::<LeaderRecord>(&found.value);
        if leads.is_ok_and(|leads| leads.machine == machine) {
            let end = TxnRequest {
                compare: vec![Compare::unchanged(keys::LEADER, found.mod_revision)],
                success: vec![TxnOp::Delete(DeleteRangeRequest::key(keys::LEADER))],
                failure: Vec::new(),
            };
            store.txn(end).await?;
        }
        Ok::<_, StoreError>(())
    };
    while let Err(error) = ended().await {
        tracing::debug!(error = full_error(&error), "who leads cannot be asked now");
        pace::sleep(REST).await;
    }
}
