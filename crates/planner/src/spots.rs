//! Global units: one on each machine that fits.
//!
//! A cordoned machine keeps its global units and gets no new ones. A draining machine keeps them until everything that
//! moves has moved, since they serve the others. A lost machine's wait for it.
use crate::core::Held;
use crate::ids::{M, U};
use crate::planner::Planner;
use crate::reason::{Cause, Nowhere, WaitReason, WithdrawReason};
use crate::rules::Look;
use std::collections::BTreeSet;

impl Planner {
    /// All machines.
    pub(crate) fn settle_global(&mut self, u: U) {
        let held: BTreeSet<M> = self.core.unit(u).held.iter().map(|h| h.m).collect();
        let pool = self.core.machines.pool(self.core.shape_of(u).pool);
        let all = held
            .into_iter()
            .chain(pool.order.iter().map(|(_, _, m)| *m));
        let mut all: Vec<_> = all
            .map(|m| (self.core.machines.get(m).id.clone(), m))
            .collect();
        all.sort_unstable();
        all.dedup();
        let mut kinds = BTreeSet::new();
        for (_, m) in all {
            self.settle_spot(u, m);
            if let Some(bar) = self.core.first_bar(u, m, Look::Place) {
                kinds.insert(bar.kind(false));
            }
        }
        if self.core.unit(u).live().next().is_none() {
            self.wait(u, WaitReason::Machine(Nowhere { only: None, kinds }));
        }
    }

    /// One machine.
    pub(crate) fn settle_spot(&mut self, u: U, m: M) {
        let machine = self.core.machines.get(m);
        if machine.used.units.contains_key(&u) {
            return self.settle_held_spot(u, m);
        }
        if machine.available() && self.core.fits(u, m, Look::Place) {
            self.touched.insert(self.core.turn(u));
            self.place(u, m, Cause::Wanted, None);
        }
    }

    fn settle_held_spot(&mut self, u: U, m: M) {
        let machine = self.core.machines.get(m);
        let id = machine.id.clone();
        let (member, alive) = (machine.state.is_some(), machine.alive());
        if !member {
            let reason = WithdrawReason::Leaves(Cause::Lost(id));
            return self.withdraw_those(u, &reason, |h| !h.leaving && h.m == m);
        }
        let uid = self.core.unit(u).uid.clone();
        self.withdraw_those(u, &WithdrawReason::Remade, |h: &Held| {
            !h.leaving && h.m == m && Some(&h.uid) != uid.as_ref()
        });
        let newest = self
            .core
            .unit(u)
            .live()
            .filter(|h| h.m == m)
            .map(|h| h.incarnation)
            .max();
        let Some(newest) = newest else {
            return;
        };
        self.withdraw_those(u, &WithdrawReason::Twice, |h: &Held| {
            !h.leaving && h.m == m && h.incarnation != newest
        });
        if !alive {
            return;
        }
        if let Some(bar) = self.core.first_bar(u, m, Look::Stay) {
            let why = self.core.why(u, m, bar, true);
            let reason = WithdrawReason::Leaves(Cause::Rule(id, why));
            self.withdraw_those(u, &reason, |h| !h.leaving && h.m == m);
        }
    }
}
