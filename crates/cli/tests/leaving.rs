//! Machines leave, are removed, come again.
#![allow(clippy::unwrap_used)]

mod cluster;
mod common;
mod scenarios;

use cluster::{Cluster, Machine, Setup, wait_for, wait_until};
use scenarios::{LOST, Running, SLEEPS, SOON, all, homes, is_at, join, joined, on, pid, runs};
use std::time::Duration;

/// What a program of the machine's prints.
fn said(machine: &Machine, program: &str, args: &[&str]) -> String {
    all(&machine.inside(program).args(args).output().unwrap())
}

/// Links and routes that only a machine in a cluster has, as the kernel has them.
fn overlay(machine: &Machine) -> String {
    let links = said(machine, "ip", &["-o", "link", "show", "type", "vxlan"]);
    let routes = said(machine, "ip", &["route", "show"]);
    // Services of its own it has alone, too.
    let of_others = |line: &&str| {
        let machines = line.contains("unreachable") && !line.contains("10.216.0.0/16");
        line.contains("cor-overlay") || machines
    };
    let routes: Vec<&str> = routes.lines().filter(of_others).collect();
    format!("{links}{}", routes.join("\n")).trim().to_owned()
}

fn files(machine: &Machine) -> Vec<String> {
    let dir = machine.path(&machine.state_dir().join("cluster"));
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Starts a unit on m4, that may run on m3 afterwards.
fn on_the_last(cluster: &Cluster, unit: &str, text: &str) {
    let a = cluster.machine(1);
    let only = on(cluster, "worker", &[3, 4]);
    a.ok(&["machine", "cordon", "m3"]);
    let file = a.unit(&format!("{unit}.container"), &format!("{text}{only}"));
    a.ok(&["unit", "start", &file]);
    is_at(cluster, unit, &[4]);
    a.ok(&["machine", "uncordon", "m3"]);
}

/// A machine that has a vote is taken down: nothing of it runs on, not even the store, and it is back with the next daemon.
fn is_taken_down(cluster: &Cluster, machine: &Machine) {
    cluster.settles();
    assert!(cluster.voters(1).contains(&machine.n()));
    machine.ok(&["system", "down"]);
    machine.gone();
    wait_until("nothing of it runs", SOON, || {
        let left = machine.processes().into_iter().map(|p| p.name);
        let ours = |name: &String| name.contains("etcd") || name.contains("coracle");
        let left: Vec<String> = left.filter(ours).collect();
        left.is_empty().then_some(()).ok_or(left.join(", "))
    });
    machine.start();
    cluster.settles();
}

#[test]
fn machines_leave_and_come_again() {
    let cluster = joined(4);
    is_taken_down(&cluster, cluster.machine(3));
    // The last to come has no vote.
    let (a, d) = (cluster.machine(1), cluster.machine(4));
    on_the_last(&cluster, "moves", SLEEPS);
    d.ok(&["run", "-d", "--name", "mine", "bb", "sleep", "1000"]);
    let mine = pid(d, "mine");
    wait_for("it has the network between machines", SOON, || {
        overlay(d).contains("cor-overlay") && overlay(d).contains("unreachable 10.212")
    });

    let output = d.ok(&["leave"]);
    assert!(output.contains("alone again"), "{output}");
    is_at(&cluster, "moves", &[3]);
    assert_eq!(overlay(d), "", "the network between machines is down");
    assert_eq!(pid(d, "mine"), mine, "what no unit is runs on");
    let of_cluster = |file: &String| {
        file.ends_with(".pem")
            || ["home.json", "names.json", "services.json"].contains(&file.as_str())
    };
    assert!(!files(d).iter().any(of_cluster), "{:?}", files(d));
    let list = a.ok(&["machine", "list"]);
    assert!(!list.contains("m4"), "{list}");
    // It works alone.
    assert!(d.ok(&["cluster", "status"]).contains("alone"));
    d.ok(&["unit", "start", &d.unit("own.container", SLEEPS)]);
    d.ok(&["volume", "create", "kept"]);
    assert!(runs(d, "own"));

    // What it has would be lost, which has to be said, and then is said.
    let token = a.ok(&["cluster", "token", "-q"]);
    let address = a.address();
    let enter = ["join", address.as_str(), "--token", token.trim()];
    d.refused(&enter, "--discard");
    assert!(runs(d, "own") && runs(d, "mine"), "a refusal costs nothing");
    let output = d.ok(&[&enter[..], &["--discard"]].concat());
    assert!(
        output.contains(
            "What it had is gone: 1 unit, 2 containers; volumes and images are still here"
        ),
        "{output}"
    );
    assert_eq!(scenarios::running(d), Vec::<String>::new());
    assert!(d.ok(&["volume", "ls", "-q"]).contains("kept"));
    assert!(!a.ok(&["unit", "list"]).contains("own.container"));

    // Nobody can be told: only with force, and then at once.
    d.cut();
    let refused = Running::start(d, &["leave"]);
    let (code, output) = refused.ends(SOON);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("--force"), "{output}");
    let (code, output) = Running::start(d, &["leave", "--force"]).ends(SOON);
    assert_eq!(code, Some(0), "{output}");
    assert!(d.ok(&["cluster", "status"]).contains("alone"));
    assert_eq!(overlay(d), "");
    d.ok(&["run", "--rm", "bb", "true"]);
    d.uncut();
    // The others know it still, and take it off when they are told.
    assert!(a.ok(&["cluster", "status"]).contains(d.id()));
    a.ok(&["machine", "remove", d.id()]);
    wait_for("it is off the list", SOON, || {
        !a.ok(&["cluster", "status"]).contains(d.id())
    });
    join(&cluster, 4, &[]);
    wait_for("it is back", SOON, || {
        a.ok(&["machine", "list"]).contains("m4")
    });
}

