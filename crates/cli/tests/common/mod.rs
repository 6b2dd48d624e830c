//! A real daemon in a network namespace and directories of its own, driven by our own command and by Debian's docker.
#![allow(clippy::unwrap_used, dead_code)]

pub mod outside;
pub mod registry;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A daemon and what it may leave; all of it goes when this is dropped.
pub struct Daemon {
    pub dir: tempfile::TempDir,
    child: Option<Child>,
    /// A process that keeps the network namespace while daemons come and go.
    keeper: Child,
}

/// Waits until something is so; fails with `what` after a minute.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn programs() -> PathBuf {
    let coracle = PathBuf::from(env!("CARGO_BIN_EXE_coracle"));
    let programs = ["coracle-holder", "coracle-init"];
    if !programs.iter().all(|p| coracle.with_file_name(p).exists()) {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--locked", "-p", "coracle-shim"])
            .status()
            .unwrap();
        assert!(built.success());
    }
    coracle
}

/// Text of an output's stdout, without the last newline.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned()
}

/// Text of an output's stderr.
pub fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

impl Daemon {
    /// Our command fails, with these words.
    pub fn refused(&self, args: &[&str], words: &str) {
        let output = self.command().args(args).output().unwrap();
        let said = errors(&output);
        assert!(!output.status.success(), "{args:?}: {}", text(&output));
        assert!(said.contains(words), "{args:?}: {said}");
    }

    /// Starts one with an image `bb` of busybox and nothing else.
    pub fn start() -> Self {
        let daemon = Self::bare();
        daemon.image();
        daemon
    }

    /// Starts one without images.
    pub fn bare() -> Self {
        let mut daemon = Self::unstarted();
        daemon.up();
        daemon
    }

    /// Its place, before it starts.
    pub fn unstarted() -> Self {
        let mut keeper = Command::new("unshare")
            .args([
                "--net",
                "sh",
                "-c",
                "ip link set lo up; echo; exec sleep infinity",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The line says that the namespace is there.
        let mut line = [0];
        std::io::Read::read_exact(keeper.stdout.as_mut().unwrap(), &mut line).unwrap();
        Self {
            dir: tempfile::tempdir().unwrap(),
            child: None,
            keeper,
        }
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Starts the daemon and waits until it answers.
    pub fn up(&mut self) {
        self.up_with(Path::new("/dev/null"));
    }

    /// As [`Self::up`], with a configuration file.
    pub fn up_with(&mut self, config: &Path) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let child = self
            .inside(programs())
            .args(["daemon", "--config"])
            .arg(config)
            .arg("--state-dir")
            .arg(self.state_dir())
            .arg("--run-dir")
            .arg(self.run_dir())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        until("the daemon answers", || {
            let gone = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(
                gone.is_none(),
                "the daemon ended ({gone:?}):\n{}",
                self.log()
            );
            self.coracle(["info"]).status.success()
        });
    }

    /// Starts one of our commands and lets it go on.
    pub fn spawn<const N: usize>(&self, args: [&str; N]) -> Child {
        let mut command = self.command();
        let command = command.args(args).stdout(Stdio::null());
        command.stderr(Stdio::inherit()).spawn().unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Kills the daemon with SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends the daemon with SIGTERM.
    pub fn terminate(&mut self) {
        let mut child = self.child.take().unwrap();
        signal(child.id(), "TERM");
        assert!(child.wait().unwrap().success());
    }

    /// A program in the daemon's network namespace.
    pub fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.keeper.id()))
            .arg("--")
            .arg(program);
        command
    }

    /// Our own command.
    pub fn command(&self) -> Command {
        let mut command = Command::new(programs());
        command
            .arg("--run-dir")
            .arg(self.run_dir())
            .stdin(Stdio::null());
        command
    }

    pub fn coracle<const N: usize>(&self, args: [&str; N]) -> Output {
        self.command().args(args).output().unwrap()
    }

    /// Our command, which must succeed; its output.
    pub fn ok<const N: usize>(&self, args: [&str; N]) -> String {
        let output = self.command().args(args).output().unwrap();
        assert!(
            output.status.success(),
            "{args:?}: {}{}\n{}",
            text(&output),
            errors(&output),
            self.log()
        );
        text(&output)
    }

    /// Debian's docker, asked unchanged.
    pub fn docker<const N: usize>(&self, args: [&str; N]) -> Output {
        self.docker_raw(&args)
    }

