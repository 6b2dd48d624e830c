//! Workstations: docker, unchanged, and our own command use a machine over TLS, by certificates of their own.
#![allow(clippy::unwrap_used)]

mod cluster;
mod common;
#[path = "workstation/many.rs"]
mod many;
#[path = "workstation/place.rs"]
mod place;
#[path = "workstation/refused.rs"]
mod refused;

use common::{errors, programs, text, until};
use place::{HERE, Place};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

/// Each is done by docker and by our command.
#[test]
fn all_works_over_it_that_works_over_the_socket() {
    let p = Place::new("");
    p.daemon.image();
    let said = p.client("ann", &[]);
    assert!(said.contains("DOCKER_TLS_VERIFY=1"), "{said}");
    let mode = |file: &str| {
        let found = std::fs::metadata(p.dir("ann").join(file)).unwrap();
        found.permissions().mode() & 0o777
    };
    assert_eq!((mode("key.pem"), mode("cert.pem")), (0o600, 0o644));
    let listed = p.daemon.ok([
        "client",
        "ls",
        "--format",
        "{{.Name}} {{.Serial}} {{.Expired}}",
    ]);
    let [name, serial, "false"] = *listed.split(' ').collect::<Vec<_>>() else {
        panic!("{listed}");
    };
    assert!(name == "ann" && serial.len() == 16, "{listed}");

    let context = p.daemon.dir.path().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(
        context.join("Dockerfile"),
        "FROM bb\nCOPY file /\nRUN cat /file\n",
    )
    .unwrap();
    std::fs::write(context.join("file"), "of the workstation\n").unwrap();
    let context = context.to_str().unwrap();
    for (who, program) in [("docker", "docker".into()), ("coracle", programs())] {
        let ok = |args: &[&str]| {
            let output = p.over(&program, "ann").args(args).output().unwrap();
            let said = format!("{}{}", text(&output), errors(&output));
            assert!(
                output.status.success(),
                "{who} {args:?}: {said}\n{}",
                p.daemon.log()
            );
            text(&output)
        };
        assert!(ok(&["version"]).contains("Coracle"), "{who}");
        // What is typed goes in, and its end as well.
        let mut run = p.over(&program, "ann");
        let mut run = run
            .args([
                "run",
                "-i",
                "--rm",
                "bb",
                "sh",
                "-c",
                "cat; echo end >&2; exit 3",
            ])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let much = "typed\n".repeat(100_000);
        let mut input = run.stdin.take().unwrap();
        let writer = std::thread::spawn(move || input.write_all(much.as_bytes()));
        let output = run.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert_eq!(output.status.code(), Some(3), "{who}: {}", errors(&output));
        assert_eq!(output.stdout.len(), 600_000, "{who}");
        assert_eq!(errors(&output).trim(), "end", "{who}");

        ok(&[
            "run",
            "-d",
            "--name",
            who,
            "bb",
            "sh",
            "-c",
            "echo begun; exec sleep 1000",
        ]);
        assert_eq!(ok(&["exec", who, "echo", "inside"]), "inside", "{who}");
        let failed = p
            .over(&program, "ann")
            .args(["exec", who, "sh", "-c", "exit 7"])
            .output();
        assert_eq!(failed.unwrap().status.code(), Some(7), "{who}");
        let screen = ok(&["exec", "-t", who, "sh", "-c", "test -t 1 && echo screen"]);
        assert_eq!(screen.trim(), "screen", "{who}");
        let built = ok(&["build", "-t", &format!("built-{who}"), context]);
        assert!(built.contains(&format!("built-{who}")), "{built}");
        assert_eq!(
            ok(&["run", "--rm", &format!("built-{who}"), "cat", "/file"]),
            "of the workstation"
        );

        // Whoever follows and goes leaves no connection behind.
        let mut follows = p.over(&program, "ann");
        let mut follows = follows.args(["logs", "-f", who]).spawn().unwrap();
        let mut first = [0; 6];
        std::io::Read::read_exact(follows.stdout.as_mut().unwrap(), &mut first).unwrap();
        assert_eq!(&first, b"begun\n");
        assert!(p.connections() > 0);
        follows.kill().unwrap();
        follows.wait().unwrap();
        until("its connection is gone", || p.connections() == 0);
        // And whoever follows to the end sees it.
        let follows = p
            .over(&program, "ann")
            .args(["logs", "-f", who])
            .spawn()
            .unwrap();
        ok(&["kill", who]);
        assert_eq!(text(&follows.wait_with_output().unwrap()), "begun");
        ok(&["wait", who]);
        ok(&["rm", who]);
    }
    // By another name of the machine, and as docker's words have it.
    let mut other = p.daemon.inside(programs());
    p.clean(&mut other, "ann");
    let other = other
        .args(["--host", "tcp://localhost", "ps", "-q"])
        .output()
        .unwrap();
    assert!(other.status.success(), "{}", errors(&other));
}

