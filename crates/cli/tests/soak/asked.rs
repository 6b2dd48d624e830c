//! What was asked for, and what is asked next. Pure.

use crate::cluster::chaos::Random;
use std::collections::{BTreeMap, BTreeSet};

/// How one unit is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Running,
    Stopped,
    /// Destroyed, or never there.
    Absent,
}

/// What is done to a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Start,
    Stop,
    Restart,
    Destroy,
}

/// One command about one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub verb: Verb,
    pub unit: &'static str,
}

/// What may be done to a unit, and where it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Anywhere, one of it.
    Moves,
    /// On each machine.
    Global,
    /// Where its data is; it is never destroyed.
    Pinned,
    /// As `Moves`, and never two of it.
    Exclusive,
    /// A process without a container.
    Service,
}

/// Every unit of the soak. Instances of `web@.container` are one service.
pub const UNITS: &[(&str, Kind)] = &[
    ("web@1.container", Kind::Moves),
    ("web@2.container", Kind::Moves),
    ("web@3.container", Kind::Moves),
    ("web@4.container", Kind::Moves),
    ("web@5.container", Kind::Moves),
    ("front.container", Kind::Moves),
    ("every.container", Kind::Global),
    ("keep.container", Kind::Pinned),
    ("only.container", Kind::Exclusive),
    ("job.service", Kind::Service),
];

/// Instances of `web@.container` that run from the start.
const FIRST: usize = 3;

pub fn kind(unit: &str) -> Kind {
    let found = UNITS.iter().find(|(name, _)| *name == unit);
    found.unwrap_or_else(|| panic!("no unit {unit}")).1
}

/// By unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked(BTreeMap<&'static str, State>);

impl Asked {
    /// What the soak begins with.
    pub fn first() -> Self {
        let state = |index: usize, name: &str| match name.starts_with("web@") && index >= FIRST {
            true => State::Absent,
            false => State::Running,
        };
        let all = UNITS.iter().enumerate();
        Self(all.map(|(i, (name, _))| (*name, state(i, name))).collect())
    }

    /// Nothing.
    pub fn nothing() -> Self {
        let all = UNITS.iter().map(|(name, _)| (*name, State::Absent));
        Self(all.collect())
    }

    pub fn get(&self, unit: &str) -> State {
        self.0[unit]
    }

    /// Units that are to run.
    pub fn running(&self) -> impl Iterator<Item = &'static str> + '_ {
        let all = self.0.iter().filter(|(_, s)| **s == State::Running);
        all.map(|(name, _)| *name)
    }

    /// Units that are to be known.
    pub fn known(&self) -> BTreeSet<&'static str> {
        let all = self.0.iter().filter(|(_, s)| **s != State::Absent);
        all.map(|(name, _)| *name).collect()
    }

    /// How many instances of `web@.container` are to run.
    pub fn webs(&self) -> usize {
        self.running().filter(|u| u.starts_with("web@")).count()
    }

    /// A command that makes sense now, of no unit in `but`.
    pub fn next(&self, random: &mut Random, but: &BTreeSet<&str>) -> Ask {
        let free: Vec<_> = UNITS.iter().filter(|(u, _)| !but.contains(u)).collect();
        let (unit, kind) = *free[random.below(free.len())];
        let verbs: &[Verb] = match (self.get(unit), kind) {
            (State::Running, Kind::Pinned) => &[Verb::Restart],
            (State::Running, _) => &[Verb::Stop, Verb::Restart, Verb::Destroy],
            (State::Stopped, Kind::Pinned) | (State::Absent, _) => &[Verb::Start],
            (State::Stopped, _) => &[Verb::Start, Verb::Start, Verb::Destroy],
        };
        let verb = verbs[random.below(verbs.len())];
        Ask { verb, unit }
    }

    /// It was asked.
    pub fn learn(&mut self, ask: &Ask) {
        let state = match ask.verb {
            Verb::Start | Verb::Restart => State::Running,
            Verb::Stop => State::Stopped,
            Verb::Destroy => State::Absent,
        };
        self.0.insert(ask.unit, state);
    }
}
