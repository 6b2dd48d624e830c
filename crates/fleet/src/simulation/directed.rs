//! Courses of events that are told, not drawn.
#![allow(clippy::unwrap_used)]

use super::cluster::{Broken, Cluster};
use super::data::Data;
use super::table::Bad;
use super::world::World;
use crate::fleet::Fleet;
use crate::machine::facts;
use crate::machines::Mark;
use crate::model::{Active, Actual, Instance, UnitRecord, keys};
use coracle_store::{DeleteRangeRequest, PutRequest};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;

const SECOND: Duration = Duration::from_secs(1);
const TEXT: &str = "[Container]\nImage=localhost/simulated\n";
const EXCLUSIVE: &str = "[X-Deploy]\nExclusive=yes\n";

/// A cluster whose first machine leads, with a seed for what is drawn all the same.
fn live<F: Future<Output = ()> + Send + 'static>(
    seed: u64,
    machines: usize,
    bad: Bad,
    story: impl FnOnce(Arc<Cluster>) -> F,
) {
    let dir = TempDir::new().unwrap();
    let world = World::new(seed, true);
    let cluster = Cluster::new(&world, machines, 1, bad, Broken::Nothing, dir.path());
    let run = story(cluster.clone());
    let (inner, all) = (world.clone(), cluster.clone());
    world.run(async move {
        for machine in &all.machines {
            machine.line.send_modify(|line| line.breaks = false);
            all.start(machine);
            inner.sleep(3 * SECOND).await;
        }
        run.await;
    });
    let (wrong, trace) = (cluster.books.wrong(), world.trace().join("\n"));
    assert!(wrong.is_empty(), "{trace}\n{wrong:?}");
}

fn leader(cluster: &Cluster) -> Fleet {
    let leader = cluster.leader().and_then(|leader| leader.fleet());
    leader.expect("the first machine leads")
}

fn put<T: serde::Serialize>(cluster: &Cluster, key: &str, value: &T) {
    let put = PutRequest::new(key.to_owned(), serde_json::to_vec(value).unwrap());
    cluster.shared.act(None, |data, _| data.put(put)).unwrap();
}

/// Starts a unit on a machine that is not the first; with `block` returns once it runs.
async fn start_elsewhere(cluster: &Cluster, fleet: &Fleet, name: &str, text: &str, block: bool) {
    let first = &cluster.machines[0].id;
    fleet.mark(first, &Mark::Cordon).await.unwrap();
    fleet.submit(name, text, Vec::new()).await.unwrap();
    fleet.start(name, block).await.unwrap();
    fleet.mark(first, &Mark::Uncordon).await.unwrap();
}

/// The machines on which something runs.
fn runs_on(cluster: &Cluster) -> Vec<usize> {
    let runs = cluster.books.running();
    runs.iter().map(|ran| ran.machine).collect()
}

#[test]
fn a_machine_whose_signs_come_before_its_facts_is_waited_for() {
    live(1, 1, Bad::new(), |cluster| async move {
        let (world, fleet) = (cluster.world.clone(), leader(&cluster));
        fleet
            .submit("web-b.container", TEXT, Vec::new())
            .await
            .unwrap();
        let record = cluster.shared.look(|data| {
            let kv = data.get(&keys::unit("web-b.container")).unwrap();
            serde_json::from_slice::<UnitRecord>(&kv.value).unwrap()
        });
        // A machine of which first is said that it is there, then that it has something, then what it is.
        let id = "f".repeat(32);
        put(&cluster, &keys::alive(&id), &"now");
        world.sleep(SECOND).await;
        let instance = Instance {
            uid: record.uid,
            slot: 1,
            incarnation: 7,
        };
        let actual = Actual {
            active: Active::Inactive,
            order: 99,
            settled: true,
            ..Actual::new("web-b.container", crate::pace::utc())
        };
        let key = keys::actual(&id, &instance);
        put(&cluster, &key, &actual);
        world.sleep(SECOND).await;
        put(&cluster, &keys::machine(&id), &facts(&id));
        world.sleep(SECOND).await;
        let (done, mut gone) = oneshot::channel();
        crate::pace::spawn(async move {
            let _ = done.send(fleet.destroy("web-b").await);
        });
        world.sleep(5 * SECOND).await;
        assert!(
            gone.try_recv().is_err(),
            "what it has is still to be forgotten there"
        );
        cluster
            .shared
            .act(None, |data, _| data.delete(&DeleteRangeRequest::key(key)));
        gone.await.unwrap().unwrap();
    });
}

