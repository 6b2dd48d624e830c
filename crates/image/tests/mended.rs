//! What the store once did wrong.
#![allow(clippy::unwrap_used)]

mod common;

use common::{entry, full, home, tar};
use coracle_image::{ErrorKind, ImportOptions, InUse, Reference, Removed};
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

/// A directory as overlayfs would have written it, on the store's file system.
fn written(dir: &Path, name: &str) -> PathBuf {
    let upper = dir.join(name);
    fs::create_dir_all(upper.join("deep/er")).unwrap();
    fs::write(upper.join("deep/er/file"), "content").unwrap();
    fs::write(upper.join("other"), "more").unwrap();
    upper
}

#[test]
fn a_layer_that_was_damaged_is_replaced() {
    let home = home();
    let epoch = Some(chrono::DateTime::UNIX_EPOCH);
    let adopt = |name: &str| {
        let upper = written(home.dir.path(), name);
        home.store.adopt(&upper, epoch).unwrap()
    };
    let first = adopt("one");
    let layer = home
        .dir
        .path()
        .join("layers")
        .join(first.diff_id.unwrap().hex());
    // Whoever comes second finds it whole, and leaves it.
    let inode = |path: &Path| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path).unwrap().ino()
    };
    let before = inode(&layer.join("fs"));
    assert_eq!(adopt("two").diff_id, first.diff_id);
    assert_eq!(inode(&layer.join("fs")), before);
    for damage in [
        Box::new(|fs_: &Path| fs::remove_dir_all(fs_.join("deep")).unwrap()) as Box<dyn Fn(&Path)>,
        Box::new(|fs_: &Path| fs::write(fs_.join("other"), "").unwrap()),
        Box::new(|fs_: &Path| fs::remove_file(fs_.join("../layer.json")).unwrap()),
    ] {
        damage(&layer.join("fs"));
        assert_eq!(adopt("again").diff_id, first.diff_id);
        assert_eq!(fs::read(layer.join("fs/deep/er/file")).unwrap(), b"content");
        assert_eq!(fs::read(layer.join("fs/other")).unwrap(), b"more");
        assert!(layer.join("layer.json").is_file());
    }
    // A container may run on what was damaged: that is only set aside, across starts of the daemon, until nothing needs the layer.
    let aside = || {
        let all = common::files(&home.dir.path().join("tmp"));
        all.iter().filter(|p| p.ends_with("fs/other")).count()
    };
    assert_eq!(aside(), 3);
    let files = common::files(&home.dir.path().join("tmp"));
    let set_aside = |p: &PathBuf| {
        p.components()
            .any(|c| c.as_os_str().to_string_lossy().starts_with("aside-"))
    };
    assert!(files.iter().all(set_aside), "{files:?}");
    home.store.collect().unwrap();
    assert_eq!(aside(), 3);
    drop(first);
    home.store.collect().unwrap();
    assert!(!layer.exists());
    assert!(common::files(&home.dir.path().join("tmp")).is_empty());
}

