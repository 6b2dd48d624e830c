//! Machines become voters by themselves, and others take the place of those that go.
#![allow(clippy::unwrap_used)]

mod cluster;
mod common;
#[path = "voters/moved.rs"]
mod moved;
#[path = "voters/renewed.rs"]
mod renewed;

use base64::Engine as _;
use cluster::signals::{self, Signal};
use cluster::{Cluster, Machine, Setup, wait_for};
use common::errors;
use serde_json::Value;
use std::time::Duration;

/// etcd lets nobody in for some seconds after each change.
const LONG: Duration = Duration::from_secs(90);

/// Machines of one cluster; the first began it.
fn joined(setup: Setup) -> Cluster {
    let machines = setup.machines;
    let cluster = setup.build();
    let first = cluster.machine(1);
    for n in 2..=machines {
        let token = first.ok(&["cluster", "token", "-q"]);
        let token = token.trim();
        cluster
            .machine(n)
            .ok(&["join", &first.address(), "--token", token]);
    }
    cluster
}

fn status(machine: &Machine) -> Value {
    let output = machine.coracle(&["cluster", "status", "--format", "json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// What each machine has of the store by the word of one: `v` votes, `l` learns, `-` nothing, `?` not there; a capital letter: its etcd
/// answers and is in step.
fn roles(cluster: &Cluster, asked: usize) -> String {
    let found = status(cluster.machine(asked));
    let all = found["machines"].as_array().cloned().unwrap_or_default();
    let role = |machine: &Machine| {
        let Some(row) = all.iter().find(|row| row["id"] == machine.id()) else {
            return '?';
        };
        let role = match row["store"].as_str() {
            Some("voter") => 'v',
            Some("learner") => 'l',
            _ => '-',
        };
        match row["inStep"] == true {
            true => role.to_ascii_uppercase(),
            false => role,
        }
    };
    cluster.machines().iter().map(role).collect()
}

fn become_(cluster: &Cluster, asked: usize, wanted: &str) {
    wait_for(&format!("{wanted} by m{asked}'s word"), LONG, || {
        roles(cluster, asked) == wanted
    });
}

fn etcd_file(machine: &Machine, file: &str) -> bool {
    machine
        .path(&machine.state_dir().join("cluster").join(file))
        .exists()
}

/// Revisions at which each key went whose name ends so, as the etcd of that machine has them.
fn went(machine: &Machine, end: &str) -> Vec<(String, i64)> {
    let mut etcdctl = machine.inside("timeout");
    etcdctl.args(["3", "etcdctl", "--endpoints=http://127.0.0.1:7375"]);
    etcdctl.args(["watch", "--rev=1", "--prefix", "/coracle/v1/", "-w", "json"]);
    let output = etcdctl.env("ETCDCTL_API", "3").output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let answers = told
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let events: Vec<Value> = answers
        .flat_map(|answer| answer["Events"].as_array().cloned().unwrap_or_default())
        .collect();
    assert!(!events.is_empty(), "{told}{}", errors(&output));
    let gone = events.iter().filter(|event| event["type"] == 1);
    let named = gone.map(|event| {
        let key = event["kv"]["key"].as_str().unwrap().as_bytes();
        let key = base64::engine::general_purpose::STANDARD
            .decode(key)
            .unwrap();
        let revision = event["kv"]["mod_revision"].as_i64().unwrap();
        (String::from_utf8(key).unwrap(), revision)
    });
    named.filter(|(key, _)| key.ends_with(end)).collect()
}

/// Runs a program in the machine, which must succeed.
fn does(machine: &Machine, program: &str, args: &[&str]) {
    let done = machine.inside(program).args(args).status().unwrap();
    assert!(done.success(), "{program} {args:?}");
}

/// A unit is started by a machine's word, and listed.
fn works(cluster: &Cluster, asked: usize, unit: &str) {
    let machine = cluster.machine(asked);
    let text = "[Container]\nImage=bb\nExec=sleep 1000\n";
    let file = machine.unit(&format!("{unit}.container"), text);
    machine.ok(&["unit", "start", &file]);
    let all = machine.ok(&["unit", "list"]);
    let line = all.lines().find(|line| line.contains(unit));
    assert!(line.is_some_and(|line| line.contains("active")), "{all}");
}

#[test]
fn the_second_has_a_copy_and_takes_over_from_one_that_leaves() {
    let cluster = joined(Setup::new(2));
    let (a, b) = (cluster.machine(1), cluster.machine(2));
    become_(&cluster, 1, "VL");
    become_(&cluster, 2, "VL");
    let said = b.ok(&["cluster", "status"]);
    assert!(said.contains("m1 has the only vote"), "{said}");
    assert!(said.contains("`coracle cluster recover` on m2"), "{said}");
    assert!(said.contains("learner, in step"), "{said}");
    // Also who began the cluster, and had the store in itself before.
    let machines = status(b)["machines"].as_array().cloned().unwrap();
    assert!(
        machines.iter().all(|m| m["canVote"] == true),
        "{machines:?}"
    );
    b.refused(&["cluster", "token"], "only voters");
    // It has what a voter needs, and is none: it goes by the door's word.
    assert!(etcd_file(b, "ca.key"));
    works(&cluster, 2, "before");
    // The only voter leaves: the other one has its vote first, and all that there was.
    a.ok(&["store", "put", "kept", "1"]);
    // Cut short where it has told the others, and cannot remove its data.
    let busy = a.state_dir().join("cluster/etcd/data/busy");
    let busy = busy.to_str().unwrap();
    does(a, "mkdir", &[busy]);
    does(a, "mount", &["-t", "tmpfs", "none", busy]);
    a.refused(&["leave"], "removing");
    a.kill();
    does(a, "umount", &[busy]);
    a.start();
    // It is alone, and no cluster's founder, as it would be by the CA's key.
    assert!(a.ok(&["cluster", "status"]).contains("alone"));
    a.refused(&["cluster", "token"], "leave first");
    a.ok(&["leave"]);
    a.refused(&["leave"], "in no cluster");
    assert!(!etcd_file(a, "ca.pem") && !etcd_file(a, "home.json"));
    // The word that it goes stood as long as it was on the list: the leader never was to let it in again.
    let off = went(b, &format!("members/{}", a.id()));
    let word = went(b, &format!("leaving/{}", a.id()));
    assert_eq!((off.len(), word.len()), (1, 1), "{off:?} {word:?}");
    assert_eq!(off[0].1, word[0].1);
    for file in ["ca.key", "etcd/member.json", "etcd/data"] {
        assert!(!etcd_file(a, file), "{file}");
    }
    become_(&cluster, 2, "?V");
    assert!(b.ok(&["store", "get", "kept"]).contains('1'));
    works(&cluster, 2, "after");
    // The last one has the store, and says so.
    b.refused(&["leave"], "--force");
}

#[test]
fn one_that_is_not_to_vote_has_no_copy() {
    let mut setup = Setup::new(2);
    setup.config = "[cluster]\nvotes = false\n".into();
    let cluster = joined(setup);
    wait_for("it is said", LONG, || {
        let said = cluster.machine(2).ok(&["cluster", "status"]);
        said.contains("m2 can have no copy") && said.contains("voter, leads")
    });
    assert_eq!(roles(&cluster, 1), "V-");
    works(&cluster, 2, "on");
}

#[test]
fn three_vote_and_any_of_them_may_be_lost() {
    let cluster = joined(Setup::new(3));
    let (a, b) = (cluster.machine(1), cluster.machine(2));
    become_(&cluster, 1, "VVV");
    works(&cluster, 3, "first");
    b.ok(&["store", "put", "k", "1"]);
    // A machine whose daemon alone is killed is a voter still, and goes on.
    b.kill();
    b.start();
    assert!(b.ok(&["store", "get", "k"]).contains('1'));
    // Who began it is lost with everything: the others go on, in all that they do.
    a.kill_all();
    let left = [2, 3];
    for asked in left {
        wait_for("units can be changed", LONG, || {
            let all = cluster.machine(asked).coracle(&["unit", "list"]);
            all.status.success()
        });
        works(&cluster, asked, &format!("by{asked}"));
    }
    assert!(b.ok(&["store", "get", "k"]).contains('1'));
    b.ok(&["store", "put", "k", "2"]);
    // Tokens too, of a CA whose key it was given.
    b.ok(&["cluster", "token", "-q"]);
    wait_for("it is said", LONG, || {
        b.ok(&["cluster", "status"]).contains("m1 does not answer")
    });
    // It would end the majority.
    let refused = b.coracle(&["machine", "remove", cluster.machine(3).id()]);
    let said = errors(&refused);
    assert!(said.contains("no majority"), "{said}");
    // What it advises is there.
    assert!(!said.contains("--force"), "{said}");
    a.start();
    become_(&cluster, 1, "VVV");
    assert!(a.ok(&["store", "get", "k"]).contains('2'));
}

#[test]
fn a_voter_whose_etcd_is_lost_begins_anew_where_nobody_else_can() {
    let mut setup = Setup::new(3);
    setup.config = "[cluster]\nreplace_after = \"8s\"\n".into();
    let cluster = joined(setup);
    become_(&cluster, 1, "VVV");
    let lost = cluster.machine(3);
    lost.kill_all();
    let data = lost.state_dir().join("cluster/etcd/data");
    std::fs::remove_dir_all(lost.path(&data)).unwrap();
    lost.start();
    wait_for("its etcd is not begun without what it had", LONG, || {
        status(lost)["etcd"]["why"]
            .as_str()
            .is_some_and(|why| why.contains("is gone"))
    });
    become_(&cluster, 1, "VVV");
    works(&cluster, 3, "on");
}

#[test]
fn a_dead_voter_is_replaced_and_is_none_when_it_comes_back() {
    let mut setup = Setup::new(4);
    setup.config = "[cluster]\nreplace_after = \"8s\"\n".into();
    let cluster = joined(setup);
    // Three of the four vote, whichever they are; the first always.
    let votes = |asked| roles(&cluster, asked).matches('V').count();
    wait_for("three voters", LONG, || votes(1) == 3);
    let before = roles(&cluster, 1);
    let follower = before.find('-').unwrap() + 1;
    let lost = (2..=4).find(|n| *n != follower).unwrap();
    // One that has no vote goes by the others' doors.
    let out = cluster.machine(follower);
    out.ok(&["store", "put", "k", "1"]);
    cluster.machine(lost).kill_all();
    let wanted = |n| match n {
        n if n == lost => '-',
        _ => 'V',
    };
    let after: String = (1..=4).map(wanted).collect();
    become_(&cluster, follower, &after);
    assert!(out.ok(&["store", "get", "k"]).contains('1'));
    works(&cluster, follower, "on");
    // Back again it has no vote, and nothing of what one with a vote has; it reaches the store by those that are voters now.
    let back = cluster.machine(lost);
    back.start();
    wait_for("it goes by the others", LONG, || {
        !etcd_file(back, "etcd/member.json") && !etcd_file(back, "ca.key")
    });
    assert!(back.ok(&["store", "get", "k"]).contains('1'));
    works(&cluster, lost, "back");
    // A voter that is taken off while it lives hands its vote over. It may lead, and its answer be cut off with it.
    out.ok(&["machine", "remove", cluster.machine(1).id()]);
    let after: String = (1..=4).map(|n| if n == 1 { '?' } else { 'V' }).collect();
    become_(&cluster, follower, &after);
    works(&cluster, lost, "last");
    // Its own list says for ever that it votes. It leaves by the others' word.
    let first = cluster.machine(1);
    first.ok(&["leave"]);
    assert!(first.ok(&["cluster", "status"]).contains("alone"));
    for file in ["ca.key", "machine.pem", "etcd/data"] {
        assert!(!etcd_file(first, file), "{file}");
    }
}

#[test]
fn a_voter_whose_etcd_is_dead_is_taken_out_elsewhere_and_leaves_then() {
    let cluster = joined(Setup::new(3));
    let (a, c) = (cluster.machine(1), cluster.machine(3));
    become_(&cluster, 1, "VVV");
    // Its etcd ends, and does not start any more.
    does(c, "mount", &["--bind", "/dev/null", "/usr/bin/etcd"]);
    let all = c.processes();
    for etcd in all.iter().filter(|process| process.name == "etcd") {
        signals::send(etcd.pid, Signal::KILL);
    }
    c.refused(&["leave"], "`coracle machine remove m3` on another machine");
    a.ok(&["machine", "remove", "m3"]);
    wait_for("it is off the list", LONG, || {
        roles(&cluster, 1).ends_with('?')
    });
    // Also after a restart, when it knows what was written down only.
    c.kill();
    c.start();
    c.ok(&["leave"]);
    assert!(c.ok(&["cluster", "status"]).contains("alone"));
    does(c, "umount", &["/usr/bin/etcd"]);
    let token = a.ok(&["cluster", "token", "-q"]);
    c.ok(&["join", &a.address(), "--token", token.trim()]);
    works(&cluster, 3, "back");
}
