//! All networks of one machine: the locked state and the operations on it.

mod inner;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use coracle_sys::netlink::Netlink;
use serde::{Deserialize, Serialize};

use crate::error::NetworkError;
use crate::firewall::{self, Published};
use crate::link;
use crate::model::{
    Driver, Endpoint, EndpointRequest, Network, NetworkId, NetworkSpec, Options, PortMapping,
    PortRequest, RestoredEndpoint,
};
use crate::options;
use crate::overlay::{self, Overlay, Rules};
use crate::ports::Port;
use crate::services::Services;
use crate::stored;
use crate::v6;
use crate::ways::ways;

const VERSION: u64 = 1;
const DEFAULT_BRIDGE: &str = "coracle0";
/// Not a network's, whose files end in `.json`.
const OVERLAY_FILE: &str = "overlay";

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u64,
    #[serde(flatten)]
    network: Network,
}

pub(crate) struct Inner {
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    pub(crate) netlink: Netlink,
    pub(crate) networks: BTreeMap<NetworkId, Network>,
    pub(crate) bridges: BTreeMap<NetworkId, u32>,
    /// In the order that they were reserved.
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) ports: BTreeMap<Published, Port>,
    pub(crate) overlay: Option<Overlay>,
    /// What the firewall has of the overlay.
    pub(crate) loaded_rules: Option<Rules>,
    pub(crate) services: Services,
}