#[test]
fn volumes_leave_nothing_behind_of_a_machine_that_is_removed() {
    live(1, 2, Bad::new(), |cluster| async move {
        let (world, fleet) = (cluster.world.clone(), leader(&cluster));
        let volume = "[Volume]\nVolumeName=kept\n";
        fleet
            .submit("kept.volume", volume, Vec::new())
            .await
            .unwrap();
        // It may be on the other machine only.
        let id = &cluster.machines[1].id;
        let user = format!("[X-Fleet]\nMachineID={id}\n{TEXT}Volume=kept.volume:/data\n");
        fleet
            .submit("res-a.container", &user, Vec::new())
            .await
            .unwrap();
        fleet.start("res-a.container", true).await.unwrap();
        let left = |cluster: &Cluster| {
            cluster.shared.look(|data| {
                let families = [keys::desired_of(id), keys::actual_of(id)];
                families
                    .iter()
                    .map(|family| data.below(family).len())
                    .sum::<usize>()
            })
        };
        assert_eq!(left(&cluster), 4, "both are there");
        cluster.remove(&cluster.machines[1]);
        world.sleep(30 * SECOND).await;
        // What is written of a volume is written of all of its machines.
        fleet.start("kept.volume", false).await.unwrap();
        fleet.restart("kept.volume", false).await.unwrap();
        world.sleep(5 * SECOND).await;
        assert_eq!(left(&cluster), 0, "{}", world.trace().join("\n"));
    });
}

#[test]
fn who_leads_next_knows_what_may_still_run_on_a_machine_that_was_removed() {
    live(1, 2, Bad::new(), |cluster| async move {
        let (world, fleet) = (cluster.world.clone(), leader(&cluster));
        let text = format!("{TEXT}{EXCLUSIVE}");
        start_elsewhere(&cluster, &fleet, "ex-a.container", &text, true).await;
        cluster.remove(&cluster.machines[1]);
        world.sleep(SECOND).await;
        // It runs on there until its watchdog ends it.
        fleet.leading().unwrap().end();
        drop(fleet);
        world.sleep(40 * SECOND).await;
        assert_eq!(runs_on(&cluster), [0], "{}", world.trace().join("\n"));
    });
}

#[test]
fn what_was_to_leave_a_machine_that_is_removed_runs_nowhere_else_before_it_has_ended() {
    live(1, 2, Bad::new(), |cluster| async move {
        let (world, fleet) = (cluster.world.clone(), leader(&cluster));
        let second = &cluster.machines[1];
        let text = format!("{TEXT}{EXCLUSIVE}");
        start_elsewhere(&cluster, &fleet, "ex-a.container", &text, true).await;
        // It does not hear that it is asked for no more.
        second
            .line
            .send_modify(|line| (line.to, line.from) = (false, false));
        fleet.mark(&second.id, &Mark::Drain).await.unwrap();
        world.sleep(SECOND).await;
        let asked = |data: &Data| data.below(&keys::desired_of(&second.id)).len();
        assert_eq!(cluster.shared.look(asked), 0);
        cluster.remove(second);
        world.sleep(40 * SECOND).await;
        assert_eq!(runs_on(&cluster), [0], "{}", world.trace().join("\n"));
        let said = |data: &Data| data.below(&keys::actual_of(&second.id)).len();
        assert_eq!(cluster.shared.look(said), 0, "it is forgotten then");
    });
}

/// A machine of which there is nothing but what the store says of it.
struct Said<'a> {
    cluster: &'a Cluster,
    id: String,
}

impl<'a> Said<'a> {
    async fn come(cluster: &'a Cluster) -> Self {
        let said = Self {
            cluster,
            id: "f".repeat(32),
        };
        put(cluster, &keys::alive(&said.id), &"now");
        put(cluster, &keys::machine(&said.id), &facts(&said.id));
        cluster.world.sleep(SECOND).await;
        said
    }

