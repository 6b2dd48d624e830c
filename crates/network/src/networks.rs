//! All networks of one machine: the locked state and the operations on it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use coracle_sys::netlink::{Netlink, forget_udp_flows};
use ipnet::Ipv4Net;
use rustix::net::{AddressFamily, SocketType, bind, getsockname};
use serde::{Deserialize, Serialize};

use crate::error::NetworkError;
use crate::firewall::{self, Elements, Published};
use crate::link;
use crate::model::{
    Driver, Endpoint, EndpointRequest, Network, NetworkId, NetworkSpec, Options, PortMapping,
    Protocol, RestoredEndpoint,
};

const VERSION: u64 = 1;
const DEFAULT_BRIDGE: &str = "coracle0";

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u64,
    #[serde(flatten)]
    network: Network,
}

struct Port {
    container: String,
    to: (Ipv4Addr, u16),
    /// Holds the host port against every other program.
    _claim: OwnedFd,
}

struct Inner {
    dir: PathBuf,
    options: Options,
    netlink: Netlink,
    networks: BTreeMap<NetworkId, Network>,
    bridges: BTreeMap<NetworkId, u32>,
    endpoints: Vec<Endpoint>,
    ports: BTreeMap<Published, Port>,
}

/// The networks of one daemon; every method locks, none is async.
pub struct Networks {
    inner: Mutex<Inner>,
}

