//! A holder of its own, a root filesystem of busybox, and the daemon's side of the conversation.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

pub mod spec;

pub use spec::{oci, process};

use coracle_shim_protocol::{
    PROTOCOL_VERSION, fds,
    frame::{self, Kind},
    holder,
    shim::{ExitStatus, KillMode, LogConfig, Reply, Request, Rootfs, Seccomp, ShimSpec, Workload},
};
use oci_spec::runtime::{Process, Spec};
use serde_json::Value;
use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Polls a condition for at most twenty seconds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

pub struct Bench {
    pub dir: TempDir,
    pub run_dir: PathBuf,
    pub holder: Child,
    /// Above the groups of its containers: nobody else's, so that nobody else clears them away.
    pub cgroups: String,
    ids: Vec<String>,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(start_holder)
    }

    /// With a holder that sees a version 2 hierarchy only. On a machine that has version 1 too it controls little, but
    /// processes, devices and kills are dealt with in its way.
    pub fn on_version_2() -> Self {
        Self::with(|run_dir| {
            let script = "umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"";
            start_by(
                run_dir,
                Command::new("unshare")
                    .args(["--mount", "sh", "-c", script, "sh"])
                    .arg(holder_program()),
            )
        })
    }

    fn with(start: impl FnOnce(&Path) -> Child) -> Self {
        let dir = tempfile::Builder::new().prefix("shim").tempdir().unwrap();
        // The root of the container is passed by everybody inside.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let run_dir = dir.path().join("run");
        root_filesystem(&dir.path().join("rootfs"));
        let holder = start(&run_dir);
        Self {
            dir,
            run_dir,
            holder,
            cgroups: format!(
                "/coracle-test-{}-{}",
                std::process::id(),
                NEXT.fetch_add(1, Ordering::Relaxed)
            ),
            ids: Vec::new(),
        }
    }

    pub fn ask_holder(&self, request: &holder::Request) -> holder::Reply {
        let mut stream = UnixStream::connect(self.run_dir.join(holder::SOCKET)).unwrap();
        frame::send(&mut stream, request).unwrap();
        fds::receive(&mut stream).unwrap().0
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.run_dir.join("holder.log")).unwrap_or_default()
    }

    pub fn state_dir(&self, id: &str) -> PathBuf {
        self.dir.path().join("state").join(id)
    }

    pub fn shim_dir(&self, id: &str) -> PathBuf {
        self.run_dir.join("shims").join(id)
    }

    /// A container that runs `args`, changed by `change`.
    pub fn spec(&mut self, args: &[&str], change: impl FnOnce(&mut Value)) -> ShimSpec {
        let mut value = oci(args);
        change(&mut value);
        let spec: Spec = serde_json::from_value(value).unwrap();
        let id = self.new_id();
        let state = self.state_dir(&id);
        self.shim_spec(
            &id,
            Workload::Container {
                spec: Box::new(spec),
                rootfs: Rootfs {
                    lower: vec![self.dir.path().join("rootfs")],
                    upper: state.join("upper"),
                    work: state.join("work"),
                },
                seccomp: Seccomp::Default,
            },
        )
    }

    /// A host process.
    pub fn process(&mut self, args: &[&str], kill_mode: KillMode) -> ShimSpec {
        let id = self.new_id();
        let process = Box::new(process(args));
        self.shim_spec(&id, Workload::Process { process, kill_mode })
    }

    fn new_id(&mut self) -> String {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("t{}-{n}", std::process::id());
        let state = self.state_dir(&id);
        fs::create_dir_all(state.join("upper")).unwrap();
        fs::create_dir_all(state.join("work")).unwrap();
        self.ids.push(id.clone());
        id
    }

    fn shim_spec(&self, id: &str, workload: Workload) -> ShimSpec {
        ShimSpec {
            version: PROTOCOL_VERSION,
            id: id.to_owned(),
            state_dir: self.state_dir(id),
            run_dir: self.shim_dir(id),
            workload,
            log: Some(LogConfig {
                path: self.state_dir(id).join("x.log"),
                max_size: 10 << 20,
                max_files: 2,
                attrs: Default::default(),
            }),
            terminal: false,
            terminal_size: None,
            open_stdin: false,
            stdin_once: false,
            cgroup: format!("{}/{id}", self.cgroups),
            deadline: None,
        }
    }

    pub fn spawn(&self, spec: &ShimSpec) -> u32 {
        match self.ask_holder(&holder::Request::Spawn {
            spec: Box::new(spec.clone()),
        }) {
            holder::Reply::Spawned { pid } => pid,
            other => panic!("{other:?}\n{}", self.log()),
        }
    }

    pub fn connect(&self, id: &str) -> Client {
        let stream = UnixStream::connect(self.shim_dir(id).join("shim.sock")).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        Client(stream)
    }

    /// Spawns and prepares.
    pub fn prepare(&self, spec: &ShimSpec) -> Client {
        self.spawn(spec);
        let mut client = self.connect(&spec.id);
        assert_eq!(
            client.ask(&Request::Prepare),
            Reply::Prepared,
            "{}",
            self.log()
        );
        client
    }

    /// Spawns, prepares and starts.
    pub fn start(&self, spec: &ShimSpec) -> (Client, u32) {
        let mut client = self.prepare(spec);
        match client.ask(&Request::Start) {
            Reply::Started { pid } => (client, pid),
            other => panic!("{other:?}\n{}", self.log()),
        }
    }

    /// Runs to the end and gives back status, output and error output.
    pub fn run(&self, spec: &ShimSpec) -> (ExitStatus, String, String) {
        let mut client = self.prepare(spec);
        let mut attached = self.attach(&spec.id, false);
        match client.ask(&Request::Start) {
            Reply::Started { .. } => {}
            other => panic!("{other:?}\n{}", self.log()),
        }
        let (stdout, stderr) = attached.output();
        let status = client.exited();
        client.release();
        (status, stdout, stderr)
    }

    pub fn attach(&self, id: &str, stdin: bool) -> Client {
        let mut client = self.connect(id);
        assert_eq!(
            client.ask(&Request::Attach {
                stdin,
                stdout: true,
                stderr: true
            }),
            Reply::Attached
        );
        client
    }

    /// Runs a process in a running container.
    pub fn exec(&self, id: &str, process: Process) -> (Reply, String, String, Option<ExitStatus>) {
        let mut client = self.connect(id);
        let reply = client.ask(&Request::Exec {
            exec_id: format!("e{}", NEXT.fetch_add(1, Ordering::Relaxed)),
            process: Box::new(process),
            terminal: false,
            stdin: false,
            output: true,
        });
        let (stdout, stderr, last) = client.frames();
        let status = last.map(|r| match r {
            Reply::Exited { status } => status,
            other => panic!("{other:?}"),
        });
        (reply, stdout, stderr, status)
    }

    pub fn log_text(&self, id: &str) -> String {
        log_texts(&self.state_dir(id).join("x.log")).concat()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("holder.log:\n{}", self.log());
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        // Shims outlive their holder; who is left is found by the run directory's sockets.
        for id in &self.ids {
            for pid in shim_pids(&self.shim_dir(id).join("shim.sock")) {
                let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
            }
        }
        let layout = coracle_sys::cgroup::Layout::detect().unwrap();
        let _ = layout.remove_root(&self.cgroups);
    }
}

