//! What stands against a unit on a machine. Every rule is in [`Core::bars`]; who places and who explains ask it.
use crate::core::{Core, Unit};
use crate::ids::{M, P, U, UnitName};
use crate::model::Protocol;
use crate::reason::{Kind, WhyNot};
use std::collections::BTreeSet;

/// What stands against it, without names, since most are only counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bar {
    Machine(Kind),
    OtherMachine,
    Label,
    Volume,
    Peer,
    Port(u16, Protocol),
    Cpu,
    Memory,
    Conflict,
    /// A unit of its own Replaces is there.
    Occupied,
    /// One that replaces it is there.
    Replaced,
}

/// How it is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Look<'a> {
    /// May it be placed there?
    Place,
    /// May it stay there?
    Stay,
    /// May it be placed beside the unit that it follows, if that is placed there?
    Follow,
    /// May it be placed there once these have gone?
    Without(&'a BTreeSet<U>),
}

impl Core {
    /// Where a unit is, as those see it that follow it.
    pub(crate) fn is_at(&self, u: U, m: M) -> bool {
        let unit = self.unit(u);
        match self.shape(unit.shape).needs.fleet.global {
            true => unit.live().any(|h| h.m == m),
            false => unit.home().is_some_and(|h| h.m == m),
        }
    }

    /// Whether anything stands against it.
    pub(crate) fn fits(&self, u: U, m: M, look: Look<'_>) -> bool {
        let mut fits = true;
        self.bars(u, m, look, &mut |_| {
            fits = false;
            false
        });
        fits
    }

    /// Tells what stands against it, until told to stop by false.
    pub(crate) fn bars(&self, u: U, m: M, look: Look<'_>, tell: &mut dyn FnMut(Bar) -> bool) {
        let (unit, shape, machine) = (self.unit(u), self.shape_of(u), self.machines.get(m));
        let needs = &shape.needs;
        let placing = !matches!(look, Look::Stay);
        macro_rules! bar {
            ($when:expr, $bar:expr) => {
                if $when && !tell($bar) {
                    return;
                }
            };
        }
        let Some(state) = &machine.state else {
            tell(Bar::Machine(Kind::Unknown));
            return;
        };
        if placing {
            bar!(!state.alive, Bar::Machine(Kind::Lost));
            bar!(state.draining, Bar::Machine(Kind::Draining));
            bar!(
                state.cordoned && !state.draining,
                Bar::Machine(Kind::Cordoned)
            );
        }
        let named = shape.machine_id.as_ref();
        bar!(named.is_some_and(|id| *id != machine.id), Bar::OtherMachine);
        bar!(!needs.fleet.metadata_fits(&state.labels), Bar::Label);
        if !needs.fleet.global {
            let elsewhere = |v| {
                self.volumes
                    .get(v)
                    .and_then(|v| v.at)
                    .is_some_and(|at| at != m)
            };
            bar!(needs.volumes.iter().any(elsewhere), Bar::Volume);
        }
        if !matches!(look, Look::Follow) {
            let here = |p: &UnitName| self.find(p).is_some_and(|peer| self.is_at(peer, m));
            bar!(!shape.peers.iter().all(here), Bar::Peer);
        }
        for port in &needs.ports {
            let taken = match look {
                // What stays holds its ports itself.
                Look::Stay => self.port_holder(u, m, port, true).is_some(),
                Look::Without(gone) => {
                    let holders = machine.used.ports.get(port).copied().unwrap_or(0);
                    let going = self.held_by(gone, m, |n| u64::from(n.ports.contains(port)));
                    u64::from(holders) > going
                }
                _ => machine.used.ports.contains_key(port),
            };
            bar!(taken, Bar::Port(port.0, port.1));
        }
        if matches!(look, Look::Place | Look::Without(_)) {
            let gone = |of: &dyn Fn(&crate::model::Needs) -> u64| match look {
                Look::Without(gone) => self.held_by(gone, m, of),
                _ => 0,
            };
            let cpu = machine.used.cpu - gone(&|n| n.cpu_millis).min(machine.used.cpu);
            bar!(
                needs.cpu_millis > 0 && cpu + needs.cpu_millis > state.cpu_millis,
                Bar::Cpu
            );
            let memory = machine.used.memory - gone(&|n| n.memory).min(machine.used.memory);
            bar!(
                needs.memory > 0 && memory + needs.memory > state.memory,
                Bar::Memory
            );
        }
        bar!(self.conflict(u, m, look, false).is_some(), Bar::Conflict);
        if shape.replaces.is_empty() && !self.replaced_there(unit, m) {
            return;
        }
        if placing && !matches!(look, Look::Without(_)) {
            bar!(!self.victims(u, m).is_empty(), Bar::Occupied);
        }
        bar!(self.replacer(u, m, !placing).is_some(), Bar::Replaced);
    }

    /// The sum of something over the placements of these units there.
    fn held_by(&self, of: &BTreeSet<U>, m: M, value: impl Fn(&crate::model::Needs) -> u64) -> u64 {
        let held = of.iter().flat_map(|u| &self.unit(*u).held);
        held.filter(|h| h.m == m)
            .map(|h| value(&self.shape(h.shape).needs))
            .sum()
    }

