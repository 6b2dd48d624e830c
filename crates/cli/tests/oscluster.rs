//! Three machines of one image become a cluster by their configurations alone, lose one of them, and take an update one after the other, while their
//! service answers. And a release that is not good stops with the first one. `make test-os` runs it.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "os/http.rs"]
mod http;
#[path = "os/machine.rs"]
mod machine;
#[path = "os/registry.rs"]
mod registry;

use machine::{Machine, image, release};
use registry::Registry;
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How long what needs several restarts of emulated machines may take.
const LONG: Duration = Duration::from_secs(1800);
const LOOK: Duration = Duration::from_millis(300);
/// How long the service may be without an answer by any machine: a request that comes to an instance whose machine was switched off has to be sent anew.
const SILENT: Duration = Duration::from_secs(20);

/// A network of their own between the machines, on this machine's loopback.
struct Wire(u16);

impl Wire {
    fn new() -> Self {
        let free = UdpSocket::bind("127.0.0.1:0").unwrap();
        Self(free.local_addr().unwrap().port())
    }

    /// The card of the machine with this number.
    fn card(&self, n: usize) -> Vec<String> {
        let net = format!(
            "socket,id=wire,mcast=230.7.7.7:{},localaddr=127.0.0.1",
            self.0
        );
        let device = format!("virtio-net-pci,netdev=wire,mac={}", mac(n));
        ["-netdev", &net, "-device", &device]
            .map(str::to_owned)
            .into()
    }
}

fn mac(n: usize) -> String {
    format!("52:54:00:77:00:{n:02x}")
}

fn address(n: usize) -> String {
    format!("10.77.0.{n}")
}

