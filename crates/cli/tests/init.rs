//! `--init`: a small process 1 that reaps, passes signals on, and ends as the program does.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Daemon, errors, text, until};
use std::fs;

fn code(d: &Daemon, script: &str) -> Option<i32> {
    d.coracle(["run", "--rm", "--init", "bb", "sh", "-c", script])
        .status
        .code()
}

#[test]
fn it_ends_as_its_program_does() {
    let d = Daemon::start();
    let said = d.ok([
        "run",
        "--rm",
        "--init",
        "bb",
        "sh",
        "-c",
        "cat /proc/1/comm; echo $$",
    ]);
    assert!(
        said.starts_with("docker-init\n") && !said.ends_with("\n1"),
        "{said}"
    );
    let said = d.docker_ok(["run", "--rm", "--init", "bb", "cat", "/proc/1/comm"]);
    assert_eq!(said, "docker-init");
    assert_eq!(code(&d, "exit 7"), Some(7));
    assert_eq!(code(&d, "kill -9 $$"), Some(137));
    assert_eq!(code(&d, "kill -TERM $$"), Some(143));
    let missing = d.coracle(["run", "--rm", "--init", "bb", "/nope"]);
    assert_eq!(missing.status.code(), Some(127), "{}", errors(&missing));
    // With another process 1 there is none of ours.
    let said = d.ok([
        "run", "--rm", "--init", "--pid", "host", "bb", "echo", "fine",
    ]);
    assert_eq!(said, "fine");
}

#[test]
fn signals_are_passed_on_and_the_dead_are_reaped() {
    let d = Daemon::start();
    let script = "trap 'exit 3' TERM; trap 'echo hup' HUP; while :; do sleep 0.05; done";
    d.ok([
        "run", "-d", "--init", "--name", "trap", "bb", "sh", "-c", script,
    ]);
    assert_eq!(d.field("trap", ".HostConfig.Init"), "true");
    until("it has heard SIGHUP", || {
        d.ok(["kill", "-s", "HUP", "trap"]);
        d.ok(["logs", "trap"]).contains("hup")
    });
    d.ok(["stop", "trap"]);
    assert_eq!(d.field("trap", ".State.ExitCode"), "3");
    // Orphans come to process 1.
    let script =
        "n=0; while [ $n -lt 50 ]; do (sleep 0.01 &); n=$((n+1)); done; echo made; exec sleep 1000";
    d.ok([
        "run", "-d", "--init", "--name", "orphans", "bb", "sh", "-c", script,
    ]);
    until("they are made", || {
        d.ok(["logs", "orphans"]).contains("made")
    });
    until("they are reaped", || {
        let list = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null; true";
        text(&d.coracle(["exec", "orphans", "sh", "-c", list])).is_empty()
    });
    // It outlives a daemon as any other.
    d.ok(["rm", "-f", "trap", "orphans"]);
    assert_eq!(d.ok(["ps", "-aq"]), "");
}

#[test]
fn an_image_that_is_empty_inside() {
    let d = Daemon::start();
    let dir = d.dir.path().join("empty");
    fs::create_dir(&dir).unwrap();
    fs::copy("/bin/busybox", dir.join("busybox")).unwrap();
    fs::write(
        dir.join("Dockerfile"),
        "FROM scratch\nCOPY busybox /\nENTRYPOINT [\"/busybox\"]\n",
    )
    .unwrap();
    d.ok(["build", "-q", "-t", "empty", &dir.display().to_string()]);
    assert_eq!(
        d.ok(["run", "--rm", "--init", "empty", "echo", "alone"]),
        "alone"
    );
    assert_eq!(
        d.ok([
            "run",
            "--rm",
            "--init",
            "--read-only",
            "empty",
            "echo",
            "alone"
        ]),
        "alone"
    );
}
