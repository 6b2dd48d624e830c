//! What is shown of a store to apps: all that is theirs, as a store of its own would show it, and nothing else.
//!
//! `CORACLE_ROUNDS` says how many sequences of random requests are run.
#![allow(clippy::unwrap_used)]

mod common;
mod scope {
    pub mod ops;
    pub mod run;
}

use std::sync::Arc;
use std::time::Instant;

use coracle_gateway::{Scope, Scoped};
use coracle_store::*;
use proptest::test_runner::TestCaseError;
use scope::ops::{Op, sequence};
use scope::run::Pair;

/// Random requests to a scoped store, in which the machine writes too, and to one that has the app's keys only: the same answers, and
/// afterwards the machine's are as it wrote them.
fn alike(offset: i64) {
    let cases = std::env::var("CORACLE_ROUNDS").map_or(100, |n| n.parse().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let differ = async |ops: &[Op]| {
        let mut pair = Pair::new(offset).await;
        for op in ops {
            pair.run(op).await?;
        }
        pair.finish().await
    };
    let ran = common::runner(cases).run(&sequence(), |ops| {
        runtime.block_on(differ(&ops)).map_err(TestCaseError::fail)
    });
    if let Err(error) = ran {
        panic!("{error}");
    }
}

#[test]
fn an_app_sees_its_own_and_nothing_else() {
    alike(0);
}

#[test]
fn the_same_after_a_move() {
    alike(1_000_000);
}

/// A store, and what apps are shown of it; the store goes first.
struct Shown {
    scoped: Scoped,
    outer: Arc<EmbeddedStore>,
    _dir: tempfile::TempDir,
}

fn shown(offset: i64, quota_bytes: u64) -> Shown {
    let dir = tempfile::tempdir().unwrap();
    let outer = Arc::new(EmbeddedStore::open(dir.path(), Options::default()).unwrap());
    let scope = Scope {
        offset,
        quota_bytes,
        ..common::scope()
    };
    Shown {
        scoped: Scoped::new(outer.clone(), scope),
        outer,
        _dir: dir,
    }
}

/// As the store has an app's key.
fn inner(key: &str) -> String {
    format!("{}{key}", std::str::from_utf8(common::APPS).unwrap())
}

async fn keys(store: &dyn Store) -> Vec<String> {
    let found = store.range(RangeRequest::prefix("")).await.unwrap();
    let text = |kv: KeyValue| String::from_utf8(kv.key.to_vec()).unwrap();
    found.kvs.into_iter().map(text).collect()
}

fn delete(key: &str, end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        prev_kv: true,
    }
}

