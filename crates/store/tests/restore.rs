//! A snapshot takes a store's place: revisions only grow, old ones are compacted, and a kill leaves one of the two stores.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coracle_store::*;

const CHILD: &str = "CORACLE_STORE_TEST_CHILD";
const JUMP: i64 = 1_000_000_000;

struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Does it again while somebody has the store.
fn patiently<T>(mut work: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match work() {
            // A child that another test is starting has all our files open, and their locks, until it is another program.
            Err(StoreError::Locked { .. }) if Instant::now() < deadline => std::thread::yield_now(),
            done => return done,
        }
    }
}

fn open(dir: &Path) -> EmbeddedStore {
    patiently(|| EmbeddedStore::open(dir, Options::default())).unwrap()
}

async fn snapshot(store: &EmbeddedStore, path: &Path) {
    let file = std::fs::File::create(path).unwrap();
    store.snapshot(Box::new(file)).await.unwrap();
}

fn restore(from: &Path, dir: &Path) -> Result<Restored, StoreError> {
    patiently(|| EmbeddedStore::restore(&mut std::fs::File::open(from).unwrap(), dir))
}

/// A store of `own` keys after `a`=old, and a snapshot of the time before them.
async fn prepared(dir: &Path, own: i64) -> PathBuf {
    let store = open(&dir.join("store"));
    store.put(PutRequest::new("a", "old")).await.unwrap();
    store.put(PutRequest::new("gone", "x")).await.unwrap();
    store
        .delete_range(DeleteRangeRequest::key("gone"))
        .await
        .unwrap();
    let copy = dir.join("copy");
    snapshot(&store, &copy).await;
    for n in 0..own {
        let put = PutRequest::new("a", format!("new {n}"));
        store.put(put).await.unwrap();
    }
    copy
}

#[tokio::test]
async fn the_revision_never_goes_backwards() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("store");
    let copy = prepared(dir.path(), 10).await;
    let restored = restore(&copy, &at).unwrap();
    assert_eq!(restored.previous, Some(14));
    assert_eq!(restored.revision, 14 + JUMP);
    let store = open(&at);
    let status = store.status().await.unwrap();
    assert_eq!(
        (status.revision, status.compact_revision),
        (14 + JUMP, 14 + JUMP)
    );
    let found = store.get("a").await.unwrap().unwrap();
    assert_eq!((&found.value[..], found.mod_revision), (&b"old"[..], 2));
    assert_eq!(store.list("").await.unwrap().count, 1);
    // A watch that was to go on from the replaced store's end is told.
    let mut watch = store.watch(WatchRequest::key("a").from(15)).await.unwrap();
    let told = watch.next().await.unwrap().unwrap();
    assert_eq!((told.canceled, told.compact_revision), (true, 14 + JUMP));
    let mut old = RangeRequest::key("a");
    old.revision = 2;
    let error = store.range(old).await.unwrap_err();
    assert!(matches!(error, StoreError::Compacted { .. }), "{error}");
    let put = store.put(PutRequest::new("a", "next")).await.unwrap();
    assert_eq!(put.revision, 15 + JUMP);
    drop(store);
    // What was replaced is whole.
    let old = tempfile::tempdir().unwrap();
    std::fs::copy(restored.aside.unwrap(), old.path().join("store.redb")).unwrap();
    let found = open(old.path()).get("a").await.unwrap().unwrap();
    assert_eq!(&found.value[..], b"new 9");
    // Again: ahead of the one before.
    let again = restore(&copy, &at).unwrap();
    assert_eq!(again.revision, 15 + 2 * JUMP);
    assert!(again.aside.unwrap().ends_with("replaced-2.redb"));
    // A damaged store keeps nobody from restoring, and the revision grows all the same.
    std::fs::write(at.join("store.redb"), vec![7; 100_000]).unwrap();
    let after = restore(&copy, &at).unwrap();
    assert_eq!(after.previous, None);
    assert!(after.revision > again.revision + JUMP / 2, "{after:?}");
    assert_eq!(open(&at).list("").await.unwrap().count, 1);
}

