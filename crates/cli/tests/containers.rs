//! Containers end to end, asked by Debian's docker and by our own command.
#![allow(clippy::unwrap_used)]

#[path = "containers/around.rs"]
mod around;
mod common;
#[path = "containers/ends.rs"]
mod ends;

use common::{Daemon, cgroups, errors, text, until};
use std::io::Write;
use std::process::Stdio;

#[test]
fn debians_docker_works_unchanged() {
    let d = Daemon::start();
    assert!(d.docker_ok(["version"]).contains("Coracle"));
    assert_eq!(d.docker_ok(["run", "--rm", "bb", "echo", "hello"]), "hello");
    for (args, code) in [
        (vec!["sh", "-c", "exit 7"], 7),
        (vec!["nosuch"], 127),
        (vec!["/etc/passwd"], 126),
        (vec!["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137),
    ] {
        let mut all = vec!["run", "--rm", "bb"];
        all.extend(&args);
        let output = std::process::Command::new("docker")
            .env(
                "DOCKER_HOST",
                format!("unix://{}", d.run_dir().join("docker.sock").display()),
            )
            .args(&all)
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}: {}",
            errors(&output)
        );
    }
    let id = d.docker_ok([
        "run",
        "-d",
        "--name",
        "web",
        "--label",
        "a=b",
        "-e",
        "X=y",
        "bb",
        "sh",
        "-c",
        "echo out; echo err >&2; sleep 1000",
    ]);
    assert_eq!(
        d.docker_ok(["ps", "-q", "--no-trunc", "--filter", "label=a=b"]),
        id
    );
    assert_eq!(
        d.docker_ok([
            "exec",
            "-e",
            "Z=1",
            "-u",
            "web",
            "web",
            "sh",
            "-c",
            "echo $X$Z $(id -u)"
        ]),
        "y1 33"
    );
    until("both lines are logged", || {
        let logs = d.docker(["logs", "web"]);
        text(&logs) == "out" && errors(&logs).trim() == "err"
    });
    assert_eq!(
        d.docker_ok([
            "inspect",
            "-f",
            "{{.State.Status}} {{.Config.Image}}",
            "web"
        ]),
        "running bb"
    );
    assert!(
        d.docker_ok(["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}"])
            .starts_with("web ")
    );
    assert!(d.docker_ok(["top", "web"]).contains("sleep 1000"));
    d.docker_ok(["pause", "web"]);
    assert!(
        d.docker_ok(["ps", "--format", "{{.Status}}"])
            .contains("(Paused)")
    );
    d.docker_ok(["unpause", "web"]);
    d.docker_ok(["rename", "web", "old"]);
    d.docker_ok(["stop", "-t", "0", "old"]);
    assert!(
        d.docker_ok(["ps", "-a", "--format", "{{.Names}} {{.Status}}"])
            .starts_with("old Exited (137)")
    );
    d.docker_ok(["start", "old"]);
    let twice = d.docker(["run", "--name", "old", "bb"]);
    assert_eq!(twice.status.code(), Some(125));
    assert!(
        errors(&twice).contains("is already in use by container"),
        "{}",
        errors(&twice)
    );
    let running = d.docker(["rm", "old"]);
    assert!(
        errors(&running).contains("You cannot remove a running container"),
        "{}",
        errors(&running)
    );
    d.docker_ok(["rm", "-f", "old"]);
    assert_eq!(d.docker_ok(["ps", "-aq"]), "");
    until("its control groups are gone", || cgroups(&id).is_empty());
}