    /// Who has the port there; for one that stays, only others that stay count.
    fn port_holder(&self, u: U, m: M, port: &(u16, Protocol), staying: bool) -> Option<U> {
        let used = &self.machines.get(m).used;
        let holders = *used.ports.get(port)?;
        let own = self.unit(u).held.iter().filter(|h| h.m == m);
        let own = own
            .filter(|h| self.shape(h.shape).needs.ports.contains(port))
            .count();
        if staying && holders as usize <= own {
            return None;
        }
        self.first(used.units.keys().copied(), |v| {
            let there =
                |h: &&crate::core::Held| h.m == m && self.shape(h.shape).needs.ports.contains(port);
            let unit = self.unit(v);
            match staying {
                true => v != u && self.is_at(v, m) && unit.live().any(|h| there(&h)),
                false => {
                    let kept = unit.kept == Some(m);
                    unit.held.iter().any(|h| there(&h))
                        || (kept && self.shape(unit.shape).needs.ports.contains(port))
                }
            }
        })
    }

    /// The first by name of those that fulfil something.
    fn first(&self, of: impl Iterator<Item = U>, when: impl Fn(U) -> bool) -> Option<U> {
        of.filter(|v| when(*v))
            .min_by(|a, b| self.unit(*a).name.cmp(&self.unit(*b).name))
    }

    /// A unit there with which it conflicts, in either direction. Most often counters say that there is none.
    fn conflict(&self, u: U, m: M, look: Look<'_>, name: bool) -> Option<U> {
        let (unit, shape) = (self.unit(u), self.shape_of(u));
        let own = self
            .machines
            .get(m)
            .used
            .units
            .get(&u)
            .copied()
            .unwrap_or(0);
        let mine = |p: &P| {
            let pattern = self.globs.get(*p);
            let own = if pattern.matches.contains(&u) { own } else { 0 };
            pattern.matched.on(m) > own
        };
        // Its own placements may be counted with another shape than it has now.
        let theirs = |p: &P| {
            let with = |s| self.shape(s).conflicts.contains(p);
            let held = unit
                .held
                .iter()
                .filter(|h| h.m == m && with(h.shape))
                .count() as u32;
            let kept = u32::from(unit.kept == Some(m) && with(unit.shape));
            self.globs.get(*p).conflicting.on(m) > held + kept
        };
        if !shape.conflicts.iter().any(mine) && !unit.matched_by.iter().any(theirs) {
            return None;
        }
        if matches!(look, Look::Place | Look::Follow) && !name {
            return Some(u);
        }
        let others = self.machines.get(m).used.units.keys().copied();
        self.first(others.filter(|v| *v != u), |v| {
            let there = match look {
                Look::Stay => self.is_at(v, m),
                Look::Without(gone) => !gone.contains(&v),
                _ => true,
            };
            there && self.conflicts(u, v, m)
        })
    }

    /// Whether one of the two has a glob in Conflicts that matches the other, as they are there.
    fn conflicts(&self, u: U, v: U, m: M) -> bool {
        let says = |s, of| {
            let globs = &self.shape(s).conflicts;
            globs
                .iter()
                .any(|p| self.globs.get(*p).matches.contains(&of))
        };
        let unit = self.unit(v);
        let there = unit.held.iter().filter(|h| h.m == m).map(|h| h.shape);
        let kept = unit.kept.filter(|k| *k == m).map(|_| unit.shape);
        says(self.unit(u).shape, v) || there.chain(kept).any(|s| says(s, u))
    }

    fn replaces(&self, u: U, v: U) -> bool {
        let globs = &self.shape_of(u).replaces;
        u != v
            && globs
                .iter()
                .any(|p| self.globs.get(*p).matches.contains(&v))
    }

    /// Whether a unit there may be one that replaces it.
    fn replaced_there(&self, unit: &Unit, m: M) -> bool {
        let there = |p: &P| self.globs.get(*p).replacing.on(m) > 0;
        unit.matched_by.iter().any(there)
    }

    /// Units there that must go when `u` comes. Pairs that replace each other are left alone.
    pub(crate) fn victims(&self, u: U, m: M) -> BTreeSet<U> {
        let globs = &self.shape_of(u).replaces;
        if !globs.iter().any(|p| self.globs.get(*p).matched.on(m) > 0) {
            return BTreeSet::new();
        }
        let there = self.machines.get(m).used.units.keys().copied();
        there
            .filter(|v| self.replaces(u, *v) && !self.replaces(*v, u))
            .collect()
    }

    /// A unit there that has taken the place of `u`.
    pub(crate) fn replacer(&self, u: U, m: M, staying: bool) -> Option<U> {
        if !self.replaced_there(self.unit(u), m) {
            return None;
        }
        let there = self.machines.get(m).used.units.keys().copied();
        self.first(there, |v| {
            let unit = self.unit(v);
            let stays = match staying {
                true => self.is_at(v, m),
                false => unit.kept == Some(m) || unit.live().any(|h| h.m == m),
            };
            stays && self.replaces(v, u) && !self.replaces(u, v)
        })
    }

