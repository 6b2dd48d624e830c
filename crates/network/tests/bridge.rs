//! Whole paths over real bridges, each test inside a network namespace of its own.
#![allow(clippy::unwrap_used)]

mod common;

use common::{ask, container, machine, mapping, outside, run, serve};
use coracle_network::{NetworkError, NetworkSpec, Networks, Options, RestoredEndpoint};
use coracle_sys::netns;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

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

/// The kernel counts links on over those that are gone.
#[test]
fn a_network_is_left_and_joined_again() {
    machine(|dir| {
        let networks = Networks::open(dir, Options::default()).unwrap();
        networks
            .create(NetworkSpec {
                name: "other".into(),
                ..NetworkSpec::default()
            })
            .unwrap();
        let (a, ea) = container(&networks, 1, "bridge");
        let (b, _) = container(&networks, 2, "other");
        serve(&a, 80);
        for _ in 0..3 {
            let joined = networks.reserve(&common::request(1, "other")).unwrap();
            networks.join(a.as_fd(), &joined).unwrap();
            assert!(ask(&b, joined.ip, 80).is_some());
            networks
                .disconnect(&ea.container_id, "other", Some(a.as_fd()))
                .unwrap();
        }
        assert!(
            !networks
                .endpoints()
                .iter()
                .any(|e| e.network_name == "other" && e.container_name == "c1")
        );
    });
}

/// As where tunnels are known: a new namespace has some links (sit0, ip6tnl0) from its beginning.
#[test]
fn a_new_namespace_may_have_links_already() {
    machine(|dir| {
        let networks = Networks::open(dir, Options::default()).unwrap();
        let (a, ea) = container(&networks, 1, "bridge");
        serve(&a, 80);
        let endpoint = networks.reserve(&common::request(2, "bridge")).unwrap();
        let ns = netns::create_anonymous().unwrap();
        let add = ["link", "add", "sit0", "type", "bridge"];
        netns::run_in(ns.as_fd(), || run("ip", &add)).unwrap();
        networks
            .connect(ns.as_fd(), std::slice::from_ref(&endpoint))
            .unwrap();
        assert_eq!(ask(&ns, ea.ip, 80), Some(endpoint.ip.to_string()));
    });
}

#[test]
fn published_ports_keep_the_source_and_obey_their_address() {
    machine(|dir| {
        let networks = Networks::open(dir, Options::default()).unwrap();
        let host = netns::current().unwrap();
        let out = outside();
        let (a, ea) = container(&networks, 1, "bridge");
        let (b, eb) = container(&networks, 2, "bridge");
        serve(&a, 80);
        let ports = [mapping(ANY, 8080), mapping(LOOPBACK, 8081), mapping(ANY, 0)];
        let resolved = networks.publish(&ea.container_id, &ports).unwrap();
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
            .publish(&eb.container_id, &[mapping(ANY, 8080)])
            .unwrap_err();
        assert!(matches!(taken, NetworkError::PortInUse { .. }));
        assert_eq!(
            taken.to_string(),
            "Bind for 0.0.0.0:8080/tcp failed: port is already allocated"
        );
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
            .publish(&ea.container_id, &[mapping(LOOPBACK, 8080)])
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
            .publish(&ea.container_id, &[mapping(ANY, 8080)])
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

/// The host's firewall may keep its programs waiting.
#[test]
fn a_slow_firewall_program_holds_no_container_up() {
    const DIR: &str = "CORACLE_SLOW_IPTABLES";
    let Some(fake) = std::env::var_os(DIR).map(PathBuf::from) else {
        // Which program is found is a matter of the whole process, so it has one of its own.
        let fake = common::tempdir();
        let script = "#!/bin/sh\ncd \"$CORACLE_SLOW_IPTABLES\" && [ -e slow ] || exit 1\ntouch waits; n=0\n\
            while [ ! -e go ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done\ntouch goes-on; exit 1\n";
        let program = fake.path().join("iptables");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let path = std::env::var("PATH").unwrap();
        let again = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_slow_firewall_program_holds_no_container_up"])
            .env(DIR, fake.path())
            .env("PATH", format!("{}:{path}", fake.path().display()))
            .output()
            .unwrap();
        assert!(again.status.success(), "{again:?}");
        return;
    };
    machine(|dir| {
        let networks = Networks::open(dir, Options::default()).unwrap();
        std::fs::write(fake.join("slow"), "").unwrap();
        std::thread::scope(|scope| {
            let looked = scope.spawn(|| networks.ensure_firewall());
            while !fake.join("waits").exists() {
                assert!(!looked.is_finished(), "it never ran the program");
                std::thread::yield_now();
            }
            networks.reserve(&common::request(1, "bridge")).unwrap();
            assert!(!fake.join("goes-on").exists(), "an address was waited for");
            std::fs::write(fake.join("go"), "").unwrap();
            assert!(!looked.join().unwrap().unwrap());
        });
        networks.teardown().unwrap();
    });
}