#[tokio::test]
async fn what_is_no_snapshot_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("store");
    let copy = prepared(dir.path(), 1).await;
    let whole = std::fs::read(&copy).unwrap();
    let foreign = dir.path().join("foreign");
    redb::Database::create(&foreign).unwrap();
    let bytes = [
        Vec::new(),
        vec![7; 100_000],
        whole[..whole.len() / 2].to_vec(),
        std::fs::read(&foreign).unwrap(),
    ];
    for bytes in bytes {
        std::fs::write(&foreign, &bytes).unwrap();
        let error = restore(&foreign, &at).unwrap_err();
        assert!(matches!(error, StoreError::NoSnapshot { .. }), "{error:?}");
        assert!(!at.join("restore.tmp").exists());
        assert!(!at.join("replaced-1.redb").exists());
    }
    let store = open(&at);
    let mut copy = std::fs::File::open(&copy).unwrap();
    let error = EmbeddedStore::restore(&mut copy, &at).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
    assert_eq!(&store.get("a").await.unwrap().unwrap().value[..], b"new 0");
}

#[tokio::test]
async fn what_a_killed_restore_left_is_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("store");
    let copy = prepared(dir.path(), 1).await;
    // Killed after the link: the store has two names.
    std::fs::write(at.join("restore.tmp"), "half").unwrap();
    std::fs::hard_link(at.join("store.redb"), at.join("replaced-1.redb")).unwrap();
    let restored = restore(&copy, &at).unwrap();
    assert!(restored.aside.unwrap().ends_with("replaced-1.redb"));
    assert_eq!(restored.revision, 5 + JUMP);
    assert!(!at.join("replaced-2.redb").exists());
    assert_eq!(
        &open(&at).get("a").await.unwrap().unwrap().value[..],
        b"old"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_leaves_one_of_the_two() {
    if let Some(dir) = std::env::var_os(CHILD) {
        let dir = Path::new(&dir);
        loop {
            println!("begin");
            restore(&dir.join("copy"), &dir.join("store")).unwrap();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("store");
    prepared(dir.path(), 1).await;
    let (mut before, mut seen) = (5, 0);
    for round in 0..40 {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_kill_leaves_one_of_the_two", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = Reaped(child);
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "begin"));
        // Somewhere in the restore, later in each round.
        let kill = Instant::now() + Duration::from_micros(round * 700);
        while Instant::now() < kill {
            std::hint::spin_loop();
        }
        // However slow the machine is, one comes to its end.
        if round == 39 {
            assert!(lines.any(|line| line.unwrap() == "begin"));
        }
        drop(child);
        assert!(at.join("store.redb").exists());
        let store = open(&at);
        let now = store.status().await.unwrap().revision;
        // The same store still, or one after some jumps; its keys are there whole.
        assert!(now == before || now >= before + JUMP, "{before} {now}");
        seen += i64::from(now != before);
        assert_eq!(store.list("").await.unwrap().count, 1);
        before = now;
        drop(store);
        assert!(!at.join("restore.tmp").exists());
    }
    assert!(seen > 0, "no restore came to its end");
}

#[tokio::test]
async fn the_log_of_a_store_that_cannot_be_read_is_kept_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("store");
    let copy = prepared(dir.path(), 20).await;
    let log = at.join("log-0");
    let whole = std::fs::read(&log).unwrap();
    let frames: Vec<_> = (0..whole.len())
        .step_by(512)
        .filter(|from| whole[*from..].starts_with(b"CLG1"))
        .collect();
    let mut damaged = whole.clone();
    damaged[frames[frames.len() - 2] + 40] ^= 1;
    std::fs::write(&log, &damaged).unwrap();
    let restored = restore(&copy, &at).unwrap();
    assert_eq!(restored.previous, None);
    assert!(restored.revision > JUMP);
    assert_eq!(std::fs::read(at.join("replaced-1.log-0")).unwrap(), damaged);
    // With what is kept, the damage mended, the store that was replaced is whole again.
    let salvaged = dir.path().join("salvaged");
    std::fs::create_dir(&salvaged).unwrap();
    std::fs::copy(restored.aside.unwrap(), salvaged.join("store.redb")).unwrap();
    std::fs::write(salvaged.join("log-0"), &whole).unwrap();
    let store = open(&salvaged);
    assert_eq!(&store.get("a").await.unwrap().unwrap().value[..], b"new 19");
}
