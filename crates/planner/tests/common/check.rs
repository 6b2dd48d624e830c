//! The rules once more, by looking at everything: what a decision must respect, and what must hold at rest.
use super::World;
use coracle_planner::*;
use coracle_unit::fleet::glob_match;
use std::collections::{BTreeMap, BTreeSet};

/// What the world knows besides: which needs each placement is counted with, and which lost machines are fenced.
#[derive(Default)]
pub struct Books {
    pub counted: BTreeMap<Placement, Needs>,
    pub fenced: BTreeSet<MachineId>,
    pub newest: BTreeMap<(UnitName, Uid), u64>,
    pub failures: Vec<(UnitName, MachineId, u64)>,
}

fn globs(globs: &[String], name: &UnitName) -> bool {
    globs.iter().any(|g| glob_match(g, name.as_str()))
}

impl World {
    pub fn alive(&self, id: &MachineId) -> bool {
        self.machines.get(id).is_some_and(|m| m.alive)
    }
    pub fn live<'a>(
        &'a self,
        unit: &'a UnitName,
    ) -> impl Iterator<Item = (&'a Placement, &'a Placed)> {
        let uid = self.units.get(unit).map(|u| &u.uid);
        let all = self.placed.iter();
        all.filter(move |(p, placed)| p.unit == *unit && Some(&p.uid) == uid && !placed.leaving)
    }
    pub fn home<'a>(&'a self, unit: &'a UnitName) -> Option<&'a Placement> {
        self.live(unit)
            .map(|(p, _)| p)
            .max_by_key(|p| p.incarnation)
    }
    pub fn needs(&self, unit: &UnitName) -> Needs {
        self.units
            .get(unit)
            .map(|u| u.needs.clone())
            .unwrap_or_default()
    }
    pub fn exclusive(needs: &Needs) -> bool {
        !needs.fleet.global && (needs.exclusive || !needs.volumes.is_empty())
    }
    /// Whether one of the two replaces the other, and not both.
    fn replaces(&self, a: &UnitName, b: &UnitName) -> bool {
        let says = |a: &UnitName, b: &UnitName| globs(&self.needs(a).fleet.replaces, b);
        a != b && says(a, b) && !says(b, a)
    }

    /// What forbids the unit there, of the rules that bind what is placed, too.
    pub fn static_rules(
        &self,
        unit: &UnitName,
        needs: &Needs,
        id: &MachineId,
    ) -> Result<(), String> {
        let fail = |what: &str| Err(format!("{unit} on {id}: {what}"));
        let Some(machine) = self.machines.get(id) else {
            return fail("no such machine");
        };
        if needs
            .fleet
            .machine_id
            .as_ref()
            .is_some_and(|own| own != id.as_str())
        {
            return fail("MachineID");
        }
        if !needs.fleet.metadata_fits(&machine.labels) {
            return fail("MachineMetadata");
        }
        for volume in needs.volumes.iter().filter(|_| !needs.fleet.global) {
            if self.binds.get(volume).is_some_and(|at| at != id) {
                return fail("data");
            }
        }
        for peer in &needs.fleet.machine_of {
            let peer = UnitName::from(peer.as_str());
            let here = match self.needs(&peer).fleet.global {
                true => self.live(&peer).any(|(p, _)| p.machine == *id),
                false => self.home(&peer).is_some_and(|p| p.machine == *id),
            };
            if !here {
                return fail("MachineOf");
            }
        }
        Ok(())
    }

    /// What forbids placing it there now.
    pub fn may_place(&self, books: &Books, unit: &UnitName, id: &MachineId) -> Result<(), String> {
        let spec = self.units.get(unit).ok_or("no such unit")?;
        let needs = &spec.needs;
        self.static_rules(unit, needs, id)?;
        let machine = &self.machines[id];
        let fail = |what: String| Err(format!("{unit} on {id}: {what}"));
        if !machine.alive || machine.cordoned || machine.draining {
            return fail("it gets nothing".into());
        }
        let here: Vec<&Placement> = self.placed.keys().filter(|p| p.machine == *id).collect();
        let sum = |of: fn(&Needs) -> u64| here.iter().map(|p| of(&books.counted[p])).sum::<u64>();
        if needs.cpu_millis > 0 && sum(|n| n.cpu_millis) + needs.cpu_millis > machine.cpu_millis {
            return fail("CPU".into());
        }
        if needs.memory > 0 && sum(|n| n.memory) + needs.memory > machine.memory {
            return fail("memory".into());
        }
        for other in &here {
            let theirs = &books.counted[*other];
            if !needs.ports.is_disjoint(&theirs.ports) {
                return fail(format!("port of {other}"));
            }
            let conflict =
                globs(&needs.fleet.conflicts, &other.unit) || globs(&theirs.fleet.conflicts, unit);
            if other.unit != *unit && conflict {
                return fail(format!("conflict with {other}"));
            }
            let stays = self.live(&other.unit).any(|(p, _)| p == *other);
            if self.replaces(unit, &other.unit) || stays && self.replaces(&other.unit, unit) {
                return fail(format!("replaces {other}"));
            }
            if needs.fleet.global && other.unit == *unit {
                return fail("twice".into());
            }
        }
        if Self::exclusive(needs) {
            for other in self.placed.keys().filter(|p| p.unit == *unit) {
                if self.alive(&other.machine) || !books.fenced.contains(&other.machine) {
                    return fail(format!("beside {other}"));
                }
            }
        }
        Ok(())
    }

    /// Takes one decision into the books, if nothing forbids it.
    pub fn check_decision(&self, books: &mut Books, decision: &Decision) -> Result<(), String> {
        let Decision::Place {
            placement, binds, ..
        } = decision
        else {
            return Ok(());
        };
        let unit = &placement.unit;
        let fail = |what: String| Err(format!("{decision}: {what}"));
        let Some(spec) = self.units.get(unit) else {
            return fail("no such unit".into());
        };
        if spec.wanted == Wanted::Inactive || spec.uid != placement.uid {
            return fail("it is not asked for".into());
        }
        if let Err(why) = self.may_place(books, unit, &placement.machine) {
            return fail(why);
        }
        let unbound = spec
            .needs
            .volumes
            .iter()
            .filter(|v| !self.binds.contains_key(v));
        let unbound: Vec<&VolumeName> = unbound.filter(|_| !spec.needs.fleet.global).collect();
        if binds.iter().collect::<Vec<_>>() != unbound {
            return fail(format!("binds {binds:?}"));
        }
        let newest = books
            .newest
            .entry((unit.clone(), placement.uid.clone()))
            .or_default();
        if placement.incarnation <= *newest {
            return fail("an old incarnation".into());
        }
        *newest = placement.incarnation;
        books.counted.insert(placement.clone(), spec.needs.clone());
        Ok(())
    }

    /// Once everything that was decided is done, and all that can be healthy is.
    pub fn check_at_rest(&self, books: &Books) -> Result<(), String> {
        // A place may be kept for a unit that goes first.
        let going = |w| matches!(w, &WaitReason::Gone(_) | WaitReason::Fence(_));
        let kept = self.waits.values().any(going);
        let machines: Vec<&MachineId> = self.machines.keys().collect();
        let somewhere = |unit: &UnitName| {
            machines
                .iter()
                .filter(|_| !kept)
                .find(|id| self.may_place(books, unit, id).is_ok())
                .copied()
        };
        for (name, spec) in &self.units {
            let live: Vec<_> = self.live(name).collect();
            let waits = self.waits.get(name);
            let fail = |what: String| Err(format!("{name}: {what}; waits: {waits:?}"));
            if spec.wanted == Wanted::Inactive {
                if !live.is_empty() || waits.is_some() {
                    return fail("stopped, and is somewhere or waits".into());
                }
                continue;
            }
            for (placement, _) in live.iter().filter(|(p, _)| self.alive(&p.machine)) {
                self.static_rules(name, &spec.needs, &placement.machine)?;
                self.check_neighbours(placement, spec)?;
            }
            if spec.needs.fleet.global {
                if let Some(id) = somewhere(name) {
                    return fail(format!("global, and not on {id}"));
                }
                continue;
            }
            let alive = live.iter().filter(|(p, _)| self.alive(&p.machine));
            if alive.count() > 1 {
                return fail("it is placed twice".into());
            }
            let Some((placement, placed)) = live.iter().max_by_key(|(p, _)| p.incarnation) else {
                if waits.is_none() {
                    return fail("it is nowhere and nothing was said".into());
                }
                if let Some(id) = somewhere(name) {
                    return fail(format!("it would fit on {id}"));
                }
                continue;
            };
            if !self.alive(&placement.machine) && placed.condition != Condition::Done {
                if waits.is_none() {
                    return fail("it is lost and nothing was said".into());
                }
                let fits = somewhere(name);
                if fits.is_some() {
                    return fail(format!("it is lost and would fit on {fits:?}"));
                }
                continue;
            }
            let follows = !spec.needs.fleet.machine_of.is_empty();
            let failed = books.failures.iter().any(|(unit, ..)| unit == name);
            let state = self.machines.get(&placement.machine);
            let draining = state.is_some_and(|m| m.alive && m.draining);
            if draining && placed.condition != Condition::Done && !follows && !failed {
                if !matches!(
                    waits,
                    Some(WaitReason::Drain(..) | WaitReason::Replaced(..))
                ) {
                    return fail("its machine is drained and nothing was said".into());
                }
                if !kept {
                    self.check_cannot_move(books, placement)?;
                }
            }
            if !draining
                && !matches!(
                    waits,
                    None | Some(
                        WaitReason::Failing(..)
                            | WaitReason::Budget { .. }
                            | WaitReason::Replaced(..)
                    )
                )
            {
                return fail("it is well, and waits".into());
            }
        }
        for placed in self.placed.iter().filter(|(p, _)| self.alive(&p.machine)) {
            let unit = self.units.get(&placed.0.unit);
            if unit.is_none_or(|u| u.wanted == Wanted::Inactive) {
                return Err(format!("{} is left", placed.0));
            }
        }
        Ok(())
    }

    fn check_cannot_move(&self, books: &Books, placement: &Placement) -> Result<(), String> {
        let unit = &placement.unit;
        for id in self.machines.keys().filter(|id| **id != placement.machine) {
            let mut without = Books {
                counted: books.counted.clone(),
                fenced: books.fenced.clone(),
                ..Books::default()
            };
            // An exclusive one would go first.
            without.fenced.insert(placement.machine.clone());
            let mut world = World::new(&[]);
            world.machines.clone_from(&self.machines);
            world.units.clone_from(&self.units);
            world.placed.clone_from(&self.placed);
            world.binds.clone_from(&self.binds);
            world.placed.remove(placement);
            if world.may_place(&without, unit, id).is_ok() {
                return Err(format!("{placement} could move to {id}"));
            }
        }
        Ok(())
    }

    /// Two that are to stay on one machine.
    fn check_neighbours(&self, placement: &Placement, spec: &UnitSpec) -> Result<(), String> {
        for (name, other) in self
            .units
            .iter()
            .filter(|(name, _)| **name != placement.unit)
        {
            if other.wanted == Wanted::Inactive
                || !self.live(name).any(|(p, _)| p.machine == placement.machine)
            {
                continue;
            }
            if !spec.needs.ports.is_disjoint(&other.needs.ports) {
                return Err(format!("{placement} and {name} publish one port"));
            }
            if globs(&spec.needs.fleet.conflicts, name) {
                return Err(format!("{placement} and {name} conflict"));
            }
        }
        Ok(())
    }
}
