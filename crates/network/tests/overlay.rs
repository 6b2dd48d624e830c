//! The network between machines: real vxlan between namespaces on one switch.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/cluster.rs"]
mod machines;

use common::{ask, run, serve};
use coracle_network::overlay::LINK;
use coracle_network::{NetworkError, NetworkSpec, RestoredEndpoint};
use coracle_sys::netns;
use machines::{Echo, Switch, cluster, join, udp};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

/// Bytes of IPv4 and UDP headers.
const HEADERS: usize = 28;

fn link_of(ns: &OwnedFd) -> String {
    let show = || run("ip", &["-o", "link", "show", "eth0"]);
    netns::run_in(ns.as_fd(), show).unwrap()
}

#[test]
fn containers_of_three_machines_reach_each_other() {
    let switch = Switch::new();
    let machines: Vec<_> = (1..=3).map(|n| switch.machine(n)).collect();
    // One runs before there is a cluster, and keeps its address.
    let (old, on_old) = machines[0].container(1);
    assert!(link_of(&old).contains("mtu 1500"));
    let mut before = Echo::new(&old, on_old.ip, &machines[0].ns);
    join(&machines);
    assert!(before.works(), "what ran before was cut");
    let second: Vec<_> = (0..3)
        .map(|m| machines[m].container(10 + m as u8))
        .collect();
    let mut all = vec![(old, on_old)];
    all.extend(second);
    for (ns, _) in &all {
        serve(ns, 80);
    }
    for (client, from) in &all {
        for (_, to) in &all {
            assert_eq!(
                ask(client, to.ip, 80),
                Some(from.ip.to_string()),
                "{}",
                to.ip
            );
        }
    }
    // The machines themselves are seen by their bridges' addresses.
    let seen = ask(&machines[0].ns, all[3].1.ip, 80);
    assert_eq!(seen, Some(all[0].1.gateway.to_string()));
    let subnets: Vec<_> = machines.iter().map(|m| m.subnet().to_string()).collect();
    assert_eq!(subnets, ["10.210.0.0/22", "10.212.0.0/22", "10.212.4.0/22"]);
    let status = machines[1].run(|n| n.overlay().unwrap().unwrap());
    assert_eq!((status.mtu, status.problems.len()), (Some(1450), 0));
    assert!(status.peers.len() == 2 && status.peers.iter().all(|p| p.routed));
    assert!(status.caution.unwrap().contains("not encrypted"));
}

#[test]
fn packets_have_the_size_that_the_way_carries() {
    let switch = Switch::new();
    let machines = [switch.machine(1), switch.machine(2)];
    let (a, on_a) = machines[0].container(1);
    join(&machines);
    let (b, on_b) = machines[1].container(2);
    // Who runs already still makes larger packets, and is told that they are too large.
    assert!(link_of(&a).contains("mtu 1500"));
    assert!(Echo::new(&b, on_b.ip, &a).carries(vec![7; 50_000]));
    let fit = |m: &machines::Machine| m.run(|n| n.fit(a.as_fd(), &on_a).unwrap());
    fit(&machines[0]);
    for ns in [&a, &b] {
        assert!(link_of(ns).contains("mtu 1450"), "{}", link_of(ns));
    }
    let (sender, receiver) = (udp(&a, 0), udp(&b, 5000));
    let to = SocketAddr::from((on_b.ip, 5000));
    let full = vec![1; 1450 - HEADERS];
    assert_eq!(sender.send_to(&full, to).unwrap(), full.len());
    let mut buffer = [0; 2000];
    assert_eq!(receiver.recv(&mut buffer).unwrap(), full.len());
    let too_big = sender.send_to(&vec![1; 1451 - HEADERS], to).unwrap_err();
    assert_eq!(
        too_big.raw_os_error(),
        Some(rustix::io::Errno::MSGSIZE.raw_os_error())
    );
    // The machine's link gets another size.
    machines[0].ip("link set eth0 mtu 1400");
    assert!(machines[0].run(|n| n.ensure_overlay().unwrap()));
    fit(&machines[0]);
    assert!(link_of(&a).contains("mtu 1350"));
    assert!(!machines[0].run(|n| n.ensure_overlay().unwrap()));
    // Or the cluster is told of a narrow place.
    let mut spec = machines[1].spec(&[&machines[0]]);
    spec.mtu = Some(1400);
    machines[1].run(|n| n.set_overlay(Some(spec)).unwrap());
    let (c, _) = machines[1].container(3);
    assert!(link_of(&c).contains("mtu 1350"));
}

