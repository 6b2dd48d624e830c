//! What is written of machines that are no more.
//!
//! Units that are placed leave such a machine by the planner, those that are exclusive once they have ended there for sure. Volumes and networks are no
//! business of the planner's: what is written of them there is taken away here.

use super::spec::{condition, is_placed, is_resource};
use super::{Group, Leader, Placed, Target, locked};
use crate::error::Result;
use crate::model::{Active, UnitRecord, keys};
use coracle_planner::Condition;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Leader {
    /// Machines of which something is written and that nobody knows: they were removed under a former leader.
    pub(super) fn unknown(&self) -> BTreeSet<String> {
        let (there, machines) = (locked(&self.there), locked(&self.machines));
        let unknown = there.keys().filter(|id| !machines.contains_key(*id));
        unknown.cloned().collect()
    }

    /// Whether a machine is one of the cluster's.
    pub(super) fn is_known(&self, id: &str) -> bool {
        locked(&self.machines).contains_key(id)
    }

    /// Has it written again what may still run on a machine that is no more, and must not run twice: a leader that follows has to
    /// know of it until it has ended there for sure. With the machine all that was written of it went.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub(super) async fn keep_written(&self, id: &str) -> Result<()> {
        if self.is_known(id) {
            return Ok(());
        }
        let mut groups = Vec::new();
        for target in self.on(id) {
            let placed = target.placed().remove(id);
            let asked = placed.and_then(|placed| Some((placed.instance, placed.desired?)));
            if let Some((instance, desired)) =
                asked.filter(|_| crate::hold::is_exclusive(&target.unit()))
            {
                let mut group = Group::default();
                group.put(keys::desired(id, &instance), &desired)?;
                groups.push(group);
            }
        }
        self.commit(groups).await
    }

    /// Takes away what is written of volumes and networks on a machine that is no more.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub(super) async fn forget_resources(&self, id: &str) -> Result<()> {
        if self.is_known(id) {
            return Ok(());
        }
        let mut all = self.on(id);
        all.retain(|target| is_resource(&target.unit()));
        let mut groups = Vec::new();
        for target in &all {
            if let Some(placed) = target.placed().get(id) {
                let mut group = Group::default();
                group.delete(keys::desired(id, &placed.instance));
                group.delete(keys::actual(id, &placed.instance));
                groups.push(group);
            }
        }
        self.commit(groups).await?;
        for target in &all {
            self.change(target, |placed| drop(placed.remove(id)));
        }
        Ok(())
    }

    /// Takes away what was kept of machines that are no more, now that nothing can run there.
    ///
    /// # Errors
    /// As [`Self::commit`]; then it is tried again.
    pub(super) async fn forget_ended(&self) -> Result<()> {
        let ended = locked(&self.ended).clone();
        for id in ended {
            if !self.is_known(&id) {
                self.forget_all_on(&id).await?;
            }
            locked(&self.ended).remove(&id);
        }
        Ok(())
    }

    async fn forget_all_on(&self, id: &str) -> Result<()> {
        let there: Vec<_> = self
            .on(id)
            .into_iter()
            .filter_map(|target| Some((target.placed().remove(id)?, target)))
            .collect();
        let mut groups = Vec::new();
        let mut ended = Vec::new();
        for (placed, target) in &there {
            if let Some(record) = ended_well(target, placed) {
                let mut group = Group::default();
                group.put(keys::unit(target.unit().name.as_str()), &record)?;
                groups.push(group);
                ended.push((record, target));
            }
        }
        // Also what was written of units that nobody knows any more. One that comes again under its old id has other instances.
        let mut group = Group::default();
        group.only_if_absent(&BTreeSet::from([id.to_owned()]));
        group.delete_below(keys::desired_of(id));
        group.delete_below(keys::actual_of(id));
        group.delete_below(keys::fetch_of(id));
        group.delete_below(keys::images_of(id));
        groups.push(group);
        self.commit(groups).await?;
        for (record, target) in ended {
            target.set(record, None);
        }
        for (placed, target) in &there {
            self.change(target, |all| drop(all.remove(id)));
            self.tell_gone(target, id, &placed.instance);
            // One that another has followed under its name is none of the planner's any more.
            let present = self.target(target.unit().name.as_str());
            if present.is_some_and(|present| Arc::ptr_eq(&present, target)) {
                self.tell_unit(target, &target.record(), &target.unit());
            }
            if target.placed().is_empty() {
                locked(&self.leaving).remove(&placed.instance.uid);
            }
        }
        // What waited for that may go on.
        self.wake.notify_one();
        Ok(())
    }
}

/// The record of a unit that has ended well on a machine that is no more: it is not run again elsewhere. What counts as there after its
/// end (`RemainAfterExit=`) went with the machine, and is.
fn ended_well(target: &Target, placed: &Placed) -> Option<UnitRecord> {
    let (unit, record) = (target.unit(), target.record());
    let tested = crate::fleet::Fleet::policy(&unit).waits_for_health;
    let condition = condition(&record, placed.actual.as_deref(), tested);
    let is_down = placed
        .actual
        .as_ref()
        .is_some_and(|a| a.active == Active::Inactive);
    let done = is_down && condition == Condition::Done;
    let stays = placed.desired.is_some() && is_placed(&unit) && done;
    stays.then_some(UnitRecord {
        ended: Some(record.generation),
        ..record
    })
}
