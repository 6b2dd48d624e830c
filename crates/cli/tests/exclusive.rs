//! Never two of an exclusive unit: where its machine is cut off or has no daemon it stops by itself, and only then begins elsewhere.
#![allow(clippy::unwrap_used)]

mod cluster;
mod common;

use cluster::signals::Signal;
use cluster::wait::stays;
use cluster::witness::{Seen, Witness};
use cluster::{Cluster, Machine, Setup, wait_for};
use common::errors;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
/// As the issue has it for what runs elsewhere, and some for a machine that does much else.
const ELSEWHERE: Duration = Duration::from_secs(30);
const WHY: &str = "stopped by its watchdog: the store could not be asked for";

/// Machines of one cluster, of which the first has the store; the others are its workers.
fn joined(machines: usize) -> Cluster {
    let cluster = Setup::new(machines).build();
    let first = cluster.machine(1);
    for n in 2..=machines {
        let token = first.ok(&["cluster", "token", "-q"]);
        let join = ["join", &first.address(), "--token", token.trim()];
        cluster.machine(n).ok(&join);
        first.ok(&["machine", "label", cluster.machine(n).id(), "kind=worker"]);
    }
    cluster
}

/// An exclusive unit for the workers, seen by a witness.
fn exclusive(cluster: &Cluster, name: &str, more: &str) -> Witness {
    let witness = Witness::new(cluster, name);
    let text = witness.unit(&format!("[X-Deploy]\nExclusive=yes\n[X-Fleet]\n{more}\n"));
    let first = cluster.machine(1);
    let file = first.unit(&format!("{name}.container"), &text);
    first.ok(&["unit", "start", &file]);
    wait_for("it beats", SOON, || witness.last().is_some());
    witness
}

const ON_WORKERS: &str = "MachineMetadata=kind=worker";

/// The machine on which it beats now.
fn home<'c>(cluster: &'c Cluster, witness: &Witness) -> &'c Machine {
    let name = witness.last().unwrap().machine;
    cluster
        .machines()
        .iter()
        .find(|m| m.name() == name)
        .unwrap()
}

/// Waits until it runs on another machine, and looks at how it got there.
fn moves<'c>(cluster: &'c Cluster, witness: &Witness, from: &Machine) -> &'c Machine {
    let before = witness.seen().len();
    wait_for("it runs elsewhere", ELSEWHERE, || {
        witness
            .last()
            .is_some_and(|seen| seen.machine != from.name())
    });
    witness.was_alone();
    let seen = witness.seen();
    let of = |seen: &&Seen, there: bool| (seen.machine == from.name()) == there;
    let ended = seen.iter().rfind(|seen| of(seen, true)).unwrap();
    let begun = seen[before..].iter().find(|seen| of(seen, false)).unwrap();
    assert!(ended.at < begun.at, "{ended:?} {begun:?}");
    assert_eq!(ended.word, "end", "it was asked to end, and had time to");
    assert!(begun.fence > ended.fence, "{ended:?} {begun:?}");
    home(cluster, witness)
}

fn has(machine: &Machine, container: &str) -> bool {
    let listed = machine.ok(&["ps", "-a", "--format", "{{.Names}}"]);
    listed.lines().any(|name| name == container)
}

/// The machine that was away has nothing of it any more.
fn nothing_doubled(witness: &Witness, back: &Machine) {
    wait_for("what is left is collected", SOON, || !has(back, "it"));
    witness.was_alone();
    assert_eq!(witness.stale(), []);
}

#[test]
fn cut_off_it_stops_before_it_begins_elsewhere() {
    let cluster = joined(3);
    cluster.settles();
    let first = cluster.machine(1);
    let witness = exclusive(&cluster, "it", ON_WORKERS);
    let from = home(&cluster, &witness);
    // What is not exclusive runs on where it is.
    let plain = format!(
        "[Container]\nImage=bb\nExec=sleep 1000\n[X-Fleet]\nMachineID={}\n",
        from.id()
    );
    let file = first.unit("plain.container", &plain);
    first.ok(&["unit", "start", &file]);
    let pid = from.field("plain", ".State.Pid");
    from.cut();
    moves(&cluster, &witness, from);
    assert_eq!(from.field("plain", ".State.Pid"), pid);
    assert!(from.field("it", ".State.Error").contains(WHY));
    let said = from.coracle(&["logs", "it"]);
    assert!(errors(&said).contains(WHY), "{}", errors(&said));
    // By hand neither.
    from.refused(&["start", "it"], "exclusive");
    from.heal();
    nothing_doubled(&witness, from);
    assert_eq!(from.field("plain", ".State.Pid"), pid);

    // What is not exclusive may ask to be elsewhere sooner.
    let quick = "[Container]\nImage=bb\nExec=sleep 1000\n[X-Deploy]\nLostAfterSec=5\n\
        [X-Fleet]\nMachineMetadata=kind=worker\n";
    let file = first.unit("quick.container", quick);
    first.ok(&["unit", "start", &file]);
    let workers = [2, 3].map(|n| cluster.machine(n));
    let (at, other) = match has(workers[0], "quick") {
        true => (workers[0], workers[1]),
        false => (workers[1], workers[0]),
    };
    // A machine learns of it with its next sign.
    assert!(stays(Duration::from_secs(4), || has(at, "quick")));
    // Whoever was cut off has the store again, or it has no majority when another one goes.
    cluster.settles();
    at.kill_all();
    // Below the least that it is without being asked for, and time enough to elect another leader of the store.
    wait_for("it runs elsewhere", Duration::from_secs(15), || {
        has(other, "quick")
    });
}

