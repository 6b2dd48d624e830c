//! Each rule of the store once, by example.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_store::*;

fn open(dir: &Path) -> Arc<dyn Store> {
    open_with(dir, Options::default())
}

fn open_with(dir: &Path, options: Options) -> Arc<dyn Store> {
    Arc::new(EmbeddedStore::open(dir, options).unwrap())
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest::new(key.to_owned(), value.to_owned())
}

#[tokio::test]
async fn revisions_ranges_and_history() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.status().await.unwrap().revision, 1);
    for (n, (key, value)) in [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1")]
        .iter()
        .enumerate()
    {
        assert_eq!(
            store.put(put(key, value)).await.unwrap().revision,
            n as i64 + 2
        );
    }
    let a = store.get("a").await.unwrap().unwrap();
    assert_eq!((a.create_revision, a.mod_revision, a.version), (2, 4, 2));
    let old = store.range(RangeRequest::prefix("").at(3)).await.unwrap();
    let values: Vec<_> = old
        .kvs
        .iter()
        .map(|kv| (&kv.key[..], &kv.value[..]))
        .collect();
    assert_eq!(values, [(&b"a"[..], &b"1"[..]), (b"b", b"1")]);
    assert_eq!(old.revision, 5);
    let two = store
        .range(RangeRequest {
            limit: 2,
            ..RangeRequest::prefix("")
        })
        .await
        .unwrap();
    assert_eq!((two.kvs.len(), two.more, two.count), (2, true, 3));
    let sorted = RangeRequest {
        sort_target: SortTarget::Mod,
        sort_order: SortOrder::Descend,
        keys_only: true,
        ..RangeRequest::prefix("")
    };
    let keys: Vec<_> = store.range(sorted).await.unwrap().kvs;
    assert_eq!(
        keys.iter().map(|kv| &kv.key[..]).collect::<Vec<_>>(),
        [b"c", b"a", b"b"]
    );
    assert!(keys.iter().all(|kv| kv.value.is_empty()));
    // Many versions of one key make the walk jump.
    for n in 0..40 {
        store.put(put("b", &n.to_string())).await.unwrap();
    }
    let all = store.range(RangeRequest::prefix("")).await.unwrap();
    assert_eq!((all.count, &all.kvs[1].value[..]), (3, &b"39"[..]));
    let none = DeleteRangeRequest::key("nothing");
    assert_eq!(
        store.delete_range(none).await.unwrap().revision,
        all.revision
    );
    let gone = store
        .delete_range(DeleteRangeRequest::prefix(""))
        .await
        .unwrap();
    assert_eq!((gone.deleted, gone.revision), (3, all.revision + 1));
}

#[tokio::test]
async fn refusals_have_etcds_texts_and_leave_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let text = |e: StoreError| e.etcd_text();
    let error = store.put(put("", "")).await.unwrap_err();
    assert_eq!(text(error), "etcdserver: key is not provided");
    let error = store.put(put("a", "1").with_lease(7)).await.unwrap_err();
    assert_eq!(text(error), "etcdserver: requested lease not found");
    let error = store
        .put(PutRequest {
            ignore_value: true,
            ..put("a", "")
        })
        .await
        .unwrap_err();
    assert_eq!(text(error), "etcdserver: key not found");
    let error = store.range(RangeRequest::key("a").at(9)).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange);
    let twice = vec![
        TxnOp::Put(put("a", "1")),
        TxnOp::Delete(DeleteRangeRequest::prefix("a")),
    ];
    let txn = TxnRequest {
        success: twice,
        ..Default::default()
    };
    let error = store.txn(txn).await.unwrap_err();
    assert_eq!(
        text(error),
        "etcdserver: duplicate key given in txn request"
    );
    let late = vec![
        TxnOp::Put(put("a", "1")),
        TxnOp::Put(put("b", "1").with_lease(7)),
    ];
    let txn = TxnRequest {
        success: late,
        ..Default::default()
    };
    assert!(matches!(
        store.txn(txn).await,
        Err(StoreError::LeaseNotFound(7))
    ));
    let many = (0..129)
        .map(|n| TxnOp::Put(put(&n.to_string(), "")))
        .collect();
    let txn = TxnRequest {
        success: many,
        ..Default::default()
    };
    assert!(matches!(
        store.txn(txn).await,
        Err(StoreError::TooManyOps {
            count: 129,
            max: 128
        })
    ));
    let error = store
        .put(PutRequest::new("a", vec![0; 2 << 20]))
        .await
        .unwrap_err();
    assert_eq!(text(error), "etcdserver: request is too large");
    assert_eq!(store.status().await.unwrap().revision, 1);
}

