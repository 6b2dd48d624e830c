//! The embedded store becomes an etcd: the same revisions, history and leases, asked of the real one.
#![allow(clippy::unwrap_used)]

#[path = "common/etcd.rs"]
mod server;

use std::path::{Path, PathBuf};
use std::process::Command;

use coracle_store::etcd::bolt::Bolt;
use coracle_store::*;
use server::{Etcd, restored};

fn open(dir: &Path) -> EmbeddedStore {
    let options = Options {
        // Much goes to the database and much is in memory.
        memory_bytes: 64 << 10,
        ..Options::default()
    };
    EmbeddedStore::open(dir, options).unwrap()
}

fn over(etcd: &Etcd) -> EtcdStore {
    let options = EtcdOptions {
        whole: true,
        ..EtcdOptions::new([etcd.url()])
    };
    EtcdStore::new(options).unwrap()
}

async fn seeded(store: &EmbeddedStore, path: &Path) -> (Seeded, Etcd) {
    store.hold(true).await.unwrap();
    let seeded = store.seed(path).await.unwrap();
    (seeded, restored(path).await)
}

/// Numbers that look as if drawn, the same ones each time.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn key(&mut self) -> String {
        format!("/coracle/v1/apps/k{}", self.below(60))
    }

    fn value(&mut self) -> Vec<u8> {
        let length = match self.below(40) {
            0 => self.below(200_000),
            1..4 => self.below(9000),
            _ => self.below(200),
        };
        vec![self.below(256) as u8; length as usize]
    }
}

/// Changes of all kinds.
async fn work(store: &EmbeddedStore, random: &mut Random, leases: &mut Vec<LeaseId>, count: usize) {
    for _ in 0..count {
        match random.below(20) {
            0 => {
                let ttl = 600 + random.below(600) as i64;
                leases.push(store.lease_grant(ttl, 0).await.unwrap().id);
            }
            1 if leases.len() > 3 => {
                let id = leases.remove(random.below(leases.len() as u64) as usize);
                store.lease_revoke(id).await.unwrap();
            }
            2..5 if !leases.is_empty() => {
                let lease = leases[random.below(leases.len() as u64) as usize];
                let put = PutRequest::new(random.key(), random.value()).with_lease(lease);
                store.put(put).await.unwrap();
            }
            5..8 => {
                let gone = DeleteRangeRequest::key(random.key());
                store.delete_range(gone).await.unwrap();
            }
            8 => {
                let prefix = format!("/coracle/v1/apps/k{}", random.below(6));
                let gone = DeleteRangeRequest::prefix(prefix);
                store.delete_range(gone).await.unwrap();
            }
            9..11 => {
                let mut keys: Vec<_> = (0..random.below(8)).map(|_| random.key()).collect();
                keys.sort();
                keys.dedup();
                let op = |key: String| match random.below(3) {
                    0 => TxnOp::Delete(DeleteRangeRequest::key(key)),
                    _ => TxnOp::Put(PutRequest::new(key, random.value())),
                };
                let success = keys.into_iter().map(op).collect();
                let txn = TxnRequest {
                    success,
                    ..Default::default()
                };
                store.txn(txn).await.unwrap();
            }
            11 if random.below(10) == 0 => {
                let status = store.status().await.unwrap();
                let kept = (status.revision - status.compact_revision) as u64;
                let at = status.compact_revision + random.below(kept + 1) as i64;
                if at > status.compact_revision {
                    store.compact(at).await.unwrap();
                }
            }
            _ => {
                let put = PutRequest::new(random.key(), random.value());
                store.put(put).await.unwrap();
            }
        }
    }
}

