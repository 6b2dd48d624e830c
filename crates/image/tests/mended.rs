//! What the store once did wrong.
#![allow(clippy::unwrap_used)]

mod common;

use common::home;
use std::fs;
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
    assert!(common::files(&home.dir.path().join("tmp")).is_empty());
}
