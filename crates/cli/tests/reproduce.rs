//! `scripts/os` makes the same bytes from the same programs: in another directory, from another copy of this repository, with Debian's packages
//! fetched anew, at another time, for another user's settings.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

const PROGRAMS: [&str; 4] = ["coracle", "coracle-holder", "coracle-init", "coracle-pid1"];
/// All that is shipped, and what it is made of, so that a difference is told where it is.
const MADE: [&str; 7] = [
    "update/root.img",
    "update/coracle.efi",
    "update/release.json",
    "update/release.json.minisig",
    "update.tar",
    "coracle.raw",
    "coracle.qcow2",
];

/// A file system of another kind.
const MEMORY: &str = "/dev/shm";

fn run(command: &mut Command) -> String {
    let done = command.output().unwrap();
    assert!(
        done.status.success(),
        "{command:?}: {}",
        common::errors(&done)
    );
    String::from_utf8(done.stdout).unwrap()
}

fn digest(path: &Path) -> String {
    let text = run(Command::new("sha256sum").arg(path));
    text[..64].to_owned()
}

/// Makes it with the scripts of `source`, programs of `programs`, in `out`.
fn make(source: &Path, programs: &Path, out: &Path, keys: &Path) -> Vec<(&'static str, String)> {
    let mut command = Command::new(source.join("scripts/os"));
    command.arg(programs).arg(out).current_dir("/");
    command
        .env(
            "KERNEL",
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("kernel"),
        )
        .env("COMPRESS", "lz4")
        .env("UPDATE_KEY", keys.join("update.key"))
        .env("UPDATE_PUB", keys.join("update.pub"));
    // Names in a directory come in another order on another file system.
    if out.starts_with(MEMORY) {
        command.env("TZ", "Pacific/Chatham").env("TMPDIR", MEMORY);
    }
    run(&mut command);
    MADE.map(|name| (name, digest(&out.join(name)))).to_vec()
}

#[test]
fn the_image_is_the_same_bytes_whenever_and_wherever_it_is_made() {
    let work = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let work = work.path();
    // The one thing that is chance: the pair of keys.
    let keys = work.join("keys");
    fs::create_dir(&keys).unwrap();
    run(Command::new("minisign")
        .args(["-G", "-W", "-p"])
        .arg(keys.join("update.pub"))
        .arg("-s")
        .arg(keys.join("update.key")));
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let programs = common::programs();
    let programs = programs.parent().unwrap();
    let first = make(&here, programs, &work.join("first"), &keys);

    // Another checkout, whose files are as old as it is.
    let copy = work.join("a/longer/way/to/the/sources");
    fs::create_dir_all(&copy).unwrap();
    run(Command::new("cp")
        .arg("-r")
        .args([here.join("scripts"), here.join("os")])
        .arg(&copy));
    let others = work.join("programs");
    fs::create_dir(&others).unwrap();
    for name in PROGRAMS {
        fs::copy(programs.join(name), others.join(name)).unwrap();
        let old = SystemTime::now() - Duration::from_secs(1_000_000);
        File::options()
            .write(true)
            .open(others.join(name))
            .unwrap()
            .set_modified(old)
            .unwrap();
    }
    let memory = tempfile::tempdir_in(MEMORY).unwrap();
    let second = make(&copy, &others, &memory.path().join("made"), &keys);
    assert_eq!(first, second);
}
