//! Which subnets a network gets, and what of its request cannot be.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::addresses::at;
use crate::error::NetworkError;
use crate::link;
use crate::model::{Driver, Network, NetworkId, NetworkSpec};
use crate::networks::Inner;
use crate::overlay;
use crate::services;
use crate::v6;

/// Ranges that no machine has addresses of: this host, loopback, multicast and what is reserved; of IPv6 also mapped IPv4, the
/// discard prefix, which has [`crate::firewall::LOOPBACK_STAND_INS`], and what holds on one link alone.
const RESERVED: [&str; 8] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/64",
    "100::/64",
    "fe80::/10",
    "ff00::/8",
];

/// Refuses a subnet that a network cannot have its addresses from, whatever is in use.
fn usable(subnet: IpNet) -> Result<(), NetworkError> {
    let mut reserved = RESERVED.iter().filter_map(|r| r.parse::<IpNet>().ok());
    let overlaps = |r: IpNet| r.contains(&subnet) || subnet.contains(&r);
    // One address is the gateway's.
    if subnet.prefix_len() == subnet.max_prefix_len() || reserved.any(overlaps) {
        return Err(NetworkError::BadSubnet(subnet));
    }
    Ok(())
}

/// Subnets in use, and by what.
type Used = Vec<(IpNet, String)>;

/// What overlaps `subnet`, if anything does.
fn overlap(used: &Used, subnet: IpNet) -> Option<String> {
    let overlaps = |other: &IpNet| {
        other.prefix_len() > 0 && (subnet.contains(other) || other.contains(&subnet))
    };
    used.iter()
        .find(|(net, _)| overlaps(net))
        .map(|u| u.1.clone())
}

fn free(used: &Used, name: &str, subnet: IpNet) -> Result<(), NetworkError> {
    match overlap(used, subnet) {
        None => Ok(()),
        Some(other) => Err(NetworkError::Overlap {
            network: name.into(),
            subnet,
            other,
        }),
    }
}

impl Inner {
    /// Subnets of one family that routes of this machine and networks have, but for those of one network.
    fn used_but(&mut self, but: Option<&NetworkId>, v6: bool) -> Result<Used, NetworkError> {
        let own = but.and_then(|id| self.bridges.get(id)).copied();
        let mut used: Used = link::used_subnets(&mut self.netlink, v6)?
            .into_iter()
            .filter(|c| c.protocol != overlay::PROTOCOL && c.protocol != services::PROTOCOL)
            .filter(|c| own.is_none() || c.link != own)
            .map(|c| (c.net, format!("route {} of this machine", c.net)))
            .collect();
        for network in self
            .networks
            .values()
            .filter(|n| n.driver == Driver::Bridge && Some(&n.id) != but)
        {
            let subnet = if v6 {
                network.subnet6.map(IpNet::V6)
            } else {
                Some(network.subnet.into())
            };
            used.extend(subnet.map(|s| (s, format!("network {}", network.name))));
        }
        Ok(used)
    }

    /// As [`Self::used_but`], and what other machines have.
    fn used_anywhere(&mut self, v6: bool) -> Result<Used, NetworkError> {
        let mut used = self.used_but(None, v6)?;
        let others = self.overlay.iter().flat_map(|o| o.spec.others());
        let others = others.map(|net| (net.into(), format!("{net} of the cluster's machines")));
        used.extend(others.filter(|(net, _): &(IpNet, _)| v6 == matches!(net, IpNet::V6(_))));
        Ok(used)
    }

    /// Subnets of one family that nothing new may have.
    fn used(&mut self, v6: bool) -> Result<Used, NetworkError> {
        let mut used = self.used_anywhere(v6)?;
        if !v6 {
            used.push(self.services_range());
        }
        Ok(used)
    }

    fn services_range(&self) -> (IpNet, String) {
        let range = self.options.services;
        (range.into(), format!("{range} of the services"))
    }

    /// What on this machine or another overlaps the services' range, if anything does.
    pub(crate) fn services_overlap(
        &mut self,
        range: Ipv4Net,
    ) -> Result<Option<String>, NetworkError> {
        Ok(overlap(&self.used_anywhere(false)?, range.into()))
    }

    /// IPv4 subnets that are in use here, the default network's and the overlay's apart.
    pub(crate) fn taken_subnets(&mut self) -> Result<Vec<Ipv4Net>, NetworkError> {
        let default = self.get("bridge")?.id;
        let mut used = self.used_but(Some(&default), false)?;
        used.push(self.services_range());
        let v4 = used.into_iter().filter_map(|(net, _)| match net {
            IpNet::V4(net) if net.prefix_len() > 0 => Some(net),
            _ => None,
        });
        let mut all: Vec<_> = v4.collect();
        all.sort();
        all.dedup();
        Ok(all)
    }

    /// Refuses a subnet that the default network cannot have.
    pub(crate) fn may_be_default(
        &mut self,
        default: &Network,
        subnet: Ipv4Net,
    ) -> Result<(), NetworkError> {
        usable(subnet.into())?;
        let mut used = self.used_but(Some(&default.id), false)?;
        used.push(self.services_range());
        free(&used, &default.name, subnet.into())
    }

