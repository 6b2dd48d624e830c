//! IPv6 over real bridges, each test inside a network namespace of its own.
#![allow(clippy::unwrap_used)]

mod common;

use common::{ask, container, machine, mapping, outside, request, run, serve};
use coracle_network::{Endpoint, NetworkError, NetworkSpec, Networks, Options, RestoredEndpoint};
use coracle_sys::netns;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

const WIDE4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const WIDE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
const OUT6: &str = "2001:db8::2";
const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
const LOOP6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

fn spec(name: &str, subnet6: Option<&str>) -> NetworkSpec {
    let mut spec = NetworkSpec {
        name: name.into(),
        ipv6: true,
        ..NetworkSpec::default()
    };
    if let Some(subnet) = subnet6 {
        spec.add_subnet(subnet).unwrap();
    }
    spec
}

fn open(dir: &Path) -> Networks {
    let networks = Networks::open(dir, Options::default()).unwrap();
    if networks.get("six").is_err() {
        networks.create(spec("six", Some("fd00:9::/64"))).unwrap();
    }
    networks
}

fn ip6(endpoint: &Endpoint) -> IpAddr {
    endpoint.v6.unwrap().ip.into()
}

fn sysctl(ns: &OwnedFd, key: &str) -> String {
    let path = format!("/proc/sys/net/ipv6/{key}");
    let text = netns::run_in(ns.as_fd(), || std::fs::read_to_string(path).unwrap());
    text.unwrap().trim().to_owned()
}

fn set(key: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/ipv6/{key}"), value).unwrap();
}

#[test]
fn siblings_talk_others_do_not_and_the_outside_is_reached() {
    machine(|dir| {
        let networks = open(dir);
        networks.create(spec("other", None)).unwrap();
        networks
            .create(NetworkSpec {
                internal: true,
                ..spec("closed", None)
            })
            .unwrap();
        let out = outside();
        let (a, ea) = container(&networks, 1, "six");
        let (b, eb) = container(&networks, 2, "six");
        let (c, ec) = container(&networks, 3, "other");
        let (d, ed) = container(&networks, 4, "closed");
        let (four, ef) = container(&networks, 5, "bridge");
        assert_eq!(
            (ef.v6, sysctl(&four, "conf/lo/disable_ipv6")),
            (None, "0".into())
        );
        let addresses =
            |ns: &OwnedFd| netns::run_in(ns.as_fd(), || run("ip", &["-6", "-o", "addr"])).unwrap();
        assert!(addresses(&four).contains("::1/128"));
        assert!(
            !addresses(&four).contains("eth0"),
            "a link-local address without IPv6"
        );
        assert!(addresses(&a).contains("fd00:9::2/64") && !addresses(&a).contains("dadfailed"));
        serve(&a, 80);
        serve(&d, 80);
        serve(&out, 80);
        assert_eq!(ask(&b, ip6(&ea), 80), Some(ip6(&eb).to_string()));
        assert_eq!(ask(&c, ip6(&ea), 80), None, "another network reaches it");
        assert_eq!(ask(&out, ip6(&ea), 80), None, "an unpublished way in");
        // It leaves under the machine's address.
        let seen = ask(&c, OUT6.parse::<IpAddr>().unwrap(), 80);
        assert_eq!(seen, Some(WIDE6.to_string()), "{ec:?}");
        assert_eq!(ask(&d, OUT6.parse::<IpAddr>().unwrap(), 80), None);
        assert_eq!(ask(&c, ip6(&ed), 80), None);
        let routes = netns::run_in(d.as_fd(), || run("ip", &["-6", "route"])).unwrap();
        assert!(!routes.contains("default"), "{routes}");
    });
}

