//! A machine of its own with Debian's kernel: control groups of version 2 alone, modules that come when they are needed, and
//! an overlayfs that is older than the one here may be.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[test]
fn containers_run_on_debians_kernel_with_control_groups_of_version_2() {
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
        .arg(own.join("guest"))
        .arg(work.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", common::errors(&made));
    // One processor: emulated ones get stuck when kernel code is patched while the others run.
    let mut machine = Command::new("timeout")
        .args(["300", "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max"])
        .args([
            "-m",
            "1536",
            "-smp",
            "1",
            "-nographic",
            "-no-reboot",
            "-nic",
            "none",
        ])
        .args(["-append", "console=ttyS0 quiet panic=-1", "-kernel"])
        .arg(kernel.join("vmlinuz"))
        .arg("-initrd")
        .arg(work.path().join("initrd"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Debian's qemu-system-x86 is installed");
    let mut said = Vec::new();
    std::io::Read::read_to_end(&mut machine.stdout.take().unwrap(), &mut said).unwrap();
    machine.wait().unwrap();
    let said = String::from_utf8_lossy(&said);
    assert!(
        said.contains("everything was looked at") && !said.contains("FAILED"),
        "{said}"
    );
}
