//! Against a real server: dnsmasq, over a cable between two network namespaces.
#![allow(clippy::unwrap_used)]

mod lan;

use lan::{Lan, Server};

const RANGE: &str = "--dhcp-range=192.0.2.100,192.0.2.150,2m";
/// The server's address with the network that `RANGE` is of.
const SERVER: &str = "192.0.2.1/24";

#[test]
fn a_lease_with_the_networks_settings() {
    let lan = Lan::new(SERVER);
    let _server = Server::start(
        &lan,
        &[
            RANGE,
            "--domain=lab.example",
            "--dhcp-option=option:router,192.0.2.1",
            "--dhcp-option=option:dns-server,192.0.2.53,192.0.2.54",
            "--dhcp-option=option:domain-search,lab.example,sub.lab.example",
            "--dhcp-option=option:mtu,1400",
        ],
    );
    let client = lan.client(&["--hostname", "node"]);
    let lease = client.bound();
    let address = lease["address"].as_str().unwrap();
    assert!(address.starts_with("192.0.2.1"), "{lease}");
    assert_eq!(lease["prefix_len"], 24);
    assert_eq!(lease["routers"], serde_json::json!(["192.0.2.1"]));
    assert_eq!(
        lease["dns"],
        serde_json::json!(["192.0.2.53", "192.0.2.54"])
    );
    assert_eq!(lease["domain"], "lab.example");
    let search = serde_json::json!(["lab.example", "sub.lab.example"]);
    assert_eq!(lease["search"], search);
    assert_eq!(lease["hostname"], "node");
    assert_eq!(lease["mtu"], 1400);
    assert_eq!(lease["server"], "192.0.2.1");
    assert_eq!(lease["lease_time"], 120);
    assert_eq!((&lease["t1"], &lease["t2"]), (&60.into(), &105.into()));
}

#[test]
fn routes_of_option_121() {
    let lan = Lan::new(SERVER);
    let routes = "--dhcp-option=option:classless-static-route,\
                  0.0.0.0/0,192.0.2.9,10.0.0.0/8,192.0.2.10,198.51.100.128/25,0.0.0.0";
    let router = "--dhcp-option=option:router,192.0.2.1";
    let _server = Server::start(&lan, &[RANGE, router, routes]);
    let lease = lan.client(&[]).bound();
    assert_eq!(lease["routers"], serde_json::json!([]));
    let route = |destination, prefix_len, gateway: Option<&str>| {
        serde_json::json!({
            "destination": destination, "prefix_len": prefix_len, "gateway": gateway,
        })
    };
    assert_eq!(
        lease["routes"],
        serde_json::json!([
            route("0.0.0.0", 0, Some("192.0.2.9")),
            route("10.0.0.0", 8, Some("192.0.2.10")),
            route("198.51.100.128", 25, None),
        ])
    );
}

/// Asked for at once: no search goes before.
#[test]
fn a_remembered_lease_is_had_again() {
    let lan = Lan::new(SERVER);
    let server = Server::start(&lan, &[RANGE]);
    let before = lan.client(&[]).bound();
    let searches = server.said("DHCPDISCOVER");
    assert!(searches > 0);
    let after = lan
        .client(&["--remembered", &lan.remember(&before)])
        .bound();
    assert_eq!(after["address"], before["address"]);
    assert_eq!(server.said("DHCPDISCOVER"), searches);
    assert!(server.said("DHCPACK") >= 2);
}

/// Other interfaces and addresses are no matter: what goes to the server comes from the leased address.
#[test]
fn a_lease_is_renewed_from_its_address() {
    let lan = Lan::new(SERVER);
    let times = ["--dhcp-option=option:T1,3", "--dhcp-option=option:T2,100"];
    let _server = Server::start(&lan, &[RANGE, times[0], times[1]]);
    let client = lan.client(&[]);
    let lease = client.bound();
    assert_eq!((&lease["t1"], &lease["t2"]), (&3.into(), &100.into()));
    // Preferred by the kernel, unless another one is asked for; what comes from it does not reach the server.
    lan.on_client("ip address add 192.0.2.99/24 dev eth0");
    lan.on_server(
        "echo 1 >/proc/sys/net/ipv4/conf/lan/rp_filter && ip route add blackhole 192.0.2.99",
    );
    lan.put_in_place(&lease);
    for _ in 0..2 {
        let renewed = client.event("renewed");
        assert_eq!(renewed["lease"]["address"], lease["address"]);
    }
}

/// Nobody but a server that knows better is asked: it refuses what was remembered.
#[test]
fn a_remembered_lease_of_another_network_is_refused() {
    let lan = Lan::new(SERVER);
    let server = Server::start(&lan, &[RANGE]);
    let remembered = lan.remember(&lan.client(&[]).bound());
    drop(server);
    lan.on_server("ip address flush dev lan && ip address add 198.51.100.1/24 dev lan");
    let range = "--dhcp-range=198.51.100.100,198.51.100.150,2m";
    let server = Server::start(&lan, &[range, "--dhcp-authoritative"]);
    let lease = lan.client(&["--remembered", &remembered]).bound();
    assert!(
        lease["address"]
            .as_str()
            .unwrap()
            .starts_with("198.51.100.1")
    );
    assert_eq!(server.said("DHCPNAK"), 1);
}