#[test]
fn published_ports_of_both_families() {
    machine(|dir| {
        let networks = open(dir);
        let host = netns::current().unwrap();
        let out = outside();
        let (a, ea) = container(&networks, 1, "six");
        let (b, eb) = container(&networks, 2, "six");
        let (_four, ef) = container(&networks, 3, "bridge");
        serve(&a, 80);
        let ports = [
            mapping(None, 8080),
            mapping(LOOP6, 8081),
            mapping(WIDE6, 8082),
            mapping(ANY4, 8083),
            mapping(None, 0),
            mapping(ANY6, 8084),
        ];
        let resolved = networks.publish(&ea.container_id, &ports).unwrap();
        let shown: Vec<_> = resolved.iter().map(ToString::to_string).collect();
        assert_eq!(shown[..2], ["0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp"]);
        let chosen = resolved[5].host_port;
        assert_eq!((chosen > 0, resolved[6].host_port), (true, chosen));
        assert_eq!(networks.published(&ea.container_id).len(), resolved.len());
        let check = |networks: &Networks| {
            assert_eq!(ask(&out, WIDE6, 8080).as_deref(), Some(OUT6));
            assert_eq!(ask(&out, WIDE4, 8080).as_deref(), Some("192.0.2.2"));
            assert_eq!(ask(&out, WIDE6, 8081), None, "only for ::1");
            assert_eq!(ask(&out, WIDE6, 8082).as_deref(), Some(OUT6));
            assert_eq!(ask(&out, WIDE6, 8083), None);
            assert_eq!(ask(&out, WIDE4, 8084), None);
            assert!(ask(&out, WIDE6, chosen).is_some() && ask(&out, WIDE4, chosen).is_some());
            for port in [8080, 8081, 8084] {
                assert_eq!(
                    ask(&host, LOOP6, port).as_deref(),
                    Some("fd00:9::1"),
                    "{port}"
                );
            }
            assert_eq!(ask(&host, LOOP6, 8082), None);
            assert!(ask(&b, WIDE6, 8080).is_some(), "hairpin from a sibling");
            assert!(ask(&a, WIDE6, 8080).is_some(), "hairpin from itself");
            assert!(networks.diagnose().is_empty());
        };
        check(&networks);
        let refused = |ports: &[coracle_network::PortRequest]| {
            networks
                .publish(&eb.container_id, ports)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            refused(&[mapping(ANY6, 8080)]),
            "Bind for [::]:8080/tcp failed: port is already allocated"
        );
        assert_eq!(
            refused(&[mapping(LOOP6, 8081)]),
            "Bind for [::1]:8081/tcp failed: port is already allocated"
        );
        let no = networks
            .publish(&ef.container_id, &[mapping(LOOP6, 9000)])
            .unwrap_err();
        assert!(no.to_string().contains("--ipv6"), "{no}");
        assert!(matches!(no, NetworkError::NoIpv6Backend { .. }));
        run("nft", &["flush", "ruleset"]);
        assert_eq!(ask(&out, WIDE6, 8080), None);
        assert!(networks.ensure_firewall().unwrap());
        check(&networks);
        // A daemon that was killed, and the next one.
        drop(networks);
        let networks = open(dir);
        let restored = [
            RestoredEndpoint {
                endpoint: ea.clone(),
                ports: resolved,
            },
            RestoredEndpoint {
                endpoint: eb.clone(),
                ports: Vec::new(),
            },
        ];
        networks.restore(&restored).unwrap();
        check(&networks);
        networks.release(&ea.container_id).unwrap();
        assert_eq!(ask(&host, LOOP6, 8080), None);
        assert_eq!(ask(&out, WIDE6, 8080), None);
        networks
            .publish(&eb.container_id, &[mapping(None, 8080)])
            .unwrap();
    });
}

