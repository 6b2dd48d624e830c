//! Services: what `/discovery/` says of instances and what names answer are the same, at every moment but a short one.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Daemon, errors, signal, text, until};
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// An instance that is well while `/ok` is there, and that ends only once `/go` is.
const UNIT: &str = "[Container]\nImage=bb\nExposeHostPort=80 9090\nHealthCmd=test -e /ok\nHealthInterval=1s\n\
    HealthRetries=1\nStopTimeout=60\nExec=sh -c \"trap 'while ! test -e /go; do sleep 0.1; done; exit 0' TERM; \
    touch /ok; sleep 1000 & wait\"\n";

/// As [`until`], within the two seconds that are promised.
fn soon(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(2);
    while !so() {
        assert!(Instant::now() < deadline, "not within 2 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Addresses by instance, as apps read them in the store.
fn announced(d: &Daemon) -> BTreeMap<String, String> {
    let mut command = d.inside("etcdctl");
    let command = command.env("ETCDCTL_API", "3").stdin(Stdio::null());
    let output = command
        .args(["get", "/discovery/web/", "--prefix"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}{}", errors(&output), d.log());
    let said = text(&output);
    let lines: Vec<_> = said.lines().collect();
    let one = |pair: &[&str]| {
        let value: serde_json::Value = serde_json::from_str(pair[1]).unwrap();
        let name = pair[0].rsplit('/').next().unwrap().to_owned();
        (name, value["address"].as_str().unwrap().to_owned())
    };
    lines.chunks(2).map(one).collect()
}

/// The lines of an answer that the machine gets at the default network's gateway.
fn dig(d: &Daemon, gateway: &str, name: &str, kind: &str) -> Vec<String> {
    let mut command = d.inside("dig");
    let server = format!("@{gateway}");
    let command = command.args([&server, "+short", "+tries=8", "+timeout=1", name, kind]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let mut lines: Vec<_> = text(&output).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The address that the service has, once it has one.
fn address(d: &Daemon) -> Option<String> {
    let said = d.ok(["unit", "status", "web@"]);
    let line = said.lines().find(|l| l.contains("Address:"))?;
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[2], "(web)");
    Some(words[1].to_owned())
}

/// Addresses by instance, as names answer them: each target of SRV, and what that leads to.
fn named(d: &Daemon, gateway: &str) -> BTreeMap<String, String> {
    let ports = dig(d, gateway, "_80._tcp.web.coracle.internal", "SRV");
    let one = |line: String| {
        let target = line.strip_prefix("0 1 80 ").unwrap().to_owned();
        // One that went meanwhile has no address any more.
        let address = dig(d, gateway, &target, "A").concat();
        let name = target.strip_suffix(".coracle.internal.").unwrap();
        (name.to_owned(), address)
    };
    let found: BTreeMap<_, _> = ports.into_iter().map(one).collect();
    let mut addresses: Vec<_> = found.values().cloned().collect();
    addresses.sort();
    // The service itself has one address, whoever serves.
    assert_eq!(Some(dig(d, gateway, "web", "A").concat()), address(d));
    if addresses == dig(d, gateway, "tasks.web", "A") {
        found
    } else {
        BTreeMap::new()
    }
}

#[test]
fn an_instance_that_is_not_well_or_ends_is_gone_from_the_store_and_from_names() {
    let d = Daemon::start();
    // As machines have one; what they ask of a bridge's address must come from that address all the same.
    for words in [
        "link add other0 type veth peer name other1",
        "addr add 198.51.100.2/24 dev other0",
        "link set other0 up",
    ] {
        let added = d.inside("ip").args(words.split(' ')).status().unwrap();
        assert!(added.success(), "{words}");
    }
    let unit = d.unit("web@.container", UNIT);
    d.ok(["unit", "start", &unit, "web@{1..3}"]);
    let gateway = d.field("web-1", ".NetworkSettings.Networks.bridge.Gateway");
    until("it has an address", || {
        address(&d) == Some(dig(&d, &gateway, "web", "A").concat())
    });
    let both = |names: &[&str]| {
        let address = |name: &&str| {
            let field = ".NetworkSettings.Networks.bridge.IPAddress";
            ((*name).to_owned(), d.field(name, field))
        };
        let expected: BTreeMap<_, _> = names.iter().map(address).collect();
        move |d: &Daemon, gateway: &str| announced(d) == expected && named(d, gateway) == expected
    };
    let all = both(&["web-1", "web-2", "web-3"]);
    until("all are told of", || all(&d, &gateway));
    let ports = dig(&d, &gateway, "tasks.web", "SRV");
    assert_eq!(ports.len(), 6, "{ports:?}");
    let inside = d.ok(["exec", "web-2", "nslookup", "-type=srv", "_9090._tcp.web"]);
    assert!(inside.contains("9090 web-1.coracle.internal"), "{inside}");
    // Not well, and well again.
    d.ok(["exec", "web-1", "rm", "/ok"]);
    until("it is not well", || {
        d.field("web-1", ".State.Health.Status") == "unhealthy"
    });
    let others = both(&["web-2", "web-3"]);
    soon("who is not well is gone", || others(&d, &gateway));
    d.ok(["exec", "web-1", "touch", "/ok"]);
    until("it is back", || all(&d, &gateway));
    // Stopped, while it takes its time.
    let mut stop = d.spawn(["unit", "stop", "web@1"]);
    soon("who is being stopped is gone", || others(&d, &gateway));
    assert_eq!(d.field("web-1", ".State.Running"), "true");
    // It is still to be had by its own name.
    assert_eq!(dig(&d, &gateway, "web-1", "A").len(), 1);
    d.ok(["exec", "web-1", "touch", "/go"]);
    assert!(stop.wait().unwrap().success());
    assert!(others(&d, &gateway));
    // Dead at once.
    let pid: u32 = d.field("web-3", ".State.Pid").parse().unwrap();
    let last = both(&["web-2"]);
    signal(pid, "KILL");
    soon("who has died is gone", || last(&d, &gateway));
    d.ok(["exec", "web-2", "touch", "/go"]);
    d.ok(["unit", "stop", "web@2"]);
    soon("nobody is left", || {
        announced(&d).is_empty() && dig(&d, &gateway, "tasks.web", "SRV").is_empty()
    });
}
