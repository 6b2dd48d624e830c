//! What the lock guards, and each change of it.

use super::*;
use crate::addresses::Taken;
use crate::error::NetworkError;
use crate::firewall::{self, Elements};
use crate::link;
use crate::model::{Driver, Endpoint, EndpointRequest, Network, NetworkId, NetworkSpec};
use crate::options;
use crate::subnets;
use ipnet::Ipv4Net;
use std::io;
use std::net::Ipv4Addr;
use std::time::{SystemTime, UNIX_EPOCH};

impl Inner {
    pub(crate) fn get(&self, key: &str) -> Result<Network, NetworkError> {
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
        let asked = options::read(&spec.options)?;
        if let Some(name) = &asked.bridge
            && (name == overlay::LINK
                || link::links(&mut self.netlink)?.iter().any(|l| l.1 == *name))
        {
            // What is the machine's own is neither taken over nor removed with the network.
            return Err(NetworkError::LinkTaken(name.clone()));
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
                let named = match asked.bridge {
                    Some(name) => name,
                    None if spec.name == "bridge" => DEFAULT_BRIDGE.into(),
                    None => format!("cor-{}", &id.0[..11]),
                };
                (subnet, gateway, named)
            }
            Driver::Host | Driver::None => (none, Ipv4Addr::UNSPECIFIED, String::new()),
        };
        let six = self.choose_ipv6(&spec)?;
        let network = Network {
            id: id.clone(),
            name: spec.name,
            driver,
            subnet,
            gateway,
            ip_range: spec.ip_range,
            internal: spec.internal,
            subnet6: six.map(|s| s.0),
            gateway6: six.map(|s| s.1),
            ip_range6: spec.ip_range6,
            reserved: spec.reserved,
            labels: spec.labels,
            options: spec.options,
            created: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| d.as_secs()),
            bridge,
            dns: driver == Driver::Bridge,
        };
        subnets::check(&network)?;
        self.write(&network)?;
        self.networks.insert(id, network.clone());
        Ok(network)
    }

    pub(crate) fn write(&self, network: &Network) -> Result<(), NetworkError> {
        let path = self.dir.join(format!("{}.json", network.id));
        self.durable(
            &path,
            &Stored {
                version: VERSION,
                network: network.clone(),
            },
        )
    }

    /// Where the overlay is kept: beside the networks' files.
    pub(crate) fn overlay_file(&self) -> PathBuf {
        self.dir.join(OVERLAY_FILE)
    }

    /// Writes a file below the networks' directory, wholly and for good, or not at all.
    pub(crate) fn durable(&self, path: &Path, value: &impl Serialize) -> Result<(), NetworkError> {
        let part = path.with_extension("part");
        let text = serde_json::to_vec_pretty(value).map_err(|source| NetworkError::Damaged {
            path: path.into(),
            source,
        })?;
        let durable = || -> io::Result<()> {
            std::fs::write(&part, text)?;
            std::fs::File::open(&part)?.sync_all()?;
            std::fs::rename(&part, path)?;
            std::fs::File::open(&self.dir)?.sync_all()
        };
        durable().map_err(|source| NetworkError::State {
            path: path.into(),
            source,
        })
    }

    pub(crate) fn build(&mut self, network: &Network) -> Result<(), NetworkError> {
        if network.driver != Driver::Bridge {
            return Ok(());
        }
        let index = link::ensure_bridge(&mut self.netlink, network)?;
        self.bridges.insert(network.id.clone(), index);
        if v6::in_kernel() {
            v6::never_listen(&network.bridge)?;
        }
        sysctl(
            &format!("net/ipv4/conf/{}/route_localnet", network.bridge),
            "1",
        )
    }

    /// The IPv6 part of a network, if it has one; what exists is left as it is.
    pub(crate) fn build6(&mut self, network: &Network) -> Result<(), NetworkError> {
        let (Some(v6), Some(index)) = (network.v6(), self.bridges.get(&network.id)) else {
            return Ok(());
        };
        v6::enable(&network.bridge)?;
        link::add_gateway6(&mut self.netlink, *index, v6)?;
        link::loopback_stand_in(&mut self.netlink, true)?;
        v6::forward()
    }

    /// Whether some network has IPv6.
    pub(super) fn has_ipv6(&self) -> bool {
        self.networks.values().any(|n| n.v6().is_some())
    }

    pub(super) fn forget(&mut self, network: &Network) -> Result<(), NetworkError> {
        link::remove(&mut self.netlink, std::slice::from_ref(&network.bridge))?;
        let path = self.dir.join(format!("{}.json", network.id));
        std::fs::remove_file(&path).map_err(|source| NetworkError::State { path, source })?;
        self.bridges.remove(&network.id);
        self.networks.remove(&network.id);
        if network.v6().is_some() && !self.has_ipv6() {
            link::loopback_stand_in(&mut self.netlink, false)?;
        }
        Ok(())
    }

    pub(crate) fn reload(&mut self) -> Result<(), NetworkError> {
        let networks: Vec<_> = self.networks.values().cloned().collect();
        let elements: Elements = self.ports.iter().map(|(k, p)| (*k, p.to)).collect();
        let rules = self.overlay_rules();
        let services = self.service_rules();
        let table = firewall::table(&networks, &elements, rules.as_ref(), services.as_ref());
        firewall::load(&table)?;
        self.loaded_rules = rules;
        self.services_loaded(services);
        Ok(())
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
        let taken = Taken::new(&network, self.endpoints.iter().filter(on_net));
        let ip = taken.choose4(request)?;
        let v6 = taken.choose6(request, ip)?;
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
            v6,
            link_local: request.link_local.clone(),
            priority: request.priority,
        };
        self.endpoints.push(endpoint.clone());
        Ok(endpoint)
    }
}
