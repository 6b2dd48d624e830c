//! Files of bbolt: what is written is read again, whatever its size; what is damaged is said to be.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use coracle_store::StoreError;
use coracle_store::etcd::bolt::{Bolt, Writer};

type Entry = (Vec<u8>, Vec<u8>);

fn write(path: &Path, buckets: &[(&str, Vec<Entry>)]) {
    let mut file = Writer::create(path).unwrap();
    for (name, entries) in buckets {
        file.bucket(name.to_string()).unwrap();
        for (key, value) in entries {
            file.put(key.clone(), value.clone()).unwrap();
        }
    }
    file.finish().unwrap();
}

fn read(path: &Path, bucket: &str) -> Vec<Entry> {
    let file = Bolt::open(path).unwrap();
    let bucket = file.bucket(bucket).unwrap().unwrap();
    let entries = bucket.entries().map(|entry| entry.unwrap());
    entries.map(|(k, v)| (k.to_vec(), v.to_vec())).collect()
}

/// So many entries with keys and values of lengths that go round.
fn entries(count: usize, key: usize, value: usize) -> Vec<Entry> {
    let entry = |n: usize| {
        let mut name = format!("{n:08}").into_bytes();
        name.resize(name.len() + n * 7 % (key + 1), b'k');
        (name, vec![n as u8; n * 13 % (value + 1)])
    };
    (0..count).map(entry).collect()
}

#[test]
fn entries_of_all_sizes_come_back() {
    let dir = tempfile::tempdir().unwrap();
    // None, one page, pages that just fill, many floors, long keys in branches, values of many pages.
    let shapes = [
        (0, 0, 0),
        (1, 0, 0),
        (3, 0, 20_000),
        (170, 0, 0),
        (171, 0, 0),
        (1000, 0, 300),
        (40_000, 10, 200),
        (700, 3000, 10),
        (300, 9000, 9000),
        (100, 0, 60_000),
    ];
    for (n, (count, key, value)) in shapes.into_iter().enumerate() {
        let path = dir.path().join(n.to_string());
        let wanted = entries(count, key, value);
        let other = entries(5, 0, 9);
        write(
            &path,
            &[("a", wanted.clone()), ("b", other.clone()), ("c", vec![])],
        );
        assert!(read(&path, "a") == wanted, "{count} {key} {value}");
        assert_eq!(read(&path, "b"), other);
        assert_eq!(read(&path, "c"), []);
        let file = Bolt::open(&path).unwrap();
        assert_eq!(file.buckets().unwrap(), ["a", "b", "c"]);
        assert!(file.bucket("d").unwrap().is_none());
    }
}

/// Where a floor's last page would have one entry is a question of how many there are: all are tried.
#[test]
fn any_number_of_entries_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    for count in 2..60 {
        // Two of these fill a page, also of a branch.
        let entry = |n: usize| (format!("{n:01500}").into_bytes(), vec![b'v'; 400]);
        let wanted: Vec<_> = (0..count).map(entry).collect();
        write(&path, &[("a", wanted.clone())]);
        assert!(read(&path, "a") == wanted, "{count}");
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn what_is_out_of_order_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = Writer::create(&dir.path().join("db")).unwrap();
    assert!(file.put("k", "v").is_err(), "no bucket");
    file.bucket("a").unwrap();
    file.put("b", "").unwrap();
    assert!(file.put("b", "").is_err());
    assert!(file.put("a", "").is_err());
}

/// Whatever is changed, it is an error or it does not matter, and never a panic or an end without one.
#[test]
fn damage_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let wanted = entries(2000, 5, 300);
    write(&path, &[("a", wanted.clone())]);
    let whole = std::fs::read(&path).unwrap();
    let flip = |path: &Path, at: usize, with: u8| {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(&[whole[at] ^ with], at as u64).unwrap();
    };
    // The sum finds all of it.
    flip(&path, 10_000, 1);
    let error = Bolt::open(&path).map(drop).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    // As etcd's own file, which has no sum.
    let bare = &whole[..whole.len() - 32];
    let mut seed: u64 = 11;
    for _ in 0..500 {
        std::fs::write(&path, bare).unwrap();
        for _ in 0..3 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Mostly headers, where it matters.
            let page = (seed >> 33) as usize % (bare.len() / 4096);
            flip(
                &path,
                page * 4096 + (seed >> 50) as usize % 48,
                (seed >> 20) as u8 | 1,
            );
        }
        let Ok(file) = Bolt::open(&path) else {
            continue;
        };
        let Ok(Some(bucket)) = file.bucket("a") else {
            continue;
        };
        for entry in bucket.entries() {
            if entry.is_err() {
                break;
            }
        }
    }
    // One of the two metas is enough.
    std::fs::write(&path, bare).unwrap();
    flip(&path, 4096 + 30, 0xff);
    assert!(read(&path, "a") == wanted);
    std::fs::write(&path, bare).unwrap();
    flip(&path, 30, 0xff);
    assert!(read(&path, "a") == wanted);
    flip(&path, 4096 + 30, 0xff);
    assert!(Bolt::open(&path).is_err());
    // Cut off.
    std::fs::write(&path, &bare[..bare.len() - 4096]).unwrap();
    assert!(Bolt::open(&path).is_err());
}
