//! IPv6 on networks, asked for with docker.
#![allow(clippy::unwrap_used)]

mod common;

use common::outside::{Outside, Running, fetch, page, succeed};
use common::{Daemon, text, until};
use serde_json::Value;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;

#[test]
fn addresses_of_both_families() {
    let mut d = Daemon::start();
    let outside = Outside::of(&d);
    let make = "network create --ipv6 --subnet 10.9.0.0/24 --subnet fd00:9::/64 --gateway fd00:9::fe \
                --aux-address router=fd00:9::2 --aux-address printer=10.9.0.2 --ip-range fd00:9::/112 both";
    docker(&d, make);
    docker(&d, "network create --ipv6 other");
    docker(
        &d,
        "run -d --name serves --network both --ip6 fd00:9::aa --sysctl net.core.somaxconn=99 -p 8080:80 \
                -p [::1]:8081:80 -p 127.0.0.1:8082:80 bb httpd -f -p [::]:80 -h /data",
    );
    docker(
        &d,
        "run -d --name asks --network both --dns 2001:db8::2 --add-host six:fd00::6 --add-host me:host-gateway bb sleep 1000",
    );
    docker(&d, "run -d --name alone --network other bb sleep 1000");
    // What inspect says.
    let of = |d: &Daemon, what: &str, name: &str| {
        docker(d, &format!("inspect -f {{{{{what}}}}} {name}"))
    };
    let both = |field: &str| format!(".NetworkSettings.Networks.both.{field}");
    let fields = |d: &Daemon| {
        assert_eq!(of(d, &both("GlobalIPv6Address"), "serves"), "fd00:9::aa");
        assert_eq!(of(d, &both("GlobalIPv6PrefixLen"), "serves"), "64");
        assert_eq!(of(d, &both("IPv6Gateway"), "serves"), "fd00:9::fe");
        assert_eq!(
            of(d, &both("IPAMConfig.IPv6Address"), "serves"),
            "fd00:9::aa"
        );
        // The first that is free, beside 10.9.0.4: two are reserved, and `serves` has 10.9.0.3.
        assert_eq!(of(d, &both("IPAddress"), "asks"), "10.9.0.4");
        assert_eq!(of(d, &both("GlobalIPv6Address"), "asks"), "fd00:9::4");
        let network = docker(d, "network inspect both");
        let network: Value = serde_json::from_str(&network).unwrap();
        let network = &network[0];
        assert_eq!(network["EnableIPv6"], true);
        let config = &network["IPAM"]["Config"];
        assert_eq!(config[0]["Subnet"], "10.9.0.0/24");
        assert_eq!(config[0]["AuxiliaryAddresses"]["printer"], "10.9.0.2");
        assert_eq!(config[1]["Subnet"], "fd00:9::/64");
        assert_eq!(config[1]["Gateway"], "fd00:9::fe");
        assert_eq!(config[1]["IPRange"], "fd00:9::/112");
        assert_eq!(config[1]["AuxiliaryAddresses"]["router"], "fd00:9::2");
        let id = of(d, ".Id", "serves");
        assert_eq!(network["Containers"][&id]["IPv6Address"], "fd00:9::aa/64");
        for shown in [
            docker(d, "ps -f name=serves --format {{.Ports}}"),
            d.ok(["ps", "-f", "name=serves", "--format", "{{.Ports}}"]),
        ] {
            for host in ["0.0.0.0:8080", "[::]:8080", "[::1]:8081", "127.0.0.1:8082"] {
                assert!(
                    shown.contains(&format!("{host}->80/tcp")),
                    "{host}: {shown}"
                );
            }
        }
        for shown in [docker(d, "port serves 80"), d.ok(["port", "serves", "80"])] {
            for host in ["0.0.0.0:8080", "[::]:8080", "[::1]:8081", "127.0.0.1:8082"] {
                assert!(shown.lines().any(|l| l == host), "{host}: {shown}");
            }
        }
        assert!(docker(d, "network ls -f name=both --format {{.IPv6}}").contains("true"));
    };
    fields(&d);
    let subnet = docker(
        &d,
        "network inspect -f {{(index.IPAM.Config1).Subnet}} other",
    );
    let machine = fs::read_to_string(d.state_dir().join("machine-id")).unwrap();
    assert!(
        subnet.starts_with(&format!("fd{}:", &machine[..2])),
        "{subnet}"
    );
    // The two talk, by address and by name; the third does not reach them.
    let talk = |d: &Daemon| {
        until("the server listens", || {
            fetch(d, "asks", "fd00:9::aa").is_some()
        });
        assert_eq!(fetch(d, "asks", "fd00:9::aa").as_deref(), Some("image"));
        let found = d.ok([
            "exec",
            "asks",
            "nslookup",
            "-type=aaaa",
            "serves",
            "10.9.0.1",
        ]);
        assert!(found.contains("fd00:9::aa"), "{found}");
        let found = d.ok(["exec", "asks", "nslookup", "fd00:9::aa", "10.9.0.1"]);
        assert!(found.contains("serves.coracle.internal"), "{found}");
        d.ok([
            "exec", "serves", "busybox", "ping6", "-c", "1", "-W", "5", "asks",
        ]);
        // A known name of IPv4 alone has an empty answer.
        d.ok(["run", "-d", "--name", "four", "bb", "sleep", "1000"]);
        let gateway = d.field("four", ".NetworkSettings.Gateway");
        let asked = ["exec", "four", "nslookup", "-type=aaaa", "four", &gateway];
        assert!(!text(&d.coracle(asked)).contains("NXDOMAIN"));
        assert!(
            !d.ok(["exec", "four", "cat", "/proc/net/if_inet6"])
                .contains("eth0")
        );
        d.ok(["rm", "-f", "four"]);
        let reached =
            |url: &str| page(d.inside("curl"), &format!("http://{url}/from-image")).is_some();
        assert!(
            reached("[::1]:8080") && reached("127.0.0.1:8080") && reached("[2001:db8::1]:8080")
        );
        assert!(reached("[::1]:8081") && reached("127.0.0.1:8082"));
        assert!(!reached("[::1]:8082"));
        let reached =
            |url: &str| page(outside.inside("curl"), &format!("http://{url}/from-image")).is_some();
        assert!(reached("[2001:db8::1]:8080") && reached("192.0.2.1:8080"));
        // What does not answer is waited for at the same time.
        thread::scope(|all| {
            all.spawn(|| assert_eq!(fetch(d, "alone", "fd00:9::aa"), None));
            for closed in ["[2001:db8::1]:8081", "[2001:db8::1]:8082", "[fd00:9::aa]"] {
                all.spawn(move || assert!(!reached(closed), "{closed} is a way in"));
            }
        });
    };
    succeed(
        outside
            .inside("ip")
            .args(["route", "add", "fd00:9::/64", "via", "2001:db8::1"]),
    );
    talk(&d);
    let hosts = d.ok(["exec", "asks", "cat", "/etc/hosts"]);
    for line in [
        "fd00::6\tsix",
        "10.9.0.1\tme",
        "fd00:9::fe\tme",
        "10.9.0.4\t",
        "fd00:9::4\t",
    ] {
        assert!(hosts.contains(line), "{line} in {hosts}");
    }
    // Its resolver is asked over IPv6.
    let dnsmasq = "-k -C /dev/null --no-resolv --no-hosts --bind-interfaces --listen-address=2001:db8::2 \
                   --address=/example.org/2001:db8::99 --pid-file";
    let resolver = Running::start(outside.inside("dnsmasq").args(dnsmasq.split_whitespace()));
    until("the resolver answers", || {
        let asked = d.coracle(["exec", "asks", "nslookup", "-type=aaaa", "example.org"]);
        text(&asked).contains("2001:db8::99")
    });
    drop(resolver);
    // One more network, whose priority gives it the way out, and its end.
    let routes = || d.ok(["exec", "asks", "busybox", "ip", "-6", "route"]);
    docker(
        &d,
        "network connect --gw-priority 1 --link-local-ip fe80::77 other asks",
    );
    let gateway = docker(
        &d,
        "network inspect -f {{(index.IPAM.Config1).Gateway}} other",
    );
    let default = format!("default via {gateway} ");
    assert!(routes().contains(&default), "{}", routes());
    let inside = d.ok(["exec", "asks", "busybox", "ip", "-6", "addr"]);
    assert!(inside.contains("fe80::77/64"), "{inside}");
    docker(&d, "network disconnect other asks");
    assert!(routes().contains("default via fd00:9::fe "), "{}", routes());
    // A release before IPv6 reads what is written.
    older_releases_read(&d);
    let process = d.field("serves", ".State.Pid");
    d.kill();
    d.up();
    assert_eq!(d.field("serves", ".State.Pid"), process);
    fields(&d);
    talk(&d);
    // Rules that something else removed come back.
    succeed(d.inside("nft").args(["flush", "ruleset"]));
    until("the rules are back", || {
        page(
            outside.inside("curl"),
            "http://[2001:db8::1]:8080/from-image",
        )
        .is_some()
    });
    talk(&d);
    docker(&d, "restart -t 0 serves");
    fields(&d);
    docker(&d, "rm -f serves asks alone");
    docker(&d, "network rm both other");
}

