//! A machine in QEMU that boots the image through UEFI firmware.
#![allow(dead_code, reason = "not every test needs all of it")]

use crate::{
    common,
    http::{ask, ask_with, ask_within},
};
use serde_json::{Value, json};
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
/// How long one request to a container may take.
const SOON: Duration = Duration::from_secs(10);
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
    let extra = extra.map(|e| ("EXTRA", e));
    release_with(version, extra.as_slice())
}

/// An update that `scripts/os` makes with these variables too.
pub fn release_with(version: &str, more: &[(&str, &Path)]) -> PathBuf {
    let mut variables = vec![("VERSION", Path::new(version))];
    variables.extend(more);
    make(&["update"], &variables);
    let archive = made().join(format!("{version}.tar"));
    fs::rename(made().join("update.tar"), &archive).unwrap();
    let about = made().join("update/release.json");
    fs::copy(about, made().join(format!("{version}.json"))).unwrap();
    archive
}

/// The files of the update that was made last.
pub fn update_files() -> PathBuf {
    made().join("update")
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

/// The first block of a file of the root that was made last.
pub fn block_of(path: &str) -> u64 {
    let told = Command::new("dump.erofs")
        .arg(format!("--path={path}"))
        .arg("-e")
        .arg(made().join("update/root.img"))
        .output()
        .expect("Debian's package erofs-utils");
    // `   0:        0..   16384 |   16384 :    7630848..   7639040 |    8192`
    let told = String::from_utf8(told.stdout).unwrap();
    let line = told.lines().find(|l| l.trim_start().starts_with("0:"));
    let place = line.unwrap().rsplit(':').next().unwrap();
    let start = place.split("..").next().unwrap().trim();
    start.parse::<u64>().unwrap() / 4096
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
    /// Bytes of its log when its power came.
    said_before: usize,
}

impl Machine {
    pub fn start(disk: &Path) -> Self {
        Self::start_with(disk, &[disk], &[])
    }

    /// A machine with several disks, in that order, that its firmware starts from one of, and with more hardware, as QEMU is told of it.
    pub fn start_with(disk: &Path, disks: &[&Path], more: &[String]) -> Self {
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
        let said_before = fs::read(&log).unwrap().len();
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
            .args(disks.iter().enumerate().flat_map(|(number, each)| {
                let first = u8::from(*each != disk);
                [
                    "-drive".to_owned(),
                    format!(
                        "file={},format=raw,if=none,id=d{number},discard=unmap",
                        each.display()
                    ),
                    "-device".to_owned(),
                    format!("virtio-blk-pci,drive=d{number},bootindex={first}{number}"),
                ]
            }))
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
            .args(more)
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
            said_before,
        }
    }

    /// What it said on its console.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// Waits until it has said something since its power came.
    pub fn until_said(&self, text: &str) {
        self.until(text, || self.said_now().contains(text).then_some(()));
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

    /// What its container answers, if it does.
    pub fn answer(&self) -> Option<String> {
        // A connection to a machine that goes down meanwhile is nobody's: QEMU holds it until the machine is back.
        let (status, body) = ask_within(SOON, self.web, "GET", "/", "").ok()?;
        (status == 200).then_some(body)
    }

    /// As [`Self::get`], if it answers.
    pub fn try_get(&self, path: &str) -> Option<Value> {
        let (status, body) = ask(self.door, "GET", path).ok()?;
        (status == 200).then(|| serde_json::from_str(&body).unwrap())
    }

    /// As [`Self::post`], of a machine that may go down amid it.
    pub fn try_post(&self, path: &str) -> Option<String> {
        let (status, body) = ask(self.door, "POST", path).ok()?;
        (status == 200).then_some(body)
    }

    /// Posts JSON, and gives what is answered.
    pub fn post_json(&self, path: &str, body: &Value) -> Value {
        let (status, body) = ask_with(self.door, "POST", path, &body.to_string()).unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Posts something, and returns the answer, whatever its status.
    pub fn post_with(&self, path: &str, body: &str) -> (u16, String) {
        ask_with(self.door, "POST", path, body).unwrap()
    }

    /// Runs a container to its end; its exit code and what it said. `more` is added to what it is created with.
    pub fn run(&self, image: &str, words: &[&str], more: &Value) -> (i64, String) {
        let mut asked = json!({ "Image": image, "Entrypoint": words, "Tty": true });
        for (key, value) in more.as_object().unwrap() {
            asked[key] = value.clone();
        }
        let (status, body) = self.post_with("/containers/create", &asked.to_string());
        assert_eq!(status, 201, "{body}");
        let created: Value = serde_json::from_str(&body).unwrap();
        let path = format!("/containers/{}", created["Id"].as_str().unwrap());
        let (status, body) = self.post_with(&format!("{path}/start"), "");
        assert_eq!(status, 204, "{body}");
        let ended: Value = serde_json::from_str(&self.post(&format!("{path}/wait"))).unwrap();
        let (_, said) = ask(self.door, "GET", &format!("{path}/logs?stdout=1&stderr=1")).unwrap();
        let (status, body) = ask(self.door, "DELETE", &path).unwrap();
        assert_eq!(status, 204, "{body}");
        (ended["StatusCode"].as_i64().unwrap(), said)
    }

    /// Runs a program of the image beside the machine's own processes and links, with all rights.
    pub fn run_privileged(&self, image: &str, words: &[&str]) -> (i64, String) {
        let host = json!({ "Privileged": true, "PidMode": "host", "NetworkMode": "host" });
        self.run(image, words, &json!({ "HostConfig": host }))
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

    /// What it said on its console since its power came.
    fn said_now(&self) -> String {
        let said = fs::read(&self.log).unwrap().split_off(self.said_before);
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Whether its process 1 has said a word since its power came.
    pub fn has_started(&self) -> bool {
        self.said_now().contains("coracle")
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
