//! Plain archives are kept as trees and outlines: whatever they are like, they come out byte by byte as they went in.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Home, entry, files, full, home, save, tar};
use coracle_image::{ImportOptions, Reference, Silent};
use sha2::{Digest as _, Sha256};
use std::io::{Cursor, Read as _};
use std::path::Path;
use std::process::Command;

fn hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

async fn import(home: &Home, archive: &[u8]) -> Result<(), String> {
    let options = ImportOptions {
        reference: Some(Reference::parse_normalized("app:1").unwrap()),
        ..Default::default()
    };
    let archive = Cursor::new(archive.to_vec());
    let imported = home.store.import(archive, options).await;
    imported.map(drop).map_err(|e| full(&e))
}

/// The member of a saved image that has this digest.
fn member(saved: &Path, hex: &str) -> Vec<u8> {
    let mut archive = tar::Archive::new(std::fs::File::open(saved).unwrap());
    let mut entries = archive.entries().unwrap().map(Result::unwrap);
    let wanted = format!("blobs/sha256/{hex}");
    let found = entries.find(|e| *e.path_bytes() == *wanted.as_bytes());
    let mut bytes = Vec::new();
    found
        .unwrap_or_else(|| panic!("no {wanted}"))
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

/// Imports, saves, loads elsewhere and saves again.
async fn round(what: &str, archive: &[u8]) -> Result<(), String> {
    let (first, second) = (home(), home());
    import(&first, archive).await?;
    let digest = hex(archive);
    let saved = first.dir.path().join("saved");
    save(&first.store, "app:1", &saved).await;
    assert!(member(&saved, &digest) == archive, "{what}");
    let loading = tokio::fs::File::open(&saved).await.unwrap();
    second.store.load(loading, Silent).await.unwrap();
    let again = second.dir.path().join("again");
    save(&second.store, "app:1", &again).await;
    let whole = std::fs::read(&saved).unwrap();
    assert!(std::fs::read(again).unwrap() == whole, "{what}");
    // Not by a copy that was kept.
    for home in [&first, &second] {
        let content = home.dir.path().join("content/sha256");
        assert!(!content.join(&digest).exists(), "{what}");
        assert!(files(&home.dir.path().join("tmp")).is_empty(), "{what}");
        assert!(files(&content).len() <= 2, "{what}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_that_take_back_what_they_brought() {
    let file = |name: &str, data: &[u8]| entry(b'0', name, "", data);
    let directory = |name: &str| entry(b'5', name, "", b"");
    let link = |name: &str, to: &str| entry(b'2', name, to, b"");
    let hard = |name: &str, to: &str| entry(b'1', name, to, b"");
    let archives = [
        ("nothing", vec![]),
        ("a file twice", vec![file("a", b"1"), file("a", b"other")]),
        (
            "a directory that becomes a file, and one again",
            vec![
                directory("d/"),
                file("d/x", &[7; 3000]),
                file("d", b"file"),
                directory("d/"),
                file("d/x", b"2"),
            ],
        ),
        (
            "through a link that is replaced",
            vec![
                directory("real/"),
                link("d", "real"),
                file("d/x", b"by the link"),
                directory("d/"),
                file("d/x", b"in the directory"),
                file("real/x", b"in place of the first"),
            ],
        ),
        (
            "names of one file",
            vec![
                file("a", b"1"),
                hard("b", "a"),
                file("a", b"2"),
                hard("b", "a"),
                link("a", "b"),
            ],
        ),
        (
            "marks with content",
            vec![
                file("before", b"1"),
                file(".wh.gone", b"content of a mark"),
                file(".wh..wh.plnk/1", b"of another kind"),
                file("gone/x", b"after all"),
                file("sub/.wh..wh..opq", b"opaque"),
                file(".wh.before", b""),
                file("before", b"2"),
            ],
        ),
    ];
    for (what, entries) in archives {
        round(what, &tar(&entries)).await.unwrap();
        // Without its end mark, and with more behind it.
        if !entries.is_empty() {
            round(what, &entries.concat()).await.unwrap();
        }
        let more = [tar(&entries), b"and more".repeat(1000)].concat();
        round(what, &more).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_as_long_as_they_can_be() {
    // 4095 bytes are the longest path that the kernel takes; a name can follow below a directory that is open.
    let parent = vec!["p".repeat(255); 16].join("/");
    assert_eq!(parent.len(), 4095);
    for path in [&parent[..3900], &parent, &format!("{parent}/{parent:.100}")] {
        let rest = format!(" path={path}\n");
        let record = format!("{}{rest}", rest.len() + 4);
        let long = entry(b'x', "pax", "", record.as_bytes());
        let file = entry(b'0', "cut", "", b"content");
        round(path, &tar(&[long, file])).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_of_gnu_tar() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let long = format!("{}/{}", "d".repeat(90), "e".repeat(90));
    std::fs::create_dir_all(root.join(&long)).unwrap();
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 1 << 20).unwrap();
    let noise: Vec<u8> = (0..400_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(root.join("large"), noise).unwrap();
    std::fs::write(root.join(&long).join("deep"), [1; 1025]).unwrap();
    std::fs::write(root.join("a"), "text").unwrap();
    std::fs::hard_link(root.join("a"), root.join("b")).unwrap();
    std::os::unix::fs::symlink("x".repeat(140), root.join("link")).unwrap();
    for arguments in [
        "--format=gnu",
        "--format=gnu --sparse",
        "--format=pax --sort=name",
        "--format=ustar",
        "--format=gnu --blocking-factor=1",
    ] {
        let tar = Command::new("tar")
            .args(arguments.split(' '))
            .arg("-C")
            .arg(&root)
            .args(["-c", "."])
            .output()
            .unwrap();
        // ustar leaves out what it has no place for.
        assert!(tar.stdout.len() > 1 << 20, "{arguments}");
        round(arguments, &tar.stdout).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_of_any_entries_in_any_order() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % below
    };
    let names = [
        "a", "b", "l", "a/x", "b/x", "l/x", "a/x/y", "b/x/y", "l/x/y",
    ];
    let mut taken = 0;
    for round_number in 0..100 {
        let mut entries = Vec::new();
        for _ in 0..=random(12) {
            let name = names[random(9) as usize];
            let other = names[random(9) as usize];
            entries.push(match random(10) {
                0..5 => {
                    let content = vec![random(256) as u8; random(1500) as usize];
                    entry(b'0', name, "", &content)
                }
                5 | 6 => entry(b'5', &format!("{name}/"), "", b""),
                7 => entry(b'2', "l", if random(2) == 0 { "a" } else { "b/x" }, b""),
                8 => entry(b'1', name, other, b""),
                _ => {
                    let (parent, name) = name.rsplit_once('/').unwrap_or((".", name));
                    entry(b'0', &format!("{parent}/.wh.{name}"), "", b"mark")
                }
            });
        }
        let done = round(&format!("round {round_number}"), &tar(&entries)).await;
        taken += u32::from(done.is_ok());
    }
    // The others are refused, as links that lead nowhere are.
    assert!(taken > 25, "{taken} of 100 were taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_was_changed_on_the_disk_is_not_passed_on() {
    let archive = tar(&[
        entry(b'0', "etc/motd", "", b"hello"),
        entry(b'0', "etc/passwd", "", b"root"),
    ]);
    let home = home();
    let registry = common::registry("");
    import(&home, &archive).await.unwrap();
    let name = format!("{}/app:1", registry.address);
    let name = Reference::parse_normalized(&name).unwrap();
    home.store.tag("app:1", &name).unwrap();
    let layer = home.dir.path().join("layers").join(hex(&archive));
    for (path, content) in [
        ("fs/etc/motd", &b"hallo"[..]),
        ("fs/etc/passwd", b""),
        ("outline", b"coracle outline 2\n"),
    ] {
        let path = layer.join(path);
        let before = std::fs::read(&path).unwrap();
        std::fs::write(&path, content).unwrap();
        let error = home.store.push(&name, None, &Silent).await.unwrap_err();
        let text = full(&error);
        assert!(text.contains("changed on the disk"), "{path:?}: {text}");
        std::fs::write(&path, before).unwrap();
    }
    home.store.push(&name, None, &Silent).await.unwrap();
    let other = common::home();
    let pulled = other.store.pull(&name, None, None, &Silent).await;
    let image = pulled.map_err(|e| full(&e)).unwrap();
    assert_eq!(image.id, home.store.get("app:1").unwrap().id);
}
