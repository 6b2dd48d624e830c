//! What a machine of the cluster that somebody has taken over may not do, and how it is got rid of.
#![allow(clippy::unwrap_used)]

mod cluster;
mod common;

use cluster::{Cluster, Machine, Setup, wait_for};
use common::text;
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(90);

fn joins(first: &Machine, machine: &Machine) {
    let token = first.ok(&["cluster", "token", "-q"]);
    machine.ok(&["join", &first.address(), "--token", token.trim()]);
}

/// Somebody with a machine's key and certificate, who asks other machines' doors.
struct Thief<'a> {
    machine: &'a Machine,
    /// Where they were copied to.
    keys: String,
}

impl<'a> Thief<'a> {
    fn of(machine: &'a Machine, copy: &str) -> Self {
        let keys = machine.run_dir().join(copy);
        let keys = keys.to_str().unwrap().to_owned();
        let mut cp = machine.inside("cp");
        let from = machine.state_dir().join("cluster");
        assert!(
            cp.arg("-r")
                .arg(from)
                .arg(&keys)
                .status()
                .unwrap()
                .success()
        );
        Self { machine, keys }
    }

    /// Status and body of the answer, with gRPC's status first if it has one.
    fn asks(&self, of: &Machine, path: &str, more: &[&str], body: &[u8]) -> String {
        let name = format!("{}.machine.coracle.internal", of.id());
        let file = |name: &str| format!("{}/{name}", self.keys);
        let mut curl = self.machine.inside("curl");
        curl.args(["-s", "-m", "20", "-D", "-", "-o", "-", "--http2"]);
        curl.args([
            "--cert",
            &file("machine.pem"),
            "--key",
            &file("machine.key"),
        ]);
        curl.args(["--cacert", &file("ca.pem"), "--resolve"]);
        curl.arg(format!("{name}:7373:{}", of.address())).args(more);
        if !body.is_empty() {
            curl.args(["--data-binary", "@-"]);
        }
        curl.arg(format!("https://{name}:7373{path}"));
        curl.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut curl = curl.spawn().unwrap();
        curl.stdin.take().unwrap().write_all(body).unwrap();
        text(&curl.wait_with_output().unwrap())
    }

    fn posts(&self, of: &Machine, path: &str, body: &str) -> String {
        let json = ["-X", "POST", "-H", "content-type: application/json"];
        self.asks(of, path, &json, body.as_bytes())
    }

    /// Deletes one key of the cluster's store, over gRPC.
    fn deletes(&self, of: &Machine, key: &str) -> String {
        let length = u8::try_from(key.len()).unwrap();
        let message = [&[0x0a, length], key.as_bytes()].concat();
        let body = [&[0, 0, 0, 0, length + 2][..], &message].concat();
        let grpc = ["-H", "content-type: application/grpc", "-H", "te: trailers"];
        self.asks(of, "/etcdserverpb.KV/DeleteRange", &grpc, &body)
    }
}

fn status(answer: &str) -> &str {
    let first = answer.lines().next().unwrap_or_default();
    first.split(' ').nth(1).unwrap_or_default()
}

