//! What is decided about units, written down: their records, and for each machine that has one what it is asked.
//!
//! The planner is told what changes and says what follows; both go into the same transactions. What could not be written it is
//! told back. Volumes and networks are no business of the planner's: they are wherever a unit is that needs them.

use super::change::{Change, Write, unit_of};
use super::commit::fits;
use super::failures::keeps_failing;
use super::leave::leaving;
use super::spec::{condition, is_exclusive, is_placed, is_resource, spec};
use super::tally::now;
use super::{Group, Leader, Placed, Target, Waits, locked};
use crate::error::{FleetError, Result};
use crate::model::{
    Active, Desired, DesiredRecord, Instance, UnitRecord, VERSION, VolumeRecord, keys,
};
use coracle_planner::{Decision, Placed as Planned, Placement, Planner, UnitName};
use coracle_unit::Unit;
use std::collections::{BTreeMap, BTreeSet};

/// How often it is planned anew for machines that came back in the same moment.
const MOST_TRIES: usize = 5;

/// The unit's own name for the planner.
fn planned(name: &str) -> UnitName {
    UnitName::from(name)
}

impl Leader {
    pub(super) fn with_planner<T>(&self, with: impl FnOnce(&mut Planner) -> T) -> T {
        with(&mut locked(&self.planner))
    }

    /// The name of the volume that a unit stands for.
    pub(super) fn volume_of(&self, name: &coracle_unit::UnitName) -> Option<String> {
        match &self.target(name.as_str())?.unit().kind {
            coracle_unit::Kind::Volume(volume) => Some(volume.volume_name.clone()),
            _ => None,
        }
    }

    /// Tells the planner of a unit.
    pub(super) fn tell_unit(&self, target: &Target, record: &UnitRecord, unit: &Unit) {
        if !is_placed(unit) {
            return;
        }
        let named = |name: &coracle_unit::UnitName| self.volume_of(name);
        let spec = spec(record, unit, &named, !target.machines().is_empty());
        let name = planned(unit.name.as_str());
        self.with_planner(|planner| planner.set_unit(&name, Some(spec)));
    }

    /// Tells the planner how a unit's instances are.
    pub(crate) fn tell_placed(&self, target: &Target) {
        let (unit, record) = (target.unit(), target.record());
        if !is_placed(&unit) {
            return;
        }
        let tested = crate::fleet::Fleet::policy(&unit).waits_for_health;
        let placed = target.placed();
        self.with_planner(|planner| {
            for (machine, placed) in &placed {
                let placement = placement(&unit, machine, &placed.instance);
                let state = Planned {
                    condition: condition(&record, placed.actual.as_deref(), tested),
                    leaving: placed.desired.is_none(),
                };
                planner.set_placed(&placement, Some(state));
                let fails = placed.actual.as_ref().filter(|actual| {
                    keeps_failing(actual) && actual.generation == record.generation
                });
                if fails.is_some() && record.desired == Desired::Active && placed.desired.is_some()
                {
                    planner.failed(&placement.unit, &placement.machine, now());
                }
            }
        });
    }

    /// Tells the planner that an instance is gone.
    pub(super) fn tell_gone(&self, target: &Target, machine: &str, instance: &Instance) {
        let unit = target.unit();
        if is_placed(&unit) {
            let placement = placement(&unit, machine, instance);
            self.with_planner(|planner| planner.set_placed(&placement, None));
        }
    }

