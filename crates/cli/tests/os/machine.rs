//! A machine in QEMU that boots the image through UEFI firmware.
#![allow(dead_code, reason = "not every test needs all of it")]

use crate::{common, http::ask};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long a machine may take for anything; emulated, and beside other tests.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(200);
const FIRMWARE: &str = "/usr/share/OVMF";

fn made() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("os")
}

fn make(arguments: &[&str], variables: &[(&str, &Path)]) {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/os");
    let kernel = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("kernel");
    let mut command = Command::new(scripts);
    command
        .arg(common::programs().parent().unwrap())
        .arg(made())
        .args(arguments)
        .env("KERNEL", kernel)
        .env("COMPRESS", "lz4");
    command.envs(variables.iter().copied());
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", common::errors(&done));
}

/// The disk of the release that is tested.
pub fn image() -> PathBuf {
    make(&["raw"], &[]);
    made().join("coracle.raw")
}

/// An update to a release, with other files in it; the path of its archive.
pub fn release(version: &str, extra: Option<&Path>) -> PathBuf {
    let mut variables = vec![("VERSION", Path::new(version))];
    variables.extend(extra.map(|e| ("EXTRA", e)));
    make(&["update"], &variables);
    let archive = made().join(format!("{version}.tar"));
    fs::rename(made().join("update.tar"), &archive).unwrap();
    let about = made().join("update/release.json");
    fs::copy(about, made().join(format!("{version}.json"))).unwrap();
    archive
}

