//! Where the daemon meets the machine: other networks, other firewalls, a full disk, a terminal.
#![allow(clippy::unwrap_used)]

mod common;

use common::outside::{Outside, page};
use common::{Daemon, alive, errors, text, until};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What a web server of the daemon's machine says to another one.
fn get(outside: &Outside, port: u16) -> String {
    let url = format!("http://192.0.2.1:{port}/");
    page(outside.inside("curl"), &url).unwrap_or_default()
}

/// An image of one program of this machine and the libraries that it loads.
fn image_of(d: &Daemon, name: &str, program: &str) {
    let root = d.dir.path().join(format!("root-{name}"));
    let copy = |from: &str| {
        let to = root.join(from.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, to).unwrap();
    };
    copy(program);
    let libraries = Command::new("ldd").arg(program).output().unwrap();
    for word in text(&libraries)
        .split_whitespace()
        .filter(|w| w.starts_with('/'))
    {
        copy(word);
    }
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\n").unwrap();
    let tar = d.dir.path().join(format!("{name}.tar"));
    let made = Command::new("tar")
        .arg("-C")
        .arg(&root)
        .arg("-cf")
        .arg(&tar)
        .arg(".")
        .status();
    assert!(made.unwrap().success());
    d.ok(["import", tar.to_str().unwrap(), name]);
}

#[test]
fn published_udp_keeps_its_source_and_names_survive_a_restart() {
    let mut d = Daemon::start();
    let outside = Outside::of(&d);
    image_of(&d, "dns", "/usr/sbin/dnsmasq");
    d.ok([
        "run",
        "-d",
        "--name",
        "dns",
        "-p",
        "5353:53/udp",
        "-p",
        "5353:53/tcp",
        "dns",
        "/usr/sbin/dnsmasq",
        "--keep-in-foreground",
        "--user=root",
        "--group=root",
        "--no-resolv",
        "--no-hosts",
        "--log-queries",
        "--log-facility=-",
        "--address=/known.test/192.0.2.77",
        "--pid-file=",
    ]);
    let ask = |mut dig: Command, server: &str, more: &str| {
        let at = format!("@{server}");
        let mut args = vec![
            &at,
            "-p",
            "5353",
            "+short",
            "+tries=1",
            "+time=2",
            "known.test",
        ];
        args.extend((!more.is_empty()).then_some(more));
        text(&dig.args(args).output().unwrap())
    };
    for way in ["", "+tcp"] {
        until("the server answers to the outside", || {
            ask(outside.inside("dig"), "192.0.2.1", way) == "192.0.2.77"
        });
        assert_eq!(
            ask(d.inside("dig"), "127.0.0.1", way),
            "192.0.2.77",
            "{way}"
        );
        assert_eq!(
            ask(d.inside("dig"), "192.0.2.1", way),
            "192.0.2.77",
            "{way}"
        );
    }
    let log = errors(&d.coracle(["logs", "dns"]));
    assert!(log.contains("from 192.0.2.2"), "its source is kept: {log}");

    // While no daemon is there a question waits, and the next daemon answers it.
    d.ok(["network", "create", "back"]);
    for name in ["asks", "named"] {
        d.ok([
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "back",
            "bb",
            "sleep",
            "1000",
        ]);
    }
    let named = d.field("named", ".NetworkSettings.Networks.back.IPAddress");
    let pid = d.field("asks", ".State.Pid");
    let dig = || {
        let mut dig = Command::new("nsenter");
        dig.arg(format!("--net=/proc/{pid}/ns/net"))
            .args(["--", "dig"]);
        let gateway = named.rsplit_once('.').unwrap().0.to_owned() + ".1";
        dig.args([
            &format!("@{gateway}"),
            "+short",
            "+tries=1",
            "+time=20",
            "named",
        ]);
        dig.stdout(Stdio::piped());
        dig
    };
    assert_eq!(text(&dig().output().unwrap()), named);
    d.kill();
    let mut waiting = dig().spawn().unwrap();
    assert_eq!(
        ask(outside.inside("dig"), "192.0.2.1", ""),
        "192.0.2.77",
        "published ports need no daemon"
    );
    assert!(waiting.try_wait().unwrap().is_none());
    d.up();
    assert_eq!(text(&waiting.wait_with_output().unwrap()), named);
}

/// A dockerd in the daemon's network namespace, with directories of its own.
struct Docker {
    child: Child,
    host: String,
}

impl Docker {
    fn beside(d: &Daemon) -> Self {
        let dir = d.dir.path().join("docker");
        std::fs::create_dir_all(&dir).unwrap();
        let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let host = format!("unix://{}", path("docker.sock"));
        let log = std::fs::File::create(path("log")).unwrap();
        let child = d
            .inside("dockerd")
            .args(["--data-root", &path("data"), "--exec-root", &path("exec")])
            .args(["--pidfile", &path("pid"), "-H", &host])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("dockerd (Debian package docker.io)");
        let docker = Self { child, host };
        until("dockerd answers", || docker.run(&["version"]).is_some());
        docker
    }

