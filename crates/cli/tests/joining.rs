//! Machines become a cluster by one command each, and units go where they should.
#![allow(clippy::unwrap_used)]

mod cluster;
mod common;

use cluster::{Cluster, Setup, wait_for};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// Machines of one cluster; the first began it.
fn joined(machines: usize) -> Cluster {
    let cluster = Setup::new(machines).build();
    let first = cluster.machine(1);
    for n in 2..=machines {
        let token = first.ok(&["cluster", "token", "-q"]);
        let said = cluster
            .machine(n)
            .ok(&["join", &first.address(), "--token", token.trim()]);
        assert!(said.contains(&format!("one of {n}")), "{said}");
    }
    cluster
}

fn unit_line(cluster: &Cluster, asked: usize, unit: &str) -> String {
    let all = cluster.machine(asked).ok(&["unit", "list"]);
    let line = all.lines().find(|line| line.contains(unit));
    line.unwrap_or_default().to_owned()
}

#[test]
fn two_machines_are_one_place() {
    let cluster = joined(2);
    let (a, b) = (cluster.machine(1), cluster.machine(2));
    // Asked on one, placed by name on the other, seen on both.
    let text = format!(
        "[Container]\nImage=bb\nExec=sh -c 'echo here; exec sleep 1000'\n[X-Fleet]\nMachineID={}\n",
        b.id()
    );
    let file = a.unit("there.container", &text);
    a.ok(&["unit", "start", &file]);
    for asked in [1, 2] {
        let line = unit_line(&cluster, asked, "there.container");
        assert!(line.contains("active"), "m{asked}: {line}");
    }
    assert!(b.ok(&["ps"]).contains("there"));
    assert!(!a.ok(&["ps"]).contains("there"));
    // Its output is had from anywhere, and so is its inside.
    wait_for("its output", SOON, || {
        a.ok(&["unit", "logs", "there"]).contains("here")
    });
    assert_eq!(
        a.ok(&["exec", "there", "hostname"]),
        b.ok(&["exec", "there", "hostname"])
    );
    // What the machine that does not lead is asked, the leader does.
    b.ok(&["unit", "stop", "there"]);
    assert!(unit_line(&cluster, 1, "there.container").contains("inactive"));
    // A daemon's restart stops nothing and forgets nothing.
    b.ok(&["unit", "start", "there"]);
    let before = b.ok(&["inspect", "there", "--format", "{{.State.Pid}}"]);
    b.kill();
    b.start();
    wait_for("m2 is back", SOON, || {
        unit_line(&cluster, 2, "there.container").contains("active")
    });
    assert_eq!(
        b.ok(&["inspect", "there", "--format", "{{.State.Pid}}"]),
        before
    );
}

#[test]
fn tokens_are_good_once_and_for_their_cluster() {
    let cluster = Setup::new(4).build();
    let (a, b, c) = (cluster.machine(1), cluster.machine(2), cluster.machine(3));
    let token = a.ok(&["cluster", "token", "-q"]).trim().to_owned();
    b.refused(
        &["join", &a.address(), "--token", "coracle_1_nonsense"],
        "token",
    );
    let wrong = ["join", "http://192.0.2.1/", "--token", &token];
    b.refused(&wrong, "is no address of a machine");
    a.refused(&["cluster", "token", "--uses", "0"], "for one machine");
    // What is here would be lost.
    b.ok(&["run", "-d", "--name", "mine", "bb", "sleep", "1000"]);
    b.refused(&["join", &a.address(), "--token", &token], "--discard");
    b.ok(&["rm", "-f", "mine"]);
    let bracketed = format!("[::ffff:{}]", a.address());
    b.ok(&["join", &bracketed, "--token", &token]);
    c.refused(&["join", &a.address(), "--token", &token], "used");
    // Another cluster's: whoever answers there is not the one that the token is of.
    let other = a.ok(&["cluster", "token", "-q"]).trim().to_owned();
    // A cluster of one's own has to be left first, which costs nothing that the machine has.
    c.ok(&["cluster", "token", "-q"]);
    c.ok(&["store", "put", "kept", "1"]);
    c.refused(&["join", &a.address(), "--token", &other], "coracle leave");
    c.ok(&["leave"]);
    assert!(c.ok(&["store", "get", "kept"]).contains('1'));
    c.refused(&["join", &a.address(), "--token", &other], "--discard");
    c.ok(&["store", "del", "kept"]);
    let d = cluster.machine(4);
    let foreign = d.ok(&["cluster", "token", "-q"]).trim().to_owned();
    c.refused(&["join", &a.address(), "--token", &foreign], "cluster");
    c.ok(&["join", &a.address(), "--token", &other]);
    // Out again, by its own word; the others know it no more.
    c.ok(&["leave"]);
    wait_for("it is off the list", SOON, || {
        !a.ok(&["cluster", "status"]).contains(c.id())
    });
    assert!(a.ok(&["cluster", "status"]).contains("voter"));
    // Taken off by another, a machine is cut off, and leaves what it is no part of any more.
    a.refused(&["machine", "remove", a.id()], "coracle leave");
    a.ok(&["machine", "remove", b.id()]);
    wait_for("it is off the list", SOON, || {
        !a.ok(&["cluster", "status"]).contains(b.id())
    });
    b.ok(&["leave"]);
    assert!(b.ok(&["cluster", "status"]).contains("alone"));
}

