//! Machines are drained and cordoned, and data stays where it is.
#![allow(clippy::unwrap_used)]

mod cluster;
mod common;
mod scenarios;

use cluster::wait::stays;
use cluster::{wait_for, wait_until};
use scenarios::{LOST, Running, SLEEPS, SOON, all, homes, is_at, joined, runs, unit};
use std::time::Duration;

/// Healthy a while after it was started.
fn slow(name: &str) -> String {
    format!(
        "[Unit]\nDescription={name}\n[Container]\nImage=bb\nExec=sh -c \"sleep 1; exec tell\"\nEnvironment=MACHINE=%H\nStopTimeout=1\n\
         [X-Deploy]\nProbe=http://:80/\nProbeIntervalSec=200ms\n"
    )
}

#[test]
fn a_drain_moves_units_one_by_one_and_names_what_cannot_move() {
    let cluster = joined(3);
    let (a, b) = (cluster.machine(1), cluster.machine(2));
    // Everything begins on m2.
    for n in [1, 3] {
        let said = a.ok(&["machine", "cordon", &format!("m{n}")]);
        assert!(said.contains("gets no more units"), "{said}");
    }
    a.ok(&[
        "unit",
        "submit",
        &a.unit("data.volume", "[Volume]\nVolumeName=data\n"),
    ]);
    let units = [
        ("one.container", slow("one")),
        ("two.container", slow("two")),
        (
            "kept.container",
            "[Container]\nImage=bb\nExec=sleep 1000\nStopTimeout=1\nVolume=data.volume:/data\n"
                .to_owned(),
        ),
        (
            "pinned.container",
            format!("{SLEEPS}[X-Fleet]\nMachineID={}\n", b.id()),
        ),
        (
            "every.container",
            format!("{SLEEPS}[X-Fleet]\nGlobal=yes\n"),
        ),
    ];
    let files: Vec<String> = units
        .iter()
        .map(|(name, text)| a.unit(name, text))
        .collect();
    let mut start = vec!["unit", "start"];
    start.extend(files.iter().map(String::as_str));
    a.ok(&start);
    for name in ["one", "two", "kept", "pinned", "every"] {
        is_at(&cluster, name, &[2]);
    }
    for n in ["m1", "m3"] {
        a.ok(&["machine", "uncordon", n]);
    }
    is_at(&cluster, "every", &[1, 2, 3]);

    // Asked of any machine.
    let drain = Running::start(cluster.machine(3), &["machine", "drain", "m2"]);
    wait_until("one is away", SOON, || {
        let (one, two) = (homes(&cluster, "one"), homes(&cluster, "two"));
        assert!(!one.is_empty() && !two.is_empty(), "{one:?} {two:?}");
        (!one.contains(&2) && !two.contains(&2))
            .then_some(())
            .ok_or_else(|| drain.said())
    });
    let (code, said) = drain.ends(SOON);
    assert_eq!(code, Some(1), "{said}");
    let at = |words: &str| {
        said.find(words)
            .unwrap_or_else(|| panic!("{words}: {said}"))
    };
    assert!(
        at("one.container has left") < at("two.container moves"),
        "{said}"
    );
    for words in [
        "m2 still has what cannot move",
        "kept.container: it stays on m2, which is being drained: the data of volume data is on m2",
        "pinned.container: it stays on m2, which is being drained: MachineID names m2",
        "`coracle machine uncordon m2` ends the drain",
    ] {
        at(words);
    }
    for name in ["kept", "pinned"] {
        assert!(runs(b, name), "{name} runs on");
    }
    is_at(&cluster, "every", &[1, 3]);
    a.ok(&["machine", "uncordon", "m2"]);
    is_at(&cluster, "every", &[1, 2, 3]);
    assert!(!runs(b, "one") && !runs(b, "two"), "nothing moves back");

    // A drain that is under way ends when the machine is to have units again.
    let home = homes(&cluster, "one")[0];
    let name = format!("m{home}");
    let never = "[Container]\nImage=bb\nExec=sh -c '[ $MACHINE != m2 ] && exec tell; exec sleep 1000'\nEnvironment=MACHINE=%H\n\
        StopTimeout=1\n[X-Deploy]\nProbe=http://:80/\nProbeIntervalSec=200ms\n";
    for n in 1..=3 {
        let n = format!("m{n}");
        let verb = if n == name { "uncordon" } else { "cordon" };
        a.ok(&["machine", verb, &n]);
    }
    a.ok(&["unit", "start", &a.unit("never.container", never)]);
    is_at(&cluster, "never", &[home]);
    // Only m2 is left for it, where it does not become healthy.
    a.ok(&["machine", "uncordon", "m2"]);
    let drain = Running::start(a, &["machine", "drain", &name]);
    drain.says("never.container moves", SOON);
    wait_for("its successor is there", SOON, || runs(b, "never"));
    assert!(
        runs(cluster.machine(home), "never"),
        "it was not waited for"
    );
    b.ok(&["machine", "uncordon", &name]);
    let (code, said) = drain.ends(SOON);
    assert_ne!(code, Some(0), "{said}");
    assert!(
        said.contains(&format!("the drain of {name} was ended")),
        "{said}"
    );
}