#[tokio::test]
async fn transactions_nest_and_see_their_own_writes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (done, revision) = store.create(put("a", "1")).await.unwrap();
    assert!(done);
    assert!(!store.create(put("a", "2")).await.unwrap().0);
    assert!(store.replace(put("a", "2"), revision).await.unwrap().0);
    let inner = TxnRequest {
        compare: vec![Compare::new(
            "a",
            CompareResult::Equal,
            CompareTarget::Value("2".into()),
        )],
        success: vec![TxnOp::Put(put("c", "1"))],
        failure: vec![TxnOp::Put(put("c", "2"))],
    };
    let outer = TxnRequest {
        compare: vec![Compare {
            range_end: prefix_end(b"a"),
            ..Compare::new("a", CompareResult::Greater, CompareTarget::Version(0))
        }],
        success: vec![
            TxnOp::Put(put("b", "1")),
            TxnOp::Range(RangeRequest::prefix("")),
            TxnOp::Txn(inner),
        ],
        failure: vec![],
    };
    let answer = store.txn(outer).await.unwrap();
    assert!(answer.succeeded);
    assert_eq!(answer.revision, 4);
    assert!(matches!(&answer.responses[1], TxnOpResponse::Range(r) if r.count == 2));
    assert_eq!(store.get("c").await.unwrap().unwrap().value, "1");
    // An absent key fails every value compare.
    let value = Compare::new(
        "x",
        CompareResult::NotEqual,
        CompareTarget::Value("1".into()),
    );
    let txn = TxnRequest {
        compare: vec![value],
        ..Default::default()
    };
    assert!(!store.txn(txn).await.unwrap().succeeded);
}

#[tokio::test]
async fn watches_go_on_from_history_or_say_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut live = store.watch(WatchRequest::prefix("a")).await.unwrap();
    let mut still = store
        .watch(WatchRequest::key("quiet").from(1))
        .await
        .unwrap();
    for n in 0..5 {
        store.put(put("a", &n.to_string())).await.unwrap();
        store.put(put("b", "x")).await.unwrap();
    }
    store
        .delete_range(DeleteRangeRequest::key("a"))
        .await
        .unwrap();
    let told = live.next().await.unwrap().unwrap();
    assert_eq!(told.events.len(), 6);
    assert_eq!(told.events[5].kind, EventKind::Delete);
    let mut late = store
        .watch(WatchRequest {
            prev_kv: true,
            no_put: true,
            ..WatchRequest::key("a").from(2)
        })
        .await
        .unwrap();
    let told = late.next().await.unwrap().unwrap();
    assert_eq!(told.events[0].prev_kv.as_ref().unwrap().value, "4");
    store.compact(12).await.unwrap();
    assert!(matches!(
        store.compact(12).await,
        Err(StoreError::Compacted { compacted: 12, .. })
    ));
    let old = store.range(RangeRequest::key("a").at(11)).await;
    assert!(matches!(
        old,
        Err(StoreError::Compacted {
            requested: 11,
            compacted: 12
        })
    ));
    let mut old = store.watch(WatchRequest::key("a").from(3)).await.unwrap();
    let told = old.next().await.unwrap().unwrap();
    assert_eq!((told.compact_revision, told.canceled), (12, true));
    assert!(old.next().await.is_none());
    let mut edge = store.watch(WatchRequest::key("a").from(12)).await.unwrap();
    assert_eq!(
        edge.next().await.unwrap().unwrap().events[0].kind,
        EventKind::Delete
    );
    // It had not looked at its history before that was compacted.
    assert_eq!(still.next().await.unwrap().unwrap().compact_revision, 12);
    // One that is in step and whose key does not change does not mind.
    store.put(put("b", "y")).await.unwrap();
    store.put(put("b", "z")).await.unwrap();
    store.compact(14).await.unwrap();
    store.put(put("a", "1")).await.unwrap();
    let told = edge.next().await.unwrap().unwrap();
    assert_eq!(
        (told.events[0].kv.mod_revision, told.compact_revision),
        (15, 0)
    );
    edge.handle().request_progress();
    let told = edge.next().await.unwrap().unwrap();
    assert_eq!((told.events.len(), told.revision), (0, 15));
    edge.handle().cancel();
    assert!(edge.next().await.unwrap().unwrap().canceled);
}

#[tokio::test]
async fn a_slow_watch_catches_up_in_chunks_of_whole_revisions() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut watch = store.watch(WatchRequest::prefix("k")).await.unwrap();
    for round in 0..30 {
        let puts = (0..100).map(|n| TxnOp::Put(put(&format!("k{n:03}"), &round.to_string())));
        let txn = TxnRequest {
            success: puts.collect(),
            ..Default::default()
        };
        store.txn(txn).await.unwrap();
    }
    let (mut revision, mut answers) = (1, 0);
    while revision < 31 {
        let told = watch.next().await.unwrap().unwrap();
        for events in told.events.chunks(100) {
            revision += 1;
            assert_eq!(events.len(), 100);
            assert!(events.iter().all(|event| event.kv.mod_revision == revision));
            assert!(events.is_sorted_by_key(|event| &event.kv.key));
        }
        assert_eq!(told.revision, revision);
        answers += 1;
    }
    assert!(answers > 1);
}

