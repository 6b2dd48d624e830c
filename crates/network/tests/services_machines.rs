//! Services over several machines, and over daemons that come and go.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/cluster.rs"]
mod machines;
#[path = "common/services.rs"]
mod told;

use common::run;
use coracle_network::NetworkSpec;
use coracle_sys::netns;
use machines::{Machine, Switch, join};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use told::{
    LOOPBACK, TARGET, Talk, WEB, all, alone, instance, packets, ready, seen, set, web, who, whose,
};

#[test]
fn instances_of_another_machine_see_who_may_be_seen() {
    let switch = Switch::new();
    let machines = [switch.machine(1), switch.machine(2)];
    join(&machines);
    let [one, two] = &machines;
    let stranger = switch.machine(9);
    let (far, on_far) = two.container(2);
    instance(&far, on_far.ip);
    // Nothing is plugged into its bridge yet.
    one.run(|n| set(n, vec![web(&[ready(on_far.ip)], true)]));
    let own = one.subnet().hosts().next();
    assert_eq!(seen(&one.ns, WEB, 80), own);
    assert_eq!(seen(&one.ns, LOOPBACK, 80), own);
    let (near, on_near) = one.container(1);
    instance(&near, on_near.ip);
    let mine = NetworkSpec {
        name: "mine".into(),
        ..NetworkSpec::default()
    };
    let inner = NetworkSpec {
        name: "inner".into(),
        internal: true,
        ..NetworkSpec::default()
    };
    let (mine, inner) = one.run(|n| {
        n.create(mine).unwrap();
        n.create(inner).unwrap();
        let (inner, on_inner) = common::container(n, 4, "inner");
        let gateway = on_inner.gateway.to_string();
        let add = ["route", "add", "default", "via", &gateway];
        netns::run_in(inner.as_fd(), || run("ip", &add)).unwrap();
        (common::container(n, 3, "mine").0, inner)
    });
    for machine in &machines {
        machine.run(|n| set(n, vec![web(&[ready(on_far.ip)], true)]));
    }
    stranger.ip(&format!("route add 10.212.0.0/22 via {}", one.address()));
    let gateway = Some(on_near.gateway);
    // Bridges hand packets to the firewall themselves, or do not; packets are taken from wherever, or from where answers go.
    for (bridged, strict) in [("1", "0"), ("0", "1")] {
        for machine in &machines {
            machine.run(|_| {
                let _ = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", bridged);
                std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", strict).unwrap();
            });
        }
        assert_eq!(seen(&near, WEB, 80), Some(on_near.ip));
        assert_eq!(seen(&near, one.address(), 80), Some(on_near.ip));
        for ip in [WEB, LOOPBACK, one.address()] {
            assert_eq!(seen(&one.ns, ip, 80), gateway, "{ip}");
        }
        // From outside: as the machine that was asked, or as oneself where the instance is.
        assert_eq!(seen(&stranger.ns, one.address(), 80), gateway);
        let itself = Some(stranger.address());
        assert_eq!(seen(&stranger.ns, two.address(), 80), itself);
        assert_eq!(seen(&mine, one.address(), 80), gateway);
    }
    // Nothing else is open.
    std::thread::scope(|scope| {
        for (ns, ip, port) in [
            (&mine, on_far.ip, TARGET),
            (&mine, WEB, 80),
            (&inner, one.address(), 80),
            (&inner, WEB, 80),
            (&stranger.ns, on_far.ip, TARGET),
        ] {
            scope.spawn(move || assert_eq!(seen(ns, ip, port), None, "{ip} {port}"));
        }
    });
    // Flows go over when their instance does.
    let flow = packets(&stranger.ns, one.address(), 53);
    assert_eq!(whose(&flow), Ok(on_far.ip));
    for machine in &machines {
        machine.run(|n| set(n, vec![web(&[ready(on_near.ip)], true)]));
    }
    assert_eq!(whose(&flow), Ok(on_near.ip));
    assert_eq!(who(&stranger.ns, two.address(), 80), Ok(on_near.ip));
    assert_eq!(seen(&near, WEB, 80), gateway, "hairpin");
    // A lost machine's instances are not sought elsewhere.
    let both = [ready(on_far.ip), ready(on_near.ip)];
    one.run(|n| set(n, vec![web(&both, true)]));
    assert_eq!(all(&one.ns, WEB, 80, 2).len(), 2);
    let alone = one.spec(&[]);
    one.run(|n| n.set_overlay(Some(alone)).unwrap());
    assert_eq!(all(&one.ns, WEB, 80, 2), BTreeSet::from([on_near.ip]));
}