/// Data keeps its unit at its machine, also when that is lost, until somebody says where the data is.
#[test]
fn a_unit_with_data_waits_for_its_lost_machine() {
    let cluster = joined(3);
    let a = cluster.machine(1);
    a.ok(&[
        "unit",
        "submit",
        &a.unit("data.volume", "[Volume]\nVolumeName=data\n"),
    ]);
    for n in ["m1", "m3"] {
        a.ok(&["machine", "cordon", n]);
    }
    let text = "[Container]\nImage=bb\nExec=sh -c 'hostname >>/data/starts; exec sleep 1000'\nStopTimeout=1\nVolume=data.volume:/data\n\
        [Service]\nRestart=always\n";
    a.ok(&["unit", "start", &a.unit("db.container", text)]);
    is_at(&cluster, "db", &[2]);
    for n in ["m1", "m3"] {
        a.ok(&["machine", "uncordon", n]);
    }
    cluster.settles();
    cluster.machine(2).kill_all();
    let why = "the data of volume data is on m2, which is lost";
    wait_until("it waits and says so", LOST, || {
        let seen = unit(a, "db");
        let reason = seen["reason"].as_str().unwrap_or_default();
        (reason.contains(why) && reason.contains("coracle volume rebind data"))
            .then_some(())
            .ok_or_else(|| seen.to_string())
    });
    // Who asks for it is told the same, and does not wait for ever.
    cluster.machine(3).refused(&["unit", "start", "db"], why);
    // Not on an empty volume, however long: the time by which whatever it was has ended there.
    assert!(stays(Duration::from_secs(6), || homes(&cluster, "db").is_empty()));
    // A copy of the data was brought to m3.
    let said = cluster.machine(3).ok(&["volume", "rebind", "data", "m3"]);
    assert!(said.contains("m3"), "{said}");
    let output = a.coracle(&["unit", "start", "db"]);
    assert!(output.status.success(), "{}", all(&output));
    is_at(&cluster, "db", &[3]);
    let other = pid_of(&cluster, 3);
    // Its former machine has the old data, and nothing that runs.
    cluster.machine(2).start();
    wait_for("m2 is back", SOON, || {
        !a.ok(&["machine", "list"]).contains("gone")
    });
    is_at(&cluster, "db", &[3]);
    assert_eq!(pid_of(&cluster, 3), other);
    let volumes = cluster.machine(2).ok(&["volume", "ls", "-q"]);
    assert!(volumes.contains("data"), "{volumes}");
}

fn pid_of(cluster: &cluster::Cluster, n: usize) -> String {
    scenarios::pid(cluster.machine(n), "db")
}