/// Also those of streams and of what was taken over, at once; and nobody else's.
#[test]
fn who_is_revoked_is_cut_off() {
    let p = Place::new("");
    p.daemon.image();
    p.client("ann", &[]);
    p.client("bob", &[]);
    p.daemon
        .ok(["run", "-d", "--name", "long", "bb", "sleep", "1000"]);
    let open = |program: &std::path::Path, who: &str, args: &[&str]| {
        let mut command = p.over(program, who);
        command.args(args).stdin(Stdio::piped()).spawn().unwrap()
    };
    let exec = ["exec", "-i", "long", "sh", "-c", "echo here; cat"];
    let mut anns = Vec::new();
    for program in ["docker".into(), programs()] {
        anns.push(open(&program, "ann", &exec));
        anns.push(open(&program, "ann", &["events"]));
    }
    let mut bobs = open(&programs(), "bob", &exec);
    for child in anns.iter_mut().step_by(2).chain([&mut bobs]) {
        let mut first = [0; 5];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    }
    until("all are connected", || p.connections() >= 5);
    assert_eq!(p.daemon.ok(["client", "revoke", "ann"]), "ann");
    for mut child in anns {
        until("it is cut", || child.try_wait().unwrap().is_some());
        let output = child.wait_with_output().unwrap();
        assert!(
            !output.status.success() || text(&output).is_empty(),
            "{}",
            text(&output)
        );
    }
    p.coracle_refused("ann", "it was revoked, or never added");
    let docker = p.over("docker", "ann").args(["ps"]).output().unwrap();
    assert!(
        errors(&docker).contains("access denied"),
        "{}",
        errors(&docker)
    );
    p.daemon
        .refused(&["client", "revoke", "ann"], "there is no client \"ann\"");

    // bob goes on.
    assert!(bobs.try_wait().unwrap().is_none());
    bobs.stdin.take().unwrap().write_all(b"still\n").unwrap();
    let output = bobs.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), text(&output)),
        (Some(0), "still".to_owned())
    );
    assert_eq!(p.daemon.ok(["client", "ls", "-q"]), "bob");
    // The name is free again, for another key.
    let never = p.dir("never");
    let again = ["client", "create", "bob", "-o", never.to_str().unwrap()];
    p.daemon.refused(&again, "a client bob already");
    assert!(!never.join("key.pem").exists());
}

/// A daemon's restart keeps who is who, and a run in front of somebody's screen goes on.
#[test]
fn a_restart_keeps_all() {
    let mut p = Place::new("");
    p.daemon.image();
    p.client("ann", &[]);
    let go = p.daemon.dir.path().join("go");
    let mount = format!("{}:/host", p.daemon.dir.path().display());
    let script = "echo before; until test -e /host/go; do sleep 0.1; done; echo after; exit 3";
    let mut run = p.over(programs(), "ann");
    let run = run.args([
        "run", "--name", "front", "-v", &mount, "bb", "sh", "-c", script,
    ]);
    let run = run.spawn().unwrap();
    until("it has begun", || {
        text(&p.daemon.coracle(["logs", "front"])) == "before"
    });
    p.daemon.kill();
    // Nobody answers: it waits.
    let waiting = p
        .over(programs(), "ann")
        .args(["ps", "-q"])
        .spawn()
        .unwrap();
    p.up();
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    until("the run is attached again", || p.connections() > 0);
    std::fs::write(&go, "").unwrap();
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", errors(&output));
    p.daemon.terminate();
    p.up();
    assert!(p.coracle("ann", &["ps", "-a"]).contains("front"));

    // Switched off, nobody listens there any more.
    p.daemon.terminate();
    p.configure("api_listen = \"none\"\n");
    p.up();
    p.coracle_refused("ann", "does not answer");
    p.daemon
        .refused(&["client", "create", "late"], "api_listen");
}

