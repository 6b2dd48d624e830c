//! The tables: units, shapes, machines and what ties them, kept in step with each other.
use crate::globs::Globs;
use crate::ids::{G, L, M, MachineId, P, S, Timestamp, U, Uid, UnitName, VolumeName};
use crate::machines::Machines;
use crate::model::{Condition, Needs, Settings, Wanted};
use crate::reason::{Cause, PlaceReason, WaitReason};
use crate::slab::Slab;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// In which order units get places: global ones, those that can only be at one machine, then the largest first,
/// since small ones still fit between.
pub(crate) type Turn = (u8, Reverse<u64>, Reverse<u64>, UnitName);

/// One incarnation on a machine.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub uid: Uid,
    pub m: M,
    pub incarnation: u64,
    pub condition: Condition,
    pub leaving: bool,
    /// What it is counted with.
    pub shape: S,
    /// Why it was placed; nothing if that was before this planner's time.
    pub reason: Option<PlaceReason>,
}

/// Units with one set of needs share a shape.
#[derive(Debug)]
pub(crate) struct Shape {
    pub needs: Arc<Needs>,
    pub refs: usize,
    pub pool: L,
    pub conflicts: Vec<P>,
    pub replaces: Vec<P>,
    pub group: Option<G>,
    pub peers: Vec<UnitName>,
    pub machine_id: Option<MachineId>,
    /// Never two at a time.
    pub exclusive: bool,
}

/// Units of one group are spread.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub refs: usize,
    pub name: String,
    /// How many available machines have how many of the group, if any.
    pub levels: BTreeMap<u32, usize>,
}

#[derive(Debug)]
pub(crate) struct Unit {
    pub name: UnitName,
    /// Nothing once it is destroyed, or before it is known.
    pub uid: Option<Uid>,
    pub wanted: Wanted,
    pub incarnation: u64,
    pub shape: S,
    /// Globs that match its name.
    pub matched_by: Vec<P>,
    /// Oldest incarnation first.
    pub held: Vec<Held>,
    /// Where it keeps failing.
    pub failing: Option<M>,
    /// Where it has failed, and when.
    pub failed: Vec<(Timestamp, M)>,
    /// When it was moved for that.
    pub moved: Vec<Timestamp>,
    /// Kept for it there while its last incarnation goes.
    pub kept: Option<M>,
    /// Another unit takes its place there.
    pub evicted: Option<(M, U)>,
    /// It takes the place of others there.
    pub claim: Option<M>,
    /// Places that it could not take since somebody could not leave, as of which change of machines.
    pub no_claim: (u64, BTreeSet<M>),
    /// A drain moves it from there.
    pub drained: Option<M>,
    /// Why it was withdrawn before its successor may be placed.
    pub cause: Option<Cause>,
    /// What it waits for.
    pub wait: Option<WaitReason>,
    /// What was last said of that; nothing if it is not known whether that was written.
    pub said: Option<Option<WaitReason>>,
}

