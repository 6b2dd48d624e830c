//! Everything goes down and comes back with the next daemon.
//!
//! Nobody asked these units to stop, so nothing of what they were asked to be is changed. What is written of each while it
//! goes down says what a machine that went down says: whatever the daemon is killed in, the next one starts it again.

use crate::fleet::Fleet;
use crate::model::{Active, Actual, Desired};
use crate::plan::Goal;
use crate::supervise::Supervised;
use std::sync::Arc;
use std::time::Duration;

impl Fleet {
    /// Stops every unit, those that need others before these, each as its text says but within `timeout` if that is given.
    /// What was asked to run is started again by the next daemon. No request is taken any more.
    pub async fn shutdown(&self, timeout: Option<Duration>) {
        let up: Vec<Arc<Supervised>> = {
            let leader = self.0.leader.borrow().clone();
            let _one = match &leader {
                Some(leader) => Some(leader.change_lock.lock().await),
                None => None,
            };
            // Asked a second time: the first one's time holds.
            let _ = self.0.leaving.set(timeout);
            let all = self.all().into_iter();
            all.filter(|u| self.comes_back(u)).collect()
        };
        for unit in &up {
            let down = Goal {
                desired: Desired::Inactive,
                ..*unit.goal.borrow()
            };
            unit.goal.send_replace(down);
        }
        for unit in &up {
            let gone = |a: &Actual| matches!(a.active, Active::Inactive | Active::Failed);
            let _ = unit.actual.subscribe().wait_for(gone).await;
        }
        for unit in self.all() {
            unit.set_task(None);
        }
        for unit in &up {
            // Also of one that had nothing to do on its way down.
            self.keep(unit, unit.actual()).await;
        }
    }

    /// Longest wait for one that is to end, when everything goes down.
    pub(crate) fn hurry(&self) -> Option<Duration> {
        self.0.leaving.get().copied().flatten()
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.0.leaving.get().is_some()
    }

    /// Whether the next daemon starts it again: it was asked to run, and has not failed for good.
    fn comes_back(&self, unit: &Supervised) -> bool {
        unit.record().desired == Desired::Active && unit.actual().active != Active::Failed
    }

    /// What is written of where a unit stands.
    pub(crate) fn to_write(&self, unit: &Supervised, actual: &Actual) -> Actual {
        if !self.is_leaving() || !self.comes_back(unit) {
            return actual.clone();
        }
        Actual {
            boot_id: String::new(),
            settled: false,
            ..actual.clone()
        }
    }
}
