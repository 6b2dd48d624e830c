//! What apps may not do, and what everybody sees when the apps' share is used up; with etcdctl and curl's paths.
#![allow(clippy::unwrap_used)]

mod common;

use common::etcdctl;
use coracle_gateway::{Role, Scope, Scoped};
use coracle_store::{
    DeleteRangeRequest, EtcdOptions, EtcdStore, Options, PutRequest, Store as _, StoreError,
    StoreExt as _, TxnOp, TxnRequest,
};
use std::sync::Arc;

#[tokio::test]
async fn an_app_may_not_look_after_the_store() {
    let ours = common::ours(Role::App).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("snapshot");
    for n in ["1", "2", "3"] {
        let (well, text) = etcdctl(ours.address, &["put", "a", n]).await;
        assert!(well, "{text}");
    }
    for words in [
        &["compaction", "3"][..],
        &["defrag"],
        &["endpoint", "hashkv"],
        &["snapshot", "save", file.to_str().unwrap()],
        &["member", "add", "x", "--peer-urls=http://127.0.0.1:1"],
        &["member", "remove", "8"],
        &["member", "update", "8", "--peer-urls=http://127.0.0.1:1"],
    ] {
        let (well, text) = etcdctl(ours.address, words).await;
        let is_refused = !well && text.contains("etcdserver: permission denied: ");
        assert!(is_refused, "etcdctl {words:?}: {text}");
    }
    assert!(!file.exists());
    // Nothing of it was done, and the rest is open.
    let (well, text) = etcdctl(ours.address, &["get", "a", "--rev=2"]).await;
    assert!(well && text == "a\n1\n", "{text}");
    for words in [
        &["endpoint", "status"][..],
        &["endpoint", "health"],
        &["member", "list"],
        &["alarm", "list"],
        &["user", "list"],
        &["lock", "jobs", "true"],
    ] {
        let (well, text) = etcdctl(ours.address, words).await;
        assert!(well, "etcdctl {words:?}: {text}");
    }
}

/// The status line and body of a page.
async fn page(address: std::net::SocketAddr, path: &str) -> (String, String) {
    let output = tokio::process::Command::new("curl")
        .args([
            "--silent",
            "--noproxy",
            "*",
            "--write-out",
            "\n%{http_code}",
        ])
        .arg(format!("http://{address}{path}"))
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, code) = text.rsplit_once('\n').unwrap();
    (code.to_owned(), body.to_owned())
}

#[tokio::test]
async fn a_share_that_is_used_up_is_an_alarm() {
    let scope = Scope {
        quota_bytes: 300 << 10,
        ..common::scope()
    };
    let ours = common::ours_with(Role::Operator, scope, Options::default()).await;
    let address = ours.address;
    assert_eq!(
        etcdctl(address, &["alarm", "list"]).await,
        (true, String::new())
    );
    // The machine's own keys count too.
    for n in 0..40 {
        let put = PutRequest::new(format!("unit{n}"), vec![b'x'; 10 << 10]);
        ours.store.put(put).await.unwrap();
    }
    let (well, text) = etcdctl(address, &["put", "a", "1"]).await;
    let expected = "etcdserver: mvcc: database space exceeded";
    assert!(!well && text.contains(expected), "{text}");
    let (well, text) = etcdctl(address, &["lease", "grant", "100"]).await;
    assert!(!well && text.contains(expected), "{text}");
    let alarm = "memberID:8 alarm:NOSPACE";
    let (well, text) = etcdctl(address, &["alarm", "list"]).await;
    assert!(well && text.trim_end() == alarm, "{text}");
    let (_, text) = etcdctl(address, &["endpoint", "status"]).await;
    assert!(text.contains(alarm), "{text}");
    let (code, text) = page(address, "/health").await;
    assert!(
        code == "503" && text.contains("ALARM NOSPACE"),
        "{code} {text}"
    );
    let (_, text) = page(address, "/metrics").await;
    assert!(text.contains("\ncoracle_store_no_space 1\n"), "{text}");
    // It goes by itself with its cause: nothing is to be disarmed.
    let gone = coracle_store::DeleteRangeRequest::prefix("unit");
    let gone = ours.store.delete_range(gone).await.unwrap();
    ours.store.compact(gone.revision).await.unwrap();
    let deadline = std::time::Instant::now() + common::PATIENCE;
    while page(address, "/health").await.0 != "200" {
        assert!(std::time::Instant::now() < deadline, "the alarm stays");
    }
    assert_eq!(
        etcdctl(address, &["alarm", "list"]).await,
        (true, String::new())
    );
    let (well, text) = etcdctl(address, &["put", "a", "1"]).await;
    assert!(well, "{text}");
    assert!(ours.store.get("unit1").await.unwrap().is_none());
}

#[tokio::test]
async fn a_deletion_around_the_machines_keys_is_held_against_puts_over_etcd_too() {
    let etcd = common::etcd().await;
    let store = EtcdStore::new(EtcdOptions::new([etcd.url()])).unwrap();
    let app = Scoped::new(Arc::new(store), common::scope());
    let txn = |end: &'static str| {
        let put = TxnRequest {
            success: vec![TxnOp::Put(PutRequest::new("a", "x"))],
            ..Default::default()
        };
        let around = DeleteRangeRequest {
            key: "\0".into(),
            range_end: end.into(),
            prev_kv: false,
        };
        TxnRequest {
            success: vec![TxnOp::Txn(put), TxnOp::Delete(around)],
            ..Default::default()
        }
    };
    // From before `/discovery/` to after it, which becomes two deletions: with `a`, and up to before it.
    let error = app.txn(txn("b")).await.unwrap_err();
    assert!(matches!(error, StoreError::DuplicateKey(_)), "{error:?}");
    let done = app.txn(txn("0")).await.unwrap();
    assert_eq!(done.responses.len(), 2);
    assert_eq!(app.get("a").await.unwrap().unwrap().value, "x");
}
