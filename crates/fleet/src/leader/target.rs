//! A unit as the leader knows it: what was asked, where its instances are, and how they stand together.

use super::Waits;
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
    waits: Option<Waits>,
}

/// An instance on a machine.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub instance: Instance,
    /// What the machine is asked; None once it is asked nothing more and has still to forget it.
    pub desired: Option<Box<DesiredRecord>>,
    /// What the machine says. Kept apart, as the above: a map of one has room for eleven.
    pub actual: Option<Box<Actual>>,
    /// Whether the machine gives signs.
    pub alive: bool,
    /// It is to go, and its machine has not said anything of it yet.
    pub leaving: bool,
}

/// What is another than before.
#[derive(Default)]
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
        let actual = nowhere(&record, actual);
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

    /// Whether a machine that is asked to have it gives signs.
    pub fn is_alive(&self) -> bool {
        let state = self.state();
        let mut asked = state.placed.values().filter(|p| p.desired.is_some());
        asked.any(|p| p.alive)
    }

    /// How many instances: asked for on machines that give signs, answered, running.
    pub fn tally(&self) -> (usize, usize, usize) {
        let state = self.state();
        let asked = state
            .placed
            .values()
            .filter(|p| p.desired.is_some() && p.alive);
        let (mut placed, mut answered, mut running) = (0, 0, 0);
        for one in asked {
            placed += 1;
            let order = one.desired.as_ref().map(|d| d.order);
            if let Some(actual) = one.actual.as_ref().filter(|a| Some(a.order) == order) {
                answered += 1;
                running += usize::from(actual.active == Active::Active);
            }
        }
        (placed, answered, running)
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
    pub fn wait_for(&self, reason: Option<Waits>) {
        self.both(|_, waits| *waits = reason);
    }

    /// What it waits for.
    pub fn waits(&self) -> Option<Waits> {
        self.state().waits.clone()
    }

    /// The machines that give signs and have not answered the last request, sorted.
    pub fn silent(&self) -> Vec<String> {
        let state = self.state();
        let order = state.record.order;
        let silent = |p: &Placed| p.alive && p.actual.as_ref().is_none_or(|a| a.order < order);
        let those = state.placed.iter().filter(|(_, p)| silent(p));
        those.map(|(machine, _)| machine.clone()).collect()
    }

    /// Whether a record asks it not to run, and it runs nowhere as far as is known. What is lost counts as ended.
    pub fn is_down(&self, record: &UnitRecord) -> bool {
        record.desired != Desired::Active && self.has_ended(record.order, &self.actual())
    }

    /// Whether where it stands is the end that a request asks for.
    pub fn has_ended(&self, order: u64, actual: &Actual) -> bool {
        let answers = actual.order >= order || self.placed().is_empty() || actual.sub == "lost";
        answers && matches!(actual.active, Active::Inactive | Active::Failed)
    }

    fn both(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, Placed>, &mut Option<Waits>),
    ) -> Changed {
        let mut changed = Changed::default();
        // In one: what is told last is what is so last. Whoever looks has the lock of what is told first, and then the state's.
        self.actual.send_if_modified(|actual| {
            let mut state = self.state();
            let State {
                placed,
                waits,
                unit,
                record,
            } = &mut *state;
            let before: Vec<_> = placed
                .iter()
                .map(|(machine, p)| (machine.clone(), p.instance.clone()))
                .collect();
            change(placed, waits);
            placed.retain(|_, p| p.desired.is_some() || p.actual.is_some() || p.leaving);
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
            let mut together = together(unit.name.as_str(), placed, waits.as_ref(), actual);
            if placed.is_empty() {
                together = nowhere(record, together);
            }
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

/// How a unit stands of which there is nothing.
fn nowhere(record: &UnitRecord, actual: Actual) -> Actual {
    if record.ended != Some(record.generation) {
        return actual;
    }
    Actual {
        generation: record.generation,
        order: record.order,
        settled: true,
        reason: "it ended well, on a machine that has been removed since".into(),
        ..actual
    }
}

/// How instances stand together: as the one that stands worst, of those that are asked for on machines that give signs.
fn together(
    name: &str,
    placed: &BTreeMap<String, Placed>,
    waits: Option<&Waits>,
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
    let mut actual = match worst.map(|p| (p.actual.as_deref().cloned(), p.runs())) {
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
    if let Some(waits) = waits.filter(|_| worst.is_none() || lost) {
        actual.active = Active::Inactive;
        actual.sub = if lost { "lost" } else { "waiting" }.to_owned();
        waits.reason.clone_into(&mut actual.reason);
    } else if let Some(waits) = waits.filter(|w| w.failing() && actual.active == Active::Failed) {
        actual.reason = format!("{}; {}", actual.reason, waits.reason);
    }
    actual
}

impl Placed {
    /// Newly asked for.
    pub fn new(instance: Instance, desired: DesiredRecord) -> Self {
        Self {
            instance,
            desired: Some(Box::new(desired)),
            actual: None,
            alive: true,
            leaving: false,
        }
    }

    /// To go, and not heard of yet.
    pub fn leaving(instance: Instance, alive: bool) -> Self {
        Self {
            instance,
            desired: None,
            actual: None,
            alive,
            leaving: true,
        }
    }

    /// Whether it is asked to run.
    pub fn runs(&self) -> bool {
        let desired = self.desired.as_ref();
        desired.is_some_and(|d| d.desired == Desired::Active)
    }
}
