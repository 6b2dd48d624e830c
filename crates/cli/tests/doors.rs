//! The doors to the store: containers at their network's address, the operator on loopback and by our own socket.
#![allow(clippy::unwrap_used)]

mod common;

use common::outside::Outside;
use common::{Daemon, errors, text, until};
use std::process::{Output, Stdio};

/// `etcdctl` (Debian's etcd-client) on the machine's loopback.
fn etcdctl(d: &Daemon, words: &[&str]) -> Output {
    let mut command = d.inside("etcdctl");
    let command = command.env("ETCDCTL_API", "3").args(words);
    command.stdin(Stdio::null()).output().unwrap()
}

fn ctl(d: &Daemon, words: &[&str]) -> String {
    let output = etcdctl(d, words);
    let said = [text(&output), errors(&output)].concat();
    assert!(output.status.success(), "{words:?}: {said}\n{}", d.log());
    text(&output)
}

/// A put of `aGk=` ("hi") under a key in base64, as an app without any library makes it.
fn app_put(d: &Daemon, container: &str, key: &str) -> String {
    let body = format!("{{\"key\":\"{key}\",\"value\":\"aGk=\"}}");
    let line = format!("wget -q -O - --post-data '{body}' $ETCD_ENDPOINTS/v3/kv/put");
    d.ok(["exec", container, "sh", "-c", &line])
}

#[test]
fn an_app_finds_the_store_and_the_operator_sees_what_it_wrote() {
    let mut d = Daemon::start();
    d.ok(["run", "-d", "--name", "app", "bb", "sleep", "1000"]);
    let answer = app_put(&d, "app", "Zm9v");
    assert!(answer.contains("\"revision\":\""), "{answer}");
    assert_eq!(ctl(&d, &["get", "foo"]), "foo\nhi");
    // The machine's own keys are not there, neither for the one nor for the other.
    ctl(&d, &["put", "zoo", "1"]);
    assert_eq!(
        ctl(&d, &["get", "", "--prefix", "--keys-only"]),
        "foo\n\nzoo"
    );
    let all = r#"{"key":"AA==","range_end":"AA==","count_only":true}"#;
    let line = format!("wget -q -O - --post-data '{all}' $ETCD_ENDPOINTS/v3/kv/range");
    let counted = d.ok(["exec", "app", "sh", "-c", &line]);
    assert!(counted.contains("\"count\":\"2\""), "{counted}");
    // Nor is its lease.
    assert_eq!(ctl(&d, &["lease", "list"]), "found 0 leases");
    // What the operator may, an app may not.
    let line = "wget -q -O - --post-data '{}' $ETCD_ENDPOINTS/v3/maintenance/defragment";
    let refused = d.coracle(["exec", "app", "sh", "-c", line]);
    assert!(!refused.status.success());
    assert!(errors(&refused).contains("403"), "{}", errors(&refused));
    ctl(&d, &["defrag"]);
    // A daemon's death makes clients wait, and loses nothing.
    d.kill();
    let mut waiting = d.inside("etcdctl");
    let waiting = waiting
        .env("ETCDCTL_API", "3")
        .args(["get", "foo", "--command-timeout=60s"]);
    let waiting = waiting.args(["--dial-timeout=60s"]).stdin(Stdio::null());
    let waiting = waiting
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    d.up();
    let answered = waiting.wait_with_output().unwrap();
    assert_eq!(text(&answered), "foo\nhi", "{}", errors(&answered));
    app_put(&d, "app", "YmFy");
    assert_eq!(ctl(&d, &["get", "bar", "--print-value-only"]), "hi");
    d.ok(["system", "down"]);
    until("nothing is left", || d.leftovers().is_empty());
}

