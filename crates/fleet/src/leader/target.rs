//! A unit as the leader knows it: what was asked, where its instances are, and how they stand together.

use crate::model::{Active, Actual, Desired, DesiredRecord, Instance, UnitRecord};
use crate::plan::Goal;
use coracle_unit::Unit;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// A unit.
pub(crate) struct Target {
    state: Mutex<State>,
    /// What was asked last.
    pub goal: watch::Sender<Goal>,
    /// How its instances stand together.
    pub actual: watch::Sender<Actual>,
}

struct State {
    record: UnitRecord,
    unit: Arc<Unit>,
    /// By machine.
    placed: BTreeMap<String, Placed>,
    /// Why it is nowhere, or its machine is no good any more.
    waits: Option<String>,
}

/// An instance on a machine.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub instance: Instance,
    /// What the machine is asked; None once it is asked nothing more and has still to forget it.
    pub desired: Option<DesiredRecord>,
    /// What the machine says.
    pub actual: Option<Actual>,
    /// Whether the machine gives signs.
    pub alive: bool,
}

/// What is another than before.
pub(crate) struct Changed {
    /// Instances that are no more, with their machines.
    pub gone: Vec<(String, Instance)>,
    /// Machines on which there is one and was none.
    pub came: Vec<String>,
    /// Machines on which there was one and is none.
    pub left: Vec<String>,
}

impl Target {
    pub fn new(record: UnitRecord, unit: Unit) -> Arc<Self> {
        let actual = Actual::new(unit.name.as_str(), crate::pace::utc());
        Arc::new(Self {
            goal: watch::Sender::new(goal(&record)),
            actual: watch::Sender::new(actual),
            state: Mutex::new(State {
                record,
                unit: Arc::new(unit),
                placed: BTreeMap::new(),
                waits: None,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is changed under the lock is whole after each assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn record(&self) -> UnitRecord {
        self.state().record.clone()
    }

    pub fn unit(&self) -> Arc<Unit> {
        self.state().unit.clone()
    }

    pub fn actual(&self) -> Actual {
        self.actual.borrow().clone()
    }

    pub fn set(&self, record: UnitRecord, unit: Option<Unit>) {
        let goal = goal(&record);
        {
            let mut state = self.state();
            state.record = record;
            if let Some(unit) = unit {
                state.unit = Arc::new(unit);
            }
        }
        self.goal.send_replace(goal);
    }

    /// Its instances by machine.
    pub fn placed(&self) -> BTreeMap<String, Placed> {
        self.state().placed.clone()
    }

    /// The machines that are asked to have it.
    pub fn machines(&self) -> Vec<String> {
        let state = self.state();
        let asked = state.placed.iter().filter(|(_, p)| p.desired.is_some());
        asked.map(|(machine, _)| machine.clone()).collect()
    }

    /// The number that the next instance of it gets: greater than any that is known.
    pub fn next_incarnation(&self) -> u64 {
        let state = self.state();
        let known = state.placed.values().map(|p| p.instance.incarnation);
        known.max().unwrap_or(0).max(state.record.incarnation) + 1
    }

    /// Changes what is known of its instances, and says how they stand together.
    pub fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Placed>)) -> Changed {
        self.both(|placed, _| change(placed))
    }

    /// Says why it waits.
    pub fn wait_for(&self, reason: Option<String>) {
        self.both(|_, waits| *waits = reason);
    }

    fn both(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, Placed>, &mut Option<String>),
    ) -> Changed {
        let changed;
        let together = {
            let mut state = self.state();
            let State { placed, waits, .. } = &mut *state;
            let before: Vec<_> = placed
                .iter()
                .map(|(machine, p)| (machine.clone(), p.instance.clone()))
                .collect();
            change(placed, waits);
            placed.retain(|_, p| p.desired.is_some() || p.actual.is_some());
            let there = |(machine, instance): &(String, Instance)| {
                placed.get(machine).is_some_and(|p| p.instance == *instance)
            };
            let is_new = |machine: &&String| before.iter().all(|(before, _)| before != *machine);
            let came = placed.keys().filter(is_new).cloned().collect();
            let left = before.iter().map(|(machine, _)| machine.clone());
            changed = Changed {
                came,
                left: left.filter(|m| !placed.contains_key(m)).collect(),
                gone: before.into_iter().filter(|one| !there(one)).collect(),
            };
            let name = state.unit.name.as_str();
            together(
                name,
                &state.placed,
                state.waits.as_deref(),
                &self.actual.borrow(),
            )
        };
        self.actual.send_if_modified(|actual| {
            let news = *actual != together;
            *actual = together;
            news
        });
        changed
    }
}

fn goal(record: &UnitRecord) -> Goal {
    Goal {
        desired: record.desired,
        generation: record.generation,
        order: record.order,
    }
}

/// How instances stand together: as the one that stands worst, of those that are asked for on machines that give signs.
fn together(
    name: &str,
    placed: &BTreeMap<String, Placed>,
    waits: Option<&str>,
    before: &Actual,
) -> Actual {
    let asked = || placed.values().filter(|p| p.desired.is_some());
    let mut those: Vec<&Placed> = asked().filter(|p| p.alive).collect();
    if those.is_empty() {
        those = asked().collect();
    }
    // Of one that is taken away its end is waited for.
    if those.is_empty() {
        those = placed.values().filter(|p| p.alive).collect();
    }
    let rank = |p: &Placed| {
        let asked = p.desired.as_ref();
        let Some(actual) = &p.actual else { return 1 };
        let answers = asked.is_none_or(|d| d.order == actual.order);
        match actual.active {
            _ if !answers => 1,
            Active::Failed => 0,
            Active::Activating | Active::Deactivating => 2,
            Active::Inactive => 3,
            Active::Active => 4,
        }
    };
    let worst = those.into_iter().min_by_key(|p| rank(p));
    let mut actual = match worst.map(|p| (p.actual.clone(), p.runs())) {
        Some((Some(actual), _)) => actual,
        Some((None, true)) => Actual {
            active: Active::Activating,
            sub: "placed".into(),
            reason: "its machine was asked and has not answered yet".into(),
            ..Actual::new(name, before.since)
        },
        _ => Actual::new(name, before.since),
    };
    let lost = worst.is_some_and(|p| !p.alive);
    if let Some(reason) = waits.filter(|_| worst.is_none() || lost) {
        actual.active = Active::Inactive;
        actual.sub = if lost { "lost" } else { "waiting" }.to_owned();
        reason.clone_into(&mut actual.reason);
    }
    actual
}

impl Placed {
    /// Newly asked for.
    pub fn new(instance: Instance, desired: DesiredRecord) -> Self {
        Self {
            instance,
            desired: Some(desired),
            actual: None,
            alive: true,
        }
    }

    /// Whether it is asked to run.
    pub fn runs(&self) -> bool {
        let desired = self.desired.as_ref();
        desired.is_some_and(|d| d.desired == Desired::Active)
    }
}