/// What cannot be run ends with docker's codes and says why, for docker's command and for ours.
#[test]
fn exec_ends_with_dockers_codes() {
    let d = Daemon::start();
    d.ok(["run", "-d", "--name", "web", "bb", "sleep", "1000"]);
    for (args, code, word) in [
        (
            &["web", "sh", "-c", "echo out; echo err >&2; exit 7"][..],
            7,
            "err",
        ),
        (&["web", "nosuch"], 127, "nosuch"),
        (&["web", "/etc/passwd"], 126, "/etc/passwd"),
        (&["-t", "web", "nosuch"], 127, ""),
        (&["gone", "true"], 1, "gone"),
    ] {
        let mut docker = std::process::Command::new("docker");
        let socket = d.run_dir().join("docker.sock");
        docker.env("DOCKER_HOST", format!("unix://{}", socket.display()));
        for mut command in [docker, d.command()] {
            let output = command.arg("exec").args(args).output().unwrap();
            let said = errors(&output);
            assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
            assert!(said.contains(word), "{command:?}: {said}");
            assert!(code != 7 || text(&output) == "out");
        }
    }
    // Each end was written down before its client saw it.
    for code in 0..40 {
        let script = format!("exit {code}");
        let output = d.docker(["exec", "web", "sh", "-c", &script]);
        assert_eq!(output.status.code(), Some(code));
    }
    d.ok(["exec", "-d", "web", "touch", "/detached"]);
    until("what was left alone has run", || {
        d.coracle(["exec", "web", "test", "-e", "/detached"])
            .status
            .success()
    });
}