/// Who listens on a socket: by the inode in `/proc/net/unix` and the descriptors of the processes called coracle-shim.
pub fn shim_pids(socket: &Path) -> Vec<u32> {
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let Some(inode) = table
        .lines()
        .find(|l| l.ends_with(socket.to_str().unwrap()))
        .and_then(|l| l.split_whitespace().nth(6).map(str::to_owned))
    else {
        return Vec::new();
    };
    let wanted = format!("socket:[{inode}]");
    let holds = |pid: u32| {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            return false;
        };
        entries
            .flatten()
            .any(|e| fs::read_link(e.path()).is_ok_and(|l| l.to_str() == Some(&wanted)))
    };
    let all = fs::read_dir("/proc").unwrap();
    all.flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|c| c.starts_with("coracle-shim"))
        })
        .filter(|pid| holds(*pid))
        .collect()
}

pub fn start_holder(run_dir: &Path) -> Child {
    start_by(run_dir, &mut Command::new(holder_program()))
}

fn start_by(run_dir: &Path, command: &mut Command) -> Child {
    fs::create_dir_all(run_dir).unwrap();
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(run_dir.join("holder.log"))
        .unwrap();
    let holder = command
        .arg("--run-dir")
        .arg(run_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let socket = run_dir.join(holder::SOCKET);
    eventually("the holder listens", || {
        UnixStream::connect(&socket).is_ok()
    });
    holder
}

/// Texts of a json-file log.
pub fn log_texts(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|l| {
            serde_json::from_str::<Value>(l).unwrap()["log"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect()
}

fn root_filesystem(root: &Path) {
    for dir in ["bin", "etc", "dev", "proc", "sys", "tmp", "root"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    let busybox = Path::new("/bin/busybox");
    assert!(
        busybox.exists(),
        "these tests need /bin/busybox, statically linked: install busybox-static"
    );
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    let list = Command::new(busybox).arg("--list").output().unwrap();
    for applet in String::from_utf8(list.stdout)
        .unwrap()
        .lines()
        .filter(|a| *a != "busybox")
    {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
    )
    .unwrap();
    fs::write(root.join("etc/plain"), "not a program\n").unwrap();
}

pub struct Client(pub UnixStream);

impl Client {
    pub fn ask(&mut self, request: &Request) -> Reply {
        frame::send(&mut self.0, request).unwrap();
        frame::receive(&mut self.0).unwrap()
    }

    pub fn exited(&mut self) -> ExitStatus {
        match frame::receive(&mut self.0).unwrap() {
            Reply::Exited { status } => status,
            other => panic!("{other:?}"),
        }
    }

    /// Lets the shim leave and waits until everything is gone.
    pub fn release(mut self) {
        frame::send(&mut self.0, &Request::Release).unwrap();
        assert!(frame::read(&mut self.0).unwrap().is_none());
    }

    pub fn stdin(&mut self, bytes: &[u8]) {
        frame::write(&mut self.0, Kind::Stdin, bytes).unwrap();
    }

    /// Everything to the end: output, error output, the last message.
    pub fn frames(&mut self) -> (String, String, Option<Reply>) {
        let (mut stdout, mut stderr, mut last) = (Vec::new(), Vec::new(), None);
        while let Some((kind, payload)) = frame::read(&mut self.0).unwrap() {
            match kind {
                Kind::Stdout => stdout.extend(payload),
                Kind::Stderr => stderr.extend(payload),
                Kind::Control => last = Some(frame::parse(&payload).unwrap()),
                Kind::Stdin => panic!("input came out"),
            }
        }
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (text(&stdout), text(&stderr), last)
    }

    pub fn output(&mut self) -> (String, String) {
        let (stdout, stderr, last) = self.frames();
        assert_eq!(last, None);
        (stdout, stderr)
    }

    /// Reads output until it contains a text.
    pub fn until(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            match frame::read(&mut self.0).unwrap() {
                Some((Kind::Stdout | Kind::Stderr, payload)) => {
                    seen.push_str(&String::from_utf8_lossy(&payload))
                }
                other => panic!("{other:?} after {seen:?}"),
            }
        }
        seen
    }
}

/// Tests and examples lie one directory below the programs.
pub fn holder_program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let found = own
        .ancestors()
        .skip(1)
        .map(|d| d.join("coracle-holder"))
        .find(|p| p.is_file());
    found.expect("build it first: cargo build -p coracle-shim")
}
