//! A cable between two network namespaces, a server at one end and clients at the other.
//!
//! The namespaces have no names: each is that of a process that reads its input, which ends with this one however that ends.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

const CLIENT_MAC: &str = "02:00:00:00:00:07";

/// What is awaited longer than this does not come.
const PATIENCE: Duration = Duration::from_secs(60);

const NEEDED: [(&str, &str); 6] = [
    ("dnsmasq", "dnsmasq-base"),
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("sh", "dash"),
];

/// Where programs of the administrator may be that are not on the path.
fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")
}

fn check() {
    for (program, package) in NEEDED {
        let found = std::env::split_paths(&path()).any(|dir| dir.join(program).is_file());
        assert!(
            found,
            "{program} is missing: install the Debian package {package}"
        );
    }
    assert!(
        rustix::process::geteuid().is_root(),
        "network namespaces need root"
    );
}

/// A process that is killed at the end of the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Namespace(Process);

impl Namespace {
    fn new() -> Namespace {
        let mut child = Command::new("unshare")
            .args(["--net", "cat"])
            .env("PATH", path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        // What comes back came through the program within.
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "\n", "unshare failed");
        let namespace = Namespace(Process(child));
        namespace.run("ip link set lo up");
        namespace
    }

    fn pid(&self) -> u32 {
        self.0.0.id()
    }

    /// A program within, which dies with the test.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.pid()))
            .args(["setpriv", "--pdeathsig", "KILL", "--"])
            .arg(program)
            .env("PATH", path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, script: &str) {
        let output = self
            .command(Path::new("sh"))
            .args(["-euc", script])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {said}");
    }
}

pub struct Lan {
    server: Namespace,
    client: Namespace,
    dir: tempfile::TempDir,
}

impl Lan {
    /// The server's end is `lan`, with `address`; the clients' is `eth0`, without any.
    pub fn new(address: &str) -> Lan {
        check();
        let lan = Lan {
            server: Namespace::new(),
            client: Namespace::new(),
            dir: tempfile::tempdir().unwrap(),
        };
        lan.plug(address);
        lan
    }

    /// Connects the two.
    pub fn plug(&self, address: &str) {
        // The machine's own setting is inherited.
        let filter = "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$f; done";
        let pid = self.client.pid();
        self.server.run(&format!(
            "ip link add name lan type veth peer name eth0 address {CLIENT_MAC} netns {pid}
             ip address add {address} dev lan && ip link set lan up; {filter}"
        ));
        self.client.run(&format!("ip link set eth0 up; {filter}"));
    }

    pub fn on_server(&self, script: &str) {
        self.server.run(script);
    }

    pub fn on_client(&self, script: &str) {
        self.client.run(script);
    }

    /// Starts the example on `eth0`.
    pub fn client(&self, arguments: &[&str]) -> Client {
        let test = std::env::current_exe().unwrap();
        let program: PathBuf = test.ancestors().nth(2).unwrap().join("examples/lease");
        assert!(
            program.is_file(),
            "{} is missing: `cargo test -p coracle-dhcp` builds it",
            program.display()
        );
        let mut child = self
            .client
            .command(&program)
            .args(["eth0", CLIENT_MAC])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, events) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                    break;
                }
            }
        });
        Client {
            events,
            _process: Process(child),
        }
    }

    /// A file with `lease`.
    pub fn remember(&self, lease: &Value) -> String {
        let path = self.dir.path().join("remembered");
        std::fs::write(&path, lease.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// What the server knows of former leases.
    pub fn forget_leases(&self) {
        std::fs::remove_file(self.dir.path().join("leases")).unwrap();
    }

    /// What a client's caller does with a lease.
    pub fn put_in_place(&self, lease: &Value) {
        self.on_client(&format!("ip address add {} dev eth0", of(lease)));
    }

    pub fn take_away(&self, lease: &Value) {
        self.on_client(&format!("ip address delete {} dev eth0", of(lease)));
    }
}

fn of(lease: &Value) -> String {
    format!(
        "{}/{}",
        lease["address"].as_str().unwrap(),
        lease["prefix_len"]
    )
}

pub struct Client {
    events: Receiver<Value>,
    _process: Process,
}

impl Client {
    /// Waits for an event of that name.
    pub fn event(&self, name: &str) -> Value {
        self.find(name, |event| event["event"] == name)
    }

    /// Waits for a lease.
    pub fn bound(&self) -> Value {
        self.event("bound")["lease"].clone()
    }

    /// Waits for a state.
    pub fn state(&self, name: &str) {
        self.find(name, |event| event["state"] == name);
    }

    /// Waits for an event that `matches`; others are passed over.
    pub fn find(&self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) if matches(&event) => return event,
                Ok(event) => seen.push(event),
                Err(error) => panic!("{what}: {error}, only {seen:?}"),
            }
        }
    }
}

/// dnsmasq at the server's end, for DHCP only.
pub struct Server {
    log: PathBuf,
    _process: Process,
}

impl Server {
    pub fn start(lan: &Lan, arguments: &[&str]) -> Server {
        let log = lan.dir.path().join("log");
        let child = lan
            .server
            .command(Path::new("dnsmasq"))
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0"])
            // Without another user: who changes it is no longer killed with the test.
            .args(["--user=root", "--group=root", "--pid-file"])
            .args(["--interface=lan", "--bind-interfaces", "--no-ping"])
            .args(["--log-dhcp", "--log-facility=-"])
            .arg(format!(
                "--dhcp-leasefile={}",
                lan.dir.path().join("leases").display()
            ))
            .args(arguments)
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let server = Server {
            log,
            _process: Process(child),
        };
        let until = Instant::now() + PATIENCE;
        while server.said("DHCP, IP range") == 0 {
            assert!(Instant::now() < until, "dnsmasq: {}", server.text());
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    /// Lines with `word` in the server's log.
    pub fn said(&self, word: &str) -> usize {
        self.text()
            .lines()
            .filter(|line| line.contains(word))
            .count()
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}
