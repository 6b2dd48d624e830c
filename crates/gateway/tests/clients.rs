//! Client libraries of three languages, unchanged but for the address: keys, transactions, watches, leases, locks, elections.
//! Each runs against the real etcd too, so that what they expect is what etcd does.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use coracle_gateway::Role;
use etcd_client::*;
use tokio::process::Command;

fn scenario(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(name)
}

/// Runs a scenario to its end; a library that waits for ever is ended.
async fn run(command: &mut Command) {
    let child = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(120), child).await;
    let output = output.expect("the scenario ends").unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("done"), "{said}");
}

/// On etcd first, then on ours as an app sees it.
async fn on_both<F: Future<Output = ()>>(scenario: impl Fn(SocketAddr) -> F) {
    let etcd = common::etcd().await;
    scenario(etcd.address).await;
    let ours = common::ours(Role::App).await;
    scenario(ours.address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python() {
    on_both(async |address| {
        // Debian's python3-etcd3, whose messages are older than Debian's own protobuf.
        let mut python = Command::new("/usr/bin/python3");
        python.env("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python");
        run(python.arg(scenario("scenario.py")).arg(address.to_string())).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node() {
    // Fetched by scripts/npm-etcd3, as `make test` does.
    let modules = Path::new(env!("CARGO_TARGET_TMPDIR")).join("npm-etcd3");
    assert!(
        modules.join("node_modules/etcd3").exists(),
        "run scripts/npm-etcd3 {}",
        modules.display()
    );
    on_both(async |address| {
        let mut node = Command::new("node");
        let node = node.arg(scenario("scenario.mjs")).arg(address.to_string());
        run(node.arg(&modules)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rust() {
    on_both(rust_scenario).await;
}

async fn rust_scenario(address: SocketAddr) {
    let url = format!("http://{address}");
    let mut one = Client::connect([&url], None).await.unwrap();
    let mut two = Client::connect([&url], None).await.unwrap();
    // Keys, as of now and of before.
    let first = one
        .put("r/1", "a", None)
        .await
        .unwrap()
        .header()
        .unwrap()
        .revision();
    one.put("r/1", "b", None).await.unwrap();
    let then = one
        .get("r/1", Some(GetOptions::new().with_revision(first)))
        .await
        .unwrap();
    assert_eq!(then.kvs()[0].value_str().unwrap(), "a");
    let former = Some(PutOptions::new().with_prev_key());
    let put = one.put("r/1", "c", former).await.unwrap();
    assert_eq!(put.prev_key().unwrap().value_str().unwrap(), "b");
    // A transaction.
    let txn = Txn::new()
        .when([Compare::value("r/1", CompareOp::Equal, "c")])
        .and_then([TxnOp::put("r/2", "x", None), TxnOp::get("r/1", None)])
        .or_else([TxnOp::delete("r/1", None)]);
    let done = one.txn(txn).await.unwrap();
    assert!(done.succeeded());
    assert_eq!(done.op_responses().len(), 2);
    // A watch from the past, by prefix, with what was before.
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(first)
        .with_prev_key();
    let mut watch = one.watch("r/", Some(options)).await.unwrap();
    let (mut seen, mut watch_id) = (Vec::new(), -1);
    while seen.len() < 4 {
        let answer = watch.message().await.unwrap().unwrap();
        watch_id = answer.watch_id();
        let told = answer
            .events()
            .iter()
            .map(|e| e.kv().unwrap().value_str().unwrap().to_owned());
        seen.extend(told);
    }
    assert_eq!(seen, ["a", "b", "c", "x"]);
    watch.cancel(watch_id).await.unwrap();
    while let Some(answer) = watch.message().await.unwrap() {
        if answer.canceled() {
            break;
        }
    }
    // A lease that is kept, with a key.
    let lease = one.lease_grant(60, None).await.unwrap().id();
    one.put("rl", "x", Some(PutOptions::new().with_lease(lease)))
        .await
        .unwrap();
    let (mut keeper, mut kept) = one.lease_keep_alive(lease).await.unwrap();
    keeper.keep_alive().await.unwrap();
    assert_eq!(kept.message().await.unwrap().unwrap().ttl(), 60);
    let options = Some(LeaseTimeToLiveOptions::new().with_keys());
    let left = one.lease_time_to_live(lease, options).await.unwrap();
    assert_eq!(left.keys(), [b"rl"]);
    // A lock under it: the second waits until the first is gone.
    let locked = one
        .lock("rjob", Some(LockOptions::new().with_lease(lease)))
        .await
        .unwrap();
    let waiting = tokio::spawn(async move {
        let locked = two.lock("rjob", None).await.unwrap();
        two.unlock(locked.key()).await.unwrap();
        two
    });
    one.unlock(locked.key()).await.unwrap();
    let mut two = waiting.await.unwrap();
    // An election: a leader, what it proclaims, and who follows.
    let campaign = one.campaign("rboss", "one", lease).await.unwrap();
    let leader = campaign.leader().unwrap().clone();
    let mut followed = two.observe(leader.name()).await.unwrap();
    let told = followed.message().await.unwrap().unwrap();
    assert_eq!(told.kv().unwrap().value_str().unwrap(), "one");
    let options = Some(ProclaimOptions::new().with_leader(leader.clone()));
    one.proclaim("still one", options).await.unwrap();
    let told = followed.message().await.unwrap().unwrap();
    assert_eq!(told.kv().unwrap().value_str().unwrap(), "still one");
    one.resign(Some(ResignOptions::new().with_leader(leader)))
        .await
        .unwrap();
    assert!(two.leader("rboss").await.is_err());
    one.lease_revoke(lease).await.unwrap();
    assert!(two.get("rl", None).await.unwrap().kvs().is_empty());
}
