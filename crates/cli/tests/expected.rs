//! What somebody who has used docker for years would expect, where it is easily missed.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Daemon, errors, text, until};
use std::fs;

#[test]
fn what_means_nothing_is_refused() {
    let d = Daemon::start();
    d.ok(["run", "-d", "--name", "peer", "bb", "sleep", "1000"]);
    for (args, words) in [
        (
            &["--cap-add", "flying"][..],
            "invalid capability: \"flying\"",
        ),
        (&["--stop-signal", "NOPE"], "Invalid signal: NOPE"),
        (&["--restart", "on-failure:-1"], "negative"),
        (
            &["--uts", "host", "--hostname", "x"],
            "hostname and the UTS mode",
        ),
        (
            &["-m", "32m", "--memory-reservation", "64m"],
            "reservation limit",
        ),
        (
            &["--health-cmd", "true", "--health-interval", "1ns"],
            "less than 1ms",
        ),
        (
            &["--network", "container:peer", "-p", "80"],
            "port publishing and the container type network mode",
        ),
        (
            &["--network", "container:peer", "--hostname", "x"],
            "hostname and the network mode",
        ),
        (
            &["--network", "container:peer", "--dns", "1.1.1.1"],
            "dns and the network mode",
        ),
        (
            &["--network", "container:peer", "--add-host", "a:1.1.1.1"],
            "host-to-IP",
        ),
        (&["--log-opt", "max-file=many"], "max-file"),
        (&["--log-opt", "compress=true"], "compress"),
    ] {
        let all = [&["create"], args, &["bb", "true"]].concat();
        d.refused(&all, words);
    }
    // What is not there is said, and nobody goes to a registry for it.
    for args in [
        &["--network", "nope"][..],
        &["--network", "container:nope"],
        &["--volumes-from", "nope"],
    ] {
        let all = [&["run", "--rm"], args, &["bb", "true"]].concat();
        let output = d.docker_raw(&all);
        let said = errors(&output);
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(
            said.contains("nope") && !said.contains("Unable to find image"),
            "{said}"
        );
    }
    d.refused(&["rmi", "nope"], "No such image: nope:latest");
    assert_eq!(d.ok(["ps", "-aq"]).lines().count(), 1);
}

#[test]
fn inside_a_container() {
    let d = Daemon::start();
    let run = |args: &[&str], script: &str| {
        let mut command = d.command();
        command.args(["run", "--rm"]).args(args);
        let output = command.args(["bb", "sh", "-c", script]).output().unwrap();
        assert!(output.status.success(), "{args:?} {}", errors(&output));
        text(&output)
    };
    // Programs look for it to find out where they are.
    assert_eq!(run(&[], "ls -a / | grep dockerenv"), ".dockerenv");
    // Who may be kept out by a group has to be in it.
    assert_eq!(
        run(&[], "grep Groups /proc/self/status")
            .split_whitespace()
            .last(),
        Some("0")
    );
    assert!(run(&["--user", "33"], "grep Groups /proc/self/status").ends_with("33"));
    let hosts = run(&["--hostname", "web.example.org"], "grep web /etc/hosts");
    assert!(hosts.ends_with("web.example.org web"), "{hosts}");
    let written = "for f in hosts hostname resolv.conf; do echo x >> /etc/$f || true; done; ls /";
    let mut command = d.command();
    let output = command
        .args(["run", "--rm", "--read-only", "bb", "sh", "-c", written])
        .output();
    assert_eq!(errors(&output.unwrap()).matches("Read-only").count(), 3);
    assert_eq!(
        run(&["--device", "/dev/net"], "ls /dev/net"),
        run(&["--device", "/dev/net/tun"], "ls /dev/net")
    );
    // Its own name is known to its first instruction.
    d.ok(["network", "create", "own"]);
    for _ in 0..20 {
        run(
            &["--network", "own", "--name", "first"],
            "nslookup first 2>&1 | grep -q Address",
        );
    }
}

