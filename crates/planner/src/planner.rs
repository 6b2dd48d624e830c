//! What the outside tells, and the work that follows from it.
use crate::core::{Core, Held, Turn};
use crate::ids::{M, MachineId, P, S, Timestamp, U, UnitName, VolumeName};
use crate::model::{
    Condition, Decision, Failures, MachineState, Needs, Placed, Placement, Settings, UnitSpec,
};
use crate::reason::{Cause, Kind};
use std::collections::{BTreeMap, BTreeSet};

/// Units for which the same machines fit: of one shape, matched by the same globs. One of which something is left
/// on a machine is of its own class, since that may be in its way.
pub(crate) type Class = (S, Vec<P>, Option<U>);

/// Units of one class that no machine fits.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub units: BTreeSet<Turn>,
    /// When that was found, in openings.
    pub epoch: u64,
    pub kinds: BTreeSet<Kind>,
}

/// Decides where units run. See the crate's page.
#[derive(Debug)]
pub struct Planner {
    pub(crate) core: Core,
    /// To be looked at.
    pub(crate) queue: BTreeSet<Turn>,
    /// Global units to be looked at on one machine.
    pub(crate) spots: BTreeSet<(Turn, MachineId)>,
    /// Machines on which something may fit that did not before.
    pub(crate) opened: BTreeSet<M>,
    /// Counts what may make something fit.
    pub(crate) epoch: u64,
    /// Counts changes of machines.
    pub(crate) changes: u64,
    pub(crate) waiting: BTreeMap<Class, Waiting>,
    pub(crate) class_of: BTreeMap<U, Class>,
    /// Looked at again whenever something opens: placed and to go elsewhere, waiting for data or for room.
    pub(crate) restless: BTreeSet<U>,
    pub(crate) draining: BTreeSet<(MachineId, M)>,
    /// Drains that may go on.
    pub(crate) drains: BTreeSet<(MachineId, M)>,
    /// Of draining machines, and cannot move as things are.
    pub(crate) stuck: BTreeSet<U>,
    /// Looked at in this plan.
    pub(crate) touched: BTreeSet<Turn>,
    pub(crate) out: Vec<Decision>,
    /// While waiting units are tried again: the few machines that have opened.
    pub(crate) only: Option<BTreeSet<M>>,
}

impl Planner {
    /// A planner that knows nothing yet. Tell it all that the store has before the first plan.
    pub fn new(settings: Settings) -> Planner {
        Planner {
            core: Core::new(settings),
            queue: BTreeSet::new(),
            spots: BTreeSet::new(),
            opened: BTreeSet::new(),
            epoch: 1,
            changes: 1,
            waiting: BTreeMap::new(),
            class_of: BTreeMap::new(),
            restless: BTreeSet::new(),
            draining: BTreeSet::new(),
            drains: BTreeSet::new(),
            stuck: BTreeSet::new(),
            touched: BTreeSet::new(),
            out: Vec::new(),
            only: None,
        }
    }

    /// A machine has joined or changed; or, with nothing, was removed. A removed machine counts as lost, and may
    /// still run exclusive units until [`Self::fenced`] says otherwise.
    pub fn set_machine(&mut self, id: &MachineId, state: Option<MachineState>) {
        let m = self.core.machines.intern(id);
        if self.core.machines.get(m).state == state {
            return;
        }
        self.core.set_machine(m, state);
        self.changes += 1;
        let machine = self.core.machines.get(m);
        let key = (id.clone(), m);
        if machine.draining() {
            self.drains.insert(key.clone());
            self.draining.insert(key);
        } else {
            self.draining.remove(&key);
            let moving = std::mem::take(&mut self.core.machines.get_mut(m).moving);
            for u in moving {
                self.core.unit_mut(u).drained = None;
            }
        }
        self.look_at_all_on(m);
        self.open(m);
    }

    /// A lost or removed machine has stopped all of its exclusive units for sure.
    pub fn fenced(&mut self, id: &MachineId) {
        let m = self.core.machines.intern(id);
        if !self.core.machines.get(m).alive() {
            self.core.machines.get_mut(m).fenced = true;
            self.look_at_all_on(m);
        }
    }

