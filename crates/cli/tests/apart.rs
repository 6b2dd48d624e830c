//! Units on different machines that need each other, or cannot be beside each other.
#![allow(clippy::unwrap_used)]

mod cluster;
mod common;
mod scenarios;

use cluster::wait::stays;
use cluster::witness::Witness;
use scenarios::{Running, SOON, is_at, joined, runs, unit};
use std::time::Duration;

#[test]
fn units_wait_for_units_on_other_machines() {
    let cluster = joined(3);
    let (a, b, c) = (cluster.machine(1), cluster.machine(2), cluster.machine(3));
    let shared = cluster.dir().join("shared");
    std::fs::create_dir(&shared).unwrap();
    // It is healthy when it is let.
    let db = format!(
        "[Container]\nImage=bb\nExec=sh -c 'while ! [ -e /shared/go ]; do sleep 0.1; done; exec tell'\nVolume={}:/shared\nStopTimeout=1\n\
         [X-Fleet]\nMachineID={}\n[X-Deploy]\nProbe=http://:80/\nProbeIntervalSec=200ms\n",
        shared.display(),
        b.id()
    );
    let web = format!(
        "[Unit]\nRequires=db.container\nAfter=db.container\n[Container]\nImage=bb\nExec=sleep 1000\nStopTimeout=1\n[X-Fleet]\nMachineID={}\n",
        c.id()
    );
    a.ok(&[
        "unit",
        "submit",
        &a.unit("db.container", &db),
        &a.unit("web.container", &web),
    ]);
    let start = Running::start(a, &["unit", "start", "web"]);
    is_at(&cluster, "db", &[2]);
    assert!(
        stays(Duration::from_secs(2), || !runs(c, "web")),
        "it did not wait"
    );
    assert_eq!(unit(b, "db")["active"], "activating");
    std::fs::write(shared.join("go"), "").unwrap();
    let (code, said) = start.ends(SOON);
    assert_eq!(code, Some(0), "{said}");
    assert!(runs(c, "web"));
    // It stops before what it needs does.
    c.ok(&["unit", "stop", "db"]);
    assert!(!runs(c, "web") && !runs(b, "db"));

    // What must not run beside another ends first, on whichever machine it is, and whichever of the two says so.
    let witness = Witness::new(&cluster, "rivals");
    let rival = |text: &str, at: &str| format!("{text}[X-Fleet]\nMachineID={at}\n");
    // It takes its time to end.
    let red = witness.unit("").replace(
        "Exec=witness",
        "Exec=sh -c 'trap : TERM; witness & p=$!; wait $p; sleep 1.5; kill $p; wait $p'",
    );
    let red = red.replace("StopTimeout=2", "StopTimeout=10");
    let blue = format!("[Unit]\nConflicts=red.container\n{}", witness.unit(""));
    a.ok(&[
        "unit",
        "start",
        &a.unit("red.container", &rival(&red, b.id())),
    ]);
    wait_beat(&witness);
    a.ok(&[
        "unit",
        "start",
        &a.unit("blue.container", &rival(&blue, c.id())),
    ]);
    is_at(&cluster, "red", &[]);
    is_at(&cluster, "blue", &[3]);
    wait_beat(&witness);
    c.ok(&["unit", "start", "red"]);
    is_at(&cluster, "blue", &[]);
    is_at(&cluster, "red", &[2]);
    wait_beat(&witness);
    witness.was_alone();
}

/// Waits until whoever runs now has shown itself.
fn wait_beat(witness: &Witness) {
    let before = witness.seen().len();
    cluster::wait_for("it beats", SOON, || {
        let seen = witness.seen();
        seen.iter().skip(before).any(|s| s.word == "beat")
    });
}
