//! etcds of several machines, with certificates between them: added, promoted, killed, removed, and copied.
#![allow(clippy::unwrap_used)]

mod copied;
mod lives;
#[path = "../../store/tests/common/etcd.rs"]
mod server;

use std::path::Path;
use std::time::Duration;

use copied::{Copied, DOOR, begin, copied, plain, put, start};
use coracle_cluster::member::api::{Members, initial_cluster};
use coracle_cluster::member::config::{Initial, MemberConfig, PeerTls};
use coracle_cluster::member::find::Program;
use coracle_cluster::member::recover::{Source, recover};
use coracle_cluster::member::run::State;
use coracle_cluster::member::snapshots::{Snapshots, verify};
use coracle_store::{EtcdStore, PutRequest, Store as _, StoreExt as _};
use lives::{Machine, PATIENCE, machine};

fn config(machine: &Machine, door: u16, tls: &PeerTls) -> MemberConfig {
    let id = machine.engine.machine_id().parse().unwrap();
    let address = "127.0.0.1".parse().unwrap();
    MemberConfig::first(&machine.cluster(), id, address, door, Some(tls.clone()))
}

#[test]
fn three_machines() {
    machine("three_machines", 1, |a, _| Box::pin(three(a)));
}

async fn three(a: Machine) {
    let certificates = server::certificates(&a.dir, "peers");
    let tls = PeerTls {
        ca: certificates.ca,
        certificate: certificates.certificate,
        key: certificates.key,
        allowed_name: Some("it".into()),
    };
    let found = Program::Host { path: None }.find().await.unwrap();
    let first = config(&a, 7000, &tls);
    let (api, cluster) = (
        Members::at(&first.client_url()).unwrap(),
        first.cluster.clone(),
    );
    let on_a = begin(&a, &found, first).await;
    on_a.ready(PATIENCE).await.unwrap();
    let store = on_a.store().unwrap();
    store.put(PutRequest::new("k", "v")).await.unwrap();
    assert_eq!(api.list().await.unwrap().len(), 1);
    assert_eq!(
        api.leader().await.unwrap(),
        Some(api.list().await.unwrap()[0].id)
    );

    let (b, c) = (a.beside("b").await, a.beside("c").await);
    let mut running = Vec::new();
    for (machine, door) in [(&b, 7010), (&c, 7020)] {
        let mut config = config(machine, door, &tls);
        let url = config.peer_url();
        let (id, members) = api.add_learner(&url).await.unwrap();
        // Once more is the same one; a second one has to wait.
        assert_eq!(api.add_learner(&url).await.unwrap().0, id);
        let second = api.add_learner("https://127.0.0.1:9999").await.unwrap_err();
        assert!(second.to_string().contains("too many learner"), "{second}");
        config.cluster = cluster.clone();
        config.initial = Initial::Existing;
        config.initial_cluster = initial_cluster(&members, id, config.name.as_str());
        let member = start(machine, &found, config).await;
        api.promote_when_ready(id, PATIENCE).await.unwrap();
        api.promote_when_ready(id, PATIENCE).await.unwrap();
        member.ready(PATIENCE).await.unwrap();
        let copy = member.store().unwrap().get("k").await.unwrap().unwrap();
        assert_eq!(copy.value, "v");
        running.push((id, member));
    }
    let members = api.list().await.unwrap();
    assert_eq!(members.iter().filter(|member| !member.learner).count(), 3);
    assert!(
        members
            .iter()
            .any(|member| member.name == b.engine.machine_id())
    );

    // One is killed and comes back by itself, as another process.
    let mut state = running[0].1.state();
    let pid = match *state.borrow_and_update() {
        State::Running { pid } => pid,
        ref other => panic!("{other:?}"),
    };
    let killed = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    let again = |state: &State| matches!(state, State::Running { pid: new } if *new != pid);
    let back = tokio::time::timeout(PATIENCE, state.wait_for(again)).await;
    back.unwrap().unwrap();
    running[0].1.ready(PATIENCE).await.unwrap();
    put(&store, "after").await;

    copies(&a, &store).await;

    // One is taken out, and once more; then two of two are asked.
    let (id, member) = running.pop().unwrap();
    api.remove(id).await.unwrap();
    api.remove(id).await.unwrap();
    member.stop().await.unwrap();
    assert_eq!(api.list().await.unwrap().len(), 2);
    put(&store, "two").await;
    for (_, member) in running {
        member.stop().await.unwrap();
    }
    let config = on_a.config().clone();
    on_a.stop().await.unwrap();
    // One whose data is gone is not begun anew.
    std::fs::remove_dir_all(&config.data_dir).unwrap();
    let empty = start(&a, &found, config).await;
    let mut state = empty.state();
    let rests = state.wait_for(|state| matches!(state, State::Resting { .. }));
    let State::Resting { why } = tokio::time::timeout(PATIENCE, rests)
        .await
        .unwrap()
        .unwrap()
        .clone()
    else {
        panic!("it rests");
    };
    assert!(why.contains("is gone"), "{why}");
    empty.stop().await.unwrap();
    assert!(Path::new(&a.cluster().join("etcd/etcd.log")).exists());
    b.clear().await;
    c.clear().await;
}

