//! What is to be looked at, and who waits for what.
use crate::ids::{M, U};
use crate::planner::{Class, Planner};
use crate::reason::{Nowhere, WaitReason};
use std::collections::BTreeSet;

impl Planner {
    pub(crate) fn look_at(&mut self, u: U) {
        self.queue.insert(self.core.turn(u));
    }

    /// Looks at a unit for something that happened on one machine; of a global unit only that machine is looked at.
    pub(crate) fn look_at_on(&mut self, u: U, m: M) {
        let unit = self.core.unit(u);
        if self.core.shape_of(u).needs.fleet.global && unit.alive() {
            let id = self.core.machines.get(m).id.clone();
            self.spots.insert((self.core.turn(u), id));
        } else {
            self.look_at(u);
        }
    }

    pub(crate) fn look_at_all_on(&mut self, m: M) {
        let here: Vec<U> = self
            .core
            .machines
            .get(m)
            .used
            .units
            .keys()
            .copied()
            .collect();
        for u in here {
            self.look_at_on(u, m);
        }
    }

    pub(crate) fn look_at_followers(&mut self, u: U) {
        let name = &self.core.unit(u).name;
        let Some(followers) = self.core.followers.get(name) else {
            return;
        };
        for f in followers.clone() {
            self.look_at(f);
        }
        self.epoch += 1;
    }

    /// Something may fit on that machine that did not before.
    pub(crate) fn open(&mut self, m: M) {
        self.opened.insert(m);
        self.epoch += 1;
    }

    pub(crate) fn open_where_held(&mut self, u: U) {
        let on: Vec<M> = self.core.unit(u).held.iter().map(|h| h.m).collect();
        for m in on {
            self.open(m);
        }
    }

    pub(crate) fn free_kept(&mut self, u: U) {
        if let Some(m) = self.core.unit(u).kept {
            self.core.keep(u, None);
            self.open(m);
        }
    }

    /// Takes a unit out of all lists that know it by its turn or class, before these change.
    pub(crate) fn take_out(&mut self, u: U) {
        let turn = self.core.turn(u);
        self.queue.remove(&turn);
        if self.touched.remove(&turn) {
            self.queue.insert(turn);
        }
        self.leave_class(u);
        self.restless.remove(&u);
        self.stuck.remove(&u);
    }

    pub(crate) fn class(&self, u: U) -> Class {
        let unit = self.core.unit(u);
        let own = !unit.held.is_empty() || unit.kept.is_some();
        (unit.shape, unit.matched_by.clone(), own.then_some(u))
    }

    pub(crate) fn leave_class(&mut self, u: U) {
        let Some(class) = self.class_of.remove(&u) else {
            return;
        };
        let turn = self.core.turn(u);
        if let Some(waiting) = self.waiting.get_mut(&class) {
            waiting.units.remove(&turn);
            if waiting.units.is_empty() {
                self.waiting.remove(&class);
            }
        }
    }

    /// What stood against all machines for a unit like this one, if nothing has opened since.
    pub(crate) fn known_nowhere(&self, u: U) -> Option<Nowhere> {
        let waiting = self.waiting.get(&self.class(u))?;
        (waiting.epoch == self.epoch).then(|| Nowhere {
            only: None,
            kinds: waiting.kinds.clone(),
        })
    }

    /// No machine fits: it is tried again when one opens.
    pub(crate) fn wait_for_machine(&mut self, u: U, nowhere: &Nowhere) {
        let (class, turn) = (self.class(u), self.core.turn(u));
        let waiting = self.waiting.entry(class.clone()).or_default();
        waiting.units.insert(turn);
        if nowhere.only.is_none() {
            waiting.epoch = self.epoch;
            waiting.kinds.clone_from(&nowhere.kinds);
        }
        self.class_of.insert(u, class);
    }

    pub(crate) fn wait(&mut self, u: U, reason: WaitReason) {
        self.core.unit_mut(u).wait = Some(reason);
    }

    /// Volumes that cannot be together, or whose machine is not there.
    pub(crate) fn data_away(&self, u: U) -> Option<WaitReason> {
        let needs = &self.core.shape_of(u).needs;
        let at = needs
            .volumes
            .iter()
            .filter_map(|v| Some((v, self.core.volumes.get(v)?.at?)));
        let at: Vec<_> = at.collect();
        let machine = |m: M| self.core.machines.get(m);
        if at.iter().map(|(_, m)| m).collect::<BTreeSet<_>>().len() > 1 {
            let each = at
                .iter()
                .map(|(v, m)| ((*v).clone(), machine(*m).id.clone()));
            return Some(WaitReason::Apart(each.collect()));
        }
        let (volume, m) = at.first()?;
        (!machine(*m).alive()).then(|| WaitReason::Data {
            volume: (*volume).clone(),
            on: machine(*m).id.clone(),
        })
    }
}
