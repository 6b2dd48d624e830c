//! What is true at every moment, checked as it happens. What is wrong is written down, and the run ends with it.

use super::data::Data;
use super::table::{Bad, is_exclusive};
use super::world::World;
use crate::model::{Desired, DesiredRecord, LeaderRecord, keys};
use coracle_store::{Event, EventKind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long ago another instance may have been healthy for the one that is withdrawn from a draining machine.
const RECENT: Duration = Duration::from_secs(40);

/// How long after a machine came back it may still be for its absence that something leaves it.
const LONG: Duration = Duration::from_secs(90);

/// A container that runs or ran.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    pub machine: usize,
    pub id: String,
    pub unit: String,
    pub uid: String,
    pub healthy_from: Duration,
}

/// See the module.
pub(crate) struct Books {
    world: World,
    state: Mutex<State>,
    /// Of machines that do not do what they say, for the checks' own sake.
    pub never_removes: bool,
}

#[derive(Default)]
struct State {
    bad: Bad,
    running: BTreeMap<String, Ran>,
    /// The last time that there was a healthy one of a uid on a machine.
    healthy: BTreeMap<(String, usize), Duration>,
    wrong: Vec<String>,
    /// Starts and ends so far.
    changes: u64,
    ids: Vec<String>,
    draining: BTreeSet<usize>,
    /// When machines were away last.
    away: BTreeMap<usize, Duration>,
}

