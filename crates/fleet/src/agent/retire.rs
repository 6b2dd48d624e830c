//! What is wanted no more is stopped, its containers removed, its records too.

use super::REST;
use crate::fleet::Fleet;
use crate::model::{Active, Actual, Desired, DesiredRecord, Instance, keys};
use crate::pace;
use crate::supervise::Supervised;
use coracle_engine::full_error;
use coracle_store::{StoreError, TxnOp, TxnRequest};
use std::sync::{Arc, PoisonError};

impl Fleet {
    /// Stops and forgets everything that this machine has of units: it leaves the others. Nothing is started any more.
    pub async fn end_here(&self) {
        let _ = self.0.leaving.set(None);
        for unit in self.all() {
            self.retire(&unit).await;
        }
    }

    /// Stops what is wanted no more and forgets it. Volumes stay.
    pub(super) async fn retire(&self, unit: &Arc<Supervised>) {
        self.leave_service(unit).await;
        let record = unit.record();
        let order = record.order + 1;
        let down = DesiredRecord {
            desired: Desired::Inactive,
            order,
            ..record
        };
        unit.set(down, None);
        // Said in answer to this: a driver is never ended in the middle of a step.
        let is_down =
            |a: &Actual| a.order >= order && matches!(a.active, Active::Inactive | Active::Failed);
        let mut actual = unit.actual.subscribe();
        loop {
            let _ = actual.wait_for(is_down).await;
            unit.set_task(None);
            if self.settle(unit).await {
                break;
            }
            self.drive(unit);
            pace::sleep(REST).await;
        }
        let mut units = self.0.units.write().unwrap_or_else(PoisonError::into_inner);
        units.remove(unit.unit().name.as_str());
    }

    /// Removes what a unit that is down has left; whether all is gone.
    async fn settle(&self, unit: &Arc<Supervised>) -> bool {
        if let Err(error) = self.remove_containers(unit.uid()).await {
            tracing::error!(unit = %unit.unit().name, error = full_error(&error), "its container could not be removed");
            return false;
        }
        self.clear(unit, &unit.running()).await;
        if let Err(error) = self.forget(&unit.instance).await {
            tracing::error!(unit = %unit.unit().name, error = full_error(&error), "it could not be forgotten");
            return false;
        }
        if let Some(dir) = self.log_path(unit).parent() {
            let _ = std::fs::remove_dir_all(dir);
        }
        true
    }

    /// Takes a unit's record from the own store and, by the reports, from the cluster's.
    pub(super) async fn forget(&self, instance: &Instance) -> Result<(), StoreError> {
        let machine = &self.0.machine.id;
        let alone = self.0.alone();
        let mut gone = vec![keys::actual(machine, instance)];
        if !alone {
            gone.push(keys::desired(machine, instance));
            gone.push(keys::revisions(&instance.uid));
            gone.push(keys::fence(instance));
        }
        let all = TxnRequest {
            success: gone.into_iter().map(TxnOp::delete).collect(),
            ..TxnRequest::default()
        };
        if alone {
            self.0.cluster.txn(all.clone()).await?;
        }
        self.0.local.txn(all).await?;
        self.0.reports.tell(instance);
        Ok(())
    }
}