/// Routes of IPv4, since links give themselves IPv6 addresses when they like, and the firewall.
fn state(machine: &Machine) -> (String, String) {
    let routes = ["-4", "route", "show", "table", "all"];
    machine.run(|_| (run("ip", &routes), run("nft", &["list", "ruleset"])))
}

#[test]
fn a_daemon_that_comes_again_finds_its_services() {
    if !alone("a_daemon_that_comes_again_finds_its_services") {
        return;
    }
    let switch = Switch::new();
    let mut one = switch.machine(1);
    let stranger = switch.machine(9);
    let (a, on_a) = one.container(1);
    let (client, _) = one.container(2);
    instance(&a, on_a.ip);
    let before = one.traces();
    one.run(|n| set(n, vec![web(&[ready(on_a.ip)], true)]));
    let mut talk = Talk::new(&client, WEB, 80).unwrap();
    let flow = packets(&stranger.ns, one.address(), 53);
    assert_eq!(whose(&flow), Ok(on_a.ip));
    let with = state(&one);
    let (made, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let stream = |ip| {
        while !stop.load(Ordering::Relaxed) {
            assert_eq!(Talk::here(ip, 80).map(|t| t.with), Ok(on_a.ip));
            made.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let clients = [(&client, WEB), (&stranger.ns, one.address())];
        let clients = clients
            .map(|(ns, ip)| scope.spawn(move || netns::run_in(ns.as_fd(), || stream(ip)).unwrap()));
        for round in 0..8 {
            if round % 2 == 0 {
                one.close();
            } else {
                one.open();
            }
            let enough = made.load(Ordering::Relaxed) + 10;
            while made.load(Ordering::Relaxed) < enough && !clients.iter().any(|c| c.is_finished())
            {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(state(&one), with);
    assert!(talk.works());
    assert_eq!(whose(&flow), Ok(on_a.ip));
    let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80));
    assert!(one.run(|_| bind()).is_err(), "anybody may have it");
    // What is in use when it comes is had with the next set.
    one.close();
    let other = netns::run_in(one.ns.as_fd(), bind).unwrap().unwrap();
    one.open();
    let list = ["list", "map", "inet", "coracle", "service_ports_any"];
    let open = one.run(|_| run("nft", &list));
    assert!(open.contains("web/udp/53") && !open.contains("web/tcp/80"));
    assert_eq!(who(&client, WEB, 80), Ok(on_a.ip));
    drop(other);
    one.run(|n| set(n, vec![web(&[ready(on_a.ip)], true)]));
    assert_eq!(who(&stranger.ns, one.address(), 80), Ok(on_a.ip));
    // Everything down is not for good: it is there again with the next daemon.
    one.run(|n| {
        n.release(&on_a.container_id).unwrap();
        n.teardown().unwrap();
        set(n, vec![web(&[], true)]);
        assert!(!n.ensure_firewall().unwrap());
        bind().unwrap();
    });
    let down = one.traces();
    assert!(!down.contains("cor") && !down.contains("10.216"), "{down}");
    one.open();
    let again = one.traces();
    for text in ["10.216.0.0/16 dev coracle0", "unreachable 10.216.0.0/16"] {
        assert!(again.contains(text) && !before.contains(text), "{again}");
    }
    let (a, on_a) = one.container(3);
    instance(&a, on_a.ip);
    one.run(|n| set(n, vec![web(&[ready(on_a.ip)], true)]));
    assert_eq!(who(&stranger.ns, one.address(), 80), Ok(on_a.ip));
    // The default network gets another subnet, and the route another source.
    one.run(|n| {
        n.release(&on_a.container_id).unwrap();
        n.renumber_default("10.212.8.0/22".parse().unwrap())
            .unwrap();
    });
    let (a, on_a) = one.container(4);
    instance(&a, on_a.ip);
    one.run(|n| set(n, vec![web(&[ready(on_a.ip)], true)]));
    assert_eq!(seen(&one.ns, WEB, 80), Some(on_a.gateway));
}
