//! Networks as docker's users know them: left and joined while containers run, options of the driver, links, ranges of ports.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Daemon, errors, text, until};

/// Waits until one container finds another by name.
fn finds(d: &Daemon, from: &str, name: &str) {
    until(&format!("{from} finds {name}"), || {
        d.coracle(["exec", from, "nslookup", name]).status.success()
    });
}

#[test]
fn networks_are_left_and_joined() {
    let mut d = Daemon::start();
    for name in ["n1", "n2"] {
        d.ok(["network", "create", name]);
    }
    d.ok([
        "run",
        "-d",
        "--name",
        "peer",
        "--network",
        "n1",
        "bb",
        "sleep",
        "1000",
    ]);
    d.ok([
        "run", "-d", "--name", "mover", "-p", "8080:80", "bb", "httpd", "-f", "-h", "/data",
    ]);
    let serves = |d: &Daemon| {
        until("its port answers", || {
            let url = "http://127.0.0.1:8080/from-image";
            let asked = d.inside("curl").args(["-fs", "-m", "5", url]).output();
            asked.unwrap().status.success()
        });
    };
    serves(&d);
    // The last network is left, another one joined: the port and whom to ask for names go along.
    d.ok(["network", "disconnect", "bridge", "mover"]);
    d.ok(["network", "connect", "n1", "mover"]);
    finds(&d, "mover", "peer");
    // With another one that comes and goes in between.
    d.ok(["network", "connect", "n2", "mover"]);
    d.ok(["network", "disconnect", "n2", "mover"]);
    d.docker_ok(["network", "connect", "bridge", "mover"]);
    finds(&d, "mover", "peer");
    d.docker_ok(["network", "disconnect", "n1", "mover"]);
    d.ok(["network", "connect", "n1", "mover"]);
    finds(&d, "mover", "peer");
    d.ok(["restart", "-t", "0", "mover"]);
    finds(&d, "mover", "peer");
    serves(&d);
    d.kill();
    d.up();
    finds(&d, "mover", "peer");
    serves(&d);
    // Its new name is known at once, also with the network's.
    d.ok(["rename", "mover", "moved"]);
    d.ok(["exec", "peer", "nslookup", "moved"]);
    d.ok(["exec", "peer", "nslookup", "moved.n1"]);
    d.refused(&["exec", "peer", "nslookup", "moved.n2"], "");
    d.refused(&["network", "rm", "n1"], "has active endpoints");
    d.refused(
        &["network", "create", "n1"],
        "network with name n1 already exists",
    );
    d.refused(&["network", "inspect", "nope"], "network nope not found");
    d.refused(&["network", "rm", "bridge"], "predefined");
}

#[test]
fn links_to_other_containers() {
    let d = Daemon::start();
    d.ok(["run", "-d", "--name", "db", "bb", "sleep", "1000"]);
    d.docker_ok([
        "run", "-d", "--name", "app", "--link", "db:store", "bb", "sleep", "1000",
    ]);
    finds(&d, "app", "store");
    d.ok(["run", "-d", "--name", "other", "bb", "sleep", "1000"]);
    d.refused(&["exec", "other", "nslookup", "store"], "");
    // It follows its target.
    d.ok(["stop", "-t", "0", "db"]);
    d.ok(["run", "-d", "--name", "between", "bb", "sleep", "1000"]);
    d.ok(["start", "db"]);
    let address = d.ok([
        "inspect",
        "--format",
        "{{.NetworkSettings.IPAddress}}",
        "db",
    ]);
    until("the link leads to its new address", || {
        d.ok(["exec", "app", "nslookup", "store"])
            .contains(&address)
    });
    d.ok(["network", "create", "back"]);
    d.ok(["network", "connect", "back", "db"]);
    d.docker_ok(["network", "connect", "--link", "db:mine", "back", "app"]);
    finds(&d, "app", "mine");
    d.refused(&["create", "--link", "nobody:x", "bb", "true"], "nobody");
}

#[test]
fn options_of_the_driver() {
    let d = Daemon::start();
    let option = |name: &str, value: &str| format!("com.docker.network.{name}={value}");
    let create = |options: &[String], name: &str| {
        let mut command = d.command();
        command.args(["network", "create"]);
        for option in options {
            command.args(["-o", option]);
        }
        command.arg(name).output().unwrap()
    };
    let options = [
        option("driver.mtu", "1400"),
        option("bridge.name", "br-test"),
    ];
    assert!(create(&options, "small").status.success());
    let mtu = [
        "run",
        "--rm",
        "--network",
        "small",
        "bb",
        "cat",
        "/sys/class/net/eth0/mtu",
    ];
    assert_eq!(d.docker_ok(mtu), "1400");
    let link = d
        .inside("ip")
        .args(["link", "show", "br-test"])
        .output()
        .unwrap();
    assert!(text(&link).contains("mtu 1400"), "{}", text(&link));
    let taken = create(&[option("bridge.name", "lo")], "loopback");
    assert!(errors(&taken).contains("lo exists already"), "{taken:?}");
    d.ok(["network", "rm", "small"]);
    let gone = d
        .inside("ip")
        .args(["link", "show", "br-test"])
        .output()
        .unwrap();
    assert!(!gone.status.success());

    // Containers that do not reach each other, but the machine.
    assert!(
        create(&[option("bridge.enable_icc", "false")], "apart")
            .status
            .success()
    );
    d.ok([
        "run",
        "-d",
        "--name",
        "server",
        "--network",
        "apart",
        "bb",
        "httpd",
        "-f",
        "-h",
        "/data",
    ]);
    let at = d.ok([
        "inspect",
        "-f",
        "{{(index .NetworkSettings.Networks \"apart\").IPAddress}}",
        "server",
    ]);
    let url = format!("http://{at}/from-image");
    until("the machine reaches it", || {
        d.inside("curl")
            .args(["-fs", "-m", "5", &url])
            .output()
            .unwrap()
            .status
            .success()
    });
    d.refused(
        &[
            "run",
            "--rm",
            "--network",
            "apart",
            "bb",
            "timeout",
            "2",
            "wget",
            "-qO-",
            &url,
        ],
        "",
    );

    // Ports without an address are published where the network says.
    assert!(
        create(&[option("bridge.host_binding_ipv4", "127.0.0.1")], "local")
            .status
            .success()
    );
    d.ok([
        "run",
        "-d",
        "--name",
        "bound",
        "--network",
        "local",
        "-p",
        "8090:80",
        "bb",
        "sleep",
        "1000",
    ]);
    assert_eq!(d.ok(["port", "bound"]), "80/tcp -> 127.0.0.1:8090");
    for (key, value, words) in [
        ("driver.mtu", "big", "1280 to 65535"),
        ("bridge.inhibit_ipv4", "true", "not supported"),
        ("bridge.enable_icc", "maybe", "true or false"),
    ] {
        let output = create(&[option(key, value)], "bad");
        assert!(errors(&output).contains(words), "{}", errors(&output));
    }
}

