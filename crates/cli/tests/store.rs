//! `coracle store` beside Debian's etcdctl, on the same daemon: the same words, the same output.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Daemon, errors, signal, text, until};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

fn ours(d: &Daemon) -> Command {
    let mut command = d.command();
    command.arg("store");
    command
}

fn etcdctl(d: &Daemon) -> Command {
    let mut command = d.inside("etcdctl");
    command.env("ETCDCTL_API", "3");
    command
}

fn run(mut command: Command, words: &[&str], stdin: &str) -> Output {
    let mut child = command
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that reads nothing has closed it.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn ok(d: &Daemon, words: &[&str]) -> String {
    let output = run(ours(d), words, "");
    assert!(output.status.success(), "{words:?}: {}", errors(&output));
    text(&output)
}

fn refused(d: &Daemon, words: &[&str], stdin: &str, said: &str) {
    let output = run(ours(d), words, stdin);
    let error = errors(&output);
    assert!(
        !output.status.success() && error.contains(said),
        "{words:?}: {error}"
    );
}

/// Both say the same of what changes nothing.
fn same(d: &Daemon, words: &[&str], stdin: &str) {
    let (mine, other) = (run(ours(d), words, stdin), run(etcdctl(d), words, stdin));
    assert!(mine.status.success(), "{words:?}: {}", errors(&mine));
    assert!(other.status.success(), "{words:?}: {}", errors(&other));
    let shown = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(shown(&mine), shown(&other), "{words:?}");
}

/// A command that runs on, its output in a file; gone when dropped.
struct Running {
    child: Child,
    file: PathBuf,
}

impl Running {
    fn start(mut command: Command, words: &[&str], file: PathBuf) -> Self {
        let out = fs::File::create(&file).unwrap();
        let child = command.args(words).stdin(Stdio::null()).stdout(out).spawn();
        let child = child.unwrap();
        Self { child, file }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_is_read_is_shown_as_etcdctl_shows_it() {
    let d = Daemon::bare();
    for (key, value) in [
        ("b", "1"),
        ("a", "22"),
        ("aa", "x \"y\"\t\u{e9}"),
        ("c", "0"),
    ] {
        assert_eq!(ok(&d, &["put", key, value]), "OK");
    }
    assert_eq!(ok(&d, &["put", "a", "3", "--prev-kv"]), "OK\na\n22");
    assert_eq!(text(&run(ours(&d), &["put", "stdin"], "in\n")), "OK");
    let lease = ok(&d, &["lease", "grant", "1000"]);
    let lease = lease.split(' ').nth(1).unwrap();
    ok(&d, &["put", "leased", "v", "--lease", lease]);
    ok(&d, &["put", "leased", "w", "--ignore-lease"]);
    ok(&d, &["put", "leased", "--ignore-value", "--lease", lease]);
    for words in [
        "get a",
        "get nothing",
        "get a c",
        "get --prefix a",
        "get --prefix a --keys-only",
        "get aa --hex",
        "get --from-key b",
        "get --from-key b --limit 2",
        "get a z --order DESCEND",
        "get a z --sort-by MODIFY",
        "get a z --sort-by VALUE --order descend",
        "get a z --sort-by CREATE --order ASCEND",
        "get a z --sort-by VERSION",
        "get leased",
        "lease list",
    ] {
        for form in ["simple", "json", "fields"] {
            let mut words: Vec<&str> = words.split(' ').collect();
            words.extend(["-w", form]);
            same(&d, &words, "");
        }
    }
    same(&d, &["get", "a", "aa", "--print-value-only"], "");
    for form in ["simple", "json", "fields"] {
        same(&d, &["get", "", "--prefix", "-w", form], "");
        same(&d, &["get", "", "--from-key", "-w", form], "");
        same(&d, &["lease", "timetolive", "1234", "-w", form], "");
        same(
            &d,
            &["lease", "keep-alive", "--once", lease, "-w", form],
            "",
        );
        for txn in [
            "value(\"a\") = \"3\"\nmod(\"b\") > \"0\"\n\nget a\nget --prefix a\n\nget b\n\n",
            "ver(\"a\") != \"2\"\n\nget a\n\nget b --keys-only\nget nothing\n\n",
            "\n\n\n",
        ] {
            same(&d, &["txn", "-w", form], txn);
        }
        // Each does what leaves the same behind; only the revision moves.
        let numbers = |text: String| {
            text.chars()
                .filter(|c| !c.is_ascii_digit())
                .collect::<String>()
        };
        for (words, stdin) in [
            (&["put", "a", "3", "--prev-kv"][..], ""),
            (&["del", "nothing"][..], ""),
            (&["txn"][..], "\nput a 3 --prev-kv\ndel x\n\n\n"),
        ] {
            let words = [words, &["-w", form]].concat();
            let (mine, other) = (
                run(ours(&d), &words, stdin),
                run(etcdctl(&d), &words, stdin),
            );
            assert!(mine.status.success() && other.status.success(), "{words:?}");
            assert_eq!(numbers(text(&mine)), numbers(text(&other)), "{words:?}");
        }
        ok(&d, &["put", "gone", "1"]);
        let mine = ok(&d, &["del", "gone", "--prev-kv", "-w", form]);
        ok(&d, &["put", "gone", "1"]);
        let other = run(etcdctl(&d), &["del", "gone", "--prev-kv", "-w", form], "");
        assert_eq!(numbers(mine), numbers(text(&other)));
    }
    let ttl = ok(&d, &["lease", "timetolive", lease, "--keys"]);
    assert!(
        ttl.contains("granted with TTL(1000s)") && ttl.ends_with("attached keys([leased])"),
        "{ttl}"
    );
    assert_eq!(ok(&d, &["get", "--prefix", "a", "--count-only"]), "2");
    assert_eq!(ok(&d, &["get", "b", "-w", "hex"]), "\\x62\n\\x31");
    assert_eq!(
        ok(&d, &["lease", "revoke", lease]),
        format!("lease {lease} revoked")
    );
    assert_eq!(ok(&d, &["get", "leased"]), "");
    let status = ok(&d, &["status"]);
    let lines = status.lines().map(|l| l.split(':').next().unwrap());
    let names = [
        "Revision",
        "Compacted",
        "In use",
        "On disk",
        "Quota",
        "Leases",
        "Alarm",
    ];
    assert_eq!(lines.collect::<Vec<_>>(), names, "{status}");
}

#[test]
fn errors_have_the_servers_words() {
    let d = Daemon::bare();
    ok(&d, &["put", "a", "1"]);
    refused(
        &d,
        &["get", "a", "--rev", "1000"],
        "",
        "required revision is a future revision",
    );
    refused(&d, &["get", ""], "", "etcdserver: key is not provided");
    refused(
        &d,
        &["put", "b", "--ignore-value"],
        "",
        "etcdserver: key not found",
    );
    refused(
        &d,
        &["put", "b", "1", "--lease", "12"],
        "",
        "requested lease not found",
    );
    refused(
        &d,
        &["put", "b", "1", "--lease", "zz"],
        "",
        "write its id in hexadecimal",
    );
    refused(&d, &["put", "b"], "", "put needs a value");
    refused(
        &d,
        &["lease", "revoke", "12"],
        "",
        "requested lease not found",
    );
    refused(
        &d,
        &["lease", "keep-alive", "--once", "12"],
        "",
        "requested lease not found",
    );
    let expired = "lease 0000000000000012 expired or revoked.";
    assert_eq!(ok(&d, &["lease", "keep-alive", "12"]), expired);
    refused(
        &d,
        &["txn"],
        "\nput a 1\nput a 2\n\n\n",
        "duplicate key given in txn request",
    );
    refused(
        &d,
        &["txn"],
        "\nput a 2\n",
        "ends within its requests for success",
    );
    assert_eq!(ok(&d, &["get", "a", "--print-value-only"]), "1");
    let revision = ok(&d, &["put", "a", "2", "-w", "fields"]);
    let revision = revision
        .lines()
        .nth(2)
        .unwrap()
        .split(" : ")
        .nth(1)
        .unwrap();
    assert_eq!(
        ok(&d, &["compact", revision]),
        format!("compacted revision {revision}")
    );
    let newer = revision.parse::<i64>().unwrap() + 1;
    ok(&d, &["put", "b", "3"]);
    let upto_now = ok(&d, &["compact"]);
    assert_eq!(upto_now, format!("compacted revision {newer}"));
    refused(
        &d,
        &["compact", revision],
        "",
        "required revision has been compacted",
    );
    refused(
        &d,
        &["get", "a", "--rev", "2"],
        "",
        "required revision has been compacted",
    );
    refused(
        &d,
        &["watch", "a", "--rev", "1"],
        "",
        "watch was canceled (etcdserver: mvcc: required revision has been compacted",
    );
    assert!(ok(&d, &["status"]).contains(&format!("Compacted: {newer}\n")));
}

#[test]
fn a_watch_goes_on_with_the_next_daemon() {
    let mut d = Daemon::bare();
    let forms = ["simple", "json", "fields"];
    let at = |name: &str| d.dir.path().join(name);
    let start = |command: fn(&Daemon) -> Command, name: &str, rev: &str| {
        forms.map(|form| {
            let words = [
                "watch",
                "--prefix",
                "k",
                "--prev-kv",
                "--rev",
                rev,
                "-w",
                form,
            ];
            Running::start(command(&d), &words, at(&format!("{name}-{form}")))
        })
    };
    // One that begins now, before anything else happens.
    let late = Running::start(ours(&d), &["watch", "k2"], at("late"));
    let mut n = 0;
    until("the late watch has begun", || {
        n += 1;
        ok(&d, &["put", "k2", &n.to_string()]);
        !late.said().is_empty()
    });
    let put = ok(&d, &["put", "k0", "0", "-w", "fields"]);
    let first = put.lines().nth(2).unwrap().split(" : ").nth(1).unwrap();
    let mine = start(ours, "ours", first);
    let other = start(etcdctl, "etcdctl", first);
    let mut lengths = vec![0; 6];
    // What comes while another change is on its way may be told with it, so one after the other.
    let mut all_told = || {
        let all: Vec<&Running> = mine.iter().chain(&other).collect();
        // etcdctl writes line by line.
        until("all are told the same", || {
            let mut grown = all.iter().zip(&lengths);
            grown.all(|(running, before)| running.said().len() > *before)
                && mine.iter().zip(&other).all(|(a, b)| a.said() == b.said())
        });
        lengths = all.iter().map(|running| running.said().len()).collect();
    };
    all_told();
    ok(&d, &["del", "k0"]);
    all_told();
    // Several changes at one revision are one answer.
    run(ours(&d), &["txn"], "\nput k1 a\nput kk b\n\n\n");
    all_told();
    drop(other);
    let before: Vec<String> = mine.iter().map(Running::said).collect();
    d.kill();
    d.up();
    ok(&d, &["put", "k1", "after"]);
    ok(&d, &["put", "k2", "after"]);
    until("the watches go on", || {
        mine[0].said().ends_with("k2\nafter\n")
    });
    let said = mine[0].said();
    let news = said.strip_prefix(&*before[0]).unwrap();
    assert_eq!(
        news,
        format!("PUT\nk1\na\nk1\nafter\nPUT\nk2\n{n}\nk2\nafter\n")
    );
    until("the late one too", || {
        late.said().ends_with("PUT\nk2\nafter\n")
    });
    for mut running in mine {
        signal(running.child.id(), "INT");
        assert_eq!(running.child.wait().unwrap().code(), Some(130));
    }
}

#[test]
fn a_lease_is_kept() {
    let mut d = Daemon::bare();
    let granted = ok(&d, &["lease", "grant", "3"]);
    let lease = granted.split(' ').nth(1).unwrap().to_owned();
    let file = d.dir.path().join("kept");
    let mut kept = Running::start(ours(&d), &["lease", "keep-alive", &lease], file);
    let line = format!("lease {lease} keepalived with TTL(3)\n");
    until("it is renewed", || kept.said() == line.repeat(2));
    d.kill();
    d.up();
    let before = kept.said().len();
    until("the next daemon renews it", || kept.said().len() > before);
    ok(&d, &["lease", "revoke", &lease]);
    assert!(kept.child.wait().unwrap().success());
    assert!(
        kept.said()
            .ends_with(&format!("{line}lease {lease} expired or revoked.\n"))
    );
}

#[test]
fn a_snapshot_comes_back() {
    let mut d = Daemon::bare();
    let file = d.dir.path().join("snapshot");
    let path = file.to_str().unwrap().to_owned();
    let state = d.state_dir().to_str().unwrap().to_owned();
    ok(&d, &["put", "a", "old"]);
    assert_eq!(
        ok(&d, &["snapshot", "save", &path]),
        format!("Snapshot saved at {path}")
    );
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(metadata.len() % 512, 32);
    refused(
        &d,
        &["snapshot", "save", "/nonexistent/x"],
        "",
        "/nonexistent/x",
    );
    let put = ok(&d, &["put", "a", "new", "-w", "fields"]);
    let last = put
        .lines()
        .nth(2)
        .unwrap()
        .split(" : ")
        .nth(1)
        .unwrap()
        .to_owned();
    let restore = ["snapshot", "restore", &path, "--state-dir", &state];
    refused(&d, &restore, "", "in use by another daemon");
    // etcdctl's is as good.
    let theirs = d.dir.path().join("theirs");
    let saved = run(
        etcdctl(&d),
        &["snapshot", "save", theirs.to_str().unwrap()],
        "",
    );
    assert!(saved.status.success(), "{}", errors(&saved));
    let resumed = Running::start(
        ours(&d),
        &["watch", "a", "--rev", &last],
        d.dir.path().join("w"),
    );
    until("the watch has begun", || resumed.said() == "PUT\na\nnew\n");
    d.terminate();
    // What is damaged is not restored.
    let whole = fs::read(&file).unwrap();
    let damaged = d.dir.path().join("damaged");
    let mut flipped = whole.clone();
    flipped[5000] ^= 1;
    for (bytes, words) in [
        (&flipped[..], "checksum does not fit"),
        (&whole[..whole.len() - 32], "has no checksum"),
        (&whole[..whole.len() - 512], "checksum does not fit"),
        (b"", "has no checksum"),
    ] {
        fs::write(&damaged, bytes).unwrap();
        let words_of = [
            "snapshot",
            "restore",
            damaged.to_str().unwrap(),
            "--state-dir",
            &state,
        ];
        refused(&d, &words_of, "", words);
        refused(&d, &words_of, "", damaged.to_str().unwrap());
    }
    let said = ok(&d, &restore);
    let aside = d.state_dir().join("store/replaced-1.redb");
    assert!(
        said.contains(&format!("is at {}", aside.display())),
        "{said}"
    );
    assert!(aside.exists());
    d.up();
    assert_eq!(ok(&d, &["get", "a", "--print-value-only"]), "old");
    let status = ok(&d, &["status", "-w", "fields"]);
    let revision: i64 = status
        .lines()
        .nth(2)
        .unwrap()
        .split(" : ")
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let last: i64 = last.parse().unwrap();
    assert!(revision >= last + 1_000_000_000, "{status}");
    // Who watched is told that its place is gone.
    let mut resumed = resumed;
    assert_eq!(resumed.child.wait().unwrap().code(), Some(1));
    d.terminate();
    let restore = [
        "snapshot",
        "restore",
        theirs.to_str().unwrap(),
        "--state-dir",
        &state,
    ];
    assert!(ok(&d, &restore).contains("replaced-2.redb"));
    d.up();
    assert_eq!(ok(&d, &["get", "a", "--print-value-only"]), "new");
}
