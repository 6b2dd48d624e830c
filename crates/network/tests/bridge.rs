//! Whole paths over real bridges, each test inside a network namespace of its own.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

use coracle_network::{
    Endpoint, EndpointRequest, NetworkError, NetworkSpec, Networks, Options, PortMapping, Protocol,
    RestoredEndpoint,
};
use coracle_sys::netns;

fn machine(work: impl FnOnce(&std::path::Path) + Send) {
    let ns = netns::create_anonymous().unwrap();
    let dir = tempdir();
    netns::run_in(ns.as_fd(), || {
        run("ip", &["link", "set", "lo", "up"]);
        work(&dir.0)
    })
    .unwrap();
}

struct Dir(std::path::PathBuf);
impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tempdir() -> Dir {
    let mut random = [0; 8];
    getrandom::fill(&mut random).unwrap();
    let dir = std::env::temp_dir().join(format!("coracle-network-{}", hex::encode(random)));
    std::fs::create_dir(&dir).unwrap();
    Dir(dir)
}

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap();
    assert!(
        out.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

fn container(networks: &Networks, n: u8, network: &str) -> (OwnedFd, Endpoint) {
    let request = EndpointRequest {
        container_id: format!("{n:02x}").repeat(32),
        container_name: format!("c{n}"),
        network: network.into(),
        ..EndpointRequest::default()
    };
    let endpoint = networks.reserve(&request).unwrap();
    let ns = netns::create_anonymous().unwrap();
    networks
        .connect(ns.as_fd(), std::slice::from_ref(&endpoint))
        .unwrap();
    (ns, endpoint)
}

/// Serves in `ns`: answers every client with the address it is seen under.
fn serve(ns: &OwnedFd, port: u16) {
    let listener = netns::run_in(ns.as_fd(), || {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()
    })
    .unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip().to_string();
            let _ = stream.write_all(peer.as_bytes());
        }
    });
}

fn ask(ns: &OwnedFd, ip: Ipv4Addr, port: u16) -> Option<String> {
    netns::run_in(ns.as_fd(), || {
        let to = SocketAddr::V4(SocketAddrV4::new(ip, port));
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1)).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    })
    .unwrap()
}

fn mapping(host_ip: Ipv4Addr, host_port: u16) -> PortMapping {
    PortMapping {
        host_ip,
        host_port,
        container_port: 80,
        protocol: Protocol::Tcp,
    }
}

/// A third namespace behind a veth pair: 192.0.2.1 is the machine, 192.0.2.2 the outside.
fn outside() -> OwnedFd {
    let ns = netns::create_anonymous().unwrap();
    let path = format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        std::os::fd::AsRawFd::as_raw_fd(&ns)
    );
    run(
        "ip",
        &[
            "link", "add", "up0", "type", "veth", "peer", "name", "out0", "netns", &path,
        ],
    );
    run("ip", &["addr", "add", "192.0.2.1/24", "dev", "up0"]);
    run("ip", &["link", "set", "up0", "up"]);
    netns::run_in(ns.as_fd(), || {
        run("ip", &["addr", "add", "192.0.2.2/24", "dev", "out0"]);
        run("ip", &["link", "set", "out0", "up"]);
        run("ip", &["route", "add", "default", "via", "192.0.2.1"]);
    })
    .unwrap();
    ns
}

#[test]
fn siblings_talk_and_other_networks_do_not() {
    machine(|dir| {
        let networks = Networks::open(dir, Options::default()).unwrap();
        networks
            .create(NetworkSpec {
                name: "other".into(),
                ..NetworkSpec::default()
            })
            .unwrap();
        let (a, ea) = container(&networks, 1, "bridge");
        let (b, eb) = container(&networks, 2, "bridge");
        let (c, _) = container(&networks, 3, "other");
        serve(&a, 80);
        assert_eq!(ask(&b, ea.ip, 80), Some(eb.ip.to_string()));
        assert_eq!(ask(&c, ea.ip, 80), None, "another network reaches it");
        let refused = networks.remove("other").unwrap_err();
        assert!(refused.to_string().contains("c3"), "{refused}");
    });
}

