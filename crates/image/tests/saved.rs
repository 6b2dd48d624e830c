//! Archives as docker before version 25 writes them, by hand: a directory a layer, and links where a layer comes twice.
#![allow(clippy::unwrap_used)]

mod common;

use common::{entry, files, full, home, tar};
use coracle_image::{ErrorKind, Silent};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::io::Cursor;

fn hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The archive of an image whose layers are `a`, `b` and `a` again; the last one is a link to `link`.
fn archive(link: &str) -> (Vec<u8>, String) {
    let a = tar(&[entry(b'0', "one", "", b"1")]);
    let b = tar(&[
        entry(b'0', ".wh.one", "", b""),
        entry(b'0', "two", "", b"2"),
    ]);
    let diff_ids = [&a, &b, &a].map(|layer| format!("sha256:{}", hex(layer)));
    let config = json!({
        "architecture": coracle_image::Platform::host().architecture, "os": "linux",
        "config": { "Cmd": ["/x"] }, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string();
    let id = hex(config.as_bytes());
    let directories = ["aaaa", "bbbb", "cccc"];
    let layers = directories.map(|d| format!("{d}/layer.tar"));
    let manifest = json!([{
        "Config": format!("{id}.json"), "RepoTags": ["old/app:1", "old/app:2"], "Layers": layers,
    }]);
    let mut entries = Vec::new();
    for (directory, layer) in directories.iter().zip([Some(&a), Some(&b), None]) {
        entries.push(entry(b'5', &format!("{directory}/"), "", b""));
        entries.push(entry(b'0', &format!("{directory}/VERSION"), "", b"1.0"));
        entries.push(entry(b'0', &format!("{directory}/json"), "", b"{}"));
        let name = format!("{directory}/layer.tar");
        entries.push(match layer {
            Some(layer) => entry(b'0', &name, "", layer),
            None => entry(b'2', &name, link, b""),
        });
    }
    entries.push(entry(b'0', &format!("{id}.json"), "", config.as_bytes()));
    entries.push(entry(
        b'0',
        "manifest.json",
        "",
        manifest.to_string().as_bytes(),
    ));
    let old = json!({ "old/app": { "1": "cccc", "2": "cccc" } }).to_string();
    entries.push(entry(b'0', "repositories", "", old.as_bytes()));
    (tar(&entries), format!("sha256:{id}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_docker_20_saves() {
    let (archive, id) = archive("../aaaa/layer.tar");
    let home = home();
    let loaded = home.store.load(Cursor::new(archive), Silent).await;
    let loaded = loaded.map_err(|e| full(&e)).unwrap();
    assert_eq!(loaded[0].id.to_string(), id);
    for tag in ["old/app:1", "old/app:2"] {
        assert_eq!(home.store.get(tag).unwrap().layers.len(), 3);
    }
    // The layer that comes twice stands where it is topmost.
    let dirs = home.store.layer_dirs(&loaded[0].id).unwrap();
    assert_eq!(dirs.len(), 2);
    assert_eq!(std::fs::read(dirs[0].join("one")).unwrap(), b"1");
    assert_eq!(std::fs::read(dirs[1].join("two")).unwrap(), b"2");
}

#[tokio::test(flavor = "multi_thread")]
async fn links_out_of_an_archive_are_refused() {
    for link in ["/etc/passwd", "../../../../etc/passwd", "../cccc/layer.tar"] {
        let home = home();
        let loaded = home.store.load(Cursor::new(archive(link).0), Silent).await;
        let error = loaded.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{}", full(&error));
        assert!(full(&error).contains("cccc"), "{}", full(&error));
        assert!(home.store.list().is_empty());
        assert!(files(&home.dir.path().join("tmp")).is_empty());
    }
}
