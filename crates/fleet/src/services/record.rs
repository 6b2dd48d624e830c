//! What follows of units' texts for their service. Pure.

use crate::model::VERSION;
use coracle_engine::PublishedPort;
use coracle_network::{HostPort, Protocol};
use coracle_unit::container::{ContainerUnit, Network, PortMapping};
use coracle_unit::{Kind, Unit};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// Bytes of a name: with what the firewall writes for its signs it has room in a chain's.
const LONGEST: usize = 45;

/// A service: `services/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServiceRecord {
    /// [`VERSION`].
    pub version: u32,
    /// Its address, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// Its ports on every machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRecord>,
}

/// A port of every machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortRecord {
    pub protocol: Protocol,
    /// Address of the machine; all of IPv4 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<Ipv4Addr>,
    pub port: u16,
    /// Port of the instances.
    pub target: u16,
}

impl PortRecord {
    /// Whether a machine cannot have both.
    pub fn is_in_the_way_of(&self, other: &Self) -> bool {
        let same_ip = self.ip == other.ip || self.ip.is_none() || other.ip.is_none();
        same_ip && (self.protocol, self.port) == (other.protocol, other.port)
    }

    /// Whether it is that one of a text.
    pub fn is(&self, port: &PortMapping) -> bool {
        let ip = match port.host_ip {
            None => None,
            Some(IpAddr::V4(ip)) => Some(ip).filter(|ip| !ip.is_unspecified()),
            Some(IpAddr::V6(_)) => return false,
        };
        let protocol = self.protocol.to_string();
        // Of two that ask for one port the second is its container's own, and says by its failure that it cannot be had.
        let same = (port.host_port, port.container_port) == (Some(self.port), self.target);
        same && !port.own && port.protocol == protocol && ip == self.ip
    }

    pub fn published(&self) -> PublishedPort {
        PublishedPort {
            protocol: self.protocol,
            host: HostPort {
                ip: self.ip.map(IpAddr::V4),
                port: self.port,
            },
            target: self.target,
        }
    }
}

fn container(unit: &Unit) -> Option<&ContainerUnit> {
    match &unit.kind {
        Kind::Container { container, .. } => Some(container),
        _ => None,
    }
}

/// The service that a unit's instances are found by.
pub(crate) fn name_of(unit: &Unit) -> Option<String> {
    let apart = |n: &Network| matches!(n, Network::Host | Network::None);
    let own_network = !container(unit)?.networks.iter().any(apart);
    let name = unit.name.base().prefix().to_owned();
    (own_network && !unit.deploy.headless && name.len() <= LONGEST).then_some(name)
}

/// The ports of a unit that its service has on every machine; the rest is its containers' own.
pub(crate) fn published(unit: &Unit) -> Vec<PortRecord> {
    let Some(container) = container(unit) else {
        return Vec::new();
    };
    if name_of(unit).is_none() || unit.fleet.global {
        return Vec::new();
    }
    let ports = container.ports.iter().filter(|p| !p.own);
    let port = |p: &PortMapping| {
        let ip = match p.host_ip {
            None => None,
            Some(IpAddr::V4(ip)) => Some(ip).filter(|ip| !ip.is_unspecified()),
            Some(IpAddr::V6(_)) => return None,
        };
        Some(PortRecord {
            protocol: match p.protocol.as_str() {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                _ => return None,
            },
            ip,
            port: p.host_port?,
            target: p.container_port,
        })
    };
    let mut all: Vec<PortRecord> = Vec::new();
    for port in ports.filter_map(port) {
        let key = |p: &PortRecord| (p.protocol == Protocol::Tcp, p.ip, p.port);
        if !all.iter().any(|p| key(p) == key(&port)) {
            all.push(port);
        }
    }
    all
}

/// What is to be written of a service with these units; nothing of one that has none. Where units differ in what a port leads to, what most of
/// them say holds, the first of as many.
pub(crate) fn record_of<'a>(
    units: impl Iterator<Item = &'a Unit>,
    address: Option<Ipv4Addr>,
) -> Option<ServiceRecord> {
    let (mut any, mut votes) = (false, BTreeMap::new());
    for unit in units.filter(|u| name_of(u).is_some()) {
        any = true;
        for port in published(unit) {
            let key = (port.protocol == Protocol::Udp, port.ip, port.port);
            let targets: &mut BTreeMap<u16, usize> = votes.entry(key).or_default();
            *targets.entry(port.target).or_default() += 1;
        }
    }
    let port =
        |((udp, ip, port), targets): ((bool, Option<Ipv4Addr>, u16), BTreeMap<u16, usize>)| {
            let target = targets.into_iter().rev().max_by_key(|(_, votes)| *votes)?.0;
            Some(PortRecord {
                protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
                ip,
                port,
                target,
            })
        };
    any.then(|| ServiceRecord {
        version: VERSION,
        address,
        ports: votes.into_iter().filter_map(port).collect(),
    })
}