impl Unit {
    pub(crate) fn alive(&self) -> bool {
        self.uid.is_some() && self.wanted != Wanted::Inactive
    }
    /// Placements that are to stay as far as is known, oldest first.
    pub(crate) fn live(&self) -> impl DoubleEndedIterator<Item = &Held> {
        self.held
            .iter()
            .filter(|h| !h.leaving && Some(&h.uid) == self.uid.as_ref())
    }
    /// Where it belongs: its newest placement.
    pub(crate) fn home(&self) -> Option<&Held> {
        self.live().next_back()
    }
    /// Whether a placement does what was asked.
    pub(crate) fn ready(&self, held: &Held) -> bool {
        match self.wanted {
            Wanted::Launched => held.condition >= Condition::Healthy,
            _ => held.condition >= Condition::Present,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Volume {
    pub at: Option<M>,
    pub users: BTreeSet<U>,
}

#[derive(Debug, Default)]
pub(crate) struct Core {
    pub settings: Settings,
    pub now: Timestamp,
    pub machines: Machines,
    pub units: Slab<Unit>,
    pub names: BTreeMap<UnitName, U>,
    pub shapes: Slab<Shape>,
    pub shape_by_needs: HashMap<Arc<Needs>, S>,
    pub globs: Globs,
    pub groups: Slab<Group>,
    pub group_of: BTreeMap<String, G>,
    pub volumes: BTreeMap<VolumeName, Volume>,
    /// By the unit named in MachineOf.
    pub followers: BTreeMap<UnitName, BTreeSet<U>>,
    pub globals: BTreeSet<U>,
}

impl Core {
    pub(crate) fn new(settings: Settings) -> Core {
        let mut core = Core {
            settings,
            ..Core::default()
        };
        // Held for good: these are what most units have, and making them anew would cost a look at all.
        core.machines.hold_pool(&BTreeMap::new());
        core.hold_shape(&Needs::default());
        core
    }

    pub(crate) fn unit(&self, u: U) -> &Unit {
        &self.units[u.0]
    }
    pub(crate) fn unit_mut(&mut self, u: U) -> &mut Unit {
        &mut self.units[u.0]
    }
    pub(crate) fn shape(&self, s: S) -> &Shape {
        &self.shapes[s.0]
    }
    pub(crate) fn shape_of(&self, u: U) -> &Shape {
        self.shape(self.unit(u).shape)
    }
    pub(crate) fn find(&self, name: &UnitName) -> Option<U> {
        self.names.get(name).copied()
    }

    pub(crate) fn turn(&self, u: U) -> Turn {
        let (unit, shape) = (self.unit(u), self.shape_of(u));
        let needs = &shape.needs;
        let bound = shape.machine_id.is_some() || !needs.volumes.is_empty();
        let class = match (needs.fleet.global, bound) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        };
        let name = unit.name.clone();
        (
            class,
            Reverse(needs.memory),
            Reverse(needs.cpu_millis),
            name,
        )
    }

    /// The unit of that name, made if it is not known.
    pub(crate) fn intern(&mut self, name: &UnitName) -> U {
        if let Some(u) = self.find(name) {
            return u;
        }
        let mut matched_by = self.globs.matching(name.as_str());
        matched_by.sort_unstable();
        let shape = self.hold_shape(&Needs::default());
        let u = U(self.units.insert(Unit {
            name: name.clone(),
            uid: None,
            wanted: Wanted::Inactive,
            incarnation: 0,
            shape,
            matched_by: matched_by.clone(),
            held: Vec::new(),
            failing: None,
            failed: Vec::new(),
            moved: Vec::new(),
            kept: None,
            evicted: None,
            claim: None,
            no_claim: (0, BTreeSet::new()),
            drained: None,
            cause: None,
            wait: None,
            said: Some(None),
        }));
        for p in matched_by {
            self.globs.get_mut(p).matches.insert(u);
        }
        self.names.insert(name.clone(), u);
        u
    }

    /// Forgets a unit that nothing is placed of.
    pub(crate) fn forget(&mut self, u: U) {
        self.set_shape(u, &Needs::default());
        let unit = self.unit(u);
        let (name, matched_by, shape) = (unit.name.clone(), unit.matched_by.clone(), unit.shape);
        for p in matched_by {
            self.globs.get_mut(p).matches.remove(&u);
        }
        self.release_shape(shape);
        self.names.remove(&name);
        self.units.remove(u.0);
    }

    /// Gives the unit other needs; what is placed and stays is counted with them.
    pub(crate) fn set_shape(&mut self, u: U, needs: &Needs) {
        let before = self.unit(u).shape;
        if *self.shape(before).needs == *needs {
            return;
        }
        self.keep(u, None);
        let after = self.hold_shape(needs);
        self.tie(u, before, false);
        self.tie(u, after, true);
        let uid = self.unit(u).uid.clone();
        for at in 0..self.unit(u).held.len() {
            let held = &self.unit(u).held[at];
            if held.leaving || Some(&held.uid) != uid.as_ref() {
                continue;
            }
            let (m, s) = (held.m, held.shape);
            self.account(u, s, m, false);
            self.account(u, after, m, true);
            self.unit_mut(u).held[at].shape = after;
        }
        self.unit_mut(u).shape = after;
        self.release_shape(before);
    }

    /// Enters the unit where others look for it, or takes it out.
    fn tie(&mut self, u: U, s: S, on: bool) {
        let shape = self.shape(s);
        let (needs, peers) = (shape.needs.clone(), shape.peers.clone());
        let set = |set: &mut BTreeSet<U>| {
            if on {
                set.insert(u)
            } else {
                set.remove(&u)
            };
        };
        for peer in peers {
            let followers = self.followers.entry(peer.clone()).or_default();
            set(followers);
            if followers.is_empty() {
                self.followers.remove(&peer);
            }
        }
        if needs.fleet.global {
            set(&mut self.globals);
            return;
        }
        for volume in &needs.volumes {
            let known = self.volumes.entry(volume.clone()).or_default();
            set(&mut known.users);
            if known.users.is_empty() && known.at.is_none() {
                self.volumes.remove(volume);
            }
        }
    }

    /// Counts a placement, or no longer. Whoever counts holds the shape.
    pub(crate) fn account(&mut self, u: U, s: S, m: M, more: bool) {
        let step = |count: &mut u64, by: u64| {
            *count = if more {
                *count + by
            } else {
                count.saturating_sub(by)
            };
        };
        if more {
            self.shapes[s.0].refs += 1;
        }
        let shape = &self.shapes[s.0];
        let (needs, group, settings) = (shape.needs.clone(), shape.group, &self.settings);
        let usual = |asked: u64, usual: u64| if asked == 0 { usual } else { asked };
        let machine = self.machines.get_mut(m);
        let used = &mut machine.used;
        step(&mut used.cpu, needs.cpu_millis);
        step(&mut used.memory, needs.memory);
        step(
            &mut used.weigh_cpu,
            usual(needs.cpu_millis, settings.usual_cpu_millis),
        );
        step(
            &mut used.weigh_memory,
            usual(needs.memory, settings.usual_memory),
        );
        step(&mut used.count, 1);
        for port in &needs.ports {
            count(&mut used.ports, *port, more);
        }
        count(&mut used.units, u, more);
        if let Some(g) = group {
            let level = count(&mut used.groups, g, more);
            if machine.available() {
                let before = if more { level - 1 } else { level + 1 };
                let levels = &mut self.groups[g.0].levels;
                change_level(levels, before, false);
                change_level(levels, level, true);
            }
        }
        for p in &self.units[u.0].matched_by {
            self.globs.get_mut(*p).matched.change(m, more, 1);
        }
        for p in &shape.conflicts {
            self.globs.get_mut(*p).conflicting.change(m, more, 1);
        }
        for p in &shape.replaces {
            self.globs.get_mut(*p).replacing.change(m, more, 1);
        }
        self.machines.reorder(m, &self.settings);
        if !more {
            self.release_shape(s);
        }
    }

    /// Sets a machine; groups count only machines that get new units.
    pub(crate) fn set_machine(&mut self, m: M, state: Option<crate::model::MachineState>) {
        let before = self.machines.get(m).available();
        self.machines.set(m, state, &self.settings);
        let machine = self.machines.get(m);
        let after = machine.available();
        if before != after {
            for (g, level) in &machine.used.groups {
                change_level(&mut self.groups[g.0].levels, *level, after);
            }
        }
    }

    /// How few units of the group any available machine has.
    pub(crate) fn lowest_level(&self, g: G) -> u32 {
        let levels = &self.groups[g.0].levels;
        if levels.values().sum::<usize>() < self.machines.available {
            return 0;
        }
        levels.keys().next().copied().unwrap_or(0)
    }

    /// Keeps a place for an exclusive unit, or gives it free.
    pub(crate) fn keep(&mut self, u: U, m: Option<M>) {
        let shape = self.unit(u).shape;
        if let Some(before) = self.unit_mut(u).kept.take() {
            self.account(u, shape, before, false);
        }
        if let Some(m) = m {
            self.account(u, shape, m, true);
            self.unit_mut(u).kept = Some(m);
        }
    }
}

fn count<K: Ord>(counts: &mut BTreeMap<K, u32>, key: K, more: bool) -> u32 {
    let value = counts.get(&key).copied().unwrap_or(0);
    let value = if more {
        value + 1
    } else {
        value.saturating_sub(1)
    };
    if value == 0 {
        counts.remove(&key);
    } else {
        counts.insert(key, value);
    }
    value
}

fn change_level(levels: &mut BTreeMap<u32, usize>, level: u32, more: bool) {
    if level == 0 {
        return;
    }
    let machines = levels.entry(level).or_default();
    *machines = if more {
        *machines + 1
    } else {
        machines.saturating_sub(1)
    };
    if *machines == 0 {
        levels.remove(&level);
    }
}
