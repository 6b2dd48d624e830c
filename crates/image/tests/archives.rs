//! Import, save and load, with skopeo as the other side.
#![allow(clippy::unwrap_used)]

mod common;

use common::{entry, files, full, gzip, home, sample, save, tar};
use coracle_image::{ErrorKind, ImportOptions, Reference, Silent};
use std::io::Cursor;
use std::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_saved_loads_as_the_same_image() {
    let (a, b) = (home(), home());
    let archive = sample(&a, "test/app:1").await;
    let loaded = b
        .store
        .load(tokio::fs::File::open(&archive).await.unwrap(), Silent)
        .await
        .unwrap();
    let (before, after) = (
        a.store.get("test/app:1").unwrap(),
        b.store.get("test/app:1").unwrap(),
    );
    assert_eq!(before.id, after.id);
    assert_eq!(loaded[0].repo_tags, ["test/app:1"]);
    assert_eq!(
        after
            .config
            .config()
            .as_ref()
            .unwrap()
            .cmd()
            .as_ref()
            .unwrap(),
        &["/bin/x"]
    );
    let layer = &b.store.layer_dirs(&after.id).unwrap()[0];
    assert_eq!(std::fs::read(layer.join("etc/motd")).unwrap(), b"hello");
    // Saved again, it is the same archive byte by byte.
    let again = b.dir.path().join("again.tar");
    save(&b.store, "test/app:1", &again).await;
    assert_eq!(
        std::fs::read(&archive).unwrap(),
        std::fs::read(&again).unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_of_skopeo() {
    let a = home();
    let archive = sample(&a, "test/app:1").await;
    for kind in ["docker-archive", "oci-archive"] {
        let to = a.dir.path().join(kind);
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy"])
            .arg(format!("docker-archive:{}", archive.display()))
            .arg(format!("{kind}:{}:test/app:1", to.display()))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let b = home();
        let compressed = gzip(&std::fs::read(&to).unwrap());
        let loaded = b.store.load(Cursor::new(compressed), Silent).await.unwrap();
        assert_eq!(
            loaded[0].layers,
            a.store.get("test/app:1").unwrap().layers,
            "{kind}"
        );
        assert!(b.store.get("test/app:1").is_ok(), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_archive_is_refused_by_name_and_leaves_nothing() {
    let manifest = |text: &str| tar(&[entry(b'0', "manifest.json", "", text.as_bytes())]);
    for (bytes, words) in [
        (b"x".repeat(5000), "no tar archive"),
        (tar(&[entry(b'0', "a", "", b"x")]), "manifest.json"),
        (manifest("{"), "cannot be read"),
        (
            manifest(r#"[{"Config":"../../etc/passwd","Layers":[]}]"#),
            "../../etc/passwd",
        ),
        (
            manifest(r#"[{"Config":"manifest.json","Layers":["gone"]}]"#),
            "config",
        ),
        (
            tar(&[entry(b'2', "manifest.json", "manifest.json", b"")]),
            "manifest.json",
        ),
        (
            gzip(&tar(&[entry(b'0', "a", "", &[1; 4096])]))[..40].to_vec(),
            "",
        ),
    ] {
        let home = home();
        let error = home
            .store
            .load(Cursor::new(bytes), Silent)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{}", full(&error));
        assert!(full(&error).contains(words), "{words}: {}", full(&error));
        assert!(home.store.list().is_empty());
        assert!(files(&home.dir.path().join("tmp")).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_layers_touch_nothing_outside() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    let out = outside.path().to_str().unwrap();
    let layers: Vec<(Vec<Vec<u8>>, &str)> = vec![
        (vec![entry(b'0', "../evil", "", b"x")], ".."),
        (vec![entry(b'0', "a/../../evil", "", b"x")], ".."),
        (
            vec![entry(b'0', &format!("{out}/evil"), "", b"x")],
            "absolute",
        ),
        (
            vec![entry(b'2', "d", out, b""), entry(b'0', "d/evil", "", b"x")],
            "d/evil",
        ),
        (
            vec![
                entry(b'2', "d", "../../../..", b""),
                entry(b'0', "d/evil", "", b"x"),
            ],
            "d/evil",
        ),
        (
            vec![entry(b'1', "h", victim.to_str().unwrap(), b"")],
            "\"h\"",
        ),
        (vec![entry(b'1', "h", "../../victim", b"")], "\"h\""),
        (vec![entry(b'4', "disk", "", b"")], "disk"),
        (vec![entry(b'0', ".wh.", "", b"")], ".wh."),
        (vec![entry(b'0', ".wh..", "", b"")], ".wh.."),
        (vec![entry(b'0', "a/.wh...", "", b"")], ".wh..."),
        (vec![entry(b'0', ".", "", b"x")], "\".\""),
        (vec![entry(b'9', "strange", "", b"")], "strange"),
    ];
    for (entries, words) in layers {
        let home = home();
        let error = home
            .store
            .import(Cursor::new(tar(&entries)), ImportOptions::default())
            .await;
        let error = error.map(|i| i.id).unwrap_err();
        assert!(full(&error).contains(words), "{words}: {}", full(&error));
        assert!(home.store.list().is_empty());
        assert!(files(home.dir.path()).iter().all(|f| !f.ends_with("evil")));
        assert_eq!(
            std::fs::read_dir(outside.path()).unwrap().count(),
            1,
            "{words}"
        );
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_is_stopped_at_the_limit() {
    let limits = coracle_image::Limits {
        bytes: 1 << 20,
        entries: 100,
    };
    let config = coracle_image::RegistryConfig {
        limits,
        ..Default::default()
    };
    let home = common::home_with(config);
    let bomb = gzip(&tar(&[entry(b'0', "zeros", "", &vec![0; 8 << 20])]));
    assert!(bomb.len() < 100_000);
    let error = home
        .store
        .import(Cursor::new(bomb), ImportOptions::default())
        .await
        .unwrap_err();
    assert!(full(&error).contains("1048576 bytes"), "{}", full(&error));
    let many: Vec<_> = (0..101)
        .map(|n| entry(b'0', &n.to_string(), "", b""))
        .collect();
    let error = home
        .store
        .import(Cursor::new(tar(&many)), ImportOptions::default())
        .await
        .unwrap_err();
    assert!(full(&error).contains("100 entries"), "{}", full(&error));
    assert!(files(&home.dir.path().join("tmp")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_dropped_or_cut_short_leaves_nothing() {
    let home = home();
    let whole = gzip(&tar(&[entry(
        b'0',
        "a",
        "",
        &(0..200_000u32)
            .flat_map(u32::to_le_bytes)
            .collect::<Vec<_>>(),
    )]));
    let cut = Cursor::new(whole[..whole.len() / 2].to_vec());
    let error = home
        .store
        .import(cut, ImportOptions::default())
        .await
        .unwrap_err();
    assert!(full(&error).contains("truncated"), "{}", full(&error));
    assert!(home.store.list().is_empty());
    assert!(files(&home.dir.path().join("tmp")).is_empty());
    // The same, whole, is taken.
    let name = Reference::parse_normalized("a:1").unwrap();
    let options = ImportOptions {
        reference: Some(name),
        ..Default::default()
    };
    home.store
        .import(Cursor::new(whole), options)
        .await
        .unwrap();
    assert_eq!(home.store.list()[0].repo_tags, ["a:1"]);
}

/// A header whose data is said to be so long.
fn claiming(kind: u8, size: u64) -> Vec<u8> {
    let mut header = entry(kind, "././@LongLink", "", b"");
    header[124..136].copy_from_slice(&[0; 12]);
    header[124] = 0x80;
    header[128..136].copy_from_slice(&size.to_be_bytes());
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_any_length_are_not_read() {
    let long = "n".repeat(5000);
    let many = |length: usize| {
        let name = "n".repeat(length);
        let one = |i| {
            let link = entry(b'L', "././@LongLink", "", format!("{name}{i}\0").as_bytes());
            [link, entry(b'0', "n", "", b"")].concat()
        };
        tar(&(0..(40 << 20) / length).map(one).collect::<Vec<_>>())
    };
    for (bytes, words) in [
        (claiming(b'L', 1 << 40), "larger than 1 MiB"),
        (claiming(b'K', 1 << 40), "larger than 1 MiB"),
        (claiming(b'x', 1 << 40), "larger than 1 MiB"),
        (
            tar(&[
                entry(b'L', "././@LongLink", "", long.as_bytes()),
                entry(b'0', "n", "", b""),
            ]),
            "a member's name is too long",
        ),
        (
            tar(&[
                entry(b'K', "././@LongLink", "", long.as_bytes()),
                entry(b'2', "n", "", b""),
            ]),
            "a member's name is too long",
        ),
        (many(4000), "too long together"),
    ] {
        let home = home();
        // What follows costs the sender next to nothing.
        let mut bytes = bytes;
        bytes.resize(bytes.len() + (64 << 20), 0);
        let archive = Cursor::new(gzip(&bytes));
        let error = home.store.load(archive, Silent).await.unwrap_err();
        assert!(full(&error).contains(words), "{}", full(&error));
        assert!(files(&home.dir.path().join("tmp")).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_load_leaves_no_layers() {
    let home = home();
    let kept = sample(&home, "test/kept:1").await;
    let before = |what: &str| {
        let mut all = files(&home.dir.path().join(what));
        all.sort();
        all
    };
    let (layers, content) = (before("layers"), before("content"));
    assert!(kept.exists() && !layers.is_empty());
    // It comes before what names it, so it is taken before that is read.
    let layer = tar(&[entry(b'0', "file", "", &[7; 300 << 10])]);
    for layer in [layer.clone(), [gzip(&layer), vec![0; 300 << 10]].concat()] {
        for manifest in ["{", r#"[{"Config":"gone","Layers":["layer"]}]"#] {
            let archive = tar(&[
                entry(b'0', "layer", "", &layer),
                entry(b'0', "manifest.json", "", manifest.as_bytes()),
            ]);
            let load = home.store.load(Cursor::new(archive), Silent);
            load.await.unwrap_err();
            assert_eq!(before("layers"), layers);
            assert_eq!(before("content"), content);
        }
    }
    assert!(home.store.get("test/kept:1").is_ok());
}