#[tokio::test]
async fn discovery_is_for_reading() {
    let Shown { scoped, outer, .. } = &shown(0, 64 << 20);
    let own = own_lease();
    outer.lease_grant(1000, own).await.unwrap();
    let addresses = ["/discovery/web/1", "/discovery/web/2"];
    for key in addresses {
        let put = PutRequest::new(inner(key), "10.0.0.1").with_lease(own);
        outer.put(put).await.unwrap();
    }
    let before = outer.list(inner("/discovery/")).await.unwrap().kvs;
    // It is seen and watched, but not whose lease it has.
    let mut watch = scoped
        .watch(WatchRequest::prefix("/discovery/").from(2))
        .await
        .unwrap();
    let event = watch.next().await.unwrap().unwrap().events.remove(0);
    assert_eq!(
        (&event.kv.key[..], event.kv.lease),
        (addresses[0].as_bytes(), 0)
    );
    for kv in scoped.list("/discovery/").await.unwrap().kvs {
        assert_eq!((&kv.value[..], kv.lease), (&b"10.0.0.1"[..], 0));
    }
    // Puts, deletions and transactions with one of them are refused whole.
    let read_only = |error: StoreError| matches!(error, StoreError::ReadOnly(_));
    for key in ["/discovery/", "/discovery/web/1", "/discovery/new"] {
        let put = PutRequest::new(key, "x");
        assert!(
            read_only(scoped.put(put.clone()).await.unwrap_err()),
            "{key}"
        );
        let gone = scoped.delete_range(delete(key, "")).await;
        assert!(read_only(gone.unwrap_err()), "{key}");
        let nested = TxnRequest {
            success: vec![TxnOp::Put(put)],
            ..Default::default()
        };
        let txn = TxnRequest {
            success: vec![TxnOp::Put(PutRequest::new("a", "1")), TxnOp::Txn(nested)],
            ..Default::default()
        };
        assert!(read_only(scoped.txn(txn).await.unwrap_err()), "{key}");
    }
    for (key, end) in [
        ("/discovery/", "/discovery0"),
        ("/discovery/a", "/discovery/z"),
        ("/discovery/web/1", "/discovery/web/2"),
    ] {
        let gone = scoped.delete_range(delete(key, end)).await;
        assert!(read_only(gone.unwrap_err()), "{key} to {end}");
    }
    // A deletion of more than it spares it: alone and in a transaction.
    let others = ["a", "/discovery", "/discovery0", "z"];
    for (key, end, spared) in [
        ("\0", "\0", &[][..]),
        ("/", "\0", &[]),
        ("/discovery", "/discovery0", &["/discovery0", "a", "z"]),
        ("/discovery/web/1", "\0", &["/discovery"]),
        ("/discovery/x", "b", &["/discovery", "z"]),
        (
            "/discovery/web/1",
            "/discovery0\0",
            &["/discovery", "a", "z"],
        ),
        ("/discovery", "/discovery/web/2", &["/discovery0", "a", "z"]),
    ] {
        for in_txn in [false, true] {
            for key in others {
                scoped.put(PutRequest::new(key, "1")).await.unwrap();
            }
            let done = if in_txn {
                let success = vec![TxnOp::Delete(delete(key, end))];
                let txn = TxnRequest {
                    success,
                    ..Default::default()
                };
                let mut done = scoped.txn(txn).await.unwrap();
                let Some(TxnOpResponse::Delete(done)) = done.responses.pop() else {
                    panic!("{done:?}");
                };
                done
            } else {
                scoped.delete_range(delete(key, end)).await.unwrap()
            };
            let gone = others.len() - spared.len();
            assert_eq!(
                (done.deleted, done.prev_kvs.len()),
                (gone as i64, gone),
                "{key} to {end}"
            );
            assert!(done.prev_kvs.is_sorted_by_key(|kv| kv.key.clone()));
            let mut left = [spared, &addresses].concat();
            left.sort();
            assert_eq!(keys(scoped).await, left, "{key} to {end}");
        }
    }
    assert_eq!(outer.list(inner("/discovery/")).await.unwrap().kvs, before);
}

#[tokio::test]
async fn the_machines_leases_are_not_there() {
    let Shown { scoped, outer, .. } = &shown(0, 64 << 20);
    let own = own_lease();
    outer.lease_grant(1000, own).await.unwrap();
    outer
        .put(PutRequest::new("unit", "x").with_lease(own))
        .await
        .unwrap();
    let not_there =
        |error: StoreError| assert!(matches!(error, StoreError::LeaseNotFound(id) if id == own));
    not_there(scoped.lease_revoke(own).await.unwrap_err());
    not_there(scoped.lease_keep_alive(own).await.unwrap_err());
    not_there(scoped.lease_time_to_live(own, true).await.unwrap_err());
    let put = PutRequest::new("a", "1").with_lease(own);
    not_there(scoped.put(put.clone()).await.unwrap_err());
    let txn = TxnRequest {
        success: vec![TxnOp::Put(put)],
        ..Default::default()
    };
    not_there(scoped.txn(txn).await.unwrap_err());
    let taken = scoped.lease_grant(100, own).await.unwrap_err();
    assert!(matches!(taken, StoreError::LeaseExists(id) if id == own));
    for _ in 0..100 {
        let granted = scoped.lease_grant(100, 0).await.unwrap();
        assert!(granted.id > 0 && !is_own_lease(granted.id), "{granted:?}");
    }
    let found = scoped.leases().await.unwrap().ids;
    assert!(found.len() == 100 && !found.contains(&own));
    assert_eq!(scoped.status().await.unwrap().leases, 100);
    // A key of the machine's under an app's lease is not named to the app.
    outer
        .put(PutRequest::new("other", "x").with_lease(found[0]))
        .await
        .unwrap();
    scoped
        .put(PutRequest::new("a", "1").with_lease(found[0]))
        .await
        .unwrap();
    let told = scoped.lease_time_to_live(found[0], true).await.unwrap();
    assert_eq!(told.keys, ["a"]);
    assert_eq!(
        outer.lease_time_to_live(own, true).await.unwrap().keys,
        ["unit"]
    );
}