/// What stands in for ::1 gives containers no way to what listens on the machine's loopback.
#[test]
fn loopback_stays_the_machines_own() {
    machine(|dir| {
        let networks = open(dir);
        let host = netns::current().unwrap();
        let (a, ea) = container(&networks, 1, "six");
        serve(&a, 80);
        networks
            .publish(&ea.container_id, &[mapping(None, 8080)])
            .unwrap();
        let secret = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 9999)).unwrap();
        secret.set_nonblocking(true).unwrap();
        assert!(ask(&host, LOOP6, 8080).is_some());
        for stand_in in ["100::c0:1", "100::c0:2"] {
            let to: IpAddr = stand_in.parse().unwrap();
            assert_eq!(ask(&a, to, 9999), None, "{stand_in}");
            assert_eq!(ask(&a, to, 8080), None, "{stand_in}");
        }
        let nobody = secret.accept().unwrap_err();
        assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
        // What else listens there is reached as ever.
        let listening = std::thread::spawn(move || {
            secret.set_nonblocking(false).unwrap();
            let (mut stream, from) = secret.accept().unwrap();
            std::io::Write::write_all(&mut stream, from.ip().to_string().as_bytes()).unwrap();
        });
        assert_eq!(ask(&host, LOOP6, 9999).as_deref(), Some("::1"));
        listening.join().unwrap();
    });
}

#[test]
fn udp_over_loopback_and_from_outside() {
    machine(|dir| {
        let networks = open(dir);
        let host = netns::current().unwrap();
        let out = outside();
        let (a, ea) = container(&networks, 1, "six");
        let server = netns::run_in(a.as_fd(), || UdpSocket::bind("[::]:80").unwrap()).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = server.recv_from(&mut buffer) {
                let _ = server.send_to(&buffer[..length], from);
            }
        });
        let mut port = mapping(None, 8053);
        port.protocol = coracle_network::Protocol::Udp;
        networks.publish(&ea.container_id, &[port]).unwrap();
        for (ns, to) in [(&host, LOOP6), (&out, WIDE6), (&out, WIDE4)] {
            let said = netns::run_in(ns.as_fd(), || {
                let any = if to.is_ipv6() { ANY6 } else { ANY4 };
                let socket = UdpSocket::bind((any, 0)).unwrap();
                let patience = std::time::Duration::from_secs(5);
                socket.set_read_timeout(Some(patience)).unwrap();
                socket.connect((to, 8053)).unwrap();
                socket.send(b"hello").unwrap();
                let mut buffer = [0; 64];
                socket.recv(&mut buffer).map(|n| buffer[..n].to_vec())
            });
            assert_eq!(said.unwrap().unwrap(), b"hello", "{to}");
        }
        networks.release(&ea.container_id).unwrap();
    });
}

#[test]
fn addresses_by_name_and_those_that_cannot_be_had() {
    machine(|dir| {
        let networks = open(dir);
        let ask6 = |ip: &str, network: &str| {
            let mut asked = request(9, network);
            asked.ip6 = Some(ip.parse().unwrap());
            let endpoint = networks.reserve(&asked);
            networks.release(&asked.container_id).unwrap();
            endpoint.map(|e| ip6(&e).to_string())
        };
        let (_a, ea) = container(&networks, 1, "six");
        assert_eq!(ip6(&ea).to_string(), "fd00:9::2");
        assert_eq!(ask6("fd00:9::abcd", "six").unwrap(), "fd00:9::abcd");
        let refused = |ip, network| ask6(ip, network).unwrap_err().to_string();
        assert!(refused("fd00:9::2", "six").contains("taken by c1"));
        assert!(refused("fd00:8::2", "six").contains("fd00:9::/64"));
        assert!(refused("fd00:9::5", "bridge").contains("no IPv6"));
        let failed = |spec| networks.create(spec).unwrap_err().to_string();
        assert!(failed(spec("x", Some("fd00:9::/80"))).contains("overlaps"));
        assert!(failed(spec("x", Some("fe80::/64"))).contains("fd00:9::/64"));
        let mut outside = spec("x", Some("fd00:a::/64"));
        outside.add_gateway("fd00:b::1").unwrap();
        assert!(failed(outside).contains("fd00:b::1"));
        let mut not_asked = spec("x", Some("fd00:a::/64"));
        not_asked.ipv6 = false;
        assert!(failed(not_asked).contains("--ipv6"));
        // Chosen subnets are of the machine's own range, one after the other.
        let chosen = |name| networks.create(spec(name, None)).unwrap().v6().unwrap();
        let (first, second) = (chosen("one").0, chosen("two").0);
        assert_eq!(first.prefix_len(), 64);
        assert!(Options::default().ula.contains(&first) && first != second);
        // A container that wants no IPv6 gets none.
        let mut without = request(7, "six");
        without.without_ipv6 = true;
        assert_eq!(networks.reserve(&without).unwrap().v6, None);
    });
}