#[test]
fn only_members_are_believed() {
    let switch = Switch::new();
    let machines = cluster(&switch, 2);
    let [one, two] = &machines[..] else {
        unreachable!("there are two")
    };
    let (a, on_a) = one.container(1);
    let (b, on_b) = two.container(2);
    // It knows all that a member knows, but the others do not know it.
    let stranger = switch.machine(9);
    let pool = "10.212.64.0/22".parse().unwrap();
    stranger.run(|n| n.renumber_default(pool).unwrap());
    stranger.knows(&[one, two]);
    let (s, on_s) = stranger.container(9);
    let receiver = udp(&a, 5000);
    let to = SocketAddr::from((on_a.ip, 5000));
    let mut buffer = [0; 16];
    let heard = |buffer: &mut [u8]| receiver.recv_from(buffer).unwrap().1.ip();
    for _ in 0..3 {
        udp(&s, 0).send_to(b"stranger", to).unwrap();
        udp(&b, 0).send_to(b"member", to).unwrap();
        assert_eq!(heard(&mut buffer), on_b.ip);
    }
    one.knows(&[two, &stranger]);
    udp(&s, 0).send_to(b"stranger", to).unwrap();
    assert_eq!(heard(&mut buffer), on_s.ip, "it would not have come anyway");
    // A container of a member does not get to another's end, where it would have its machine's address.
    let forged = forged(one.address(), Ipv4Addr::new(10, 212, 0, 77), on_a.ip, 5000);
    let end = (one.address(), 7373);
    for _ in 0..3 {
        udp(&b, 0).send_to(&forged, end).unwrap();
        udp(&b, 0).send_to(b"member", to).unwrap();
        // What the other one had sent before it was known may have been on its way still.
        let mut from = heard(&mut buffer);
        while from == on_s.ip {
            from = heard(&mut buffer);
        }
        assert_eq!(from, on_b.ip);
    }
    // The very same from the machine, which is believed.
    udp(&two.ns, 0).send_to(&forged, end).unwrap();
    assert_eq!(heard(&mut buffer), Ipv4Addr::new(10, 212, 0, 77));
    // Nor does a container get to a machine's door, be it its own machine's.
    std::thread::scope(|all| {
        for machine in [one, two] {
            let (stranger, b) = (&stranger.ns, &b);
            all.spawn(move || {
                serve(&machine.ns, 7373);
                assert!(ask(stranger, machine.address(), 7373).is_some());
                assert_eq!(ask(b, machine.address(), 7373), None, "a door");
            });
        }
    });
}

/// What a machine would send for one of its containers: vxlan, Ethernet, IPv4 and UDP without anything in it.
fn forged(machine: Ipv4Addr, from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
    ip.extend(from.octets());
    ip.extend(to.octets());
    let words = ip.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0x08, 0, 0, 0];
    frame.extend((7373_u32 << 8).to_be_bytes());
    frame.extend([0x02, 0xc1]);
    frame.extend(machine.octets());
    frame.extend([0x02, 0, 0, 0, 0, 1, 0x08, 0]);
    frame.extend(ip);
    // No checksum, which UDP allows.
    let ports = [4000_u16, port, 8, 0];
    frame.extend(ports.iter().flat_map(|p| p.to_be_bytes()));
    frame
}

