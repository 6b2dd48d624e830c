//! A cluster of thought: carries decisions out, and answers for machines.
#![allow(dead_code, reason = "each test uses its part")]
pub mod check;
use coracle_planner::*;
use std::collections::{BTreeMap, BTreeSet};

pub struct World {
    pub planner: Planner,
    pub now: u64,
    pub machines: BTreeMap<MachineId, MachineState>,
    pub units: BTreeMap<UnitName, UnitSpec>,
    /// What the store and the machines hold.
    pub placed: BTreeMap<Placement, Placed>,
    pub waits: BTreeMap<UnitName, WaitReason>,
    pub binds: BTreeMap<VolumeName, MachineId>,
}

pub fn machine() -> MachineState {
    MachineState {
        alive: true,
        cpu_millis: 4000,
        memory: 8 << 30,
        ..MachineState::default()
    }
}

impl World {
    pub fn new(machines: &[&str]) -> World {
        let mut world = World {
            planner: Planner::new(Settings::default()),
            now: 0,
            machines: BTreeMap::new(),
            units: BTreeMap::new(),
            placed: BTreeMap::new(),
            waits: BTreeMap::new(),
            binds: BTreeMap::new(),
        };
        for id in machines {
            world.machine(id, |_| {});
        }
        world
    }
    /// Changes a machine, or makes it.
    pub fn machine(&mut self, id: &str, change: impl FnOnce(&mut MachineState)) {
        let id = MachineId::from(id);
        let state = self.machines.entry(id.clone()).or_insert_with(machine);
        change(state);
        self.planner.set_machine(&id, Some(state.clone()));
    }
    pub fn label(&mut self, id: &str, key: &str, value: &str) {
        self.machine(id, |m| {
            m.labels.insert(key.into(), value.into());
        });
    }
    pub fn lose(&mut self, id: &str) {
        self.machine(id, |m| m.alive = false);
    }
    /// Changes a unit, or makes it, launched.
    pub fn unit(&mut self, name: &str, change: impl FnOnce(&mut UnitSpec)) {
        let name = UnitName::from(name);
        let spec = self.units.entry(name.clone()).or_insert_with(|| UnitSpec {
            uid: "u1".into(),
            wanted: Wanted::Launched,
            incarnation: 0,
            needs: Needs::default(),
        });
        change(spec);
        self.planner.set_unit(&name, Some(spec.clone()));
    }
    pub fn plain(&mut self, names: &[&str]) {
        for name in names {
            self.unit(name, |_| {});
        }
    }
    pub fn stop(&mut self, name: &str) {
        self.unit(name, |u| u.wanted = Wanted::Inactive);
    }
    pub fn destroy(&mut self, name: &str) {
        self.units.remove(&UnitName::from(name));
        self.waits.remove(&UnitName::from(name));
        self.planner.set_unit(&name.into(), None);
    }
    pub fn failed(&mut self, name: &str, on: &str) {
        self.planner
            .failed(&name.into(), &on.into(), Timestamp(self.now));
    }

    /// Plans once and takes the decisions into the store. Their texts.
    pub fn plan(&mut self) -> Vec<String> {
        let decisions = self.planner.plan(Timestamp(self.now));
        decisions
            .iter()
            .map(|decision| self.carry_out(decision))
            .collect()
    }
    pub fn carry_out(&mut self, decision: &Decision) -> String {
        match decision {
            Decision::Place {
                placement, binds, ..
            } => {
                let old = self.placed.insert(placement.clone(), Placed::default());
                assert!(old.is_none(), "{placement} twice");
                for volume in binds {
                    let old = self.binds.insert(volume.clone(), placement.machine.clone());
                    assert!(old.is_none(), "{volume} is bound twice");
                }
            }
            Decision::Withdraw { placement, .. } => {
                let placed = self.placed.get_mut(placement).expect("it is placed");
                assert!(!placed.leaving, "{placement} is withdrawn twice");
                placed.leaving = true;
            }
            Decision::Wait { unit, reason } => {
                self.waits.insert(unit.clone(), reason.clone());
            }
            Decision::Settled { unit } => {
                self.waits.remove(unit);
            }
        }
        decision.to_string()
    }
    /// Every machine that is there does what it is asked.
    pub fn answer(&mut self) {
        for (placement, placed) in self.placed.clone() {
            if self
                .machines
                .get(&placement.machine)
                .is_some_and(|m| m.alive)
            {
                self.answer_of(&placement, placed);
            }
        }
    }
    pub fn answer_of(&mut self, placement: &Placement, placed: Placed) {
        if placed.leaving {
            self.placed.remove(placement);
            self.planner.set_placed(placement, None);
        } else if placed.condition < Condition::Healthy {
            self.say(placement, Condition::Healthy);
        }
    }
    pub fn say(&mut self, placement: &Placement, condition: Condition) {
        let placed = self.placed.get_mut(placement).expect("it is placed");
        placed.condition = condition;
        self.planner.set_placed(placement, Some(*placed));
    }
    /// Until nothing happens any more. What was decided.
    pub fn settle(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..10_000 {
            let decided = self.plan();
            self.answer();
            if decided.is_empty() && !self.planner.pending() {
                return all;
            }
            all.extend(decided);
        }
        panic!("it never settles: {all:?}");
    }
    /// Where it is, without what is leaving.
    pub fn on(&self, name: &str) -> Vec<String> {
        let here = self
            .placed
            .iter()
            .filter(|(p, placed)| p.unit.as_str() == name && !placed.leaving);
        here.map(|(p, _)| p.machine.to_string()).collect()
    }
    pub fn wait(&self, name: &str) -> String {
        self.waits
            .get(&UnitName::from(name))
            .map(WaitReason::to_string)
            .unwrap_or_default()
    }
    pub fn placement(&self, name: &str, on: &str) -> Placement {
        let mut found = self
            .placed
            .keys()
            .filter(|p| p.unit.as_str() == name && p.machine.as_str() == on);
        found.next_back().expect("it is placed there").clone()
    }
    /// A new leader: a planner that is told what the store holds.
    pub fn take_over(&mut self) {
        // These stand in the units' records.
        let failures: Vec<_> = self
            .units
            .keys()
            .map(|name| self.planner.failures(name))
            .collect();
        self.planner = Planner::new(Settings::default());
        for (id, state) in &self.machines {
            self.planner.set_machine(id, Some(state.clone()));
        }
        for (name, spec) in &self.units {
            self.planner.set_unit(name, Some(spec.clone()));
        }
        for (name, failures) in self.units.keys().zip(&failures) {
            self.planner.set_failures(name, failures);
        }
        for (volume, machine) in &self.binds {
            self.planner.set_volume(volume, Some(machine));
        }
        for (placement, placed) in &self.placed {
            self.planner.set_placed(placement, Some(*placed));
        }
        self.waits.clear();
    }
}

pub fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}
pub fn set(text: &str) -> BTreeSet<String> {
    words(text).into_iter().collect()
}
