//! Replaces: a unit takes the place of others, which move elsewhere first.
//!
//! `new` has `Replaces=old`, and `old` runs on m1. If `old` fits elsewhere, `new` claims m1 and waits; `old` is placed on
//! m2, becomes healthy there, is withdrawn from m1 and goes; then `new` is placed on m1. If `old` fits nowhere else, `new`
//! goes where no `old` is, or waits.
use crate::ids::{M, U};
use crate::pick::Within;
use crate::planner::Planner;
use crate::reason::{Cause, Choice, WaitReason};
use crate::rules::Look;
use std::collections::BTreeSet;

/// Whether there is a place where others make room.
pub(crate) enum Room {
    /// They have gone.
    Free(M, Choice),
    /// They are about to go.
    Awaited,
    /// There is none.
    None,
}

impl Planner {
    /// Finds a place whose units can go, or looks after the one that was found.
    pub(crate) fn make_room(&mut self, u: U) -> Room {
        if self.core.shape_of(u).replaces.is_empty() {
            return Room::None;
        }
        if let Some(m) = self.core.unit(u).claim {
            let victims = self.core.victims(u, m);
            if victims.is_empty() && self.core.fits(u, m, Look::Place) {
                let globs = &self.core.shape_of(u).replaces;
                let glob = globs.first().map(|p| self.core.globs.get(*p).text.as_str());
                return Room::Free(m, Choice::PlaceOf(glob.unwrap_or_default().into()));
            }
            if !victims.is_empty() && self.may_take(u, m, &victims) {
                return self.await_room(u, m, &victims);
            }
            let unit = self.core.unit_mut(u);
            unit.claim = None;
            unit.no_claim.1.insert(m);
        }
        // One that failed is not tried again soon: each try moves units.
        let changes = self.changes;
        let no_claim = &mut self.core.unit_mut(u).no_claim;
        if no_claim.0 != changes {
            *no_claim = (changes, BTreeSet::new());
        }
        let shape = self.core.shape_of(u);
        let with = |p| self.core.globs.get(p).matched.machines();
        let with: BTreeSet<M> = shape.replaces.iter().flat_map(|p| with(*p)).collect();
        let machine = |m: M| self.core.machines.get(m);
        let mut with: Vec<_> = with
            .into_iter()
            .filter(|m| machine(*m).available() && !self.core.unit(u).no_claim.1.contains(m))
            .map(|m| (machine(m).load(&self.core.settings), &machine(m).id, m))
            .collect();
        with.sort_unstable();
        let with: Vec<M> = with.into_iter().map(|(_, _, m)| m).collect();
        for m in with {
            let victims = self.core.victims(u, m);
            if !victims.is_empty() && self.may_take(u, m, &victims) {
                return self.await_room(u, m, &victims);
            }
        }
        Room::None
    }

    /// Whether it fits there once these have gone, and all of these can go or are going.
    fn may_take(&mut self, u: U, m: M, victims: &BTreeSet<U>) -> bool {
        if !self.core.fits(u, m, Look::Without(victims)) {
            return false;
        }
        let within = Within {
            not: Some(m),
            ..Within::default()
        };
        // Those that find a place are counted there while the next look for one.
        let (mut counted, mut can_go) = (Vec::new(), true);
        for v in self.by_name(victims) {
            let (victim, shape) = (self.core.unit(v), self.core.unit(v).shape);
            if victim.kept == Some(m) || self.core.shape(shape).needs.fleet.global {
                can_go = false;
            } else if victim.home().is_some_and(|home| home.m == m) {
                match self.core.pick(v, within) {
                    Ok(to) => {
                        self.core.account(v, shape, to, true);
                        counted.push((v, shape, to));
                    }
                    Err(_) => can_go = false,
                }
            }
            if !can_go {
                break;
            }
        }
        for (v, shape, to) in counted {
            self.core.account(v, shape, to, false);
        }
        can_go
    }

    fn await_room(&mut self, u: U, m: M, victims: &BTreeSet<U>) -> Room {
        self.core.unit_mut(u).claim = Some(m);
        // Whatever happens meanwhile, the claim is looked at again.
        self.restless.insert(u);
        for v in victims {
            if self.core.unit(*v).evicted != Some((m, u)) {
                self.core.unit_mut(*v).evicted = Some((m, u));
                self.look_at(*v);
            }
        }
        let names: BTreeSet<_> = victims
            .iter()
            .map(|v| self.core.unit(*v).name.clone())
            .collect();
        let on = self.core.machines.get(m).id.clone();
        self.wait(
            u,
            WaitReason::Room {
                on,
                units: names.into_iter().collect(),
            },
        );
        Room::Awaited
    }

    /// Moves a unit whose place is claimed. True if that was decided.
    pub(crate) fn settle_evicted(&mut self, u: U, home: M) -> bool {
        let Some((m, by)) = self.core.unit(u).evicted else {
            return false;
        };
        let claimed = self
            .core
            .units
            .get(by.0)
            .filter(|b| b.alive() && b.claim == Some(m));
        let Some(claims) = claimed.map(|b| b.name.clone()) else {
            self.core.unit_mut(u).evicted = None;
            return false;
        };
        if home != m {
            return false;
        }
        let within = Within {
            not: Some(m),
            ..Within::default()
        };
        match self.core.pick(u, within) {
            Ok(to) => {
                let on = self.core.machines.get(m).id.clone();
                self.move_to(u, to, Cause::Room(on, claims));
                true
            }
            Err(_) => {
                self.core.unit_mut(u).evicted = None;
                let by_unit = self.core.unit_mut(by);
                by_unit.claim = None;
                by_unit.no_claim.1.insert(m);
                self.look_at(by);
                false
            }
        }
    }

    /// Units beside one that has just come and replaces them.
    pub(crate) fn look_at_replaced(&mut self, u: U, m: M) {
        if !self.core.shape_of(u).replaces.is_empty() {
            for v in self.core.victims(u, m) {
                self.look_at(v);
            }
        }
    }
}
