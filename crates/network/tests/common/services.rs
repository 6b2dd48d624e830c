//! Services, instances that say who they are, and clients that tell a refusal from silence.
#![allow(clippy::unwrap_used, dead_code)]

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

use coracle_network::{Backend, HostPort, Networks, Protocol, Service, ServicePort};
use coracle_sys::netns;

/// Before a test takes what does not come for lost.
pub const PATIENCE: Duration = Duration::from_secs(10);
pub const WEB: Ipv4Addr = Ipv4Addr::new(10, 216, 0, 5);
pub const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// The instances' port.
pub const TARGET: u16 = 8080;

/// Whether this process runs `test` and no other; if not, one is made that does. What a test starts has the ports of all others in its
/// process for a moment, until it is another program, so a port that was let go may be in use yet.
pub fn alone(test: &str) -> bool {
    const ALONE: &str = "CORACLE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let again = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(ALONE, "")
        .output()
        .unwrap();
    assert!(again.status.success(), "{again:?}");
    false
}

/// Sets services, all of which can be had.
pub fn set(networks: &Networks, services: Vec<Service>) {
    let refusals = networks.set_services(services).unwrap();
    assert!(refusals.is_empty(), "{refusals:?}");
}

pub fn ready(address: Ipv4Addr) -> Backend {
    Backend {
        address,
        ready: true,
    }
}

pub fn draining(address: Ipv4Addr) -> Backend {
    Backend {
        address,
        ready: false,
    }
}

/// `web` at [`WEB`]: 80/tcp and 53/udp, published on the same ports of the machine if `published`.
pub fn web(backends: &[Backend], published: bool) -> Service {
    let port = |protocol, port| ServicePort {
        protocol,
        port,
        target: TARGET,
        published: published
            .then_some(HostPort { ip: None, port })
            .into_iter()
            .collect(),
    };
    Service {
        name: "web".into(),
        address: Some(WEB),
        every_port: false,
        ports: vec![port(Protocol::Tcp, 80), port(Protocol::Udp, 53)],
        backends: backends.to_vec(),
    }
}

/// An instance in `ns` that tells every client both addresses, its own and the client's, and says back what it is told then. Packets it
/// answers with its own.
pub fn instance(ns: &OwnedFd, own: Ipv4Addr) {
    let name = own.to_string();
    let (listener, socket) = netns::run_in(ns.as_fd(), || {
        let any = (Ipv4Addr::UNSPECIFIED, TARGET);
        (
            TcpListener::bind(any).unwrap(),
            UdpSocket::bind(any).unwrap(),
        )
    })
    .unwrap();
    let mine = name.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, client)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(mine.as_bytes(), client);
        }
    });
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let line = format!("{name} {}\n", stream.peer_addr().unwrap().ip());
            std::thread::spawn(move || {
                let mut buffer = [0; 16];
                let _ = stream.write_all(line.as_bytes());
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

/// A connection to an instance.
pub struct Talk {
    stream: TcpStream,
    /// The instance's address.
    pub with: Ipv4Addr,
    /// The client's address, as the instance knows it.
    pub seen: Ipv4Addr,
}

impl Talk {
    pub fn new(client: &OwnedFd, ip: Ipv4Addr, port: u16) -> Result<Self, ErrorKind> {
        netns::run_in(client.as_fd(), || Self::here(ip, port)).unwrap()
    }

    /// From the calling thread's own namespace.
    pub fn here(ip: Ipv4Addr, port: u16) -> Result<Self, ErrorKind> {
        let talk = || -> std::io::Result<Self> {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::from((ip, port)), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let (mut text, mut byte) = (String::new(), [0]);
            while byte != *b"\n" {
                stream.read_exact(&mut byte)?;
                text.push(byte[0].into());
            }
            let (with, seen) = text.trim().split_once(' ').unwrap();
            let (with, seen) = (with.parse().unwrap(), seen.parse().unwrap());
            Ok(Self { stream, with, seen })
        };
        talk().map_err(|e| e.kind())
    }

    pub fn works(&mut self) -> bool {
        let mut back = [0];
        self.stream.write_all(b"x").is_ok()
            && self.stream.read_exact(&mut back).is_ok()
            && back == *b"x"
    }
}

/// Which instance answers.
pub fn who(client: &OwnedFd, ip: Ipv4Addr, port: u16) -> Result<Ipv4Addr, ErrorKind> {
    Talk::new(client, ip, port).map(|t| t.with)
}

/// As whom an instance sees the client, if one can be reached.
pub fn seen(client: &OwnedFd, ip: Ipv4Addr, port: u16) -> Option<Ipv4Addr> {
    Talk::new(client, ip, port).ok().map(|t| t.seen)
}

/// All instances that answer, asked until there are so many.
pub fn all(client: &OwnedFd, ip: Ipv4Addr, port: u16, count: usize) -> BTreeSet<Ipv4Addr> {
    let mut seen = BTreeSet::new();
    // One of three is missed so often in 1 run of 10^35.
    for _ in 0..200 {
        if seen.len() < count {
            seen.insert(who(client, ip, port).unwrap());
        }
    }
    seen
}

/// A socket that sends to one address and port, and hears of refusals.
pub fn packets(client: &OwnedFd, ip: Ipv4Addr, port: u16) -> UdpSocket {
    let connect = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.connect((ip, port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    netns::run_in(client.as_fd(), connect).unwrap()
}

/// Which instance answers a packet. The machine's own sockets are told of a refusal by the kernel when they send (EPERM), others by ICMP.
pub fn whose(socket: &UdpSocket) -> Result<Ipv4Addr, ErrorKind> {
    let mut buffer = [0; 64];
    let answer = socket.send(b"who").and_then(|_| socket.recv(&mut buffer));
    let length = answer.map_err(|e| match e.kind() {
        ErrorKind::PermissionDenied => ErrorKind::ConnectionRefused,
        other => other,
    })?;
    Ok(String::from_utf8_lossy(&buffer[..length]).parse().unwrap())
}