#[test]
fn without_a_daemon_it_stops_too() {
    let cluster = joined(3);
    cluster.settles();
    let witness = exclusive(&cluster, "it", ON_WORKERS);
    let from = home(&cluster, &witness);
    from.kill();
    let to = moves(&cluster, &witness, from);
    from.start();
    nothing_doubled(&witness, from);
    to.signal(Signal::STOP);
    moves(&cluster, &witness, to);
    to.signal(Signal::CONT);
    nothing_doubled(&witness, to);
}

#[test]
fn without_a_store_it_waits_and_goes_on_when_that_is_back() {
    let cluster = joined(2);
    let (first, worker) = (cluster.machine(1), cluster.machine(2));
    let witness = exclusive(&cluster, "it", ON_WORKERS);
    let fence = witness.last().unwrap().fence;
    // A short time without it costs nothing, and a restart of the daemon neither.
    let pid = worker.field("it", ".State.Pid");
    worker.kill();
    worker.start();
    first.kill();
    first.start();
    assert!(stays(Duration::from_secs(11), || witness.is_held()));
    assert_eq!(worker.field("it", ".State.Pid"), pid);
    first.kill();
    wait_for("it stops", Duration::from_secs(20), || !witness.is_held());
    assert!(worker.field("it", ".State.Error").contains(WHY));
    let beats = witness.seen().len();
    assert!(stays(Duration::from_secs(2), || witness.seen().len() == beats));
    first.start();
    wait_for("it runs again", SOON, || witness.seen().len() > beats);
    wait_for("that is said", SOON, || {
        first
            .ok(&["unit", "list"])
            .lines()
            .any(|line| line.contains("it.container") && line.contains("running"))
    });
    witness.was_alone();
    // It is the same instance.
    assert_eq!(witness.last().unwrap().fence, fence);
}

#[test]
fn alone_it_has_no_deadline() {
    let cluster = Setup::new(1).build();
    let first = cluster.machine(1);
    let witness = exclusive(&cluster, "it", "");
    let (pid, fence) = (
        first.field("it", ".State.Pid"),
        witness.last().unwrap().fence,
    );
    assert!(fence > 0);
    first.kill();
    assert!(stays(Duration::from_secs(11), || witness.is_held()));
    first.start();
    assert_eq!(first.field("it", ".State.Pid"), pid);
    // The number grows for a name that is given anew, too.
    first.ok(&["unit", "destroy", "it"]);
    let text = witness.unit("[X-Deploy]\nExclusive=yes\n");
    let file = first.unit("it.container", &text);
    first.ok(&["unit", "start", &file]);
    wait_for("it has a greater fence", SOON, || {
        witness.last().unwrap().fence > fence
    });
    assert_eq!(witness.stale(), []);
    // A service has it as well.
    let log = first.run_dir().join("fence");
    let text = format!(
        "[Service]\nExecStart=/bin/sh -c 'echo $CORACLE_FENCE >{}; exec sleep 1000'\n[X-Deploy]\nExclusive=yes\n",
        log.display()
    );
    let file = first.unit("host.service", &text);
    first.ok(&["unit", "start", &file]);
    wait_for("its number", SOON, || {
        let said = std::fs::read_to_string(first.path(&log)).unwrap_or_default();
        said.trim().parse::<u64>().is_ok_and(|said| said > fence)
    });
    // What could not stop in time is refused, with both numbers and the way out.
    let slow = "[Container]\nImage=bb\nStopTimeout=30\n[X-Deploy]\nExclusive=yes\n";
    let file = first.unit("slow.container", slow);
    let refused = errors(&first.coracle(&["unit", "submit", &file]));
    for words in ["StopTimeout= of 30 s", "lease of 10 s", "6 s at most"] {
        assert!(refused.contains(words), "{refused}");
    }
    // With data alone it may take its time, as nobody waits for it.
    let data = "[Container]\nImage=bb\nVolume=data:/data\nStopTimeout=30\n";
    let file = first.unit("data.container", data);
    first.ok(&["unit", "submit", &file]);
}