    /// A bar with its particulars.
    pub(crate) fn why(&self, u: U, m: M, bar: Bar, staying: bool) -> WhyNot {
        let (unit, shape, machine) = (self.unit(u), self.shape_of(u), self.machines.get(m));
        let needs = &shape.needs;
        let state = machine.state.clone().unwrap_or_default();
        let name =
            |u: Option<U>| u.map_or_else(|| unit.name.clone(), |u| self.unit(u).name.clone());
        let look = if staying { Look::Stay } else { Look::Place };
        match bar {
            Bar::Machine(Kind::Lost) => WhyNot::Lost,
            Bar::Machine(Kind::Cordoned) => WhyNot::Cordoned,
            Bar::Machine(Kind::Draining) => WhyNot::Draining,
            Bar::Machine(_) => WhyNot::Unknown,
            Bar::OtherMachine => match &shape.machine_id {
                Some(id) => WhyNot::OtherMachine(id.clone()),
                None => WhyNot::Unknown,
            },
            Bar::Label => {
                let missing = needs.fleet.machine_metadata.iter().find(|(key, any)| {
                    let has = state.labels.get(*key);
                    !has.is_some_and(|v| any.contains(v))
                });
                let (key, wanted) = missing
                    .map(|(k, w)| (k.clone(), w.clone()))
                    .unwrap_or_default();
                let has = state.labels.get(&key).cloned();
                WhyNot::Label { key, wanted, has }
            }
            Bar::Volume => {
                let mut at = needs
                    .volumes
                    .iter()
                    .filter_map(|v| Some((v, self.volumes.get(v)?.at?)));
                match at.find(|(_, at)| *at != m) {
                    Some((volume, at)) => WhyNot::VolumeElsewhere {
                        volume: volume.clone(),
                        on: self.machines.get(at).id.clone(),
                    },
                    None => WhyNot::Unknown,
                }
            }
            Bar::Peer => self.why_peer(u, m),
            Bar::Port(port, protocol) => WhyNot::Port {
                port,
                protocol,
                by: name(self.port_holder(u, m, &(port, protocol), staying)),
            },
            Bar::Cpu => WhyNot::Cpu {
                needed: needs.cpu_millis,
                free: state.cpu_millis.saturating_sub(machine.used.cpu),
            },
            Bar::Memory => WhyNot::Memory {
                needed: needs.memory,
                free: state.memory.saturating_sub(machine.used.memory),
            },
            Bar::Conflict => self.why_conflict(u, self.conflict(u, m, look, true)),
            Bar::Occupied => {
                WhyNot::CannotReplace(name(self.first(self.victims(u, m).into_iter(), |_| true)))
            }
            Bar::Replaced => WhyNot::Replaced(name(self.replacer(u, m, staying))),
        }
    }

    fn why_peer(&self, u: U, m: M) -> WhyNot {
        for peer in &self.shape_of(u).peers {
            let known = self.find(peer);
            if known.is_some_and(|known| self.is_at(known, m)) {
                continue;
            }
            let peer = peer.clone();
            return match known.and_then(|known| self.unit(known).home()) {
                Some(home) => WhyNot::PeerElsewhere {
                    peer,
                    on: self.machines.get(home.m).id.clone(),
                },
                None => WhyNot::PeerAbsent(peer),
            };
        }
        WhyNot::Unknown
    }

    fn why_conflict(&self, u: U, with: Option<U>) -> WhyNot {
        let Some(v) = with else {
            return WhyNot::Unknown;
        };
        let glob = |of: U, other: U| {
            let globs = self
                .shape_of(of)
                .conflicts
                .iter()
                .map(|p| self.globs.get(*p));
            globs
                .filter(|p| p.matches.contains(&other))
                .map(|p| p.text.clone())
                .min()
        };
        let (says, glob) = match glob(u, v) {
            Some(glob) => (u, glob),
            None => (v, glob(v, u).unwrap_or_default()),
        };
        WhyNot::Conflict {
            with: self.unit(v).name.clone(),
            says: self.unit(says).name.clone(),
            glob,
        }
    }
}

impl Bar {
    pub(crate) fn kind(self, absent: bool) -> Kind {
        match self {
            Bar::Machine(kind) => kind,
            Bar::OtherMachine => Kind::OtherMachine,
            Bar::Label => Kind::Label,
            Bar::Volume => Kind::VolumeElsewhere,
            Bar::Peer if absent => Kind::PeerAbsent,
            Bar::Peer => Kind::PeerElsewhere,
            Bar::Port(..) => Kind::Port,
            Bar::Cpu => Kind::Cpu,
            Bar::Memory => Kind::Memory,
            Bar::Conflict => Kind::Conflict,
            Bar::Occupied => Kind::CannotReplace,
            Bar::Replaced => Kind::Replaced,
        }
    }
}
