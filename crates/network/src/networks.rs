//! All networks of one machine: the locked state and the operations on it.

mod inner;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use coracle_sys::netlink::Netlink;
use rustix::net::{AddressFamily, SocketType, bind, getsockname};
use serde::{Deserialize, Serialize};

use crate::error::NetworkError;
use crate::firewall::{self, Published};
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
