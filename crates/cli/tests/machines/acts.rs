//! Each fault, looked at with tools that know nothing of what is tested.

use super::*;
use crate::common::text;
use std::path::Path;

/// A path in `/proc` that only this machine has like that.
fn boot_id(machine: &cluster::Machine) -> String {
    let file = "/proc/sys/kernel/random/boot_id";
    text(&machine.inside("cat").arg(file).output().unwrap())
}

#[test]
fn three_daemons_at_once_and_nothing_is_left() {
    let cluster = Cluster::new(3);
    let traces = cluster.traces();
    cluster.each(|machine| {
        machine.ok(&["run", "-d", "--name", "one", "bb", "sleep", "100000"]);
        assert_eq!(machine.ok(&["ps", "--format", "{{.Names}}"]), "one");
        assert_eq!(
            text(&machine.inside("hostname").output().unwrap()),
            machine.name()
        );
        assert!(machine.ok(&["info"]).contains(&machine.name()));
    });
    let boots: BTreeSet<_> = cluster.machines().iter().map(boot_id).collect();
    assert_eq!(boots.len(), 3, "{boots:?}");
    for from in cluster.machines() {
        for to in cluster.machines() {
            assert!(from.pings(&to.address()) && from.pings(&to.address6()));
        }
        assert!(from.pings(&cluster.outside().address()));
        let route = text(
            &from
                .inside("ip")
                .args(["route", "get", "203.0.113.1"])
                .output()
                .unwrap(),
        );
        assert!(
            route.contains(&format!("src {} ", from.address())),
            "{route}"
        );
    }
    // Two clusters at once do not see each other, though their addresses are the same.
    let other = Setup::new(1).unstarted().build();
    other.machine(1).boot();
    assert!(!other.machine(1).pings(&cluster.machine(2).address()));
    let other_traces = other.traces();
    drop(other);
    assert_eq!(other_traces.left(), [""; 0]);

    assert_eq!(
        traces::links(),
        [""; 0],
        "nothing is seen in the test's own network"
    );
    assert!(!traces.processes().is_empty() && !traces.groups().is_empty());
    cluster.machine(3).kill_all();
    let id = &cluster.machine(3).id()[..12];
    assert!(
        !traces.groups().iter().any(|g| g.contains(id)),
        "{:?}",
        traces.groups()
    );
    cluster.machine(2).pause();
    drop(cluster);
    assert_eq!(traces.left(), [""; 0]);
}