#[test]
fn what_restarts_can_be_ended() {
    let d = Daemon::start();
    d.ok([
        "run",
        "-d",
        "--name",
        "loop",
        "--restart",
        "always",
        "bb",
        "false",
    ]);
    until("it waits for its next start", || {
        d.field("loop", ".State.Restarting") == "true"
    });
    until("it is said that it restarts", || {
        let output = d.coracle(["exec", "loop", "true"]);
        errors(&output).contains("is restarting, wait until the container is running")
    });
    d.ok(["kill", "loop"]);
    until("it has ended", || {
        d.field("loop", ".State.Status") == "exited"
    });
    // A process that cannot be had in a running container is its own failure.
    d.ok(["run", "-d", "--name", "web", "bb", "sleep", "1000"]);
    let output = d.coracle(["exec", "-w", "/no/such", "web", "true"]);
    assert_eq!(output.status.code(), Some(126), "{}", errors(&output));
    let titles = d.ok(["top", "web", "-o", "pid,comm"]);
    assert!(titles.contains("sleep"), "{titles}");
}

#[test]
fn what_happened_is_told_as_docker_tells_it() {
    let d = Daemon::start();
    d.ok(["run", "--name", "one", "-v", "data:/data", "bb", "true"]);
    d.ok(["start", "-a", "one"]);
    d.ok(["run", "-d", "--name", "two", "bb", "sleep", "1000"]);
    d.ok(["exec", "two", "true"]);
    d.ok(["stop", "-t", "0", "two"]);
    d.ok(["commit", "two", "made:1"]);
    d.ok(["rmi", "made:1"]);
    d.ok(["container", "prune", "-f"]);
    // What is pruned is told one by one: this image, and its base that nobody needs.
    d.ok(["create", "--name", "three", "bb", "true"]);
    d.ok(["commit", "three", "made:2"]);
    d.ok(["rm", "three"]);
    d.ok(["image", "prune", "-af"]);
    let all = d.docker_ok([
        "events",
        "--since",
        "10m",
        "--until=-1s",
        "--format",
        "{{.Type}} {{.Action}}",
    ]);
    let of = |kind: &str| -> Vec<&str> {
        let lines = all.lines().filter_map(|l| l.split_once(' '));
        lines.filter(|(k, _)| *k == kind).map(|(_, a)| a).collect()
    };
    let containers = of("container");
    for action in [
        "attach",
        "create",
        "start",
        "die",
        "exec_create: true",
        "exec_start: true",
        "exec_die",
        "kill",
        "stop",
        "commit",
        "destroy",
        "prune",
    ] {
        assert!(containers.contains(&action), "{action}: {containers:?}");
    }
    assert_eq!(
        of("network"),
        [
            "connect",
            "disconnect",
            "connect",
            "disconnect",
            "connect",
            "disconnect"
        ]
    );
    assert_eq!(of("volume"), ["mount", "unmount", "mount", "unmount"]);
    assert!(
        of("image").ends_with(&[
            "tag", "untag", "delete", "tag", "untag", "delete", "untag", "delete", "prune"
        ]),
        "{:?}",
        of("image")
    );
}

#[test]
fn what_a_log_says_besides() {
    let d = Daemon::start();
    d.ok([
        "run",
        "--name",
        "said",
        "--label",
        "team=blue",
        "-e",
        "STAGE=a b",
        "--log-opt",
        "labels=team",
        "--log-opt",
        "env=STAGE",
        "--log-opt",
        "tag={{.Name}}",
        "bb",
        "echo",
        "hello",
    ]);
    assert_eq!(d.ok(["logs", "said"]), "hello");
    for said in [
        d.ok(["logs", "--details", "said"]),
        d.docker_ok(["logs", "--details", "said"]),
    ] {
        assert_eq!(said, "STAGE=a+b,tag=said,team=blue hello");
    }
    d.ok([
        "run",
        "--name",
        "local",
        "--log-driver",
        "local",
        "--log-opt",
        "max-size=1m",
        "bb",
        "echo",
        "hello",
    ]);
    assert_eq!(d.docker_ok(["logs", "local"]), "hello");
    // A long log does not go through memory as a whole, and its tail is exact.
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";
    d.ok(["run", "--name", "long", "bb", "sh", "-c", script]);
    let all = d.ok(["logs", "long"]);
    assert_eq!(all.lines().count(), 20_000);
    assert_eq!(
        d.ok(["logs", "--tail", "2", "long"]),
        "line 19998\nline 19999"
    );
}

