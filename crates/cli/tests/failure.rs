//! Machines are lost, cut off, upgraded; the store is away, the leader dies: what runs runs on, and what was asked comes about.
#![allow(clippy::unwrap_used)]

mod cluster;
mod common;
mod scenarios;

use cluster::wait::stays;
use cluster::{Cluster, Machine, wait_for, wait_until};
use scenarios::{
    LOST, Running, SLEEPS, SOON, all, explained, homes, is_at, joined, on, pid, running, runs, unit,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What is cut off runs on, others take its units, and when it is back nothing is doubled.
#[test]
fn a_machine_that_is_cut_off_runs_on_and_its_units_run_elsewhere() {
    let cluster = joined(3);
    cluster.settles();
    let a = cluster.machine(1);
    let text = format!("{SLEEPS}{}", on(&cluster, "worker", &[2, 3]));
    a.ok(&["unit", "start", &a.unit("roams.container", &text)]);
    for n in [2, 3] {
        let run = ["run", "-d", "--name", "plain", "bb", "sleep", "1000"];
        cluster.machine(n).ok(&run);
    }
    let mut home = homes(&cluster, "roams")[0];
    for cut in [Machine::cut, Machine::cut_in, Machine::cut_out] {
        let (cut_off, other) = (cluster.machine(home), cluster.machine(5 - home));
        let before = (pid(cut_off, "roams"), pid(cut_off, "plain"));
        cut(cut_off);
        wait_for("it runs elsewhere", LOST, || runs(other, "roams"));
        let after = (pid(cut_off, "roams"), pid(cut_off, "plain"));
        assert_eq!(after, before, "what is cut off runs on");
        let there = pid(other, "roams");
        cut_off.uncut();
        is_at(&cluster, "roams", &[5 - home]);
        assert_eq!(pid(other, "roams"), there, "nobody took it away again");
        assert_eq!(pid(cut_off, "plain"), before.1, "nobody else's business");
        wait_for("it is one of the machines again", SOON, || {
            let list = a.ok(&["machine", "list"]);
            !list.contains("gone")
        });
        home = 5 - home;
    }
}

/// The only machine with the store is gone: nothing stops, restarts happen, changes wait and say so.
#[test]
fn without_the_store_everything_runs_on_and_changes_wait() {
    let cluster = joined(2);
    let (a, b) = (cluster.machine(1), cluster.machine(2));
    for (name, at) in [("first", a), ("here", b)] {
        let text = format!(
            "{SLEEPS}[Service]\nRestart=always\n[X-Fleet]\nMachineID={}\n",
            at.id()
        );
        let file = a.unit(&format!("{name}.container"), &text);
        a.ok(&["unit", "start", &file]);
    }
    let before = pid(b, "here");
    a.kill_all();
    // The daemon's own restart changes nothing.
    b.terminate();
    b.start();
    assert_eq!(pid(b, "here"), before);
    let refused = Running::start(b, &["unit", "restart", "first"]);
    // What ends is started again by its own machine.
    b.ok(&["kill", "here"]);
    wait_for("it is started again", SOON, || {
        runs(b, "here") && pid(b, "here") != before
    });
    // Who asks is told what is known here, and that it is not all.
    let listed = b.coracle(&["unit", "list"]);
    let said = all(&listed);
    assert!(
        listed.status.success() && said.contains("here.container"),
        "{said}"
    );
    assert!(
        said.contains("only what this machine has is shown"),
        "{said}"
    );
    assert!(all(&b.coracle(&["unit", "status", "here"])).contains("active (running)"));
    b.refused(&["machine", "list"], "the cluster's store cannot be asked");
    let status = b.ok(&["cluster", "status"]);
    assert!(
        status.contains("the cluster's store does not answer (it is on m1)"),
        "{status}"
    );
    // A change waits, and says for what; in the end it says what to do.
    refused.says(
        "waiting: the cluster's store does not answer (it is on m1)",
        SOON,
    );
    let (code, said) = refused.ends(Duration::from_secs(60));
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("the cluster's store cannot be asked"),
        "{said}"
    );
    assert!(said.contains("ask again"), "{said}");
    // One that waits when the store is back is done.
    let stop = Running::start(b, &["unit", "stop", "here"]);
    stop.says("waiting: the cluster's store does not answer", SOON);
    assert!(runs(b, "here"));
    a.start();
    let (code, said) = stop.ends(SOON);
    assert_eq!(code, Some(0), "{said}");
    assert!(!runs(b, "here"));
    wait_for("the other is back as well", SOON, || runs(a, "first"));
}

/// Names of all containers of a template, by machine.
fn spread(cluster: &Cluster) -> BTreeMap<String, Vec<usize>> {
    let mut all: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for machine in cluster.machines() {
        for name in running(machine) {
            all.entry(name).or_default().push(machine.n());
        }
    }
    all
}

/// The programs, installed at another path.
fn installed_elsewhere() -> (PathBuf, tempfile::TempDir) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let from = common::programs();
    for name in ["coracle", "coracle-holder", "coracle-init"] {
        let (old, new) = (from.with_file_name(name), dir.path().join(name));
        std::fs::hard_link(&old, &new)
            .or_else(|_| std::fs::copy(&old, &new).map(drop))
            .unwrap();
    }
    (dir.path().join("coracle"), dir)
}