impl Networks {
    /// Reads `<state_dir>/networks`, makes the predefined networks, repairs every bridge, loads the
    /// firewall and switches forwarding on.
    pub fn open(state_dir: &Path, options: Options) -> Result<Self, NetworkError> {
        let dir = state_dir.join("networks");
        std::fs::create_dir_all(&dir).map_err(|source| NetworkError::State {
            path: dir.clone(),
            source,
        })?;
        let netlink = Netlink::route().map_err(|source| NetworkError::Netlink {
            what: "open a netlink socket".into(),
            source,
        })?;
        let networks = read_all(&dir)?;
        let mut inner = Inner {
            dir,
            options,
            netlink,
            networks,
            bridges: BTreeMap::new(),
            endpoints: Vec::new(),
            ports: BTreeMap::new(),
        };
        for (name, driver) in [
            ("bridge", Driver::Bridge),
            ("host", Driver::Host),
            ("none", Driver::None),
        ] {
            if !inner.networks.values().any(|n| n.name == name) {
                inner.add(
                    NetworkSpec {
                        name: name.into(),
                        ..NetworkSpec::default()
                    },
                    driver,
                )?;
            }
        }
        for network in inner.networks.clone().into_values() {
            inner.build(&network)?;
        }
        sysctl("net/ipv4/ip_forward", "1")?;
        inner.reload()?;
        firewall::foreign_hooks(true);
        Ok(Self {
            inner: Mutex::new(inner),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change of the state is made after what may panic, so a poisoned state is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a bridge network.
    pub fn create(&self, spec: NetworkSpec) -> Result<Network, NetworkError> {
        let mut inner = self.lock();
        if matches!(spec.name.as_str(), "bridge" | "host" | "none" | "default") {
            return Err(NetworkError::Predefined(spec.name));
        }
        let network = inner.add(spec, Driver::Bridge)?;
        if let Err(error) = inner.build(&network).and_then(|()| inner.reload()) {
            let _ = inner.forget(&network);
            return Err(error);
        }
        Ok(network)
    }

    /// Every network, by name.
    pub fn list(&self) -> Vec<Network> {
        let mut all: Vec<_> = self.lock().networks.values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The network with this name, id or unambiguous id prefix.
    pub fn get(&self, key: &str) -> Result<Network, NetworkError> {
        self.lock().get(key)
    }

    /// Every endpoint that is reserved now.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.lock().endpoints.clone()
    }

    /// Removes a network that no container uses.
    pub fn remove(&self, key: &str) -> Result<(), NetworkError> {
        let mut inner = self.lock();
        let network = inner.get(key)?;
        if matches!(network.name.as_str(), "bridge" | "host" | "none") {
            return Err(NetworkError::Predefined(network.name));
        }
        let users = inner.endpoints.iter().filter(|e| e.network == network.id);
        let containers: Vec<_> = users.map(|e| e.container_name.clone()).collect();
        if !containers.is_empty() {
            return Err(NetworkError::InUse {
                network: network.name,
                containers,
            });
        }
        inner.forget(&network)?;
        inner.reload()
    }

    /// Decides address, MAC and link names; nothing is built yet.
    pub fn reserve(&self, request: &EndpointRequest) -> Result<Endpoint, NetworkError> {
        self.lock().reserve(request)
    }

    /// Builds the links of reserved endpoints in `netns`, loopback too; the first endpoint's gateway
    /// becomes the default route. An empty list brings up loopback only.
    pub fn connect(
        &self,
        netns: BorrowedFd<'_>,
        endpoints: &[Endpoint],
    ) -> Result<(), NetworkError> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let mut with_bridge = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let bridge = inner.bridges.get(&endpoint.network);
            let bridge =
                *bridge.ok_or_else(|| NetworkError::NotFound(endpoint.network_name.clone()))?;
            with_bridge.push((endpoint.clone(), bridge));
        }
        // A network that joins a running container leaves its default route alone.
        let default = endpoints.first().is_some_and(|first| {
            !inner.endpoints.iter().any(|e| {
                e.container_id == first.container_id
                    && !endpoints.iter().any(|n| n.network == e.network)
            })
        });
        link::connect(&mut inner.netlink, netns, &with_bridge, default)
    }

    /// Takes a container, running or not, off one network.
    pub fn disconnect(&self, container_id: &str, network: &str) -> Result<(), NetworkError> {
        let mut inner = self.lock();
        let network = inner.get(network)?;
        let mine = |e: &Endpoint| e.container_id == container_id && e.network == network.id;
        let Some(at) = inner.endpoints.iter().position(mine) else {
            return Err(NetworkError::NotConnected {
                container: container_id.into(),
                network: network.name,
            });
        };
        let endpoint = inner.endpoints[at].clone();
        link::remove(&mut inner.netlink, &[endpoint.host_link])?;
        inner.endpoints.remove(at);
        inner.unpublish(|port| port.container == container_id && port.to.0 == endpoint.ip)
    }

    /// Claims the host ports and opens them; all or nothing. Returns the mappings with the chosen
    /// ports filled in.
    pub fn publish(
        &self,
        container_id: &str,
        ip: Ipv4Addr,
        ports: &[PortMapping],
    ) -> Result<Vec<PortMapping>, NetworkError> {
        self.lock().publish(container_id, ip, ports, true)
    }

    /// Gives back all that a container has: addresses, links, ports. Does nothing the second time.
    pub fn release(&self, container_id: &str) -> Result<(), NetworkError> {
        let mut inner = self.lock();
        let mine = |e: &&Endpoint| e.container_id == container_id;
        let links: Vec<_> = inner
            .endpoints
            .iter()
            .filter(mine)
            .map(|e| e.host_link.clone())
            .collect();
        inner.unpublish(|port| port.container == container_id)?;
        link::remove(&mut inner.netlink, &links)?;
        inner.endpoints.retain(|e| e.container_id != container_id);
        Ok(())
    }

    /// As [`Self::release`], for a container whose network namespace is going and will not come back: the kernel takes
    /// both ends of its links away with the namespace, many at once, which is quicker than asking for each.
    pub fn release_with_namespace(&self, container_id: &str) -> Result<(), NetworkError> {
        let mut inner = self.lock();
        inner.unpublish(|port| port.container == container_id)?;
        inner.endpoints.retain(|e| e.container_id != container_id);
        Ok(())
    }

    /// At daemon start: takes over what the running containers have, and removes every link and
    /// port of ours that belongs to none of them.
    pub fn restore(&self, restored: &[RestoredEndpoint]) -> Result<(), NetworkError> {
        let mut inner = self.lock();
        inner.endpoints = restored.iter().map(|r| r.endpoint.clone()).collect();
        inner.ports.clear();
        for r in restored {
            let (id, ip) = (r.endpoint.container_id.clone(), r.endpoint.ip);
            inner.publish(&id, ip, &r.ports, false)?;
        }
        let keep: BTreeSet<_> = restored
            .iter()
            .map(|r| r.endpoint.host_link.as_str())
            .collect();
        let stale: Vec<_> = link::links(&mut inner.netlink)?
            .into_iter()
            .map(|l| l.1)
            .filter(|name| is_ours(name) && !keep.contains(name.as_str()))
            .filter(|name| !inner.networks.values().any(|n| &n.bridge == name))
            .collect();
        link::remove(&mut inner.netlink, &stale)?;
        inner.reload()
    }

    /// Loads the firewall again if something removed it; true if that was needed.
    pub fn ensure_firewall(&self) -> Result<bool, NetworkError> {
        let inner = self.lock();
        firewall::foreign_hooks(true);
        if firewall::loaded() {
            return Ok(false);
        }
        inner.reload().map(|()| true)
    }

    /// What of the host's own firewall is in the way, in words.
    pub fn diagnose(&self) -> Vec<String> {
        firewall::diagnose()
    }

    /// Removes every link and rule of ours; the stored networks stay and come back with `open`.
    pub fn teardown(&self) -> Result<(), NetworkError> {
        let mut inner = self.lock();
        let ours: Vec<_> = link::links(&mut inner.netlink)?
            .into_iter()
            .map(|l| l.1)
            .filter(|n| is_ours(n))
            .collect();
        link::remove(&mut inner.netlink, &ours)?;
        inner.endpoints.clear();
        inner.ports.clear();
        inner.bridges.clear();
        firewall::foreign_hooks(false);
        firewall::unload()
    }
}

/// Link names are `coracle0`, `cor-` and 11 hexadecimal digits, `v` and 14.
fn is_ours(name: &str) -> bool {
    let hex = |s: &str, n| s.len() == n && s.bytes().all(|b| b.is_ascii_hexdigit());
    name == DEFAULT_BRIDGE
        || name.strip_prefix("cor-").is_some_and(|s| hex(s, 11))
        || name.strip_prefix('v').is_some_and(|s| hex(s, 14))
}

fn sysctl(key: &str, value: &str) -> Result<(), NetworkError> {
    let path = Path::new("/proc/sys").join(key);
    if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|source| NetworkError::Sysctl { path, source })
}

