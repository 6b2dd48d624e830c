//! kill -9 at any moment, and a full disk.
//!
//! The test starts itself again as the process that is killed, or that lives on a small tmpfs in
//! a mount namespace of its own. `CORACLE_ROUNDS` says how often it is killed.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_store::*;

const CHILD: &str = "CORACLE_STORE_TEST_CHILD";

struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn options() -> Options {
    Options {
        keep_revisions: 0,
        // So little that the kill often comes while the database is written.
        memory_bytes: 32 << 10,
        ..Options::default()
    }
}

async fn write_for_ever(dir: &Path) {
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(dir, options()).unwrap());
    let mut writers = tokio::task::JoinSet::new();
    for task in 0..8 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            for n in 0.. {
                let (key, value) = (format!("k{task}/{}", n % 20), format!("{n}"));
                let one = PutRequest::new(key.clone(), value.clone());
                let two = PutRequest::new(format!("twin/{key}"), value.clone());
                let txn = TxnRequest {
                    success: vec![TxnOp::Put(one), TxnOp::Put(two)],
                    ..Default::default()
                };
                let revision = store.txn(txn).await.unwrap().revision;
                let line = format!("ack {revision} {key} {value}\n");
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            }
        });
    }
    while writers.join_next().await.is_some() {}
}

async fn verify(dir: &Path, acknowledged: &BTreeMap<i64, (String, String)>) {
    let store = EmbeddedStore::open(dir, options()).unwrap();
    let status = store.status().await.unwrap();
    if let Some((last, _)) = acknowledged.last_key_value() {
        assert!(
            status.revision >= *last,
            "revision {} is older than {last}",
            status.revision
        );
    }
    let mut told = BTreeMap::new();
    let mut watch = store.watch(WatchRequest::prefix("").from(2)).await.unwrap();
    let mut expected = 2;
    while expected <= status.revision {
        for pair in watch.next().await.unwrap().unwrap().events.chunks(2) {
            // A transaction is there whole, in order, and at the next revision.
            assert_eq!(pair.len(), 2);
            assert!(pair.iter().all(|event| event.kv.mod_revision == expected));
            assert!(pair[1].kv.key.starts_with(b"twin/"));
            assert_eq!(pair[0].kv.value, pair[1].kv.value);
            told.insert(expected, pair[0].kv.clone());
            expected += 1;
        }
    }
    for (revision, (key, value)) in acknowledged {
        let kv = &told[revision];
        assert_eq!(
            (&kv.key[..], &kv.value[..]),
            (key.as_bytes(), value.as_bytes())
        );
    }
    for key in store.list("k").await.unwrap().kvs {
        let newest = told.values().rev().find(|kv| kv.key == key.key).unwrap();
        assert_eq!(*newest, key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_kill() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return write_for_ever(dir.as_ref()).await;
    }
    let rounds = std::env::var("CORACLE_ROUNDS").map_or(30, |n| n.parse().unwrap());
    let mut dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    let mut seed: u64 = 0x5eed;
    for round in 1..=rounds {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "acknowledged_writes_survive_kill", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = Reaped(child);
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let mut kill_after = seed >> 33 & 0x1ff;
        while let Some(Ok(line)) = lines.next() {
            let mut words = line.split_whitespace();
            if words.next() != Some("ack") {
                continue;
            }
            let (Some(revision), Some(key), Some(value)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            acknowledged.insert(revision.parse().unwrap(), (key.into(), value.into()));
            if kill_after == 0 {
                // What it still says after this was acknowledged, too.
                let _ = child.0.kill();
            }
            kill_after = kill_after.saturating_sub(1);
        }
        drop(child);
        verify(dir.path(), &acknowledged).await;
        // Each looks at all history: that of many kills in one store, and then of another.
        if round % 30 == 0 {
            assert!(acknowledged.len() > 1000);
            dir = tempfile::tempdir().unwrap();
            acknowledged.clear();
        }
    }
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}");
}

async fn fill_the_disk(dir: &Path) {
    run(
        "mount",
        &[
            "-t",
            "tmpfs",
            "-o",
            "size=12m",
            "tmpfs",
            dir.to_str().unwrap(),
        ],
    );
    let (store_dir, ballast) = (dir.join("store"), dir.join("ballast"));
    let options = || Options {
        keep_revisions: 0,
        ..Options::default()
    };
    let store = EmbeddedStore::open(&store_dir, options()).unwrap();
    store.put(PutRequest::new("keep", "me")).await.unwrap();
    let mut kept = 0;
    let error = loop {
        match store
            .put(PutRequest::new(format!("k{kept:05}"), vec![b'v'; 4096]))
            .await
        {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 5000, "12 MiB hold no 20 MB");
        if kept == 100 {
            std::fs::write(&ballast, vec![0; 4 << 20]).unwrap();
        }
    };
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
    assert!(store.status().await.unwrap().no_space);
    // Reads go on, and deletions go through.
    assert_eq!(store.get("keep").await.unwrap().unwrap().value, "me");
    assert_eq!(store.list("k0").await.unwrap().count, kept);
    let gone = store
        .delete_range(DeleteRangeRequest::key("k00000"))
        .await
        .unwrap();
    assert_eq!(gone.deleted, 1);
    std::fs::remove_file(&ballast).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = store.put(PutRequest::new("after", "it")).await {
        assert!(Instant::now() < deadline, "no recovery: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(store);
    let store = EmbeddedStore::open(&store_dir, options()).unwrap();
    assert_eq!(store.list("k0").await.unwrap().count, kept - 1);
    assert_eq!(store.get("after").await.unwrap().unwrap().value, "it");
    // The disk full under redb's feet: nothing reserved, nothing left.
    let free = rustix::fs::statvfs(dir).unwrap();
    let rest = usize::try_from(free.f_bavail * free.f_frsize).unwrap();
    std::fs::write(&ballast, vec![0; rest]).unwrap();
    let mut refused = false;
    for n in 0..2000 {
        if let Err(error) = store
            .put(PutRequest::new(format!("z{n}"), vec![b'v'; 4096]))
            .await
        {
            assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
            refused = true;
            break;
        }
    }
    assert!(refused);
    assert_eq!(store.list("k0").await.unwrap().count, kept - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_puts_and_recovers() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return fill_the_disk(dir.as_ref()).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_full_disk_refuses_puts_and_recovers",
            "--nocapture",
        ])
        .env(CHILD, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}
