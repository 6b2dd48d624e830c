//! fleet's own sample units, as they are, on three machines, by a link called `fleetctl`; and its API on each of them.

use super::*;
use std::path::PathBuf;
use std::process::Output;

/// Where fleet's sample units are: beside the repository, or where `CORACLE_REFERENCE` says.
fn samples() -> PathBuf {
    let beside = || {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        root.join("../../../shared/reference")
    };
    let root = std::env::var_os("CORACLE_REFERENCE").map_or_else(beside, PathBuf::from);
    let dir = root.join("fleet/functional/fixtures/units");
    assert!(
        dir.is_dir(),
        "{} is missing; set CORACLE_REFERENCE",
        dir.display()
    );
    dir
}

struct Fleet {
    cluster: Cluster,
    link: PathBuf,
}

impl Fleet {
    fn start() -> Self {
        let cluster = joined(3);
        let link = cluster.dir().join("fleetctl");
        std::os::unix::fs::symlink(common::programs(), &link).unwrap();
        Self { cluster, link }
    }

    /// The command on machine `n`, in the directory of samples.
    fn call(&self, n: usize, args: &[&str]) -> Output {
        let mut command = self.cluster.machine(n).inside("env");
        command.arg("-C").arg(samples()).arg(&self.link);
        command.args(args).output().unwrap()
    }

    fn ok(&self, n: usize, args: &[&str]) -> String {
        let output = self.call(n, args);
        assert!(
            output.status.success(),
            "m{n} {args:?}: {}{}",
            text(&output),
            errors(&output)
        );
        text(&output)
    }

    /// Machines on which a unit is active.
    fn on(&self, unit: &str) -> BTreeSet<usize> {
        let all = self.ok(
            2,
            &[
                "list-units",
                "--full",
                "--no-legend",
                "--fields=unit,machine,active",
            ],
        );
        let mut on = BTreeSet::new();
        for line in all.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let [name, machine, "active"] = words[..] else {
                continue;
            };
            let id = machine.split('/').next().unwrap();
            on.extend(self.cluster.numbered(id).filter(|_| name == unit));
        }
        on
    }

    /// The one machine that a unit is on.
    fn at(&self, unit: &str) -> usize {
        wait_until(&format!("{unit} runs"), MINUTE, || {
            let on = self.on(unit);
            match on.len() {
                1 => Ok(*on.first().unwrap()),
                _ => Err(format!("it is on {on:?}")),
            }
        })
    }

    fn runs_on(&self, unit: &str, machines: impl IntoIterator<Item = usize>) {
        let expected: BTreeSet<usize> = machines.into_iter().collect();
        wait_until(&format!("{unit} runs on {expected:?}"), MINUTE, || {
            let on = self.on(unit);
            (on == expected)
                .then_some(())
                .ok_or(format!("it is on {on:?}"))
        });
    }

    /// An answer of fleet's API on machine `n`.
    fn api(&self, n: usize, path: &str) -> serde_json::Value {
        let machine = self.cluster.machine(n);
        let socket = machine.run_dir().join("coracle.sock");
        let mut curl = machine.inside("curl");
        curl.args(["-fsS", "--unix-socket"]).arg(socket);
        let output = curl
            .arg(format!("http://x/fleet/v1/{path}"))
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", errors(&output)))
    }
}

#[test]
fn fleets_samples_on_three_machines() {
    let f = Fleet::start();
    for machine in f.cluster.machines() {
        let label = format!("hostname={}", machine.name());
        f.cluster
            .machine(1)
            .ok(&["machine", "label", machine.id(), &label]);
    }
    follows(&f);
    keeps_away(&f);
    everywhere(&f);
    by_name_and_label(&f);
    takes_places(&f);
    by_api(&f);
}

/// MachineOf: `discovery` is where `hello` is, and each pong with its ping.
fn follows(f: &Fleet) {
    f.ok(
        1,
        &[
            "start",
            "hello.service",
            "discovery.service",
            "goodbye.service",
        ],
    );
    f.runs_on("discovery.service", [f.at("hello.service")]);
    let pings = ["ping.0.service", "ping.1.service", "ping.2.service"];
    let pongs = ["pong.0.service", "pong.1.service", "pong.2.service"];
    f.ok(2, &[&["start"], &pings[..], &pongs[..]].concat());
    let homes: BTreeSet<usize> = pings.map(|ping| f.at(ping)).into();
    assert!(homes.len() > 1, "all of them are on {homes:?}");
    for (ping, pong) in pings.iter().zip(pongs) {
        f.runs_on(pong, [f.at(ping)]);
    }
    let seen = f.ok(3, &["journal", "--lines=5", "ping.1"]);
    assert!(seen.contains("ping"), "{seen}");
    f.ok(
        3,
        &[
            "destroy",
            "discovery.service",
            "goodbye.service",
            "ping.*",
            "pong.*",
        ],
    );
}