fn read_all(dir: &Path) -> Result<BTreeMap<NetworkId, Network>, NetworkError> {
    let state = |path: &Path| {
        let path = path.to_path_buf();
        move |source| NetworkError::State { path, source }
    };
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(state(dir))? {
        let path = entry.map_err(state(dir))?.path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let text = std::fs::read(&path).map_err(state(&path))?;
        let damaged = |source| NetworkError::Damaged {
            path: path.clone(),
            source,
        };
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(damaged)?;
        let version = value
            .get("version")
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(0);
        if version != VERSION {
            return Err(NetworkError::Version { path, version });
        }
        let stored: Stored = serde_json::from_value(value).map_err(damaged)?;
        found.insert(stored.network.id.clone(), stored.network);
    }
    Ok(found)
}

fn claim(ip: Ipv4Addr, port: u16, protocol: Protocol) -> Result<(OwnedFd, u16), NetworkError> {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let open = || -> Result<_, rustix::io::Errno> {
        let fd = rustix::net::socket_with(
            AddressFamily::INET,
            kind,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )?;
        bind(&fd, &SocketAddrV4::new(ip, port))?;
        let bound = SocketAddrV4::try_from(getsockname(&fd)?)?;
        Ok((fd, bound.port()))
    };
    open().map_err(|e| match e {
        rustix::io::Errno::ADDRINUSE => NetworkError::PortInUse { ip, port, protocol },
        e => NetworkError::Bind {
            ip,
            port,
            protocol,
            source: e.into(),
        },
    })
}

impl Inner {
    fn get(&self, key: &str) -> Result<Network, NetworkError> {
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

    fn add(&mut self, spec: NetworkSpec, driver: Driver) -> Result<Network, NetworkError> {
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

    fn write(&self, network: &Network) -> Result<(), NetworkError> {
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

    fn choose_subnet(&mut self, spec: &NetworkSpec) -> Result<Ipv4Net, NetworkError> {
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
        let length = pool.prefix_len().max(24);
        let free = pool
            .subnets(length)
            .ok()
            .and_then(|mut all| all.find(|s| overlap(s).is_none()));
        free.ok_or(NetworkError::NoSubnet(pool))
    }

    fn build(&mut self, network: &Network) -> Result<(), NetworkError> {
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

    fn forget(&mut self, network: &Network) -> Result<(), NetworkError> {
        link::remove(&mut self.netlink, std::slice::from_ref(&network.bridge))?;
        let path = self.dir.join(format!("{}.json", network.id));
        std::fs::remove_file(&path).map_err(|source| NetworkError::State { path, source })?;
        self.bridges.remove(&network.id);
        self.networks.remove(&network.id);
        Ok(())
    }

    fn reload(&self) -> Result<(), NetworkError> {
        let networks: Vec<_> = self.networks.values().cloned().collect();
        let elements: Elements = self.ports.iter().map(|(k, p)| (*k, p.to)).collect();
        firewall::load(&firewall::table(&networks, &elements))
    }

    fn reserve(&mut self, request: &EndpointRequest) -> Result<Endpoint, NetworkError> {
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

    fn publish(
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

    fn unpublish(&mut self, gone: impl Fn(&Port) -> bool) -> Result<(), NetworkError> {
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