#[test]
fn a_lease_that_the_server_takes_back_is_lost() {
    let lan = Lan::new(SERVER);
    let times = ["--dhcp-option=option:T1,3", "--dhcp-option=option:T2,100"];
    let server = Server::start(&lan, &[RANGE, times[0], times[1]]);
    let client = lan.client(&[]);
    let lease = client.bound();
    lan.put_in_place(&lease);
    drop(server);
    lan.forget_leases();
    let range = "--dhcp-range=192.0.2.200,192.0.2.210,2m";
    let server = Server::start(&lan, &[range, "--dhcp-authoritative"]);
    client.event("lost");
    assert_eq!(server.said("DHCPNAK"), 1);
    lan.take_away(&lease);
    let other = client.bound();
    assert!(other["address"].as_str().unwrap().starts_with("192.0.2.2"));
}

#[test]
fn a_server_that_is_away_is_waited_for() {
    let lan = Lan::new(SERVER);
    let arguments = [
        RANGE,
        "--dhcp-option=option:T1,3",
        "--dhcp-option=option:T2,100",
    ];
    let client = lan.client(&[]);
    client.state("selecting");
    let server = Server::start(&lan, &arguments);
    let lease = client.bound();
    lan.put_in_place(&lease);
    drop(server);
    client.state("renewing");
    let _server = Server::start(&lan, &arguments);
    let renewed = client.event("renewed");
    assert_eq!(renewed["lease"]["address"], lease["address"]);
}

/// Broadcast from the leased address, once its server has been silent for long enough.
#[test]
fn another_server_takes_over() {
    let lan = Lan::new(SERVER);
    let arguments = [
        RANGE,
        "--dhcp-option=option:T1,3",
        "--dhcp-option=option:T2,4",
    ];
    let server = Server::start(&lan, &arguments);
    let client = lan.client(&[]);
    let lease = client.bound();
    lan.put_in_place(&lease);
    drop(server);
    lan.on_server("ip address flush dev lan && ip address add 192.0.2.2/24 dev lan");
    let _server = Server::start(&lan, &arguments);
    let renewed = client.find("renewed by the other", |event| {
        event["event"] == "renewed" && event["lease"]["server"] == "192.0.2.2"
    });
    assert_eq!(renewed["lease"]["address"], lease["address"]);
}

/// Its address is the sender's then, in place of none.
#[test]
fn another_interface_has_an_address() {
    let lan = Lan::new(SERVER);
    let _server = Server::start(&lan, &[RANGE]);
    lan.on_client(
        "ip link add name other type veth peer name end && ip address add 10.9.9.1/24 dev other
         ip link set other up && ip link set end up",
    );
    lan.client(&[]).bound();
}

#[test]
fn an_interface_that_goes_and_comes_back() {
    let lan = Lan::new(SERVER);
    lan.on_client("ip link set eth0 down");
    let client = lan.client(&[]);
    let fails = |how| {
        client.find(how, |event| {
            event["error"]
                .as_str()
                .is_some_and(|error| error.starts_with(how))
        });
    };
    fails("cannot send to 255.255.255.255 through eth0");
    lan.on_client("ip link delete eth0");
    fails("cannot open UDP port 68 of eth0");
    lan.plug(SERVER);
    let _server = Server::start(&lan, &[RANGE]);
    client.bound();
}

#[test]
fn a_filter_that_drops_the_answers_is_named() {
    let lan = Lan::new(SERVER);
    let server = Server::start(&lan, &[RANGE]);
    lan.on_client("echo 2 >/proc/sys/net/ipv4/conf/all/rp_filter");
    let client = lan.client(&[]);
    let error = client.event("error");
    let text = error["error"].as_str().unwrap();
    assert!(
        text.contains("/proc/sys/net/ipv4/conf/all/rp_filter"),
        "{text}"
    );
    assert!(server.said("DHCPOFFER") > 0);
}

/// Names that the kernel would take for another one, or for all.
#[test]
fn interfaces_that_are_none() {
    for name in ["", "a-name-too-long-", "a/b", "a b"] {
        let error = coracle_dhcp::Client::new(name, [2, 0, 0, 0, 0, 1], None, None).unwrap_err();
        assert!(
            matches!(error, coracle_dhcp::Error::Interface(_)),
            "{error}"
        );
    }
    let error = coracle_dhcp::Client::new("lo", [2; 6], Some("a b".into()), None).unwrap_err();
    assert!(matches!(error, coracle_dhcp::Error::HostName(_)), "{error}");
}