/// An address of the range that nobody has, by the name (FNV-1a), or the next one that is free; none if there is none left. The first and the last
/// of the range are no host's.
pub(crate) fn choose(name: &str, taken: &BTreeSet<Ipv4Addr>, range: Ipv4Net) -> Option<Ipv4Addr> {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let first = u32::from(range.network()) + 1;
    let hosts = u32::from(range.broadcast())
        .checked_sub(first)
        .filter(|n| *n > 0)?;
    let start = (hash % u64::from(hosts)) as u32;
    let at = |n: u32| Ipv4Addr::from(first + (start + n) % hosts);
    (0..hosts).map(at).find(|ip| !taken.contains(ip))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use coracle_unit::{SpecifierContext, UnitName, load};

    fn unit(name: &str, text: &str) -> Unit {
        let name = UnitName::new(name).unwrap();
        load(&name, text, &[], &SpecifierContext::default()).unwrap()
    }

    fn said(ports: &[PortRecord]) -> Vec<String> {
        let one = |p: &PortRecord| {
            let ip = p.ip.map_or_else(String::new, |ip| format!("{ip}:"));
            format!("{ip}{}:{}/{}", p.port, p.target, p.protocol)
        };
        ports.iter().map(one).collect()
    }

    #[test]
    fn ports_that_all_instances_have_in_common() {
        let text = "[Container]\nImage=x\nPublishPort=8080:80\nPublishPort=127.0.0.1:53:53/udp\nPublishPort=90%i:90\nPublishPort=70\n\
            PublishPort=[::1]:60:60\nPublishPort=0.0.0.0:8080:81\n";
        let one = unit("web@1.container", text);
        assert_eq!(name_of(&one).unwrap(), "web");
        assert_eq!(
            said(&published(&one)),
            ["8080:80/tcp", "127.0.0.1:53:53/udp"]
        );
        let none = |more: &str| {
            let unit = unit("web@1.container", &format!("{text}{more}"));
            (name_of(&unit).is_none(), published(&unit).is_empty())
        };
        assert_eq!(none("[X-Deploy]\nHeadless=true\n"), (true, true));
        assert_eq!(none("Network=host\n"), (true, true));
        assert_eq!(none("[X-Fleet]\nGlobal=true\n"), (false, true));
        assert!(name_of(&unit("web.service", "[Service]\nExecStart=/x\n")).is_none());
        let successor = unit("web+.container", text);
        assert_eq!(name_of(&successor).unwrap(), "web");
    }

    #[test]
    fn where_units_differ_most_of_them_are_right() {
        let at = |name: &str, target: u16| {
            let text = format!("[Container]\nImage=x\nPublishPort=8080:{target}\n");
            unit(name, &text)
        };
        let ports = |units: &[Unit]| said(&record_of(units.iter(), None).unwrap().ports);
        let mut units = vec![at("web@1.container", 80), at("web@1+.container", 81)];
        assert_eq!(ports(&units), ["8080:80/tcp"]);
        units.push(at("web@2.container", 81));
        assert_eq!(ports(&units), ["8080:81/tcp"]);
        assert_eq!(record_of([].into_iter(), None), None);
    }

    #[test]
    fn an_address_follows_from_the_name() {
        let range: Ipv4Net = "10.216.0.0/29".parse().unwrap();
        let first = choose("web", &BTreeSet::new(), range).unwrap();
        assert_eq!(choose("web", &BTreeSet::new(), range), Some(first));
        let mut taken = BTreeSet::new();
        while let Some(ip) = choose("web", &taken, range) {
            assert!(taken.insert(ip) && range.contains(&ip));
        }
        assert_eq!(taken.len(), 6);
        assert!(!taken.contains(&range.network()) && !taken.contains(&range.broadcast()));
        assert!(choose("web", &BTreeSet::new(), "10.0.0.0/32".parse().unwrap()).is_none());
    }

    /// What is in the store is read by the next release.
    #[test]
    fn a_record_as_it_is_stored() {
        let text = r#"{"version":1,"address":"10.216.0.5","ports":[{"protocol":"tcp","port":8080,"target":80}]}"#;
        let record: ServiceRecord = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), text);
    }
}