/// Conflicts: whatever conflicts shares no machine, and what has none waits for one.
fn keeps_away(f: &Fleet) {
    f.ok(3, &["start", "conflicts-with-hello.service"]);
    assert_ne!(f.at("conflicts-with-hello.service"), f.at("hello.service"));
    f.ok(
        1,
        &["destroy", "conflicts-with-hello.service", "hello.service"],
    );
    let three = [
        "conflict.0.service",
        "conflict.1.service",
        "conflict.2.service",
    ];
    f.ok(2, &[&["start"], &three[..]].concat());
    let homes: BTreeSet<usize> = three.map(|unit| f.at(unit)).into();
    assert_eq!(homes.len(), 3);
    // All of these conflict with every conflict.N, one of which is on each machine.
    for unit in [
        "conflict.3.service",
        "conflict.multiple.0.service",
        "conflict.multiple.2.service",
    ] {
        f.ok(3, &["start", "--no-block", unit]);
        let why = f.cluster.machine(1).ok(&["unit", "explain", unit]);
        assert!(why.contains("conflict"), "{why}");
        assert_eq!(f.on(unit), BTreeSet::new());
    }
    f.ok(
        1,
        &["destroy", "conflict.multiple.0", "conflict.multiple.2"],
    );
    let free = f.at("conflict.1.service");
    f.ok(1, &["destroy", "conflict.1.service"]);
    f.runs_on("conflict.3.service", [free]);
    f.ok(1, &["destroy", "conflict.*"]);
}

/// Global: on every machine, and of two that conflict only the first.
fn everywhere(f: &Fleet) {
    f.ok(
        1,
        &[
            "start",
            "global.service",
            "global@1.service",
            "conflict-global.0.service",
        ],
    );
    for unit in [
        "global.service",
        "global@1.service",
        "conflict-global.0.service",
    ] {
        f.runs_on(unit, 1..=3);
    }
    f.ok(2, &["start", "--no-block", "conflict-global.1.service"]);
    f.ok(2, &["start", "single@1.service", "hello@1.service"]);
    f.at("single@1.service");
    assert_eq!(f.on("conflict-global.1.service"), BTreeSet::new());
    f.ok(2, &["destroy", "conflict-global.0.service"]);
    f.runs_on("conflict-global.1.service", 1..=3);
    f.ok(2, &["destroy", "*global*", "single@1", "hello@1"]);
}

/// MachineID and MachineMetadata, in instances of templates.
fn by_name_and_label(f: &Fleet) {
    for machine in f.cluster.machines() {
        let pin = format!("pin@{}.service", machine.id());
        let label = format!("metadata@{}.service", machine.name());
        f.ok(1, &["start", &pin, &label]);
        f.runs_on(&pin, [machine.n()]);
        f.runs_on(&label, [machine.n()]);
    }
    // The label goes, and the unit with it; it comes to whoever has it.
    let first = f.cluster.machine(1);
    first.ok(&["machine", "label", f.cluster.machine(3).id(), "hostname-"]);
    wait_for("it leaves", MINUTE, || {
        f.on("metadata@m3.service").is_empty()
    });
    first.ok(&["machine", "label", f.cluster.machine(2).id(), "hostname=m3"]);
    f.runs_on("metadata@m3.service", [2]);
    f.ok(1, &["destroy", "pin@*", "metadata@*"]);
}

/// Replaces: the newcomer has the place, and who had it goes elsewhere; commands at the end are run.
fn takes_places(f: &Fleet) {
    f.ok(
        1,
        &[
            "start",
            "replace.0.service",
            "replace.1.service",
            "replace.2.service",
        ],
    );
    f.runs_on("replace.2.service", [f.at("replace.1.service")]);
    let place = f.at("replace.0.service");
    f.ok(3, &["start", "replace-kick0.service"]);
    f.runs_on("replace-kick0.service", [place]);
    assert_ne!(f.at("replace.0.service"), place);
    let mark = std::path::Path::new("/tmp/fleetSyncReplaceFile");
    let _ = std::fs::remove_file(mark);
    f.ok(2, &["start", "replace-sync.service"]);
    assert!(!mark.exists());
    f.ok(3, &["stop", "replace-sync.service"]);
    assert!(mark.exists());
    std::fs::remove_file(mark).unwrap();
    f.ok(1, &["destroy", "replace*"]);
}

/// `/fleet/v1` answers the same on each machine.
fn by_api(f: &Fleet) {
    f.ok(2, &["start", "hello.service"]);
    let home = f.at("hello.service");
    for n in 1..=3 {
        let machines = f.api(n, "machines");
        let machines = machines["machines"].as_array().unwrap();
        let all: BTreeSet<usize> = machines
            .iter()
            .filter_map(|m| f.cluster.numbered(m["id"].as_str()?))
            .collect();
        assert_eq!(all, (1..=3).collect(), "{machines:?}");
        let state = f.api(n, "state?unitName=hello.service");
        let state = &state["states"][0];
        assert_eq!(state["machineID"], f.cluster.machine(home).id(), "m{n}");
        assert_eq!(state["systemdActiveState"], "active", "m{n}");
        let unit = f.api(n, "units/hello.service");
        assert_eq!(unit["currentState"], "launched", "m{n}");
        assert_eq!(unit["options"][0]["name"], "ExecStart", "m{n}");
    }
    f.ok(3, &["destroy", "hello.service"]);
}
