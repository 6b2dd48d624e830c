//! The best machine for a unit.
//!
//! Best is: all that follow the unit fit beside it; it has not failed there of late; the fewest units of its group;
//! the least load; the smallest id. Machines are looked at from the least loaded on, and the first that cannot be
//! surpassed ends the search, so that most searches look at few.
use crate::core::Core;
use crate::ids::{M, U};
use crate::reason::{Choice, Kind, Nowhere, WhyNot};
use crate::rules::{Bar, Look};
use std::collections::BTreeSet;

/// Which machines are looked at.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Within<'a> {
    /// Not this one.
    pub not: Option<M>,
    /// None on which it has failed of late.
    pub unspoilt: bool,
    /// Only these, since the others are known not to fit.
    pub only: Option<&'a BTreeSet<M>>,
}

/// Units that follow the one in question.
struct Bundle {
    units: Vec<U>,
    cpu: u64,
    memory: u64,
}

/// Chains of followers are looked at as far as this many units.
const BUNDLE_MAX: usize = 64;

impl Core {
    /// The best machine, or what stands against all.
    pub(crate) fn pick(&self, u: U, within: Within<'_>) -> Result<M, Nowhere> {
        match self.single(u) {
            Some(Ok(m)) => self.only_one(u, m, within),
            Some(Err(nowhere)) => Err(nowhere),
            None => self.search(u, within),
        }
    }

    /// The one machine that comes into question, if there is only one.
    fn single(&self, u: U) -> Option<Result<M, Nowhere>> {
        let shape = self.shape_of(u);
        let kind = |kind| Nowhere {
            only: None,
            kinds: BTreeSet::from([kind]),
        };
        let volumes = shape
            .needs
            .volumes
            .iter()
            .filter(|_| !shape.needs.fleet.global);
        if let Some(at) = volumes.filter_map(|v| self.volumes.get(v)?.at).next() {
            return Some(Ok(at));
        }
        if let Some(id) = &shape.machine_id {
            return Some(self.machines.find(id).ok_or_else(|| kind(Kind::Unknown)));
        }
        let peer = shape.peers.first()?;
        let known = self.find(peer);
        if known.is_some_and(|known| self.shape_of(known).needs.fleet.global) {
            return None;
        }
        let home = known.and_then(|known| self.unit(known).home());
        Some(home.map(|home| home.m).ok_or_else(|| Nowhere {
            only: None,
            kinds: BTreeSet::from([Kind::PeerAbsent]),
        }))
    }

    fn only_one(&self, u: U, m: M, within: Within<'_>) -> Result<M, Nowhere> {
        if within.not == Some(m) {
            let why = self.bound(u, m);
            return Err(Nowhere {
                kinds: BTreeSet::from([why.kind()]),
                only: Some((self.machines.get(m).id.clone(), why)),
            });
        }
        let first = self.first_bar(u, m, Look::Place);
        let failed = within.unspoilt && self.failed_lately(u, m);
        let why = match first {
            Some(bar) => self.why(u, m, bar, false),
            None if failed => WhyNot::FailedThere,
            None => return Ok(m),
        };
        Err(Nowhere {
            kinds: BTreeSet::from([why.kind()]),
            only: Some((self.machines.get(m).id.clone(), why)),
        })
    }

    /// What keeps it from going elsewhere.
    fn bound(&self, u: U, m: M) -> WhyNot {
        let on = self.machines.get(m).id.clone();
        match self.choice(u, m) {
            Choice::Volume(volume) => WhyNot::VolumeElsewhere { volume, on },
            Choice::Peer(peer) => WhyNot::PeerElsewhere { peer, on },
            _ => WhyNot::OtherMachine(on),
        }
    }

    /// What stands against it first.
    pub(crate) fn first_bar(&self, u: U, m: M, look: Look<'_>) -> Option<Bar> {
        let mut found = None;
        self.bars(u, m, look, &mut |bar| {
            found = Some(bar);
            false
        });
        found
    }

