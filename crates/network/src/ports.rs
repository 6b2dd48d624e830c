//! Host ports: held against every other program, and opened in the firewall.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use coracle_sys::netlink::forget_udp_flows;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt,
};

use crate::error::NetworkError;
use crate::firewall::{self, Elements, Published};
use crate::model::{PortMapping, PortRequest, Protocol};
use crate::networks::Inner;
use crate::ways::{Backends, ways};

/// How often another port is tried when one that the kernel chose for one family is in use in the other.
const TRIES: usize = 64;

/// A published port.
pub(crate) struct Port {
    pub container: String,
    pub to: (IpAddr, u16),
    /// Holds the host port against every other program.
    _claim: OwnedFd,
}

/// Binds a port, 0 for one that is free. A socket of IPv6 takes nothing of IPv4.
pub(crate) fn claim(
    ip: IpAddr,
    port: u16,
    protocol: Protocol,
) -> Result<(OwnedFd, u16), NetworkError> {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let family = match ip {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let open = || -> Result<_, Errno> {
        let fd = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        if ip.is_ipv6() {
            sockopt::set_ipv6_v6only(&fd, true)?;
        }
        bind(&fd, &SocketAddr::new(ip, port))?;
        let bound = SocketAddr::try_from(getsockname(&fd)?)?;
        Ok((fd, bound.port()))
    };
    open().map_err(|e| match e {
        Errno::ADDRINUSE => NetworkError::PortInUse { ip, port, protocol },
        e => NetworkError::Bind {
            ip,
            port,
            protocol,
            source: e.into(),
        },
    })
}

/// Holds one port on every address that is asked for: the same port on all of them.
fn claim_all(
    request: &PortRequest,
    hosts: &[IpAddr],
) -> Result<Vec<(IpAddr, OwnedFd, u16)>, NetworkError> {
    let once = |from: u16| {
        let mut held: Vec<(IpAddr, OwnedFd, u16)> = Vec::with_capacity(hosts.len());
        for host in hosts {
            let port = held.first().map_or(from, |first| first.2);
            let (fd, port) = claim(*host, port, request.protocol)?;
            held.push((*host, fd, port));
        }
        Ok(held)
    };
    let first = request.host_port;
    let mut last = once(first);
    let others: Vec<u16> = match first {
        0 => vec![0; TRIES - 1],
        _ => (first..=request.host_last).skip(1).collect(),
    };
    for port in others {
        match last {
            Err(NetworkError::PortInUse { .. }) => last = once(port),
            other => return other,
        }
    }
    last
}

/// The host addresses that a request means.
fn hosts(
    request: &PortRequest,
    to: Backends,
    usual: Ipv4Addr,
) -> Result<Vec<IpAddr>, NetworkError> {
    match request.host_ip {
        None => {
            let v4 = to.v4.map(|_| IpAddr::V4(usual));
            let v6 = to.v6.map(|_| IpAddr::V6(Ipv6Addr::UNSPECIFIED));
            Ok(v4.into_iter().chain(v6).collect())
        }
        Some(ip) if ip.is_ipv6() && to.v6.is_none() => Err(NetworkError::NoIpv6Backend {
            ip,
            port: request.host_port,
            protocol: request.protocol,
        }),
        Some(ip) => Ok(vec![ip]),
    }
}

impl Inner {
    pub(crate) fn backends(&self, container: &str) -> Backends {
        ways(
            self.endpoints
                .iter()
                .filter(|e| e.container_id == container),
        )
        .backends()
    }

    /// Where a container's ports are published that name no address: its network may say.
    fn usual_host(&self, container: &str) -> Ipv4Addr {
        let mine = self
            .endpoints
            .iter()
            .filter(|e| e.container_id == container);
        let network = ways(mine).v4.and_then(|e| self.networks.get(&e.network));
        network.map_or(Ipv4Addr::UNSPECIFIED, |n| {
            crate::options::of(&n.options).host
        })
    }

    pub(crate) fn publish(
        &mut self,
        container: &str,
        wanted: &[PortRequest],
        load: bool,
    ) -> Result<Vec<PortMapping>, NetworkError> {
        let backends = self.backends(container);
        if backends == Backends::default() && !wanted.is_empty() {
            return Err(NetworkError::NoNetwork(container.into()));
        }
        let mut claimed: BTreeMap<Published, Port> = BTreeMap::new();
        let mut resolved = Vec::with_capacity(wanted.len());
        for request in wanted {
            let hosts = hosts(request, backends, self.usual_host(container))?;
            for (host_ip, fd, host_port) in claim_all(request, &hosts)? {
                let Some(to) = backends.of(host_ip) else {
                    continue;
                };
                let port = Port {
                    container: container.to_owned(),
                    to: (to, request.container_port),
                    _claim: fd,
                };
                claimed.insert((request.protocol, host_ip, host_port), port);
                resolved.push(PortMapping {
                    host_ip,
                    host_port,
                    container_port: request.container_port,
                    protocol: request.protocol,
                });
            }
        }
        if load && !claimed.is_empty() {
            let elements: Elements = claimed.iter().map(|(k, p)| (*k, p.to)).collect();
            firewall::load(&firewall::add(&elements))?;
        }
        self.ports.extend(claimed);
        Ok(resolved)
    }

    pub(crate) fn published(&self, container: &str) -> Vec<PortMapping> {
        let mine = self.ports.iter().filter(|(_, p)| p.container == container);
        mine.map(|((protocol, host_ip, host_port), port)| PortMapping {
            host_ip: *host_ip,
            host_port: *host_port,
            container_port: port.to.1,
            protocol: *protocol,
        })
        .collect()
    }

    pub(crate) fn unpublish(&mut self, gone: impl Fn(&Port) -> bool) -> Result<(), NetworkError> {
        let keys: Vec<_> = self
            .ports
            .iter()
            .filter(|(_, p)| gone(p))
            .map(|(k, _)| *k)
            .collect();
        if keys.is_empty() {
            return Ok(());
        }
        let ports: Vec<_> = keys.iter().filter_map(|k| self.ports.remove(k)).collect();
        // After a foreign flush the elements are not there to delete: the whole table sets it right.
        firewall::load(&firewall::delete(keys.iter())).or_else(|_| self.reload())?;
        let udp: Vec<_> = keys
            .iter()
            .zip(&ports)
            .filter(|(k, _)| k.0 == Protocol::Udp)
            .map(|(_, p)| p.to.0)
            .collect();
        forget(&udp);
        Ok(())
    }

    /// After a container joined or left a network: its ports follow its default routes, and those of a family that it has
    /// no address of any more are closed.
    pub(crate) fn follow(&mut self, container: &str, before: Backends) -> Result<(), NetworkError> {
        let now = self.backends(container);
        if now == before {
            return Ok(());
        }
        self.unpublish(|p| p.container == container && now.of(p.to.0).is_none())?;
        let mut moved = Elements::new();
        let mut udp = Vec::new();
        for (key, port) in self
            .ports
            .iter_mut()
            .filter(|(_, p)| p.container == container)
        {
            match now.of(port.to.0) {
                Some(to) if to != port.to.0 => {
                    if key.0 == Protocol::Udp {
                        udp.push(port.to.0);
                    }
                    port.to.0 = to;
                    moved.insert(*key, port.to);
                }
                _ => {}
            }
        }
        if moved.is_empty() {
            return Ok(());
        }
        let rules = firewall::delete(moved.keys()) + &firewall::add(&moved);
        firewall::load(&rules).or_else(|_| self.reload())?;
        forget(&udp);
        Ok(())
    }
}

fn forget(backends: &[IpAddr]) {
    if !backends.is_empty()
        && let Err(error) = forget_udp_flows(backends)
    {
        tracing::warn!(%error, "cannot clear the UDP flows of a port that is published no more");
    }
}
