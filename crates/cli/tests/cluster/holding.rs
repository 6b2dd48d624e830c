//! A process that is first in namespaces of its own, and with which they go.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;

use super::signals::{self, Signal};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};

/// What the first process of the room does. It is first in its namespace of processes, so it collects who loses a parent (bash
/// does), and all others go with it. It ends when its input does, which it does when the test's process is gone, however that ended.
///
/// The host's `/proc` is left in place here: process ids found there are those that the test sees.
const ROOM: &str = r"
set -eu
read -r pid _ </proc/self/stat
echo $pid
read -r _ || :
";

/// What the first process of a machine does. `$1`: its name, `$2`: its run directory, `$3`: the file with its boot's id.
const MACHINE: &str = r"
set -eu
read -r pid _ </proc/self/stat
hostname $1
mount -t proc -o nosuid,nodev,noexec proc /proc
mount --bind $3 /proc/sys/kernel/random/boot_id
mount -t tmpfs -o mode=755 run $2
mount --make-rshared /
ip link set lo up
echo $pid
read -r _ || :
";

const OUTSIDE: &str = r"
set -eu
read -r pid _ </proc/self/stat
ip link set lo up
echo $pid
read -r _ || :
";

/// Namespaces, for as long as this lives or until [`Self::end`].
pub struct Holding {
    child: Mutex<Child>,
    input: Mutex<Option<ChildStdin>>,
    /// Its process id as the test sees it.
    pid: u32,
    process: OwnedFd,
    enters: &'static [&'static str],
    dir: PathBuf,
}

impl Holding {
    /// The outer namespaces.
    pub fn room(dir: &Path) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--pid", "--fork", "--kill-child"]);
        command.args(["bash", "-c", ROOM, "room"]);
        Self::spawn(command, dir, &["--net", "--mount", "--pid"])
    }

    /// A machine in the room.
    pub fn machine(&self, name: &str, run_dir: &Path, boot_id: &Path) -> Self {
        let mut command = self.command("unshare");
        command.args(["--net", "--mount", "--pid", "--uts", "--ipc", "--fork"]);
        command.args(["--kill-child", "bash", "-c", MACHINE, name, name]);
        command.args([run_dir, boot_id]);
        let enters = &["--net", "--mount", "--pid", "--uts", "--ipc"];
        Self::spawn(command, &self.dir, enters)
    }

    /// A network in the room.
    pub fn outside(&self) -> Self {
        let mut command = self.command("unshare");
        command.args(["--net", "bash", "-c", OUTSIDE, "outside"]);
        Self::spawn(command, &self.dir, &["--net", "--mount", "--pid"])
    }

    fn spawn(mut command: Command, dir: &Path, enters: &'static [&'static str]) -> Self {
        // It also complains when it is killed, which is no news.
        let complaints = dir.join("complaints");
        let options = File::options().create(true).append(true).open(&complaints);
        let mut child = command
            .env(MARK, dir)
            .stderr(options.unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let pid = line.trim().parse();
        let pid = pid.unwrap_or_else(|_| {
            let said = fs::read_to_string(&complaints).unwrap_or_default();
            panic!("{command:?} made no namespaces: {said}")
        });
        Self {
            child: Mutex::new(child),
            input: Mutex::new(input),
            pid,
            process: opened(pid),
            enters,
            dir: dir.to_owned(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A program in these namespaces.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.pid));
        command.args(self.enters).arg("--").arg(program);
        command.env(MARK, &self.dir).stdin(Stdio::null());
        command
    }

    /// Where a path of these namespaces is for the test.
    pub fn path(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.pid));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A program in this network only, which sees the test's processes. If it lasts, it may outlast the test.
    pub fn in_network(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.pid));
        command.args(["--", program]).env(MARK, &self.dir);
        command
    }

    /// Kills the first process and, where it is first of its processes, all others; returns when they are gone.
    pub fn end(&self) {
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
        self.reap();
    }

    /// Waits until it has ended.
    pub fn reap(&self) {
        let mut child = self.child.lock().unwrap_or_else(|e| e.into_inner());
        wait(&mut child);
        drop(self.input.lock().unwrap_or_else(|e| e.into_inner()).take());
    }
}

/// Waits for a helper through which something was started, and whose own child is gone or going.
pub fn wait(child: &mut Child) {
    // One that saw its child stopped has stopped itself.
    signals::send(child.id(), Signal::CONT);
    let _ = child.wait();
}

/// A descriptor, since ids are given anew.
fn opened(pid: u32) -> OwnedFd {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    pidfd_open(pid, PidfdFlags::empty()).unwrap()
}

/// A variable in the environment of everything that is started here: the cluster's directory.
pub const MARK: &str = "CORACLE_TEST_CLUSTER";

impl Drop for Holding {
    fn drop(&mut self) {
        self.end();
    }
}