/// The certificate that a machine shows is made anew when it has another address, while connections go on.
#[test]
fn a_machine_that_moves_shows_another_certificate() {
    let p = Place::new("");
    p.client("ann", &[]);
    let before = std::fs::read(p.daemon.state_dir().join("api/server.pem")).unwrap();
    let mut events = p.over(programs(), "ann");
    let mut events = events.arg("events").spawn().unwrap();
    until("it is connected", || p.connections() > 0);
    let ip = p
        .daemon
        .inside("ip")
        .args(["address", "add", "192.0.2.77/32", "dev", "lo"])
        .status();
    assert!(ip.unwrap().success());
    let at = |host: &str| {
        let mut docker = p.over("docker", "ann");
        docker
            .env("DOCKER_HOST", host)
            .args(["version"])
            .output()
            .unwrap()
    };
    until("it shows a certificate for its new address", || {
        at("tcp://192.0.2.77:2376").status.success()
    });
    assert!(at(HERE).status.success());
    let now = std::fs::read(p.daemon.state_dir().join("api/server.pem")).unwrap();
    assert_ne!(before, now);
    assert!(events.try_wait().unwrap().is_none());
    events.kill().unwrap();
    events.wait().unwrap();
}

/// The key is made at home, and its hash is all that a machine is told before it is there.
#[test]
fn a_key_made_at_home_and_a_machine_trusted_by_its_fingerprint() {
    let mut p = Place::new("");
    let home = p.dir("home");
    let at_home = |args: &[&str]| {
        let mut command = p.daemon.inside(programs());
        p.clean(&mut command, "home");
        command.arg("client").args(args).output().unwrap()
    };
    let made = at_home(&["request", "ann"]);
    assert!(made.status.success(), "{}", errors(&made));
    let line = text(&made);
    assert!(
        line.starts_with("sha256:") && line.ends_with(" ann"),
        "{line}"
    );
    // Nobody's key is written over.
    let again = at_home(&["request", "ann"]);
    assert!(
        errors(&again).contains("is there already"),
        "{}",
        errors(&again)
    );

    let shown = std::fs::read_to_string(p.daemon.state_dir().join("api/fingerprint")).unwrap();
    let shown = shown.trim();
    let unseen = at_home(&["trust", "127.0.0.1"]);
    assert!(errors(&unseen).contains(shown), "{}", errors(&unseen));
    let other = format!("sha256:{}", "0f".repeat(32));
    let other = at_home(&["trust", "127.0.0.1", "--fingerprint", &other]);
    assert!(
        errors(&other).contains("not the machine that is meant"),
        "{}",
        errors(&other)
    );
    assert!(!home.join("ca.pem").exists());
    let trusted = at_home(&["trust", "127.0.0.1:2376", "--fingerprint", shown]);
    assert!(trusted.status.success(), "{}", errors(&trusted));
    // Nobody is let in by that alone.
    p.coracle_refused("home", "never added");

    p.daemon.terminate();
    p.configure(&format!(
        "api_listen = \"0.0.0.0\"\napi_clients = [\"{line}\"]\n"
    ));
    p.up();
    assert!(p.coracle("home", &["version"]).contains("Coracle"));
    let docker = p.over("docker", "home").args(["version"]).output().unwrap();
    assert!(docker.status.success(), "{}", errors(&docker));
    assert!(
        p.daemon
            .ok(["client", "ls"])
            .contains("this machine's configuration")
    );
    p.daemon
        .refused(&["client", "revoke", "ann"], "take it out there");
    // Nobody is told that she is out while she is not.
    let pem = home.join("cert.pem");
    p.daemon.ok(["client", "add", "ann", pem.to_str().unwrap()]);
    p.daemon
        .refused(&["client", "revoke", "ann"], "still let in here");
    assert!(p.coracle("home", &["version"]).contains("Coracle"));

    // Whoever is in lets others in, whose keys stay with them.
    let bob = p.dir("bob");
    let mut request = p.daemon.inside(programs());
    p.clean(&mut request, "bob");
    assert!(
        request
            .args(["client", "request", "bob"])
            .status()
            .unwrap()
            .success()
    );
    let pem = bob.join("cert.pem");
    p.coracle(
        "home",
        &[
            "client",
            "add",
            "bob",
            "--valid",
            "36500d",
            pem.to_str().unwrap(),
        ],
    );
    std::fs::copy(home.join("ca.pem"), bob.join("ca.pem")).unwrap();
    until("bob is let in", || {
        let asked = p
            .over(programs(), "bob")
            .args(["client", "ls", "-q"])
            .output();
        text(&asked.unwrap()).contains("bob")
    });
    let until = p
        .daemon
        .ok(["client", "ls", "--format", "{{.Name}} {{.UntilAt}}"]);
    let year = chrono_year(&until, "bob");
    // Not longer than its certificate, which is good for a year.
    assert!(year < 2100, "{until}");
}

fn chrono_year(list: &str, name: &str) -> u32 {
    let line = list.lines().find(|line| line.starts_with(name)).unwrap();
    line.split(' ').nth(1).unwrap()[..4].parse().unwrap()
}