/// Says once that fe80::2, in `ns`, is a router for half an hour (RFC 4861, 4.2).
fn advertise(ns: &OwnedFd) {
    use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket, sockopt};
    let message = [134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    netns::run_in(ns.as_fd(), || {
        run("ip", &["addr", "add", "fe80::2/64", "dev", "out0", "nodad"]);
        let index = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
        let index = index.lines().find(|l| l.ends_with(" out0")).unwrap();
        let index = u32::from_str_radix(index.split(' ').nth(1).unwrap(), 16).unwrap();
        let raw = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)).unwrap();
        sockopt::set_ipv6_multicast_hops(&raw, 255).unwrap();
        let from = SocketAddrV6::new("fe80::2".parse().unwrap(), 0, 0, index);
        rustix::net::bind(&raw, &from).unwrap();
        let to = SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index);
        sendto(&raw, &message, SendFlags::empty(), &to).unwrap();
    })
    .unwrap();
}

#[test]
fn the_machine_keeps_what_routers_told_it() {
    machine(|dir| {
        let host = netns::current().unwrap();
        let out = outside();
        run("ip", &["link", "add", "quiet", "type", "bridge"]);
        set("conf/up0/accept_ra", "1");
        set("conf/quiet/accept_ra", "0");
        let networks = Networks::open(dir, Options::default()).unwrap();
        assert_eq!(
            sysctl(&host, "conf/all/forwarding"),
            "0",
            "without an IPv6 network"
        );
        assert_eq!(sysctl(&host, "conf/coracle0/accept_ra"), "0");
        advertise(&out);
        let deadline = Instant::now() + Duration::from_secs(60);
        let learnt =
            || run("ip", &["-6", "route"]).contains("default via fe80::2 dev up0 proto ra");
        while !learnt() {
            assert!(Instant::now() < deadline, "{}", run("ip", &["-6", "route"]));
            std::thread::sleep(Duration::from_millis(10));
        }
        networks.create(spec("six", None)).unwrap();
        assert_eq!(sysctl(&host, "conf/all/forwarding"), "1");
        assert_eq!(sysctl(&host, "conf/up0/accept_ra"), "2");
        assert_eq!(sysctl(&host, "conf/quiet/accept_ra"), "0");
        let bridge = networks.get("six").unwrap().bridge;
        assert_eq!(sysctl(&host, &format!("conf/{bridge}/accept_ra")), "0");
        assert!(learnt(), "{}", run("ip", &["-6", "route"]));
    });
}