/// docker, unchanged, with the words of a line; its output.
fn docker(d: &Daemon, line: &str) -> String {
    let words = line.replace("(index.IPAM.Config1)", "(index .IPAM.Config 1)");
    let mut args: Vec<String> = Vec::new();
    // A template is one word, whatever is in it.
    for word in words.split_whitespace() {
        match args.last_mut() {
            Some(last) if last.matches("{{").count() > last.matches("}}").count() => {
                last.push(' ');
                last.push_str(word);
            }
            _ => args.push(word.to_owned()),
        }
    }
    let socket = format!("unix://{}", d.run_dir().join("docker.sock").display());
    let mut command = Command::new("docker");
    command
        .env("DOCKER_HOST", socket)
        .env("DOCKER_CONFIG", d.dir.path());
    succeed(command.args(args).stdin(Stdio::null()))
}

/// Addresses of hosts are of IPv4 where older releases look, and a network's IPv6 is a text or absent.
fn older_releases_read(d: &Daemon) {
    let mut ports = 0;
    for entry in fs::read_dir(d.state_dir().join("containers"))
        .unwrap()
        .flatten()
    {
        for file in ["container.json", "container.now.json"] {
            let Ok(bytes) = fs::read(entry.path().join(file)) else {
                continue;
            };
            let record: Value = serde_json::from_slice(&bytes).unwrap();
            for port in record["state"]["ports"].as_array().unwrap() {
                let host = port["host_ip"].as_str().unwrap();
                assert!(host.parse::<std::net::Ipv4Addr>().is_ok(), "{host}");
                ports += 1;
            }
        }
    }
    assert!(ports > 0);
    let mut networks = 0;
    for entry in fs::read_dir(d.state_dir().join("networks"))
        .unwrap()
        .flatten()
    {
        let network: Value = serde_json::from_slice(&fs::read(entry.path()).unwrap()).unwrap();
        assert!(network["ipv6"].is_null() || network["ipv6"].is_string());
        networks += 1;
    }
    assert_eq!(networks, 5);
}
