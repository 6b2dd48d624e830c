//! A machine of its own with Debian's kernel: control groups of version 2 alone, modules that come when they are needed, and
//! an overlayfs that is older than the one here may be.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "vm/qemu.rs"]
mod qemu;

use std::path::Path;
use std::process::Command;

/// Runs a guest of `tests/vm` until its machine is off; the machine has a disk if it has a systemd.
fn run(guest: &str, systemd: bool) {
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
    qemu::assert_whole(&qemu::run(300, &kernel, &work.path().join("initrd"), &more));
}

#[test]
fn containers_run_on_debians_kernel_with_control_groups_of_version_2() {
    run("guest", false);
}

/// Installed as `make install` does it: the daemon is restarted, stopped and killed under what runs; the machine goes down in
/// order, and comes back; its power goes, and all that was acknowledged is there.
#[test]
fn a_machine_with_systemd_is_restarted_and_loses_its_power() {
    run("guest-systemd", true);
}
