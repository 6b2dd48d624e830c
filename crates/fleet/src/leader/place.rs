//! What is decided about units, written down: their records, and for each machine that has one what it is asked.

use super::{Group, Leader, Placed, Target, locked};
use crate::error::Result;
use crate::model::{Desired, Instance, RevisionRecord, UnitRecord, keys};
use coracle_unit::{Unit, UnitKind};
use std::collections::BTreeMap;
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

    fn name(&self) -> String {
        self.target.unit().name.to_string()
    }
}

/// Volumes and networks are wherever a unit is that needs them.
fn is_resource(unit: &Unit) -> bool {
    matches!(unit.name.kind(), UnitKind::Volume | UnitKind::Network)
}

/// Machines that get an instance, by unit.
type Added = BTreeMap<String, Vec<(String, Instance)>>;

impl Leader {
    /// Writes units' records, and asks machines accordingly.
    ///
    /// # Errors
    /// As [`Self::commit`]; then nothing is changed in memory.
    pub async fn write_units(&self, changes: Vec<Change>) -> Result<()> {
        let added = self.placements(&changes);
        let mut groups = Vec::new();
        for change in &changes {
            groups.push(self.group(change, &added)?);
        }
        self.commit(groups).await?;
        for change in changes {
            self.done(change, &added);
        }
        Ok(())
    }

    fn group(&self, change: &Change, added: &Added) -> Result<Group> {
        let (name, record) = (change.name(), &change.record);
        let mut group = Group::default();
        group.put(keys::unit(&name), &self.numbered(&name, record, added))?;
        if let Some((text, _)) = &change.text {
            group.put(keys::revision(&record.uid, record.revision), text)?;
        }
        let desired = self.desired(&name, record);
        for (machine, instance) in self.asked(&name, &change.target, added) {
            group.put(keys::desired(&machine, &instance), &desired)?;
        }
        Ok(group)
    }

    fn done(&self, change: Change, added: &Added) {
        let name = change.name();
        let record = self.numbered(&name, &change.record, added);
        let desired = self.desired(&name, &record);
        let asked = self.asked(&name, &change.target, added);
        let renewed = change.text.is_some();
        let unit = change.text.map(|(_, unit)| unit);
        // Who waits for its goal sees what is known of its instances by then.
        change.target.change(|all| {
            for (machine, instance) in asked {
                match all.get_mut(&machine) {
                    Some(placed) if placed.instance == instance => {
                        placed.desired = Some(desired.clone());
                    }
                    _ => drop(all.insert(machine, Placed::new(instance, desired.clone()))),
                }
            }
        });
        if added.contains_key(&name) {
            change.target.wait_for(None);
        }
        change.target.set(record, unit);
        if renewed {
            self.renewed(&name, &change.target);
        }
    }

    /// The record with the number of its newest instance.
    fn numbered(&self, name: &str, record: &UnitRecord, added: &Added) -> UnitRecord {
        let new = added.get(name).into_iter().flatten();
        let newest = new.map(|(_, instance)| instance.incarnation).max();
        UnitRecord {
            incarnation: newest.unwrap_or(0).max(record.incarnation),
            ..record.clone()
        }
    }

    /// Every machine that is asked to have it, and those that are to be.
    fn asked(&self, name: &str, target: &Target, added: &Added) -> Vec<(String, Instance)> {
        let placed = target.placed().into_iter();
        let there = placed.filter(|(_, p)| p.desired.is_some());
        let there = there.map(|(machine, p)| (machine, p.instance));
        there
            .chain(added.get(name).into_iter().flatten().cloned())
            .collect()
    }

    /// Where units go that are to be somewhere and are nowhere.
    fn placements(&self, changes: &[Change]) -> Added {
        let mut added = Added::new();
        let mut resources = Vec::new();
        for change in changes {
            if change.record.desired == Desired::Inactive {
                continue;
            }
            if is_resource(&change.target.unit()) {
                resources.push(change);
                continue;
            }
            if change.target.machines().is_empty() {
                let chosen = self.choose(&change.target.unit());
                let new = self.instances(change, chosen);
                added.insert(change.name(), new);
            }
        }
        for change in resources {
            let name = change.name();
            let here = change.target.machines();
            let users = locked(&self.needs).users(&name);
            let mut wanted: Vec<String> = Vec::new();
            for user in users {
                let new = added.get(&user).into_iter().flatten();
                wanted.extend(new.map(|(machine, _)| machine.clone()));
                let there = self.target(&user).map(|t| t.machines());
                wanted.extend(there.into_iter().flatten());
            }
            if wanted.is_empty() && here.is_empty() {
                wanted = self.choose(&change.target.unit());
            }
            wanted.sort();
            wanted.dedup();
            wanted.retain(|machine| !here.contains(machine));
            let new = self.instances(change, wanted);
            added.insert(name, new);
        }
        added
    }

    fn instances(&self, change: &Change, machines: Vec<String>) -> Vec<(String, Instance)> {
        let incarnation = change.target.next_incarnation();
        let instance = |machine| {
            let instance = Instance {
                uid: change.record.uid.clone(),
                slot: 1,
                incarnation,
            };
            (machine, instance)
        };
        machines.into_iter().map(instance).collect()
    }

    fn choose(&self, _unit: &Unit) -> Vec<String> {
        let machines = locked(&self.machines);
        let fit = machines.iter().filter(|(_, m)| m.alive);
        fit.map(|(id, _)| id.clone()).take(1).collect()
    }

    /// Machines came, went or changed: units follow.
    pub(super) async fn place_anew(&self) -> Result<()> {
        Ok(())
    }

    /// A unit is asked to stop. It stays where it is, with its output.
    pub async fn halt(&self, name: &str) -> Result<()> {
        let Some(target) = self.target(name) else {
            return Ok(());
        };
        let mut record = target.record();
        let failed = target.actual().active == crate::model::Active::Failed;
        if record.desired != Desired::Active && !failed {
            return Ok(());
        }
        // Also said to one that has failed: it is to be forgiven.
        record.desired = Desired::Inactive;
        record.order += 1;
        self.write_units(vec![Change::new(&target, record)]).await
    }
}
