//! A machine is taken off the list. The machine that leads does it, in one transaction that its key fences.

use super::error::ClusterError;
use super::lead::{LED, LOOK, PATIENCE};
use super::{Cluster, MachineId};
use axum::body::Body;
use axum::http::{Request, StatusCode};
use coracle_cluster::door::DoorError;
use coracle_cluster::member::record;
use coracle_cluster::members;
use coracle_engine::full_error;
use coracle_fleet::model::{LeaderRecord, keys};
use coracle_store::{
    Compare, CompareResult, CompareTarget, Revision, StoreError, StoreExt as _, TxnOp, TxnRequest,
};
use std::time::Duration;
use tokio::time::Instant;

/// How long a voter may take to strike a machine off.
const TOLD: Duration = Duration::from_secs(5);

impl Cluster {
    /// Strikes a machine off: its door is shut for it at once, and what it had goes elsewhere.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn strike(&self, machine: &MachineId) -> Result<(), ClusterError> {
        if self.authority.borrow().is_none() {
            return self.have_struck(machine).await;
        }
        let end = Instant::now() + PATIENCE;
        loop {
            let leader = self.store().get(keys::LEADER).await?;
            let leads = leader.as_ref().and_then(|kv| {
                let record: LeaderRecord = serde_json::from_slice(&kv.value).ok()?;
                Some(record.machine)
            });
            let is_done = match (leader, leads) {
                (Some(kv), Some(leads)) if leads == self.machine.as_str() => {
                    self.struck(machine, kv.create_revision).await?
                }
                (_, Some(leads)) => self.has_struck(&leads, machine).await?,
                _ => false,
            };
            if is_done {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(ClusterError::NoLeader(machine.clone()));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Does it as the leader since that revision; whether this machine still was.
    async fn struck(&self, machine: &MachineId, since: Revision) -> Result<bool, StoreError> {
        let lead = CompareTarget::Create(since);
        let txn = TxnRequest {
            compare: vec![Compare::new(keys::LEADER, CompareResult::Equal, lead)],
            success: gone(machine),
            failure: vec![],
        };
        Ok(self.store().txn(txn).await?.succeeded)
    }

    /// Has the machine that leads do it; whether it did. That it cannot be reached may be its end, and another one's beginning.
    async fn has_struck(&self, leader: &str, machine: &MachineId) -> Result<bool, ClusterError> {
        let request = Request::delete(format!("/v1/machines/{machine}"))
            .header(LED, self.machine.as_str())
            .body(Body::empty());
        let Ok(request) = request else {
            return Ok(false);
        };
        match self.send(leader, request).await {
            Ok(answer) if answer.status().is_success() => Ok(true),
            Ok(answer) if answer.status() == StatusCode::CONFLICT => {
                Err(ClusterError::CannotLeave(format!(
                    "machine {} leads and does not take machine {machine} off the list: another is to take its place first",
                    self.called(leader)
                )))
            }
            // It was taken off in the meantime.
            Ok(answer) if answer.status() == StatusCode::NOT_FOUND => Ok(true),
            Ok(_) => Ok(false),
            Err(error) => {
                tracing::debug!(
                    leader,
                    error = full_error(&*error),
                    "the leader cannot be asked"
                );
                Ok(false)
            }
        }
    }

    /// Has a voter do it for this machine, which may not write the list itself.
    async fn have_struck(&self, machine: &MachineId) -> Result<(), ClusterError> {
        let client = self.client.get().ok_or(ClusterError::NoMember)?;
        let mut last = None;
        // With the word the door is shut, which may be before its answer is here: then it is asked once more.
        let twice = self.targets().into_iter().flat_map(|t| [t.clone(), t]);
        let mut away = None;
        for target in twice {
            if away.as_ref() == Some(&target.machine) {
                continue;
            }
            let request = Request::delete(format!("/v1/machines/{machine}")).body(Body::empty());
            let Ok(request) = request else { continue };
            let sent = tokio::time::timeout(TOLD, client.send(&target, request));
            let Ok(answer) = sent.await else {
                last = Some(format!("{} does not answer", target.machine));
                continue;
            };
            match answer {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                // It knows us no more: that is what was asked.
                Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED => return Ok(()),
                Ok(answer) => {
                    last = Some(format!("{} answered {}", target.machine, answer.status()));
                }
                Err(error) => {
                    if let DoorError::Unreachable { .. } | DoorError::NoAddress { .. } = error {
                        away = Some(target.machine.clone());
                    }
                    last = Some(full_error(&error));
                }
            }
        }
        Err(ClusterError::CannotLeave(format!(
            "no voter took machine {machine} off the list: {}; ask again when one can be reached, or say --force to leave all the same",
            last.unwrap_or_else(|| "none is known".into())
        )))
    }
}

/// What goes with a machine. What it was asked to run, and what it said of that, goes once all has ended there for sure, by whoever leads
/// then.
pub(super) fn gone(machine: &MachineId) -> Vec<TxnOp> {
    let id = machine.as_str();
    let keys = [
        members::key(machine),
        keys::alive(id),
        keys::machine(id),
        keys::marks(id),
        keys::subnet(id),
        record::key(machine),
        record::leaving(machine),
    ];
    keys.into_iter().map(TxnOp::delete).collect()
}
