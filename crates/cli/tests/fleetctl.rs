//! fleet's command, by a link of its name, on a real daemon.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Daemon, errors, programs, text, until};
use std::process::{Command, Output, Stdio};

/// A daemon, and a directory of units in which a link `fleetctl` is called.
struct Fleet {
    d: Daemon,
}

impl Fleet {
    fn start() -> Self {
        let d = Daemon::bare();
        std::fs::create_dir(d.dir.path().join("units")).unwrap();
        std::os::unix::fs::symlink(programs(), d.dir.path().join("fleetctl")).unwrap();
        Self { d }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.d.dir.path().join("units").join(name)
    }

    fn unit(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.d.dir.path().join("fleetctl"));
        command
            .current_dir(self.d.dir.path().join("units"))
            .env("FLEETCTL_ENDPOINT", self.endpoint())
            .args(args)
            .stdin(Stdio::null());
        command
    }

    fn endpoint(&self) -> String {
        format!("unix://{}", self.d.run_dir().join("coracle.sock").display())
    }

    fn call(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What it says, the last newline included, if it succeeds.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.call(args);
        let (said, wrong) = (String::from_utf8_lossy(&output.stdout), errors(&output));
        assert!(
            output.status.success(),
            "{args:?}: {said}{wrong}\n{}",
            self.d.log()
        );
        said.into_owned()
    }

    /// It fails with 1 and these words on stderr; what it says on stdout.
    fn fails(&self, args: &[&str], words: &str) -> String {
        let output = self.call(args);
        let wrong = errors(&output);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{args:?}: {}{wrong}",
            text(&output)
        );
        assert!(wrong.contains(words), "{args:?}: {wrong}");
        text(&output)
    }

    fn machine(&self) -> String {
        let id = std::fs::read_to_string(self.d.state_dir().join("machine-id")).unwrap();
        id.trim().to_owned()
    }

    fn short(&self) -> String {
        format!("{}...", &self.machine()[..8])
    }

    /// ACTIVE and SUB of a unit.
    fn state(&self, unit: &str) -> String {
        let all = self.ok(&["list-units", "--no-legend", "--fields=unit,active,sub"]);
        let line = all.lines().find(|l| l.split('\t').next() == Some(unit));
        let words = line.map(|l| l.split('\t').filter(|w| !w.is_empty()).skip(1));
        words.map_or_else(String::new, |w| w.collect::<Vec<_>>().join(" "))
    }
}

const HELLO: &str = "# says so for ever\n[Unit]\nDescription=Greets the sea\n\n[Service]\n\
    ExecStart=/bin/bash -c \"while true; do echo Ahoy, sea!; sleep 1; done\"\n";