    fn run(&self, args: &[&str]) -> Option<String> {
        let mut docker = Command::new("docker");
        docker.env("DOCKER_HOST", &self.host).args(args);
        let output = docker.stdin(Stdio::null()).output().unwrap();
        output.status.success().then(|| text(&output))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        for id in self.run(&["ps", "-aq"]).unwrap_or_default().lines() {
            self.run(&["rm", "-f", id]);
        }
        common::signal(self.child.id(), "TERM");
        let _ = self.child.wait();
    }
}

#[test]
fn beside_a_running_docker_both_serve() {
    let mut d = Daemon::start();
    let outside = Outside::of(&d);
    let serve = "mkdir -p /www; echo $WHO > /www/index.html; httpd -f -p 80 -h /www";
    d.ok([
        "run",
        "-d",
        "--name",
        "first",
        "-e",
        "WHO=first",
        "-p",
        "8001:80",
        "bb",
        "sh",
        "-c",
        serve,
    ]);
    let docker = Docker::beside(&d);
    let root = d.dir.path().join("root");
    let tar = d.dir.path().join("bb.tar");
    let made = Command::new("tar")
        .arg("-C")
        .arg(root)
        .arg("-cf")
        .arg(&tar)
        .arg(".")
        .status();
    assert!(made.unwrap().success());
    docker
        .run(&["import", tar.to_str().unwrap(), "bb"])
        .unwrap();
    docker
        .run(&[
            "run",
            "-d",
            "-e",
            "WHO=docker",
            "-p",
            "8002:80",
            "bb",
            "sh",
            "-c",
            serve,
        ])
        .unwrap();
    d.ok([
        "run",
        "-d",
        "--name",
        "later",
        "-e",
        "WHO=later",
        "-p",
        "8003:80",
        "bb",
        "sh",
        "-c",
        serve,
    ]);
    let all = |d: &Daemon, when: &str| {
        for (port, who) in [(8001, "first"), (8002, "docker"), (8003, "later")] {
            until(&format!("{who} answers {when}"), || {
                get(&outside, port) == who
            });
        }
        // And they reach the outside.
        for name in ["first", "later"] {
            let ping = "echo x | nc -w 5 192.0.2.2 9 2>&1; true";
            let output = d.ok(["exec", name, "sh", "-c", ping]);
            assert!(output.contains("refused"), "{when}: {output}");
        }
    };
    all(&d, "when both run");
    d.kill();
    d.up();
    all(&d, "after a restart of ours");
    drop(docker);
    for (port, who) in [(8001, "first"), (8003, "later")] {
        until(&format!("{who} answers without docker"), || {
            get(&outside, port) == who
        });
    }
    d.ok(["system", "down", "-t", "0"]);
    let rules = text(&d.inside("iptables-save").output().unwrap());
    assert!(!rules.contains("coracle"), "{rules}");
}

#[test]
fn a_firewall_that_forwards_nothing_is_named() {
    let d = Daemon::start();
    let outside = Outside::of(&d);
    // As ufw leaves it: nothing is forwarded but what its chain for routes takes.
    for args in [
        &["-P", "FORWARD", "DROP"][..],
        &["-N", "ufw-before-forward"],
        &[
            "-A",
            "ufw-before-forward",
            "-m",
            "conntrack",
            "--ctstate",
            "RELATED,ESTABLISHED",
            "-j",
            "ACCEPT",
        ],
        &["-N", "ufw-user-forward"],
        &["-A", "ufw-before-forward", "-j", "ufw-user-forward"],
        &["-A", "FORWARD", "-j", "ufw-before-forward"],
    ] {
        assert!(d.inside("iptables").args(args).status().unwrap().success());
    }
    let serve = "mkdir -p /www; echo here > /www/index.html; httpd -f -p 80 -h /www";
    let run = d.coracle([
        "run", "-d", "--name", "web", "-p", "8001:80", "bb", "sh", "-c", serve,
    ]);
    assert!(run.status.success(), "{}", errors(&run));
    let from_within = || {
        let output = d.ok([
            "exec",
            "web",
            "sh",
            "-c",
            "echo x | nc -w 5 192.0.2.2 9 2>&1; true",
        ]);
        output.contains("refused")
    };
    until("containers reach the outside", from_within);
    // What the machine's owner closed stays closed, and opens with the rule that is named.
    assert_eq!(get(&outside, 8001), "");
    let warned = errors(&d.coracle(["info"]));
    assert!(warned.contains("ufw route allow"), "{warned}");
    let allow = [
        "-A",
        "ufw-user-forward",
        "-p",
        "tcp",
        "--dport",
        "80",
        "-j",
        "ACCEPT",
    ];
    assert!(d.inside("iptables").args(allow).status().unwrap().success());
    until("it answers", || get(&outside, 8001) == "here");
}

