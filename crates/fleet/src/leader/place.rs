//! What is decided about units, written down: their records, and for each machine that has one what it is asked.
//!
//! The planner is told what changes and says what follows; both go into the same transactions. What could not be written it is
//! told back. Volumes and networks are no business of the planner's: they are wherever a unit is that needs them.

use super::spec::{is_placed, is_resource, machine, spec};
use super::{Group, Leader, Placed, Target, locked};
use crate::error::Result;
use crate::model::{
    Active, Actual, Desired, DesiredRecord, Instance, RevisionRecord, UnitRecord, VERSION,
    VolumeRecord, keys,
};
use crate::pace;
use coracle_planner::{
    Condition, Decision, MachineId, Placed as Planned, Placement, Planner, Timestamp, UnitName,
};
use coracle_unit::Unit;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A unit that is to have another record.
pub(crate) struct Change {
    pub target: Arc<Target>,
    pub record: UnitRecord,
    /// Its new text.
    pub text: Option<(RevisionRecord, Unit)>,
}

impl Change {
    pub fn new(target: &Arc<Target>, record: UnitRecord) -> Self {
        Self {
            target: target.clone(),
            record,
            text: None,
        }
    }

    fn unit(&self) -> Arc<Unit> {
        match &self.text {
            Some((_, unit)) => Arc::new(unit.clone()),
            None => self.target.unit(),
        }
    }
}

/// One unit's part of what is to be written.
struct Write {
    target: Arc<Target>,
    record: UnitRecord,
    text: Option<(RevisionRecord, Unit)>,
    /// Whether the record is another than before.
    changed: bool,
    /// Machines that get it.
    add: BTreeMap<String, Instance>,
    /// Machines that lose it.
    drop: BTreeSet<String>,
    binds: Vec<(String, String)>,
    /// What it waits for; Some(None) is that it waits no more.
    waits: Option<Option<String>>,
}

impl Write {
    fn of(target: Arc<Target>) -> Self {
        Self {
            record: target.record(),
            target,
            text: None,
            changed: false,
            add: BTreeMap::new(),
            drop: BTreeSet::new(),
            binds: Vec::new(),
            waits: None,
        }
    }
}

/// Now, as the planner counts.
fn now() -> Timestamp {
    Timestamp(u64::try_from(pace::utc().timestamp_millis()).unwrap_or_default())
}

/// The unit's own name for the planner.
fn planned(name: &str) -> UnitName {
    UnitName::from(name)
}