#[test]
fn a_unit_by_every_verb() {
    let f = Fleet::start();
    f.unit("hello.service", HELLO);
    assert_eq!(f.ok(&["list-units"]), "UNIT\tMACHINE\tACTIVE\tSUB\n");

    assert_eq!(
        f.ok(&["submit", "hello.service"]),
        "Unit hello.service inactive\n"
    );
    assert_eq!(f.ok(&["submit", "hello"]), "");
    let written = HELLO.split_once('\n').unwrap().1;
    let hash = sha1(&f.d, written);
    let short = &hash[..7];
    assert_eq!(
        f.ok(&["list-unit-files"]),
        format!(
            "UNIT\t\tHASH\tDSTATE\t\tSTATE\t\tTARGET\nhello.service\t{short}\tinactive\tinactive\t-\n"
        )
    );
    assert_eq!(f.ok(&["list-units", "--no-legend"]), "");
    assert_eq!(f.ok(&["cat", "hello.service"]), HELLO);
    f.fails(&["status", "hello"], "does not appear to be loaded");
    f.fails(&["stop", "hello"], "in state inactive");

    let on = f.short();
    assert_eq!(
        f.ok(&["load", "hello"]),
        format!("Unit hello.service loaded on {on}\n")
    );
    assert_eq!(f.state("hello.service"), "inactive dead");
    assert_eq!(
        f.ok(&["start", "hello"]),
        format!("Unit hello.service launched on {on}\n")
    );
    assert_eq!(
        f.ok(&["list-units"]),
        format!("UNIT\t\tMACHINE\t\tACTIVE\tSUB\nhello.service\t{on}\tactive\trunning\n")
    );
    // One that runs is left alone.
    assert_eq!(f.ok(&["start", "hello"]), "");
    let id = f.machine();
    assert_eq!(
        f.ok(&[
            "list-units",
            "-full",
            "-no-legend",
            "-fields=hash,machine,load"
        ]),
        format!("{hash}\t{id}\tloaded\n")
    );
    assert_eq!(
        f.ok(&[
            "list-unit-files",
            "--no-legend",
            "--fields",
            "unit,dstate,state,target,global,desc"
        ]),
        format!("hello.service\tlaunched\tlaunched\t{on}\tfalse\tGreets the sea\n")
    );
    until("it speaks", || {
        f.ok(&["journal", "hello"]).contains("Ahoy, sea!\n")
    });
    assert_eq!(f.ok(&["journal", "--lines=1", "hello"]), "Ahoy, sea!\n");
    let status = f.ok(&["status", "hello.service"]);
    assert!(
        status.starts_with("hello.service - Greets the sea\n   Loaded: loaded"),
        "{status}"
    );
    assert!(
        status.contains("\n   Active: active (running) since "),
        "{status}"
    );
    assert!(status.contains("\nAhoy, sea!\n"), "{status}");
    assert_eq!(
        f.ok(&["restart", "hello"]),
        format!("Unit hello.service loaded on {on}\nUnit hello.service launched on {on}\n")
    );

    let stop = f.call(&["stop", "hello"]);
    assert_eq!(text(&stop), format!("Unit hello.service loaded on {on}"));
    assert_eq!(
        errors(&stop),
        "Successfully stopped units [hello.service].\n"
    );
    assert_eq!(f.ok(&["stop", "hello"]), "");
    assert_eq!(f.ok(&["unload", "hello"]), "Unit hello.service inactive\n");
    assert_eq!(f.ok(&["list-units", "--no-legend"]), "");
    assert_eq!(f.ok(&["destroy", "hello"]), "Destroyed hello.service\n");
    let again = f.call(&["destroy", "hello"]);
    assert!(again.status.success() && text(&again).is_empty());
    assert_eq!(errors(&again), "Unit hello.service does not exist.\n");
    assert_eq!(f.ok(&["list-unit-files", "--no-legend"]), "");
    for verb in ["cat", "status", "journal"] {
        f.fails(&[verb, "hello"], "Unit hello.service does not exist.");
    }
    for verb in ["stop", "unload", "restart"] {
        f.fails(&[verb, "hello"], "Unit hello.service does not exist.");
    }
}

/// As `sha1sum` has it.
fn sha1(d: &Daemon, text: &str) -> String {
    let path = d.dir.path().join("to-hash");
    std::fs::write(&path, text).unwrap();
    let output = Command::new("sha1sum").arg(path).output().unwrap();
    common::text(&output)[..40].to_owned()
}

/// Units of files, templates, and what matches.
#[test]
fn files_templates_and_globs() {
    let f = Fleet::start();
    let on = f.short();
    f.unit(
        "wave@.service",
        "[Service]\nExecStart=/bin/sh -c \"echo wave %i; exec sleep 1000\"\n",
    );
    // Of a template's file beside, by a path.
    let path = f.path("wave@1.service");
    assert_eq!(
        f.ok(&["start", path.to_str().unwrap()]),
        format!("Unit wave@1.service inactive\nUnit wave@1.service launched on {on}\n")
    );
    // Of a template that is known.
    assert_eq!(f.ok(&["submit", "wave@"]), "Unit wave@.service inactive\n");
    std::fs::remove_file(f.path("wave@.service")).unwrap();
    let started = f.ok(&["start", "--no-block", "wave@2", "wave@3.service"]);
    assert_eq!(
        started,
        "Unit wave@2.service inactive\nUnit wave@3.service inactive\n\
         Triggered unit wave@2.service start\nTriggered unit wave@3.service start\n"
    );
    until("it speaks", || f.ok(&["journal", "wave@3"]) == "wave 3\n");
    until("both run", || {
        ["2", "3"]
            .iter()
            .all(|n| f.state(&format!("wave@{n}.service")) == "active running")
    });
    f.fails(&["start", "wave@"], "template");
    f.fails(
        &["start", "nothing"],
        "unable to find Unit(nothing.service) in Registry or on filesystem",
    );
    f.fails(&["start", "none@1"], "template Unit(none@.service)");
    f.fails(&["stop", "x*"], "no unit matches \"x*\"");
    let stopped = f.ok(&["stop", "wave@[12]*"]);
    assert_eq!(
        stopped,
        format!("Unit wave@1.service loaded on {on}\nUnit wave@2.service loaded on {on}\n")
    );
    assert_eq!(f.state("wave@3.service"), "active running");
    assert_eq!(f.ok(&["destroy", "wave@*"]).lines().count(), 4);
}

