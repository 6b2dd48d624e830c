//! Services: one address on every machine, behind which instances come and go.
//!
//! [`Networks::set_services`](crate::Networks::set_services) is told all services with their instances, as often as something
//! changes. It makes of the firewall what that says, in one transaction, and touches nothing of the services that stay as they are.
//!
//! Worked example: `web` has the address 10.216.0.5 and port 80, instances at 10.210.0.2:8080 on this machine and 10.212.0.2:8080 on
//! another. The table has
//!
//! | what | says |
//! | --- | --- |
//! | element of `services` | what the machine sends to `10.216.0.5 . tcp . 80` goes to the chain `service/web/tcp/80` |
//! | element of `services_from` | so does what comes in by `coracle0` for that |
//! | chain `service/web/tcp/80` | one of both is chosen at random and takes the destination's place |
//!
//! A service with [`Service::every_port`] has elements of its address alone instead, in `services_all` and `services_all_from`, which are
//! looked at behind the others, and the chain `service/web`, which leaves the port as it is: whatever an instance listens to is had at the
//! service's address too, and it answers pings.
//!
//! Only a connection's first packet comes there; the others go where the first one went, also when that instance is gone from the
//! chain. UDP has no connections that end, so flows of an instance that left, or is not ready any more, are forgotten at once.
//!
//! **What is refused.** Whatever is for the services' range and was not translated: an address that no service has, another port, a
//! service that nobody may reach from there. So is a service without a ready instance, by its chain. TCP is told by a reset, all else
//! by ICMP's "port unreachable"; a program of the machine itself that sends UDP is told by the kernel (EPERM) besides.
//!
//! **Who reaches whom.** The machine itself, containers that come in by the default network and whoever asks a published port reach
//! every instance, but for those on internal networks. Containers of another network reach the instances on that network alone: for
//! them `services_from` has an element with their bridge if there is such an instance, and a chain of its own,
//! `service/web/tcp/80/cor-0123456789a`. A container of the default network whose default route is another's has a route of its own to
//! services, by the default network. An internal network's containers have no default route, and so no way to a service's address
//! either. An instance that is in no network of this machine and in no subnet of a [peer](crate::overlay::Peer) gets nothing: it would be
//! sought outside. Where containers of a network do not reach each other (`enable_icc=false`) they reach its services as they do published ports.
//!
//! **The range** is a route by the default network's bridge, so that the machine itself asks with an address that instances
//! can answer, and needs no default route. Where the bridge is not there an unreachable route stands behind it.
//!
//! **Published ports** are translated by the same chains. The port is held by a socket as that of a container is
//! ([`crate::PortRequest`]). An instance on this machine sees the client's address; one on another machine sees the address of this
//! machine's bridge, which is the only one of this machine that it is let to have over there.

mod apply;
mod route;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::error::NetworkError;
use crate::model::Protocol;

pub(crate) use apply::Services;
pub(crate) use route::PROTOCOL;
pub(crate) use rules::Rules;

/// Where services' addresses are from unless the machines agree on another range: beside the 10.210.0.0/16 of networks that people make and
/// the 10.212.0.0/14 of machines' subnets.
pub const DEFAULT_RANGE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 216, 0, 0), 16);
/// Bytes of a service's name as it stands in a chain's, whose other parts need some too (NFT_NAME_MAXLEN is 256).
const LONGEST_NAME: usize = 180;

/// A service as every machine knows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Service {
    /// The name, which no other has.
    pub name: String,
    /// Its address on every machine, of [`crate::Options::services`]; without one it has published ports alone.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// Whether its address stands for its instances with every port and protocol of theirs, besides [`Self::ports`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub every_port: bool,
    /// Its ports; one of a number and protocol.
    pub ports: Vec<ServicePort>,
    /// Its instances, on whichever machine.
    pub backends: Vec<Backend>,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServicePort {
    /// Protocol.
    pub protocol: Protocol,
    /// Port at the service's address.
    pub port: u16,
    /// The instances' port.
    pub target: u16,
    /// Ports of every machine that lead there too.
    #[serde(default)]
    pub published: Vec<HostPort>,
}

/// A port of every machine. Services are of IPv4 in this release: no port of an IPv6 address is claimed, `[::]` and `[::1]` included; one
/// that is asked for is told as a [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// Address of the machine, such as `127.0.0.1`; all of IPv4 if absent, as with `0.0.0.0`.
    #[serde(default)]
    pub ip: Option<IpAddr>,
    /// Port, not 0.
    pub port: u16,
}

/// An instance of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Backend {
    /// Its address in the default network of its machine, or in another network of this one.
    pub address: Ipv4Addr,
    /// Whether it gets new connections. One that is not ready keeps those that it has, see [`crate::Networks::connections`].
    pub ready: bool,
}

/// A published port that a service does not have on this machine.
#[derive(Debug)]
pub struct Refusal {
    /// The service.
    pub service: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Address of the machine; `0.0.0.0` for all of IPv4.
    pub ip: IpAddr,
    /// Port of the machine.
    pub port: u16,
    /// Why: [`NetworkError::ServicePort`] if others have it, [`NetworkError::ServiceIpv6`] for an IPv6 address, [`NetworkError::Bind`] for
    /// what the kernel says, such as an address that the machine does not have.
    pub error: NetworkError,
}