    /// A unit was submitted, asked to be something, or changed; or, with nothing, was destroyed.
    pub fn set_unit(&mut self, name: &UnitName, spec: Option<UnitSpec>) {
        if spec.is_none() && self.core.find(name).is_none() {
            return;
        }
        let u = self.core.intern(name);
        self.take_out(u);
        let nothing = Needs::default();
        let unit = self.core.unit_mut(u);
        if unit.uid.as_ref() != spec.as_ref().map(|s| &s.uid) {
            (unit.failing, unit.evicted, unit.cause) = (None, None, None);
            unit.failed.clear();
            unit.moved.clear();
            // What was written of the one before may have gone with it.
            unit.said = unit.said.take().filter(Option::is_none);
        }
        unit.no_claim.0 = 0;
        match spec {
            Some(spec) => {
                unit.uid = Some(spec.uid);
                unit.wanted = spec.wanted;
                unit.incarnation = unit.incarnation.max(spec.incarnation);
                if *self.core.shape_of(u).needs != spec.needs {
                    self.core.unit_mut(u).failing = None;
                    self.free_kept(u);
                    self.core.set_shape(u, &spec.needs);
                    self.open_where_held(u);
                    let homes: Vec<M> = self.core.unit(u).live().map(|h| h.m).collect();
                    for m in homes {
                        self.look_at_replaced(u, m);
                    }
                }
            }
            None => {
                unit.uid = None;
                self.free_kept(u);
                self.core.set_shape(u, &nothing);
                self.open_where_held(u);
            }
        }
        self.look_at(u);
        self.look_at_followers(u);
    }

    /// A placement as the store has it, with what its machine says; or, with nothing, it has gone: nothing of it
    /// runs and its machine is not asked to run it.
    pub fn set_placed(&mut self, placement: &Placement, placed: Option<Placed>) {
        let m = self.core.machines.intern(&placement.machine);
        if placed.is_none() && self.core.find(&placement.unit).is_none() {
            return;
        }
        let u = self.core.intern(&placement.unit);
        let same =
            |h: &Held| h.m == m && h.incarnation == placement.incarnation && h.uid == placement.uid;
        let at = self.core.unit(u).held.iter().position(same);
        match (at, placed) {
            (Some(at), Some(placed)) => {
                let held = &mut self.core.unit_mut(u).held[at];
                let changed = held.condition != placed.condition || placed.leaving && !held.leaving;
                held.condition = placed.condition;
                held.leaving |= placed.leaving;
                let unit = self.core.unit_mut(u);
                if placed.condition >= Condition::Healthy && unit.failing == Some(m) {
                    unit.failing = None;
                }
                if changed {
                    self.look_at_on(u, m);
                    if placed.leaving {
                        self.look_at_followers(u);
                    }
                }
            }
            (None, Some(placed)) => {
                let unit = self.core.unit_mut(u);
                unit.incarnation = unit.incarnation.max(placement.incarnation);
                let held = Held {
                    uid: placement.uid.clone(),
                    m,
                    incarnation: placement.incarnation,
                    condition: placed.condition,
                    leaving: placed.leaving,
                    shape: unit.shape,
                    reason: None,
                };
                self.hold(u, held);
                self.look_at_on(u, m);
                self.look_at_followers(u);
            }
            (Some(at), None) => self.gone(u, at),
            (None, None) => {}
        }
    }

    /// Where the data of a local volume is; nothing if it has none.
    pub fn set_volume(&mut self, name: &VolumeName, machine: Option<&MachineId>) {
        let at = machine.map(|id| self.core.machines.intern(id));
        let known = self.core.volumes.entry(name.clone()).or_default();
        if known.at != at {
            known.at = at;
            let users = known.users.clone();
            if users.is_empty() && at.is_none() {
                self.core.volumes.remove(name);
            }
            self.epoch += 1;
            for u in users {
                self.look_at(u);
            }
        }
    }

