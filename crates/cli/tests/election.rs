//! The election example (`examples/election`), as `make election` starts it: its own image, its own unit file.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Daemon, errors, text, until};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/election")
}

/// The example's program, which `cargo test` builds with all others.
fn program() -> PathBuf {
    let program = common::programs().with_file_name("examples/election");
    if !program.exists() {
        let build = ["build", "--locked", "--workspace", "--example", "election"];
        assert!(
            Command::new(env!("CARGO"))
                .args(build)
                .status()
                .unwrap()
                .success()
        );
    }
    program
}

/// What an instance shows of itself: `leader`, `greeting` and `counter`, `-` for none; nothing while it does not answer.
fn page(d: &Daemon, instance: usize) -> BTreeMap<String, String> {
    let url = format!("http://127.0.0.1:809{instance}/");
    let mut curl = d.inside("curl");
    let output = curl.args(["-fsS", "--max-time", "5", &url]).output();
    let line = |line: &str| {
        let (name, value) = line.split_once(' ').unwrap();
        (name.to_owned(), value.to_owned())
    };
    text(&output.unwrap()).lines().map(line).collect()
}

/// Whom these instances hold for the leader, if they all say the same.
fn leader(d: &Daemon, instances: &[usize]) -> Option<usize> {
    let mut all = instances.iter().map(|i| page(d, *i).get("leader").cloned());
    let first = all.next()??;
    let agreed = all.all(|other| other.as_ref() == Some(&first));
    let number = first.strip_prefix("election-")?.parse().ok()?;
    agreed.then_some(number)
}

/// Waits until these instances say that another than `former` leads, and that it counts; says who.
fn successor(d: &Daemon, instances: &[usize], former: usize) -> usize {
    let mut found = former;
    until("another leads", || {
        found = leader(d, instances).unwrap_or(former);
        found != former
    });
    counts(d, instances[0]);
    found
}

/// Waits until an instance has seen the counter go on by one, or as often as said.
fn counts(d: &Daemon, instance: usize) {
    counts_often(d, instance, 1);
}

fn counts_often(d: &Daemon, instance: usize, often: u64) {
    let counter = || page(d, instance).get("counter")?.parse::<u64>().ok();
    let before = counter().unwrap_or(0);
    let counted = || counter().is_some_and(|n| n >= before + often);
    until("it is counted", counted);
}

fn greeted(d: &Daemon, instances: &[usize], greeting: &str) {
    d.ok(["store", "put", "/config/greeting", greeting]);
    until("all show the greeting", || {
        let shows = |i: &usize| page(d, *i).get("greeting").is_some_and(|g| g == greeting);
        instances.iter().all(shows)
    });
}

fn etcdctl(d: &Daemon, words: &[&str]) -> String {
    let mut command = d.inside("etcdctl");
    let command = command.env("ETCDCTL_API", "3").args(words);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", errors(&output));
    text(&output)
}

/// The candidates' keys: one that campaigned anew has another.
fn keys(d: &Daemon) -> String {
    etcdctl(d, &["get", "/election/leader/", "--prefix", "--keys-only"])
}

#[test]
fn instances_choose_a_leader_and_follow_their_configuration() {
    let mut d = Daemon::bare();
    let context = d.dir.path().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::copy(program(), context.join("election")).unwrap();
    let dockerfile = example().join("Dockerfile");
    let build = ["build", "-q", "-t", "localhost/election", "-f"];
    let mut build_it = d.command();
    let built = build_it.args(build).arg(dockerfile).arg(&context).output();
    let built = built.unwrap();
    assert!(built.status.success(), "{}", errors(&built));
    let unit = example().join("units/election@.container");
    d.ok(["unit", "start", unit.to_str().unwrap(), "election@{1..3}"]);
    let all = [1, 2, 3];
    let first = successor(&d, &all, 0);
    assert_eq!(page(&d, first)["instance"], format!("election-{first}"));
    assert_eq!(page(&d, first)["greeting"], "-");
    greeted(&d, &all, "hello");
    // Its lease of five seconds is kept.
    let term = keys(&d);
    counts_often(&d, first, 8);
    assert_eq!((leader(&d, &all), keys(&d)), (Some(first), term));
    let name = |instance: usize| format!("election-{instance}");
    // One that is killed comes back, but as the last of the candidates.
    d.ok(["kill", &name(first)]);
    let second = successor(&d, &all, first);
    // One that is frozen for longer than its lease learns who leads when it goes on.
    d.ok(["pause", &name(second)]);
    let others: Vec<_> = all.into_iter().filter(|i| *i != second).collect();
    let third = successor(&d, &others, second);
    d.ok(["unpause", &name(second)]);
    until("it knows who leads", || leader(&d, &all) == Some(third));
    counts(&d, second);
    // One that is stopped gives its place up.
    d.ok(["unit", "stop", &format!("election@{third}")]);
    let others: Vec<_> = all.into_iter().filter(|i| *i != third).collect();
    successor(&d, &others, third);
    // Nobody is left without a leader or without news by the daemon's death.
    d.kill();
    d.up();
    greeted(&d, &others, "good evening");
    counts(&d, others[0]);
    assert!(leader(&d, &others).is_some());
    // Each writing has counted by one: nobody else's was overwritten, nor one made twice.
    let answer = etcdctl(&d, &["get", "/election/counter", "-w", "json"]);
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let kv = &answer["kvs"][0];
    let counter = {
        use base64::Engine as _;
        let value = kv["value"].as_str().unwrap();
        let bytes = base64::engine::general_purpose::STANDARD.decode(value);
        String::from_utf8(bytes.unwrap()).unwrap()
    };
    assert_eq!(counter, kv["version"].to_string());
}