#[test]
fn namespaces_of_another_container() {
    let d = Daemon::start();
    d.ok([
        "run",
        "-d",
        "--name",
        "donor",
        "--ipc",
        "shareable",
        "bb",
        "sleep",
        "1000",
    ]);
    d.ok(["exec", "donor", "sh", "-c", "echo shared > /dev/shm/f"]);
    let here = |kind: &str, args: &[&str]| {
        let link = format!("ls -l /proc/self/ns/{kind}");
        let mut command = d.command();
        command.args(["run", "--rm"]).args(args);
        let output = command.args(["bb", "sh", "-c", &link]).output().unwrap();
        assert!(output.status.success(), "{}", errors(&output));
        text(&output).rsplit(' ').next().unwrap().to_owned()
    };
    let donors = |kind: &str| {
        let link = format!("ls -l /proc/self/ns/{kind}");
        let said = d.ok(["exec", "donor", "sh", "-c", &link]);
        said.rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(here("ipc", &["--ipc", "container:donor"]), donors("ipc"));
    assert_ne!(here("ipc", &[]), donors("ipc"));
    let read = [
        "run",
        "--rm",
        "--ipc",
        "container:donor",
        "bb",
        "sh",
        "-c",
        "cat /dev/shm/f; echo more > /dev/shm/g",
    ];
    assert_eq!(d.ok(read), "shared");
    assert_eq!(d.ok(["exec", "donor", "cat", "/dev/shm/g"]), "more");
    // Its processes are seen, and ours end with us.
    assert_eq!(here("pid", &["--pid", "container:donor"]), donors("pid"));
    d.ok([
        "run",
        "-d",
        "--name",
        "guest",
        "--pid",
        "container:donor",
        "bb",
        "sh",
        "-c",
        "sleep 4321 & exec sleep 1234",
    ]);
    let seen = "for p in /proc/[0-9]*; do cat $p/cmdline; echo; done";
    let seen = |d: &Daemon| d.ok(["exec", "donor", "sh", "-c", seen]);
    until("the donor sees the guest's processes", || {
        let all = seen(&d);
        all.contains("4321") && all.contains("1234")
    });
    d.ok(["exec", "guest", "kill", "-0", "1"]);
    d.ok(["rm", "-f", "guest"]);
    assert!(!seen(&d).contains("4321"));
    d.docker_ok([
        "run",
        "--rm",
        "--pid",
        "container:donor",
        "--network",
        "container:donor",
        "bb",
        "true",
    ]);
    d.ok(["run", "-d", "--name", "private", "bb", "sleep", "1000"]);
    d.refused(
        &["create", "--ipc", "container:private", "bb", "true"],
        "non-shareable IPC",
    );
    d.refused(&["create", "--pid", "container:nope", "bb", "true"], "nope");
    d.ok(["stop", "-t", "0", "donor"]);
    d.refused(
        &["run", "--rm", "--pid", "container:donor", "bb", "true"],
        "start it first",
    );
}

#[test]
fn a_profile_as_docker_writes_it() {
    let d = Daemon::start();
    let profile = r#"{ "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{ "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"] },
                    { "architecture": "SCMP_ARCH_AARCH64", "subArchitectures": [] }],
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [], "comment": "",
                       "includes": {}, "excludes": { "caps": ["CAP_SYS_ADMIN"] } }] }"#;
    let file = d.dir.path().join("profile.json");
    fs::write(&file, profile).unwrap();
    let option = format!("seccomp={}", file.display());
    let make = |more: &[&str]| {
        let mut args = vec!["run", "--rm", "--security-opt", &option];
        args.extend(more);
        args.extend(["bb", "mkdir", "/made"]);
        [
            d.docker_raw(&args),
            d.command().args(&args).output().unwrap(),
        ]
    };
    for output in make(&[]) {
        assert!(
            errors(&output).contains("Operation not permitted"),
            "{output:?}"
        );
    }
    for output in make(&["--cap-add", "SYS_ADMIN"]) {
        assert!(output.status.success(), "{}", errors(&output));
    }
}