#[test]
fn what_befalls_packets() {
    let cluster = Setup::new(3).unstarted().build();
    cluster.each(cluster::Machine::boot);
    let [m1, m2, m3] = [1, 2, 3].map(|n| cluster.machine(n));
    let reach = |a: &cluster::Machine, b: &cluster::Machine| a.pings(&b.address());
    // A neighbour that could not be found is asked for again after a second.
    let joined = |a: &cluster::Machine, b: &cluster::Machine| {
        wait_for("they reach each other", MINUTE, || reach(a, b));
    };
    let server = m2.says("hello", 7000);
    wait_for("the server answers", MINUTE, || {
        m1.connects(&m2.address(), 7000).as_deref() == Some("hello")
    });

    m2.cut();
    assert!(!reach(m1, m2) && !reach(m2, m3) && reach(m1, m3));
    assert_eq!(m1.connects(&m2.address(), 7000), None);
    m2.heal();
    joined(m1, m2);
    joined(m2, m3);
    assert_eq!(m1.connects(&m2.address(), 7000).as_deref(), Some("hello"));
    drop(server);

    // One way: a datagram passes, an answer does not.
    m2.cut_in();
    assert!(!reach(m1, m2) && !reach(m2, m1));
    let ear = m1.hears(7001);
    m2.tells(m1, 7001, "from the deaf");
    ear.heard("from the deaf");
    let ear = m2.hears(7001);
    m1.tells(m2, 7001, "x");
    m2.heal();
    m1.tells(m2, 7001, "to the healed");
    ear.heard("to the healed");

    m2.cut_out();
    assert!(!reach(m1, m2) && !reach(m2, m1));
    let ear = m2.hears(7002);
    m1.tells(m2, 7002, "to the mute");
    ear.heard("to the mute");
    let ear = m1.hears(7002);
    m2.tells(m1, 7002, "x");
    m2.uncut();
    m2.tells(m1, 7002, "from the healed");
    ear.heard("from the healed");

    m1.cut_from(2);
    assert!(!reach(m1, m2) && !reach(m2, m1) && reach(m1, m3) && reach(m2, m3));
    m1.join_with(2);
    joined(m1, m2);

    m3.lose(40);
    let some = m1.many_pings(&m3.address()).answered;
    assert!(
        some > 0 && some < 100,
        "{some} of 100, where 36 were expected"
    );
    m3.lose(0);
    joined(m1, m3);
    assert_eq!(m1.many_pings(&m3.address()).answered, 100);

    m3.delay(30);
    joined(m1, m3);
    let late = m1.many_pings(&m3.address());
    assert!(
        late.answered > 90 && late.shortest.unwrap() >= 60.0,
        "{late:?}"
    );
    // Loss counts once on the longer way too, and what is delayed survives a boot.
    m3.lose(100);
    assert!(!reach(m1, m3));
    m3.lose(0);
    m3.kill_all();
    m3.boot();
    m3.delay(50);
    joined(m1, m3);
    let later = m1.many_pings(&m3.address());
    assert!(later.shortest.unwrap() >= 100.0, "{later:?}");
    let server = m3.says("late", 7003);
    wait_for("the server answers", MINUTE, || {
        m1.connects(&m3.address(), 7003).as_deref() == Some("late")
    });
    drop(server);
    m2.cut();
    cluster.heal();
    joined(m1, m2);
    let soon = m1.many_pings(&m3.address());
    assert!(soon.shortest.unwrap() < 100.0, "{soon:?}");
}

#[test]
fn what_befalls_machines() {
    let cluster = Cluster::new(2);
    let [m1, m2] = [1, 2].map(|n| cluster.machine(n));
    m2.ok(&[
        "run", "-d", "--name", "page", "-p", "8080:80", "bb", "nc", "-ll", "-p", "80", "-e",
        "echo", "one",
    ]);
    m2.ok(&[
        "run",
        "-d",
        "--name",
        "always",
        "--restart",
        "always",
        "bb",
        "sleep",
        "100000",
    ]);
    let answers = || m1.connects(&m2.address(), 8080).as_deref() == Some("one");
    wait_for("the page is there", MINUTE, answers);

    let mut follower = m2.spawn(&["logs", "-f", "always"]);
    // Only the daemon.
    let before = m2.daemon().unwrap();
    m2.kill();
    assert!(m2.daemon().is_none() && !Path::new(&format!("/proc/{before}")).exists());
    wait_for("the page is there without a daemon", MINUTE, answers);
    m2.start();
    assert_ne!(m2.daemon(), Some(before));

    // Hanging: its kernel answers, nobody else.
    m2.pause();
    assert!(
        m2.processes().iter().all(|p| "TtZX".contains(p.state)),
        "{:?}",
        m2.processes()
    );
    assert!(m1.pings(&m2.address()));
    assert!(stays(std::time::Duration::from_secs(1), || {
        m1.connects(&m2.address(), 8080).is_none()
    }));
    m2.resume();
    wait_for("the page is there again", MINUTE, answers);
    assert_eq!(m2.field("page", ".State.Status"), "running");
    // Hanging, and then without power.
    m2.pause();
    let boot = boot_id_from_outside(m2);
    let init = m2.init().unwrap();
    m2.kill_all();
    assert!(
        !follower.wait().unwrap().success(),
        "commands die with the machine"
    );
    assert!(m2.processes().is_empty() && !m2.is_on());
    assert!(!Path::new(&format!("/proc/{init}")).exists());
    assert!(!m1.pings(&m2.address()));
    let state = m2.path(&m2.state_dir());
    assert!(state.join("containers").is_dir(), "the disk stays");

    m2.start();
    assert_ne!(boot_id(m2), boot);
    wait_for("it is there", MINUTE, || m1.pings(&m2.address()));
    assert_eq!(m2.field("page", ".State.Status"), "exited");
    wait_for("it runs again", MINUTE, || {
        m2.field("always", ".State.Status") == "running"
    });
    m2.ok(&["start", "page"]);
    wait_for("the page is there after the boot", MINUTE, answers);
    m2.terminate();
    wait_for(
        "the page is there while nobody looks after it",
        MINUTE,
        answers,
    );
    m2.reboot();
    wait_for("it runs after another boot", MINUTE, || {
        m2.field("always", ".State.Status") == "running"
    });
}