/// What a machine is told; the first one has the units, the others join it.
fn told(n: usize, host: &str, token: Option<&str>) -> String {
    let mut text = format!(
        "#cloud-config
hostname: m{n}
coreos:
  update:
    server: {host}/coracle/os
    group: stable
",
    );
    if token.is_none() {
        let unit = |name: &str, publish: &str, rest: &str| {
            format!(
                "    - name: {name}
      command: start
      content: |
        [Container]
        Image={host}/steady:1
        PublishPort={publish}
{rest}"
            )
        };
        text += "  units:\n";
        text += &unit(
            "door.container",
            "2375:2375",
            "        Exec=/bin/door 2375 /run/coracle/coracle.sock
        Volume=/run/coracle:/run/coracle
        [X-Fleet]
        Global=yes
",
        );
        for instance in 1..=3 {
            text += &unit(
                &format!("web@{instance}.container"),
                "8080:8080",
                "        Exec=/bin/steady A 8080\n",
            );
        }
    }
    let _ = write!(
        text,
        "coracle:
  advertise: {address}
  registries:
    - {{host: \"{host}\", plain_http: true}}
  network:
    interfaces:
      - {{mac: \"{mac}\", address: {address}/24}}
",
        address = address(n),
        mac = mac(n)
    );
    if let Some(token) = token {
        let _ = writeln!(text, "  join: {{address: {}, token: {token}}}", address(1));
    }
    text
}

/// Waits until something is so of several machines.
fn until(machines: &[Machine], what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !is() {
        if Instant::now() > end {
            let said: Vec<_> = machines.iter().map(Machine::said).collect();
            panic!("{what}; they said:\n{}", said.join("\n----\n"));
        }
        std::thread::sleep(LOOK);
    }
}

/// Three machines there, none cordoned or drained, three votes in step.
fn all_is_well(machines: &[Machine]) -> bool {
    let Some(status) = machines[0].try_get("/v1/cluster/status") else {
        return false;
    };
    let all = status["machines"].as_array().unwrap();
    let votes = all
        .iter()
        .filter(|m| m["store"] == "voter" && m["inStep"] == true);
    let Some(listed) = machines[0].try_get("/v1/machines") else {
        return false;
    };
    let there = listed
        .as_array()
        .unwrap()
        .iter()
        .filter(|m| m["state"] == "alive" && m["cordoned"] == false && m["draining"] == false);
    votes.count() == 3 && there.count() == 3
}

/// How many instances of the service run on machines that are there.
fn instances(machine: &Machine) -> usize {
    let listed = machine.try_get("/v1/machines").unwrap_or_default();
    let there = listed.as_array().into_iter().flatten();
    let there = there.filter(|m| m["state"] == "alive");
    let shown = there.filter_map(|m| {
        let id = m["id"].as_str().unwrap();
        machine.try_get(&format!("/v1/machines/{id}"))
    });
    let placed = shown.flat_map(|m| m["placed"].as_array().cloned().unwrap_or_default());
    placed
        .filter(|unit| {
            let name = unit["unit"].as_str().unwrap_or_default();
            name.starts_with("web@") && unit["active"] == "active"
        })
        .count()
}

/// When the service answered last, and how long it did not, at most.
type Silence = Mutex<(Instant, Duration)>;

fn note(silence: &Silence) {
    let mut silence = silence.lock().unwrap();
    silence.1 = silence.1.max(silence.0.elapsed());
    silence.0 = Instant::now();
}

/// Asks the service again and again, until it is told to stop.
fn ask_all(machine: &Machine, over: &AtomicBool, silence: &Silence) {
    while !over.load(Ordering::Relaxed) {
        let answer = machine.answer();
        if answer.is_some_and(|body| body.starts_with("A ")) {
            note(silence);
        }
        std::thread::sleep(LOOK);
    }
}

/// Does something while the service is asked by every machine: one of them answers all the time.
fn answering(machines: &[Machine], act: impl FnOnce()) {
    let (over, silence) = (
        AtomicBool::new(false),
        Mutex::new((Instant::now(), Duration::ZERO)),
    );
    let silent = std::thread::scope(|scope| {
        for machine in machines {
            scope.spawn(|| ask_all(machine, &over, &silence));
        }
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        note(&silence);
        let silent = silence.lock().unwrap().1;
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
        silent
    });
    eprintln!("the longest time without an answer: {silent:?}");
    assert!(silent < SILENT, "the service was silent for {silent:?}");
}

/// Has it look at the channel. Its door goes with its turn, which may come before the answer.
fn check(machine: &Machine) {
    machine.try_post("/v1/os/check");
}

fn disk(work: &Path, base: &Path, n: usize, text: &str) -> PathBuf {
    let disk = work.join(format!("disk{n}"));
    machine::disk(base, &disk, text);
    disk
}

#[test]
fn three_machines_form_a_cluster_lose_one_and_take_updates_one_after_the_other() {
    let registry = Registry::start();
    registry.push_programs("steady:1", &["steady", "door"]);
    let base = image();
    let good = release("0.2.0", None);
    let work = tempfile::tempdir().unwrap();
    let host = registry.seen_from_machine();
    let wire = Wire::new();
    let start = |n: usize, disk: &Path| Machine::start_with(disk, &[disk], &wire.card(n));

    let disk1 = disk(work.path(), &base, 1, &told(1, &host, None));
    let mut machines = vec![start(1, &disk1)];
    machines[0].until_os(|_| true);
    let token = machines[0].post_json("/v1/cluster/token", &json!({ "uses": 2 }));
    let token = token["token"].as_str().unwrap().to_owned();
    let disks: Vec<PathBuf> = [2, 3]
        .map(|n| disk(work.path(), &base, n, &told(n, &host, Some(&token))))
        .into();
    machines.push(start(2, &disks[0]));
    machines.push(start(3, &disks[1]));
    until(&machines, "they are no cluster", || all_is_well(&machines));
    for machine in &machines {
        machine.until_answers("A ");
        machine.until_os(|_| true);
    }
    until(&machines, "three instances do not run", || {
        instances(&machines[0]) == 3
    });

    // One is lost, and what it had begins elsewhere.
    let lost = machines.pop().unwrap();
    lost.cut_power();
    answering(&machines, || {
        until(&machines, "its instance does not run elsewhere", || {
            let listed = machines[0].try_get("/v1/machines").unwrap_or_default();
            let gone = listed.as_array().into_iter().flatten();
            let gone = gone.filter(|m| m["state"] == "gone").count();
            gone == 1 && instances(&machines[0]) == 3
        });
    });
    // An update waits as long as the store could not do without one more.
    registry.push_update(&good, "coracle/os:stable");
    // Which of the two has the turn changes: they look by themselves, too.
    until(&machines, "nobody waits for m3", || {
        machines.iter().any(|machine| {
            let looked = machine.post_json("/v1/os/check", &Value::Null);
            looked["state"].as_str().unwrap().contains("waits for m3")
        })
    });
    machines.push(start(3, &disks[1]));
    until(&machines, "the lost one does not come back", || {
        all_is_well(&machines)
    });

    // One after the other; the service answers throughout.
    answering(&machines, || {
        for machine in &machines {
            machine.until("it is not asked", || {
                machine.try_get("/v1/os").map(|_| check(machine))
            });
        }
        let proven = |machine: &Machine| {
            machine.try_get("/v1/os").is_some_and(|os| {
                os["version"] == "0.2.0" && os["last_update"]["outcome"] == "good"
            })
        };
        until(&machines, "they do not take the update", || {
            machines.iter().all(proven) && all_is_well(&machines)
        });
    });
    until(&machines, "a turn is not given back", || {
        let rollout = machines[0].get("/v1/os/rollout");
        rollout["turns"]["holders"] == json!({})
    });
    let rollout = machines[0].get("/v1/os/rollout");
    assert_eq!(rollout["releases"][0][0], "0.2.0", "{rollout}");
    assert_eq!(rollout["releases"][0][1]["standing"], "good", "{rollout}");

    // One that is not good ends with the first one that takes it.
    let extra = tempfile::tempdir().unwrap();
    let program = extra.path().join("usr/bin/coracle");
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    fs::copy(common::programs().with_file_name("coracle-pid1"), &program).unwrap();
    let broken = release("0.9.0", Some(extra.path()));
    registry.push_update(&broken, "coracle/os:stable");
    answering(&machines, || {
        check(&machines[1]);
        until(&machines, "nobody says that it failed", || {
            let rollout = machines[0].try_get("/v1/os/rollout").unwrap_or_default();
            let listed = rollout["releases"].as_array().cloned().unwrap_or_default();
            let failed = |r: &Value| r[0] == "0.9.0" && r[1]["standing"] == "failed";
            listed.iter().any(failed) && all_is_well(&machines)
        });
    });
    // The others have to fetch it before they know which release it is.
    until(&machines, "the others are not stopped", || {
        let looked = machines[0].post_json("/v1/os/check", &Value::Null);
        looked["state"].as_str().unwrap().contains("failed on m2")
    });
    for machine in &machines {
        assert_eq!(machine.get("/v1/os")["version"], "0.2.0");
    }
    for machine in machines {
        machine.power_off();
    }
}
