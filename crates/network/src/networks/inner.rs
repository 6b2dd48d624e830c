//! What the lock guards, and each change of it.

use super::*;
use crate::error::NetworkError;
use crate::firewall::{self, Elements, Published};
use crate::link;
use crate::model::{
    Driver, Endpoint, EndpointRequest, Network, NetworkId, NetworkSpec, PortMapping, Protocol,
};
use coracle_sys::netlink::forget_udp_flows;
use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::time::{SystemTime, UNIX_EPOCH};

impl Inner {
    pub(super) fn get(&self, key: &str) -> Result<Network, NetworkError> {
        let key = if key == "default" || key.is_empty() {
            "bridge"
        } else {
            key
        };
        let all = || self.networks.values();
        if let Some(found) = all()
            .find(|n| n.name == key)
            .or_else(|| all().find(|n| n.id.0 == key))
        {
            return Ok(found.clone());
        }
        let mut fitting = all().filter(|n| n.id.0.starts_with(key));
        match (fitting.next(), fitting.next()) {
            (Some(one), None) => Ok(one.clone()),
            (Some(_), Some(_)) => Err(NetworkError::Ambiguous(key.into())),
            _ => Err(NetworkError::NotFound(key.into())),
        }
    }

    pub(super) fn add(
        &mut self,
        spec: NetworkSpec,
        driver: Driver,
    ) -> Result<Network, NetworkError> {
        let valid =
            |(i, b): (usize, u8)| b.is_ascii_alphanumeric() || (i > 0 && b"_.-".contains(&b));
        if spec.name.is_empty() || !spec.name.bytes().enumerate().all(valid) {
            return Err(NetworkError::BadName(spec.name));
        }
        if self.networks.values().any(|n| n.name == spec.name) {
            return Err(NetworkError::NameTaken(spec.name));
        }
        if spec.ipv6 {
            return Err(NetworkError::Ipv6Unsupported(spec.name));
        }
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|e| NetworkError::State {
            path: "/dev/urandom".into(),
            source: io::Error::other(e.to_string()),
        })?;
        let id = NetworkId(hex::encode(random));
        let none = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
        let (subnet, gateway, bridge) = match driver {
            Driver::Bridge => {
                let subnet = self.choose_subnet(&spec)?;
                let gateway = spec
                    .gateway
                    .or_else(|| subnet.hosts().next())
                    .unwrap_or(subnet.addr());
                let named = if spec.name == "bridge" {
                    DEFAULT_BRIDGE.into()
                } else {
                    format!("cor-{}", &id.0[..11])
                };
                (subnet, gateway, named)
            }
            Driver::Host | Driver::None => (none, Ipv4Addr::UNSPECIFIED, String::new()),
        };
        let outside = [
            Some(gateway),
            spec.ip_range.map(|r| r.addr()),
            spec.ip_range.map(|r| r.broadcast()),
        ];
        if let Some(ip) = outside
            .into_iter()
            .flatten()
            .find(|ip| !subnet.contains(ip))
        {
            return Err(NetworkError::OutsideSubnet { ip, subnet });
        }
        let network = Network {
            id: id.clone(),
            name: spec.name,
            driver,
            subnet,
            gateway,
            ip_range: spec.ip_range,
            internal: spec.internal,
            ipv6: None,
            labels: spec.labels,
            options: spec.options,
            created: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| d.as_secs()),
            bridge,
            dns: driver == Driver::Bridge,
        };
        self.write(&network)?;
        self.networks.insert(id, network.clone());
        Ok(network)
    }

    pub(super) fn write(&self, network: &Network) -> Result<(), NetworkError> {
        let path = self.dir.join(format!("{}.json", network.id));
        let part = path.with_extension("part");
        let text = serde_json::to_vec_pretty(&Stored {
            version: VERSION,
            network: network.clone(),
        })
        .map_err(|source| NetworkError::Damaged {
            path: path.clone(),
            source,
        })?;
        let durable = || -> io::Result<()> {
            std::fs::write(&part, text)?;
            std::fs::File::open(&part)?.sync_all()?;
            std::fs::rename(&part, &path)?;
            std::fs::File::open(&self.dir)?.sync_all()
        };
        durable().map_err(|source| NetworkError::State {
            path: path.clone(),
            source,
        })
    }

    pub(super) fn choose_subnet(&mut self, spec: &NetworkSpec) -> Result<Ipv4Net, NetworkError> {
        let mut used: Vec<(Ipv4Net, String)> = link::used_subnets(&mut self.netlink)?
            .into_iter()
            .map(|net| (net, format!("route {net} of this machine")))
            .collect();
        let bridges = self
            .networks
            .values()
            .filter(|n| n.driver == Driver::Bridge);
        used.extend(bridges.map(|n| (n.subnet, format!("network {}", n.name))));
        let overlap = |a: &Ipv4Net| {
            used.iter()
                .find(|(b, _)| b.prefix_len() > 0 && (a.contains(b) || b.contains(a)))
                .map(|u| u.1.clone())
        };
        if let Some(subnet) = spec.subnet.map(|s| s.trunc()) {
            return match overlap(&subnet) {
                None => Ok(subnet),
                Some(other) => Err(NetworkError::Overlap {
                    network: spec.name.clone(),
                    subnet,
                    other,
                }),
            };
        }
        let pool = self.options.default_pool;
        // The network that everybody is on unless they say otherwise has as many places as a bridge of Linux has ports.
        let length = if spec.name == "bridge" { 22 } else { 24 };
        let length = pool.prefix_len().max(length);
        let free = pool
            .subnets(length)
            .ok()
            .and_then(|mut all| all.find(|s| overlap(s).is_none()));
        free.ok_or(NetworkError::NoSubnet(pool))
    }

    pub(super) fn build(&mut self, network: &Network) -> Result<(), NetworkError> {
        if network.driver != Driver::Bridge {
            return Ok(());
        }
        let index = link::ensure_bridge(&mut self.netlink, network)?;
        self.bridges.insert(network.id.clone(), index);
        sysctl(
            &format!("net/ipv4/conf/{}/route_localnet", network.bridge),
            "1",
        )
    }

    pub(super) fn forget(&mut self, network: &Network) -> Result<(), NetworkError> {
        link::remove(&mut self.netlink, std::slice::from_ref(&network.bridge))?;
        let path = self.dir.join(format!("{}.json", network.id));
        std::fs::remove_file(&path).map_err(|source| NetworkError::State { path, source })?;
        self.bridges.remove(&network.id);
        self.networks.remove(&network.id);
        Ok(())
    }

    pub(super) fn reload(&self) -> Result<(), NetworkError> {
        let networks: Vec<_> = self.networks.values().cloned().collect();
        let elements: Elements = self.ports.iter().map(|(k, p)| (*k, p.to)).collect();
        firewall::load(&firewall::table(&networks, &elements))
    }

    pub(super) fn reserve(&mut self, request: &EndpointRequest) -> Result<Endpoint, NetworkError> {
        let network = self.get(&request.network)?;
        let on_net = |e: &&Endpoint| e.network == network.id;
        if self
            .endpoints
            .iter()
            .filter(on_net)
            .any(|e| e.container_id == request.container_id)
        {
            let container = request.container_name.clone();
            return Err(NetworkError::AlreadyConnected {
                container,
                network: network.name,
            });
        }
        let taken: BTreeMap<_, _> = self
            .endpoints
            .iter()
            .filter(on_net)
            .map(|e| (e.ip, e.container_name.clone()))
            .collect();
        let reserved = [
            network.gateway,
            network.subnet.network(),
            network.subnet.broadcast(),
        ];
        let ip = match request.ip {
            Some(ip) if !network.subnet.contains(&ip) => {
                return Err(NetworkError::OutsideSubnet {
                    ip,
                    subnet: network.subnet,
                });
            }
            Some(ip) => {
                let by = taken.get(&ip).cloned();
                if let Some(by) =
                    by.or_else(|| reserved.contains(&ip).then(|| "the network itself".into()))
                {
                    return Err(NetworkError::AddressTaken {
                        ip,
                        network: network.name,
                        by,
                    });
                }
                ip
            }
            None => {
                let mut range = network.ip_range.unwrap_or(network.subnet).hosts();
                let free = range.find(|ip| !taken.contains_key(ip) && !reserved.contains(ip));
                free.ok_or_else(|| NetworkError::Exhausted(network.name.clone()))?
            }
        };
        let part = |id: &str, n: usize| {
            id.chars()
                .chain(std::iter::repeat('0'))
                .take(n)
                .collect::<String>()
        };
        let endpoint = Endpoint {
            container_id: request.container_id.clone(),
            container_name: request.container_name.clone(),
            network: network.id.clone(),
            network_name: network.name,
            ip,
            prefix: network.subnet.prefix_len(),
            gateway: network.gateway,
            internal: network.internal,
            mac: request.mac.unwrap_or_else(|| link::endpoint_mac(ip)),
            bridge: network.bridge,
            host_link: format!(
                "v{}{}",
                part(&request.container_id, 8),
                part(&network.id.0, 6)
            ),
            aliases: request.aliases.clone(),
        };
        self.endpoints.push(endpoint.clone());
        Ok(endpoint)
    }

    pub(super) fn publish(
        &mut self,
        container: &str,
        ip: Ipv4Addr,
        wanted: &[PortMapping],
        load: bool,
    ) -> Result<Vec<PortMapping>, NetworkError> {
        let mut claimed: BTreeMap<Published, Port> = BTreeMap::new();
        let mut resolved = Vec::with_capacity(wanted.len());
        for mapping in wanted {
            let (fd, port) = claim(mapping.host_ip, mapping.host_port, mapping.protocol)?;
            let to = (ip, mapping.container_port);
            let port_of = Port {
                container: container.to_owned(),
                to,
                _claim: fd,
            };
            claimed.insert((mapping.protocol, mapping.host_ip, port), port_of);
            resolved.push(PortMapping {
                host_port: port,
                ..*mapping
            });
        }
        if load && !claimed.is_empty() {
            let elements: Elements = claimed.iter().map(|(k, p)| (*k, p.to)).collect();
            firewall::load(&firewall::add(&elements))?;
        }
        self.ports.extend(claimed);
        Ok(resolved)
    }

    pub(super) fn unpublish(&mut self, gone: impl Fn(&Port) -> bool) -> Result<(), NetworkError> {
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
        if !udp.is_empty()
            && let Err(error) = forget_udp_flows(&udp)
        {
            tracing::warn!(%error, "cannot clear the UDP flows of a removed container");
        }
        Ok(())
    }
}