#[test]
fn each_network_has_its_door_and_it_goes_with_it() {
    let d = Daemon::start();
    d.ok(["network", "create", "--subnet", "10.77.0.0/24", "back"]);
    let env = |words: &[&str]| {
        let run = ["run", "--rm"].iter().chain(words);
        let output = d.command().args(run).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", errors(&output));
        text(&output)
    };
    let show = "echo $ETCD_ENDPOINTS $ETCDCTL_ENDPOINTS";
    let url = "http://10.77.0.1:2379";
    assert_eq!(
        env(&["--network", "back", "bb", "sh", "-c", show]),
        format!("{url} 10.77.0.1:2379")
    );
    let get = "wget -q -O - $ETCD_ENDPOINTS/version";
    let version = env(&["--network", "back", "bb", "sh", "-c", get]);
    assert!(version.contains("\"etcdserver\":\"3."), "{version}");
    // Who says otherwise is believed; who has no network of its own is told nothing.
    let own = [
        "-e",
        "ETCD_ENDPOINTS=http://mine:1",
        "bb",
        "sh",
        "-c",
        "echo $ETCD_ENDPOINTS",
    ];
    assert_eq!(env(&own), "http://mine:1");
    assert_eq!(env(&["--network", "none", "bb", "sh", "-c", show]), "");
    assert_eq!(env(&["--network", "host", "bb", "sh", "-c", show]), "");
    // From elsewhere there is no way in, also not by a route to the bridge's address.
    let outside = Outside::of(&d);
    let route = ["route", "add", "10.77.0.0/24", "via", "192.0.2.1"];
    assert!(outside.inside("ip").args(route).status().unwrap().success());
    let page = ["-s", "--max-time", "2", "http://10.77.0.1:2379/version"];
    let tried = outside.inside("curl").args(page).output().unwrap();
    assert!(!tried.status.success(), "{}", text(&tried));
    let from_here = d.inside("curl").args(page).output().unwrap();
    assert!(from_here.status.success(), "{}", errors(&from_here));
    d.ok(["network", "rm", "back"]);
    d.ok(["network", "create", "--subnet", "10.77.0.0/24", "again"]);
    let version = env(&["--network", "again", "bb", "sh", "-c", get]);
    assert!(version.contains("\"etcdserver\":\"3."), "{version}");
}

#[test]
fn steps_of_builds_are_not_told_of_the_store() {
    let d = Daemon::start();
    let dir = d.dir.path().join("context");
    std::fs::create_dir(&dir).unwrap();
    let lines = "FROM bb\nRUN echo \"[$ETCD_ENDPOINTS]\" > /told\n";
    std::fs::write(dir.join("Dockerfile"), lines).unwrap();
    d.ok(["build", "-t", "told", dir.to_str().unwrap()]);
    assert_eq!(d.ok(["run", "--rm", "told", "cat", "/told"]), "[]");
}

#[test]
fn the_operators_door_is_on_loopback_or_nowhere() {
    let mut d = Daemon::unstarted();
    let daemon = |d: &Daemon, listen: &str| {
        let mut command = d.inside(common::programs());
        command.args(["daemon", "--config", "/dev/null", "--store-listen", listen]);
        command
            .arg("--state-dir")
            .arg(d.state_dir())
            .arg("--run-dir")
            .arg(d.run_dir());
        command.output().unwrap()
    };
    let refused = daemon(&d, "0.0.0.0:2379");
    assert!(!refused.status.success());
    let said = errors(&refused);
    assert!(said.contains("0.0.0.0 is no address of loopback"), "{said}");
    let said = errors(&daemon(&d, "2379"));
    assert!(said.contains("127.0.0.1:2379, or none"), "{said}");
    // Somebody else's etcd is there already: everything but this door works, and the log says why.
    let mut other = d.inside("python3");
    let mut other = other
        .args(["-m", "http.server", "--bind", "127.0.0.1", "2379"])
        .spawn()
        .unwrap();
    until("the port is taken", || {
        let taken = d
            .inside("ss")
            .args(["-ltn", "sport = :2379"])
            .output()
            .unwrap();
        text(&taken).contains("127.0.0.1:2379")
    });
    d.up();
    let log = d.log();
    assert!(
        log.contains("the store is not served on 127.0.0.1:2379"),
        "{log}"
    );
    assert!(d.coracle(["ps"]).status.success());
    other.kill().unwrap();
    other.wait().unwrap();
    d.terminate();
    let config = d.dir.path().join("coracle.toml");
    std::fs::write(&config, "store_listen = \"127.0.0.1:3379\"\n").unwrap();
    d.up_with(&config);
    assert_eq!(
        ctl(&d, &["--endpoints=127.0.0.1:3379", "put", "a", "b"]),
        "OK"
    );
    assert!(
        !etcdctl(&d, &["--command-timeout=1s", "get", "a"])
            .status
            .success()
    );
}

