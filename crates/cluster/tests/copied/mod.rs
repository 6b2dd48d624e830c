//! A machine whose etcd has learnt all that the only voter had, which is lost.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;
use std::time::Duration;

use coracle_cluster::member::api::{Members, initial_cluster};
use coracle_cluster::member::config::{Initial, MemberConfig};
use coracle_cluster::member::find::{Found, Program};
use coracle_cluster::member::run::Member;
use coracle_cluster::member::snapshots::{Snapshots, verify};
use coracle_store::{EmbeddedStore, EtcdStore, Options, PutRequest, Revision, Store as _};

use super::lives::{Machine, PATIENCE};

/// The door of the one that is left.
pub const DOOR: u16 = 7010;

/// The first one begins with what the machine's store holds, which is nothing.
pub async fn begin(machine: &Machine, found: &Found, config: MemberConfig) -> Member {
    let store = EmbeddedStore::open(&machine.dir.join("state/store"), Options::default()).unwrap();
    let seed = machine.dir.join("seed");
    store.seed(&seed).await.unwrap();
    found.restore(&seed, &config).await.unwrap();
    start(machine, found, config).await
}

pub async fn start(machine: &Machine, found: &Found, config: MemberConfig) -> Member {
    config.save(&machine.cluster()).unwrap();
    Member::start(machine.engine.clone(), found, config, &machine.cluster())
}

/// Until a write is done: a leader may be lost on the way.
pub async fn put(store: &EtcdStore, key: &str) {
    let written = async {
        while store
            .put(PutRequest::new(key.to_owned(), "x"))
            .await
            .is_err()
        {}
    };
    tokio::time::timeout(PATIENCE, written).await.unwrap();
}

/// How it is run as the first of its own, without certificates.
pub fn plain(machine: &Machine, door: u16) -> MemberConfig {
    let id = machine.engine.machine_id().parse().unwrap();
    let address = "127.0.0.1".parse().unwrap();
    MemberConfig::first(&machine.cluster(), id, address, door, None)
}

/// See the module.
pub struct Copied {
    pub found: Found,
    /// The one that is left.
    pub b: Machine,
    /// The revision of the key `last`.
    pub last: Revision,
    /// A copy that was taken of the voter.
    pub snapshot: PathBuf,
}

/// Of `a` as the voter; afterwards no etcd runs.
pub async fn copied(a: &Machine) -> Copied {
    let found = Program::Host { path: None }.find().await.unwrap();
    let first = plain(a, 7000);
    let (api, cluster) = (
        Members::at(&first.client_url()).unwrap(),
        first.cluster.clone(),
    );
    let on_a = begin(a, &found, first).await;
    on_a.ready(PATIENCE).await.unwrap();
    let store = on_a.store().unwrap();
    let b = a.beside("b").await;
    let mut config = plain(&b, DOOR);
    let (id, members) = api.add_learner(&config.peer_url()).await.unwrap();
    config.cluster = cluster;
    config.initial = Initial::Existing;
    config.initial_cluster = initial_cluster(&members, id, config.name.as_str());
    let on_b = start(&b, &found, config).await;
    for n in 0..100 {
        put(&store, &format!("k{n}")).await;
    }
    let last = store
        .put(PutRequest::new("last", "x"))
        .await
        .unwrap()
        .revision;
    // A learner answers no reads that a majority would be asked for; its own file tells when it has all.
    let copied = || {
        let file = b.cluster().join("etcd/data/member/snap/db");
        let copy = b.dir.join("copy");
        std::fs::copy(file, &copy).is_ok() && verify(&copy).is_ok_and(|found| found == last)
    };
    let deadline = std::time::Instant::now() + PATIENCE;
    while !copied() {
        assert!(
            std::time::Instant::now() < deadline,
            "the learner gets nothing"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let snapshots = Snapshots::open(&a.cluster(), 1).unwrap();
    let snapshot = snapshots.take(&store).await.unwrap().path;
    on_a.stop().await.unwrap();
    on_b.stop().await.unwrap();
    Copied {
        found,
        b,
        last,
        snapshot,
    }
}