async fn events(store: &dyn Store, from: Revision, upto: Revision) -> Vec<Event> {
    let request = WatchRequest {
        prev_kv: true,
        ..WatchRequest::prefix("").from(from)
    };
    let mut watch = store.watch(request).await.unwrap();
    let mut events = Vec::new();
    let mut told = 0;
    while told < upto {
        let answer = watch.next().await.unwrap().unwrap();
        assert!(!answer.canceled, "{answer:?}");
        told = answer.revision;
        events.extend(answer.events);
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_goes_on_where_the_store_was() {
    for seed in 1..=3 {
        let dir = tempfile::tempdir().unwrap();
        let mut random = Random(seed);
        let mut store = open(&dir.path().join("store"));
        let mut leases = Vec::new();
        work(&store, &mut random, &mut leases, 300).await;
        drop(store);
        store = open(&dir.path().join("store"));
        work(&store, &mut random, &mut leases, 300).await;
        let (seeded, mut etcd) = seeded(&store, &dir.path().join("db")).await;
        let moved = over(&etcd);
        assert_eq!(compare(&store, &moved).await.unwrap(), None, "seed {seed}");
        let status = store.status().await.unwrap();
        assert_eq!(seeded.revision, status.revision);
        assert_eq!(seeded.compacted, status.compact_revision);
        assert_eq!(seeded.leases, leases.len());
        let oldest = status.compact_revision.max(1);
        for at in oldest..=status.revision {
            let all = RangeRequest::prefix("").at(at);
            let (mine, theirs) = (store.range(all.clone()).await, moved.range(all).await);
            assert!(
                mine.unwrap() == theirs.unwrap(),
                "seed {seed}, revision {at}"
            );
        }
        if status.compact_revision > 1 {
            let old = RangeRequest::key("k").at(status.compact_revision - 1);
            let refused = moved.range(old).await.unwrap_err();
            assert!(matches!(refused, StoreError::Compacted { .. }), "{refused}");
        }
        for _ in 0..10 {
            let kept = (status.revision - oldest) as u64;
            // Before 3.4.25 etcd answers a watch from the very revision of the compaction, and fails at what was there before.
            let from = oldest + 1 + random.below(kept.max(1)) as i64;
            let (mine, theirs) = (
                events(&store, from, status.revision).await,
                events(&moved, from, status.revision).await,
            );
            assert!(mine == theirs, "seed {seed}, from {from}");
        }
        // It goes on: the next revision is the next one, a lease takes its keys with it.
        let put = PutRequest {
            prev_kv: true,
            ..PutRequest::new("/coracle/v1/apps/k1", "on")
        };
        let (mine, theirs) = (store.put(put.clone()).await, moved.put(put).await);
        assert_eq!(mine.unwrap(), theirs.unwrap());
        for lease in leases {
            let (mine, theirs) = (
                store.lease_revoke(lease).await,
                moved.lease_revoke(lease).await,
            );
            assert_eq!(mine.unwrap(), theirs.unwrap());
        }
        assert_eq!(compare(&store, &moved).await.unwrap(), None, "seed {seed}");
        // And is there after it was killed.
        etcd.kill();
        etcd.start();
        assert_eq!(compare(&store, &moved).await.unwrap(), None, "seed {seed}");
    }
}

/// What a comparison would be worth that finds nothing.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_differs_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    for n in 0..20 {
        let put = PutRequest::new(format!("k{n}"), "x");
        store.put(put).await.unwrap();
    }
    let (_, etcd) = seeded(&store, &dir.path().join("db")).await;
    let moved = over(&etcd);
    assert_eq!(compare(&store, &moved).await.unwrap(), None);
    let put = |value: &'static str| PutRequest::new("k7", value);
    moved.put(put("1")).await.unwrap();
    let found = compare(&store, &moved).await.unwrap();
    assert_eq!(found, Some(Difference::Revision(21, 22)));
    store.put(put("2")).await.unwrap();
    let found = compare(&store, &moved).await.unwrap();
    assert_eq!(found, Some(Difference::Key("k7".into())));
    moved.put(put("3")).await.unwrap();
    store.put(put("3")).await.unwrap();
    let found = compare(&store, &moved).await.unwrap();
    assert_eq!(found, Some(Difference::History(22)));
    moved.compact(23).await.unwrap();
    let found = compare(&store, &moved).await.unwrap();
    assert_eq!(found, Some(Difference::Compacted(0, 23)));
    store.compact(23).await.unwrap();
    assert_eq!(compare(&store, &moved).await.unwrap(), None);
    moved.lease_grant(100, 5).await.unwrap();
    let found = compare(&store, &moved).await.unwrap();
    assert_eq!(found, Some(Difference::Lease(5)));
    store.lease_grant(200, 5).await.unwrap();
    let found = compare(&store, &moved).await.unwrap();
    assert_eq!(found, Some(Difference::Lease(5)));
    moved.put(PutRequest::new("more", "")).await.unwrap();
    store.put(PutRequest::new("other", "")).await.unwrap();
    let found = compare(&store, &moved).await.unwrap();
    assert_eq!(found, Some(Difference::Key("other".into())));
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_at_the_edges() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("empty"));
    let (seeded_, etcd) = seeded(&store, &dir.path().join("1")).await;
    assert_eq!((seeded_.revision, seeded_.versions), (1, 0));
    assert_eq!(compare(&store, &over(&etcd)).await.unwrap(), None);
    // A revision that no key has: all that was there is deleted and forgotten.
    let store = open(&dir.path().join("gone"));
    store.put(PutRequest::new("k", "v")).await.unwrap();
    let gone = store.delete_range(DeleteRangeRequest::key("k")).await;
    store.compact(gone.unwrap().revision).await.unwrap();
    let (_, etcd) = seeded(&store, &dir.path().join("2")).await;
    let moved = over(&etcd);
    assert_eq!(compare(&store, &moved).await.unwrap(), None);
    assert_eq!(
        moved.put(PutRequest::new("k", "v")).await.unwrap().revision,
        4
    );
    // A store that jumped ahead when it was restored.
    store.hold(false).await.unwrap();
    store.put(PutRequest::new("k", "v")).await.unwrap();
    let snapshot = dir.path().join("snapshot");
    let file = std::fs::File::create(&snapshot).unwrap();
    store.snapshot(Box::new(file)).await.unwrap();
    let target = dir.path().join("jumped");
    EmbeddedStore::restore(&mut std::fs::File::open(&snapshot).unwrap(), &target).unwrap();
    let store = open(&target);
    let (seeded_, etcd) = seeded(&store, &dir.path().join("3")).await;
    assert!(seeded_.revision > 1_000_000_000);
    let moved = over(&etcd);
    assert_eq!(compare(&store, &moved).await.unwrap(), None);
    let next = moved.put(PutRequest::new("k", "w")).await.unwrap().revision;
    assert_eq!(next, seeded_.revision + 1);
}