    fn delete(&self, key: String) {
        let gone = DeleteRangeRequest::key(key);
        self.cluster.shared.act(None, |data, _| data.delete(&gone));
    }

    /// The instance that it is asked for, and says how that is.
    fn says(&self, active: Active, settled: bool) {
        let key = self.cluster.shared.look(|data| {
            let asked = data.below(&keys::desired_of(&self.id));
            String::from_utf8(asked[0].key.to_vec()).unwrap()
        });
        let (_, instance) = keys::placed(&key, keys::DESIRED).unwrap();
        let actual = Actual {
            active,
            settled,
            generation: 1,
            order: 1,
            ..Actual::new("said", crate::pace::utc())
        };
        put(self.cluster, &keys::actual(&self.id, &instance), &actual);
    }
}

#[test]
fn an_absence_that_begins_anew_is_waited_for_anew() {
    live(1, 1, Bad::new(), |cluster| async move {
        let (world, fleet) = (cluster.world.clone(), leader(&cluster));
        let said = Said::come(&cluster).await;
        let text = format!("{TEXT}{EXCLUSIVE}");
        start_elsewhere(&cluster, &fleet, "ex-a.container", &text, false).await;
        said.says(Active::Active, false);
        world.sleep(SECOND).await;
        said.delete(keys::alive(&said.id));
        world.sleep(12 * SECOND).await;
        // It was back, and both are told at once.
        put(&cluster, &keys::alive(&said.id), &"again");
        said.delete(keys::alive(&said.id));
        world.sleep(10 * SECOND).await;
        assert!(cluster.books.running().is_empty(), "it may run there still");
        world.sleep(10 * SECOND).await;
        assert_eq!(cluster.books.running().len(), 1);
    });
}

#[test]
fn what_has_ended_well_is_not_run_again_when_its_machine_is_removed() {
    live(1, 1, Bad::new(), |cluster| async move {
        let (world, fleet) = (cluster.world.clone(), leader(&cluster));
        let said = Said::come(&cluster).await;
        start_elsewhere(&cluster, &fleet, "job-a.container", TEXT, false).await;
        said.says(Active::Inactive, true);
        world.sleep(SECOND).await;
        for key in [keys::alive(&said.id), keys::machine(&said.id)] {
            said.delete(key);
        }
        world.sleep(60 * SECOND).await;
        assert!(cluster.books.running().is_empty());
        let left = |data: &Data| {
            let families = [keys::desired_of(&said.id), keys::actual_of(&said.id)];
            families.iter().map(|f| data.below(f).len()).sum::<usize>()
        };
        assert_eq!(cluster.shared.look(left), 0);
        // Nor by who leads next, until it is asked for.
        fleet.leading().unwrap().end();
        world.sleep(30 * SECOND).await;
        assert!(cluster.books.running().is_empty());
        let fleet = leader(&cluster);
        fleet.start("job-a.container", true).await.unwrap();
        assert_eq!(cluster.books.running().len(), 1);
    });
}

#[test]
fn what_becomes_exclusive_while_it_runs_is_held_to_that() {
    live(1, 2, Bad::new(), |cluster| async move {
        let (world, fleet) = (cluster.world.clone(), leader(&cluster));
        let name = "ex-a.container";
        start_elsewhere(&cluster, &fleet, name, TEXT, true).await;
        let text = format!("{TEXT}{EXCLUSIVE}");
        fleet.submit(name, &text, Vec::new()).await.unwrap();
        world.sleep(3 * SECOND).await;
        assert_eq!(runs_on(&cluster), [1], "it is not started anew for that");
        // Never two: the books see to that.
        let line = &cluster.machines[1].line;
        line.send_modify(|line| (line.to, line.from) = (false, false));
        world.sleep(40 * SECOND).await;
        assert_eq!(runs_on(&cluster), [0], "{}", world.trace().join("\n"));
    });
}

