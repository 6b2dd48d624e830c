//! What a power loss leaves of the log's last page, and damage that is none of its doing.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use coracle_store::*;

/// Where frames begin and what the disk writes whole at the least.
const SECTOR: usize = 512;
/// The head of a frame, and where its length stands.
const MAGIC: &[u8] = b"CLG1";
const HEADER: usize = 32;

fn open(dir: &Path) -> Result<EmbeddedStore, StoreError> {
    EmbeddedStore::open(dir, Options::default())
}

/// The log of a store with `count` puts, and where its frames begin and end, the last one first.
async fn written(dir: &Path, count: usize) -> (PathBuf, Vec<(usize, usize)>) {
    let store = open(dir).unwrap();
    for n in 0..count {
        // Longer than a page, so that a part of it can be missing.
        let put = PutRequest::new(format!("k{n}"), vec![b'a' + n as u8; 9000]);
        store.put(put).await.unwrap();
    }
    drop(store);
    let log = dir.join("log-0");
    let bytes = std::fs::read(&log).unwrap();
    let mut frames = Vec::new();
    let mut at = 0;
    while bytes[at..].starts_with(MAGIC) {
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        let end = (at + HEADER + length).next_multiple_of(SECTOR);
        frames.push((at, end));
        at = end;
    }
    assert_eq!(frames.len(), count, "one for each put");
    frames.reverse();
    (log, frames)
}

async fn values(store: &EmbeddedStore) -> Vec<u8> {
    let found = store.list("k").await.unwrap();
    assert!(found.kvs.iter().all(|kv| kv.value.len() == 9000));
    found.kvs.iter().map(|kv| kv.value[0]).collect()
}

/// Fills a part of a file.
fn fill(path: &Path, from: usize, to: usize, with: u8) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&vec![with; to - from], from as u64)
        .unwrap();
}

#[tokio::test]
async fn a_torn_last_frame_was_not_answered_for_and_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let (log, frames) = written(dir.path(), 4).await;
    let whole = std::fs::read(&log).unwrap();
    let (begin, end) = frames[0];
    // Any sectors of it may have come to the disk, and any others not: from the head on, from the tail on, one missing.
    let sectors = (end - begin) / SECTOR;
    let mut torn = Vec::new();
    for n in 0..sectors {
        torn.push((begin + n * SECTOR, end));
        torn.push((begin, begin + (n + 1) * SECTOR));
        torn.push((begin + n * SECTOR, begin + (n + 1) * SECTOR));
    }
    for (from, to) in torn {
        for with in [0, 0xff, b'x'] {
            std::fs::write(&log, &whole).unwrap();
            fill(&log, from, to, with);
            // The last sector may hold nothing but what fills it up.
            if std::fs::read(&log).unwrap()[begin..end - SECTOR] == whole[begin..end - SECTOR] {
                continue;
            }
            let store = open(dir.path()).unwrap();
            assert_eq!(values(&store).await, b"abc", "{from} to {to}");
            assert_eq!(store.status().await.unwrap().revision, 4);
        }
    }
    // It goes on from there, over what was torn.
    let store = open(dir.path()).unwrap();
    let put = PutRequest::new("k3", vec![b'z'; 9000]);
    assert_eq!(store.put(put).await.unwrap().revision, 5);
    drop(store);
    assert_eq!(values(&open(dir.path()).unwrap()).await, b"abcz");
}

#[tokio::test]
async fn a_frame_that_was_answered_for_is_not_left_out_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let (log, frames) = written(dir.path(), 4).await;
    let whole = std::fs::read(&log).unwrap();
    for (begin, end) in &frames[1..] {
        for (from, to) in [
            (*begin, begin + 8),
            (begin + 100, begin + 101),
            (*begin, *end),
        ] {
            std::fs::write(&log, &whole).unwrap();
            fill(&log, from, to, 0x55);
            let error = open(dir.path()).err().unwrap();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
            assert!(error.to_string().contains("log-0"), "{error}");
        }
    }
    std::fs::write(&log, &whole).unwrap();
    assert_eq!(values(&open(dir.path()).unwrap()).await, b"abcd");
}

#[tokio::test]
async fn a_log_that_lost_its_beginning_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    // More than one file of the log takes.
    for n in 0..400 {
        let put = PutRequest::new(format!("k{n}"), vec![b'v'; 9000]);
        store.put(put).await.unwrap();
    }
    drop(store);
    assert!(dir.path().join("log-1").exists());
    std::fs::rename(dir.path().join("log-0"), dir.path().join("away")).unwrap();
    let error = open(dir.path()).err().unwrap();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    std::fs::rename(dir.path().join("away"), dir.path().join("log-0")).unwrap();
    let store = open(dir.path()).unwrap();
    assert_eq!(store.list("k").await.unwrap().count, 400);
}

#[tokio::test]
async fn another_stores_log_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let (mine, other) = (dir.path().join("mine"), dir.path().join("other"));
    written(&other, 3).await;
    let store = open(&mine).unwrap();
    store.put(PutRequest::new("own", "1")).await.unwrap();
    store.defragment().await.unwrap();
    drop(store);
    // As after a restored snapshot: the database is another, the files of the log are still there.
    std::fs::copy(other.join("log-0"), mine.join("log-0")).unwrap();
    let store = open(&mine).unwrap();
    assert_eq!(store.list("").await.unwrap().count, 1);
    store.put(PutRequest::new("own", "2")).await.unwrap();
    drop(store);
    let store = open(&mine).unwrap();
    assert_eq!(store.list("").await.unwrap().kvs[0].value, "2");
}