/// The leader dies in the midst of a start of many, then every daemon is replaced: each unit runs once, and on.
#[test]
fn many_units_start_over_the_leaders_death_and_outlive_an_upgrade() {
    const MANY: usize = 16;
    let cluster = joined(3);
    cluster.settles();
    let (a, c) = (cluster.machine(1), cluster.machine(3));
    c.ok(&["unit", "submit", &c.unit("many@.container", SLEEPS)]);
    let starting = Running::start(c, &["unit", "start", &format!("many@{{1..{MANY}}}")]);
    starting.says("many@3.container: active", SOON);
    a.kill();
    a.start();
    let (code, said) = starting.ends(Duration::from_secs(90));
    assert_eq!(code, Some(0), "{said}");
    let once = |all: &BTreeMap<String, Vec<usize>>| {
        let here = (1..=MANY).map(|n| all.get(&format!("many-{n}")));
        all.len() == MANY && here.flatten().filter(|on| on.len() == 1).count() == MANY
    };
    let begun = spread(&cluster);
    assert!(once(&begun), "{begun:?}");
    let used: std::collections::BTreeSet<usize> = begun.values().flatten().copied().collect();
    assert_eq!(used.len(), 3, "they are spread: {begun:?}");

    let pids = || -> Vec<String> {
        let all = spread(&cluster);
        let pids = all
            .iter()
            .flat_map(|(name, on)| on.iter().map(move |n| (name, *n)));
        pids.map(|(name, n)| pid(cluster.machine(n), name))
            .collect()
    };
    let before = pids();
    let (program, _dir) = installed_elsewhere();
    for machine in cluster.machines() {
        machine.terminate();
        machine.launch_from(&program);
        machine.ready();
        let exe = std::fs::read_link(format!("/proc/{}/exe", machine.daemon().unwrap()));
        assert_eq!(exe.unwrap(), program);
    }
    assert!(stays(Duration::from_secs(3), || pids() == before));
    // The upgraded ones do what is asked.
    c.ok(&["unit", "stop", "many@1"]);
    assert!(!spread(&cluster).contains_key("many-1"));
}

/// What keeps failing is tried on others, no more often than its budget allows, whoever leads.
#[test]
fn what_keeps_failing_is_tried_elsewhere_within_a_budget() {
    let cluster = joined(5);
    let (a, b) = (cluster.machine(1), cluster.machine(2));
    let shared = cluster.dir().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let unit_of = |script: &str| {
        format!(
            "[Container]\nImage=bb\nEnvironment=MACHINE=%H\nVolume={}:/shared\nExec=sh -c '{script}'\nStopTimeout=1\n\
             [Service]\nRestart=on-failure\nRestartSec=50ms\nStartLimitBurst=2\n\
             [X-Deploy]\nProbe=http://:80/\nProbeIntervalSec=200ms\nProbeRetries=1000\n",
            shared.display()
        )
    };
    // It runs anywhere but where it was tried first.
    let script = "cd /shared; [ -e first ] || echo $MACHINE >first; [ `cat first` != $MACHINE ] && exec tell; exit 1";
    let file = b.unit("moves.container", &unit_of(script));
    let said = b.ok(&["unit", "start", &file]);
    assert!(said.contains("moves.container: active"), "{said}");
    let first = std::fs::read_to_string(shared.join("first")).unwrap();
    let home = homes(&cluster, "moves");
    assert_eq!(home.len(), 1);
    assert_ne!(format!("m{}", home[0]), first.trim());
    let why = a.ok(&["unit", "explain", "moves"]);
    assert!(
        why.contains(&format!("it keeps failing on {}", first.trim())),
        "{why}"
    );

    // One that fails everywhere.
    let file = b.unit(
        "fails.container",
        &unit_of("echo $MACHINE >>/shared/tried; exit 1"),
    );
    b.refused(&["unit", "start", &file], "was moved 3 times within 600 s");
    let tried = || std::fs::read_to_string(shared.join("tried")).unwrap();
    let machines: std::collections::BTreeSet<String> = tried().lines().map(str::to_owned).collect();
    assert_eq!(machines.len(), 4, "{}", tried());
    let status = unit(a, "fails");
    assert_eq!(status["active"], "failed", "{status}");
    let before = (tried(), explained(a, "fails")["placements"].clone());
    // Whoever leads next has not forgotten.
    a.kill();
    a.start();
    wait_until("a leader says what it waits for", SOON, || {
        let why = explained(b, "fails");
        let waits = why["waits"].as_str().unwrap_or_default();
        waits
            .contains("was moved 3 times")
            .then_some(())
            .ok_or_else(|| why.to_string())
    });
    let why = explained(b, "fails");
    let after = (tried(), why["placements"].clone());
    assert_eq!(after.0, before.0, "it was tried again");
    assert_eq!(
        after.1[0]["incarnation"], before.1[0]["incarnation"],
        "{why}"
    );
}

/// A machine that hangs is waited for no longer than until it is lost.
#[test]
fn a_stop_does_not_wait_for_a_machine_that_hangs() {
    let cluster = joined(2);
    let (a, b) = (cluster.machine(1), cluster.machine(2));
    let text = format!("{SLEEPS}[X-Fleet]\nMachineID={}\n", b.id());
    a.ok(&["unit", "start", &a.unit("there.container", &text)]);
    b.pause();
    let begun = Instant::now();
    let output = a.coracle(&["unit", "stop", "there"]);
    assert!(
        begun.elapsed() < Duration::from_secs(25),
        "{}",
        all(&output)
    );
    b.resume();
    is_at(&cluster, "there", &[]);
}