#[tokio::test]
async fn leases_take_their_keys_along_and_survive_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let long = store.lease_grant(100, 77).await.unwrap();
    assert_eq!((long.id, long.ttl), (77, 100));
    assert!(matches!(
        store.lease_grant(5, 77).await,
        Err(StoreError::LeaseExists(77))
    ));
    let short = store.lease_grant(1, 0).await.unwrap();
    store.put(put("l/1", "x").with_lease(77)).await.unwrap();
    store.put(put("l/2", "x").with_lease(77)).await.unwrap();
    store.put(put("s", "x").with_lease(short.id)).await.unwrap();
    // Another put without the lease frees the key of it.
    store.put(put("l/2", "y")).await.unwrap();
    drop(store);
    let store = open(dir.path());
    let left = store.lease_time_to_live(77, true).await.unwrap();
    assert_eq!((left.ttl, left.granted_ttl, left.keys.len()), (100, 100, 1));
    assert_eq!(store.lease_keep_alive(77).await.unwrap().ttl, 100);
    let deadline = Instant::now() + Duration::from_secs(30);
    while store.get("s").await.unwrap().is_some() {
        assert!(Instant::now() < deadline, "the lease never expired");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(store.lease_keep_alive(short.id).await.is_err());
    let before = store.status().await.unwrap().revision;
    assert_eq!(store.lease_revoke(77).await.unwrap().revision, before + 1);
    assert!(store.get("l/1").await.unwrap().is_none());
    assert!(store.get("l/2").await.unwrap().is_some());
    assert!(store.leases().await.unwrap().ids.is_empty());
}

#[tokio::test]
async fn a_second_daemon_is_refused_by_name_of_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let error = EmbeddedStore::open(dir.path(), Options::default())
        .err()
        .unwrap();
    assert!(matches!(error, StoreError::Locked { .. }));
    assert!(error.to_string().contains(&*dir.path().to_string_lossy()));
    // A watch left over does not keep the directory locked.
    let mut watch = store.watch(WatchRequest::key("a")).await.unwrap();
    drop(store);
    assert!(watch.next().await.is_none());
    open(dir.path());
}

#[tokio::test]
async fn a_snapshot_restores_elsewhere() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(dir.path());
    store.put_json("a", &vec![1, 2]).await.unwrap();
    let copy = other.path().join("copy");
    let file = std::fs::File::create(&copy).unwrap();
    assert_eq!(store.snapshot(Box::new(file)).await.unwrap(), 2);
    let target = other.path().join("store");
    let mut copy = std::fs::File::open(&copy).unwrap();
    let restored = EmbeddedStore::restore(&mut copy, &target).unwrap();
    assert_eq!((restored.previous, restored.aside), (None, None));
    let (value, revision) = open(&target)
        .get_json::<Vec<i32>>("a")
        .await
        .unwrap()
        .unwrap();
    assert_eq!((value, revision), (vec![1, 2], 2));
    let error = store.get_json::<String>("a").await.unwrap_err();
    assert!(error.to_string().contains("\"a\""), "{error}");
}

fn edit(dir: &Path, format: &[u8], longer_header: bool) {
    use redb::{ReadableTable, TableDefinition};
    const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
    const VERSIONS: TableDefinition<(&[u8], i64), &[u8]> = TableDefinition::new("versions");
    const NEW: TableDefinition<&str, &str> = TableDefinition::new("of the next release");
    let database = redb::Database::create(dir.join("store.redb")).unwrap();
    let txn = database.begin_write().unwrap();
    {
        txn.open_table(META)
            .unwrap()
            .insert("format", format)
            .unwrap();
        txn.open_table(NEW).unwrap().insert("x", "y").unwrap();
        if longer_header {
            let mut versions = txn.open_table(VERSIONS).unwrap();
            let old = versions
                .get((&b"a"[..], 2))
                .unwrap()
                .unwrap()
                .value()
                .to_vec();
            let header = usize::from(old[0]);
            let mut new = vec![old[0] + 4];
            new.extend_from_slice(&old[1..=header]);
            new.extend_from_slice(b"more");
            new.extend_from_slice(&old[header + 1..]);
            versions.insert((&b"a"[..], 2), &new[..]).unwrap();
        }
    }
    txn.commit().unwrap();
}

#[tokio::test]
async fn the_next_releases_additions_are_read_and_a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.put(put("a", "1")).await.unwrap();
    // From the log to the database.
    store.defragment().await.unwrap();
    drop(store);
    edit(dir.path(), br#"{"version":2,"compressed":false}"#, true);
    let store = open(dir.path());
    assert_eq!(store.get("a").await.unwrap().unwrap().value, "1");
    drop(store);
    edit(dir.path(), br#"{"version":3}"#, false);
    let error = EmbeddedStore::open(dir.path(), Options::default())
        .err()
        .unwrap();
    assert!(matches!(
        error,
        StoreError::UnknownFormat {
            found: 3,
            known: 2,
            ..
        }
    ));
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("store.redb"), vec![7; 100_000]).unwrap();
    let error = EmbeddedStore::open(dir.path(), Options::default())
        .err()
        .unwrap();
    assert!(error.to_string().contains("store.redb"), "{error}");
}