/// As etcd's own files, these can be changed all over.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_keys() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    for n in 0..1000 {
        let put = |m| {
            TxnOp::Put(PutRequest::new(
                format!("/k/{:06}", n * 100 + m),
                format!("value {n} {m}"),
            ))
        };
        let txn = TxnRequest {
            success: (0..100).map(put).collect(),
            ..Default::default()
        };
        store.txn(txn).await.unwrap();
    }
    let (seeded, mut etcd) = seeded(&store, &dir.path().join("db")).await;
    assert_eq!(seeded.versions, 100_000);
    let moved = over(&etcd);
    assert_eq!(compare(&store, &moved).await.unwrap(), None);
    // Every second hundred goes, and then all that is left but one.
    for n in (0..1000).step_by(2) {
        let gone = DeleteRangeRequest::prefix(format!("/k/{n:04}"));
        assert_eq!(moved.delete_range(gone).await.unwrap().deleted, 100);
    }
    let last = moved.put(PutRequest::new("/k/0001", "x")).await.unwrap();
    moved.compact(last.revision).await.unwrap();
    moved.put(PutRequest::new("/a", "x")).await.unwrap();
    let gone = moved
        .delete_range(DeleteRangeRequest::prefix("/k/"))
        .await
        .unwrap();
    assert_eq!(gone.deleted, 50_001);
    moved.compact(gone.revision).await.unwrap();
    let counted = moved.list("").await.unwrap();
    assert_eq!(counted.count, 1);
    // Its file, with pages that were freed and used again.
    etcd.stop();
    let file = Bolt::open(&etcd.file()).unwrap();
    let keys = file.bucket("key").unwrap().unwrap();
    let keys: Vec<_> = keys.entries().map(|entry| entry.unwrap()).collect();
    assert!(
        keys.iter()
            .any(|(_, value)| value.windows(2).any(|w| w == b"/a"))
    );
    etcd.start();
    assert_eq!(moved.list("").await.unwrap().count, 1);
}