    /// The unit keeps failing on that machine and is not started there again by itself. It is tried elsewhere, within
    /// a budget. Told of a machine on which it is not placed, that is only remembered, so that a new leader can be
    /// told what happened before; `now` is when it failed.
    pub fn failed(&mut self, unit: &UnitName, machine: &MachineId, now: Timestamp) {
        let Some(u) = self.core.find(unit) else {
            return;
        };
        let m = self.core.machines.intern(machine);
        let since = now.0.saturating_sub(self.core.settings.failure_window);
        let known = self.core.unit_mut(u);
        known.failed.retain(|(at, on)| at.0 >= since && *on != m);
        known.failed.push((now, m));
        if known.live().any(|h| h.m == m) {
            known.failing = Some(m);
            self.look_at(u);
        }
    }

    /// Where a unit has failed of late and when it was moved for that: what the planner after this one is to be told.
    pub fn failures(&self, unit: &UnitName) -> Failures {
        let Some(u) = self.core.find(unit) else {
            return Failures::default();
        };
        let (known, machines) = (self.core.unit(u), &self.core.machines);
        let failed = known.failed.iter();
        Failures {
            failed: failed
                .map(|(at, m)| (machines.get(*m).id.clone(), *at))
                .collect(),
            moved: known.moved.clone(),
        }
    }

    /// What the planner before this one had seen of a unit's failures. To be told after the unit.
    pub fn set_failures(&mut self, unit: &UnitName, failures: &Failures) {
        let Some(u) = self.core.find(unit) else {
            return;
        };
        let failed = failures.failed.iter();
        let failed = failed.map(|(id, at)| (*at, self.core.machines.intern(id)));
        let failed = failed.collect();
        let known = self.core.unit_mut(u);
        known.failed = failed;
        known.moved.clone_from(&failures.moved);
    }

    /// A decision could not be carried out: it counts as not made, and the next plan decides anew.
    pub fn take_back(&mut self, decision: &Decision) {
        let (placement, binds) = match decision {
            Decision::Place {
                placement,
                binds,
                reason,
            } => {
                if let (Cause::Failing(_), Some(u)) =
                    (&reason.cause, self.core.find(&placement.unit))
                {
                    self.core.unit_mut(u).moved.pop();
                }
                (placement, Some(binds))
            }
            Decision::Withdraw { placement, .. } => (placement, None),
            Decision::Wait { unit, .. } | Decision::Settled { unit } => {
                if let Some(u) = self.core.find(unit) {
                    self.core.unit_mut(u).said = None;
                    self.look_at(u);
                }
                return;
            }
        };
        let (Some(u), Some(m)) = (
            self.core.find(&placement.unit),
            self.core.machines.find(&placement.machine),
        ) else {
            return;
        };
        let same = |h: &Held| h.m == m && h.incarnation == placement.incarnation;
        let Some(at) = self.core.unit(u).held.iter().position(same) else {
            return;
        };
        match binds {
            Some(binds) => {
                for volume in binds {
                    self.set_volume(volume, None);
                }
                self.gone(u, at);
            }
            None => {
                self.core.unit_mut(u).held[at].leaving = false;
                self.look_at_on(u, m);
                self.look_at_followers(u);
            }
        }
    }

    /// Whether a plan would have something to look at.
    pub fn pending(&self) -> bool {
        let idle = self.queue.is_empty()
            && self.spots.is_empty()
            && self.opened.is_empty()
            && self.drains.is_empty();
        !idle
    }

    /// Enters a placement and counts it.
    pub(crate) fn hold(&mut self, u: U, held: Held) {
        let (m, shape) = (held.m, held.shape);
        self.core.account(u, shape, m, true);
        let all = &mut self.core.unit_mut(u).held;
        let at = all.partition_point(|h| h.incarnation <= held.incarnation);
        all.insert(at, held);
    }

    fn gone(&mut self, u: U, at: usize) {
        let held = self.core.unit_mut(u).held.remove(at);
        self.core.account(u, held.shape, held.m, false);
        self.open(held.m);
        self.look_at_on(u, held.m);
        if !held.leaving {
            self.look_at_followers(u);
        }
        // Whoever takes its place may be waiting for just this.
        if let Some((_, by)) = self.core.unit(u).evicted
            && self.core.units.get(by.0).is_some()
        {
            self.look_at(by);
        }
    }
}