#[test]
fn a_text_that_makes_a_unit_exclusive_may_be_taken_back() {
    live(1, 2, Bad::new(), |cluster| async move {
        let (world, fleet) = (cluster.world.clone(), leader(&cluster));
        let name = "web-a.container";
        start_elsewhere(&cluster, &fleet, name, TEXT, true).await;
        let exclusive = format!("{TEXT}{EXCLUSIVE}");
        for text in [&exclusive, TEXT] {
            fleet.submit(name, text, Vec::new()).await.unwrap();
            world.sleep(3 * SECOND).await;
        }
        let before = cluster.books.changes();
        world.sleep(30 * SECOND).await;
        let (after, trace) = (cluster.books.changes(), world.trace().join("\n"));
        assert_eq!((runs_on(&cluster), after), (vec![1], before), "{trace}");
        // And one that is exclusive becomes one that is everywhere.
        fleet.submit(name, &exclusive, Vec::new()).await.unwrap();
        let global = format!("{TEXT}[X-Fleet]\nGlobal=yes\n");
        fleet.submit(name, &global, Vec::new()).await.unwrap();
        world.sleep(5 * SECOND).await;
        assert_eq!(runs_on(&cluster).len(), 2, "{}", world.trace().join("\n"));
    });
}

#[test]
fn what_fails_everywhere_is_tried_within_its_budget() {
    let everywhere = (0..5).collect();
    let bad = Bad::from([("bad-a.container".to_owned(), everywhere)]);
    live(1, 5, bad, |cluster| async move {
        let (world, fleet) = (cluster.world.clone(), leader(&cluster));
        let text = format!("{TEXT}[Service]\nRestart=on-failure\nRestartSec=1\n");
        fleet
            .submit("bad-a.container", &text, Vec::new())
            .await
            .unwrap();
        let failed = fleet.start("bad-a.container", true).await;
        assert!(failed.is_err(), "{failed:?}");
        world.sleep(200 * SECOND).await;
        let budget = coracle_planner::Settings::default().failure_moves as u64;
        let record = cluster.shared.look(|data| {
            let kv = data.get(&keys::unit("bad-a.container")).unwrap();
            serde_json::from_slice::<UnitRecord>(&kv.value).unwrap()
        });
        assert_eq!(
            record.incarnation,
            1 + budget,
            "{}",
            world.trace().join("\n")
        );
        let view = fleet.get("bad-a.container").await.unwrap().0;
        assert_eq!(view.active, Active::Failed, "{}", view.reason);
    });
}

#[test]
fn a_drain_goes_on_past_what_does_not_run() {
    live(1, 2, Bad::new(), |cluster| async move {
        let (world, fleet) = (cluster.world.clone(), leader(&cluster));
        let id = &cluster.machines[1].id;
        for (name, runs) in [("web-a.container", false), ("web-b.container", true)] {
            start_elsewhere(&cluster, &fleet, name, TEXT, true).await;
            if !runs {
                fleet.stop(name, true).await.unwrap();
            }
        }
        fleet.mark(id, &Mark::Drain).await.unwrap();
        world.sleep(20 * SECOND).await;
        let view = fleet.machine_named(id).unwrap();
        assert!(view.drain.unwrap().finished, "{}", world.trace().join("\n"));
        assert!(view.placed.is_empty());
    });
}

#[test]
fn what_a_former_leader_has_on_its_way_is_known_or_not_done() {
    // The same machine leads again, and what it has sent comes before it reads, or is refused.
    for seed in 0..40 {
        live(seed, 1, Bad::new(), |cluster| async move {
            let (world, fleet) = (cluster.world.clone(), leader(&cluster));
            let machine = &cluster.machines[0];
            machine.line.send_modify(|line| line.slow = 300);
            let asked = fleet.clone();
            crate::pace::spawn(async move {
                let _ = asked.submit("web-a.container", TEXT, Vec::new()).await;
            });
            world.sleep(Duration::from_millis(world.below(50))).await;
            fleet.leading().unwrap().end();
            world.sleep(40 * SECOND).await;
            let there = |data: &Data| data.get(&keys::unit("web-a.container")).is_some();
            let (written, known) = (cluster.shared.look(there), leader(&cluster).list().len());
            assert_eq!(known, usize::from(written), "{}", world.trace().join("\n"));
        });
    }
}
