//! The store moves into etcd, and the daemon is killed at each step of it: nothing is lost, and it can be done after.
#![allow(clippy::unwrap_used)]

mod lives;

use std::sync::Arc;
use std::time::Duration;

use coracle_cluster::member::config::MemberConfig;
use coracle_cluster::member::find::Program;
use coracle_cluster::member::moving::{Mode, Move, Moved, Step, mode, settle};
use coracle_cluster::member::run::{Member, State, stop_all};
use coracle_store::{
    DeleteRangeRequest, EmbeddedStore, EtcdOptions, EtcdStore, Options, PutRequest, RangeRequest,
    Store, StoreExt as _, Switch, WatchRequest, compare,
};
use lives::{Machine, PATIENCE, die, machine};

const LEASE: i64 = 77;

fn open(machine: &Machine) -> Arc<EmbeddedStore> {
    let dir = machine.dir.join("state/store");
    Arc::new(EmbeddedStore::open(&dir, Options::default()).unwrap())
}

/// What there is before the move, at revision 205.
async fn fill(store: &EmbeddedStore) {
    store.lease_grant(600, LEASE).await.unwrap();
    for n in 0..200 {
        let put = PutRequest::new(format!("/coracle/v1/k{}", n % 20), vec![b'v'; n]);
        store
            .put(put.with_lease(LEASE * (n as i64 % 2)))
            .await
            .unwrap();
    }
    for n in 0..4 {
        let gone = DeleteRangeRequest::key(format!("/coracle/v1/k{n}"));
        store.delete_range(gone).await.unwrap();
    }
    store.compact(50).await.unwrap();
    assert_eq!(store.status().await.unwrap().revision, 205);
}

async fn prepare(machine: &Machine, store: &Arc<EmbeddedStore>) -> Move {
    let id = machine.engine.machine_id().parse().unwrap();
    let dir = machine.cluster();
    let config = MemberConfig::first(&dir, id, "127.0.0.1".parse().unwrap(), 7373, None);
    let etcd = EtcdStore::new(EtcdOptions::new([config.client_url()])).unwrap();
    Move {
        engine: machine.engine.clone(),
        found: Program::Host { path: None }.find().await.unwrap(),
        config,
        dir,
        store: store.clone(),
        switch: Arc::new(Switch::new(store.clone())),
        etcd: Arc::new(etcd),
        limit: PATIENCE,
        done: Box::new(|_| {}),
    }
}

/// Life 0 dies at the step, life 1 finds things as they should be and moves, life 2 finds etcd running, and ends it.
async fn killed_at(machine: Machine, life: usize, step: Step) {
    let found = settle(&machine.engine, &machine.cluster()).await.unwrap();
    let store = open(&machine);
    if life == 0 {
        assert_eq!(found, Mode::Embedded);
        fill(&store).await;
        let mut moving = prepare(&machine, &store).await;
        moving.done = Box::new(move |done| {
            if done == step {
                die();
            }
        });
        let _ = moving.run().await;
        panic!("it should have died at {step:?}");
    }
    let flipped = matches!(step, Step::Flipped | Step::Switched);
    let moved = if life == 1 && !flipped {
        // As if nothing had been.
        assert_eq!(found, Mode::Embedded);
        assert!(machine.etcds().await.is_empty());
        assert!(!machine.cluster().join("etcd/data").exists());
        assert_eq!(store.status().await.unwrap().revision, 205);
        let moving = prepare(&machine, &store).await;
        let switch = moving.switch.clone();
        let mut watch = switch
            .watch(WatchRequest::prefix("/coracle/").from(201))
            .await
            .unwrap();
        let waiting = {
            let switch = switch.clone();
            tokio::spawn(async move {
                switch
                    .put(PutRequest::new("/coracle/v1/early", "x"))
                    .await
                    .unwrap()
            })
        };
        let early = waiting.await.unwrap().revision;
        let moved = moving.run().await.unwrap();
        assert_eq!(mode(&machine.cluster()).unwrap(), Mode::Etcd);
        assert_eq!(compare(&*store, &*moved.store).await.unwrap(), None);
        let after = switch
            .put(PutRequest::new("/coracle/v1/after", "x"))
            .await
            .unwrap()
            .revision;
        assert_eq!(after, early + 1);
        let mut told = Vec::new();
        while told.last() != Some(&after) {
            let answer = watch.next().await.unwrap().unwrap();
            told.extend(answer.events.iter().map(|event| event.kv.mod_revision));
        }
        assert_eq!(told, (201..=after).collect::<Vec<_>>());
        moved
    } else {
        assert_eq!(found, Mode::Etcd);
        let running = machine.etcds().await;
        let config = MemberConfig::load(&machine.cluster()).unwrap().unwrap();
        let program = config.program.find().await.unwrap();
        let member = Member::start(machine.engine.clone(), &program, config, &machine.cluster());
        member.ready(PATIENCE).await.unwrap();
        // Found again, and not begun a second time.
        let [pid] = running[..] else {
            panic!("{running:?}")
        };
        let pids = member
            .state()
            .wait_for(|s| matches!(s, State::Running { .. }))
            .await
            .unwrap()
            .clone();
        assert_eq!(pids, State::Running { pid });
        let store = Arc::new(member.store().unwrap());
        Moved { member, store }
    };
    assert!(moved.store.lease_keep_alive(LEASE).await.unwrap().ttl == 600);
    let kept = moved
        .store
        .range(RangeRequest::prefix("/coracle/v1/k").at(205))
        .await
        .unwrap();
    assert_eq!(kept.kvs.len(), 16);
    if life == 1 && flipped {
        assert_eq!(compare(&*store, &*moved.store).await.unwrap(), None);
        assert!(
            prepare(&machine, &store).await.run().await.is_err(),
            "it moves twice"
        );
    }
    if life == 2 {
        let after = moved.store.get("/coracle/v1/after").await.unwrap();
        assert_eq!(after.is_some(), !flipped);
        moved.member.stop().await.unwrap();
    }
}