    fn search(&self, u: U, within: Within<'_>) -> Result<M, Nowhere> {
        let shape = self.shape_of(u);
        let pool = self.machines.pool(shape.pool);
        let bundle = self.bundle(u);
        let lowest = shape.group.map_or(0, |g| self.lowest_level(g));
        let spoilt = self.unit(u).failed.iter().any(|_| true);
        let mut best: Option<((bool, bool, u32), M)> = None;
        let mut kinds = BTreeSet::new();
        let mut consider = |m: M| -> bool {
            if within.not == Some(m) {
                return true;
            }
            let used = &self.machines.get(m).used;
            let level = shape
                .group
                .and_then(|g| used.groups.get(&g))
                .copied()
                .unwrap_or(0);
            // What comes later is loaded more.
            if best
                .as_ref()
                .is_some_and(|(rank, _)| (false, false, level) >= *rank)
            {
                return true;
            }
            if let Some(bar) = self.first_bar(u, m, Look::Place) {
                kinds.insert(bar.kind(false));
                return true;
            }
            let failed = spoilt && self.failed_lately(u, m);
            if failed && within.unspoilt {
                kinds.insert(Kind::FailedThere);
                return true;
            }
            let apart = bundle.as_ref().is_some_and(|b| !self.bundle_fits(b, u, m));
            let rank = (apart, failed, level);
            if best.as_ref().is_none_or(|(known, _)| rank < *known) {
                best = Some((rank, m));
            }
            rank != (false, false, lowest)
        };
        match within.only {
            Some(only) => {
                let machines = only.iter().map(|m| (m, self.machines.get(*m)));
                let mut order: Vec<_> = machines
                    .filter(|(_, machine)| machine.available())
                    .map(|(m, machine)| (machine.load(&self.settings), &machine.id, *m))
                    .collect();
                order.sort_unstable();
                order.into_iter().all(|(_, _, m)| consider(m));
            }
            None => {
                pool.order.iter().all(|(_, _, m)| consider(*m));
            }
        }
        match best {
            Some((_, m)) => Ok(m),
            None => {
                if within.only.is_none() && pool.order.len() < self.machines.available {
                    kinds.insert(Kind::Label);
                }
                Err(Nowhere { only: None, kinds })
            }
        }
    }

    pub(crate) fn failed_lately(&self, u: U, m: M) -> bool {
        let (now, window) = (self.now.0, self.settings.failure_window);
        // Of a clock that was far ahead of this one it is not known when that was.
        let lately = now.saturating_sub(window)..=now.saturating_add(window);
        let failed = &self.unit(u).failed;
        failed
            .iter()
            .any(|(at, on)| *on == m && lately.contains(&at.0))
    }

    /// All that follow a unit, directly or not.
    fn bundle(&self, u: U) -> Option<Bundle> {
        self.followers.get(&self.unit(u).name)?;
        let (mut seen, mut units, mut todo) = (BTreeSet::from([u]), Vec::new(), vec![u]);
        let (mut cpu, mut memory) = (0, 0);
        while let Some(next) = todo.pop() {
            let followers = self.followers.get(&self.unit(next).name);
            for f in followers.into_iter().flatten() {
                if units.len() < BUNDLE_MAX && self.unit(*f).alive() && seen.insert(*f) {
                    let needs = &self.shape_of(*f).needs;
                    cpu += needs.cpu_millis;
                    memory += needs.memory;
                    units.push(*f);
                    todo.push(*f);
                }
            }
        }
        Some(Bundle { units, cpu, memory })
    }

    fn bundle_fits(&self, bundle: &Bundle, u: U, m: M) -> bool {
        let (machine, needs) = (self.machines.get(m), &self.shape_of(u).needs);
        let Some(state) = &machine.state else {
            return false;
        };
        let (cpu, memory) = (bundle.cpu + needs.cpu_millis, bundle.memory + needs.memory);
        let enough = (cpu == 0 || machine.used.cpu + cpu <= state.cpu_millis)
            && (memory == 0 || machine.used.memory + memory <= state.memory);
        enough && bundle.units.iter().all(|f| self.fits(*f, m, Look::Follow))
    }

    /// Why a unit is on this machine and no other.
    pub(crate) fn choice(&self, u: U, m: M) -> Choice {
        let shape = self.shape_of(u);
        if shape.needs.fleet.global {
            return Choice::Everywhere;
        }
        let at = |v| self.volumes.get(v).is_some_and(|v| v.at == Some(m));
        if let Some(volume) = shape.needs.volumes.iter().find(|v| at(*v)) {
            return Choice::Volume(volume.clone());
        }
        if shape.machine_id.is_some() {
            return Choice::MachineId;
        }
        match shape.peers.first() {
            Some(peer) => Choice::Peer(peer.clone()),
            None => Choice::LeastLoaded,
        }
    }
}