#[test]
fn networks_that_people_make_and_machines_stay_apart() {
    let switch = Switch::new();
    let machines = cluster(&switch, 2);
    let (a, on_a) = machines[0].container(1);
    serve(&a, 80);
    let mine = NetworkSpec {
        name: "mine".into(),
        ..NetworkSpec::default()
    };
    let (mine, on_mine) = machines[1].run(|n| {
        n.create(mine).unwrap();
        common::container(n, 2, "mine")
    });
    serve(&mine, 80);
    assert_eq!(ask(&mine, on_a.ip, 80), None, "another network's container");
    assert_eq!(ask(&a, on_mine.ip, 80), None, "another network's container");
    // The machine's own servers are not there for others' containers, by its address in the network.
    serve(&machines[1].ns, 81);
    let (b, on_b) = machines[1].container(3);
    assert!(ask(&b, on_b.gateway, 81).is_some());
    assert_eq!(ask(&a, on_b.gateway, 81), None, "another machine's server");
    // What belongs to the cluster is nobody's network.
    let taken = NetworkSpec {
        name: "taken".into(),
        subnet: Some("10.212.200.0/24".parse().unwrap()),
        ..NetworkSpec::default()
    };
    let refused = machines[1].run(|n| n.create(taken).unwrap_err());
    assert!(
        refused.to_string().contains("cluster's machines"),
        "{refused}"
    );
}

#[test]
fn a_host_firewall_is_passed_or_named() {
    let switch = Switch::new();
    let machines = cluster(&switch, 2);
    for rule in [
        "-P FORWARD DROP",
        "-N DOCKER-USER",
        "-A DOCKER-USER -j RETURN",
        "-I FORWARD -j DOCKER-USER",
    ] {
        machines[1].run(|_| run("iptables", &rule.split(' ').collect::<Vec<_>>()));
    }
    machines[1].run(|n| n.ensure_firewall().unwrap());
    let (a, on_a) = machines[0].container(1);
    let (b, on_b) = machines[1].container(2);
    serve(&b, 80);
    assert_eq!(ask(&a, on_b.ip, 80), Some(on_a.ip.to_string()));
    let named = |m: &machines::Machine| m.run(|n| n.diagnose().join("\n"));
    assert_eq!(named(&machines[1]), "");
    machines[1].run(|_| run("iptables", &["-P", "INPUT", "DROP"]));
    assert!(named(&machines[1]).contains("7373/udp"));
}

#[test]
fn a_lost_machine_is_withdrawn() {
    let switch = Switch::new();
    let machines = cluster(&switch, 3);
    let all: Vec<_> = (0..3).map(|m| machines[m].container(1 + m as u8)).collect();
    serve(&all[1].0, 80);
    serve(&all[2].0, 80);
    let lost = all[2].1.ip;
    assert!(ask(&all[0].0, lost, 80).is_some());
    machines[0].ip("route add default via 192.0.2.2");
    let mut others = machines[0].spec(&[&machines[1]]);
    others.ranges.push(machines[2].subnet());
    machines[0].run(|n| n.set_overlay(Some(others)).unwrap());
    for gone in [
        format!("route show {}", machines[2].subnet()),
        "neigh show 10.212.4.1".into(),
    ] {
        let found = machines[0].ip(&gone);
        assert!(!found.contains(LINK), "{found}");
    }
    assert!(ask(&all[0].0, all[1].1.ip, 80).is_some(), "the others stay");
    // It is refused, and nothing is sent out by the default route.
    for ns in [&all[0].0, &machines[0].ns] {
        let to = SocketAddr::from((lost, 80));
        let connect = || std::net::TcpStream::connect_timeout(&to, machines::PATIENCE);
        let refused = netns::run_in(ns.as_fd(), connect).unwrap().unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::HostUnreachable);
    }
    // The other way round too: it is no member any more.
    assert_eq!(ask(&all[2].0, all[0].1.ip, 80), None);
}

#[test]
fn a_daemon_finds_all_of_it_again() {
    let switch = Switch::new();
    let mut machines = cluster(&switch, 2);
    let (a, on_a) = machines[0].container(1);
    let (b, on_b) = machines[1].container(2);
    let mut echo = Echo::new(&b, on_b.ip, &a);
    assert!(echo.works());
    machines[0].close();
    assert!(echo.works(), "without a daemon");
    let before = machines[0].traces();
    machines[0].open();
    let restored = RestoredEndpoint {
        endpoint: on_a.clone(),
        ports: Vec::new(),
    };
    machines[0].run(|n| n.restore(&[restored]).unwrap());
    assert_eq!(machines[0].traces(), before);
    assert!(echo.works(), "with another daemon");
    let (c, on_c) = machines[0].container(3);
    serve(&b, 80);
    assert_eq!(ask(&c, on_b.ip, 80), Some(on_c.ip.to_string()));
    // Others' work.
    machines[0].ip("link del cor-overlay");
    assert!(machines[0].run(|n| n.ensure_overlay().unwrap()));
    assert!(!machines[0].run(|n| n.ensure_overlay().unwrap()));
    assert!(echo.works());
    machines[0].run(|n| {
        run("nft", &["flush", "ruleset"]);
        assert!(n.ensure_firewall().unwrap());
    });
    assert!(machines[0].traces().contains("overlay_members"));
    assert!(echo.works());
}

