//! Nobody who asks a service hears of what becomes of its instances: requests without a second try, over every way in, while versions change, go
//! back, are more and fewer, and machines are drained. `CORACLE_REQUESTS` says how many requests each of these is to see (2,000).
#![allow(clippy::unwrap_used)]

mod cluster;
mod common;
mod scenarios;

use cluster::{Cluster, Machine, parts, wait_until};
use scenarios::{SOON, joined};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What may be asked at once of a machine that is busy with other tests, too.
const RATE: &str = "1500";
/// Each asks as fast as it may, so they run one after the other.
static ALONE: Mutex<()> = Mutex::new(());
/// How long who is connected may stay, in seconds.
const DRAIN: f64 = 3.0;

fn alone() -> MutexGuard<'static, ()> {
    // Also after one that has failed.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn requests() -> String {
    std::env::var("CORACLE_REQUESTS").unwrap_or_else(|_| "2000".into())
}

fn web(version: &str) -> String {
    format!(
        "[Container]\nImage=steady\nExec=steady {version} 8080\nPublishPort=8000:8080\nStopTimeout=1\n\
         [X-Deploy]\nProbe=http://:8080/\nSettleSec=200ms\nDrainSec=3\n"
    )
}

/// Somebody who asks, in a process of its own.
struct Load {
    what: String,
    child: Option<Child>,
    end: PathBuf,
}

impl Load {
    /// Asks from the machine itself, as long as it is not told to end and until there were enough requests.
    fn start(machine: &Machine, mode: &str, url: &str) -> Self {
        let name = format!("end-{mode}-{}", url.replace([':', '/'], "-"));
        let inside = machine.state_dir().join(&name);
        let end = machine.path(&inside);
        let _ = std::fs::remove_file(&end);
        let count = if mode == "long" {
            "0".into()
        } else {
            requests()
        };
        let mut command = machine.inside(parts::example("load"));
        command
            .args(["--requests", &count, "--clients", "4", "--mode", mode])
            .args(["--rate", RATE, "--until"])
            .arg(&inside)
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let child = Some(command.spawn().unwrap());
        let what = format!("{mode} {url}");
        Self { what, child, end }
    }