#[test]
fn sockets_are_no_part_of_a_layer() {
    use std::os::unix::fs::MetadataExt;
    let home = home();
    let upper = home.dir.path().join("upper");
    fs::create_dir_all(upper.join("run/deep")).unwrap();
    fs::write(upper.join("run/file"), "content").unwrap();
    for place in ["run/socket", "run/deep/socket", "socket"] {
        drop(std::os::unix::net::UnixListener::bind(upper.join(place)).unwrap());
    }
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_234_500);
    for dir in ["run", "run/deep"] {
        let dir = fs::File::open(upper.join(dir)).unwrap();
        dir.set_modified(old).unwrap();
    }
    let adopted = home.store.adopt(&upper, None).unwrap();
    let tree = home
        .dir
        .path()
        .join("layers")
        .join(adopted.diff_id.unwrap().hex())
        .join("fs");
    let found = common::files(&tree);
    assert_eq!(found, [tree.join("run/file")], "a socket is there");
    for dir in ["run", "run/deep"] {
        let facts = fs::metadata(tree.join(dir)).unwrap();
        assert_eq!((facts.mtime(), facts.mtime_nsec()), (1234, 500_000_000));
    }
    // A release that left sockets in layers made this one; what comes of its archive is the same layer.
    drop(std::os::unix::net::UnixListener::bind(tree.join("run/socket")).unwrap());
    let before = fs::metadata(&tree).unwrap().ino();
    let again = home.dir.path().join("again");
    fs::create_dir_all(again.join("run/deep")).unwrap();
    fs::write(again.join("run/file"), "content").unwrap();
    let modified = fs::metadata(tree.join("run/file"))
        .unwrap()
        .modified()
        .unwrap();
    fs::File::options()
        .write(true)
        .open(again.join("run/file"))
        .unwrap()
        .set_modified(modified)
        .unwrap();
    for dir in ["run", "run/deep"] {
        fs::File::open(again.join(dir))
            .unwrap()
            .set_modified(old)
            .unwrap();
    }
    assert_eq!(
        home.store.adopt(&again, None).unwrap().diff_id,
        adopted.diff_id
    );
    assert_eq!(
        fs::metadata(&tree).unwrap().ino(),
        before,
        "a whole layer was exchanged"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_containers_need_goes_with_the_last_of_them() {
    let home = home();
    let archive = tar(&[entry(b'0', "file", "", b"content")]);
    let import = async || {
        let options = ImportOptions {
            reference: Some(Reference::parse_normalized("mine:1").unwrap()),
            ..ImportOptions::default()
        };
        let archive = Cursor::new(archive.clone());
        home.store.import(archive, options).await.unwrap().id
    };
    let id = import().await;
    let nobody = |_: &_| None;
    let stopped = |_: &_| {
        Some(InUse {
            container: "web".into(),
            running: false,
        })
    };
    // While a container is being made, its image stays, whatever the force.
    let (image, claim) = home.store.claim("mine:1").unwrap();
    let error = home.store.remove("mine:1", false, &nobody).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{}", full(&error));
    let by_id = id.to_string();
    let error = home.store.remove(&by_id, true, &nobody).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{}", full(&error));
    drop(claim);
    let removed = home.store.remove("mine:1", true, &stopped).unwrap();
    assert!(removed.contains(&Removed::Deleted(id)), "{removed:?}");
    assert!(home.store.list().is_empty());
    for gone in ["mine:1", &by_id, &by_id[..20]] {
        assert!(home.store.get(gone).is_err() && home.store.claim(gone).is_err());
    }
    let dirs = home.store.layer_dirs(&id).unwrap();
    assert_eq!(home.store.image(id).unwrap().layers, image.layers);
    home.store.release(&|of| *of == id).unwrap();
    home.store.collect().unwrap();
    assert!(dirs[0].join("file").exists());
    home.store.release(&|_| false).unwrap();
    assert!(!dirs[0].exists() && home.store.layer_dirs(&id).is_err());
    // What comes again is in sight again.
    let again = import().await;
    home.store.remove("mine:1", true, &stopped).unwrap();
    let bytes = home.store.image(again).unwrap().raw_config;
    let layers = home.store.image(again).unwrap().layers;
    let name = Reference::parse_normalized("back:1").unwrap();
    home.store.compose(&bytes, &layers, &[name]).unwrap();
    home.store.release(&|_| false).unwrap();
    assert_eq!(home.store.get("back:1").unwrap().id, again);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_is_written_when_it_changes() {
    use std::os::unix::fs::MetadataExt;
    let home = home();
    let path = home.dir.path().join("images/index.json");
    // Each writing makes a file of its own; the old ones are held so that their numbers are not taken again.
    let held = std::cell::RefCell::new(Vec::new());
    let written = || {
        let file = fs::File::open(&path).unwrap();
        let number = file.metadata().unwrap().ino();
        held.borrow_mut().push(file);
        number
    };
    let archive = tar(&[entry(b'0', "file", "", b"content")]);
    let name = Reference::parse_normalized("mine:1").unwrap();
    let options = ImportOptions {
        reference: Some(name.clone()),
        ..ImportOptions::default()
    };
    let id = home
        .store
        .import(Cursor::new(archive), options)
        .await
        .unwrap()
        .id;
    let first = written();
    home.store.tag("mine:1", &name).unwrap();
    home.store.write_down().unwrap();
    assert_eq!(written(), first, "nothing has changed");
    home.store.used(&id);
    home.store.write_down().unwrap();
    let used = written();
    assert_ne!(used, first);
    home.store.write_down().unwrap();
    assert_eq!(written(), used);
    let stopped = |_: &_| {
        Some(InUse {
            container: "web".into(),
            running: false,
        })
    };
    home.store.remove("mine:1", true, &stopped).unwrap();
    let removed = written();
    assert_ne!(removed, used);
    // Whoever uses other images while this one is needed has it written down another time.
    home.store.used(&id);
    home.store.release(&|of| *of == id).unwrap();
    assert_eq!(written(), removed);
    home.store.release(&|_| false).unwrap();
    assert_ne!(written(), removed);
}
