//! One plan: everything that follows from what was told since the last.
use crate::ids::{M, Timestamp, U};
use crate::model::Decision;
use crate::planner::{Class, Planner};
use crate::reason::{Kind, WaitReason};
use std::collections::{BTreeMap, BTreeSet};

/// With more machines opened than this, waiting units are tried on all machines, the least loaded first.
const FEW: usize = 16;

impl Planner {
    /// What follows, in the order in which it is to be carried out. `now` never goes back.
    pub fn plan(&mut self, now: Timestamp) -> Vec<Decision> {
        self.core.now = self.core.now.max(now);
        while self.step() {}
        self.report();
        std::mem::take(&mut self.out)
    }

    fn full(&self) -> bool {
        let batch = self.core.settings.batch;
        batch > 0 && self.out.len() >= batch
    }

    /// Does the next piece of work. False when there is none, or the batch is full.
    fn step(&mut self) -> bool {
        if self.full() {
            return false;
        }
        if let Some(turn) = self.queue.pop_first() {
            if let Some(u) = self.core.find(&turn.3) {
                self.settle(u);
            }
        } else if let Some((turn, id)) = self.spots.pop_first() {
            if let (Some(u), Some(m)) = (self.core.find(&turn.3), self.core.machines.find(&id)) {
                self.look_at_spot(u, m);
            }
        } else if !self.opened.is_empty() {
            self.try_again();
        } else if let Some((_, m)) = self.drains.pop_first() {
            if self.core.machines.get(m).draining() {
                self.step_drain(m);
            }
        } else {
            return false;
        }
        true
    }

    fn look_at_spot(&mut self, u: U, m: M) {
        let global = self.core.shape_of(u).needs.fleet.global;
        if !global || !self.core.unit(u).alive() {
            return self.look_at(u);
        }
        self.settle_spot(u, m);
        self.go_on_draining(u);
        if self.core.unit(u).live().next().is_none() {
            self.look_at(u);
        }
    }

    /// Tries what waits on machines that have opened. What fits on none of these fits on none at all.
    fn try_again(&mut self) {
        let opened = std::mem::take(&mut self.opened);
        let mut globals: Vec<_> = self
            .core
            .globals
            .iter()
            .map(|u| self.core.turn(*u))
            .collect();
        globals.sort_unstable();
        for turn in globals {
            let alive = self
                .core
                .find(&turn.3)
                .filter(|u| self.core.unit(*u).alive());
            let ids = opened.iter().map(|m| self.core.machines.get(*m).id.clone());
            if alive.is_some() {
                self.spots.extend(ids.map(|id| (turn.clone(), id)));
            }
        }
        while let Some((turn, id)) = self.spots.pop_first() {
            if let (Some(u), Some(m)) = (self.core.find(&turn.3), self.core.machines.find(&id)) {
                self.look_at_spot(u, m);
            }
        }
        self.only = (opened.len() <= FEW).then_some(opened);
        self.try_waiting();
        if self.full() {
            // The rest is tried with the next plan.
            let rest = self.only.take();
            let all = || self.core.machines.iter().map(|(m, _)| m).collect();
            self.opened.extend(rest.unwrap_or_else(all));
            return;
        }
        self.only = None;
        for u in self.restless.clone() {
            self.look_at(u);
        }
        self.stuck.clear();
        self.drains.extend(self.draining.iter().cloned());
    }

    /// Of each class the first is tried, and the next if that got a place.
    fn try_waiting(&mut self) {
        let mut heads = BTreeMap::new();
        for (class, waiting) in &self.waiting {
            if let Some(turn) = waiting.units.first() {
                heads.insert(turn.clone(), class.clone());
            }
        }
        while let Some((turn, class)) = heads.pop_first() {
            if self.full() {
                return;
            }
            let Some(u) = self.core.find(&turn.3) else {
                continue;
            };
            let before = self
                .waiting
                .get(&class)
                .map(|w| w.kinds.clone())
                .unwrap_or_default();
            self.settle(u);
            if self.class_of.get(&u) == Some(&class) {
                self.still_waiting(u, &class, before);
            } else if let Some(next) = self.waiting.get(&class).and_then(|w| w.units.first()) {
                heads.insert(next.clone(), class);
            }
        }
    }

    /// What stood against the machines that were not looked at now still does.
    fn still_waiting(&mut self, u: U, class: &Class, before: BTreeSet<Kind>) {
        if self.only.is_none() {
            return;
        }
        if let Some(waiting) = self.waiting.get_mut(class) {
            waiting.kinds.extend(before.iter().copied());
        }
        if let Some(WaitReason::Machine(nowhere) | WaitReason::Lost(_, nowhere)) =
            &mut self.core.unit_mut(u).wait
            && nowhere.only.is_none()
        {
            nowhere.kinds.extend(before);
        }
    }

    /// Says what units wait for where that has changed, and forgets those of which nothing is left.
    fn report(&mut self) {
        for turn in std::mem::take(&mut self.touched) {
            let Some(u) = self.core.find(&turn.3) else {
                continue;
            };
            let unit = self.core.unit_mut(u);
            if unit.said.as_ref() != Some(&unit.wait) {
                unit.said = Some(unit.wait.clone());
                let name = unit.name.clone();
                self.out.push(match &unit.wait {
                    Some(reason) => Decision::Wait {
                        unit: name,
                        reason: reason.clone(),
                    },
                    None => Decision::Settled { unit: name },
                });
            }
            let unit = self.core.unit(u);
            if unit.uid.is_none() && unit.held.is_empty() && !self.queue.contains(&turn) {
                if let Some(m) = unit.drained {
                    self.core.machines.get_mut(m).moving.remove(&u);
                }
                self.core.forget(u);
            }
        }
    }
}
