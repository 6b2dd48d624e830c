//! The corpus and what becomes of it when bytes change: all of it is read or refused, and nothing panics.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Cursor;
use std::path::PathBuf;

use coracle_image::{ImportOptions, Limits, Platform, Reference, RegistryConfig, Silent};
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// Calls `target` with every file of a corpus, cut short, and with bytes changed; the same ones each time.
/// `CORACLE_FUZZ` multiplies the rounds (`make soak`).
fn run(kind: &str, rounds: u64, target: impl Fn(&[u8])) {
    let rounds = rounds * std::env::var("CORACLE_FUZZ").map_or(1, |n| n.parse::<u64>().unwrap());
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(kind);
    let mut files: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    assert!(
        files.len() >= 5,
        "{} files in {}",
        files.len(),
        dir.display()
    );
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % below.max(1)
    };
    for file in files {
        let seed = std::fs::read(&file).unwrap();
        target(&seed);
        for _ in 0..rounds {
            let mut data = seed.clone();
            for _ in 0..=random(4) {
                let at = random(data.len());
                match random(4) {
                    0 => data.truncate(at),
                    1 if !data.is_empty() => data[at] ^= 1 << random(8),
                    2 if !data.is_empty() => data[at] = random(256) as u8,
                    _ => data.insert(at.min(data.len()), b"/.:@\0\x7f-\"{"[random(9)]),
                }
            }
            target(&data);
        }
    }
}

/// What a name is written as must read as that name again.
fn reference(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(name) = Reference::parse(&text) {
        assert_eq!(Reference::parse(&name.to_string()).ok(), Some(name));
    }
    // The short form is for people: as with docker, `docker.io/a.b/c` shortens to what reads as a host `a.b`.
    if let Ok(name) = Reference::parse_normalized(&text) {
        assert!(!name.familiar().is_empty());
        assert_eq!(
            Reference::parse_normalized(&name.to_string()).ok(),
            Some(name)
        );
    }
    // Whatever comes, it comes as a result.
    let _ = (Reference::parse_familiar(&text), text.parse::<Platform>());
}

#[test]
fn references() {
    run("reference", 3000, reference);
}

/// A store whose limits make every input quick.
fn home() -> common::Home {
    let limits = Limits {
        bytes: 1 << 20,
        entries: 1000,
    };
    common::home_with(RegistryConfig {
        limits,
        ..RegistryConfig::default()
    })
}

#[test]
fn manifests() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let home = home();
    run("manifest", 60, |data| {
        let hex = hex::encode(Sha256::digest(data));
        let index = |kind: &str| {
            let entry =
                json!({ "mediaType": kind, "size": data.len(), "digest": format!("sha256:{hex}") });
            json!({ "schemaVersion": 2, "manifests": [entry] }).to_string()
        };
        // As the manifest that an index names, as docker's list of images, and as the index itself.
        let manifest = "application/vnd.oci.image.manifest.v1+json";
        let named = index(manifest);
        for (name, text) in [
            ("index.json", named.as_bytes()),
            ("manifest.json", data),
            ("index.json", data),
        ] {
            let archive = common::tar(&[
                common::entry(b'0', "oci-layout", "", br#"{"imageLayoutVersion":"1.0.0"}"#),
                common::entry(b'0', &format!("blobs/sha256/{hex}"), "", data),
                common::entry(b'0', name, "", text),
            ]);
            let loaded = runtime.block_on(home.store.load(Cursor::new(archive), Silent));
            // No file of the corpus has its layers with it.
            assert!(loaded.is_err_and(|e| !e.to_string().is_empty()));
        }
    });
    assert!(home.store.list().is_empty());
    assert!(common::files(&home.dir.path().join("tmp")).is_empty());
}

#[test]
fn layers() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let home = home();
    let beside = || {
        let names = std::fs::read_dir(home.dir.path()).unwrap();
        let mut names: Vec<_> = names.map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let victim = home.dir.path().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    let before = beside();
    run("layer", 25, |data| {
        let archive = Cursor::new(data.to_vec());
        let imported = home.store.import(archive, ImportOptions::default());
        if let Ok(image) = runtime.block_on(imported) {
            let removed = home.store.remove(&image.id.to_string(), true, &|_| None);
            removed.unwrap();
        }
        assert_eq!(beside(), before);
        assert_eq!(std::fs::read(&victim).unwrap(), b"untouched");
    });
    assert!(home.store.list().is_empty());
    assert!(common::files(&home.dir.path().join("tmp")).is_empty());
}
