//! Drains: units leave a machine one at a time, each once the one before is healthy elsewhere.
use crate::core::Held;
use crate::ids::{M, MachineId, U, UnitName};
use crate::model::Condition;
use crate::pick::Within;
use crate::planner::Planner;
use crate::reason::{Cause, WaitReason, WhyNot, WithdrawReason};
use std::collections::BTreeSet;

/// How far a drain is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drain {
    /// On their way.
    pub moving: Vec<UnitName>,
    /// Still to be moved.
    pub next: Vec<UnitName>,
    /// What cannot be moved as things are, and why.
    pub stuck: Vec<(UnitName, WaitReason)>,
    /// Ended well; they do not run, and are not run again elsewhere.
    pub done: Vec<UnitName>,
    /// Global units; they go last.
    pub global: Vec<UnitName>,
}

impl Drain {
    /// Whether nothing runs there any more.
    pub fn finished(&self) -> bool {
        self.moving.is_empty()
            && self.next.is_empty()
            && self.stuck.is_empty()
            && self.global.is_empty()
    }
}

impl Planner {
    /// How far the drain of a machine is: everything that is still placed there.
    pub fn drain(&self, id: &MachineId) -> Drain {
        let mut drain = Drain::default();
        let Some(m) = self.core.machines.find(id) else {
            return drain;
        };
        for u in self.by_name(
            &self
                .core
                .machines
                .get(m)
                .used
                .units
                .keys()
                .copied()
                .collect(),
        ) {
            let unit = self.core.unit(u);
            let here: Vec<&Held> = unit.held.iter().filter(|h| h.m == m).collect();
            let home = unit.home().filter(|h| h.m == m);
            let name = unit.name.clone();
            if here.is_empty() {
                continue;
            } else if self.core.shape_of(u).needs.fleet.global {
                drain.global.push(name);
            } else if home.is_some_and(|h| h.condition == Condition::Done) {
                drain.done.push(name);
            } else if home.is_none() {
                drain.moving.push(name);
            } else if self.stuck.contains(&u)
                && let Some(reason) = &unit.wait
            {
                drain.stuck.push((name, reason.clone()));
            } else {
                drain.next.push(name);
            }
        }
        // What follows a unit that is stuck is stuck, too.
        let stuck: BTreeSet<UnitName> = drain.stuck.iter().map(|(name, _)| name.clone()).collect();
        let peer = |name: &UnitName| {
            let shape = self.core.shape_of(self.core.find(name)?);
            shape.peers.iter().find(|p| stuck.contains(*p)).cloned()
        };
        let (held, next) = drain
            .next
            .into_iter()
            .partition::<Vec<_>, _>(|n| peer(n).is_some());
        drain.next = next;
        for name in held {
            if let Some(peer) = peer(&name) {
                let on = id.clone();
                let why = WhyNot::PeerElsewhere { peer, on };
                let nowhere = crate::reason::Nowhere {
                    kinds: BTreeSet::from([why.kind()]),
                    only: Some((id.clone(), why)),
                };
                drain
                    .stuck
                    .push((name, WaitReason::Drain(id.clone(), nowhere)));
            }
        }
        self.held_up(m, &mut drain);
        drain.stuck.sort_by(|a, b| a.0.cmp(&b.0));
        drain
    }

    /// Units go one by one: what has failed where it was moved to holds up what is still to go.
    fn held_up(&self, m: M, drain: &mut Drain) {
        let machine = self.core.machines.get(m);
        let here = machine.used.units.keys();
        let leaving = here.copied().filter(|u| self.is_leaving(*u, m));
        let moved: BTreeSet<U> = machine.moving.iter().copied().chain(leaving).collect();
        let failed = |u: &U| {
            let unit = self.core.units.get(u.0)?;
            let home = unit.home().filter(|h| h.m != m)?;
            let id = &self.core.machines.get(home.m).id;
            (home.condition == Condition::Failed).then(|| (unit.name.clone(), id.clone()))
        };
        let failed: Vec<_> = moved.iter().filter_map(failed).collect();
        let Some((first, _)) = failed.first().cloned() else {
            return;
        };
        let is_failed = |name: &UnitName| failed.iter().any(|(one, _)| one == name);
        // What has left for good, with nobody behind it, is no matter of the drain any more.
        let is_last = drain.next.is_empty() && drain.global.is_empty();
        if is_last && !drain.moving.iter().any(is_failed) {
            return;
        }
        drain.moving.retain(|name| !is_failed(name));
        if failed.len() >= self.core.settings.drain_at_once.max(1) {
            let behind = std::mem::take(&mut drain.next).into_iter();
            let behind = behind.chain(std::mem::take(&mut drain.global));
            let waits = |name| (name, WaitReason::Behind(first.clone()));
            drain.stuck.extend(behind.map(waits));
        }
        let failed = failed.into_iter();
        drain
            .stuck
            .extend(failed.map(|(name, on)| (name, WaitReason::NotUp(on))));
    }