#[test]
fn leaving_leaves_nothing_behind() {
    let switch = Switch::new();
    let mut machines = [switch.machine(1), switch.machine(2)];
    let (a, on_a) = machines[0].container(1);
    let before = machines[0].traces();
    join(&machines);
    assert_ne!(machines[0].traces(), before);
    machines[0].run(|n| n.set_overlay(None).unwrap());
    assert_eq!(machines[0].traces(), before);
    assert!(link_of(&a).contains("mtu 1500"));
    machines[0].run(|n| n.set_overlay(None).unwrap());
    // Everything down is not leaving: it is there again with the next daemon.
    let spec = machines[0].spec(&[&machines[1]]);
    machines[0].run(|n| {
        n.set_overlay(Some(spec)).unwrap();
        n.release(&on_a.container_id).unwrap();
        n.teardown().unwrap();
        assert!(!n.ensure_overlay().unwrap());
    });
    let down = machines[0].traces();
    assert!(!down.contains("cor") && !down.contains("10.212."), "{down}");
    machines[0].open();
    let (a, on_a) = machines[0].container(1);
    let (b, on_b) = machines[1].container(2);
    serve(&b, 80);
    assert_eq!(ask(&a, on_b.ip, 80), Some(on_a.ip.to_string()));
}

#[test]
fn the_default_network_is_given_another_subnet() {
    let switch = Switch::new();
    let mut machines = [switch.machine(1), switch.machine(2)];
    let subnet = "10.212.8.0/22".parse().unwrap();
    let (_a, on_a) = machines[0].container(1);
    let renumber = |m: &machines::Machine| m.run(|n| n.renumber_default(subnet));
    let refused = renumber(&machines[0]).unwrap_err();
    assert!(matches!(refused, NetworkError::InUse { .. }), "{refused}");
    machines[0].run(|n| n.release(&on_a.container_id).unwrap());
    let told = machines[0].spec(&[&machines[1]]);
    let mut wrong = told.clone();
    wrong.subnet = subnet;
    wrong.peers.clear();
    let refused = machines[0].run(|n| n.set_overlay(Some(wrong)).unwrap_err());
    assert!(
        matches!(refused, NetworkError::OverlaySubnet { .. }),
        "{refused}"
    );
    assert_eq!(machines[0].run(|n| n.overlay().unwrap()), None);
    let network = renumber(&machines[0]).unwrap();
    assert_eq!(network.gateway, Ipv4Addr::new(10, 212, 8, 1));
    assert_eq!(renumber(&machines[0]).unwrap(), network);
    machines[0].close();
    machines[0].open();
    let addresses = machines[0].ip("-o -4 addr show dev coracle0");
    assert!(addresses.contains("10.212.8.1/22") && !addresses.contains("10.210."));
    let (_a, on_a) = machines[0].container(1);
    assert_eq!(on_a.ip, Ipv4Addr::new(10, 212, 8, 2));
    // Not while others know it by the old one.
    let spec = machines[1].spec(&[]);
    machines[1].run(|n| n.set_overlay(Some(spec)).unwrap());
    let refused = renumber(&machines[1]).unwrap_err();
    assert!(matches!(refused, NetworkError::OverlaySet(_)), "{refused}");
    // What is the machine's own is kept away from.
    machines[0].ip("route add 10.212.0.0/22 via 192.0.2.2");
    let known = machines[0].run(|n| n.taken_subnets().unwrap());
    let has = |text: &str| known.contains(&text.parse().unwrap());
    assert!(has("10.212.0.0/22") && has("192.0.2.0/24") && !has("10.212.8.0/22"));
}
