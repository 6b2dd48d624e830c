//! What to do with one unit, given where it is.
use crate::core::Held;
use crate::ids::{M, U};
use crate::model::{Condition, Decision, Placement};
use crate::pick::Within;
use crate::planner::Planner;
use crate::reason::{Cause, Choice, Nowhere, PlaceReason, WaitReason, WhyNot, WithdrawReason};
use crate::replace::Room;
use crate::rules::{Bar, Look};
use std::collections::BTreeSet;

impl Planner {
    /// Looks at a unit as a whole.
    pub(crate) fn settle(&mut self, u: U) {
        self.touched.insert(self.core.turn(u));
        self.leave_class(u);
        self.restless.remove(&u);
        self.stuck.remove(&u);
        self.core.unit_mut(u).wait = None;
        let unit = self.core.unit(u);
        if !unit.alive() {
            let reason = match unit.uid {
                Some(_) => WithdrawReason::Stopped,
                None => WithdrawReason::Destroyed,
            };
            self.withdraw_all(u, &reason);
            self.free_kept(u);
            let unit = self.core.unit_mut(u);
            (unit.failing, unit.evicted, unit.claim, unit.cause) = (None, None, None, None);
            unit.failed.clear();
            unit.moved.clear();
        } else {
            let uid = unit.uid.clone();
            let other = |h: &Held| !h.leaving && Some(&h.uid) != uid.as_ref();
            self.withdraw_those(u, &WithdrawReason::Remade, other);
            if self.core.shape_of(u).needs.fleet.global {
                self.settle_global(u);
            } else {
                self.settle_one(u);
            }
        }
        self.go_on_draining(u);
    }

    fn settle_one(&mut self, u: U) {
        if self.core.shape_of(u).exclusive && self.core.unit(u).live().count() > 1 {
            self.leave_one(u);
        }
        loop {
            let unit = self.core.unit(u);
            let Some(home) = unit.home().cloned() else {
                return self.settle_absent(u);
            };
            let older = |h: &&Held| h.incarnation != home.incarnation;
            let stays = unit
                .live()
                .filter(older)
                .any(|h| self.core.machines.get(h.m).alive());
            let alive = self.core.machines.get(home.m).alive();
            if (!alive && home.condition != Condition::Done || unit.failing == Some(home.m))
                && stays
            {
                // The one that it was to replace still runs.
                let now = self.core.now;
                let unit = self.core.unit_mut(u);
                if unit.failing.take().is_some() {
                    unit.moved.push(now);
                }
                self.withdraw_those(u, &WithdrawReason::GivenUp, |h| {
                    !h.leaving && h.incarnation == home.incarnation
                });
                continue;
            }
            if !alive && home.condition == Condition::Done {
                let cause = Cause::Lost(self.core.machines.get(home.m).id.clone());
                return self.withdraw_those(u, &WithdrawReason::Moved(cause), |h| {
                    !h.leaving && h.incarnation != home.incarnation
                });
            }
            if !alive {
                return self.settle_lost(u, home.m);
            }
            return self.settle_home(u, &home);
        }
    }

    fn settle_home(&mut self, u: U, home: &Held) {
        self.free_kept(u);
        self.look_at_replaced(u, home.m);
        if let Some(bar) = self.core.first_bar(u, home.m, Look::Stay) {
            let why = self.core.why(u, home.m, bar, true);
            return self.settle_forbidden(u, home.m, bar, why);
        }
        if self.settle_evicted(u, home.m) {
            return;
        }
        if self.core.unit(u).failing == Some(home.m) {
            return self.settle_failing(u, home.m);
        }
        let cause = home
            .reason
            .as_ref()
            .map_or(Cause::Wanted, |r| r.cause.clone());
        let ready = self.core.unit(u).ready(home);
        let machines = &self.core.machines;
        let lost: BTreeSet<M> = self.core.unit(u).live().map(|h| h.m).collect();
        let lost: BTreeSet<M> = lost
            .into_iter()
            .filter(|m| !machines.get(*m).alive())
            .collect();
        let older = |h: &Held| !h.leaving && h.incarnation != home.incarnation;
        self.withdraw_those(u, &WithdrawReason::Moved(cause), |h| {
            older(h) && (ready || lost.contains(&h.m))
        });
    }