/// The door to the machine's daemon, a server that answers `A NAME`, and who may log in.
pub fn configuration(host: &str, key: Option<&str>) -> String {
    let keys = key.map_or(String::new(), |k| format!("ssh_authorized_keys:\n  - {k}"));
    format!(
        "#cloud-config
hostname: first
{keys}
coracle:
  labels: {{zone: a}}
  registries:
    - {{host: \"{host}\", plain_http: true}}
coreos:
  units:
    - name: web.container
      command: start
      content: |
        [Container]
        Image={host}/steady:1
        Exec=/bin/steady A 8080
        PublishPort=8080:8080
        Volume=kept:/kept
    - name: door.container
      command: start
      content: |
        [Container]
        Image={host}/steady:1
        Exec=/bin/door 2375 /run/coracle/coracle.sock
        PublishPort=2375:2375
        Volume=/run/coracle:/run/coracle
"
    )
}

/// A larger disk with the image and a configuration on its EFI partition.
pub fn disk(image: &Path, disk: &Path, configuration: &str) {
    let copied = Command::new("cp")
        .arg("--sparse=always")
        .arg(image)
        .arg(disk)
        .status();
    assert!(copied.unwrap().success());
    fs::File::options()
        .write(true)
        .open(disk)
        .unwrap()
        .set_len(6 << 30)
        .unwrap();
    configure(disk, configuration);
}

/// Puts a configuration there instead of the former one.
pub fn configure(disk: &Path, configuration: &str) {
    let text = disk.with_extension("yaml");
    fs::write(&text, configuration).unwrap();
    let (start, _) = extent(disk, "coracle-efi");
    let put = Command::new("mcopy")
        .args(["-o", "-i"])
        .arg(format!("{}@@{start}", disk.display()))
        .arg(&text)
        .arg("::coracle/cloud-config.yaml")
        .output()
        .expect("Debian's package mtools");
    assert!(put.status.success(), "{}", common::errors(&put));
}

/// Where a partition is, in bytes: start and length.
pub fn extent(disk: &Path, name: &str) -> (u64, u64) {
    let told = Command::new("sfdisk")
        .arg("--json")
        .arg(disk)
        .output()
        .unwrap();
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    let all = told["partitiontable"]["partitions"].as_array().unwrap();
    let found = all.iter().find(|p| p["name"] == name).unwrap();
    let bytes = |key: &str| found[key].as_u64().unwrap() * 512;
    (bytes("start"), bytes("size"))
}

/// How many blocks of data the root of an update to that release has.
pub fn blocks(version: &str) -> u64 {
    let text = fs::read_to_string(made().join(format!("{version}.json"))).unwrap();
    let release: Value = serde_json::from_str(&text).unwrap();
    release["root_blocks"].as_u64().unwrap()
}

/// Copies a partition into a file.
pub fn partition(disk: &Path, name: &str, to: &Path) {
    let (start, length) = extent(disk, name);
    let done = Command::new("dd")
        .args([
            "bs=1M",
            "conv=sparse",
            "iflag=skip_bytes,count_bytes",
            "status=none",
        ])
        .arg(format!("if={}", disk.display()))
        .arg(format!("of={}", to.display()))
        .arg(format!("skip={start}"))
        .arg(format!("count={length}"))
        .status();
    assert!(done.unwrap().success());
}

/// A machine that runs.
pub struct Machine {
    child: Child,
    web: u16,
    door: u16,
    /// Of this machine, which leads to its port 22.
    pub ssh: u16,
    monitor: PathBuf,
    log: PathBuf,
}

impl Machine {
    pub fn start(disk: &Path) -> Self {
        let variables = disk.with_extension("vars");
        if !variables.exists() {
            fs::copy(format!("{FIRMWARE}/OVMF_VARS_4M.fd"), &variables)
                .expect("Debian's package ovmf");
        }
        let free = || {
            TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port()
        };
        let (web, door, ssh) = (free(), free(), free());
        let (monitor, log) = (disk.with_extension("monitor"), disk.with_extension("log"));
        let console = fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let child = Command::new("qemu-system-x86_64")
            // One processor: emulated ones get stuck when kernel code is patched while the others run.
            .args([
                "-accel",
                "tcg",
                "-cpu",
                "max",
                "-machine",
                "q35",
                "-m",
                "1024",
                "-smp",
                "1",
                "-nographic",
            ])
            .arg("-drive")
            .arg(format!(
                "if=pflash,format=raw,readonly=on,file={FIRMWARE}/OVMF_CODE_4M.fd"
            ))
            .arg("-drive")
            .arg(format!("if=pflash,format=raw,file={}", variables.display()))
            .arg("-drive")
            .arg(format!(
                "file={},format=raw,if=virtio,discard=unmap",
                disk.display()
            ))
            .arg("-netdev")
            .arg(format!(
                "user,id=n,hostfwd=tcp:127.0.0.1:{web}-:8080,hostfwd=tcp:127.0.0.1:{door}-:2375,hostfwd=tcp:127.0.0.1:{ssh}-:22"
            ))
            .args([
                "-device",
                "virtio-net-pci,netdev=n",
                "-device",
                "virtio-rng-pci",
            ])
            .arg("-monitor")
            .arg(format!("unix:{},server,nowait", monitor.display()))
            .args(["-serial", "stdio"])
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .expect("Debian's qemu-system-x86");
        Self {
            child,
            web,
            door,
            ssh,
            monitor,
            log,
        }
    }

    /// What it said on its console.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// Waits until something is so.
    pub fn until<T>(&self, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = found() {
                return found;
            }
            assert!(Instant::now() < end, "{what}; it said:\n{}", self.said());
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until its container answers so.
    pub fn until_answers(&self, begin: &str) {
        self.until("its container does not answer", || {
            let (status, body) = ask(self.web, "GET", "/").ok()?;
            (status == 200 && body.starts_with(begin)).then_some(())
        });
    }

    /// Waits until what its system says of itself is so.
    pub fn until_os(&self, mut is: impl FnMut(&Value) -> bool) -> Value {
        let mut last = String::new();
        let end = Instant::now() + PATIENCE;
        loop {
            if let Ok((200, body)) = ask(self.door, "GET", "/v1/os") {
                let status: Value = serde_json::from_str(&body).unwrap();
                if is(&status) {
                    return status;
                }
                last = body;
            }
            assert!(Instant::now() < end, "{last}; it said:\n{}", self.said());
            std::thread::sleep(LOOK);
        }
    }

    pub fn get(&self, path: &str) -> Value {
        let (status, body) = ask(self.door, "GET", path).unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    pub fn post(&self, path: &str) -> String {
        let (status, body) = ask(self.door, "POST", path).unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Posts, and returns when so much of the answer has come that a text is in it.
    pub fn post_until(&self, path: &str, text: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.door)).unwrap();
        let request = format!("POST {path} HTTP/1.0\r\nHost: machine\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let (mut said, mut buffer) = (String::new(), [0; 1024]);
        while !said.contains(text) {
            let length = stream.read(&mut buffer).unwrap();
            assert_ne!(length, 0, "{said}");
            said.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    }

    /// Takes its power away.
    pub fn cut_power(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The names of its containers that run.
    pub fn containers(&self) -> BTreeSet<String> {
        let all = self.get("/containers/json");
        let names = all
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["Names"][0].to_string());
        names.collect()
    }

    /// Presses its power button, and waits until it is off.
    pub fn power_off(mut self) {
        let mut monitor = UnixStream::connect(&self.monitor).unwrap();
        let mut greeting = [0; 64];
        assert_ne!(monitor.read(&mut greeting).unwrap(), 0);
        monitor.write_all(b"system_powerdown\n").unwrap();
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "it does not go off:\n{}", self.said());
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
