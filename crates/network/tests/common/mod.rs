//! A machine in a network namespace of its own, containers on it and an outside.
#![allow(clippy::unwrap_used, dead_code)]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

use coracle_network::{Endpoint, EndpointRequest, Networks, PortRequest, Protocol};
use coracle_sys::netns;

pub fn machine(work: impl FnOnce(&std::path::Path) + Send) {
    let ns = netns::create_anonymous().unwrap();
    let dir = tempdir();
    netns::run_in(ns.as_fd(), || {
        run("ip", &["link", "set", "lo", "up"]);
        work(&dir.0)
    })
    .unwrap();
}

pub struct Dir(std::path::PathBuf);
impl Dir {
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }
}
impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn tempdir() -> Dir {
    let mut random = [0; 8];
    getrandom::fill(&mut random).unwrap();
    let dir = std::env::temp_dir().join(format!("coracle-network-{}", hex::encode(random)));
    std::fs::create_dir(&dir).unwrap();
    Dir(dir)
}

pub fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap();
    assert!(
        out.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

pub fn request(n: u8, network: &str) -> EndpointRequest {
    EndpointRequest {
        container_id: format!("{n:02x}").repeat(32),
        container_name: format!("c{n}"),
        network: network.into(),
        ..EndpointRequest::default()
    }
}

pub fn container(networks: &Networks, n: u8, network: &str) -> (OwnedFd, Endpoint) {
    let endpoint = networks.reserve(&request(n, network)).unwrap();
    let ns = netns::create_anonymous().unwrap();
    networks
        .connect(ns.as_fd(), std::slice::from_ref(&endpoint))
        .unwrap();
    (ns, endpoint)
}

/// Time for a packet that was lost while links came up to be sent again, twice.
const PATIENCE: Duration = Duration::from_secs(4);

/// Serves in `ns`, on both families: answers every client with the address it is seen under.
pub fn serve(ns: &OwnedFd, port: u16) {
    let listener = netns::run_in(ns.as_fd(), || {
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap()
    })
    .unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip().to_canonical().to_string();
            let _ = stream.write_all(peer.as_bytes());
        }
    });
}

pub fn ask(ns: &OwnedFd, ip: impl Into<IpAddr>, port: u16) -> Option<String> {
    let to = SocketAddr::new(ip.into(), port);
    netns::run_in(ns.as_fd(), || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    })
    .unwrap()
}

/// A request for port 80; without an address for all of them.
pub fn mapping(host_ip: impl Into<Option<IpAddr>>, host_port: u16) -> PortRequest {
    PortRequest {
        host_ip: host_ip.into(),
        host_port,
        host_last: host_port,
        container_port: 80,
        protocol: Protocol::Tcp,
    }
}

/// A third namespace behind a veth pair: 192.0.2.1 and 2001:db8::1 are the machine, 192.0.2.2 and 2001:db8::2 the outside.
pub fn outside() -> OwnedFd {
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
    run(
        "ip",
        &["addr", "add", "2001:db8::1/64", "dev", "up0", "nodad"],
    );
    run("ip", &["link", "set", "up0", "up"]);
    netns::run_in(ns.as_fd(), || {
        run("ip", &["addr", "add", "192.0.2.2/24", "dev", "out0"]);
        run(
            "ip",
            &["addr", "add", "2001:db8::2/64", "dev", "out0", "nodad"],
        );
        run("ip", &["link", "set", "out0", "up"]);
        run("ip", &["route", "add", "default", "via", "192.0.2.1"]);
        run("ip", &["route", "add", "default", "via", "2001:db8::1"]);
    })
    .unwrap();
    ns
}
