//! What happens on machines, and what the leader does about it.

use super::{Group, Leader, Target, locked};
use crate::error::Result;
use crate::fleet::{Fleet, Inner};
use crate::model::{Active, Actual, Desired, Machine, Marks, keys};
use crate::order;
use crate::pace::{self, Steps};
use coracle_engine::full_error;
use coracle_store::{Event, EventKind, LeaseId, Revision, WatchRequest, WatchStream};
use std::collections::BTreeSet;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How long what could not be done is left alone.
const REST: Duration = Duration::from_secs(1);
/// Answers of watches that are taken at once.
const AT_ONCE: usize = 256;
/// What is watched.
const FAMILIES: [&str; 5] = [
    keys::ACTUAL,
    keys::ALIVE,
    keys::IMAGES,
    keys::MACHINES,
    keys::MARKS,
];

impl Leader {
    /// Opens the watches from where everything was read.
    pub(super) async fn begin(&self, read: Revision) -> Result<()> {
        let mut streams = Vec::new();
        for family in FAMILIES {
            let request = WatchRequest::prefix(family).from(read + 1);
            streams.push(self.store.watch(request).await?);
        }
        *locked(&self.streams) = streams;
        Ok(())
    }
}

/// Brings what a watch tells to one place; nothing is its end, with which the others' events are not everything any more.
async fn pump(mut watch: WatchStream, to: mpsc::Sender<Option<Vec<Event>>>) {
    loop {
        let answer = tokio::select! {
            biased;
            () = to.closed() => return,
            answer = watch.next() => answer,
        };
        let Some(Ok(answer)) = answer else { break };
        if answer.canceled {
            break;
        }
        if to.send(Some(answer.events)).await.is_err() {
            return;
        }
    }
    // Who does not listen any more need not know.
    let _ = to.send(None).await;
}

/// Leads until that is over.
pub(super) async fn lead(
    leader: &Leader,
    fleet: &Weak<Inner>,
    lease: &mut watch::Receiver<LeaseId>,
    may_lead: &mut watch::Receiver<bool>,
) {
    let (to, mut events) = mpsc::channel(64);
    for stream in std::mem::take(&mut *locked(&leader.streams)) {
        pace::spawn(pump(stream, to.clone()));
    }
    drop(to);
    let (mut over, under) = (leader.over(), *lease.borrow_and_update());
    // What the former leader did not come to.
    let mut todo = Todo {
        all: true,
        removed: leader.unknown(),
        ..Todo::default()
    };
    loop {
        let failed = match fleet.upgrade() {
            Some(inner) if !Fleet(inner.clone()).is_leaving() => {
                let done = async {
                    leader.settle(&mut todo).await?;
                    leader.roll(&Fleet(inner)).await
                };
                done.await.inspect_err(|error| {
                    tracing::warn!(
                        error = full_error(error),
                        "what follows could not be done; it is tried again"
                    );
                })
            }
            Some(_) => Ok(()),
            None => return,
        }
        .is_err();
        let due = leader.deploys_due();
        tokio::select! {
            biased;
            _ = over.wait_for(|over| *over) => return,
            // The key goes with the former lease.
            () = until(lease, |now| *now != under) => return,
            () = until(may_lead, |may| !may) => return,
            told = events.recv() => {
                // What has come meanwhile is one piece of work, up to a bound.
                let mut told = told;
                for _ in 0..AT_ONCE {
                    match told {
                        Some(Some(events)) => leader.take(events, &mut todo),
                        // One watch is over: everything is read anew.
                        Some(None) | None => return,
                    }
                    match events.try_recv() {
                        Ok(next) => told = Some(next),
                        Err(_) => break,
                    }
                }
            }
            // Not at once what has just failed.
            () = leader.wake.notified(), if !failed => {}
            () = pace::sleep(REST), if failed || todo.later() => {}
            () = pace::sleep(due.unwrap_or_default()), if due.is_some() && !failed => {
                // It may be due as often as the other, which would have no turn.
                todo.machines |= leader.later.load(Ordering::Relaxed);
            }
            () = pace::sleep(REST), if leader.later.load(Ordering::Relaxed) => {
                todo.machines = true;
            }
        }
    }
}

/// Waits for a value; what nobody changes any more stays as it is.
pub(super) async fn until<T>(from: &mut watch::Receiver<T>, mut is: impl FnMut(&T) -> bool) {
    if from.wait_for(|value| is(value)).await.is_err() {
        std::future::pending().await
    }
}

/// What is still to be looked at.
#[derive(Default)]
pub(super) struct Todo {
    /// Units whose instances said something.
    units: BTreeSet<String>,
    /// Machines came, went or changed.
    machines: bool,
    /// Machines that are no more.
    removed: BTreeSet<String>,
    /// Everything.
    all: bool,
}

impl Todo {
    /// Whether something is left for later.
    fn later(&self) -> bool {
        self.all || self.machines || !self.units.is_empty()
    }
}