#[test]
fn a_machine_that_was_taken_over() {
    let cluster: Cluster = Setup::new(4).build();
    cluster.form();
    // Voters may write everything, and have the CA's key: the thief has the machine that is none.
    wait_for("three voters", LONG, || cluster.voters(1).len() == 3);
    let voters = cluster.voters(1);
    let (a, c) = (cluster.machine(1), *voters.last().unwrap());
    let (b, c) = ((2..=4).find(|n| !voters.contains(n)), cluster.machine(c));
    let b = cluster.machine(b.unwrap());
    let thief = Thief::of(b, "first");
    let seen = thief.asks(a, "/v1/machines", &[], b"");
    assert_eq!(status(&seen), "200", "{seen}");
    // What the cluster is, is said on its machines themselves.
    for (path, body) in [
        ("/v1/cluster/token", "{}"),
        ("/v1/cluster/leave", "{\"force\":true}"),
        (
            "/v1/cluster/enter",
            "{\"address\":\"192.0.2.2\",\"token\":\"x\"}",
        ),
    ] {
        let answer = thief.posts(a, path, body);
        assert_eq!(status(&answer), "404", "{path}: {answer}");
    }
    // Nor does it see or revoke what others have made, whatever it says of itself.
    a.ok(&["cluster", "token", "-q"]);
    let made = a.ok(&["cluster", "token", "list", "-q"]);
    let made = format!("/v1/cluster/tokens/{}", made.trim());
    let led = format!("coracle-led: {}", b.id());
    for more in [&[][..], &["-H", &led], &["-H", "coracle-machine: m1"]] {
        let answer = thief.asks(a, "/v1/cluster/tokens", more, b"");
        assert_ne!(status(&answer), "200", "{answer}");
        let answer = thief.asks(a, &made, &[more, &["-X", "DELETE"]].concat(), b"");
        assert_ne!(status(&answer), "200", "{answer}");
    }
    b.refused(&["cluster", "token", "list"], "only voters");
    assert!(!a.ok(&["cluster", "token", "list", "-q"]).is_empty());
    let alone = format!("/v1/machines/{}", c.id());
    let answer = thief.asks(a, &alone, &["-X", "DELETE"], b"");
    assert_eq!(status(&answer), "409", "{answer}");
    // What is another's it does not delete. Its own it does, and is not seen any more by what it says of itself.
    let answer = thief.deletes(a, &format!("/coracle/v1/machines/{}", c.id()));
    assert!(answer.contains("grpc-status: 7"), "{answer}");
    b.kill();
    let answer = thief.deletes(a, &format!("/coracle/v1/machines/{}", b.id()));
    assert!(answer.contains("grpc-status: 0"), "{answer}");
    wait_for("it hides", SOON, || {
        !a.ok(&["machine", "list"]).contains(&b.name())
    });
    // It is got rid of all the same, from any machine.
    let on_list = || cluster.status(1).to_string().contains(b.id());
    assert!(on_list());
    c.refused(&["machine", "remove", c.id()], "coracle leave");
    c.refused(
        &["machine", "remove", "nobody"],
        "no machine \"nobody\" is known",
    );
    c.ok(&["machine", "remove", b.id()]);
    wait_for("it is off the list", SOON, || !on_list());
    let refused =
        |thief: &Thief, of: &Machine| status(&thief.asks(of, "/v1/machines", &[], b"")) == "401";
    wait_for("its key opens no door", SOON, || {
        [a, c].into_iter().all(|of| refused(&thief, of))
    });
    // Nor does it where a daemon begins anew, which goes by what it has written down.
    let home = c.path(&c.state_dir().join("cluster/home.json"));
    wait_for("it is written down", SOON, || {
        !std::fs::read_to_string(&home).unwrap().contains(b.id())
    });
    // It comes again as a new one, with a new key; who has the former one is shut out still.
    b.start();
    b.ok(&["leave"]);
    joins(a, b);
    let own = Thief::of(b, "second");
    wait_for("it is let in", SOON, || {
        [a, c].into_iter().all(|of| !refused(&own, of))
    });
    assert!([a, c].into_iter().all(|of| refused(&thief, of)));
    // By its name, as elsewhere.
    c.ok(&["machine", "remove", &b.name()]);
    wait_for("it is off the list", SOON, || !on_list());
}

#[test]
fn a_machine_whose_address_is_late_has_its_door_later() {
    let cluster = Setup::new(2).build();
    let (a, b) = (cluster.machine(1), cluster.machine(2));
    joins(a, b);
    b.kill_all();
    b.boot();
    let ip = |what: &str| {
        let address = format!("{}/24", b.address());
        let mut ip = b.inside("ip");
        ip.args(["address", what, &address, "dev", "eth0"]);
        assert!(ip.status().unwrap().success(), "{what}");
    };
    ip("del");
    b.launch();
    b.ready();
    // It looks after what is there, and says what is wrong.
    b.ok(&["run", "--rm", "bb", "true"]);
    wait_for("it says why", SOON, || {
        b.log().contains("cannot be opened yet")
    });
    ip("add");
    wait_for("its door is open", SOON, || {
        let there = a.coracle(&["ps", "--machine", b.id()]);
        there.status.success()
    });
}