    /// Ends it, and gives what it has seen.
    fn end(mut self) -> Value {
        std::fs::write(&self.end, "").unwrap();
        let said = self.child.take().unwrap().wait_with_output().unwrap();
        assert!(said.status.success(), "{}: {said:?}", self.what);
        serde_json::from_slice(&said.stdout).unwrap()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port that was used a second ago may be used again, or a machine that asks one address alone runs out of them; and no machine takes who comes
/// by it again for who was there before.
fn prepare(machine: &Machine) {
    let set = "echo 1 >/proc/sys/net/ipv4/tcp_tw_reuse; echo 10000 65535 >/proc/sys/net/ipv4/ip_local_port_range; \
               echo 1 >/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait";
    let done = machine.inside("sh").args(["-c", set]).status().unwrap();
    assert!(done.success());
}

/// The service's address.
fn address(machine: &Machine) -> String {
    wait_until("it has an address", SOON, || {
        let said = machine.ok(&["unit", "status", "web@"]);
        let line = said.lines().find(|l| l.contains("Address:"));
        let ip = line.and_then(|l| l.split_whitespace().nth(1).map(str::to_owned));
        ip.ok_or(said)
    })
}

/// Does something while `urls` are asked in both ways from machine `from`. Nothing may fail; returns who has answered.
fn meanwhile(
    cluster: &Cluster,
    from: usize,
    urls: &[String],
    what: &str,
    act: impl FnOnce(),
) -> Vec<String> {
    let machine = cluster.machine(from);
    cluster.machines().iter().for_each(prepare);
    let modes = ["keep-alive", "connect"];
    let each = urls.iter().flat_map(|url| modes.map(|mode| (mode, url)));
    let loads: Vec<_> = each
        .map(|(mode, url)| Load::start(machine, mode, url))
        .collect();
    act();
    let mut bodies = Vec::new();
    for load in loads {
        let asked = load.what.clone();
        let seen = load.end();
        let least: u64 = requests().parse().unwrap();
        assert!(seen["requests"].as_u64().unwrap() >= least, "{seen}");
        assert_eq!(seen["failures"], 0, "{what}, {asked}: {seen}");
        bodies.extend(seen["bodies"].as_object().unwrap().keys().cloned());
    }
    bodies
}

/// Who has answered, by version.
fn versions(bodies: &[String]) -> String {
    let mut all: Vec<&str> = bodies.iter().filter_map(|b| b.split(' ').next()).collect();
    all.sort_unstable();
    all.dedup();
    all.concat()
}

/// Versions there and back, more and fewer, asked from machine `from`.
fn changes(cluster: &Cluster, from: usize, urls: &[String]) {
    let a = cluster.machine(1);
    let second = a.unit("web@.container", &web("B"));
    let bodies = meanwhile(cluster, from, urls, "deploy", || {
        a.ok(&["deploy", &second]);
    });
    assert_eq!(versions(&bodies), "AB");
    let bodies = meanwhile(cluster, from, urls, "rollback", || {
        a.ok(&["rollback", "web"]);
    });
    assert_eq!(versions(&bodies), "AB");
    for scale in ["1", "5", "2"] {
        let bodies = meanwhile(cluster, from, urls, &format!("scale to {scale}"), || {
            a.ok(&["deploy", "web", "--scale", scale]);
        });
        assert_eq!(versions(&bodies), "A");
    }
}

#[test]
fn nothing_fails_on_one_machine() {
    let _alone = alone();
    let cluster = Cluster::new(1);
    let a = cluster.machine(1);
    a.load(&parts::steady(), "steady");
    let first = a.unit("web@.container", &web("A"));
    let said = a.ok(&["deploy", &first, "--scale", "3"]);
    assert!(said.contains("3 of 3 have it"), "{said}");
    let ip = address(a);
    let urls = [
        format!("http://{ip}:8080/"),
        "http://127.0.0.1:8000/".to_owned(),
    ];
    // All three share the machine's port, and say so.
    let ports = a.ok(&["ps", "--format", "{{.Ports}}"]);
    assert_eq!(
        ports.matches("0.0.0.0:8000->8080/tcp").count(),
        3,
        "{ports}"
    );
    let long = Load::start(a, "long", &format!("http://{ip}:8080/long"));
    changes(&cluster, 1, &urls);
    // Each of them was at an instance that has gone since.
    let seen = long.end();
    let ended = seen["ended"].as_array().unwrap();
    assert_eq!(
        (seen["failures"].as_u64(), ended.len()),
        (Some(0), 4),
        "{seen}"
    );
    for lived in ended {
        assert!(lived.as_f64().unwrap() >= DRAIN, "{seen}");
    }
    // The port is everybody's again.
    a.ok(&["unit", "destroy", "web@1", "web@2", "web@"]);
    wait_until("the port is free", SOON, || {
        let taken = a.coracle(&[
            "run",
            "-d",
            "--name",
            "other",
            "-p",
            "8000:8080",
            "steady",
            "steady",
            "C",
        ]);
        match taken.status.success() {
            true => Ok(()),
            false => {
                a.coracle(&["rm", "-f", "other"]);
                Err(common::errors(&taken))
            }
        }
    });
}

#[test]
fn nothing_fails_on_three_machines() {
    let _alone = alone();
    let cluster = joined(3);
    for machine in cluster.machines() {
        machine.load(&parts::steady(), "steady");
    }
    let a = cluster.machine(1);
    let first = a.unit("web@.container", &web("A"));
    let said = a.ok(&["deploy", &first, "--scale", "3"]);
    assert!(said.contains("3 of 3 have it"), "{said}");
    let ip = address(a);
    let c = cluster.machine(3);
    let urls = [
        format!("http://{ip}:8080/"),
        format!("http://{}:8000/", c.address()),
    ];
    for url in &urls {
        assert!(answers(c, url).starts_with('A'));
    }
    changes(&cluster, 3, &urls);
    // One of the two that are left goes elsewhere.
    let home = cluster
        .machines()
        .iter()
        .find(|m| m.n() != 3 && m.ok(&["ps", "--format", "{{.Names}}"]).contains("web-"));
    let home = home.unwrap().name();
    let bodies = meanwhile(&cluster, 3, &urls, "drain", || {
        a.ok(&["machine", "drain", &home]);
    });
    assert_eq!(versions(&bodies), "A");
    assert!(!bodies.is_empty());
}

#[test]
fn a_daemon_that_is_killed_and_comes_back_fails_no_request() {
    let _alone = alone();
    let cluster = Cluster::new(1);
    let a = cluster.machine(1);
    a.load(&parts::steady(), "steady");
    // Its test is asked so seldom that a daemon which had to wait for it would be seen.
    let text = web("A").replace("SettleSec=200ms", "ProbeIntervalSec=1h\nSettleSec=0");
    let text = text.replace("StopTimeout=1", "StopTimeout=1\n[Service]\nRestart=always");
    a.ok(&[
        "unit",
        "start",
        &a.unit("web@.container", &text),
        "web@{1..2}",
    ]);
    // One of nobody's service.
    a.ok(&[
        "run",
        "-d",
        "-p",
        "8001:8080",
        "steady",
        "steady",
        "A",
        "8080",
    ]);
    let urls = [
        format!("http://{}:8080/", address(a)),
        "http://127.0.0.1:8000/".to_owned(),
        "http://127.0.0.1:8001/".to_owned(),
    ];
    for url in &urls {
        answers(a, url);
    }
    meanwhile(&cluster, 1, &urls, "daemon killed", || {
        for _ in 0..3 {
            a.kill();
            a.start();
        }
    });
    // What it does not know any more it would not open again.
    assert_eq!(
        address(a),
        urls[0]
            .trim_start_matches("http://")
            .split(':')
            .next()
            .unwrap()
    );
}

/// Waits until an address is answered.
fn answers(machine: &Machine, url: &str) -> String {
    wait_until("it answers", SOON, || {
        let mut curl = machine.inside("curl");
        let output = curl
            .args(["-sS", "--noproxy", "*", "-m", "5", url])
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(common::text(&output)),
            false => Err(common::errors(&output)),
        }
    })
}

#[test]
fn a_published_port_is_one_services_and_nobody_elses() {
    let _alone = alone();
    let cluster = Cluster::new(1);
    let a = cluster.machine(1);
    a.load(&parts::steady(), "steady");
    let published = "http://127.0.0.1:8000/";
    a.ok(&[
        "run",
        "-d",
        "--name",
        "first",
        "-p",
        "8000:8080",
        "steady",
        "steady",
        "C",
    ]);
    let unit = a.unit("web.container", &web("A"));
    let refused = a.coracle(&["unit", "start", &unit]);
    let said = scenarios::all(&refused);
    assert!(!refused.status.success(), "{said}");
    for words in ["port 8000/tcp", "container first", "publish another port"] {
        assert!(said.contains(words), "{said}");
    }
    assert!(answers(a, published).starts_with('C'));
    // As soon as it is free.
    a.ok(&["rm", "-f", "first"]);
    a.ok(&["unit", "start", "web"]);
    assert!(answers(a, published).starts_with('A'));
    a.refused(
        &[
            "run",
            "-d",
            "--name",
            "second",
            "-p",
            "8000:8080",
            "steady",
            "steady",
            "C",
        ],
        "port is already allocated",
    );
    let other = a.unit("other.container", &web("D"));
    a.refused(&["unit", "submit", &other], "service web has it");
    // It leads to another port inside from now on, one that the former instance does not listen to.
    let moved = web("B").replace("steady B 8080", "steady B 9090");
    let moved = moved
        .replace("8000:8080", "8000:9090")
        .replace("http://:8080", "http://:9090");
    let said = a.ok(&["deploy", &a.unit("web.container", &moved)]);
    assert!(said.contains("runs"), "{said}");
    wait_until("it leads there", SOON, || {
        let page = answers(a, published);
        page.starts_with('B').then_some(()).ok_or(page)
    });
    // A service that lets it go lets another have it.
    a.ok(&["unit", "destroy", "web"]);
    a.ok(&["unit", "start", &other]);
    assert!(answers(a, published).starts_with('D'));
}