#[test]
fn a_network_of_a_higher_priority_has_the_way_out_and_the_ports() {
    machine(|dir| {
        let networks = open(dir);
        networks.create(spec("high", Some("fd00:a::/64"))).unwrap();
        let out = outside();
        let (a, ea) = container(&networks, 1, "six");
        serve(&a, 80);
        networks
            .publish(&ea.container_id, &[mapping(None, 8080)])
            .unwrap();
        let gateway = || {
            let route = |f| run("ip", &[f, "route", "show", "default"]);
            netns::run_in(a.as_fd(), || route("-4") + &route("-6")).unwrap()
        };
        let goes_by = |network: &str| {
            let network = networks.get(network).unwrap();
            let routes = gateway();
            routes.contains(&format!("via {} ", network.gateway))
                && routes.contains(&format!("via {} ", network.gateway6.unwrap()))
                && routes.matches("default").count() == 2
        };
        assert!(goes_by("six"), "{}", gateway());
        let mut asked = request(1, "high");
        asked.priority = 1;
        asked.link_local = vec!["169.254.8.8".parse().unwrap(), "fe80::8".parse().unwrap()];
        let eb = networks.reserve(&asked).unwrap();
        networks.join(a.as_fd(), &eb).unwrap();
        assert!(goes_by("high"), "{}", gateway());
        let addresses = netns::run_in(a.as_fd(), || run("ip", &["-o", "addr", "show", "eth1"]));
        let addresses = addresses.unwrap();
        assert!(
            addresses.contains("169.254.8.8/16") && addresses.contains("fe80::8/64"),
            "{addresses}"
        );
        let rules = || run("nft", &["list", "table", "inet", "coracle"]);
        assert!(
            rules().contains(&format!("{} . 80", ip6(&eb))),
            "{}",
            rules()
        );
        assert_eq!(ask(&out, WIDE6, 8080).as_deref(), Some(OUT6));
        networks
            .disconnect(&ea.container_id, "high", Some(a.as_fd()))
            .unwrap();
        assert!(goes_by("six"), "{}", gateway());
        assert_eq!(ask(&out, WIDE6, 8080).as_deref(), Some(OUT6));
        assert_eq!(ask(&out, WIDE4, 8080).as_deref(), Some("192.0.2.2"));
        networks
            .disconnect(&ea.container_id, "six", Some(a.as_fd()))
            .unwrap();
        assert_eq!(ask(&out, WIDE6, 8080), None);
        assert!(networks.published(&ea.container_id).is_empty());
    });
}

#[test]
fn teardown_leaves_nothing() {
    machine(|dir| {
        let state = || {
            (
                run("ip", &["-o", "link"]),
                run("ip", &["-6", "route", "show", "table", "all"]),
                run("nft", &["list", "ruleset"]),
            )
        };
        let before = state();
        let networks = open(dir);
        let (a, ea) = container(&networks, 1, "six");
        networks
            .publish(&ea.container_id, &[mapping(None, 8080)])
            .unwrap();
        networks.teardown().unwrap();
        networks.teardown().unwrap();
        drop(a);
        assert_eq!(before, state());
        // And a machine without IPv6 networks has nothing of IPv6 in its table.
        let networks = open(dir);
        assert!(run("nft", &["list", "ruleset"]).contains("ip6"));
        networks.remove("six").unwrap();
        assert!(!run("nft", &["list", "ruleset"]).contains("ip6"));
        assert!(!run("ip", &["-6", "route", "show", "table", "all"]).contains("100::"));
    });
}

#[test]
fn docker_and_its_forward_drop_let_us_through() {
    machine(|dir| {
        run("ip6tables", &["-P", "FORWARD", "DROP"]);
        run("ip6tables", &["-N", "DOCKER-USER"]);
        run("ip6tables", &["-I", "FORWARD", "-j", "DOCKER-USER"]);
        let before = run("ip6tables", &["-S"]);
        let networks = Networks::open(dir, Options::default()).unwrap();
        assert_eq!(run("ip6tables", &["-S"]), before, "without an IPv6 network");
        networks.create(spec("six", None)).unwrap();
        let out = outside();
        let (a, ea) = container(&networks, 1, "six");
        serve(&a, 80);
        networks
            .publish(&ea.container_id, &[mapping(None, 8080)])
            .unwrap();
        assert_eq!(ask(&out, WIDE6, 8080).as_deref(), Some(OUT6));
        networks.teardown().unwrap();
        assert_eq!(run("ip6tables", &["-S"]), before);
    });
}
