//! What our command asks is what Debian's docker asks: both are pointed at a socket that writes requests down.
//!
//! Bodies are compared without what says nothing: nulls, empty values, zeroes, and docker's spellings of "the default".
#![allow(clippy::unwrap_used)]

mod recorder;

use recorder::Recorder;
use std::path::Path;
use std::process::Command;

/// Both commands with the same arguments; what they post must be the same.
fn same(cases: &[&[&str]]) {
    let recorder = Recorder::start();
    std::fs::write(
        recorder.dir.path().join("env"),
        "# of the file\nFILE=1\nCORACLE_TEST\nABSENT_NAME\n",
    )
    .unwrap();
    let mut wrong = Vec::new();
    for args in cases {
        let theirs = recorder.bodies(&recorder.docker(args), "docker", args);
        let ours = recorder.bodies(&recorder.coracle(args), "coracle", args);
        if ours != theirs {
            wrong.push(format!(
                "{args:?}\n  docker:  {theirs:?}\n  coracle: {ours:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn containers_are_created_as_docker_creates_them() {
    same(&[
        &["create", "a"],
        &["create", "a", "true"],
        &["create", "a", "sh", "-c", "echo -it"],
        &["create", "--entrypoint", "sh", "a", "-c", "-it", "--rm"],
        &["create", "--name", "x", "-i", "a"],
        &[
            "create",
            "-e",
            "A=b",
            "-e",
            "B=c=d",
            "-e",
            "CORACLE_TEST",
            "-e",
            "ABSENT_NAME",
            "a",
        ],
        &["create", "--env-file", "env", "-e", "A=b", "a"],
        &[
            "create",
            "-v",
            "/a:/b:ro",
            "-v",
            "data:/c",
            "-v",
            "/anonymous",
            "a",
        ],
        &["create", "--mount", "type=bind,src=/q,dst=/r,readonly", "a"],
        &[
            "create",
            "--mount",
            "type=volume,source=data,target=/v,volume-nocopy",
            "a",
        ],
        &["create", "--mount", "type=tmpfs,dst=/x,tmpfs-size=1m", "a"],
        &["create", "--tmpfs", "/t:size=1m", "--tmpfs", "/u", "a"],
        &[
            "create",
            "-p",
            "8080:80",
            "-p",
            "53:53/udp",
            "-p",
            "127.0.0.1::90",
            "-p",
            "81",
            "-p",
            "100-101:1-2",
            "a",
        ],
        &["create", "-P", "--expose", "80", "--expose", "53/udp", "a"],
        &["create", "-p", "8000-8010:80", "a"],
        &[
            "create",
            "--userns",
            "host",
            "--cgroup-parent",
            "/p",
            "--oom-kill-disable",
            "a",
        ],
        &["create", "--label-file", "env", "-l", "a=b", "a"],
        &[
            "create",
            "--rm=true",
            "--tty=false",
            "--name",
            "x",
            "--name",
            "y",
            "a",
        ],
        &["create", "--network", "host", "a"],
        &["create", "--network", "none", "a"],
        &["create", "--network", "container:other", "a"],
        &[
            "create",
            "--hostname",
            "h",
            "--domainname",
            "d",
            "--dns",
            "1.1.1.1",
            "--dns-search",
            "x.y",
            "--add-host",
            "n:1.2.3.4",
            "a",
        ],
        &[
            "create",
            "-h",
            "h",
            "-u",
            "1:2",
            "--group-add",
            "3",
            "-w",
            "/w",
            "--entrypoint",
            "/e",
            "a",
            "x",
        ],
        &["create", "-l", "a=b", "--label", "alone", "a"],
        &[
            "create",
            "-m",
            "64m",
            "--memory-swap",
            "-1",
            "--memory-reservation",
            "32m",
            "--shm-size",
            "1g",
            "a",
        ],
        &[
            "create",
            "--cpus",
            "1.5",
            "-c",
            "512",
            "--cpuset-cpus",
            "0-1",
            "--pids-limit",
            "5",
            "a",
        ],
        &[
            "create",
            "--ulimit",
            "nofile=10:20",
            "--ulimit",
            "nproc=5",
            "a",
        ],
        &[
            "create",
            "--read-only",
            "--cap-add",
            "NET_ADMIN",
            "--cap-drop",
            "ALL",
            "--privileged",
            "--init",
            "a",
        ],
        &[
            "create",
            "--security-opt",
            "no-new-privileges",
            "--security-opt",
            "seccomp=unconfined",
            "a",
        ],
        &[
            "create",
            "--device",
            "/dev/fuse",
            "--device",
            "/dev/a:/dev/b:r",
            "a",
        ],
        &[
            "create",
            "--sysctl",
            "net.ipv4.ip_forward=1",
            "--oom-score-adj",
            "-5",
            "a",
        ],
        &["create", "--restart", "on-failure:3", "a"],
        &["create", "--restart", "unless-stopped", "a"],
        &["create", "--stop-signal", "INT", "--stop-timeout", "3", "a"],
        &[
            "create",
            "--health-cmd",
            "true",
            "--health-interval",
            "1m30s",
            "--health-timeout",
            "500ms",
            "--health-retries",
            "2",
            "--health-start-period",
            "5s",
            "a",
        ],
        &["create", "--no-healthcheck", "a"],
        &["create", "--log-driver", "none", "a"],
        &[
            "create",
            "--log-opt",
            "max-size=1m",
            "--log-opt",
            "max-file=2",
            "a",
        ],
        &[
            "create", "--pid", "host", "--ipc", "private", "--uts", "host", "a",
        ],
        &["run", "-d", "--rm", "a", "sleep", "1"],
        &["run", "-d", "-i", "a"],
    ]);
}

#[test]
fn networks_and_volumes_are_asked_as_docker_asks() {
    same(&[
        &[
            "network",
            "create",
            "--subnet",
            "10.2.0.0/16",
            "--gateway",
            "10.2.0.1",
            "--internal",
            "--label",
            "a=b",
            "n",
        ],
        &["network", "create", "-o", "x=y", "n"],
        &[
            "network",
            "create",
            "--ipv6",
            "--subnet",
            "fd00:2::/64",
            "--gateway",
            "fd00:2::fe",
            "--ip-range",
            "fd00:2::100/120",
            "--aux-address",
            "router=fd00:2::9",
            "n",
        ],
        &["volume", "create", "--label", "a=b", "data"],
    ]);
}

#[test]
fn life_is_asked_as_docker_asks() {
    same(&[
        &["stop", "-t", "3", "c"],
        &["restart", "c"],
        &["kill", "-s", "INT", "c"],
        &["rename", "c", "d"],
        &["pause", "c"],
        &["unpause", "c"],
        &["start", "c"],
        &[
            "update",
            "-m",
            "128m",
            "--memory-swap",
            "-1",
            "--cpus",
            "1.5",
            "--pids-limit",
            "5",
            "--restart",
            "on-failure:3",
            "c",
        ],
        &[
            "update",
            "--cpu-shares",
            "7",
            "--cpuset-cpus",
            "0-1",
            "--blkio-weight",
            "300",
            "c",
        ],
    ]);
}

#[test]
fn run_attaches_and_waits_before_it_starts_and_ends_with_the_code() {
    let recorder = Recorder::start();
    let output = recorder.coracle(&["run", "--rm", "a", "x"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice()),
        (&b"out"[..], &b"err"[..])
    );
    let paths: Vec<String> = recorder.take().into_iter().map(|a| a.path).collect();
    let at = |what: &str| {
        paths
            .iter()
            .position(|p| p.contains(what))
            .unwrap_or_else(|| panic!("no {what} in {paths:?}"))
    };
    assert!(
        at("/create") < at("/attach") && at("/attach") < at("/start") && at("/wait") < at("/start"),
        "{paths:?}"
    );
    assert!(
        paths[at("/wait")].contains("condition=removed"),
        "{paths:?}"
    );
    assert!(
        paths[at("/attach")].contains("stream=1") && paths[at("/attach")].contains("stdout=1"),
        "{paths:?}"
    );
}

#[test]
fn lists_are_narrowed_by_the_daemon() {
    let recorder = Recorder::start();
    for (args, parts) in [
        (
            &[
                "ps",
                "-a",
                "--filter",
                "status=running",
                "--filter",
                "status=paused",
            ][..],
            &["/containers/json", "all=", "running", "paused"][..],
        ),
        (&["ps", "-n", "3"], &["limit=3"]),
    ] {
        let output = recorder.coracle(args);
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let asked = recorder.take();
        assert!(
            parts
                .iter()
                .all(|p| asked.iter().any(|a| a.path.contains(p))),
            "{args:?}: {asked:?}"
        );
    }
    let table = recorder.coracle(&["ps"]);
    assert_eq!(
        String::from_utf8_lossy(&table.stdout)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" "),
        "CONTAINER ID IMAGE COMMAND CREATED STATUS PORTS NAMES"
    );
}

#[test]
fn errors_are_said_in_dockers_words() {
    let recorder = Recorder::start();
    for args in [&["stop", "none"][..], &["logs", "none"]] {
        let output = recorder.coracle(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            errors.contains("Error response from daemon: No such container: none"),
            "{args:?}: {errors}"
        );
    }
}

#[test]
fn a_daemon_that_is_not_there_is_named_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("coracle.sock");
    let ask = |args: &[&str], flag: &str, value: &Path| {
        Command::new(env!("CARGO_BIN_EXE_coracle"))
            .arg(flag)
            .arg(value)
            .args(args)
            .output()
            .unwrap()
    };
    for (output, code) in [
        (ask(&["ps"], "--run-dir", dir.path()), 1),
        (ask(&["run", "a"], "--run-dir", dir.path()), 125),
    ] {
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{errors}");
        for part in [socket.to_str().unwrap(), "coracle daemon", "No such file"] {
            assert!(errors.contains(part), "{errors}");
        }
    }
}