#[test]
fn published_ports_keep_the_source_and_obey_their_address() {
    machine(|dir| {
        let networks = Networks::open(dir, Options::default()).unwrap();
        let host = netns::current().unwrap();
        let out = outside();
        let (a, ea) = container(&networks, 1, "bridge");
        let (b, _) = container(&networks, 2, "bridge");
        serve(&a, 80);
        let ports = [
            mapping(Ipv4Addr::UNSPECIFIED, 8080),
            mapping(Ipv4Addr::LOCALHOST, 8081),
            mapping(Ipv4Addr::UNSPECIFIED, 0),
        ];
        let resolved = networks.publish(&ea.container_id, ea.ip, &ports).unwrap();
        assert_ne!(resolved[2].host_port, 0);
        let wide = Ipv4Addr::new(192, 0, 2, 1);
        assert_eq!(ask(&out, wide, 8080).as_deref(), Some("192.0.2.2"));
        assert_eq!(ask(&out, wide, 8081), None);
        assert_eq!(ask(&out, ea.ip, 80), None, "an unpublished way in");
        assert!(ask(&host, Ipv4Addr::LOCALHOST, 8080).is_some());
        assert!(ask(&host, Ipv4Addr::LOCALHOST, 8081).is_some());
        assert!(ask(&b, wide, 8080).is_some(), "hairpin from a sibling");
        assert!(ask(&a, wide, 8080).is_some(), "hairpin from itself");
        let taken = networks
            .publish("other", ea.ip, &[mapping(Ipv4Addr::UNSPECIFIED, 8080)])
            .unwrap_err();
        assert!(matches!(taken, NetworkError::PortInUse { .. }));
        assert_eq!(taken.to_string(), "port 8080/tcp on 0.0.0.0 is in use");
        run("nft", &["flush", "ruleset"]);
        assert_eq!(ask(&out, wide, 8080), None);
        assert!(networks.ensure_firewall().unwrap());
        assert_eq!(ask(&out, wide, 8080).as_deref(), Some("192.0.2.2"));
        networks.release(&ea.container_id).unwrap();
        networks.release(&ea.container_id).unwrap();
        assert_eq!(ask(&out, wide, 8080), None);
    });
}

#[test]
fn restore_removes_what_belongs_to_nobody() {
    machine(|dir| {
        let networks = Networks::open(dir, Options::default()).unwrap();
        let (a, ea) = container(&networks, 1, "bridge");
        let (_b, eb) = container(&networks, 2, "bridge");
        serve(&a, 80);
        let ports = networks
            .publish(
                &ea.container_id,
                ea.ip,
                &[mapping(Ipv4Addr::LOCALHOST, 8080)],
            )
            .unwrap();
        drop(networks);
        let networks = Networks::open(dir, Options::default()).unwrap();
        networks
            .restore(&[RestoredEndpoint {
                endpoint: ea.clone(),
                ports,
            }])
            .unwrap();
        let links = run("ip", &["-o", "link"]);
        assert!(
            links.contains(&ea.host_link) && !links.contains(&eb.host_link),
            "{links}"
        );
        assert!(ask(&netns::current().unwrap(), Ipv4Addr::LOCALHOST, 8080).is_some());
    });
}

#[test]
fn teardown_leaves_nothing() {
    machine(|dir| {
        let state = || (run("ip", &["-o", "link"]), run("nft", &["list", "ruleset"]));
        let before = state();
        let networks = Networks::open(dir, Options::default()).unwrap();
        let _a = container(&networks, 1, "bridge");
        networks.teardown().unwrap();
        networks.teardown().unwrap();
        assert_eq!(before, state());
    });
}

#[test]
fn docker_and_its_forward_drop_let_us_through() {
    machine(|dir| {
        run("iptables", &["-P", "FORWARD", "DROP"]);
        run("iptables", &["-N", "DOCKER-USER"]);
        run("iptables", &["-A", "DOCKER-USER", "-j", "RETURN"]);
        run("iptables", &["-I", "FORWARD", "-j", "DOCKER-USER"]);
        let before = run("iptables", &["-S"]);
        let networks = Networks::open(dir, Options::default()).unwrap();
        let out = outside();
        let (a, ea) = container(&networks, 1, "bridge");
        serve(&a, 80);
        networks
            .publish(
                &ea.container_id,
                ea.ip,
                &[mapping(Ipv4Addr::UNSPECIFIED, 8080)],
            )
            .unwrap();
        assert_eq!(
            ask(&out, Ipv4Addr::new(192, 0, 2, 1), 8080).as_deref(),
            Some("192.0.2.2")
        );
        assert_eq!(networks.diagnose(), Vec::<String>::new());
        networks.teardown().unwrap();
        assert_eq!(run("iptables", &["-S"]), before);
    });
}