async fn copies(machine: &Machine, store: &EtcdStore) {
    let dir = machine.cluster();
    std::fs::create_dir_all(dir.join("snapshots")).unwrap();
    std::fs::write(dir.join("snapshots/taking.tmp"), "half").unwrap();
    let snapshots = Snapshots::open(&dir, 2).unwrap();
    assert_eq!(snapshots.list().unwrap(), []);
    let mut last = 0;
    for n in 0..4 {
        put(store, &format!("copy/{n}")).await;
        let taken = snapshots.take(store).await.unwrap();
        assert!(taken.revision > last, "{taken:?}");
        assert_eq!(verify(&taken.path).unwrap(), taken.revision);
        last = taken.revision;
    }
    let kept = snapshots.list().unwrap();
    assert_eq!(kept.len(), 2);
    assert_eq!(kept[0].revision, last);
    // One that was damaged is not taken for one.
    let mut bytes = std::fs::read(&kept[1].path).unwrap();
    bytes[9000] ^= 1;
    std::fs::write(&kept[1].path, bytes).unwrap();
    assert!(verify(&kept[1].path).is_err());
    // By itself: at once, as none is there.
    let _ = std::fs::remove_dir_all(dir.join("snapshots"));
    let snapshots = Snapshots::open(&dir, 2).unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let taken = async {
        while snapshots.list().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.send_replace(true);
    };
    let run = snapshots.run(store, Duration::from_secs(3600), stopped);
    tokio::time::timeout(PATIENCE, async { tokio::join!(run, taken) })
        .await
        .unwrap();
}

/// The only voter is lost, and the machine with the copy goes on.
#[test]
fn a_learner_takes_over() {
    machine("a_learner_takes_over", 1, |a, _| Box::pin(takes_over(a)));
}

async fn takes_over(a: Machine) {
    let Copied { found, b, last, .. } = copied(&a).await;
    // Twice: as if the first try had been cut short, and as if it was lost once more.
    for times in 1..=2 {
        let (engine, dir) = (&b.engine, b.cluster());
        let (member, done) = recover(engine, &found, plain(&b, DOOR), &dir, &Source::Own)
            .await
            .unwrap();
        member.ready(PATIENCE).await.unwrap();
        let store = member.store().unwrap();
        assert!(done.revision >= last + times * 1_000_000_000, "{done:?}");
        assert_eq!(store.list("k").await.unwrap().count, 100);
        assert_eq!(store.get("last").await.unwrap().unwrap().mod_revision, last);
        let late = store
            .range(coracle_store::RangeRequest::key("last").at(last))
            .await;
        assert!(late.is_err(), "{late:?}");
        put(&store, "on").await;
        member.stop().await.unwrap();
        assert!(dir.join(format!("etcd/data.before-{times}")).exists());
    }
    b.clear().await;
}