#[test]
fn our_own_verbs() {
    let d = Daemon::start();
    let mut cat = d
        .command()
        .args(["run", "--rm", "-i", "bb", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    cat.stdin.take().unwrap().write_all(b"through").unwrap();
    assert_eq!(text(&cat.wait_with_output().unwrap()), "through");
    for (args, code) in [
        (["sh", "-c", "exit 7"], 7),
        (["nosuch", "a", "b"], 127),
        (["/etc/passwd", "a", "b"], 126),
    ] {
        let mut all = vec!["run", "--rm", "bb"];
        all.extend(args);
        assert_eq!(
            d.command().args(all).output().unwrap().status.code(),
            Some(code)
        );
    }
    let missing = d.coracle(["run", "--pull", "never", "nowhere/none"]);
    assert_eq!(missing.status.code(), Some(125));
    assert!(
        errors(&missing).contains("nowhere/none"),
        "{}",
        errors(&missing)
    );

    d.ok([
        "run",
        "-d",
        "--name",
        "web",
        "-m",
        "64m",
        "--pids-limit",
        "50",
        "--cpus",
        "0.5",
        "bb",
        "sleep",
        "1000",
    ]);
    assert_eq!(
        d.ok(["ps", "--format", "{{.Names}} {{.State}}"]),
        "web running"
    );
    let json: serde_json::Value = serde_json::from_str(&d.ok(["ps", "--format", "json"])).unwrap();
    assert_eq!(json["Names"], "web");
    assert_eq!(
        d.coracle(["exec", "web", "sh", "-c", "exit 3"])
            .status
            .code(),
        Some(3)
    );
    let id = d.field("web", ".Id");
    let memory = cgroups(&id)
        .into_iter()
        .find_map(|p| std::fs::read_to_string(p.join("memory.limit_in_bytes")).ok());
    assert_eq!(memory.unwrap().trim(), (64 << 20).to_string());
    let stats = d.ok(["stats", "--no-stream"]);
    assert!(stats.contains("64MiB"), "{stats}");
    let waiter = d
        .command()
        .args(["wait", "web"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    d.ok(["stop", "-t", "0", "web"]);
    assert_eq!(text(&waiter.wait_with_output().unwrap()), "137");
    assert_eq!(d.ok(["rm", "web"]), "web");
}

#[test]
fn confinement_holds_for_the_program_and_for_what_is_run_beside_it() {
    let d = Daemon::start();
    d.ok([
        "run",
        "-d",
        "--name",
        "cc",
        "--read-only",
        "bb",
        "sleep",
        "1000",
    ]);
    let status = |args: [&str; 4]| d.ok(args);
    let own = d.ok(["exec", "cc", "cat", "/proc/1/status"]);
    let beside = status(["exec", "cc", "cat", "/proc/self/status"]);
    for status in [own, beside] {
        let field = |name: &str| {
            status
                .lines()
                .find_map(|l| l.strip_prefix(name))
                .unwrap()
                .trim()
                .to_owned()
        };
        assert_eq!(field("Seccomp:"), "2");
        assert_eq!(field("CapEff:"), "00000000a80425fb");
        assert_eq!(field("CapBnd:"), "00000000a80425fb");
    }
    assert!(
        !d.coracle(["exec", "cc", "mount", "-t", "tmpfs", "x", "/data"])
            .status
            .success()
    );
    assert!(
        !d.coracle(["exec", "cc", "touch", "/file"]).status.success(),
        "the root is read-only"
    );
    assert_eq!(
        d.ok(["exec", "cc", "cat", "/proc/timer_list"]),
        "",
        "masked"
    );
    let privileged = d.ok([
        "run",
        "--rm",
        "--privileged",
        "bb",
        "grep",
        "Seccomp:",
        "/proc/self/status",
    ]);
    assert!(privileged.ends_with('0'), "{privileged}");
    let user = d.ok([
        "run",
        "--rm",
        "--user",
        "web",
        "bb",
        "grep",
        "CapEff",
        "/proc/self/status",
    ]);
    assert!(user.ends_with("0000000000000000"), "{user}");
}

#[test]
fn out_of_memory_is_said_so() {
    let d = Daemon::start();
    let output = d.coracle([
        "run",
        "--name",
        "hog",
        "-m",
        "16m",
        "bb",
        "dd",
        "if=/dev/zero",
        "of=/dev/null",
        "bs=64M",
        "count=1",
    ]);
    assert_eq!(output.status.code(), Some(137), "{}", errors(&output));
    assert_eq!(d.field("hog", ".State.OOMKilled"), "true");
}

#[test]
fn limits_and_restart_policy_are_changed_of_what_is_there() {
    let d = Daemon::start();
    let id = d.ok([
        "run", "-d", "--name", "web", "-m", "64m", "bb", "sleep", "1000",
    ]);
    d.ok(["create", "--name", "idle", "bb", "sleep", "1000"]);
    d.ok([
        "run", "-d", "--rm", "--name", "brief", "bb", "sleep", "1000",
    ]);
    let limit = |id: &str, file: &str| {
        let found = cgroups(id)
            .iter()
            .find_map(|p| std::fs::read_to_string(p.join(file)).ok());
        found.unwrap_or_default().trim().to_owned()
    };
    let flags = [
        "-m",
        "128m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "50",
        "--restart",
        "on-failure:3",
    ];
    let [m, memory, cpus, half, pids, fifty, restart, policy] = flags;
    d.docker_ok([
        "update", m, memory, cpus, half, pids, fifty, restart, policy, "web",
    ]);
    assert_eq!(
        d.ok([
            "update", m, memory, cpus, half, pids, fifty, restart, policy, "idle"
        ]),
        "idle"
    );
    let idle = d.field("idle", ".Id");
    d.ok(["start", "idle"]);
    let hold = |id: &str| {
        assert_eq!(limit(id, "memory.limit_in_bytes"), (128 << 20).to_string());
        assert_eq!(
            limit(id, "memory.memsw.limit_in_bytes"),
            (256 << 20).to_string()
        );
        assert_eq!(limit(id, "cpu.cfs_quota_us"), "50000");
        assert_eq!(limit(id, "pids.max"), "50");
    };
    hold(&id);
    hold(&idle);
    d.ok(["restart", "-t", "0", "web"]);
    hold(&id);
    let policy = d.field("web", ".HostConfig.RestartPolicy");
    assert!(
        policy.contains("on-failure") && policy.contains('3'),
        "{policy}"
    );
    for (args, words) in [
        (
            vec!["--cpu-quota", "1000", "web"],
            "NanoCPUs has already been set",
        ),
        (
            vec!["-m", "1m", "web"],
            "Minimum memory limit allowed is 6MB",
        ),
        (
            vec!["--restart", "always", "brief"],
            "AutoRemove is enabled",
        ),
        (vec!["--restart", "sometimes", "web"], "sometimes"),
        (vec!["-m", "64m", "nobody"], "No such container: nobody"),
        (vec!["web"], "one or more flags"),
    ] {
        let output = d.command().arg("update").args(&args).output().unwrap();
        assert!(
            !output.status.success() && errors(&output).contains(words),
            "{args:?}: {}",
            errors(&output)
        );
    }
    hold(&id);
}
