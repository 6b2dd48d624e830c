//! A machine of its own with Debian's kernel: control groups of version 2 alone, modules that come when they are needed, and
//! an overlayfs that is older than the one here may be.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs a guest of `tests/vm` until its machine is off; the machine has a disk if it has a systemd.
fn run(guest: &str, systemd: bool) {
    let kernel = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("kernel");
    assert!(
        kernel.join("vmlinuz").exists(),
        "no kernel in {}: `make test` fetches it, or `scripts/kernel {0}`",
        kernel.display()
    );
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
    let mut machine = Command::new("timeout");
    // One processor: emulated ones get stuck when kernel code is patched while the others run.
    machine
        .args(["300", "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max"])
        .args(["-m", "1536", "-smp", "1", "-nographic", "-nic", "none"])
        .args(["-append", "console=ttyS0 quiet panic=-1", "-kernel"])
        .arg(kernel.join("vmlinuz"))
        .arg("-initrd")
        .arg(work.path().join("initrd"));
    if systemd {
        let disk = work.path().join("disk");
        std::fs::File::create(&disk)
            .and_then(|f| f.set_len(1 << 30))
            .unwrap();
        machine.arg("-drive").arg(format!(
            "file={},format=raw,if=virtio,discard=unmap",
            disk.display()
        ));
    } else {
        machine.arg("-no-reboot");
    }
    let mut machine = machine
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .stdout(Stdio::piped())
        .spawn()
        .expect("coreutils' timeout starts Debian's qemu-system-x86");
    let mut said = Vec::new();
    std::io::Read::read_to_end(&mut machine.stdout.take().unwrap(), &mut said).unwrap();
    machine.wait().unwrap();
    let said = String::from_utf8_lossy(&said);
    assert!(
        said.contains("everything was looked at") && !said.contains("FAILED"),
        "{said}"
    );
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
