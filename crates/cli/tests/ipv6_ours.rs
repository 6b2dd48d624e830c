//! IPv6 on networks, asked for with our own command, with compose and with unit files.
#![allow(clippy::unwrap_used)]

mod common;

use common::outside::{fetch, page, refused, succeed};
use common::{Daemon, errors, text, until};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A server of `/data/from-image` on both families.
const SERVER: [&str; 7] = ["httpd", "-f", "-p", "[::]:80", "-h", "/data", "-v"];

fn serve(d: &Daemon, args: &[&str]) {
    let output = d
        .command()
        .args(["run", "-d"])
        .args(args)
        .arg("bb")
        .args(SERVER)
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}{}", errors(&output), d.log());
    let id = text(&output);
    until("it listens", || fetch(d, &id, "127.0.0.1").is_some());
}

#[test]
fn our_own_command_and_what_is_refused() {
    let d = Daemon::start();
    let made = [
        "network",
        "create",
        "--ipv6",
        "--subnet",
        "10.9.0.0/24",
        "--subnet",
        "fd00:9::/64",
        "--gateway",
        "10.9.0.254",
        "--gateway",
        "fd00:9::fe",
        "--ip-range",
        "fd00:9::100/120",
        "--aux-address",
        "router=fd00:9::102",
        "both",
    ];
    d.ok(made);
    d.ok(["network", "create", "--ipv6", "high"]);
    d.ok(["network", "create", "four"]);
    let listed = d.ok(["network", "ls", "--format", "{{.Name}} {{.IPv4}} {{.IPv6}}"]);
    assert!(
        listed.contains("both true true") && listed.contains("four true false"),
        "{listed}"
    );
    serve(&d, &["--name", "first", "--network", "both"]);
    let address = |name: &str, network: &str, field: &str| {
        d.field(
            name,
            &format!(".NetworkSettings.Networks.{network}.{field}"),
        )
    };
    assert_eq!(address("first", "both", "GlobalIPv6Address"), "fd00:9::101");
    serve(
        &d,
        &[
            "--name",
            "fixed",
            "--network",
            "name=both,ip6=fd00:9::7,ip=10.9.0.7",
        ],
    );
    assert_eq!(address("fixed", "both", "GlobalIPv6Address"), "fd00:9::7");
    assert_eq!(address("fixed", "both", "IPAddress"), "10.9.0.7");
    // A running container joins, with an address and the default route.
    serve(
        &d,
        &["--name", "joins", "--network", "four", "-p", "8080:80"],
    );
    assert_eq!(d.ok(["port", "joins", "80"]), "0.0.0.0:8080");
    assert!(page(d.inside("curl"), "http://[::1]:8080/from-image").is_none());
    d.ok([
        "network",
        "connect",
        "--ip6",
        "fd00:9::9",
        "--gw-priority",
        "1",
        "both",
        "joins",
    ]);
    assert_eq!(address("joins", "both", "GlobalIPv6Address"), "fd00:9::9");
    assert_eq!(address("joins", "both", "GwPriority"), "1");
    assert_eq!(fetch(&d, "joins", "fd00:9::101").as_deref(), Some("image"));
    let default = "10.9.0.254";
    assert!(
        d.ok(["exec", "joins", "busybox", "ip", "route"])
            .contains(default)
    );
    assert!(page(d.inside("curl"), "http://127.0.0.1:8080/from-image").is_some());
    d.ok(["network", "disconnect", "both", "joins"]);
    assert!(
        !d.ok(["exec", "joins", "busybox", "ip", "route"])
            .contains(default)
    );
    assert!(page(d.inside("curl"), "http://127.0.0.1:8080/from-image").is_some());
    // One that switches IPv6 off for itself has none.
    let off = "net.ipv6.conf.all.disable_ipv6=1";
    serve(&d, &["--name", "off", "--network", "both", "--sysctl", off]);
    assert_eq!(address("off", "both", "GlobalIPv6Address"), "");
    // What cannot be.
    let run = |args: &[&str]| {
        let output = d
            .command()
            .args(["run", "--rm"])
            .args(args)
            .args(["bb", "true"])
            .output();
        refused(&output.unwrap())
    };
    for (args, words) in [
        (
            &["--network", "four", "--ip6", "fd00:9::5"][..],
            "network four has no IPv6",
        ),
        (
            &["--network", "both", "--ip6", "fd00:8::5"],
            "does not lie inside fd00:9::/64",
        ),
        (
            &["--network", "both", "--ip6", "fd00:9::101"],
            "taken by first",
        ),
        (
            &["--network", "both", "--ip6", "fd00:9::102"],
            "reserved address router",
        ),
        (
            &["--network", "both", "--ip6", "nine"],
            "invalid IPv6 address",
        ),
        (
            &["--network", "both", "--link-local-ip", "fd00::1"],
            "link-local",
        ),
        (
            &["--network", "four", "-p", "[::1]:9000:80"],
            "has no IPv6 address",
        ),
        (
            &["--network", "both", "-p", "[fd00:7::1]:9000:80"],
            "cannot bind port 9000/tcp on fd00:7::1",
        ),
    ] {
        let said = run(args);
        assert!(said.contains(words), "{args:?}: {said}");
    }
    let create = |args: &[&str]| {
        let output = d
            .command()
            .args(["network", "create"])
            .args(args)
            .arg("bad")
            .output();
        refused(&output.unwrap())
    };
    for (args, words) in [
        (&["--ipv6", "--subnet", "fd00:9::/80"][..], "overlaps"),
        (
            &[
                "--ipv6",
                "--subnet",
                "fd00:1::/64",
                "--subnet",
                "fd00:2::/64",
            ],
            "more than one subnet",
        ),
        (
            &["--subnet", "10.1.0.0/24", "--subnet", "10.2.0.0/24"],
            "more than one subnet",
        ),
        (
            &["--ipv6", "--subnet", "fe80::/64"],
            "no range for a network's addresses",
        ),
        (
            &[
                "--ipv6",
                "--subnet",
                "fd00:1::/64",
                "--gateway",
                "fd00:2::1",
            ],
            "fd00:2::1 does not lie inside",
        ),
        (
            &["--ipv6", "--aux-address", "x=10.250.0.1"],
            "10.250.0.1 does not lie inside",
        ),
        (&["--aux-address", "10.250.0.1"], "NAME=ADDRESS"),
        (&["--ipv4=false", "--ipv6"], "without IPv4"),
    ] {
        let said = create(args);
        assert!(said.contains(words), "{args:?}: {said}");
    }
    // An IPv6 subnet says enough; that there is to be no IPv6 contradicts it.
    d.ok(["network", "create", "--subnet", "fd00:5::/64", "said"]);
    let said = d.ok(["network", "inspect", "--format", "{{.EnableIPv6}}", "said"]);
    assert_eq!(said, "true");
    let body = r#"{"Name":"bad","EnableIPv6":false,"IPAM":{"Config":[{"Subnet":"fd00:6::/64"}]}}"#;
    let socket = d.run_dir().join("docker.sock");
    let answer = Command::new("curl")
        .args(["-s", "--unix-socket", socket.to_str().unwrap(), "-d", body])
        .args([
            "-H",
            "Content-Type: application/json",
            "http://d/networks/create",
        ])
        .output();
    assert!(text(&answer.unwrap()).contains("without asking for IPv6"));
}