/// A text that differs is said, and taken when that is asked.
#[test]
fn texts_that_differ() {
    let f = Fleet::start();
    let text =
        |word: &str| format!("[Service]\nExecStart=/bin/sh -c \"echo {word}; exec sleep 1000\"\n");
    f.unit("a.service", &text("one"));
    f.ok(&["start", "a"]);
    until("it speaks", || f.ok(&["journal", "a"]) == "one\n");
    // Comments make no difference.
    f.unit("a.service", &format!("# new\n{}", text("one")));
    assert_eq!(errors(&f.call(&["start", "a"])), "");
    f.unit("a.service", &text("two"));
    let warned = f.call(&["start", "a"]);
    assert!(warned.status.success());
    assert_eq!(
        errors(&warned),
        "WARNING: Unit a.service in registry differs from local unit file a.service. Add --replace to override.\n"
    );
    assert_eq!(f.ok(&["journal", "a"]), "one\n");
    for verb in ["submit", "load"] {
        let refused = f.call(&[verb, "--replace", "a"]);
        assert!(errors(&refused).contains("can not replace Unit(a.service) in state 'launched'"));
        f.ok(&["start", "a"]);
    }
    f.ok(&["start", "--replace", "a"]);
    until("it runs the new text", || {
        f.ok(&["journal", "a"]).ends_with("two\n")
    });
    until("it is up", || f.state("a.service") == "active running");
    assert_eq!(
        f.ok(&["submit", "--replace", "a"]),
        "Found same Unit(a.service) in Registry, nothing to do\n"
    );
}

/// Waits end where they are told to, and tell of failures.
#[test]
fn waits_and_failures() {
    let f = Fleet::start();
    let gate = f.path("gate");
    let wait = format!(
        "/bin/sh -c \"while ! test -e {}; do sleep 0.1; done\"",
        gate.display()
    );
    f.unit(
        "slow.service",
        &format!(
            "[Service]\nExecStart=/bin/sleep 1000\nExecStop={wait}\nTimeoutStopSec=infinity\n"
        ),
    );
    f.ok(&["start", "slow"]);
    f.fails(
        &["stop", "--block-attempts", "1", "slow"],
        "timed out waiting for unit slow.service to report state loaded",
    );
    std::fs::write(&gate, "").unwrap();
    f.ok(&["stop", "slow"]);
    f.unit(
        "bad.service",
        "[Service]\nType=oneshot\nExecStart=/bin/sh -c \"echo no luck; exit 3\"\n",
    );
    let said = f.fails(&["start", "bad"], "Unit bad.service is not up: ");
    assert!(
        said.ends_with(&format!("Unit bad.service launched on {}", f.short())),
        "{said}"
    );
    assert_eq!(f.state("bad.service"), "failed failed");
    assert!(f.ok(&["status", "bad"]).contains("no luck"));
    // It is tried anew.
    f.fails(&["start", "bad"], "Unit bad.service is not up: ");
    f.ok(&["stop", "bad"]);
    assert_eq!(f.state("bad.service"), "inactive dead");
    // A problem of a file is told with its line.
    f.unit(
        "wrong.service",
        "# one\n# two\n[Service]\nExecStrat=/bin/true\n",
    );
    f.fails(&["start", "wrong"], "wrong.service:4");
    f.fails(&["verify", "wrong.service"], "wrong.service:4");
    f.ok(&["verify", "bad.service"]);
    // One that leaves its machine by itself is destroyed, whoever waits.
    f.ok(&["start", "slow"]);
    assert_eq!(
        f.ok(&["destroy", "--no-block", "slow"]),
        "Destroyed slow.service\n"
    );
    until("it is gone", || {
        f.ok(&["list-unit-files", "--no-legend"]).lines().count() == 1
    });
}