#[test]
fn a_machine_that_is_removed_is_cut_off_at_once_and_told() {
    let cluster = joined(4);
    let (a, d) = (cluster.machine(1), cluster.machine(4));
    let ticks = "[Container]\nImage=bb\nExec=sh -c 'while :; do echo tick; sleep 0.2; done'\nStopTimeout=1\n";
    on_the_last(&cluster, "there", ticks);
    let first = format!("{ticks}[X-Fleet]\nMachineID={}\n", a.id());
    a.ok(&["unit", "start", &a.unit("first.container", &first)]);
    let there = pid(d, "there");

    // Streams both ways, and one that was upgraded.
    let streams = [
        Running::start(a, &["unit", "logs", "-f", "there"]),
        Running::start(d, &["unit", "logs", "-f", "first"]),
        Running::start(
            a,
            &[
                "exec",
                "there",
                "sh",
                "-c",
                "while :; do echo tick; sleep 0.2; done",
            ],
        ),
    ];
    for stream in &streams {
        stream.says("tick", SOON);
    }
    a.ok(&["machine", "remove", "m4"]);
    for stream in streams {
        let _ = stream.ends(Duration::from_secs(5));
    }
    wait_until("it runs elsewhere", LOST, || {
        let homes = homes(&cluster, "there");
        homes.contains(&3).then_some(()).ok_or(format!("{homes:?}"))
    });
    // It is told, whatever is asked of it, and what runs there is left to its operator.
    let told = |what: &[&str]| {
        wait_until("it is told", SOON, || {
            let said = all(&d.coracle(what));
            said.contains("removed from the cluster")
                .then_some(())
                .ok_or(said)
        });
    };
    told(&["cluster", "status"]);
    told(&["unit", "list"]);
    d.refused(&["unit", "start", "first"], "`coracle leave`");
    assert!(
        d.log()
            .contains("this machine was removed from the cluster")
    );
    // What it was asked may have been taken back before it was cut off; it is never begun anew there.
    let still = d.coracle(&["inspect", "--format", "{{.State.Pid}}", "there"]);
    assert!(!still.status.success() || common::text(&still) == there);
    assert!(!a.ok(&["machine", "list"]).contains("m4"));
    // Also after its own restart.
    d.reboot();
    told(&["cluster", "status"]);
    d.ok(&["leave"]);
    is_at(&cluster, "there", &[3]);
    join(&cluster, 4, &["--discard"]);
    wait_for("it is back", SOON, || {
        a.ok(&["machine", "list"]).contains("m4")
    });
}

/// Revisions of two clusters do not compare: the newer copy may be of the one that the machine has left.
#[test]
fn a_cluster_is_not_recovered_from_the_store_of_another_one() {
    let cluster = Setup::new(2).build();
    let (a, b) = (cluster.machine(1), cluster.machine(2));
    let copies = |machine: &Machine| machine.ok(&["cluster", "snapshots"]).lines().count() - 1;
    let enter = |at: &Machine, newcomer: &Machine| {
        let token = at.ok(&["cluster", "token", "-q"]);
        newcomer.ok(&["join", &at.address(), "--token", token.trim()])
    };
    // A cluster where much was written, of which the second machine has the store.
    enter(b, a);
    let puts = "for n in $(seq 200); do etcdctl put k $n || exit 1; done >/dev/null";
    let written = b
        .inside("sh")
        .args(["-c", puts])
        .env("ETCDCTL_API", "3")
        .status();
    assert!(written.unwrap().success());
    b.ok(&["store", "put", "of-the-former", "1"]);
    let taken = b.ok(&["cluster", "snapshot"]);
    a.ok(&["leave"]);
    b.refused(&["leave"], "--force");
    let said = b.ok(&["leave", "--force"]);
    assert!(said.contains("cluster/former-1"), "{said}");
    assert_eq!(copies(b), 0);
    // As an older release has left it.
    let dir = b.path(&b.state_dir().join("cluster"));
    let name = std::path::Path::new(taken.trim()).file_name().unwrap();
    let kept = dir.join("former-1/snapshots").join(name);
    std::fs::copy(&kept, dir.join("snapshots").join(name)).unwrap();
    assert_eq!(copies(b), 1);

    let said = enter(a, b);
    assert!(said.contains("cluster/former-2"), "{said}");
    assert_eq!(copies(b), 0);
    assert!(kept.exists());
    a.ok(&["store", "put", "of-this-one", "1"]);
    wait_for("it has a copy", LOST + SOON, || {
        a.ok(&["cluster", "status"]).contains("learner, in step")
    });
    a.kill_all();
    let said = b.ok(&["cluster", "recover", "--yes"]);
    assert!(said.contains("this machine's own etcd"), "{said}");
    // The former cluster's copy would have been the newer one.
    let number = |text: &str| -> u64 {
        let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
        let end = digits
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(digits.len());
        digits[..end].parse().unwrap()
    };
    let own = number(said.split_once("revision").unwrap().1);
    assert!(number(name.to_str().unwrap()) > own, "{name:?} {said}");
    assert!(b.ok(&["store", "get", "of-this-one"]).contains('1'));
    assert_eq!(b.ok(&["store", "get", "of-the-former"]), "");
}