macro_rules! killed_at {
    ($($name:ident $step:ident,)*) => {$(
        #[test]
        fn $name() {
            machine(stringify!($name), 3, |machine, life| Box::pin(killed_at(machine, life, Step::$step)));
        }
    )*};
}

killed_at! {
    killed_when_it_is_marked Marked,
    killed_when_it_is_frozen Frozen,
    killed_when_it_is_seeded Seeded,
    killed_when_it_is_restored Restored,
    killed_when_it_is_started Started,
    killed_when_it_is_compared Compared,
    killed_when_it_is_flipped Flipped,
    killed_when_it_is_switched Switched,
}

/// etcd does not come up, as its port is taken: everything is as before, and leases run out again.
#[test]
fn a_move_that_fails_is_undone() {
    machine("a_move_that_fails_is_undone", 1, |machine, _| {
        Box::pin(async move {
            let store = open(&machine);
            fill(&store).await;
            let taken = std::net::TcpListener::bind("127.0.0.1:7374").unwrap();
            let mut moving = prepare(&machine, &store).await;
            moving.limit = Duration::from_secs(2);
            let switch = moving.switch.clone();
            let (told, frozen) = std::sync::mpsc::channel();
            moving.done = Box::new(move |step| {
                if step == Step::Frozen {
                    let _ = told.send(());
                }
            });
            let waiting = {
                let switch = switch.clone();
                tokio::spawn(async move {
                    tokio::task::spawn_blocking(move || frozen.recv().unwrap())
                        .await
                        .unwrap();
                    switch.put(PutRequest::new("waited", "x")).await.unwrap()
                })
            };
            let failed = moving.run().await.map(drop).unwrap_err();
            assert!(failed.to_string().contains("etcd.log"), "{failed}");
            assert_eq!(waiting.await.unwrap().revision, 206);
            assert_eq!(mode(&machine.cluster()).unwrap(), Mode::Embedded);
            assert!(machine.etcds().await.is_empty());
            let lease = switch.lease_grant(2, 0).await.unwrap().id;
            let mut watch = switch.watch(WatchRequest::key("short")).await.unwrap();
            switch
                .put(PutRequest::new("short", "x").with_lease(lease))
                .await
                .unwrap();
            let mut told = 0;
            while told < 2 {
                told += watch.next().await.unwrap().unwrap().events.len();
            }
            // And now it goes.
            drop(taken);
            let mut moving = prepare(&machine, &store).await;
            moving.switch = switch.clone();
            let moved = moving.run().await.unwrap();
            assert_eq!(
                switch.get("waited").await.unwrap().unwrap().mod_revision,
                206
            );
            moved.member.stop().await.unwrap();
        })
    });
}

/// Both wait for the same process, and either may forget it first; tried several times, since it is a matter of chance who does.
#[test]
fn an_etcd_is_ended_beside_who_looks_after_it() {
    machine(
        "an_etcd_is_ended_beside_who_looks_after_it",
        1,
        |machine, _| {
            Box::pin(async move {
                let store = open(&machine);
                let moved = prepare(&machine, &store).await.run().await.unwrap();
                for _ in 0..6 {
                    stop_all(&machine.engine).await.unwrap();
                    let mut state = moved.member.state();
                    let again = state.wait_for(|s| matches!(s, State::Running { .. }));
                    tokio::time::timeout(PATIENCE, again)
                        .await
                        .unwrap()
                        .unwrap();
                }
                moved.member.stop().await.unwrap();
            })
        },
    );
}
