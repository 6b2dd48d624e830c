//! The guests of this directory, on a file system that `image` makes of this machine's programs.

use crate::{common, qemu};
use std::path::Path;
use std::process::Command;

/// Runs a guest until its machine is off; the machine has a disk if it has a systemd.
pub fn run(guest: &str, systemd: bool) {
    let kernel = qemu::kernel();
    let work = tempfile::tempdir().unwrap();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm");
    let made = Command::new(own.join("image"))
        .arg(&kernel)
        .arg(common::programs().parent().unwrap())
        .arg(own.join(guest))
        .arg(work.path())
        .args(systemd.then_some("systemd"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", common::errors(&made));
    let more = if systemd {
        let disk = work.path().join("disk");
        std::fs::File::create(&disk)
            .and_then(|f| f.set_len(1 << 30))
            .unwrap();
        vec!["-drive".to_owned(), qemu::disk(&disk)]
    } else {
        vec!["-no-reboot".to_owned()]
    };
    qemu::assert_whole(&qemu::run(600, &kernel, &work.path().join("initrd"), &more));
}