#[test]
fn tokens_are_seen_and_revoked() {
    let cluster = Setup::new(2).build();
    let (a, b) = (cluster.machine(1), cluster.machine(2));
    a.refused(&["cluster", "token", "list"], "in no cluster");
    let make = |more: &[&str]| {
        let token = a.ok(&[&["cluster", "token", "-q"], more].concat());
        token.trim().to_owned()
    };
    let list = |more: &[&str]| a.ok(&[&["cluster", "token", "list"], more].concat());
    let ids = || -> Vec<String> { list(&["-q"]).lines().map(str::to_owned).collect() };
    let (first, _) = (make(&[]), make(&["--ttl", "1s"]));
    let known = ids();
    assert_eq!(known.len(), 2, "{known:?}");
    let shown = list(&[]);
    for words in ["TOKEN ID", "operator on m1", "in 24 hours"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    wait_for("it says that one ran out", SOON, || {
        let expired = list(&["--format", "{{.Expired}} {{.Machines}}"]);
        expired.contains("true 0") && list(&[]).contains("ran out")
    });
    let enter = |token: &str| ["join", &a.address(), "--token", token].map(str::to_owned);
    let join = |token: &str| {
        let words = enter(token);
        b.coracle(&words.each_ref().map(String::as_str))
    };

    // By the whole token, or by what is its own of the id.
    a.refused(&["cluster", "token", "revoke", "zz"], &known[0]);
    a.refused(
        &["cluster", "token", "revoke", &format!("{first}a")],
        "copied",
    );
    let done = a.ok(&["cluster", "token", "revoke", &first]);
    assert!(known.contains(&done.trim().to_owned()), "{done}");
    let refused = common::errors(&join(&first));
    assert!(refused.contains("was revoked"), "{refused}");
    let left = ids();
    assert_eq!(left.len(), 1);
    let several = make(&["--uses", "3"]);
    let new = ids().into_iter().find(|id| !left.contains(id)).unwrap();

    // A member stays one, though its token is revoked; removed, it does not come back by it.
    assert!(join(&several).status.success());
    assert!(list(&["--format", "{{.ID}} {{.Machines}}"]).contains(&format!("{new} 2")));
    b.refused(&["cluster", "token", "list"], "only voters");
    b.refused(&["cluster", "token", "revoke", &new], "only voters");
    assert_eq!(
        a.ok(&["cluster", "token", "revoke", &new[..12]]).trim(),
        new
    );
    a.refused(&["cluster", "token", "revoke", &new], &left[0]);
    assert!(b.ok(&["unit", "list"]).contains("UNIT"));
    a.ok(&["machine", "remove", b.id()]);
    b.ok(&["leave"]);
    let refused = common::errors(&join(&several));
    assert!(refused.contains("was revoked"), "{refused}");
    let output = join(&make(&[]));
    assert!(output.status.success(), "{}", common::errors(&output));
}

#[test]
fn units_of_a_lost_machine_run_elsewhere() {
    let cluster = joined(3);
    cluster.settles();
    let a = cluster.machine(1);
    let text = "[Container]\nImage=bb\nExec=sleep 1000\n[X-Fleet]\nMachineMetadata=kind=worker\n";
    for worker in [2, 3] {
        let id = cluster.machine(worker).id();
        a.ok(&["machine", "label", id, "kind=worker"]);
    }
    let file = a.unit("moves.container", text);
    a.ok(&["unit", "start", &file]);
    let at = |n: usize| cluster.machine(n).ok(&["ps"]).contains("moves");
    let (home, other) = if at(2) { (2, 3) } else { (3, 2) };
    assert!(at(home));
    cluster.machine(home).kill_all();
    wait_for("it runs elsewhere", Duration::from_secs(20), || at(other));
    // Back again, the machine has what it is asked for and nothing else.
    cluster.machine(home).start();
    wait_for("nothing is doubled", SOON, || !at(home) && at(other));
}