impl Leader {
    fn take(&self, events: Vec<Event>, todo: &mut Todo) {
        for event in events {
            let Ok(key) = std::str::from_utf8(&event.kv.key) else {
                continue;
            };
            let put = event.kind == EventKind::Put;
            if let Some((machine, instance)) = keys::placed(key, keys::ACTUAL) {
                let actual = put.then(|| serde_json::from_slice::<Actual>(&event.kv.value));
                let alive = locked(&self.machines)
                    .get(&machine)
                    .is_some_and(|m| m.alive);
                let actual = actual.and_then(Result::ok);
                if let Some(target) = self.told(&machine, instance, actual, alive) {
                    todo.units.insert(target.unit().name.to_string());
                }
                continue;
            }
            if let Some(key) = key.strip_prefix(keys::IMAGES) {
                self.told_image(key, &event);
                continue;
            }
            todo.machines = true;
            let mut roll = locked(&self.machines);
            // Nobody was told how units stand while there was nobody else.
            todo.all |= key.starts_with(keys::MACHINES) && (!put || roll.len() < 2);
            if let Some(id) = key.strip_prefix(keys::ALIVE) {
                roll.signs(id, put);
                drop(roll);
                self.machine_is(id, put);
                if put {
                    self.ends_absence(id);
                }
            } else if let Some(id) = key.strip_prefix(keys::MACHINES) {
                match serde_json::from_slice::<Machine>(&event.kv.value) {
                    _ if !put => {
                        roll.remove(id);
                        drop(roll);
                        self.tell_removed(id);
                        todo.removed.insert(id.to_owned());
                    }
                    Ok(machine) => {
                        roll.facts(id, machine);
                        let alive = roll.get(id).is_some_and(|seen| seen.alive);
                        drop(roll);
                        // Its signs may have come before it was known.
                        self.machine_is(id, alive);
                    }
                    // Perhaps of a newer release; what was known of it holds.
                    Err(error) => {
                        tracing::error!(key, %error, "what a machine says of itself cannot be read");
                    }
                }
            } else if let Some(id) = key.strip_prefix(keys::MARKS) {
                let marks = serde_json::from_slice::<Marks>(&event.kv.value);
                roll.mark(id, marks.unwrap_or_default(), event.kv.mod_revision);
            }
        }
        self.ticks.send_modify(|n| *n += 1);
    }

    /// A machine gives signs, or does not.
    pub(super) fn machine_is(&self, id: &str, alive: bool) {
        for target in self.on(id) {
            self.change(&target, |all| {
                if let Some(placed) = all.get_mut(id) {
                    placed.alive = alive;
                }
            });
        }
    }

    /// Does what follows from what has happened.
    async fn settle(&self, todo: &mut Todo) -> Result<()> {
        let owed = !locked(&self.answered).is_empty() || self.services_due();
        if !todo.later() && !owed && !self.with_planner(|planner| planner.pending()) {
            return Ok(());
        }
        let _one = self.change_lock.lock().await;
        self.let_go().await?;
        self.write_services().await?;
        let units: Vec<String> = if todo.all {
            let all = self.all().into_iter();
            all.map(|t| t.unit().name.to_string()).collect()
        } else {
            todo.units.iter().cloned().collect()
        };
        let mut steps = Steps::default();
        for name in &units {
            steps.one_more().await;
            self.bindings(name).await?;
        }
        for target in units.iter().filter_map(|name| self.target(name)) {
            steps.one_more().await;
            self.tell_placed(&target);
        }
        for id in &todo.removed {
            self.forget_resources(id).await?;
        }
        if todo.machines || todo.all {
            self.later.store(self.tell_machines(), Ordering::Relaxed);
        }
        if self.with_planner(|planner| planner.pending()) {
            self.place_anew().await?;
        }
        for id in &todo.removed {
            self.keep_written(id).await?;
        }
        self.forget_ended().await?;
        let awaited = match todo.machines {
            // What is lost is down for those that wait for its end.
            true => locked(&self.needs).all_awaited(),
            false => BTreeSet::new(),
        };
        let statuses: Vec<Group> = units
            .iter()
            .chain(awaited.iter().filter(|name| !todo.units.contains(*name)))
            .filter_map(|name| {
                let target = self.target(name)?;
                self.status(name, &target, &target.record())
            })
            .collect();
        self.commit(statuses).await?;
        *todo = Todo::default();
        Ok(())
    }

    /// Units that are bound to one that has gone stop with it.
    async fn bindings(&self, name: &str) -> Result<()> {
        let bound = locked(&self.needs).bound(name);
        if bound.is_empty() || !self.target(name).is_none_or(|t| is_gone(&t)) {
            return Ok(());
        }
        for one in bound {
            let Some(target) = self.target(&one) else {
                continue;
            };
            if target.record().desired == Desired::Active {
                for each in order::stop(&[one], self) {
                    self.halt(&each).await?;
                }
            }
        }
        Ok(())
    }
}

/// Whether what is bound to a unit has lost it.
fn is_gone(target: &Target) -> bool {
    let goal = *target.goal.borrow();
    let there = target.actual();
    goal.desired != Desired::Active
        || (there.generation == goal.generation && there.settled && there.active != Active::Active)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use coracle_store::{EmbeddedStore, Options, PutRequest, Store as _};

    #[tokio::test]
    async fn the_end_of_one_watch_is_noticed_while_others_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path(), Options::default()).unwrap();
        let (to, mut events) = mpsc::channel(4);
        let mut handles = Vec::new();
        for prefix in ["a/", "b/"] {
            let watch = store.watch(WatchRequest::prefix(prefix)).await.unwrap();
            handles.push(watch.handle());
            tokio::spawn(pump(watch, to.clone()));
        }
        handles[0].cancel();
        assert!(events.recv().await.unwrap().is_none());
        store.put(PutRequest::new("b/1", "x")).await.unwrap();
        assert_eq!(events.recv().await.unwrap().unwrap().len(), 1);
    }
}
