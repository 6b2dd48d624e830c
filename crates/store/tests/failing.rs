//! What fails for a moment: a read, an opening, a lock. Afterwards the store is as if nothing had been.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coracle_store::*;

/// A store with 200 keys in its database, read past any cache.
async fn filled(dir: &Path) -> (EmbeddedStore, PathBuf) {
    let options = Options {
        cache_bytes: 0,
        ..Options::default()
    };
    let store = EmbeddedStore::open(dir, options).unwrap();
    for n in 0..200 {
        let put = PutRequest::new(format!("k{n:03}"), vec![b'v'; 3000]);
        store.put(put).await.unwrap();
    }
    store.snapshot(Box::new(std::io::sink())).await.unwrap();
    (store, dir.join("store.redb"))
}

/// Reads and writes what lies in the database, until both go well.
async fn comes_back(store: &EmbeddedStore) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let put = PutRequest {
            prev_kv: true,
            ..PutRequest::new("k007", "x")
        };
        let put = store.put(put).await;
        let get = store.get("k005").await;
        if let (Ok(_), Ok(Some(kv))) = (&put, &get) {
            assert_eq!(kv.value.len(), 3000);
            return;
        }
        assert!(Instant::now() < deadline, "{put:?}, {get:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_failed_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, path) = filled(dir.path()).await;
    let whole = std::fs::read(&path).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(4096).unwrap();
    assert!(store.get("k003").await.is_err());
    file.set_len(whole.len() as u64).unwrap();
    file.write_all_at(&whole, 0).unwrap();
    comes_back(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packing_that_could_not_open_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let (store, path) = filled(dir.path()).await;
    let away = dir.path().join("away");
    std::fs::rename(&path, &away).unwrap();
    assert!(store.defragment().await.is_err());
    std::fs::rename(&away, &path).unwrap();
    comes_back(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_a_transaction_that_failed_is_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let (store, path) = filled(dir.path()).await;
    store.put(PutRequest::new("d", "old")).await.unwrap();
    let away = dir.path().join("away");
    // Another has the file's lock while it is opened anew.
    std::fs::rename(&path, &away).unwrap();
    std::fs::copy(&away, &path).unwrap();
    let other = redb::Database::open(&path).unwrap();
    assert!(store.defragment().await.is_err());
    // The first put needs no look into the database, the second one does.
    let _ = store.put(PutRequest::new("d", "before")).await;
    let ask = PutRequest {
        prev_kv: true,
        ..PutRequest::new("k009", "half")
    };
    let txn = TxnRequest {
        success: vec![TxnOp::Put(PutRequest::new("d", "half")), TxnOp::Put(ask)],
        ..Default::default()
    };
    store.txn(txn).await.unwrap_err();
    drop(other);
    std::fs::rename(&away, &path).unwrap();
    comes_back(&store).await;
    for _ in 0..2 {
        assert_ne!(store.get("d").await.unwrap().unwrap().value, "half");
    }
    drop(store);
    let store = EmbeddedStore::open(dir.path(), Options::default()).unwrap();
    assert_ne!(store.get("d").await.unwrap().unwrap().value, "half");
    assert_ne!(store.get("k009").await.unwrap().unwrap().value, "half");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lost_its_database_does_not_begin_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (store, path) = filled(dir.path()).await;
    drop(store);
    std::fs::remove_file(&path).unwrap();
    let error = EmbeddedStore::open(dir.path(), Options::default())
        .err()
        .unwrap();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
}