    /// It is on no machine.
    fn settle_absent(&mut self, u: U) {
        if let Some(reason) = self.data_away(u) {
            self.free_kept(u);
            self.restless.insert(u);
            return self.wait(u, reason);
        }
        if self.core.shape_of(u).exclusive && self.still_somewhere(u) {
            return;
        }
        let cause = self.core.unit(u).cause.clone().unwrap_or(Cause::Wanted);
        match self.find_place(u) {
            Ok(Some((m, choice))) => self.place(u, m, cause, choice),
            Ok(None) => {}
            Err(nowhere) => {
                self.wait_for_machine(u, &nowhere);
                self.wait(u, WaitReason::Machine(nowhere));
            }
        }
    }

    /// An exclusive unit waits until no machine can still run it.
    fn still_somewhere(&mut self, u: U) -> bool {
        let held = self
            .core
            .unit(u)
            .held
            .iter()
            .map(|h| self.core.machines.get(h.m));
        let blocking = held.filter(|machine| machine.alive() || !machine.fenced);
        let Some(machine) = blocking.min_by(|a, b| a.id.cmp(&b.id)) else {
            return false;
        };
        let reason = match machine.alive() {
            true => WaitReason::Gone(machine.id.clone()),
            false => WaitReason::Fence(machine.id.clone()),
        };
        self.wait(u, reason);
        true
    }

    /// Where it goes: where a place is kept, where others make room, where it fits best. Nothing if it waits for room.
    fn find_place(&mut self, u: U) -> Result<Option<(M, Option<Choice>)>, Nowhere> {
        if let Some(kept) = self.core.unit(u).kept {
            self.core.keep(u, None);
            if self.core.fits(u, kept, Look::Place) {
                return Ok(Some((kept, None)));
            }
            self.open(kept);
        }
        match self.make_room(u) {
            Room::Free(m, choice) => return Ok(Some((m, Some(choice)))),
            Room::Awaited => return Ok(None),
            Room::None => {}
        }
        if self.only.is_none()
            && let Some(nowhere) = self.known_nowhere(u)
        {
            return Err(nowhere);
        }
        let only = self.only.take();
        let within = Within {
            only: only.as_ref(),
            ..Within::default()
        };
        let found = self.core.pick(u, within);
        self.only = only;
        Ok(Some((found?, None)))
    }

    fn settle_lost(&mut self, u: U, m: M) {
        let id = self.core.machines.get(m).id.clone();
        if let Some(reason) = self.data_away(u) {
            self.restless.insert(u);
            return self.wait(u, reason);
        }
        if self.core.shape_of(u).exclusive && self.still_somewhere(u) {
            return;
        }
        match self.find_place(u) {
            Ok(Some((to, choice))) => {
                self.withdraw_all(u, &WithdrawReason::Moved(Cause::Lost(id.clone())));
                self.place(u, to, Cause::Lost(id), choice);
            }
            Ok(None) => {}
            Err(nowhere) => {
                self.wait_for_machine(u, &nowhere);
                self.wait(u, WaitReason::Lost(id, nowhere));
            }
        }
    }

    fn settle_failing(&mut self, u: U, m: M) {
        let id = self.core.machines.get(m).id.clone();
        let (most, window) = (
            self.core.settings.failure_moves,
            self.core.settings.failure_window,
        );
        let now = self.core.now;
        let since = now.0.saturating_sub(window);
        let moved = &mut self.core.unit_mut(u).moved;
        // Of a clock that was ahead of this one it is not known when that was.
        moved.retain(|at| (since..=now.0.saturating_add(window)).contains(&at.0));
        if moved.len() >= most {
            let moves = moved.len();
            return self.wait(
                u,
                WaitReason::Budget {
                    on: id,
                    moves,
                    window,
                },
            );
        }
        let within = Within {
            not: Some(m),
            unspoilt: true,
            only: None,
        };
        match self.core.pick(u, within) {
            Ok(to) => {
                let unit = self.core.unit_mut(u);
                unit.moved.push(now);
                unit.failing = None;
                let cause = Cause::Failing(id);
                if self.core.shape_of(u).exclusive {
                    self.leave_for(u, to, cause);
                } else {
                    // It does not run where it is, so there is nothing to wait for.
                    self.withdraw_all(u, &WithdrawReason::Moved(cause.clone()));
                    self.place(u, to, cause, None);
                }
            }
            Err(nowhere) => {
                self.restless.insert(u);
                self.wait(u, WaitReason::Failing(id, nowhere));
            }
        }
    }