#[test]
fn machines_and_what_is_refused() {
    let f = Fleet::start();
    let (id, on) = (f.machine(), f.short());
    assert_eq!(
        f.ok(&["list-machines"]),
        format!("MACHINE\t\tIP\tMETADATA\n{on}\t-\t-\n")
    );
    assert_eq!(
        f.ok(&["list-machines", "-l", "--no-legend", "--fields=machine"]),
        format!("{id}\n")
    );
    f.fails(
        &["list-machines", "--fields=machine,color"],
        "Invalid key in output format: \"color\"",
    );
    f.fails(
        &["ssh", "nobody"],
        "could not find matching unit or machine",
    );
    f.fails(&["ssh", &id[..8]], "coracle exec");
    f.fails(
        &["--tunnel", "10.0.0.9", "list-units"],
        "ssh 10.0.0.9 fleetctl",
    );
    f.fails(
        &["--endpoint", "http://127.0.0.1:4001", "list-units"],
        "unix:///path",
    );
    for wrong in [&["fly"][..], &["start"], &["list-units", "--colour"]] {
        assert_eq!(f.call(wrong).status.code(), Some(2), "{wrong:?}");
    }
    assert!(f.ok(&["version"]).starts_with("fleetctl version "));
    assert!(f.ok(&["--help"]).contains("list-unit-files"));
    assert!(f.ok(&["help", "start"]).contains("--block-attempts"));
    // The same verbs without the link.
    assert_eq!(
        f.d.ok(["fleetctl", "list-machines", "--no-legend", "--full"]),
        format!("{id}\t-\t-")
    );
}

/// Units as fleet's own examples are: chains of shell, follow-up units, commands at the end, placement in both spellings.
#[test]
fn units_as_people_wrote_them_for_fleet() {
    let f = Fleet::start();
    let run = |text: &str| format!("/bin/bash -c \"while true; do echo {text}; sleep 1; done\"");
    let mark = f.path("mark");
    f.unit(
        "ebb.0.service",
        &format!(
            "[Unit]\nDescription=EBB\n\n[Service]\nExecStart={}\n",
            run("ebb")
        ),
    );
    f.unit(
        "gauge.service",
        &format!(
            "[Unit]\nBindsTo=ebb.0.service\n\n[Service]\nExecStart={}\n\n[Install]\nWantedBy=ebb.0.service\n",
            run("'the gauge, (@%p)!'")
        ),
    );
    f.unit(
        "sync.service",
        &format!(
            "[Service]\nExecStartPre=/bin/bash -c \"echo 'before'\"\nExecStartPre=-/bin/false\nExecStart={}\n\
             ExecStop=/bin/bash -c \"echo 'at the stop'\"\nExecStopPost=/bin/bash -c \"touch {}\"\n",
            run("sync"),
            mark.display()
        ),
    );
    f.ok(&["start", "ebb.0.service", "gauge", "sync"]);
    for (unit, word) in [
        ("ebb.0", "ebb"),
        ("gauge", "the gauge, (@gauge)!"),
        ("sync", "before\nsync"),
    ] {
        until(unit, || {
            f.ok(&["journal", "-n", "99", unit])
                .contains(&format!("{word}\n"))
        });
        assert_eq!(f.state(&format!("{unit}.service")), "active running");
    }
    assert!(!mark.exists());
    f.ok(&["stop", "sync"]);
    assert!(mark.exists());
    // What follows a unit goes with it.
    f.ok(&["stop", "ebb.0"]);
    until("what is bound goes, too", || {
        f.state("gauge.service") != "active running"
    });
    f.ok(&["destroy", "ebb.0", "gauge", "sync"]);

    for (unit, placement) in [
        ("all.service", "Global=true"),
        ("follow.service", "MachineOf=ebb.0.service"),
        ("apart.0.service", "Conflicts=apart.*.service"),
        (
            "apart.1.service",
            "Conflicts=a.service b.service\nConflicts=c.service",
        ),
        ("pin@.service", "MachineID=%i"),
        ("where@.service", "MachineMetadata=hostname=%i \"disk=ssd\""),
        ("first.service", "Replaces=second.service"),
        (
            "old.service",
            "X-ConditionMachineMetadata=region=north\nX-Conflicts=new.*",
        ),
        ("older.service", "X-ConditionMachineOf=ebb.0.service"),
    ] {
        f.unit(
            unit,
            &format!(
                "[Service]\nExecStart={}\n\n[X-Fleet]\n{placement}\n",
                run("x")
            ),
        );
        f.ok(&["verify", unit]);
    }
}