#[test]
fn one_port_of_a_range() {
    let d = Daemon::start();
    let run = |name: &str, ports: &str| {
        d.docker_raw(&[
            "run", "-d", "--name", name, "-p", ports, "bb", "sleep", "1000",
        ])
    };
    for (name, port) in [("a1", "9000"), ("a2", "9001")] {
        assert!(run(name, "9000-9001:80").status.success());
        assert_eq!(d.ok(["port", name, "80"]), format!("0.0.0.0:{port}"));
    }
    let full = run("a3", "9000-9001:80");
    assert!(
        errors(&full).contains("port is already allocated"),
        "{}",
        errors(&full)
    );
    // As many inside as outside: each its own.
    assert!(run("b1", "9010-9011:80-81").status.success());
    let ports = d.ok(["port", "b1"]);
    assert!(
        ports.contains("80/tcp -> 0.0.0.0:9010") && ports.contains("81/tcp -> 0.0.0.0:9011"),
        "{ports}"
    );
}

#[test]
fn whose_network_is_joined_has_its_names() {
    let d = Daemon::start();
    d.ok([
        "run",
        "-d",
        "--name",
        "host",
        "--hostname",
        "shared",
        "bb",
        "sleep",
        "1000",
    ]);
    let said = d.ok([
        "run",
        "--rm",
        "--network",
        "container:host",
        "bb",
        "hostname",
    ]);
    assert_eq!(said, "shared");
    // Who names a network in the old way is on that one alone.
    d.ok(["network", "create", "only"]);
    let body = r#"{"Image":"bb","Cmd":["sleep","1000"],"NetworkingConfig":{"EndpointsConfig":{"only":{}}}}"#;
    let made = std::process::Command::new("curl")
        .args(["-s", "--unix-socket"])
        .arg(d.run_dir().join("docker.sock"))
        .args([
            "-H",
            "Content-Type: application/json",
            "-d",
            body,
            "http://x/containers/create?name=alone",
        ])
        .output()
        .unwrap();
    assert!(text(&made).contains("Id"), "{made:?}");
    d.ok(["start", "alone"]);
    let networks = d.ok([
        "inspect",
        "-f",
        "{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}",
        "alone",
    ]);
    assert_eq!(networks.trim(), "only");
}

#[test]
fn an_address_and_an_alias_without_a_network() {
    let d = Daemon::start();
    let subnet = d.ok([
        "network",
        "inspect",
        "bridge",
        "-f",
        "{{(index .IPAM.Config 0).Subnet}}",
    ]);
    let at = subnet.replace(".0.0/22", ".1.77");
    assert_ne!(at, subnet);
    d.ok([
        "run",
        "-d",
        "--name",
        "fixed",
        "--ip",
        &at,
        "--network-alias",
        "other",
        "bb",
        "sleep",
        "1000",
    ]);
    let found = "{{.NetworkSettings.Networks.bridge.IPAddress}} {{.NetworkSettings.Networks.bridge.Aliases}}";
    assert_eq!(
        d.ok(["inspect", "-f", found, "fixed"]),
        format!("{at} [other]")
    );
    d.ok(["run", "--rm", "bb", "nslookup", "other"]);
}

/// A connection that cannot be written down leaves neither an interface nor an address, and the default route as it was.
#[test]
fn a_connection_that_fails_leaves_nothing() {
    let d = Daemon::start();
    d.ok(["network", "create", "n1"]);
    d.ok(["run", "-d", "--name", "joiner", "bb", "sleep", "1000"]);
    let inside = || {
        d.ok([
            "exec",
            "joiner",
            "sh",
            "-c",
            "ls /sys/class/net; cat /proc/net/route",
        ])
    };
    let before = inside();
    let id = d.ok(["inspect", "--format", "{{.Id}}", "joiner"]);
    // A directory where the record is to be written.
    let blocked = d
        .state_dir()
        .join(format!("containers/{id}/.container.json.new"));
    std::fs::create_dir(&blocked).unwrap();
    let connect = ["network", "connect", "--gw-priority", "1", "n1", "joiner"];
    d.refused(&connect, "container.");
    assert_eq!(inside(), before);
    let joined = [
        "network",
        "inspect",
        "--format",
        "{{len .Containers}}",
        "n1",
    ];
    assert_eq!(d.ok(joined), "0");
    std::fs::remove_dir(&blocked).unwrap();
    d.ok(connect);
    assert!(inside().contains("eth1"));
    d.ok(["network", "disconnect", "n1", "joiner"]);
    assert_eq!(inside(), before);
}