/// Revisions answered are the store's and the offset; what was before is compacted.
#[tokio::test]
async fn revisions_go_on_after_a_move() {
    const MOVED: i64 = 5000;
    let Shown { scoped, outer, .. } = &shown(MOVED, 64 << 20);
    assert_eq!(scoped.status().await.unwrap().compact_revision, MOVED + 1);
    let put = scoped.put(PutRequest::new("a", "1")).await.unwrap();
    assert_eq!(put.revision, MOVED + outer.status().await.unwrap().revision);
    let kv = scoped.get("a").await.unwrap().unwrap();
    assert_eq!(
        (kv.create_revision, kv.mod_revision),
        (put.revision, put.revision)
    );
    let stored = outer.get(inner("a")).await.unwrap().unwrap();
    assert_eq!(stored.mod_revision + MOVED, kv.mod_revision);

    let compacted = |error: StoreError| match error {
        StoreError::Compacted { compacted, .. } => assert_eq!(compacted, MOVED + 1),
        other => panic!("{other:?}"),
    };
    for revision in [1, 2, MOVED - 1, MOVED] {
        compacted(
            scoped
                .range(RangeRequest::key("a").at(revision))
                .await
                .unwrap_err(),
        );
        compacted(scoped.compact(revision).await.unwrap_err());
        compacted(scoped.hash(revision).await.unwrap_err());
        let mut watch = scoped
            .watch(WatchRequest::key("a").from(revision))
            .await
            .unwrap();
        let told = watch.next().await.unwrap().unwrap();
        assert!(
            told.canceled && told.compact_revision == MOVED + 1,
            "{told:?}"
        );
        assert!(watch.next().await.is_none());
        // A key changed before the move is one that has changed since.
        let txn = TxnRequest {
            compare: vec![Compare::unchanged("a", revision)],
            ..Default::default()
        };
        assert!(!scoped.txn(txn).await.unwrap().succeeded);
    }
    // The first one after it is the empty store's.
    let first = scoped
        .range(RangeRequest::key("a").at(MOVED + 1))
        .await
        .unwrap();
    assert_eq!((first.count, first.revision), (0, put.revision));
    for ahead in [put.revision + 1, i64::MAX] {
        let future = scoped.range(RangeRequest::key("a").at(ahead)).await;
        assert!(
            matches!(future, Err(StoreError::FutureRevision { requested, current }) if requested == ahead && current == put.revision),
            "{future:?}"
        );
    }
    let mut watch = scoped
        .watch(WatchRequest::key("a").from(MOVED + 1))
        .await
        .unwrap();
    let told = watch.next().await.unwrap().unwrap();
    assert_eq!(
        (told.revision, told.events[0].kv.mod_revision),
        (put.revision, put.revision)
    );
}

#[tokio::test]
async fn the_apps_share_is_not_the_stores() {
    const QUOTA: u64 = 400 << 10;
    let Shown { scoped, outer, .. } = &shown(0, QUOTA);
    let value = "x".repeat(10 << 10);
    let full = |error: &StoreError| {
        matches!(error, StoreError::NoSpace { .. })
            && error.etcd_text() == "etcdserver: mvcc: database space exceeded"
    };
    let mut count = 0;
    let refused = loop {
        let put = PutRequest::new(format!("key{count}"), value.clone());
        match scoped.put(put).await {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
        assert!(count < 100, "no end of puts");
    };
    assert!(full(&refused) && count > 30, "after {count}: {refused}");
    assert!(outer.status().await.unwrap().bytes_in_use <= QUOTA);
    // Neither in a transaction nor over what is there.
    let again = PutRequest::new("key0", value.clone());
    let txn = TxnRequest {
        success: vec![TxnOp::Put(again.clone())],
        ..Default::default()
    };
    assert!(full(&scoped.put(again).await.unwrap_err()));
    assert!(full(&scoped.txn(txn).await.unwrap_err()));
    // The machine's go on, the app's reads and deletions too.
    for n in 0..20 {
        let put = PutRequest::new(format!("unit{n}"), value.clone());
        outer.put(put).await.unwrap();
    }
    assert!(scoped.status().await.unwrap().no_space);
    assert!(!outer.status().await.unwrap().no_space);
    assert_eq!(scoped.list("").await.unwrap().count, count);
    let gone = scoped
        .delete_range(DeleteRangeRequest::prefix("key"))
        .await
        .unwrap();
    assert_eq!(gone.deleted, count);
    // Until it is compacted the past takes its room.
    assert!(full(
        &scoped
            .put(PutRequest::new("key", value.clone()))
            .await
            .unwrap_err()
    ));
    scoped.compact(gone.revision).await.unwrap();
    let deadline = Instant::now() + common::PATIENCE;
    while let Err(error) = scoped.put(PutRequest::new("key", value.clone())).await {
        assert!(full(&error) && Instant::now() < deadline, "{error}");
        tokio::task::yield_now().await;
    }
    assert!(!scoped.status().await.unwrap().no_space);
}