/// The networks of one daemon; every method locks, none is async.
pub struct Networks {
    inner: Mutex<Inner>,
    /// Whether rules of ours belong into the host's own firewall. Held while its programs run, which may wait for others, so that
    /// only who has them run too waits along. Taken before `inner`, if both are.
    hooked: Mutex<bool>,
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
            overlay: None,
            loaded_rules: None,
            services: Services::default(),
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
            if let Err(error) = inner.build6(&network) {
                // What has IPv4 is not to stand still for it.
                let (network, error) = (&network.name, &error as &dyn std::error::Error);
                tracing::error!(
                    network,
                    error,
                    "a network goes without the IPv6 that it is to have"
                );
            }
        }
        sysctl("net/ipv4/ip_forward", "1")?;
        inner.overlay_open()?;
        let services = inner.services_open()?;
        if services && firewall::loaded() {
            // The former daemon's, with the ports of containers that run. It stands until `restore` knows those again. Only a
            // service's port that somebody else has by now cannot wait for that.
            inner.loaded_rules = inner.overlay_rules();
        } else {
            inner.reload()?;
        }
        inner.overlay_resume()?;
        inner.services_resume();
        firewall::foreign_hooks(true, inner.has_ipv6());
        Ok(Self {
            inner: Mutex::new(inner),
            hooked: Mutex::new(true),
        })
    }

    pub(crate) fn hooked(&self) -> MutexGuard<'_, bool> {
        self.hooked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change of the state is made after what may panic, so a poisoned state is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a bridge network.
    pub fn create(&self, spec: NetworkSpec) -> Result<Network, NetworkError> {
        let mut inner = self.lock();
        if matches!(spec.name.as_str(), "bridge" | "host" | "none" | "default") {
            return Err(NetworkError::Predefined(spec.name));
        }
        let first_ipv6 = spec.ipv6 && !inner.has_ipv6();
        let network = inner.add(spec, Driver::Bridge)?;
        let built = inner
            .build(&network)
            .and_then(|()| inner.build6(&network))
            .and_then(|()| inner.reload());
        if let Err(error) = built {
            let _ = inner.forget(&network);
            return Err(error);
        }
        drop(inner);
        if first_ipv6 {
            let hooked = self.hooked();
            if *hooked {
                firewall::foreign_hooks(true, true);
            }
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

    /// Builds the links of reserved endpoints in the new namespace `netns`, loopback too, and sets the default route of
    /// each family: by the first endpoint of the highest priority that leads out. An empty list brings up loopback only.
    pub fn connect(
        &self,
        netns: BorrowedFd<'_>,
        endpoints: &[Endpoint],
    ) -> Result<(), NetworkError> {
        self.plug(netns, endpoints, true)
    }

    /// As [`Self::connect`], for a container that runs. Its new network takes a default route over only with a higher
    /// priority; the published ports go with it.
    pub fn join(&self, netns: BorrowedFd<'_>, endpoint: &Endpoint) -> Result<(), NetworkError> {
        self.plug(netns, std::slice::from_ref(endpoint), false)
    }

    fn plug(
        &self,
        netns: BorrowedFd<'_>,
        endpoints: &[Endpoint],
        fresh: bool,
    ) -> Result<(), NetworkError> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let mut with_bridge = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let bridge = inner.bridges.get(&endpoint.network);
            let network = inner.networks.get(&endpoint.network);
            let (bridge, network) = bridge
                .zip(network)
                .ok_or_else(|| NetworkError::NotFound(endpoint.network_name.clone()))?;
            let options = options::of(&network.options);
            with_bridge.push(link::Plug {
                endpoint: endpoint.clone(),
                bridge: *bridge,
                mtu: inner.mtu(network),
                isolated: !options.together,
            });
        }
        let Some(container) = endpoints.first().map(|e| e.container_id.clone()) else {
            let none = link::Routes::default();
            return link::connect(&mut inner.netlink, netns, &[], &none, fresh);
        };
        let mine = || {
            inner
                .endpoints
                .iter()
                .filter(|e| e.container_id == container)
        };
        let before = ways(mine().filter(|e| !endpoints.iter().any(|n| n.network == e.network)));
        let after = ways(mine());
        let mut routes = link::Routes::between(&before, &after);
        let default = mine().find(|e| e.network_name == "bridge");
        let served = inner.has_services();
        routes.services = default
            .filter(|d| served && after.gateway4() != Some(d.gateway))
            .map(|d| (inner.options.services, d.gateway));
        let backends = before.backends();
        link::connect(&mut inner.netlink, netns, &with_bridge, &routes, fresh)?;
        inner.follow(&container, backends)
    }

    /// Takes a container, running or not, off one network. Its default routes, in `netns` if it runs, and its published
    /// ports go over to another of its networks, if one has addresses of the family.
    pub fn disconnect(
        &self,
        container_id: &str,
        network: &str,
        netns: Option<BorrowedFd<'_>>,
    ) -> Result<(), NetworkError> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let network = inner.get(network)?;
        let mine = |e: &&Endpoint| e.container_id == container_id;
        let Some(endpoint) = inner
            .endpoints
            .iter()
            .filter(mine)
            .find(|e| e.network == network.id)
        else {
            return Err(NetworkError::NotConnected {
                container: container_id.into(),
                network: network.name,
            });
        };
        link::remove(
            &mut inner.netlink,
            std::slice::from_ref(&endpoint.host_link),
        )?;
        let before = ways(inner.endpoints.iter().filter(mine));
        let rest = inner
            .endpoints
            .iter()
            .filter(|e| mine(e) && e.network != network.id);
        let routes = link::Routes::between(&before, &ways(rest));
        let backends = before.backends();
        inner
            .endpoints
            .retain(|e| e.container_id != container_id || e.network != network.id);
        // It has left: what cannot be set right besides is said, and keeps nobody on a network that is gone.
        let followed = inner.follow(container_id, backends);
        let routed = netns.map_or(Ok(()), |netns| link::set_routes(netns, &routes));
        if let Err(error) = followed.and(routed) {
            tracing::warn!(container = container_id, %error, "its ports or routes did not follow");
        }
        Ok(())
    }

    /// Claims the host ports and opens them; all or nothing. Returns the mappings with the chosen
    /// ports filled in, one for each family that a request without an address means.
    pub fn publish(
        &self,
        container_id: &str,
        ports: &[PortRequest],
    ) -> Result<Vec<PortMapping>, NetworkError> {
        self.lock().publish(container_id, ports, true)
    }

    /// What a container has published now.
    pub fn published(&self, container_id: &str) -> Vec<PortMapping> {
        self.lock().published(container_id)
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
        let mut failed = Ok(());
        for r in restored {
            // One that cannot be had keeps no other from coming back.
            for port in &r.ports {
                let again = inner.publish(&r.endpoint.container_id, &[(*port).into()], false);
                failed = failed.and(again.map(drop));
            }
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
            .filter(|name| inner.overlay.is_none() || name != overlay::LINK)
            .collect();
        let removed = link::remove(&mut inner.netlink, &stale);
        // The former daemon's table has served its time, whatever a link says.
        inner.reload()?;
        removed?;
        failed
    }

    /// Loads the firewall and the services' route again if something removed them; true if that was needed. Does nothing after [`Self::teardown`].
    pub fn ensure_firewall(&self) -> Result<bool, NetworkError> {
        let hooked = self.hooked();
        if !*hooked {
            return Ok(false);
        }
        let ipv6 = self.lock().has_ipv6();
        firewall::foreign_hooks(true, ipv6);
        let routed = self.lock().services_route();
        if firewall::loaded() {
            return routed;
        }
        let mut inner = self.lock();
        inner.reload()?;
        inner.services_forget_lost();
        routed.map(|_| true)
    }

    /// What of the host's own firewall is in the way, in words.
    pub fn diagnose(&self) -> Vec<String> {
        let port = self.lock().overlay_rules().map(|r| r.port());
        firewall::diagnose(port)
    }

    /// Removes every link and rule of ours; the stored networks stay and come back with `open`.
    pub fn teardown(&self) -> Result<(), NetworkError> {
        let mut hooked = self.hooked();
        *hooked = false;
        let mut inner = self.lock();
        inner.overlay_down()?;
        inner.services_down()?;
        let ours: Vec<_> = link::links(&mut inner.netlink)?
            .into_iter()
            .map(|l| l.1)
            .filter(|n| is_ours(n) || inner.networks.values().any(|known| known.bridge == *n))
            .collect();
        link::remove(&mut inner.netlink, &ours)?;
        inner.endpoints.clear();
        inner.ports.clear();
        inner.bridges.clear();
        if inner.has_ipv6() {
            link::loopback_stand_in(&mut inner.netlink, false)?;
        }
        firewall::foreign_hooks(false, inner.has_ipv6());
        firewall::unload()
    }
}

/// Link names are `coracle0`, `cor-overlay`, `cor-` and 11 hexadecimal digits, `v` and 14.
pub(crate) fn is_ours(name: &str) -> bool {
    let hex = |s: &str, n| s.len() == n && s.bytes().all(|b| b.is_ascii_hexdigit());
    name == DEFAULT_BRIDGE
        || name == overlay::LINK
        || name.strip_prefix("cor-").is_some_and(|s| hex(s, 11))
        || name.strip_prefix('v').is_some_and(|s| hex(s, 14))
}

pub(crate) fn sysctl(key: &str, value: &str) -> Result<(), NetworkError> {
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
        // One that went meanwhile is no network any more.
        let Some(stored) = stored::read::<Stored>(&path, VERSION)? else {
            continue;
        };
        found.insert(stored.network.id.clone(), stored.network);
    }
    Ok(found)
}
