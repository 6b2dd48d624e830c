//! A machine's disk: a file system in memory, of a size that can be taken away and given back.

use super::holding::Holding;
use super::wait_for;
use crate::common::outside::succeed;
use rustix::fs::statvfs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub struct Disk {
    dir: PathBuf,
    mib: u32,
}

impl Disk {
    /// Mounts it in the room, where machines get it from.
    pub fn make(room: &Holding, dir: PathBuf, mib: u32) -> Self {
        std::fs::create_dir_all(&dir).unwrap();
        let options = format!("mode=755,size={mib}m");
        succeed(
            room.command("mount")
                .args(["-t", "tmpfs", "-o", &options, "disk"])
                .arg(&dir),
        );
        Self { dir, mib }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn resize(&self, room: &Holding, size: &str) -> bool {
        let options = format!("remount,size={size}");
        let mut command = room.command("mount");
        let done = command.args(["-o", &options]).arg(&self.dir).output();
        done.unwrap().status.success()
    }

    /// Bytes that could still be written.
    pub fn free(&self, room: &Holding) -> u64 {
        let state = statvfs(room.path(&self.dir)).unwrap();
        state.f_bavail * state.f_frsize
    }

    /// Makes the disk as large as what is on it, so that nothing more has room.
    pub fn fill(&self, room: &Holding) {
        // What is written meanwhile makes it too small, which is refused.
        wait_for("the disk is full", Duration::from_secs(10), || {
            let state = statvfs(room.path(&self.dir)).unwrap();
            let used = (state.f_blocks - state.f_bfree) * state.f_frsize;
            self.resize(room, &used.max(state.f_frsize).to_string()) && self.free(room) == 0
        });
    }

    /// Gives all of its size back.
    pub fn empty(&self, room: &Holding) {
        assert!(self.resize(room, &format!("{}m", self.mib)));
    }
}