fn boot_id_from_outside(machine: &cluster::Machine) -> String {
    let path = machine.path(Path::new("/proc/sys/kernel/random/boot_id"));
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

#[test]
fn a_full_disk() {
    let cluster = Cluster::new(2);
    let [m1, m2] = [1, 2].map(|n| cluster.machine(n));
    m1.ok(&["run", "-d", "--name", "one", "bb", "sleep", "100000"]);
    let write = |name: &str| {
        let line = format!("dd if=/dev/zero of=/{name} bs=1M count=8");
        ["exec", "one", "sh", "-c", &line].map(str::to_owned)
    };
    let ok = |name: &str| m1.ok(&write(name).each_ref().map(String::as_str));
    ok("before");
    m1.fill_disk();
    let refused = write("full");
    m1.refused(
        &refused.each_ref().map(String::as_str),
        "No space left on device",
    );
    let file = m1.state_dir().join("more");
    let mut copy = m1.inside("dd");
    copy.args(["if=/dev/zero", "bs=1M", "count=1"])
        .arg(format!("of={}", file.display()));
    let said = crate::common::errors(&copy.output().unwrap());
    assert!(said.contains("No space left on device"), "{said}");
    m2.ok(&[
        "run",
        "--rm",
        "bb",
        "dd",
        "if=/dev/zero",
        "of=/file",
        "bs=1M",
        "count=8",
    ]);
    assert_eq!(m1.field("one", ".State.Status"), "running");
    m1.free_disk();
    ok("after");
    assert!(copy.output().unwrap().status.success());
}

/// This test starts itself once more, and kills that.
#[test]
fn a_test_that_is_killed_leaves_nothing() {
    const CHILD: &str = "CORACLE_TEST_TO_BE_KILLED";
    if std::env::var_os(CHILD).is_some() {
        let cluster = Cluster::new(2);
        cluster
            .machine(1)
            .ok(&["run", "-d", "bb", "sleep", "100000"]);
        cluster.machine(2).pause();
        println!("\nids {}", cluster.machine(1).id());
        println!("dir {}", cluster.dir().display());
        let mut never = String::new();
        std::io::stdin().read_line(&mut never).unwrap();
        return;
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--nocapture",
            "acts::a_test_that_is_killed_leaves_nothing",
        ])
        .env(CHILD, "1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut said = [None, None];
    for line in std::io::BufRead::lines(output).map_while(Result::ok) {
        for (slot, word) in said.iter_mut().zip(["ids ", "dir "]) {
            if let Some(rest) = line.strip_prefix(word) {
                *slot = Some(rest.to_owned());
            }
        }
        if said[1].is_some() {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let [id, dir] = said.map(Option::unwrap);
    let traces = cluster::Traces::known(Path::new(&dir), &[id]);
    wait_for(
        "all but the paused machine's starters have gone",
        MINUTE,
        || traces.processes().iter().all(|p| p.ends_with("nsenter")),
    );
    // The next cluster of any test does this.
    let next = Setup::new(1).unstarted().build();
    wait_for("nothing is left", MINUTE, || traces.left().is_empty());
    drop(next);
}
