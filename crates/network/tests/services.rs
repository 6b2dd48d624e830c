//! Services over real bridges and machines, each test inside network namespaces of its own.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/services.rs"]
mod told;

use common::{ask, container, machine, mapping, outside, run, serve};
use coracle_network::{HostPort, NetworkError, NetworkSpec, Networks, Options, Service};
use coracle_sys::{netlink, netns};
use std::collections::BTreeSet;
use std::io::ErrorKind::ConnectionRefused;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use told::{
    LOOPBACK, TARGET, Talk, WEB, all, alone, draining, instance, packets, ready, set, web, who,
    whose,
};

/// The machine as `outside` knows it.
const WIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

fn network(networks: &Networks, name: &str, internal: bool) {
    let spec = NetworkSpec {
        name: name.into(),
        internal,
        ..NetworkSpec::default()
    };
    networks.create(spec).unwrap();
}

/// What the firewall has, with the numbers that tell a rule from the same one made anew.
fn rules() -> String {
    run("nft", &["-a", "list", "table", "inet", "coracle"])
}

#[test]
fn connections_spread_and_none_is_lost_while_instances_change() {
    machine(|dir| {
        let networks = Networks::open(dir, Options::default()).unwrap();
        let host = netns::current().unwrap();
        let three: Vec<_> = (1..=3).map(|n| container(&networks, n, "bridge")).collect();
        let (client, _) = container(&networks, 4, "bridge");
        let ips: Vec<_> = three.iter().map(|c| c.1.ip).collect();
        three.iter().for_each(|(ns, e)| instance(ns, e.ip));
        let with = |ips: &[Ipv4Addr]| {
            let backends: Vec<_> = ips.iter().map(|ip| ready(*ip)).collect();
            set(&networks, vec![web(&backends, true)]);
        };
        with(&ips);
        let everybody: BTreeSet<_> = ips.iter().copied().collect();
        assert_eq!(all(&client, WEB, 80, 3), everybody);
        // The machine has no default route.
        assert_eq!(run("ip", &["route", "show", "default"]), "");
        assert_eq!(all(&host, WEB, 80, 3), everybody);
        assert_eq!(all(&host, LOOPBACK, 80, 3), everybody);
        let before = rules();
        with(&ips.iter().rev().copied().collect::<Vec<_>>());
        assert_eq!(rules(), before, "the same was done again");
        let (made, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let stream = || {
            while !stop.load(Ordering::Relaxed) {
                let met = Talk::here(WEB, 80).map(|t| t.with);
                assert!(met.is_ok_and(|ip| everybody.contains(&ip)), "{met:?}");
                made.fetch_add(1, Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| {
            let clients = [client.as_fd(), host.as_fd(), client.as_fd()];
            let clients = clients.map(|ns| scope.spawn(move || netns::run_in(ns, stream).unwrap()));
            for round in 0..60 {
                let some = &ips[round % 3..=round % 3];
                with(if round % 2 == 0 { some } else { &ips });
                let enough = made.load(Ordering::Relaxed) + 5;
                while made.load(Ordering::Relaxed) < enough && !clients[0].is_finished() {
                    std::thread::yield_now();
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn an_instance_that_leaves_keeps_its_connections_and_no_flows() {
    machine(|dir| {
        let networks = Networks::open(dir, Options::default()).unwrap();
        let out = outside();
        let (a, on_a) = container(&networks, 1, "bridge");
        let (b, on_b) = container(&networks, 2, "bridge");
        let (client, _) = container(&networks, 3, "bridge");
        instance(&a, on_a.ip);
        instance(&b, on_b.ip);
        set(&networks, vec![web(&[ready(on_a.ip)], true)]);
        let count = |ip| networks.connections(ip).unwrap();
        assert_eq!(count(on_a.ip), 0);
        let mut talks = [
            Talk::new(&client, WEB, 80).unwrap(),
            Talk::new(&out, WIDE, 80).unwrap(),
        ];
        // Not by a service.
        let _straight = Talk::new(&client, on_a.ip, TARGET).unwrap();
        networks
            .publish(&on_a.container_id, &[mapping(IpAddr::from(LOOPBACK), 8081)])
            .unwrap();
        let flows = [packets(&client, WEB, 53), packets(&out, WIDE, 53)];
        for flow in &flows {
            assert_eq!(whose(flow), Ok(on_a.ip));
        }
        assert_eq!((count(on_a.ip), count(on_b.ip)), (2, 0));
        set(
            &networks,
            vec![web(&[draining(on_a.ip), ready(on_b.ip)], true)],
        );
        for flow in &flows {
            assert_eq!(whose(flow), Ok(on_b.ip), "it stayed where it was");
        }
        assert!(talks.iter_mut().all(Talk::works), "it was cut");
        assert_eq!(who(&client, WEB, 80), Ok(on_b.ip));
        assert_eq!(count(on_a.ip), 2);
        set(&networks, vec![web(&[ready(on_b.ip)], true)]);
        assert!(talks.iter_mut().all(Talk::works), "it was cut");
        // Others' flows stay: this one is of another service.
        let mut dns = web(&[ready(on_b.ip)], false);
        (dns.name, dns.address) = ("dns".into(), Some(Ipv4Addr::new(10, 216, 0, 6)));
        set(&networks, vec![web(&[ready(on_b.ip)], true), dns.clone()]);
        let other = SocketAddr::from((Ipv4Addr::new(10, 216, 0, 6), 53));
        assert_eq!(
            whose(&packets(&client, dns.address.unwrap(), 53)),
            Ok(on_b.ip)
        );
        dns.backends.push(ready(on_a.ip));
        set(&networks, vec![web(&[ready(on_a.ip)], true), dns]);
        let known = netlink::udp_flows(false).unwrap();
        let kept = known.iter().find(|f| f.asked == other).map(|f| f.answers);
        assert_eq!(kept, Some(SocketAddr::from((on_b.ip, TARGET))));
        assert_eq!(whose(&flows[0]), Ok(on_a.ip));
        drop(talks);
        while count(on_a.ip) > 0 {
            std::thread::yield_now();
        }
    });
}

#[test]
fn an_address_stands_for_its_instances_with_every_port() {
    machine(|dir| {
        let networks = Networks::open(dir, Options::default()).unwrap();
        let host = netns::current().unwrap();
        let (a, on_a) = container(&networks, 1, "bridge");
        let (b, on_b) = container(&networks, 2, "bridge");
        let (client, _) = container(&networks, 3, "bridge");
        instance(&a, on_a.ip);
        instance(&b, on_b.ip);
        let with = |ips: &[Ipv4Addr]| {
            let service = Service {
                every_port: true,
                ports: Vec::new(),
                ..web(&ips.iter().map(|ip| ready(*ip)).collect::<Vec<_>>(), false)
            };
            set(&networks, vec![service]);
        };
        with(&[on_a.ip, on_b.ip]);
        let both = BTreeSet::from([on_a.ip, on_b.ip]);
        for ns in [&client, &host] {
            assert_eq!(all(ns, WEB, TARGET, 2), both);
            let refused = Talk::new(ns, WEB, TARGET + 1).map(|t| t.with);
            assert_eq!(refused, Err(ConnectionRefused));
        }
        // An instance finds itself, too.
        with(&[on_a.ip]);
        assert_eq!(who(&a, WEB, TARGET), Ok(on_a.ip));
        let flow = packets(&client, WEB, TARGET);
        assert_eq!(whose(&flow), Ok(on_a.ip));
        let mut talk = Talk::new(&client, WEB, TARGET).unwrap();
        with(&[on_b.ip]);
        assert_eq!(whose(&flow), Ok(on_b.ip), "it stayed where it was");
        assert!(talk.works(), "it was cut");
        assert_eq!(networks.connections(on_a.ip).unwrap(), 1);
        with(&[]);
        let refused = Talk::new(&client, WEB, TARGET).map(|t| t.with);
        assert_eq!(refused, Err(ConnectionRefused));
    });
}

#[test]
fn what_nobody_serves_is_refused() {
    machine(|dir| {
        let networks = Networks::open(dir, Options::default()).unwrap();
        let (host, out) = (netns::current().unwrap(), outside());
        let (a, on_a) = container(&networks, 1, "bridge");
        let (client, _) = container(&networks, 2, "bridge");
        instance(&a, on_a.ip);
        // Of ICMP the kernel says so much only and no more to one address; more than six in a row are asked for here.
        std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0").unwrap();
        // Nothing is there before there is a service.
        let before = rules();
        set(&networks, Vec::new());
        assert_eq!(rules(), before);
        let refused = |port: u16, ip: Ipv4Addr| {
            for ns in [&client, &host, &a] {
                assert_eq!(who(ns, ip, port), Err(ConnectionRefused), "{ip} {port}");
                let heard = whose(&packets(ns, ip, port));
                assert_eq!(heard, Err(ConnectionRefused), "{ip} {port}/udp");
            }
        };
        set(&networks, vec![web(&[ready(on_a.ip)], true)]);
        assert_eq!(who(&client, WEB, 80), Ok(on_a.ip));
        refused(81, WEB);
        refused(80, Ipv4Addr::new(10, 216, 255, 1));
        let flow = packets(&client, WEB, 53);
        for none in [
            vec![],
            vec![draining(on_a.ip)],
            vec![ready(Ipv4Addr::new(10, 212, 9, 9))],
        ] {
            set(&networks, vec![web(&none, true)]);
            for ns in [&client, &host] {
                assert_eq!(who(ns, WEB, 80), Err(ConnectionRefused), "{none:?}");
                assert_eq!(whose(&packets(ns, WEB, 53)), Err(ConnectionRefused));
            }
            assert_eq!(whose(&flow), Err(ConnectionRefused));
            assert_eq!(who(&out, WIDE, 80), Err(ConnectionRefused));
            assert_eq!(whose(&packets(&out, WIDE, 53)), Err(ConnectionRefused));
            assert_eq!(who(&host, LOOPBACK, 80), Err(ConnectionRefused));
        }
        set(&networks, vec![web(&[ready(on_a.ip)], true)]);
        assert_eq!(who(&out, WIDE, 80), Ok(on_a.ip));
        assert_eq!(whose(&flow), Ok(on_a.ip));
        // A service's address is this machine's own affair.
        assert!(who(&out, WEB, 80).is_err());
        set(&networks, Vec::new());
        refused(80, WEB);
        assert_eq!(who(&out, WIDE, 80), Err(ConnectionRefused));
    });
}

#[test]
fn networks_stay_apart() {
    machine(|dir| {
        let networks = Networks::open(dir, Options::default()).unwrap();
        network(&networks, "other", false);
        network(&networks, "third", false);
        network(&networks, "inner", true);
        let host = netns::current().unwrap();
        let (a, on_a) = container(&networks, 1, "bridge");
        let (b, on_b) = container(&networks, 2, "other");
        let (c, on_c) = container(&networks, 3, "inner");
        let (third, _) = container(&networks, 4, "third");
        for (ns, on) in [(&a, &on_a), (&b, &on_b), (&c, &on_c)] {
            instance(ns, on.ip);
        }
        let gateway = on_c.gateway.to_string();
        netns::run_in(c.as_fd(), || {
            run("ip", &["route", "add", "default", "via", &gateway])
        })
        .unwrap();
        // Bridges hand packets to the firewall themselves, or do not.
        for bridged in ["1", "0"] {
            let _ = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", bridged);
            set(&networks, vec![web(&[ready(on_a.ip)], false)]);
            assert_eq!(who(&a, WEB, 80), Ok(on_a.ip), "hairpin, {bridged}");
            assert_eq!(who(&host, WEB, 80), Ok(on_a.ip));
            for ns in [&b, &c, &third] {
                assert_eq!(who(ns, WEB, 80), Err(ConnectionRefused));
                assert_eq!(whose(&packets(ns, WEB, 53)), Err(ConnectionRefused));
            }
            let backends = [ready(on_a.ip), ready(on_b.ip), ready(on_c.ip)];
            set(&networks, vec![web(&backends, false)]);
            let both = BTreeSet::from([on_a.ip, on_b.ip]);
            assert_eq!(all(&host, WEB, 80, 3), both);
            assert_eq!(all(&a, WEB, 80, 3), both);
            assert_eq!(all(&b, WEB, 80, 2), BTreeSet::from([on_b.ip]));
            assert_eq!(all(&c, WEB, 80, 2), BTreeSet::from([on_c.ip]));
            assert_eq!(who(&third, WEB, 80), Err(ConnectionRefused));
            set(&networks, vec![web(&[ready(on_c.ip)], false)]);
            for ns in [&a, &b, &host] {
                assert_eq!(who(ns, WEB, 80), Err(ConnectionRefused));
            }
        }
        // Where containers do not reach each other, they reach a service of one of them as they do a published port.
        let apart = NetworkSpec {
            name: "apart".into(),
            options: [(
                "com.docker.network.bridge.enable_icc".into(),
                "false".into(),
            )]
            .into(),
            ..NetworkSpec::default()
        };
        networks.create(apart).unwrap();
        let (d, on_d) = container(&networks, 5, "apart");
        let (e, _) = container(&networks, 6, "apart");
        instance(&d, on_d.ip);
        set(
            &networks,
            vec![web(&[ready(on_a.ip), ready(on_d.ip)], false)],
        );
        for ns in [&d, &e] {
            assert_eq!(all(ns, WEB, 80, 2), BTreeSet::from([on_d.ip]));
        }
        set(&networks, vec![web(&[ready(on_a.ip)], false)]);
        assert_eq!(who(&e, WEB, 80), Err(ConnectionRefused));
        // Who is in the default network as well has a way by it.
        set(&networks, vec![web(&[ready(on_a.ip)], false)]);
        let request = common::request(4, "bridge");
        let joined = networks.reserve(&request).unwrap();
        networks.join(third.as_fd(), &joined).unwrap();
        let routes = netns::run_in(third.as_fd(), || run("ip", &["route"])).unwrap();
        assert!(!routes.contains("default via 10.210.0.1"), "{routes}");
        assert_eq!(who(&third, WEB, 80), Ok(on_a.ip));
        networks
            .disconnect(&joined.container_id, "bridge", Some(third.as_fd()))
            .unwrap();
        assert_eq!(who(&third, WEB, 80), Err(ConnectionRefused));
        let range = NetworkSpec {
            name: "range".into(),
            subnet: Some("10.216.9.0/24".parse().unwrap()),
            ..NetworkSpec::default()
        };
        let error = networks.create(range).unwrap_err();
        assert!(error.to_string().contains("10.216.0.0/16 of the services"));
    });
}

#[test]
fn published_ports_answer_and_those_in_use_are_told() {
    if !alone("published_ports_answer_and_those_in_use_are_told") {
        return;
    }
    machine(|dir| {
        let networks = Networks::open(dir, Options::default()).unwrap();
        let (host, out) = (netns::current().unwrap(), outside());
        let (a, on_a) = container(&networks, 1, "bridge");
        let (_b, on_b) = container(&networks, 2, "bridge");
        serve(&a, TARGET);
        let program = TcpListener::bind((WIDE, 80)).unwrap();
        let on_8080 = [mapping(IpAddr::from(LOOPBACK), 8080)];
        networks.publish(&on_b.container_id, &on_8080).unwrap();
        let mut service = web(&[ready(on_a.ip)], true);
        let also = |ip: Option<IpAddr>, port| HostPort { ip, port };
        service.ports[0].published.extend([
            also(None, 8080),
            also(None, 8081),
            also(Some(LOOPBACK.into()), 8082),
            also(Some(Ipv6Addr::LOCALHOST.into()), 8083),
            also(Some(Ipv4Addr::new(192, 0, 2, 77).into()), 8084),
        ]);
        let second = Service {
            every_port: false,
            name: "zweit".into(),
            address: None,
            ports: vec![service.ports[0].clone()],
            backends: service.backends.clone(),
        };
        let given = vec![second, service];
        let refusals = networks.set_services(given.clone()).unwrap();
        let told = |service: &str, port: u16| {
            let mut found = refusals.iter();
            let found = found.find(|r| r.service == service && r.port == port);
            found.map_or(String::new(), |r| r.error.to_string())
        };
        assert!(told("web", 80).contains("another program has it on 0.0.0.0"));
        assert!(told("web", 8080).contains("container c2 has it"));
        assert!(told("web", 8083).contains("IPv4"));
        assert!(told("web", 8084).contains("192.0.2.77"));
        assert_eq!((told("web", 8081), told("web", 8082)), Default::default());
        assert!(told("zweit", 8081).contains("service web has it"));
        assert_eq!(ask(&out, WIDE, 8081).as_deref(), Some("192.0.2.2"));
        assert!(ask(&host, LOOPBACK, 8081).is_some());
        assert!(ask(&host, LOOPBACK, 8082).is_some());
        assert_eq!(ask(&out, WIDE, 8082), None);
        assert!(ask(&a, WIDE, 8081).is_some(), "hairpin");
        assert_eq!(ask(&out, WIDE, 8080), None);
        let taken = networks.publish(&on_b.container_id, &[mapping(None, 8081)]);
        assert!(matches!(taken, Err(NetworkError::PortInUse { .. })));
        // It is tried again, by the same.
        drop(program);
        networks.release(&on_b.container_id).unwrap();
        let refusals = networks.set_services(given.clone()).unwrap();
        let of_web = refusals.iter().filter(|r| r.service == "web");
        let of_web: BTreeSet<_> = of_web.map(|r| r.port).collect();
        assert_eq!(of_web, BTreeSet::from([8083, 8084]));
        assert_eq!(ask(&out, WIDE, 80).as_deref(), Some("192.0.2.2"));
        assert_eq!(ask(&out, WIDE, 8080).as_deref(), Some("192.0.2.2"));
        // Others' work.
        run("nft", &["flush", "ruleset"]);
        assert_eq!(ask(&out, WIDE, 80), None);
        assert!(networks.ensure_firewall().unwrap());
        assert!(ask(&out, WIDE, 80).is_some() && ask(&host, WEB, 80).is_some());
        run("nft", &["flush", "ruleset"]);
        let mut fewer = given[1].clone();
        fewer.ports[0].published.retain(|p| p.port != 8081);
        networks.set_services(vec![fewer]).unwrap();
        assert!(ask(&out, WIDE, 80).is_some(), "a change after a flush");
        run("ip", &["route", "del", "10.216.0.0/16", "dev", "coracle0"]);
        assert!(ask(&host, WEB, 80).is_none());
        assert!(networks.ensure_firewall().unwrap());
        assert!(!networks.ensure_firewall().unwrap());
        assert!(ask(&host, WEB, 80).is_some());
        // What is not published any more is free.
        set(&networks, vec![web(&[ready(on_a.ip)], false)]);
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8081)).unwrap();
    });
}

#[test]
fn a_range_that_is_elsewhere_is_told() {
    machine(|dir| {
        let networks = Networks::open(dir, Options::default()).unwrap();
        let _out = outside();
        run("ip", &["route", "add", "10.216.7.0/24", "via", "192.0.2.2"]);
        let state = || (rules(), run("ip", &["route", "show", "10.216.0.0/16"]));
        let before = state();
        let refused = networks.set_services(vec![web(&[], false)]).unwrap_err();
        assert!(matches!(refused, NetworkError::ServiceRange { .. }));
        assert!(refused.to_string().contains("10.216.7.0/24"), "{refused}");
        assert_eq!(state(), before);
        run("ip", &["route", "del", "10.216.7.0/24"]);
        set(&networks, vec![web(&[], false)]);
        let mut wrong = web(&[], false);
        wrong.address = Some(Ipv4Addr::new(10, 217, 0, 1));
        let before = rules();
        let refused = networks.set_services(vec![wrong]).unwrap_err();
        assert!(matches!(refused, NetworkError::BadService { .. }));
        assert_eq!(rules(), before);
    });
}
