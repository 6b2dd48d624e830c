//! File systems of the kernel, and those of the machine.

use rustix::{
    fs::{Mode, mkdir},
    io::Errno,
    mount::{MountFlags, mount},
};
use std::{ffi::CString, fs, io, path::Path};

/// For what has neither programs nor devices.
pub const BASE: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NOEXEC)
    .union(MountFlags::NODEV);

/// Mounts a file system whose directory is made if it is missing.
///
/// # Errors
/// The kernel's own, with the place in their text.
pub fn at(
    place: &str,
    source: &str,
    kind: &str,
    flags: MountFlags,
    options: &str,
) -> io::Result<()> {
    if !Path::new(place).exists() {
        fs::create_dir_all(place)?;
    }
    let options = CString::new(options)?;
    match mount(source, place, kind, flags, &*options) {
        // The kernel mounts its devices by itself where it is built so.
        Err(Errno::BUSY) if kind == "devtmpfs" => Ok(()),
        done => done.map_err(|e| {
            let error = io::Error::from(e);
            io::Error::new(error.kind(), format!("{kind} at {place}: {error}"))
        }),
    }
}

/// What both stages need.
///
/// # Errors
/// The first one's.
pub fn kernel() -> io::Result<()> {
    at("/proc", "proc", "proc", BASE, "")?;
    at("/sys", "sysfs", "sysfs", BASE, "")?;
    at(
        "/dev",
        "devtmpfs",
        "devtmpfs",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        "mode=755",
    )
}

/// What the machine needs besides.
///
/// # Errors
/// The first one's.
pub fn machine() -> io::Result<()> {
    at("/run", "run", "tmpfs", BASE, "mode=755,size=25%")?;
    at("/tmp", "tmp", "tmpfs", BASE, "mode=1777,size=25%")?;
    at("/etc", "etc", "tmpfs", BASE, "mode=755,size=64m")?;
    for place in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        match mkdir(place, Mode::from(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let terminals = MountFlags::NOSUID | MountFlags::NOEXEC;
    at(
        "/dev/pts",
        "devpts",
        "devpts",
        terminals,
        "mode=620,gid=5,ptmxmode=666",
    )?;
    at("/dev/shm", "shm", "tmpfs", BASE, "mode=1777")?;
    at("/dev/mqueue", "mqueue", "mqueue", BASE, "")?;
    at("/sys/fs/cgroup", "cgroup2", "cgroup2", BASE, "nsdelegate")
}

/// What is there to be had but not needed: its absence is no failure.
pub fn optional() {
    for (place, kind) in [
        ("/sys/kernel/security", "securityfs"),
        ("/sys/kernel/debug", "debugfs"),
        ("/sys/kernel/tracing", "tracefs"),
        ("/sys/fs/bpf", "bpf"),
        ("/sys/firmware/efi/efivars", "efivarfs"),
    ] {
        if Path::new(place).exists() && kind != "debugfs" && kind != "tracefs" {
            at(place, kind, kind, BASE, "").ok();
        }
    }
}