fn save(etcd: &Etcd, to: &Path) {
    let saved = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints={}", etcd.address))
        .args(["snapshot", "save"])
        .arg(to)
        .output()
        .expect("etcdctl, of Debian's package etcd-client");
    assert!(
        saved.status.success(),
        "{}",
        String::from_utf8_lossy(&saved.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_recovered_goes_on_ahead() {
    const AHEAD: Revision = 1_000_000_000;
    let dir = tempfile::tempdir().unwrap();
    let mut etcd = server::etcd().await;
    let store = over(&etcd);
    let lease = store.lease_grant(700, 0).await.unwrap().id;
    for n in 0..200 {
        let put = PutRequest::new(format!("k{}", n % 7), vec![n as u8; n * 50]);
        store.put(put.with_lease(lease)).await.unwrap();
    }
    store.compact(20).await.unwrap();
    let before = store.list("").await.unwrap();
    let path = |name: &str| -> PathBuf { dir.path().join(name) };
    save(&etcd, &path("saved"));
    etcd.stop();
    for (from, compact) in [
        (path("saved"), true),
        (etcd.file(), true),
        (etcd.file(), false),
    ] {
        let to = path(&format!("new-{compact}-{}", from.ends_with("db")));
        let done = recover(&from, &to, AHEAD, compact).unwrap();
        assert_eq!(done.former, before.revision);
        assert_eq!(done.revision, before.revision + AHEAD);
        let again = restored(&to).await;
        let new = over(&again);
        let mut now = new.list("").await.unwrap();
        assert_eq!(now.revision, done.revision);
        let moved = now.kvs.iter().position(|kv| kv.key == "/coracle/v1/moved");
        let moved = now.kvs.remove(moved.unwrap());
        assert_eq!((moved.mod_revision, moved.version), (done.revision, 1));
        assert_eq!(now.kvs, before.kvs);
        assert_eq!(
            new.lease_time_to_live(lease, true)
                .await
                .unwrap()
                .keys
                .len(),
            7
        );
        let old = WatchRequest::prefix("k").from(before.revision);
        let told = new.watch(old).await.unwrap().next().await.unwrap().unwrap();
        let late = new.range(RangeRequest::key("k1").at(before.revision)).await;
        if compact {
            assert_eq!(told.compact_revision, done.revision);
            assert!(
                matches!(late, Err(StoreError::Compacted { .. })),
                "{late:?}"
            );
        } else {
            assert_eq!(told.events[0].kv.mod_revision, before.revision);
            assert_eq!(late.unwrap().kvs.len(), 1);
        }
        let next = new.put(PutRequest::new("k", "v")).await.unwrap().revision;
        assert_eq!(next, done.revision + 1);
        // Once more: the key is there already.
        let twice = path(&format!("twice-{compact}-{}", from.ends_with("db")));
        let done = recover(&to, &twice, 10, compact).unwrap();
        let again = restored(&twice).await;
        let moved = over(&again)
            .get("/coracle/v1/moved")
            .await
            .unwrap()
            .unwrap();
        assert_eq!((moved.mod_revision, moved.version), (done.revision, 2));
    }
    assert!(
        recover(&path("saved"), &path("saved"), 1, true).is_err(),
        "there already"
    );
    std::fs::write(path("other"), "no database").unwrap();
    let refused = recover(&path("other"), &path("x"), 1, true).unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused}");
}
