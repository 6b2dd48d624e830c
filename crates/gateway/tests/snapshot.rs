//! A snapshot through the API, taken by Debian's etcdctl: the database, then its SHA-256, restorable.
#![allow(clippy::unwrap_used)]

mod common;

use common::{etcdctl, ours};
use coracle_gateway::Role;
use coracle_store::{EmbeddedStore, Options, PutRequest, StoreExt as _};
use sha2::{Digest as _, Sha256};

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_ends_with_its_checksum() {
    let ours = ours(Role::Operator).await;
    // More than one piece.
    let value = vec![b'v'; 100_000];
    let put = PutRequest::new("/coracle/v1/apps/a", value.clone());
    ours.store.put(put).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("snapshot");
    let words = ["snapshot", "save", file.to_str().unwrap()];
    let (ok, said) = etcdctl(ours.address, &words).await;
    assert!(ok, "{said}");
    let bytes = std::fs::read(&file).unwrap();
    // By this etcd's tools tell a file with a checksum from one without.
    assert_eq!(bytes.len() % 512, 32);
    let (database, sum) = bytes.split_at(bytes.len() - 32);
    assert_eq!(sum, &Sha256::digest(database)[..]);
    let at = dir.path().join("store");
    EmbeddedStore::restore(&mut &*database, &at).unwrap();
    let store = EmbeddedStore::open(&at, Options::default()).unwrap();
    let found = store.get("/coracle/v1/apps/a").await.unwrap().unwrap();
    assert_eq!(found.value, value);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_gets_none() {
    let ours = ours(Role::App).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("snapshot");
    let words = ["snapshot", "save", file.to_str().unwrap()];
    let (ok, said) = etcdctl(ours.address, &words).await;
    assert!(!ok && said.contains("permission denied"), "{said}");
}