    pub(crate) fn choose_subnet(&mut self, spec: &NetworkSpec) -> Result<Ipv4Net, NetworkError> {
        let used = self.used(false)?;
        if let Some(subnet) = spec.subnet.map(|s| s.trunc()) {
            usable(subnet.into())?;
            return free(&used, &spec.name, subnet.into()).map(|()| subnet);
        }
        let pool = self.options.default_pool;
        // The network that everybody is on unless they say otherwise has as many places as a bridge of Linux has ports.
        let length = if spec.name == "bridge" { 22 } else { 24 };
        let length = pool.prefix_len().max(length);
        let found = pool
            .subnets(length)
            .ok()
            .and_then(|mut all| all.find(|s| overlap(&used, (*s).into()).is_none()));
        found.ok_or(NetworkError::NoSubnet(pool.into()))
    }

    /// IPv6 subnet and gateway, if they are asked for.
    pub(crate) fn choose_ipv6(
        &mut self,
        spec: &NetworkSpec,
    ) -> Result<Option<(Ipv6Net, Ipv6Addr)>, NetworkError> {
        if !spec.ipv6 {
            let subnet = spec.subnet6.or(spec.ip_range6).map(|s| s.to_string());
            return match subnet.or(spec.gateway6.map(|g| g.to_string())) {
                None => Ok(None),
                Some(what) => Err(NetworkError::Ipv6NotAsked {
                    network: spec.name.clone(),
                    what,
                }),
            };
        }
        if !v6::in_kernel() {
            return Err(NetworkError::NoKernelIpv6(spec.name.clone()));
        }
        let used = self.used(true)?;
        let subnet = match spec.subnet6.map(|s| s.trunc()) {
            Some(subnet) => {
                usable(subnet.into())?;
                free(&used, &spec.name, subnet.into()).map(|()| subnet)?
            }
            None => {
                let pool = self.options.ula;
                let mut all = pool.subnets(64).into_iter().flatten();
                let found = all.find(|s| overlap(&used, (*s).into()).is_none());
                found.ok_or(NetworkError::NoSubnet(pool.into()))?
            }
        };
        Ok(Some((
            subnet,
            spec.gateway6.unwrap_or_else(|| at(subnet, 1)),
        )))
    }
}

/// Refuses gateways, ranges and reserved addresses outside of the subnets, and an address that is for two things.
pub(crate) fn check(network: &Network) -> Result<(), NetworkError> {
    let inside = |ip: IpAddr, subnet: IpNet| {
        if subnet.contains(&ip) {
            return Ok(());
        }
        Err(NetworkError::OutsideSubnet { ip, subnet })
    };
    let range = |range: Option<IpNet>, subnet: IpNet| {
        let ends = range.map(|r| [r.network(), r.broadcast()]);
        ends.into_iter()
            .flatten()
            .try_for_each(|ip| inside(ip, subnet))
    };
    let four = IpNet::V4(network.subnet);
    inside(network.gateway.into(), four)?;
    range(network.ip_range.map(IpNet::V4), four)?;
    if let Some((subnet, gateway)) = network.v6() {
        inside(gateway.into(), subnet.into())?;
        range(network.ip_range6.map(IpNet::V6), subnet.into())?;
    }
    let mut seen: Vec<(IpAddr, &str)> = vec![(network.gateway.into(), "the gateway")];
    seen.extend(network.gateway6.map(|g| (g.into(), "the gateway")));
    for (name, ip) in &network.reserved {
        let subnet = match (ip, network.subnet6) {
            (IpAddr::V4(_), _) => four,
            (IpAddr::V6(_), Some(subnet)) => subnet.into(),
            (IpAddr::V6(_), None) => {
                return Err(NetworkError::Ipv6NotAsked {
                    network: network.name.clone(),
                    what: ip.to_string(),
                });
            }
        };
        inside(*ip, subnet)?;
        if let Some((_, by)) = seen.iter().find(|(other, _)| other == ip) {
            return Err(NetworkError::AddressTaken {
                ip: *ip,
                network: network.name.clone(),
                by: (*by).to_owned(),
            });
        }
        seen.push((*ip, name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn subnets_that_are_none() {
        for (text, good) in [
            ("10.9.0.0/24", true),
            ("169.254.9.0/24", true),
            ("10.9.0.4/31", true),
            ("10.9.0.4/32", false),
            ("0.0.0.0/0", false),
            ("0.1.0.0/24", false),
            ("127.9.0.0/24", false),
            ("224.0.0.0/24", false),
            ("255.255.255.0/24", false),
            ("fd00:9::/64", true),
            ("2001:db8::/48", true),
            ("fd00::10/124", true),
            ("fd00::1/128", false),
            ("::1/128", false),
            ("::ffff:10.0.0.0/104", false),
            ("100::/64", false),
            ("100::/16", false),
            ("fe80::/64", false),
            ("ff02::/64", false),
            ("::/0", false),
        ] {
            assert_eq!(usable(text.parse().unwrap()).is_ok(), good, "{text}");
        }
    }
}