const APP: &str = "
services:
  web:
    image: bb
    command: httpd -f -p [::]:80 -h /data
    ports: ['8080:80']
    stop_grace_period: 0s
    networks:
      six: {ipv6_address: 'fd00:c::80'}
  asks:
    image: bb
    command: sleep 1000
    stop_grace_period: 0s
    networks: [six]
networks:
  six:
    enable_ipv6: true
    ipam:
      config:
        - subnet: 10.12.0.0/24
        - subnet: fd00:c::/64
";

#[test]
fn a_compose_file_with_ipv6() {
    let d = Daemon::start();
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("compose/docker-compose");
    assert!(
        program.exists(),
        "no {}: `make test` fetches it",
        program.display()
    );
    let dir = d.dir.path().join("shop");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("compose.yaml"), APP).unwrap();
    let compose = |args: &str| {
        let socket = format!("unix://{}", d.run_dir().join("docker.sock").display());
        let mut command = Command::new(&program);
        command
            .env("DOCKER_HOST", socket)
            .env("DOCKER_CONFIG", d.dir.path());
        succeed(
            command
                .current_dir(&dir)
                .args(args.split(' '))
                .stdin(Stdio::null()),
        )
    };
    compose("up -d");
    assert_eq!(
        d.field(
            "shop-web-1",
            ".NetworkSettings.Networks.shop_six.GlobalIPv6Address"
        ),
        "fd00:c::80"
    );
    until("web answers", || {
        fetch(&d, "shop-asks-1", "fd00:c::80").is_some()
    });
    let found = d.ok([
        "exec",
        "shop-asks-1",
        "nslookup",
        "-type=aaaa",
        "web",
        "10.12.0.1",
    ]);
    assert!(found.contains("fd00:c::80"), "{found}");
    let listed = compose("ps");
    assert!(listed.contains("[::]:8080->80/tcp"), "{listed}");
    // The same again changes nothing.
    let started = d.field("shop-web-1", ".State.StartedAt");
    compose("up -d");
    assert_eq!(d.field("shop-web-1", ".State.StartedAt"), started);
    compose("down");
    assert!(!d.ok(["network", "ls"]).contains("shop"));
}

#[test]
fn unit_files_with_ipv6() {
    let d = Daemon::start();
    let network = d.unit(
        "six.network",
        "[Network]\nNetworkName=six\nIPv6=true\nSubnet=10.13.0.0/24\nSubnet=fd00:d::/64\n\
         Gateway=10.13.0.254\nGateway=fd00:d::fe\nIPRange=fd00:d::100/120\n",
    );
    let web = d.unit(
        "web.container",
        "[Container]\nImage=bb\nNetwork=six.network\nIP6=fd00:d::80\nPublishPort=[::1]:8080:80\n\
         Exec=httpd -f -p [::]:80 -h /data\n[Service]\nTimeoutStopSec=1\n",
    );
    d.ok(["unit", "submit", &network, &web]);
    d.ok(["unit", "start", "web.container"]);
    let six = |field: &str| d.field("web", &format!(".NetworkSettings.Networks.six.{field}"));
    assert_eq!(six("GlobalIPv6Address"), "fd00:d::80");
    assert_eq!(six("IPv6Gateway"), "fd00:d::fe");
    assert_eq!(six("Gateway"), "10.13.0.254");
    until("web answers", || {
        page(d.inside("curl"), "http://[::1]:8080/from-image").is_some()
    });
    let listed = d.ok(["unit", "list"]);
    assert!(listed.contains("[::1]:8080->80/tcp"), "{listed}");
    d.ok([
        "run",
        "-d",
        "--name",
        "other",
        "--network",
        "six",
        "bb",
        "sleep",
        "1000",
    ]);
    let address = d.field("other", ".NetworkSettings.Networks.six.GlobalIPv6Address");
    assert!(address.starts_with("fd00:d::1"), "{address}");
}
