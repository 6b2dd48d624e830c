//! The directory and the names of a cluster, and those that a test that was killed has left.

use super::holding::MARK;
use super::signals::{self, Signal};
use coracle_sys::cgroup::Layout;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

const PREFIX: &str = "coracle-cluster-";
const LOCK: &str = "lock";
/// One machine's id a line.
const IDS: &str = "ids";

static COUNT: AtomicU8 = AtomicU8::new(0);

/// A directory that is locked while its test's process lives. Its name has that process's id.
pub struct Place {
    dir: PathBuf,
    ids: Vec<String>,
    lock: File,
}

impl Place {
    pub fn make(machines: usize) -> Self {
        let pid = std::process::id();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("{PREFIX}{pid}-{count}"));
        fs::create_dir_all(&dir).unwrap();
        let lock = File::create(dir.join("lock.new")).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        fs::rename(dir.join("lock.new"), dir.join(LOCK)).unwrap();
        let mut random = [0; 10];
        File::open("/dev/urandom")
            .unwrap()
            .read_exact(&mut random)
            .unwrap();
        let random: String = random.iter().map(|b| format!("{b:02x}")).collect();
        // The first 12 digits name a daemon's control groups, so these must differ.
        let id = |n| format!("f1{pid:06x}{count:02x}{n:02x}{random}");
        let ids: Vec<_> = (1..=machines).map(id).collect();
        fs::write(dir.join(IDS), ids.join("\n")).unwrap();
        Self { dir, ids, lock }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Id of machine `n`, counted from 1.
    pub fn id(&self, n: usize) -> &str {
        &self.ids[n - 1]
    }

    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// When nothing runs any more.
    pub fn remove(&self) {
        for id in &self.ids {
            remove_groups(id);
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The path of a machine's control groups below each hierarchy.
pub fn group(id: &str) -> String {
    format!("/coracle/{}", &id[..12])
}

/// Removes a machine's control groups and what is in them, as a reboot does.
pub fn remove_groups(id: &str) {
    if let Ok(layout) = Layout::detect() {
        let _ = layout.remove_root(&group(id));
        let _ = layout.remove_if_empty("/coracle");
    }
}

/// Removes what tests have left that were killed: their namespaces went with them.
pub fn sweep() {
    for entry in fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|n| n.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| is_left(&entry.path(), pid)) {
            clear(&entry.path());
        }
    }
}

fn is_left(dir: &Path, pid: u32) -> bool {
    match File::open(dir.join(LOCK)) {
        Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
        // It is being made or removed just now, unless nobody is there to do so.
        Err(_) => !Path::new(&format!("/proc/{pid}")).exists(),
    }
}

fn clear(dir: &Path) {
    // One that was stopped with its machine cannot see that its child has gone.
    let mark = format!("{MARK}={}", dir.display()).into_bytes();
    for process in super::processes::all() {
        let environment = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        if environment.split(|b| *b == 0).any(|word| word == mark) {
            signals::send(process.pid, Signal::KILL);
        }
    }
    for id in fs::read_to_string(dir.join(IDS))
        .unwrap_or_default()
        .lines()
    {
        if id.len() == 32 {
            remove_groups(id);
        }
    }
    let _ = Command::new("rm")
        .arg("-rf")
        .arg("--one-file-system")
        .arg(dir)
        .status();
}
