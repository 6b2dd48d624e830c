//! The quota, what history costs, and forgetting it.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use coracle_store::*;

fn open(dir: &Path, options: Options) -> EmbeddedStore {
    EmbeddedStore::open(dir, options).unwrap()
}

#[tokio::test]
async fn the_quota_refuses_puts_and_deletes_make_room() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        quota_bytes: 200 << 10,
        keep_revisions: 10,
        ..Options::default()
    };
    let store = open(dir.path(), options);
    let mut stored = 0;
    let error = loop {
        match store
            .put(PutRequest::new(format!("k{stored:03}"), vec![b'v'; 4096]))
            .await
        {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 100, "the quota does not hold");
    };
    assert_eq!(
        error.etcd_text(),
        "etcdserver: mvcc: database space exceeded"
    );
    assert!(store.get("k000").await.unwrap().is_some());
    let gone = store
        .delete_range(DeleteRangeRequest::prefix("k"))
        .await
        .unwrap();
    assert_eq!(gone.deleted, stored);
    store.compact(gone.revision).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while store
        .put(PutRequest::new("again", vec![b'v'; 4096]))
        .await
        .is_err()
    {
        assert!(Instant::now() < deadline, "compaction gave nothing back");
    }
}

#[tokio::test]
async fn history_is_forgotten_by_its_age() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        keep_revisions: 0,
        keep_for: Some(Duration::from_millis(300)),
        ..Options::default()
    };
    let store = open(dir.path(), options);
    let first = store.put(PutRequest::new("k", "1")).await.unwrap().revision;
    store.put(PutRequest::new("k", "2")).await.unwrap();
    let last = store.put(PutRequest::new("k", "3")).await.unwrap().revision;
    let deadline = Instant::now() + Duration::from_secs(30);
    // Without another write, too.
    while store.status().await.unwrap().compact_revision < last {
        assert!(Instant::now() < deadline, "nothing was forgotten");
        tokio::task::yield_now().await;
    }
    let old = RangeRequest {
        revision: first,
        ..RangeRequest::key("k")
    };
    let error = store.range(old).await.unwrap_err();
    assert!(matches!(error, StoreError::Compacted { .. }), "{error:?}");
    assert_eq!(store.get("k").await.unwrap().unwrap().value, "3");
}

#[tokio::test]
async fn history_is_compacted_by_itself_and_space_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        keep_revisions: 100,
        ..Options::default()
    };
    let store = open(dir.path(), options);
    for n in 0..2000 {
        let key = format!("k{}", n % 7);
        store
            .put(PutRequest::new(key, vec![b'v'; 2000]))
            .await
            .unwrap();
    }
    let status = store.status().await.unwrap();
    assert!(
        status.compact_revision >= status.revision - 201,
        "{status:?}"
    );
    assert!(status.bytes_in_use < 1 << 20, "{status:?}");
    store.defragment().await.unwrap();
    assert!(store.status().await.unwrap().bytes_on_disk <= status.bytes_on_disk);
    assert_eq!(store.list("k").await.unwrap().count, 7);
    let watch = WatchRequest::prefix("k").from(status.compact_revision);
    let mut watch = store.watch(watch).await.unwrap();
    assert!(watch.next().await.unwrap().unwrap().events.len() > 50);
}