impl Books {
    pub fn new(world: &World, ids: Vec<String>, bad: Bad, never_removes: bool) -> Self {
        let state = State {
            ids,
            bad,
            ..State::default()
        };
        Self {
            world: world.clone(),
            state: Mutex::new(state),
            never_removes,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn fails_on(&self, unit: &str, machine: usize) -> bool {
        let state = self.state();
        state.bad.get(unit).is_some_and(|on| on.contains(&machine))
    }

    /// Something is not as it should be.
    pub fn is_wrong(&self, what: String) {
        self.world.note(|| format!("WRONG: {what}"));
        self.state().wrong.push(what);
    }

    pub fn wrong(&self) -> Vec<String> {
        self.state().wrong.clone()
    }

    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// What runs.
    pub fn running(&self) -> Vec<Ran> {
        self.state().running.values().cloned().collect()
    }

    pub fn started(&self, ran: &Ran) {
        let short = &ran.uid[ran.uid.len() - 6..];
        self.world
            .note(|| format!("m{} starts {} ({short})", ran.machine, ran.unit));
        let mut state = self.state();
        state.changes += 1;
        let other = state
            .running
            .values()
            .find(|other| other.uid == ran.uid)
            .cloned();
        let mut here = state
            .running
            .values()
            .filter(|other| other.machine == ran.machine);
        let own = here.any(|other| other.uid == ran.uid);
        state.running.insert(ran.id.clone(), ran.clone());
        drop(state);
        if let Some(other) = other {
            if is_exclusive(&ran.unit) {
                let (one, two) = (other.machine, ran.machine);
                self.is_wrong(format!("two of {} run, on m{one} and m{two}", ran.unit));
            } else if own {
                self.is_wrong(format!("two of {} run on m{}", ran.unit, ran.machine));
            }
        }
    }

    pub fn ended(&self, ran: &Ran, why: &str) {
        self.world
            .note(|| format!("m{} ends {}: {why}", ran.machine, ran.unit));
        let now = self.world.now();
        let mut state = self.state();
        state.changes += 1;
        state.running.remove(&ran.id);
        if now >= ran.healthy_from {
            state.healthy.insert((ran.uid.clone(), ran.machine), now);
        }
    }

    /// Whether a healthy one of a uid is or was a moment ago on another machine.
    fn was_healthy_elsewhere(&self, uid: &str, machine: usize) -> bool {
        let now = self.world.now();
        let state = self.state();
        let runs = state
            .running
            .values()
            .any(|ran| ran.uid == uid && ran.machine != machine && now >= ran.healthy_from);
        let ran = state
            .healthy
            .iter()
            .any(|((of, on), at)| of == uid && *on != machine && now.saturating_sub(*at) < RECENT);
        runs || ran
    }

    fn number(&self, id: &str) -> Option<usize> {
        self.state().ids.iter().position(|known| known == id)
    }

    /// Somebody changed the cluster's store.
    pub fn written(&self, by: Option<usize>, data: &Data, events: &[Event]) {
        let leader = data.get(keys::LEADER);
        let leader = leader.and_then(|kv| serde_json::from_slice::<LeaderRecord>(&kv.value).ok());
        let leads = leader.and_then(|record| self.number(&record.machine));
        for event in events {
            let key = String::from_utf8_lossy(&event.kv.key).into_owned();
            let put = event.kind == EventKind::Put;
            self.say(by, &key, put, &event.kv.value);
            let own = [
                keys::UNITS,
                keys::REVISIONS,
                keys::DESIRED,
                keys::VOLUMES,
                keys::STATUS,
            ];
            if own.iter().any(|family| key.starts_with(family)) && by.is_some() && by != leads {
                self.is_wrong(format!(
                    "m{} writes {key}, and m{leads:?} leads",
                    by.unwrap_or(99)
                ));
            }
            if let Some(machine) = key.strip_prefix(keys::ALIVE).and_then(|id| self.number(id)) {
                let now = self.world.now();
                self.state().away.insert(machine, now);
            }
            if let Some(id) = key.strip_prefix(keys::MARKS)
                && let Some(machine) = self.number(id)
            {
                let marks = serde_json::from_slice::<crate::model::Marks>(&event.kv.value);
                let draining = put && marks.is_ok_and(|marks| marks.draining);
                let mut state = self.state();
                match draining {
                    true => state.draining.insert(machine),
                    false => state.draining.remove(&machine),
                };
            }
            if !put && key.starts_with(keys::DESIRED) {
                self.withdrawn(data, &key);
            }
        }
    }

    /// What leaves a draining machine is healthy elsewhere.
    fn withdrawn(&self, data: &Data, key: &str) {
        let Some((id, instance)) = keys::placed(key, keys::DESIRED) else {
            return;
        };
        let Some(machine) = self.number(&id) else {
            return;
        };
        let runs = {
            let state = self.state();
            let now = self.world.now();
            // One that is lost loses what it has without waiting.
            let lost = state
                .away
                .get(&machine)
                .is_some_and(|at| now.saturating_sub(*at) < LONG);
            let draining = state.draining.contains(&machine) && !lost;
            let mut here = state.running.values().filter(|ran| ran.machine == machine);
            let here = here.find(|ran| ran.uid == instance.uid).cloned();
            here.filter(|ran| draining && now >= ran.healthy_from)
        };
        let Some(ran) = runs else { return };
        if is_exclusive(&ran.unit) || ran.unit.starts_with("glob") {
            return;
        }
        let record = data.get(&keys::unit(&ran.unit));
        let record = record
            .and_then(|kv| serde_json::from_slice::<crate::model::UnitRecord>(&kv.value).ok());
        let wanted = record.is_some_and(|r| r.uid == ran.uid && r.desired == Desired::Active);
        if wanted && !self.was_healthy_elsewhere(&ran.uid, machine) {
            let unit = &ran.unit;
            self.is_wrong(format!(
                "{unit} is drained from m{machine} and was healthy nowhere else"
            ));
        }
    }

    fn say(&self, by: Option<usize>, key: &str, put: bool, value: &[u8]) {
        if !self.world.is_loud() {
            return;
        }
        let short = key.strip_prefix("/coracle/v1/").unwrap_or(key);
        let family = short.split('/').next().unwrap_or_default();
        if !matches!(
            family,
            "desired" | "leader" | "alive" | "marks" | "units" | "actual" | "machines"
        ) {
            return;
        }
        let mut short = short.to_owned();
        for (number, id) in self.state().ids.iter().enumerate() {
            short = short.replace(id, &format!("m{number}"));
        }
        let more = match family {
            "desired" => {
                serde_json::from_slice::<DesiredRecord>(value).map_or(String::new(), |d| {
                    format!(
                        " {} {:?} generation {} order {}",
                        d.unit, d.desired, d.generation, d.order
                    )
                })
            }
            "actual" => {
                serde_json::from_slice::<crate::model::Actual>(value).map_or(String::new(), |a| {
                    format!(
                        " {} {} {} generation {} order {}",
                        a.unit,
                        a.active.as_str(),
                        a.sub,
                        a.generation,
                        a.order
                    )
                })
            }
            "units" => serde_json::from_slice::<crate::model::UnitRecord>(value).map_or(
                String::new(),
                |u| {
                    format!(
                        " {:?} generation {} order {} incarnation {}",
                        u.desired, u.generation, u.order, u.incarnation
                    )
                },
            ),
            _ => String::new(),
        };
        let who = by.map_or("the store".to_owned(), |by| format!("m{by}"));
        let sign = if put { '+' } else { '-' };
        self.world.note(|| {
            format!(
                "{who} {sign} {}{more}",
                short.replace("00000000000000000000", "")
            )
        });
    }
}
