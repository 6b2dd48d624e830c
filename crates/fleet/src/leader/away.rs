//! Machines that are there, away, lost and back, as the planner is told of them.

use super::spec::machine;
use super::{Leader, Placed, Target, locked};
use crate::hold::Signs;
use crate::pace;
use coracle_planner::MachineId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

impl Leader {
    /// Tells the planner of all machines. Answers whether time alone will change something.
    pub(super) fn tell_machines(&self) -> bool {
        let grace = self.grace.is_some_and(|end| pace::now() < end);
        let now = pace::now();
        // Units are asked without the machines held, as whoever holds a unit may ask for machines.
        for id in self.newly_absent() {
            let patience = self.signs_of(&id).patience;
            locked(&self.lost).away(&id, now, || patience);
        }
        let (machines, mut lost) = (locked(&self.machines), locked(&self.lost));
        let mut fenced = Vec::new();
        self.with_planner(|planner| {
            for (id, seen) in machines.iter() {
                match seen.alive {
                    true => lost.back(id),
                    // Since a moment ago.
                    false => lost.away(id, now, || Signs::USUAL.patience),
                }
                let gone = !grace && lost.is_lost(id, now);
                let machine_id = MachineId::from(id.as_str());
                planner.set_machine(&machine_id, Some(machine(seen, gone)));
            }
            // The planner hears of a fence of those only that it knows to be lost.
            if !grace {
                fenced = lost.fenced(now);
            }
            for id in &fenced {
                planner.fenced(&MachineId::from(id.as_str()));
            }
        });
        let absent = machines.iter().any(|(_, seen)| !seen.alive);
        let later = grace && absent || lost.waits();
        fenced.retain(|id| machines.get(id).is_none());
        drop((machines, lost));
        locked(&self.ended).extend(fenced);
        later
    }

    /// A machine gives signs again. Its next absence counts anew, also when that is told in the same moment.
    pub(super) fn ends_absence(&self, id: &str) {
        let (machines, mut lost) = (locked(&self.machines), locked(&self.lost));
        if lost.is_away(id)
            && let Some(seen) = machines.get(id)
        {
            lost.back(id);
            let back = machine(seen, false);
            self.with_planner(|planner| planner.set_machine(&MachineId::from(id), Some(back)));
        }
    }

    /// Machines that give no signs, which is not noted yet.
    fn newly_absent(&self) -> Vec<String> {
        let (machines, lost) = (locked(&self.machines), locked(&self.lost));
        let absent = machines.iter().filter(|(_, seen)| !seen.alive);
        let ids = absent.map(|(id, _)| id.clone());
        ids.filter(|id| !lost.is_away(id)).collect()
    }

    /// What the units of a machine ask of its signs.
    fn signs_of(&self, id: &str) -> Signs {
        let here = |target: &Arc<Target>| {
            let placed = target.placed();
            placed.get(id).is_some_and(Placed::runs)
        };
        Signs::of(self.on(id).iter().filter(|t| here(t)).map(|t| t.unit()))
    }

    /// Machines on which something exclusive ran that may be back before its successor is written down, though they were given up. That one is known to
    /// be back already, of which the planner has not heard, is no reason to leave it out.
    pub(super) fn given_up(&self, name: &str, target: &Target, machine: &str) -> BTreeSet<String> {
        let leaving: Vec<_> = locked(&self.leaving).values().cloned().collect();
        let former = leaving.iter().filter(|t| t.unit().name.as_str() == name);
        let all = former.flat_map(|t| t.placed()).chain(target.placed());
        let mut ids: BTreeSet<String> = all.map(|(id, _)| id).collect();
        ids.remove(machine);
        let machines = locked(&self.machines);
        ids.retain(|id| machines.contains_key(id));
        ids
    }

    /// A machine is there, which no watch has told yet.
    pub(super) fn is_back(&self, id: &str) {
        locked(&self.machines).signs(id, true);
        self.machine_is(id, true);
        self.tell_machines();
    }

    /// Tells the planner that a machine is no more. What is exclusive may run there still.
    pub(super) fn tell_removed(&self, id: &str) {
        let is_fenced = {
            let mut lost = locked(&self.lost);
            lost.away(id, pace::now(), || Duration::ZERO);
            lost.is_fenced(id)
        };
        if is_fenced {
            // It was away for long enough before it was removed.
            locked(&self.ended).insert(id.to_owned());
        }
        self.with_planner(|planner| planner.set_machine(&MachineId::from(id), None));
    }

    /// Changes what is known of a unit's instances.
    pub fn change(&self, target: &Target, change: impl FnOnce(&mut BTreeMap<String, Placed>)) {
        let changed = target.change(change);
        if !changed.came.is_empty() || !changed.left.is_empty() {
            let (uid, mut there) = (target.record().uid, locked(&self.there));
            for machine in changed.came {
                there.entry(machine).or_default().insert(uid.clone());
            }
            for machine in changed.left {
                if let Some(uids) = there.get_mut(&machine) {
                    uids.remove(&uid);
                    if uids.is_empty() {
                        there.remove(&machine);
                    }
                }
            }
        }
        for (machine, instance) in changed.gone {
            self.tell_gone(target, &machine, &instance);
        }
    }

    /// The units of which a machine has an instance, or is asked to; also those that were destroyed.
    pub(super) fn on(&self, machine: &str) -> Vec<Arc<Target>> {
        let uids = locked(&self.there).get(machine).cloned();
        let uids = uids.unwrap_or_default().into_iter();
        uids.filter_map(|uid| self.of_uid(&uid)).collect()
    }

    /// For what nobody needs yet: this machine, or another that gives signs.
    pub(super) fn any_machine(&self) -> Option<String> {
        let machines = locked(&self.machines);
        let fit = |id: &&String| {
            machines
                .get(*id)
                .is_some_and(|m| m.alive && !m.marks.cordoned && !m.marks.draining)
        };
        let own = Some(&self.machine).filter(fit);
        own.or_else(|| machines.keys().find(fit)).cloned()
    }
}
