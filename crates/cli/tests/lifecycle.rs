//! Daemons that are killed, machines that go down, and units that come back.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Daemon, alive, errors, parent, signal, text, until};

#[test]
fn a_daemon_that_is_killed_is_not_noticed_by_containers() {
    let mut d = Daemon::start();
    d.ok([
        "run",
        "-d",
        "--name",
        "stays",
        "-p",
        "8080:80",
        "bb",
        "sh",
        "-c",
        "echo hi > /index.html; httpd -f -p 80 -h /",
    ]);
    d.ok([
        "run",
        "-d",
        "--name",
        "ends",
        "bb",
        "sh",
        "-c",
        "while test ! -e /go; do sleep 0.1; done; exit 5",
    ]);
    let pid: u32 = d.field("stays", ".State.Pid").parse().unwrap();
    let ending: u32 = d.field("ends", ".State.Pid").parse().unwrap();
    let address = d.field("stays", ".NetworkSettings.IPAddress");
    d.kill();
    assert!(alive(pid));
    std::fs::write(format!("/proc/{ending}/root/go"), "").unwrap();
    until("it has ended while no daemon was there", || !alive(ending));
    let output = d
        .inside("curl")
        .args(["-fsS", "http://127.0.0.1:8080/"])
        .output()
        .unwrap();
    assert_eq!(text(&output), "hi", "{}", errors(&output));
    // Who asks meanwhile waits in the socket that the holder keeps.
    let waiting = d
        .command()
        .args(["ps", "-q"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    d.up();
    assert_eq!(
        text(&waiting.wait_with_output().unwrap()).lines().count(),
        1
    );
    assert_eq!(d.field("stays", ".State.Pid"), pid.to_string());
    assert_eq!(d.field("stays", ".NetworkSettings.IPAddress"), address);
    assert_eq!(d.field("ends", ".State.ExitCode"), "5");
    assert_eq!(d.ok(["exec", "stays", "echo", "here"]), "here");
    d.terminate();
    assert!(alive(pid));
    d.up();
    d.ok(["rm", "-f", "stays", "ends"]);
    d.ok(["run", "--rm", "-p", "8080:80", "bb", "true"]);
}

#[test]
fn after_a_reboot_states_and_restart_policies_come_out_right() {
    let mut d = Daemon::start();
    d.ok(["run", "-d", "--name", "plain", "bb", "sleep", "1000"]);
    d.ok([
        "run",
        "-d",
        "--name",
        "always",
        "--restart",
        "always",
        "-v",
        "data:/data",
        "bb",
        "sleep",
        "1000",
    ]);
    d.ok([
        "run",
        "-d",
        "--name",
        "stopped",
        "--restart",
        "unless-stopped",
        "bb",
        "sleep",
        "1000",
    ]);
    d.ok(["stop", "-t", "0", "stopped"]);
    d.ok(["exec", "always", "sh", "-c", "echo kept > /data/file"]);
    let shim = parent(d.field("plain", ".State.Pid").parse().unwrap());
    let holder = parent(shim);
    d.kill();
    signal(holder, "KILL");
    for line in d.leftovers() {
        if line.contains("coracle-shim") || line.contains("sleep 1000") {
            // One may have gone with another.
            let _ = std::process::Command::new("kill")
                .args(["-9", line.split(' ').next().unwrap()])
                .output();
        }
    }
    until("everything is gone", || d.leftovers().is_empty());
    std::fs::remove_dir_all(d.run_dir()).unwrap();
    d.up();
    assert_eq!(d.field("plain", ".State.ExitCode"), "255");
    assert_eq!(d.field("stopped", ".State.Status"), "exited");
    until("it runs again", || {
        d.field("always", ".State.Status") == "running"
    });
    assert_eq!(d.ok(["exec", "always", "cat", "/data/file"]), "kept");
    d.ok(["start", "plain"]);
}

#[test]
fn units_run_and_come_back() {
    let mut d = Daemon::start();
    let network = d.unit("app.network", "[Network]\n");
    let volume = d.unit("app.volume", "[Volume]\n");
    let server = d.unit(
        "server.container",
        "[Unit]\nDescription=Serves\n[Container]\nImage=bb\nNetwork=app.network\nVolume=app.volume:/www\nWorkingDir=/www\n\
         Exec=sh -c \"echo from %p > /www/index.html; httpd -f -p 80 -h /www\"\n[X-Deploy]\nProbe=http://:80/\nProbeIntervalSec=100ms\n",
    );
    let client = d.unit(
        "client@.container",
        "[Unit]\nRequires=server.container\nAfter=server.container\n[Container]\nImage=bb\nNetwork=app.network\n\
         Exec=sh -c \"wget -q -O - http://server/ && exec sleep 1000\"\n[Service]\nRestart=on-failure\nRestartSec=100ms\n",
    );
    d.ok([
        "unit",
        "start",
        &network,
        &volume,
        &server,
        &client,
        "client@{1..2}",
    ]);
    let active = |d: &Daemon, unit: &str| {
        let all = d.ok(["unit", "list", "--format", "{{.Unit}} {{.Active}}"]);
        all.lines().any(|l| l == format!("{unit} active"))
    };
    for unit in [
        "app.network",
        "app.volume",
        "server.container",
        "client@1.container",
        "client@2.container",
    ] {
        until("all units are active", || active(&d, unit));
    }
    until("it has read from the server by its name", || {
        d.ok(["unit", "logs", "client@1"]) == "from server"
    });
    let before = d.field("client-1", ".State.Pid");
    d.kill();
    d.up();
    until("its units are active", || active(&d, "client@2.container"));
    assert_eq!(
        d.field("client-1", ".State.Pid"),
        before,
        "what runs well is left alone"
    );
    signal(before.parse().unwrap(), "KILL");
    until("it was started again", || {
        active(&d, "client@1.container") && d.field("client-1", ".State.Pid") != before
    });
    d.ok(["system", "down", "-t", "0"]);
    until("every process has left", || d.leftovers().is_empty());
    d.up();
    until("units come back as they were asked to be", || {
        active(&d, "client@1.container") && active(&d, "server.container")
    });
    d.ok(["unit", "stop", "server"]);
    assert!(
        !active(&d, "client@1.container"),
        "what requires it stops with it"
    );
    d.ok([
        "unit",
        "destroy",
        "client@{1..2}",
        "client@.container",
        "server",
    ]);
    assert_eq!(d.ok(["ps", "-aq"]), "");
    assert_eq!(d.ok(["volume", "ls", "-q"]), "app", "data stays");
}

#[test]
fn services_of_the_host() {
    let mut d = Daemon::start();
    let dir = d.dir.path().to_str().unwrap().to_owned();
    let once = d.unit(
        "once.service",
        &format!("[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'echo one >> {dir}/order'\nExecStart=/bin/sh -c 'echo two >> {dir}/order'\n"),
    );
    let main = d.unit(
        "main.service",
        &format!(
            "[Unit]\nRequires=once.service\nAfter=once.service\n[Service]\nType=exec\nEnvironment=WORD=three\n\
             ExecStartPre=/bin/sh -c 'echo $WORD >> {dir}/order'\nExecStart=/bin/sleep 1000\nExecStopPost=/bin/sh -c 'echo post >> {dir}/order'\n\
             Restart=on-failure\nRestartSec=100ms\n"
        ),
    );
    d.ok(["unit", "submit", &once]);
    d.ok(["unit", "start", &main]);
    let order = || std::fs::read_to_string(format!("{dir}/order")).unwrap();
    assert_eq!(order(), "one\ntwo\nthree\n");
    let sub = |d: &Daemon, unit: &str| d.ok(["unit", "status", unit]);
    assert!(sub(&d, "once.service").contains("active (exited)"));
    let pid = |d: &Daemon| {
        d.leftovers()
            .iter()
            .find(|l| l.ends_with("/bin/sleep 1000 "))
            .map(|l| l.split(' ').next().unwrap().to_owned())
    };
    let first = pid(&d).unwrap();
    d.kill();
    d.up();
    until("it is taken over", || {
        sub(&d, "main.service").contains("active (running)")
    });
    assert_eq!(pid(&d).unwrap(), first);
    signal(first.parse().unwrap(), "KILL");
    until("it was started again", || {
        pid(&d).is_some_and(|p| p != first)
    });
    d.ok(["unit", "stop", "main.service"]);
    assert_eq!(pid(&d), None);
    assert!(order().ends_with("post\n"), "{}", order());

    let broken = d.unit(
        "broken.service",
        "[Service]\nType=exec\nExecStart=/no/such/program\n",
    );
    let output = d.coracle(["unit", "start", &broken]);
    assert!(!output.status.success());
    assert!(
        errors(&output).contains("/no/such/program"),
        "{}",
        errors(&output)
    );
}

#[test]
fn what_is_wrong_with_a_unit_is_told_at_once() {
    let d = Daemon::start();
    let file = d.unit(
        "bad.container",
        "[Container]\nImagee=x\nPublishPort=nonsense\n[Nope]\nA=b\n",
    );
    for args in [["unit", "verify", &file], ["unit", "start", &file]] {
        let output = d.coracle(args);
        assert!(!output.status.success());
        let told = errors(&output);
        for words in [
            "bad.container:2",
            "did you mean Image?",
            "PublishPort",
            "Nope",
        ] {
            assert!(told.contains(words), "{words} in\n{told}");
        }
    }
    let mode = d.unit(
        "mode.container",
        "[Container]\nImage=bb\n[Service]\nKillMode=process\n",
    );
    let output = d.coracle(["unit", "submit", &mode]);
    assert!(errors(&output).contains("KillMode"), "{}", errors(&output));
    let dies = d.unit("dies.container", "[Container]\nImage=bb\nExec=sh -c \"echo the reason; exit 3\"\n[X-Deploy]\nProbe=tcp://:80\n");
    let output = d.coracle(["unit", "start", &dies]);
    assert!(!output.status.success());
    assert!(
        errors(&output).contains("code 3") && errors(&output).contains("the reason"),
        "{}",
        errors(&output)
    );
}

/// Kills the daemon at moments that no one chose, again and again, while containers are made, started, asked and removed.
/// `CORACLE_ROUNDS` makes it longer (`make soak`).
#[test]
fn kills_at_random_moments_lose_nothing() {
    let rounds: u64 = std::env::var("CORACLE_ROUNDS").map_or(50, |r| r.parse().unwrap());
    let mut d = Daemon::start();
    d.ok(["run", "-d", "--name", "witness", "bb", "sleep", "100000"]);
    let witness: u32 = d.field("witness", ".State.Pid").parse().unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..rounds {
        let name = format!("c{}x", round % 4);
        let verbs: [Vec<&str>; 4] = [
            vec![
                "run", "-d", "--name", &name, "-p", "9000:80", "bb", "sleep", "100000",
            ],
            vec!["exec", &name, "true"],
            vec!["stop", "-t", "0", &name],
            vec!["rm", "-f", &name],
        ];
        let mut busy: Vec<_> = verbs
            .iter()
            .map(|v| {
                d.command()
                    .args(v)
                    .stdout(std::process::Stdio::null())
                    .stderr(std::process::Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        std::thread::sleep(std::time::Duration::from_millis(state % 80));
        d.kill();
        d.up();
        for child in &mut busy {
            let _ = child.wait();
        }
        assert!(alive(witness), "the witness never noticed (round {round})");
        assert_eq!(d.field("witness", ".State.Pid"), witness.to_string());
        // The list is true.
        for line in d
            .ok(["ps", "-a", "--format", "{{.Names}} {{.State}}"])
            .lines()
        {
            let (name, state) = line.split_once(' ').unwrap();
            let pid: u32 = d.field(name, ".State.Pid").parse().unwrap();
            assert_eq!(state == "running", pid != 0 && alive(pid), "{line}");
        }
    }
    let all = d.ok(["ps", "-aq"]);
    for id in all.lines() {
        d.ok(["rm", "-f", id]);
    }
    // No name, port or address is stuck, nothing is left.
    for n in 0..4 {
        d.ok([
            "run",
            "--rm",
            "--name",
            &format!("c{n}x"),
            "-p",
            "9000:80",
            "bb",
            "true",
        ]);
    }
    until("no shim is left", || {
        !d.leftovers().iter().any(|l| l.contains("coracle-shim"))
    });
    until("loopback and the bridge are the only links", || {
        let links = text(&d.inside("ip").args(["-br", "link"]).output().unwrap());
        links.lines().count() == 2
    });
    // A removal is answered before the last files are deleted.
    until("no container's files are left", || {
        let left = std::fs::read_dir(d.state_dir().join("containers"));
        left.unwrap().count() == 0
    });
}