/// How an instance is, in the planner's words.
fn condition(record: &UnitRecord, actual: Option<&Actual>, waits_for_health: bool) -> Condition {
    // One that is not to run may never have run where it is: only that it was asked counts.
    let answers = |a: &&Actual| match record.desired {
        Desired::Active => a.generation == record.generation,
        _ => a.order >= record.order,
    };
    let Some(actual) = actual.filter(answers) else {
        return Condition::Assigned;
    };
    match actual.active {
        _ if record.desired != Desired::Active => Condition::Present,
        Active::Active if actual.settled => Condition::Done,
        Active::Active if waits_for_health && actual.health.as_deref() == Some("unhealthy") => {
            Condition::Present
        }
        Active::Active => Condition::Healthy,
        Active::Inactive if actual.settled => Condition::Done,
        _ => Condition::Present,
    }
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
                    condition: condition(&record, placed.actual.as_ref(), tested),
                    leaving: placed.desired.is_none(),
                };
                planner.set_placed(&placement, Some(state));
                let fails = placed.actual.as_ref().filter(|actual| {
                    let keeps = matches!(actual.sub.as_str(), "start-limit-hit" | "unreadable");
                    keeps && actual.generation == record.generation
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

    /// Tells the planner of all machines. Answers whether time alone will change something.
    pub(super) fn tell_machines(&self) -> bool {
        let machines = self.machines();
        let grace = self.grace.is_some_and(|end| pace::now() < end);
        let (now, mut lost) = (pace::now(), locked(&self.lost));
        self.with_planner(|planner| {
            for (id, seen) in &machines {
                let gone = !seen.alive && !grace;
                let machine_id = MachineId::from(id.as_str());
                planner.set_machine(&machine_id, Some(machine(seen, gone)));
                match gone {
                    true => lost.away(id, now),
                    false => lost.back(id),
                }
            }
            for id in lost.fenced(now) {
                planner.fenced(&MachineId::from(id.as_str()));
            }
        });
        let absent = machines.values().any(|m| !m.alive);
        grace && absent || lost.waits()
    }

    /// Tells the planner that a machine is no more. What is exclusive may run there still.
    pub(super) fn tell_removed(&self, id: &str) {
        locked(&self.lost).away(id, pace::now());
        self.with_planner(|planner| planner.set_machine(&MachineId::from(id), None));
    }

    /// Writes units' records, and what follows for machines.
    ///
    /// # Errors
    /// As [`Self::commit`]; then nothing is changed in memory.
    pub async fn write_units(&self, changes: Vec<Change>) -> Result<()> {
        for change in &changes {
            self.tell_unit(&change.target, &change.record, &change.unit());
        }
        let decisions = self.with_planner(|planner| planner.plan(now()));
        let written = self.carry_out(&changes, &decisions).await;
        if written.is_err() {
            for change in &changes {
                let (record, unit) = (change.target.record(), change.target.unit());
                self.tell_unit(&change.target, &record, &unit);
            }
            self.with_planner(|planner| {
                for decision in decisions.iter().rev() {
                    planner.take_back(decision);
                }
            });
        }
        written
    }

    /// What follows from what happened on machines.
    pub(super) async fn place_anew(&self) -> Result<()> {
        self.write_units(Vec::new()).await
    }

    async fn carry_out(&self, changes: &[Change], decisions: &[Decision]) -> Result<()> {
        let mut writes: BTreeMap<String, Write> = BTreeMap::new();
        for change in changes {
            let write = Write {
                record: change.record.clone(),
                text: change.text.clone(),
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
                    write.waits = Some(Some(self.in_words(&reason.to_string())))
                }
                Decision::Settled { .. } => write.waits = Some(None),
            }
        }
        self.resources(&mut writes);
        let (first, then): (Vec<_>, Vec<_>) = writes
            .into_iter()
            .partition(|(_, w)| is_resource(&w.target.unit()));
        let writes: Vec<(String, Write)> = first.into_iter().chain(then).collect();
        let mut groups = Vec::new();
        for (name, write) in &writes {
            groups.push(self.group(name, write)?);
        }
        let written = writes.iter();
        let written = written.map(|(name, w)| (name.as_str(), &*w.target, &w.record));
        groups.splice(0..0, self.statuses(written));
        self.commit(groups.into_iter().filter(|g| !g.is_empty()))
            .await?;
        for (name, write) in writes {
            self.done(&name, write);
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
            for user in locked(&self.needs).users(&name) {
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

    /// For what nobody needs yet: this machine, or another that gives signs.
    fn any_machine(&self) -> Option<String> {
        let machines = locked(&self.machines);
        let fit = |id: &&String| {
            machines
                .get(*id)
                .is_some_and(|m| m.alive && !m.marks.cordoned && !m.marks.draining)
        };
        let own = Some(&self.machine).filter(fit);
        own.or_else(|| machines.keys().find(fit)).cloned()
    }

    fn group(&self, name: &str, write: &Write) -> Result<Group> {
        let mut group = Group::default();
        let record = &write.record;
        if write.changed {
            group.put(keys::unit(name), record)?;
        }
        if let Some((text, _)) = &write.text {
            group.put(keys::revision(&record.uid, record.revision), text)?;
        }
        for (volume, machine) in &write.binds {
            let record = VolumeRecord {
                version: VERSION,
                machine: machine.clone(),
            };
            group.put(keys::volume(volume), &record)?;
        }
        for (machine, placed) in write.target.placed() {
            if write.drop.contains(&machine) || write.add.contains_key(&machine) {
                group.delete(keys::desired(&machine, &placed.instance));
            }
        }
        let desired = self.desired(name, record);
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
        let machines = self.machines();
        // Who waits for its goal sees what is known of its instances by then.
        self.change(&target, |all| {
            for machine in &drop {
                if let Some(placed) = all.get_mut(machine) {
                    placed.desired = None;
                }
            }
            for (machine, instance) in asked {
                let alive = machines.get(&machine).is_some_and(|m| m.alive);
                match all.get_mut(&machine) {
                    Some(placed) if placed.instance == instance => {
                        placed.desired = Some(desired.clone());
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
