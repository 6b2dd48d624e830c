//! Our Debian package on a Debian 12 with systemd: installed, replaced by the next version under what runs, removed and purged.
//! `make test-os` runs this, and `make test` does not: it takes too long for that.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "vm/qemu.rs"]
mod qemu;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn the_same_inputs_make_the_same_package() {
    let work = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let dir = work.path().join(name);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/deb");
        let made = Command::new(script)
            .arg(common::programs().parent().unwrap())
            .arg(&dir)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", common::errors(&made));
        let package = fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
        (
            package.file_name().unwrap().to_owned(),
            fs::read(package).unwrap(),
        )
    };
    assert!(make("once") == make("twice"));
}

#[test]
fn a_debian_is_given_the_package_and_the_next_one_and_loses_nothing() {
    let kernel = qemu::kernel();
    let machine = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("debian-machine");
    assert!(
        machine.join("root.tar").exists(),
        "no Debian in {}: `make test-os` makes it, or `scripts/debian-machine {0}`",
        machine.display()
    );
    let work = tempfile::tempdir().unwrap();
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deb/image");
    let made = Command::new(image)
        .arg(&machine)
        .arg(&kernel)
        .arg(common::programs().parent().unwrap())
        .arg(work.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", common::errors(&made));
    // Containers are given this one, or are not.
    let spare = work.path().join("spare");
    fs::File::create(&spare)
        .and_then(|f| f.set_len(1 << 20))
        .unwrap();
    let disk = work.path().join("disk");
    let mut more = vec!["-no-reboot".to_owned()];
    for file in [&disk, &spare] {
        more.extend(["-drive".to_owned(), qemu::disk(file)]);
    }
    // A machine that was reset takes minutes to unpack its first file system where it is emulated: one that wants to boot again is
    // begun anew.
    let boots = [(); 2].map(|()| qemu::run(1200, &kernel, &work.path().join("initrd"), &more));
    qemu::assert_whole(&boots.concat());
}
