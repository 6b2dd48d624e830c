//! Machines in namespaces of their own on one switch, which is a namespace too.
#![allow(clippy::unwrap_used, dead_code)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use coracle_network::overlay::{DEFAULT_POOL, OverlayKind, OverlaySpec, Peer, choose_subnet};
use coracle_network::{Endpoint, Networks, Options};
use coracle_sys::netns;
use ipnet::Ipv4Net;

use crate::common::{self, Dir, run, tempdir};

/// Before a test takes what does not come for lost.
pub const PATIENCE: Duration = Duration::from_secs(10);

fn path_of(ns: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), ns.as_raw_fd())
}

pub struct Switch(OwnedFd);

impl Switch {
    pub fn new() -> Self {
        let ns = netns::create_anonymous().unwrap();
        netns::run_in(ns.as_fd(), || {
            run("ip", &["link", "add", "switch", "type", "bridge"]);
            run("ip", &["link", "set", "switch", "up"]);
        })
        .unwrap();
        Self(ns)
    }

    /// Machine number `n`, alone as yet, at 192.0.2.`n`.
    pub fn machine(&self, n: u8) -> Machine {
        let ns = netns::create_anonymous().unwrap();
        let (inside, port) = (path_of(&ns), format!("port{n}"));
        netns::run_in(self.0.as_fd(), || {
            let add = ["link", "add", &port, "type", "veth", "peer"];
            let add: Vec<_> = add
                .into_iter()
                .chain(["name", "eth0", "netns", &inside])
                .collect();
            run("ip", &add);
            run("ip", &["link", "set", &port, "master", "switch", "up"]);
        })
        .unwrap();
        let mut machine = Machine {
            n,
            ns,
            dir: tempdir(),
            networks: None,
        };
        machine.inside(|_| {
            run("ip", &["link", "set", "lo", "up"]);
            let address = format!("192.0.2.{n}/24");
            run("ip", &["addr", "add", &address, "dev", "eth0"]);
            run("ip", &["link", "set", "eth0", "up"]);
        });
        machine.open();
        machine
    }
}

pub struct Machine {
    pub n: u8,
    pub ns: OwnedFd,
    dir: Dir,
    networks: Option<Networks>,
}

impl Machine {
    fn inside<T: Send>(&self, work: impl FnOnce(Option<&Networks>) -> T + Send) -> T {
        netns::run_in(self.ns.as_fd(), || work(self.networks.as_ref())).unwrap()
    }

    /// Works as the machine's daemon.
    pub fn run<T: Send>(&self, work: impl FnOnce(&Networks) -> T + Send) -> T {
        self.inside(|networks| work(networks.unwrap()))
    }

    /// The daemon goes.
    pub fn close(&mut self) {
        self.networks = None;
    }

    /// A new daemon comes.
    pub fn open(&mut self) {
        let opened = self.inside(|_| Networks::open(self.dir.path(), Options::default()).unwrap());
        self.networks = Some(opened);
    }

    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self.n)
    }

    pub fn subnet(&self) -> Ipv4Net {
        self.run(|n| n.get("bridge").unwrap().subnet)
    }

    pub fn peer(&self) -> Peer {
        Peer {
            machine: format!("{:02x}", self.n).repeat(16),
            underlay: self.address(),
            subnet: self.subnet(),
        }
    }

    /// A container on the default network.
    pub fn container(&self, n: u8) -> (OwnedFd, Endpoint) {
        self.run(|networks| common::container(networks, n, "bridge"))
    }

    /// What this machine is told when the others are `peers`.
    pub fn spec(&self, peers: &[&Machine]) -> OverlaySpec {
        let peers: Vec<_> = peers.iter().map(|p| p.peer()).collect();
        let known = peers.iter().map(|p| p.subnet);
        OverlaySpec {
            kind: OverlayKind::default(),
            own: self.address(),
            subnet: self.subnet(),
            ranges: std::iter::once(DEFAULT_POOL).chain(known).collect(),
            peers,
            mtu: None,
        }
    }

    pub fn knows(&self, peers: &[&Machine]) {
        let spec = self.spec(peers);
        self.run(|n| n.set_overlay(Some(spec)).unwrap());
    }

    /// All that the overlay could leave behind.
    pub fn traces(&self) -> String {
        self.inside(|_| {
            // Times and what connections are tracked do not belong to it.
            let links = run("ip", &["-o", "link"]);
            let routes = run("ip", &["route", "show", "table", "all"]);
            let neighbours = run("ip", &["neigh", "show", "nud", "permanent"]);
            let rules = run("nft", &["list", "ruleset"]);
            [links, routes, neighbours, rules].join("--\n")
        })
    }

    pub fn ip(&self, args: &str) -> String {
        self.inside(|_| run("ip", &args.split(' ').collect::<Vec<_>>()))
    }
}

/// Machines 1 to `count` in one cluster. The first keeps the subnet that it has; the others are given one.
pub fn cluster(switch: &Switch, count: u8) -> Vec<Machine> {
    let machines: Vec<_> = (1..=count).map(|n| switch.machine(n)).collect();
    join(&machines);
    machines
}

/// Gives each machine a subnet and tells it of all others.
pub fn join(machines: &[Machine]) {
    let mut taken = vec![machines[0].subnet()];
    for machine in &machines[1..] {
        let mut known = machine.run(|n| n.taken_subnets().unwrap());
        known.extend(&taken);
        let subnet = choose_subnet(DEFAULT_POOL, &known, None).unwrap();
        machine.run(|n| n.renumber_default(subnet).unwrap());
        taken.push(subnet);
    }
    for machine in machines {
        let others: Vec<_> = machines.iter().filter(|m| m.n != machine.n).collect();
        machine.knows(&others);
    }
}

/// A UDP socket in `ns` that sends packets whole or not at all.
pub fn udp(ns: &OwnedFd, port: u16) -> UdpSocket {
    let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    let socket = netns::run_in(ns.as_fd(), bind).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let whole = rustix::net::sockopt::Ipv4PathMtuDiscovery::DO;
    rustix::net::sockopt::set_ip_mtu_discover(&socket, whole).unwrap();
    socket
}

/// A connection from one namespace to another that says back what it is told.
pub struct Echo(TcpStream);

impl Echo {
    pub fn new(server: &OwnedFd, ip: Ipv4Addr, client: &OwnedFd) -> Self {
        let listen = || TcpListener::bind((ip, 0)).unwrap();
        let listener = netns::run_in(server.as_fd(), listen).unwrap();
        let to = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 65_536];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
        });
        let connect = || TcpStream::connect_timeout(&SocketAddr::V4(v4(to)), PATIENCE).unwrap();
        let stream = netns::run_in(client.as_fd(), connect).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    pub fn works(&mut self) -> bool {
        self.carries(vec![b'x'])
    }

    pub fn carries(&mut self, bytes: Vec<u8>) -> bool {
        let mut back = vec![0; bytes.len()];
        self.0.write_all(&bytes).is_ok() && self.0.read_exact(&mut back).is_ok() && back == bytes
    }
}

fn v4(address: SocketAddr) -> std::net::SocketAddrV4 {
    match address {
        SocketAddr::V4(v4) => v4,
        SocketAddr::V6(_) => unreachable!("it was bound to IPv4"),
    }
}