    /// As [`Self::docker`], with any number of words.
    pub fn docker_raw(&self, args: &[&str]) -> Output {
        Command::new("docker")
            .env(
                "DOCKER_HOST",
                format!("unix://{}", self.run_dir().join("docker.sock").display()),
            )
            .env("DOCKER_CONFIG", self.dir.path())
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("docker runs (Debian package docker.io)")
    }

    /// docker, which must succeed; its output.
    pub fn docker_ok<const N: usize>(&self, args: [&str; N]) -> String {
        let output = self.docker(args);
        assert!(
            output.status.success(),
            "{args:?}: {}{}\n{}",
            text(&output),
            errors(&output),
            self.log()
        );
        text(&output)
    }

    /// Makes the image `bb`.
    pub fn image(&self) {
        let root = self.dir.path().join("root");
        let bin = root.join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy("/bin/busybox", bin.join("busybox"))
            .expect("busybox (Debian package busybox-static)");
        for tool in [
            "sh", "true", "false", "sleep", "cat", "echo", "id", "ls", "nslookup", "wget", "httpd",
            "kill", "grep", "dd", "mkdir", "touch", "hostname", "test", "stat", "head", "mount",
            "nc", "ln", "rm", "tail",
        ] {
            std::os::unix::fs::symlink("busybox", bin.join(tool)).unwrap();
        }
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::create_dir_all(root.join("data")).unwrap();
        std::fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:root:/:/bin/sh\nweb:x:33:33::/:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(root.join("etc/group"), "root:x:0:\nweb:x:33:\n").unwrap();
        std::fs::write(root.join("data/from-image"), "image\n").unwrap();
        let tar = Command::new("tar")
            .arg("-C")
            .arg(&root)
            .args(["-c", "."])
            .output()
            .unwrap();
        let mut import = self
            .command()
            .args(["import", "--change", "CMD [\"/bin/sh\"]", "-", "bb"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        import.stdin.take().unwrap().write_all(&tar.stdout).unwrap();
        assert!(import.wait().unwrap().success());
    }

    /// The daemon's part of each control group hierarchy.
    pub fn cgroup_root(&self) -> Option<String> {
        let id = std::fs::read_to_string(self.state_dir().join("machine-id")).ok()?;
        Some(format!("/coracle/{}", id.get(..12)?))
    }

    /// One field of a container.
    pub fn field(&self, name: &str, field: &str) -> String {
        self.ok(["inspect", "--format", &format!("{{{{{field}}}}}"), name])
    }

    /// Writes a unit file and gives its path.
    pub fn unit(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Processes whose command line or environment names our directories, except the keeper.
    pub fn leftovers(&self) -> Vec<String> {
        let mark = self.dir.path().to_str().unwrap().to_owned();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let same_net = std::fs::read_link(entry.path().join("ns/net")).ok()
                == std::fs::read_link(format!("/proc/{}/ns/net", self.keeper.id())).ok();
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if pid != self.keeper.id() && (same_net || line.contains(&mark)) && !line.is_empty() {
                found.push(format!("{pid} {line}"));
            }
        }
        found
    }
}

/// Sends a signal to a process that the test knows.
pub fn signal(pid: u32, name: &str) {
    assert!(
        Command::new("kill")
            .args(["-s", name, &pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
}

/// The parent of a process.
pub fn parent(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status
        .lines()
        .find_map(|l| l.strip_prefix("PPid:"))
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

/// Whether a process is there and no zombie.
pub fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}

/// Control groups of ours that are left of a container.
pub fn cgroups(id: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for root in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        // One directory a daemon, and the containers below it.
        for daemon in std::fs::read_dir(root.path().join("coracle"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = daemon.path().join(id);
            if path.exists() {
                found.push(path);
            }
        }
    }
    found
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A daemon that was killed is needed once more to take down what it left.
        if self.child.is_none() && self.run_dir().exists() && !std::thread::panicking() {
            self.up();
        }
        // One that has died would never answer.
        let gone = |c: &mut Child| !matches!(c.try_wait(), Ok(None));
        if !self.child.as_mut().is_none_or(gone) {
            let _ = self.coracle(["system", "down", "-t", "0"]);
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for line in self.leftovers() {
            let _ = Command::new("kill")
                .args(["-9", line.split(' ').next().unwrap_or_default()])
                .status();
        }
        // Of a test that came to its end there is nothing to remove here.
        if let Some(root) = self.cgroup_root() {
            let groups = coracle_sys::cgroup::Layout::detect().unwrap();
            let _ = groups.remove_root(&root);
            let _ = groups.remove_if_empty("/coracle");
        }
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