/// The services in order, each said once, if they can be.
fn normal(mut services: Vec<Service>, range: Ipv4Net) -> Result<Vec<Service>, NetworkError> {
    services.sort();
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeMap::new());
    for service in &mut services {
        let bad = |why: String| NetworkError::BadService {
            service: service.name.clone(),
            why,
        };
        if service.name.is_empty() || rules::escaped(&service.name).len() > LONGEST_NAME {
            return Err(bad(format!(
                "a name has 1 to {LONGEST_NAME} letters, digits, - and . (others count for three); choose one such as web"
            )));
        }
        if !names.insert(service.name.clone()) {
            return Err(bad("it is given twice; say it once with all of it".into()));
        }
        if let Some(ip) = service.address {
            if !range.contains(&ip) {
                return Err(bad(format!(
                    "its address {ip} is not of {range}, which services' addresses are from; give it one of those"
                )));
            }
            if let Some(other) = addresses.insert(ip, service.name.clone()) {
                return Err(bad(format!(
                    "its address {ip} is that of service {other} too; give it another"
                )));
            }
        }
        let (mut seen, mut hosts) = (BTreeSet::new(), BTreeSet::new());
        for port in &service.ports {
            let (number, protocol) = (port.port, port.protocol);
            if !seen.insert((protocol, number)) {
                return Err(bad(format!(
                    "port {number}/{protocol} is given twice; say it once with all that it is published on"
                )));
            }
            if let Some((_, ip, host)) = port.keys().into_iter().find(|k| !hosts.insert(*k)) {
                return Err(bad(format!(
                    "two of its ports are published on port {host}/{protocol} of {ip}; publish each on a port of its own"
                )));
            }
            let zero = port.published.iter().any(|p| p.port == 0);
            if zero || number == 0 || port.target == 0 {
                return Err(bad(format!(
                    "port {number}/{protocol}: 0 is no port; write one that is the same on every machine"
                )));
            }
        }
        service.ports.sort();
        for port in &mut service.ports {
            port.published.sort();
            port.published.dedup();
        }
        // An address may be had again before all know that it was given up: who is ready has it.
        service.backends.sort_by_key(|b| (b.address, !b.ready));
        service.backends.dedup_by_key(|b| b.address);
    }
    Ok(services)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn web() -> Service {
        serde_json::from_value(serde_json::json!({
            "name": "web", "address": "10.216.0.5",
            "ports": [{ "protocol": "tcp", "port": 80, "target": 8080, "published": [{ "ip": null, "port": 80 }] }],
            "backends": [{ "address": "10.210.0.3", "ready": true }, { "address": "10.210.0.2", "ready": false },
                { "address": "10.210.0.2", "ready": true }],
        }))
        .unwrap()
    }

    #[test]
    fn each_is_said_once_and_in_order() {
        let (mut a, mut b) = (web(), web());
        a.name = "a".into();
        a.address = None;
        b.backends.reverse();
        let all = normal(vec![b, a.clone()], DEFAULT_RANGE).unwrap();
        let other = normal(vec![a, web()], DEFAULT_RANGE).unwrap();
        assert_eq!(all, other);
        let ready: Vec<_> = all[1].backends.iter().map(|b| b.ready).collect();
        assert_eq!((all[0].name.as_str(), ready), ("a", vec![true, true]));
    }

    #[test]
    fn services_that_cannot_be_are_named() {
        let refusal = |change: &dyn Fn(&mut Service)| {
            let mut service = web();
            change(&mut service);
            let error = normal(vec![service], DEFAULT_RANGE).unwrap_err();
            assert!(error.to_string().contains("service"), "{error}");
            error.to_string()
        };
        assert!(refusal(&|s| s.name.clear()).contains("a name"));
        assert!(refusal(&|s| s.name = "@".repeat(61)).contains("a name"));
        let outside = |s: &mut Service| s.address = Some(Ipv4Addr::new(10, 217, 0, 1));
        assert!(refusal(&outside).contains("10.217.0.1 is not of 10.216.0.0/16"));
        assert!(refusal(&|s| s.ports.push(s.ports[0].clone())).contains("80/tcp is given twice"));
        assert!(refusal(&|s| s.ports[0].target = 0).contains("0 is no port"));
        assert!(refusal(&|s| s.ports[0].published[0].port = 0).contains("0 is no port"));
        let second = |s: &mut Service| {
            let mut port = s.ports[0].clone();
            (port.port, port.published[0].ip) = (81, Some(Ipv4Addr::UNSPECIFIED.into()));
            s.ports.push(port);
        };
        assert!(refusal(&second).contains("80/tcp of 0.0.0.0"));
        let mut other = web();
        let both = |o: &Service| normal(vec![web(), o.clone()], DEFAULT_RANGE).unwrap_err();
        assert!(both(&other).to_string().contains("given twice"));
        other.name = "x".into();
        assert!(both(&other).to_string().contains("of service web too"));
    }
}
