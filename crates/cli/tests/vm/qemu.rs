//! A machine in QEMU, for guests that say on the console what they find.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Debian's kernel and its modules, as `scripts/kernel` fetches them.
pub fn kernel() -> PathBuf {
    let kernel = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("kernel");
    assert!(
        kernel.join("vmlinuz").exists(),
        "no kernel in {}: `make test` fetches it, or `scripts/kernel {0}`",
        kernel.display()
    );
    kernel
}

/// An argument of QEMU: a disk.
pub fn disk(file: &Path) -> String {
    format!("file={},format=raw,if=virtio,discard=unmap", file.display())
}

/// Runs a machine until it is off, for so many seconds at most; what it said.
pub fn run(seconds: u32, kernel: &Path, initrd: &Path, more: &[String]) -> String {
    let mut machine = Command::new("timeout");
    // One processor: emulated ones get stuck when kernel code is patched while the others run.
    machine
        .arg(seconds.to_string())
        .args(["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max"])
        .args(["-m", "1536", "-smp", "1", "-nographic", "-nic", "none"])
        .args(["-append", "console=ttyS0 quiet panic=-1", "-kernel"])
        .arg(kernel.join("vmlinuz"))
        .arg("-initrd")
        .arg(initrd)
        .args(more);
    let mut machine = machine
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .stdout(Stdio::piped())
        .spawn()
        .expect("coreutils' timeout starts Debian's qemu-system-x86");
    let mut said = Vec::new();
    std::io::Read::read_to_end(&mut machine.stdout.take().unwrap(), &mut said).unwrap();
    machine.wait().unwrap();
    String::from_utf8_lossy(&said).into_owned()
}

/// The guest has come to its end, and found nothing wrong.
pub fn assert_whole(said: &str) {
    assert!(
        said.contains("everything was looked at") && !said.contains("FAILED"),
        "{said}"
    );
}
