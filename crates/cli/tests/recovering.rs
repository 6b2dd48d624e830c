//! Recovering, wherever it is cut short, and lost voters that come back in whatever state they are.
#![allow(clippy::unwrap_used)]

mod cluster;
mod common;

use cluster::recovery::{
    SOON, answers, carry, file, join, joined_and_more, lists, pid, show_etcd, stand, standing,
    status, stay,
};
use cluster::{Machine, wait_for};

/// The daemon dies once that step is done, of a recovery that is said now or of one that goes on by itself.
fn dies_at(machine: &Machine, step: &str, said: Option<&[&str]>) {
    let name = || std::fs::write(file(machine, "die-at"), step).unwrap();
    if let Some(args) = said {
        if machine.daemon().is_none() {
            machine.start();
        }
        name();
        let mut said = machine.spawn(args);
        machine.gone();
        let _ = said.kill();
        let _ = said.wait();
    } else {
        name();
        machine.launch();
        machine.gone();
    }
}

#[test]
fn a_learner_goes_on_wherever_its_daemon_dies() {
    let cluster = standing(2, &["voter", "learner, in step"]);
    let (a, b) = (cluster.machine(1), cluster.machine(2));
    a.ok(&["store", "put", "kept", "1"]);
    stay(a, "stays", b);
    let before = pid(b, "stays");
    a.kill_all();
    let recover = ["cluster", "recover", "--yes"];
    // Its data is aside then, and what it had must not be begun anew without.
    dies_at(b, "Aside", Some(&recover));
    dies_at(b, "Placed", Some(&recover));
    // From here on it goes on by itself.
    for step in [
        "configured",
        "forgotten",
        "listed",
        "struck",
        "led by nobody",
        "told",
        "known",
        "home",
        "finished",
    ] {
        dies_at(b, step, None);
    }
    b.start();
    wait_for("the store is there", SOON, || answers(b));
    assert!(file(b, "etcd/data.before-1").exists() && !file(b, "etcd/data.before-2").exists());
    assert!(b.ok(&["store", "get", "kept"]).contains('1'));
    wait_for("its unit", SOON, || lists(b, "stays.container"));
    assert_eq!(pid(b, "stays"), before);
    // It may let others in, and the one that was lost learns from it now.
    b.ok(&["cluster", "token"]);
    a.start();
    stand(&cluster, &["learner, in step", "voter"]);
    assert!(file(a, "etcd/data.before-1").exists());
    assert!(lists(a, "stays.container"));
}

#[test]
fn a_copy_goes_on_without_the_keys_wherever_the_daemon_dies() {
    let cluster = joined_and_more(3, 1, "");
    let (a, b, c) = (cluster.machine(1), cluster.machine(2), cluster.machine(3));
    stay(a, "stays", b);
    let before = pid(b, "stays");
    a.ok(&["store", "put", "kept", "1"]);
    let taken = a.ok(&["cluster", "snapshot"]);
    a.kill_all();
    let from = &carry(a, &taken, b, false);
    b.refused(&["cluster", "recover", "--yes", "--from", from], "etcd");
    show_etcd(b);
    b.refused(&["cluster", "recover", "--yes"], "member/snap/db");
    let asked = b.coracle(&["cluster", "recover", "--from", from]);
    let told = String::from_utf8_lossy(&asked.stdout);
    assert!(
        told.contains("begins a new one") && told.contains("m3"),
        "{told}"
    );
    dies_at(
        b,
        "Flipped",
        Some(&["cluster", "recover", "--yes", "--from", from]),
    );
    for step in [
        "configured",
        "keyless",
        "founded",
        "certified",
        "at home",
        "ca made",
        "struck",
        "told",
    ] {
        dies_at(b, step, None);
    }
    b.start();
    wait_for("the store is there", SOON, || answers(b));
    assert!(b.ok(&["store", "get", "kept"]).contains('1'));
    wait_for("its unit", SOON, || lists(b, "stays.container"));
    assert_eq!(pid(b, "stays"), before);
    // Others come in anew, as the way out says.
    c.ok(&["leave", "--force"]);
    join(b, c);
    wait_for("m3 is there", SOON, || lists(c, "stays.container"));
    let said = status(b);
    assert!(!said.contains(a.id()) && said.contains(c.id()), "{said}");

    // And so does a new machine, of which nobody knew.
    let d = cluster.machine(4);
    let from = &carry(a, &taken, d, false);
    d.refused(&["cluster", "recover", "--yes"], "--from FILE");
    d.ok(&["run", "-d", "--name", "mine", "bb", "sleep", "1000"]);
    let recover = ["cluster", "recover", "--yes", "--from", from];
    d.refused(&recover, "not empty");
    d.ok(&["rm", "-f", "mine"]);
    // Half made, it is as if nothing had been.
    dies_at(d, "Configured", Some(&recover));
    d.start();
    let said = status(d);
    assert!(said.contains("This machine is alone"), "{said}");
    d.ok(&recover);
    assert!(d.ok(&["store", "get", "kept"]).contains('1'));
    let said = status(d);
    assert!(said.contains(d.id()) && !said.contains(b.id()), "{said}");
}

/// What a machine knows of who made the store anew.
fn epoch(machine: &Machine) -> serde_json::Value {
    let text = std::fs::read(file(machine, "epoch.json"));
    serde_json::from_slice(&text.unwrap_or_default()).unwrap_or_default()
}

/// It has the new store, and nothing of the old one but what lies aside.
fn goes_over(lost: &Machine, to: &Machine) {
    let name = lost.name();
    let aside = file(lost, "etcd/data.before-1/member/snap/db");
    wait_for(&format!("{name}'s data is aside"), SOON, || aside.exists());
    wait_for(&format!("{name} knows why"), SOON, || {
        epoch(lost)["machine"] == to.id()
    });
    wait_for(&format!("{name} has the new store"), SOON, || {
        let got = lost.coracle(&["store", "get", "new"]);
        String::from_utf8_lossy(&got.stdout).contains('1')
    });
    assert!(!file(lost, "recovering.json").exists());
    // One that it has by now is of the new store.
    let config = std::fs::read_to_string(file(lost, "etcd/member.json"));
    let new = format!("coracle-{}-1", to.id());
    assert!(config.is_err() || config.is_ok_and(|config| config.contains(&new)));
}

/// One has lost the others and their store, and reaches the new one by a door before it has asked which one that is; another one knew
/// of it, and had its etcd all the same.
#[test]
fn lost_voters_that_reach_the_new_store_first_go_over() {
    let cluster = standing(3, &["voter", "voter", "voter"]);
    let (a, b, c) = (cluster.machine(1), cluster.machine(2), cluster.machine(3));
    a.ok(&["store", "put", "kept", "1"]);
    a.cut();
    b.kill_all();
    c.ok(&["cluster", "recover", "--yes"]);
    c.ok(&["store", "put", "new", "1"]);
    // It was about to do the same.
    dies_at(a, "noted", Some(&["cluster", "recover", "--yes"]));
    a.start();
    assert!(file(a, "recovering.json").exists());
    a.uncut();
    goes_over(a, c);
    assert!(a.ok(&["store", "get", "kept"]).contains('1'));

    std::fs::copy(file(c, "epoch.json"), file(b, "epoch.json")).unwrap();
    b.start();
    goes_over(b, c);
}