/// A file system of a few megabytes, gone when this is.
struct Small(std::path::PathBuf);

impl Small {
    fn on(path: &Path) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=24m", "small"])
            .arg(path);
        assert!(mount.status().unwrap().success());
        Self(path.to_owned())
    }

    fn fill(&self) {
        let full = std::fs::File::create(self.0.join("ballast"))
            .and_then(|mut file| std::io::copy(&mut std::io::repeat(1), &mut file))
            .unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_said_and_got_over() {
    let mut d = Daemon::unstarted();
    let disk = Small::on(&d.state_dir());
    d.up();
    d.image();
    let talks = "n=0; while true; do n=$((n+1)); echo line $n of a log that goes on and on; sleep 0.01; done";
    d.ok(["run", "-d", "--name", "talks", "bb", "sh", "-c", talks]);
    until("it talks", || d.ok(["logs", "talks"]).contains("line 3 "));
    let pid: u32 = d.field("talks", ".State.Pid").parse().unwrap();
    let unit = d.unit("some.service", "[Service]\nExecStart=/bin/sleep 1000\n");
    disk.fill();
    for args in [
        &["run", "-d", "--name", "more", "bb", "sleep", "1000"][..],
        &["volume", "create", "some"],
        &["network", "create", "some"],
    ] {
        let output = d.command().args(args).output().unwrap();
        assert!(!output.status.success(), "{args:?}");
        let said = errors(&output);
        assert!(said.contains("space"), "{args:?}: {said}");
    }
    // The store has some room of its own.
    let large = format!(
        "# {}\n[Service]\nExecStart=/bin/true\n",
        "x".repeat(300_000)
    );
    let refused = (0..100).find_map(|n| {
        let large = d.unit(&format!("large{n}.service"), &large);
        let output = d.coracle(["unit", "submit", &large]);
        (!output.status.success()).then(|| (n, errors(&output)))
    });
    let (stored, said) = refused.unwrap();
    assert!(said.contains("space"), "{said}");
    // Nothing half is shown, and what runs runs on.
    assert_eq!(d.ok(["ps", "-a", "--format", "{{.Names}}"]), "talks");
    assert_eq!(d.ok(["volume", "ls", "-q"]), "");
    assert!(!d.ok(["network", "ls"]).contains("some"));
    let units = |d: &Daemon| d.ok(["unit", "list", "-q"]).lines().count();
    assert_eq!(units(&d), stored);
    assert!(alive(pid));
    assert_eq!(d.ok(["exec", "talks", "echo", "still"]), "still");
    // Also a daemon that starts now takes over what runs.
    d.kill();
    disk.free();
    disk.fill();
    d.up();
    assert_eq!(d.field("talks", ".State.Pid"), pid.to_string());
    assert_eq!(units(&d), stored);
    disk.free();
    let last = |d: &Daemon| d.ok(["logs", "-n", "1", "talks"]);
    let before = last(&d);
    until("the log goes on", || last(&d) != before);
    d.ok(["run", "-d", "--name", "more", "bb", "sleep", "1000"]);
    d.ok(["volume", "create", "some"]);
    d.ok(["network", "create", "some"]);
    d.ok(["unit", "start", &unit]);
    d.ok(["rm", "-f", "more", "talks"]);
    d.ok(["unit", "destroy", "some.service"]);
    d.ok(["system", "down", "-t", "0"]);
    // Before its directory, which a mount would hold.
    drop(disk);
    drop(d);
}

#[test]
fn the_size_of_the_terminal_goes_along() {
    let d = Daemon::start();
    let coracle = format!(
        "{} --run-dir {}",
        env!("CARGO_BIN_EXE_coracle"),
        d.run_dir().display()
    );
    let inside =
        "echo ready; until busybox stty size | grep -q '33 77'; do sleep 0.1; done; echo seen";
    let script = format!(
        "stty rows 10 cols 20; (until {coracle} logs size 2>&1 | grep -q ready; do sleep 0.1; done; stty rows 33 cols 77 </dev/tty) & \
         exec {coracle} run -it --name size bb sh -c \"busybox stty size; {inside}\""
    );
    let output = Command::new("timeout")
        .args(["60", "script", "-qec", &script, "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = text(&output);
    assert!(said.contains("10 20"), "at first: {said}");
    assert!(said.contains("seen"), "when it changes: {said}");
}