    pub(crate) fn by_name(&self, units: &BTreeSet<U>) -> Vec<U> {
        let mut units: Vec<U> = units.iter().copied().collect();
        units.sort_by(|a, b| self.core.unit(*a).name.cmp(&self.core.unit(*b).name));
        units
    }

    /// After a unit was looked at: drains that it has to do with may go on.
    pub(crate) fn go_on_draining(&mut self, u: U) {
        if self.draining.is_empty() {
            return;
        }
        let unit = self.core.unit(u);
        let on = unit.held.iter().map(|h| h.m).chain(unit.drained);
        let on: BTreeSet<M> = on
            .filter(|m| self.core.machines.get(*m).draining())
            .collect();
        for m in on {
            self.drains
                .insert((self.core.machines.get(m).id.clone(), m));
        }
    }

    /// Whether a unit has left the machine and is well elsewhere, or stays there after all.
    fn has_moved(&self, u: U, m: M) -> bool {
        let Some(unit) = self.core.units.get(u.0) else {
            return true;
        };
        // A unit that has become global meanwhile goes with those.
        if self.core.shape(unit.shape).needs.fleet.global {
            return true;
        }
        let here = unit.held.iter().any(|h| h.m == m);
        let Some(home) = unit.home() else {
            // Stopped, or gone and without a place: nothing to wait for.
            return !unit.alive() || (!here && unit.kept.is_none());
        };
        home.m == m || (!here && unit.ready(home))
    }

    /// Lets units leave, as many at a time as may.
    pub(crate) fn step_drain(&mut self, m: M) {
        let machine = self.core.machines.get(m);
        let id = machine.id.clone();
        let moved = machine
            .moving
            .iter()
            .copied()
            .filter(|u| self.has_moved(*u, m));
        for u in moved.collect::<Vec<_>>() {
            self.core.machines.get_mut(m).moving.remove(&u);
            if self.core.units.get(u.0).is_some() {
                self.core.unit_mut(u).drained = None;
            }
        }
        let machine = self.core.machines.get(m);
        let mut moving = machine.moving.clone();
        let here = self.by_name(&machine.used.units.keys().copied().collect());
        // A leader before this one may have begun it.
        moving.extend(here.iter().copied().filter(|u| self.is_leaving(*u, m)));
        let mut free = self
            .core
            .settings
            .drain_at_once
            .max(1)
            .saturating_sub(moving.len());
        for u in &here {
            if free == 0 {
                return;
            }
            if self.core.unit(*u).home().is_some_and(|h| h.m == m)
                && !moving.contains(u)
                && self.move_away(*u, m, &id)
            {
                free -= 1;
                moving.insert(*u);
            }
        }
        if moving.is_empty() {
            for u in here {
                if self.core.shape_of(u).needs.fleet.global {
                    let reason = WithdrawReason::Leaves(Cause::Drain(id.clone()));
                    self.withdraw_those(u, &reason, |h| !h.leaving && h.m == m);
                }
            }
        }
    }

    fn is_leaving(&self, u: U, m: M) -> bool {
        let unit = self.core.unit(u);
        let placed = unit.held.iter().any(|h| h.m == m);
        placed
            && unit.alive()
            && !self.core.shape_of(u).needs.fleet.global
            && unit.home().is_none_or(|h| h.m != m)
    }

    fn move_away(&mut self, u: U, m: M, id: &MachineId) -> bool {
        let (unit, shape) = (self.core.unit(u), self.core.shape_of(u));
        let done = unit.home().is_some_and(|h| h.condition == Condition::Done);
        let follows = shape.peers.iter().any(|p| {
            let peer = self.core.find(p);
            peer.is_some_and(|peer| !self.core.shape_of(peer).needs.fleet.global)
        });
        // What follows another moves with it.
        if !unit.alive() || shape.needs.fleet.global || done || follows || self.stuck.contains(&u) {
            return false;
        }
        let within = Within {
            not: Some(m),
            unspoilt: true,
            only: None,
        };
        match self.core.pick(u, within) {
            Ok(to) => {
                self.core.unit_mut(u).wait = None;
                self.core.unit_mut(u).drained = Some(m);
                self.core.machines.get_mut(m).moving.insert(u);
                self.touched.insert(self.core.turn(u));
                self.move_to(u, to, Cause::Drain(id.clone()));
                true
            }
            Err(nowhere) => {
                self.stuck.insert(u);
                self.touched.insert(self.core.turn(u));
                self.wait(u, WaitReason::Drain(id.clone(), nowhere));
                false
            }
        }
    }
}
