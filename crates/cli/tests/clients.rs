//! Clients whose daemon goes away under them.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Daemon, alive, errors, text, until};
use std::process::{Child, Stdio};

fn spawn(d: &Daemon, args: &[&str]) -> Child {
    d.command()
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// A client that is asking when the daemon goes waits for the next one.
#[test]
fn a_daemon_that_is_restarted_keeps_its_clients_waiting() {
    let mut d = Daemon::start();
    let go = d.dir.path().join("go");
    let mount = format!("{}:/host", d.dir.path().display());
    let script = "echo before; until test -e /host/go; do sleep 0.1; done; echo after; exit 3";
    let args = [
        "run", "--name", "front", "-v", &mount, "bb", "sh", "-c", script,
    ];
    let run = spawn(&d, &args);
    until("it has begun", || {
        text(&d.coracle(["logs", "front"])) == "before"
    });
    d.kill();
    // Nobody answers: these wait.
    let mut asked: Vec<_> = [
        &["ps", "-q"][..],
        &["inspect", "front"],
        &["start", "front"],
    ]
    .iter()
    .map(|args| spawn(&d, args))
    .collect();
    for child in &mut asked {
        assert!(child.try_wait().unwrap().is_none());
    }
    d.up();
    for child in asked {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", errors(&output));
    }
    until("the run is attached again", || {
        d.log().matches("ready").count() == 2 && alive(run.id())
    });
    std::fs::write(&go, "").unwrap();
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", errors(&output));
    assert!(text(&output).starts_with("before"), "{}", text(&output));

    // A request that is on its way when the daemon is asked to leave is answered first.
    d.ok([
        "run",
        "-d",
        "--name",
        "slow",
        "bb",
        "sh",
        "-c",
        "trap 'sleep 1; exit 7' TERM; echo ready; while true; do sleep 0.1; done",
    ]);
    until("it traps", || d.ok(["logs", "slow"]) == "ready");
    let docker = std::process::Command::new("docker")
        .env(
            "DOCKER_HOST",
            format!("unix://{}", d.run_dir().join("docker.sock").display()),
        )
        .args(["stop", "slow"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    until("it is being stopped", || {
        d.ok(["events", "--since", "1m", "--until", "0s"])
            .contains("kill")
    });
    d.terminate();
    let output = docker.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    d.up();
    assert_eq!(d.field("slow", ".State.ExitCode"), "7");
}

/// What ends while no daemon is there has ended for who waits in front of it, also if it went with its end.
#[test]
fn who_waits_in_front_learns_of_an_end_that_no_daemon_saw() {
    let mut d = Daemon::start();
    let mount = format!("{}:/host", d.dir.path().display());
    let script = |code| {
        format!("echo before; until test -e /host/go; do sleep 0.05; done; echo after; exit {code}")
    };
    let cases = [
        ("kept", vec![], 3),
        ("gone", vec!["--rm"], 4),
        ("typed", vec!["-i"], 5),
        ("screen", vec!["-t"], 6),
    ];
    let runs: Vec<Child> = cases
        .iter()
        .map(|(name, more, code)| {
            let script = script(code);
            let mut args = vec!["run", "--name", name, "-v", &mount];
            args.extend(more);
            args.extend(["bb", "sh", "-c", &script]);
            spawn(&d, &args)
        })
        .collect();
    let mut pids = Vec::new();
    for (name, _, _) in &cases {
        until("it has begun", || {
            text(&d.coracle(["logs", name])).trim() == "before"
        });
        pids.push(d.field(name, ".State.Pid").parse().unwrap());
    }
    d.kill();
    std::fs::write(d.dir.path().join("go"), "").unwrap();
    until("they have ended", || !pids.iter().any(|pid| alive(*pid)));
    d.up();
    for (run, (name, _, code)) in runs.into_iter().zip(&cases) {
        let output = run.wait_with_output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(*code),
            "{name}: {}",
            errors(&output)
        );
        assert_eq!(text(&output).trim(), "before", "{name}");
    }
    assert_eq!(d.ok(["ps", "-aq"]).lines().count(), 3);
}

/// The code comes from the run that was seen, not from what is written down a moment later.
#[test]
fn a_terminal_ends_with_its_containers_code() {
    let d = Daemon::start();
    for code in 1..15 {
        let script = format!("exit {code}");
        let output = d.coracle(["run", "--rm", "-t", "bb", "sh", "-c", &script]);
        assert_eq!(output.status.code(), Some(code), "{}", errors(&output));
    }
    let d = &d;
    d.docker_ok(["create", "--name", "kept", "-t", "bb", "sh", "-c", "exit 9"]);
    for _ in 0..10 {
        assert_eq!(d.docker(["start", "-a", "kept"]).status.code(), Some(9));
    }
}

/// A start that is asked again with its id is done once, even if what it started has ended.
#[test]
fn a_start_that_is_asked_twice_is_done_once() {
    let mut d = Daemon::start();
    let mount = format!("{}:/host", d.dir.path().display());
    let runs = d.dir.path().join("runs");
    let ran = || {
        std::fs::read_to_string(&runs)
            .unwrap_or_default()
            .lines()
            .count()
    };
    let ask = |d: &Daemon, path: &str, id: &str| {
        let output = d
            .inside("curl")
            .args([
                "-sS",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "-X",
                "POST",
                "-H",
            ])
            .arg(format!("coracle-request: {id}"))
            .arg("--unix-socket")
            .arg(d.run_dir().join("docker.sock"))
            .arg(format!("http://coracle{path}"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", errors(&output));
        text(&output)
    };
    let script = "echo run >> /host/runs";
    d.ok([
        "create", "--name", "job", "-v", &mount, "bb", "sh", "-c", script,
    ]);
    let job = "/containers/job/start";
    assert_eq!(ask(&d, job, "first"), "204");
    d.ok(["wait", "job"]);
    assert_eq!(ask(&d, job, "first"), "304");
    d.kill();
    d.up();
    assert_eq!(ask(&d, job, "first"), "304");
    assert_eq!(ran(), 1);
    assert_eq!(ask(&d, job, "second"), "204");
    d.ok(["wait", "job"]);
    assert_eq!(ran(), 2);

    // What went with its end was started, too.
    let id = d.ok(["create", "--rm", "-v", &mount, "bb", "sh", "-c", script]);
    let once = format!("/containers/{id}/start");
    assert_eq!(ask(&d, &once, "third"), "204");
    until("it is gone", || {
        !d.coracle(["inspect", &id]).status.success()
    });
    assert_eq!(ask(&d, &once, "third"), "304");
    assert_eq!(ran(), 3);

    let file = d.unit(
        "once.service",
        &format!(
            "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo run >> {}'\n",
            runs.display()
        ),
    );
    d.ok(["unit", "submit", &file]);
    let unit = "/v1/units/once.service/start";
    assert_eq!(ask(&d, unit, "a"), "200");
    assert_eq!(ask(&d, unit, "a"), "200");
    assert_eq!(ran(), 4);
    assert_eq!(ask(&d, unit, "b"), "200");
    assert_eq!(ran(), 5);

    // One that could not be started was not.
    d.ok(["create", "--name", "bad", "bb", "/not/there"]);
    for _ in 0..2 {
        assert_eq!(ask(&d, "/containers/bad/start", "fourth"), "400");
    }
}