    /// Writes units' records, and what follows for machines.
    ///
    /// # Errors
    /// As [`Self::commit_each`]; of units that were not written nothing is changed in memory.
    pub async fn write_units(&self, mut changes: Vec<Change>) -> Result<()> {
        for change in &changes {
            self.tell_unit(&change.target, &change.record, &change.unit());
        }
        let mut done = BTreeSet::new();
        let mut tries = 0;
        loop {
            let decisions = self.plan();
            let written = self.carry_out(&changes, &decisions, &mut done).await;
            let Err(error) = written else { break };
            let again = matches!(error, FleetError::Back(_)) && tries < MOST_TRIES;
            // Of one that was written that is what it is now.
            for change in changes.iter().filter(|_| !again) {
                let (record, unit) = (change.target.record(), change.target.unit());
                self.tell_unit(&change.target, &record, &unit);
            }
            self.with_planner(|planner| {
                let undone = |d: &&Decision| !done.contains(d.unit().as_str());
                for decision in decisions.iter().rev().filter(undone) {
                    planner.take_back(decision);
                }
            });
            if let FleetError::Back(machines) = &error {
                machines.iter().for_each(|id| self.is_back(id));
            }
            if !again {
                return Err(error);
            }
            changes.retain(|change| !done.contains(change.target.unit().name.as_str()));
            tries += 1;
        }
        // A plan has so many decisions; what is left comes with the next.
        if self.with_planner(|planner| planner.pending()) {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// What follows from what happened on machines.
    pub(super) async fn place_anew(&self) -> Result<()> {
        self.write_units(Vec::new()).await
    }

    /// `done` gets the names of the units that were written.
    async fn carry_out(
        &self,
        changes: &[Change],
        decisions: &[Decision],
        done: &mut BTreeSet<String>,
    ) -> Result<()> {
        let mut writes: BTreeMap<String, Write> = BTreeMap::new();
        for change in changes {
            let write = Write {
                record: change.record.clone(),
                text: change.text.clone(),
                also: change.also.clone(),
                changed: true,
                ..Write::of(change.target.clone())
            };
            writes.insert(change.target.unit().name.to_string(), write);
        }
        for decision in decisions {
            let name = decision.unit().as_str();
            let Some(target) = self
                .target(name)
                .or_else(|| writes.get(name).map(|w| w.target.clone()))
            else {
                continue;
            };
            let write = writes
                .entry(name.to_owned())
                .or_insert_with(|| Write::of(target));
            match decision {
                Decision::Place {
                    placement,
                    binds,
                    reason,
                } => {
                    tracing::info!(unit = name, machine = %placement.machine, %reason, "placed");
                    let machine = placement.machine.to_string();
                    // By the text that is written now, which the planner goes by.
                    let unit = unit_of(&write.target, write.text.as_ref());
                    let named = |name: &coracle_unit::UnitName| self.volume_of(name);
                    if is_exclusive(&unit, &named) {
                        write.given_up = self.given_up(name, &write.target, &machine);
                    }
                    let instance = Instance {
                        uid: placement.uid.to_string(),
                        slot: 1,
                        incarnation: placement.incarnation,
                    };
                    write.record.incarnation = write.record.incarnation.max(placement.incarnation);
                    write.changed = true;
                    write.drop.remove(&machine);
                    write
                        .binds
                        .extend(binds.iter().map(|v| (v.to_string(), machine.clone())));
                    write.add.insert(machine, instance);
                    write.waits = Some(None);
                }
                Decision::Withdraw { placement, reason } => {
                    tracing::info!(unit = name, machine = %placement.machine, %reason, "withdrawn");
                    write.drop.insert(placement.machine.to_string());
                    write.add.remove(placement.machine.as_str());
                }
                Decision::Wait { reason, .. } => {
                    let waits = Waits::new(reason, self.in_words(&reason.to_string()));
                    // Alone there is nowhere else, which nobody need be told.
                    let alone = waits.failing() && locked(&self.machines).len() < 2;
                    write.waits = Some(Some(waits).filter(|_| !alone));
                }
                Decision::Settled { .. } => write.waits = Some(None),
            }
        }
        for (name, write) in &mut writes {
            write.changed |= self.note_failures(name, &mut write.record);
        }
        self.resources(&mut writes);
        let all = writes.iter();
        let told = all.map(|(name, w)| (name.as_str(), &*w.target, &w.record));
        let told = self.statuses(told).into_iter().map(|group| (None, group));
        let mut stages = vec![told.collect::<Vec<_>>()];
        // What units need is there before them.
        let (first, mut then): (Vec<_>, Vec<_>) = writes
            .into_iter()
            .partition(|(_, w)| is_resource(&w.target.unit()));
        // What one machine gets is told to it together.
        then.sort_by(|(_, a), (_, b)| a.add.keys().next().cmp(&b.add.keys().next()));
        for part in [first, then] {
            let mut stage = Vec::new();
            for (name, write) in part {
                let group = self.group(&name, &write)?;
                stage.push((Some((name, write)), group));
            }
            stages.push(stage);
        }
        // What is small is one transaction.
        if fits(stages.iter().flatten().map(|(_, group)| group)) {
            stages = vec![stages.into_iter().flatten().collect()];
        }
        for stage in stages {
            let is_done = |of: Option<(String, Write)>| {
                if let Some((name, write)) = of {
                    self.done(&name, write);
                    done.insert(name);
                }
            };
            self.commit_each(stage, is_done).await?;
        }
        Ok(())
    }

    /// Volumes and networks go where units go that need them, or anywhere if nobody does.
    fn resources(&self, writes: &mut BTreeMap<String, Write>) {
        let mut wanted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (name, write) in writes.iter() {
            let unit = write.target.unit();
            if is_resource(&unit) {
                if write.record.desired != Desired::Inactive {
                    wanted.entry(name.clone()).or_default();
                }
                continue;
            }
            let there = write.target.machines().into_iter();
            let there = there.filter(|machine| !write.drop.contains(machine));
            let machines: Vec<String> = there.chain(write.add.keys().cloned()).collect();
            for resource in locked(&self.needs).resources(name) {
                wanted
                    .entry(resource)
                    .or_default()
                    .extend(machines.iter().cloned());
            }
        }
        for (name, mut machines) in wanted {
            let Some(target) = self.target(&name) else {
                continue;
            };
            let here = target.machines();
            // It comes after those that need it; otherwise it is where the others are already.
            let late = writes.get(&name).is_some_and(|w| w.changed);
            for user in locked(&self.needs)
                .users(&name)
                .into_iter()
                .filter(|_| late)
            {
                if let Some(user) = self
                    .target(&user)
                    .filter(|u| u.record().desired == Desired::Active)
                {
                    machines.extend(user.machines());
                }
            }
            if machines.is_empty() && here.is_empty() {
                machines.extend(self.any_machine());
            }
            machines.retain(|machine| !here.contains(machine) && self.is_known(machine));
            let asked = writes
                .get(&name)
                .map_or_else(|| target.record(), |w| w.record.clone());
            if machines.is_empty() || asked.desired == Desired::Inactive {
                continue;
            }
            let incarnation = target.next_incarnation();
            let write = writes.entry(name).or_insert_with(|| Write::of(target));
            write.record.incarnation = incarnation;
            write.changed = true;
            for machine in machines {
                let instance = Instance {
                    uid: write.record.uid.clone(),
                    slot: 1,
                    incarnation,
                };
                write.add.insert(machine, instance);
            }
        }
    }

    fn group(&self, name: &str, write: &Write) -> Result<Group> {
        let mut group = Group::default();
        let record = &write.record;
        if write.changed {
            group.put(keys::unit(name), record)?;
        }
        group.only_if_absent(&write.given_up);
        if let Some((text, _)) = &write.text {
            group.put(keys::revision(&record.uid, record.revision), text)?;
            if let Some(key) = &write.also {
                group.put(key.clone(), text)?;
            }
        }
        for (volume, machine) in &write.binds {
            let record = VolumeRecord {
                version: VERSION,
                machine: machine.clone(),
            };
            group.put(keys::volume(volume), &record)?;
        }
        let desired = self.desired(name, record);
        for (machine, placed) in write.target.placed() {
            let key = keys::desired(&machine, &placed.instance);
            if write.drop.contains(&machine) && self.is_unheard(&machine, &placed) {
                group.put(key, &leaving(desired.clone()))?;
            } else if write.drop.contains(&machine) || write.add.contains_key(&machine) {
                group.delete(key);
            }
        }
        for (machine, instance) in self.asked(write) {
            if write.changed {
                group.put(keys::desired(&machine, &instance), &desired)?;
            }
        }
        Ok(group)
    }

    /// Every machine that is to have it.
    fn asked(&self, write: &Write) -> Vec<(String, Instance)> {
        let placed = write.target.placed().into_iter();
        let stays = placed.filter(|(machine, p)| {
            p.desired.is_some() && !write.drop.contains(machine) && !write.add.contains_key(machine)
        });
        let stays = stays.map(|(machine, p)| (machine, p.instance));
        stays.chain(write.add.clone()).collect()
    }

    fn done(&self, name: &str, write: Write) {
        let asked = self.asked(&write);
        let desired: DesiredRecord = self.desired(name, &write.record);
        let Write {
            target,
            record,
            text,
            drop,
            waits,
            ..
        } = write;
        let unheard = self.unheard(&target);
        let asked: Vec<_> = {
            let machines = locked(&self.machines);
            let alive = |machine: &str| machines.gives_signs(machine);
            let asked = asked.into_iter();
            asked
                .map(|(m, instance)| (alive(&m), m, instance))
                .collect()
        };
        // Who waits for its goal sees what is known of its instances by then.
        self.change(&target, |all| {
            for machine in &drop {
                if let Some(placed) = all.get_mut(machine) {
                    placed.leaving |= unheard.contains(machine);
                    placed.desired = None;
                }
            }
            for (alive, machine, instance) in asked {
                match all.get_mut(&machine) {
                    Some(placed) if placed.instance == instance => {
                        placed.desired = Some(Box::new(desired.clone()));
                    }
                    _ => {
                        let placed = Placed {
                            alive,
                            ..Placed::new(instance, desired.clone())
                        };
                        all.insert(machine, placed);
                    }
                }
            }
        });
        if let Some(waits) = waits {
            target.wait_for(waits);
        }
        let renewed = text.is_some();
        target.set(record, text.map(|(_, unit)| unit));
        if renewed {
            self.renewed(name, &target);
        }
        self.tell_placed(&target);
    }

    /// A unit is asked to stop. It stays where it is, with its output.
    pub async fn halt(&self, name: &str) -> Result<()> {
        let Some(target) = self.target(name) else {
            return Ok(());
        };
        let mut record = target.record();
        let failed = target.actual().active == Active::Failed;
        if record.desired != Desired::Active && !failed {
            return Ok(());
        }
        // Also said to one that has failed: it is to be forgiven.
        if record.desired == Desired::Active {
            record.desired = Desired::Inactive;
        }
        record.order += 1;
        self.write_units(vec![Change::new(&target, record)]).await
    }
}

fn placement(unit: &Unit, machine: &str, instance: &Instance) -> Placement {
    Placement {
        unit: planned(unit.name.as_str()),
        uid: instance.uid.as_str().into(),
        machine: machine.into(),
        incarnation: instance.incarnation,
    }
}
