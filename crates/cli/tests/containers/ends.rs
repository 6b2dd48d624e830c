//! Ends: of programs that fail, of shims, of all.

use crate::common::{Daemon, alive, cgroups, errors, parent, programs, signal, text, until};
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

#[test]
fn a_container_that_fails_is_restarted_as_asked() {
    let d = Daemon::start();
    d.ok([
        "run",
        "-d",
        "--name",
        "flaky",
        "--restart",
        "on-failure:2",
        "bb",
        "sh",
        "-c",
        "echo run; exit 4",
    ]);
    until("it was given up", || {
        d.field("flaky", ".State.Status") == "exited" && d.field("flaky", ".RestartCount") == "2"
    });
    assert_eq!(d.field("flaky", ".State.ExitCode"), "4");
    assert_eq!(d.ok(["logs", "flaky"]), "run\nrun\nrun");
    d.ok([
        "run",
        "-d",
        "--name",
        "always",
        "--restart",
        "always",
        "bb",
        "sleep",
        "1000",
    ]);
    let pid: u32 = d.field("always", ".State.Pid").parse().unwrap();
    signal(pid, "KILL");
    until("it runs again", || {
        d.field("always", ".State.Status") == "running"
            && d.field("always", ".State.Pid") != pid.to_string()
    });
    d.ok(["stop", "-t", "0", "always"]);
    assert_eq!(
        d.field("always", ".State.Status"),
        "exited",
        "a stop by hand holds"
    );
}

#[test]
fn a_shim_that_is_killed_takes_its_container_along() {
    let d = Daemon::start();
    let id = d.ok(["run", "-d", "--name", "web", "bb", "sleep", "1000"]);
    let init: u32 = d.field("web", ".State.Pid").parse().unwrap();
    signal(parent(init), "KILL");
    until("the end is seen", || {
        d.field("web", ".State.Status") == "exited"
    });
    assert_eq!(d.field("web", ".State.ExitCode"), "137");
    until("init is gone", || !alive(init));
    until("its control groups are gone", || cgroups(&id).is_empty());
    d.ok(["start", "web"]);
    assert_eq!(d.ok(["exec", "web", "echo", "again"]), "again");
}

#[test]
fn down_leaves_nothing() {
    let mut d = Daemon::start();
    d.ok(["network", "create", "back"]);
    let id = d.ok([
        "run",
        "-d",
        "--network",
        "back",
        "-p",
        "8080:80",
        "--restart",
        "always",
        "bb",
        "sleep",
        "1000",
    ]);
    d.ok(["system", "down", "-t", "0"]);
    until("every process has left", || d.leftovers().is_empty());
    let links = text(&d.inside("ip").args(["-br", "link"]).output().unwrap());
    assert_eq!(links.lines().count(), 1, "{links}");
    assert_eq!(
        text(&d.inside("nft").args(["list", "tables"]).output().unwrap()),
        ""
    );
    assert!(cgroups(&id).is_empty());
    let root = d.cgroup_root().unwrap();
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let left = hierarchy.path().join(&root[1..]);
        assert!(!left.exists(), "{}", left.display());
    }
    assert!(
        !std::fs::read_to_string("/proc/self/mounts")
            .unwrap()
            .contains(d.dir.path().to_str().unwrap())
    );
    // What is on disk comes back.
    d.up();
    until("it runs again", || d.ok(["ps", "-q", "--no-trunc"]) == id);
}

/// Says so when it is asked to end, and goes on.
const STUBBORN: &str = "trap 'echo asked' TERM; echo up; while :; do sleep 0.1; done";

fn asked(d: &Daemon, name: &str) {
    until("it was asked to end", || {
        d.ok(["logs", name]).contains("asked")
    });
}

#[test]
fn the_more_impatient_of_two_stops_has_its_way() {
    let d = Daemon::start();
    for name in ["one", "two"] {
        d.ok(["run", "-d", "--name", name, "bb", "sh", "-c", STUBBORN]);
        until("it is up", || d.ok(["logs", name]).contains("up"));
    }
    let patient = |name: &str| d.spawn(["stop", "-t", "1000", name]);
    let (mut first, mut second) = (patient("one"), patient("two"));
    asked(&d, "one");
    asked(&d, "two");
    d.ok(["stop", "-t", "0", "one"]);
    assert_eq!(d.field("one", ".State.ExitCode"), "137");
    d.ok(["rm", "-f", "two"]);
    assert!(first.wait().unwrap().success());
    // Its container went, or has ended as it wanted.
    second.wait().unwrap();
    assert!(!d.ok(["ps", "-a"]).contains("two"));
}

#[test]
fn a_stop_that_the_daemon_did_not_live_to_see_is_finished() {
    let mut d = Daemon::start();
    d.ok([
        "run",
        "-d",
        "--name",
        "late",
        "--stop-timeout",
        "1",
        "bb",
        "sh",
        "-c",
        STUBBORN,
    ]);
    until("it is up", || d.ok(["logs", "late"]).contains("up"));
    let mut stop = d.spawn(["stop", "-t", "1000", "late"]);
    asked(&d, "late");
    d.kill();
    d.up();
    until("it has ended", || {
        d.field("late", ".State.Status") == "exited"
    });
    assert_eq!(d.field("late", ".State.ExitCode"), "137");
    stop.wait().unwrap();
}

#[test]
fn who_waits_for_a_daemon_is_told_and_who_has_left_is_not_served() {
    let mut d = Daemon::start();
    d.ok(["run", "-d", "--name", "stays", "bb", "sleep", "1000"]);
    d.kill();
    let waiting = |args: &[&str]| {
        let mut command = d.command();
        let command = command.args(args).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let errors = child.stderr.take().unwrap();
        BufReader::new(errors).read_line(&mut said).unwrap();
        assert!(said.contains("no daemon runs for"), "{said}");
        child
    };
    let patient = waiting(&["ps", "--format", "{{.Names}}"]);
    let mut gone = waiting(&["system", "down"]);
    gone.kill().unwrap();
    gone.wait().unwrap();
    d.up();
    let answered = patient.wait_with_output().unwrap();
    assert_eq!(text(&answered), "stays");
    // Asked after it on the same socket, so that it would have been done by now.
    assert_eq!(d.field("stays", ".State.Running"), "true");
    assert!(!d.log().contains("everything is down"), "{}", d.log());
}

#[test]
fn a_second_daemon_in_the_same_network_is_refused() {
    let d = Daemon::start();
    let other = tempfile::tempdir().unwrap();
    let mut second = d.inside(programs());
    second.args(["daemon", "--config", "/dev/null", "--store-listen", "none"]);
    second.arg("--state-dir").arg(other.path().join("state"));
    second.arg("--run-dir").arg(other.path().join("run"));
    let refused = second.output().unwrap();
    assert!(!refused.status.success());
    let said = errors(&refused);
    assert!(said.contains("network namespace"), "{said}");
    d.ok(["info"]);
}
