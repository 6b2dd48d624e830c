//! Which address an endpoint gets: pure.
//!
//! Of both families the first free address is taken. That of IPv6 has the same place in its subnet as that of IPv4 where it
//! can (`10.9.0.5` and `fd00:9::5`): the link's own address comes from the one of IPv4, so neighbours that remember either
//! stay right when both are used again.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

use crate::error::NetworkError;
use crate::model::{Address6, Endpoint, EndpointRequest, Network};

/// Who has which address of a network.
pub(crate) struct Taken<'a>(BTreeMap<IpAddr, String>, &'a Network);

impl<'a> Taken<'a> {
    /// Of the containers on `network`, which `endpoints` are, and of the network itself.
    pub fn new<'e>(network: &'a Network, endpoints: impl Iterator<Item = &'e Endpoint>) -> Self {
        let mut all = BTreeMap::new();
        for e in endpoints {
            all.insert(e.ip.into(), e.container_name.clone());
            if let Some(v6) = e.v6 {
                all.insert(v6.ip.into(), e.container_name.clone());
            }
        }
        for (name, ip) in &network.reserved {
            all.insert(*ip, format!("the reserved address {name}"));
        }
        let own4 = [
            network.gateway,
            network.subnet.network(),
            network.subnet.broadcast(),
        ];
        // The first address of an IPv6 subnet is every router's (RFC 4291, 2.6.1).
        let own6 = network.v6().map(|(s, gateway)| [gateway, s.network()]);
        let own = own4
            .map(IpAddr::V4)
            .into_iter()
            .chain(own6.into_iter().flatten().map(IpAddr::V6));
        all.extend(own.map(|ip| (ip, "the network itself".into())));
        Self(all, network)
    }

    fn free(&self, ip: impl Into<IpAddr>) -> bool {
        !self.0.contains_key(&ip.into())
    }

    /// Checks an address that was asked for by name.
    fn fixed(&self, ip: IpAddr, subnet: IpNet) -> Result<(), NetworkError> {
        if !subnet.contains(&ip) {
            return Err(NetworkError::OutsideSubnet { ip, subnet });
        }
        match self.0.get(&ip).cloned() {
            None => Ok(()),
            Some(by) => Err(NetworkError::AddressTaken {
                ip,
                network: self.1.name.clone(),
                by,
            }),
        }
    }

    /// The IPv4 address.
    pub fn choose4(&self, request: &EndpointRequest) -> Result<Ipv4Addr, NetworkError> {
        if let Some(ip) = request.ip {
            self.fixed(ip.into(), self.1.subnet.into())?;
            return Ok(ip);
        }
        let mut range = self.1.ip_range.unwrap_or(self.1.subnet).hosts();
        let free = range.find(|ip| self.free(*ip));
        free.ok_or_else(|| NetworkError::Exhausted(self.1.name.clone()))
    }

    /// The IPv6 address, beside `ip4`; none on a network without.
    pub fn choose6(
        &self,
        request: &EndpointRequest,
        ip4: Ipv4Addr,
    ) -> Result<Option<Address6>, NetworkError> {
        let Some((subnet, gateway)) = self.1.v6().filter(|_| !request.without_ipv6) else {
            return match request.ip6 {
                None => Ok(None),
                Some(ip) => Err(NetworkError::NoIpv6 {
                    network: self.1.name.clone(),
                    ip: ip.into(),
                }),
            };
        };
        let ip = match request.ip6 {
            Some(ip) => {
                self.fixed(ip.into(), subnet.into())?;
                ip
            }
            None => {
                let range = self.1.ip_range6.unwrap_or(subnet);
                let place = u32::from(ip4).wrapping_sub(self.1.subnet.network().into());
                let twin = Some(at(range, place)).filter(|ip| range.contains(ip) && self.free(*ip));
                let free = twin.or_else(|| range.hosts().find(|ip| self.free(*ip)));
                free.ok_or_else(|| NetworkError::Exhausted(self.1.name.clone()))?
            }
        };
        Ok(Some(Address6 {
            ip,
            prefix: subnet.prefix_len(),
            gateway,
        }))
    }
}

/// The address at a place of a range, counted from its first.
pub(crate) fn at(range: Ipv6Net, place: u32) -> Ipv6Addr {
    u128::from(range.network())
        .wrapping_add(place.into())
        .into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn network() -> Network {
        serde_json::from_value(serde_json::json!({
            "id": "n", "name": "n", "driver": "bridge", "subnet": "10.9.0.0/24", "gateway": "10.9.0.1",
            "ipv6": "fd00:9::/64", "gateway6": "fd00:9::1", "created": 0, "bridge": "b",
            "reserved": { "router": "10.9.0.2", "printer": "fd00:9::3" },
        }))
        .unwrap()
    }

    fn both(
        network: &Network,
        request: &EndpointRequest,
    ) -> Result<(String, String), NetworkError> {
        let taken = Taken::new(network, [].into_iter());
        let ip4 = taken.choose4(request)?;
        let ip6 = taken.choose6(request, ip4)?;
        Ok((
            ip4.to_string(),
            ip6.map_or_else(String::new, |a| a.ip.to_string()),
        ))
    }

    #[test]
    fn both_families_side_by_side() {
        let mut network = network();
        let mut request = EndpointRequest::default();
        let ask = |n: &Network, r: &EndpointRequest| both(n, r).unwrap();
        // `.2` is reserved, and so is the twin of `.3`; the first free one is taken instead.
        assert_eq!(
            ask(&network, &request),
            ("10.9.0.3".into(), "fd00:9::2".into())
        );
        request.ip = Some("10.9.0.77".parse().unwrap());
        assert_eq!(ask(&network, &request).1, "fd00:9::4d");
        network.ip_range6 = Some("fd00:9::100/120".parse().unwrap());
        assert_eq!(ask(&network, &request).1, "fd00:9::14d");
        request.ip6 = Some("fd00:9::9".parse().unwrap());
        assert_eq!(ask(&network, &request).1, "fd00:9::9");
        request.ip6 = None;
        request.without_ipv6 = true;
        assert_eq!(ask(&network, &request).1, "");
    }

    #[test]
    fn an_address_that_cannot_be_had_is_named() {
        let mut network = network();
        let refusal = |n: &Network, ip6: &str| {
            let request = EndpointRequest {
                ip6: Some(ip6.parse().unwrap()),
                ..EndpointRequest::default()
            };
            both(n, &request).unwrap_err().to_string()
        };
        assert!(refusal(&network, "fd00:8::5").contains("does not lie inside fd00:9::/64"));
        assert!(refusal(&network, "fd00:9::1").contains("taken by the network itself"));
        assert!(refusal(&network, "fd00:9::").contains("taken by the network itself"));
        assert!(refusal(&network, "fd00:9::3").contains("taken by the reserved address printer"));
        network.subnet6 = None;
        assert!(refusal(&network, "fd00:9::5").contains("--ipv6"));
    }
}