#[test]
fn healthy_instances_are_announced_and_go_when_they_are_not() {
    let d = Daemon::start();
    let text = "[Container]\nImage=bb\nExec=sh -c \"touch /ok; exec sleep 1000\"\nExposeHostPort=80\n\
                HealthCmd=test -e /ok\nHealthInterval=1s\nHealthRetries=1\n";
    let unit = d.unit("web.container", text);
    d.ok(["unit", "start", &unit]);
    let found = || {
        ctl(
            &d,
            &["get", "/discovery/", "--prefix", "--print-value-only"],
        )
    };
    until("it is announced", || !found().is_empty());
    let value: serde_json::Value = serde_json::from_str(&found()).unwrap();
    let name = value["container"].as_str().unwrap().to_owned();
    let address = d.field(&name, ".NetworkSettings.Networks.bridge.IPAddress");
    assert_eq!(value["address"], address, "{value}");
    assert_eq!(value["unit"], "web.container");
    assert_eq!(value["ports"], serde_json::json!(["80/tcp"]));
    assert_eq!(value["health"], "healthy");
    let keys = ctl(&d, &["get", "/discovery/web/", "--prefix", "--keys-only"]);
    assert!(keys.starts_with("/discovery/web/"), "{keys}");
    // Apps and operators read there, and a deletion of everything spares it.
    let refused = errors(&etcdctl(&d, &["put", "/discovery/web/me", "x"]));
    assert!(
        refused.contains("keys below /discovery/ are read-only"),
        "{refused}"
    );
    ctl(&d, &["put", "mine", "x"]);
    assert_eq!(ctl(&d, &["del", "", "--prefix"]), "1");
    assert!(!found().is_empty());
    // Under the machine's lease, which is not to be seen.
    assert_eq!(ctl(&d, &["lease", "list"]), "found 0 leases");
    d.ok(["exec", &name, "rm", "/ok"]);
    until("it is gone while it is not well", || found().is_empty());
    d.ok(["exec", &name, "touch", "/ok"]);
    until("it is back", || !found().is_empty());
    d.ok(["unit", "stop", "web.container"]);
    assert_eq!(found(), "");
}

#[test]
fn what_a_dead_daemon_announced_is_put_right() {
    let mut d = Daemon::start();
    for name in ["one", "two"] {
        let text = "[Container]\nImage=bb\nExec=sleep 1000\n";
        let unit = d.unit(&format!("{name}.container"), text);
        d.ok(["unit", "start", &unit]);
    }
    let keys = |d: &Daemon| ctl(d, &["get", "/discovery/", "--prefix", "--keys-only"]);
    until("both are announced", || {
        keys(&d).matches("/discovery/").count() == 2
    });
    let pid: u32 = d.field("one", ".State.Pid").parse().unwrap();
    d.kill();
    common::signal(pid, "KILL");
    let config = d.unit("one.container", "[Container]\nImage=bb\nExec=sleep 1000\n");
    d.up();
    d.ok(["unit", "stop", "one.container"]);
    assert_eq!(
        keys(&d).matches("/discovery/").count(),
        1,
        "{config}: {}",
        keys(&d)
    );
}