    /// A rule forbids the machine it is on.
    fn settle_forbidden(&mut self, u: U, m: M, bar: Bar, why: WhyNot) {
        let id = self.core.machines.get(m).id.clone();
        let cause = Cause::Rule(id.clone(), why.clone());
        let within = Within {
            not: Some(m),
            ..Within::default()
        };
        match (self.core.pick(u, within), why) {
            (Ok(to), _) => self.move_to(u, to, cause),
            // Replaces asks only who can go elsewhere.
            (Err(nowhere), WhyNot::Replaced(by)) if bar == Bar::Replaced => {
                self.restless.insert(u);
                self.wait(u, WaitReason::Replaced(id, by, nowhere));
            }
            (Err(_), _) => {
                self.withdraw_all(u, &WithdrawReason::Leaves(cause.clone()));
                self.core.unit_mut(u).cause = Some(cause);
                self.settle_absent(u);
            }
        }
    }

    /// Moves a unit that runs: the successor comes first where both may be there at once.
    pub(crate) fn move_to(&mut self, u: U, to: M, cause: Cause) {
        if self.core.shape_of(u).exclusive {
            self.leave_for(u, to, cause);
        } else {
            self.place(u, to, cause, None);
        }
    }

    /// The unit goes, and a place is kept for its successor.
    fn leave_for(&mut self, u: U, to: M, cause: Cause) {
        self.withdraw_all(u, &WithdrawReason::Leaves(cause.clone()));
        self.core.unit_mut(u).cause = Some(cause);
        self.core.keep(u, Some(to));
        self.settle_absent(u);
    }

    /// Of an exclusive unit that is placed several times, one stays.
    fn leave_one(&mut self, u: U) {
        let unit = self.core.unit(u);
        let alive = |h: &Held| self.core.machines.get(h.m).alive();
        let best = unit
            .live()
            .max_by_key(|h| (alive(h), unit.ready(h), h.incarnation));
        let Some(stays) = best.map(|h| h.incarnation) else {
            return;
        };
        self.withdraw_those(u, &WithdrawReason::Twice, |h| {
            !h.leaving && h.incarnation != stays
        });
    }

    pub(crate) fn place(&mut self, u: U, m: M, cause: Cause, choice: Option<Choice>) {
        let choice = choice.unwrap_or_else(|| self.core.choice(u, m));
        let reason = PlaceReason { cause, choice };
        let needs = self.core.shape_of(u).needs.clone();
        let mut binds = Vec::new();
        for volume in needs.volumes.iter().filter(|_| !needs.fleet.global) {
            let known = self.core.volumes.entry(volume.clone()).or_default();
            if known.at.is_some() {
                continue;
            }
            known.at = Some(m);
            binds.push(volume.clone());
            for user in known.users.clone().into_iter().filter(|user| *user != u) {
                self.look_at(user);
            }
            self.epoch += 1;
        }
        let unit = self.core.unit_mut(u);
        unit.incarnation += 1;
        (unit.claim, unit.cause, unit.wait) = (None, None, None);
        let held = Held {
            uid: unit.uid.clone().unwrap_or_else(|| "".into()),
            m,
            incarnation: unit.incarnation,
            condition: Condition::Assigned,
            leaving: false,
            shape: unit.shape,
            reason: Some(reason.clone()),
        };
        let placement = self.placement(u, &held);
        self.hold(u, held);
        self.out.push(Decision::Place {
            placement,
            reason,
            binds,
        });
        self.look_at_followers(u);
        self.look_at_replaced(u, m);
    }

    pub(crate) fn placement(&self, u: U, held: &Held) -> Placement {
        Placement {
            unit: self.core.unit(u).name.clone(),
            uid: held.uid.clone(),
            machine: self.core.machines.get(held.m).id.clone(),
            incarnation: held.incarnation,
        }
    }

    pub(crate) fn withdraw_all(&mut self, u: U, reason: &WithdrawReason) {
        self.withdraw_those(u, reason, |h| !h.leaving);
    }

    pub(crate) fn withdraw_those(
        &mut self,
        u: U,
        reason: &WithdrawReason,
        which: impl Fn(&Held) -> bool,
    ) {
        let mut any = false;
        for at in 0..self.core.unit(u).held.len() {
            let held = &self.core.unit(u).held[at];
            if !which(held) {
                continue;
            }
            let placement = self.placement(u, held);
            self.core.unit_mut(u).held[at].leaving = true;
            self.out.push(Decision::Withdraw {
                placement,
                reason: reason.clone(),
            });
            any = true;
        }
        if any {
            self.look_at_followers(u);
        }
    }
}
