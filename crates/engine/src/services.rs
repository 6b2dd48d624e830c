//! Services: what is known of them, with the instances that serve, becomes the firewall's and the names' part of them.
//!
//! ```text
//! fleet: addresses and published ports ─┐
//! what runs here, and is well           ├─> Traffic ─> Networks::set_services ─> names: `web` is 10.216.0.5
//! what runs on other machines           ┘
//! ```
//! Instances come and go while others wait for locks, so this only writes down what is to be; one task does it, and takes together what has
//! come meanwhile. A service is named by its address once the firewall has it, and by its instances until then.
//!
//! Each published port is a service of its own for the firewall (`web 8080/tcp`), without an address: during a deploy that has the port lead to
//! another one inside, only those instances get its connections that listen to that.

use crate::container::{Container, Snapshot};
use crate::engine::{Engine, Inner};
use crate::names::SERVICE_LABEL;
use crate::record::Phase;
use coracle_network::dns::{Container as Named, Ports, Remote};
use coracle_network::{
    Backend, HostPort, NetworkError, PortMapping, Protocol, Refusal, Service, ServicePort,
};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// How long what could not be done is left alone.
const REST: Duration = Duration::from_secs(1);
/// How long a start waits for the ports of its service.
const PATIENCE: Duration = Duration::from_secs(5);

/// A service as the machines agree on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Its address.
    pub address: Option<Ipv4Addr>,
    /// Its ports on every machine.
    pub published: Vec<PublishedPort>,
}

/// A port of every machine that leads to a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublishedPort {
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the machine.
    pub host: HostPort,
    /// Port of the instances.
    pub target: u16,
}

/// See the module.
pub(crate) struct Traffic {
    wanted: Mutex<Wanted>,
    /// The number of what is wanted.
    asked: watch::Sender<u64>,
    done: watch::Sender<Done>,
}

#[derive(Default)]
struct Wanted {
    /// None until it is said for the first time: what the daemon before this one has set stands until then.
    specs: Option<BTreeMap<String, ServiceSpec>>,
    instances: BTreeMap<String, Vec<At>>,
}

/// Where an instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct At {
    addresses: Vec<Ipv4Addr>,
    ports: Ports,
}

/// What has been done.
#[derive(Debug, Clone, Default)]
struct Done {
    /// Addresses that the firewall has, by service.
    addresses: BTreeMap<String, Ipv4Addr>,
    /// Ports that could not be had, and why, by service.
    refused: BTreeMap<String, Vec<String>>,
    /// What has been published, by service.
    published: BTreeMap<String, Vec<PublishedPort>>,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            wanted: Mutex::default(),
            asked: watch::Sender::new(0),
            done: watch::Sender::new(Done::default()),
        }
    }
}

impl Traffic {
    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        // What is changed under the lock is whole after each assignment.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over who serves now.
    pub fn instances(&self, here: &[Named], elsewhere: &[Remote]) {
        let mut instances: BTreeMap<String, Vec<At>> = BTreeMap::new();
        for one in here.iter().filter(|c| c.healthy && !c.places.is_empty()) {
            if let Some(service) = &one.service {
                let at = At {
                    addresses: one.places.iter().map(|p| p.ip).collect(),
                    ports: one.ports.clone(),
                };
                instances.entry(service.clone()).or_default().push(at);
            }
        }
        for one in elsewhere.iter().filter(|r| r.healthy) {
            let at = At {
                addresses: vec![one.ip],
                ports: one.ports.clone(),
            };
            instances.entry(one.service.clone()).or_default().push(at);
        }
        let mut wanted = self.wanted();
        if wanted.instances != instances {
            wanted.instances = instances;
            self.asked.send_modify(|n| *n += 1);
        }
    }

    /// Addresses of services, by name, as the firewall has them.
    pub fn addresses(&self) -> BTreeMap<String, Ipv4Addr> {
        self.done.borrow().addresses.clone()
    }

    /// What the firewall is to have; nothing while that was not said.
    fn services(&self) -> Option<(BTreeMap<String, ServiceSpec>, Vec<Service>)> {
        let wanted = self.wanted();
        let specs = wanted.specs.clone()?;
        let none = Vec::new();
        let mut all = Vec::new();
        for (name, spec) in &specs {
            let instances = wanted.instances.get(name).unwrap_or(&none);
            if spec.address.is_some() {
                all.push(Service {
                    name: name.clone(),
                    address: spec.address,
                    every_port: true,
                    ports: Vec::new(),
                    backends: backends(instances.iter()),
                });
            }
            for port in &spec.published {
                let listens = |at: &&At| at.ports.has(port.protocol, port.target);
                all.push(Service {
                    name: of_port(name, port),
                    address: None,
                    every_port: false,
                    ports: vec![ServicePort {
                        protocol: port.protocol,
                        port: port.target,
                        target: port.target,
                        published: vec![port.host],
                    }],
                    backends: backends(instances.iter().filter(listens)),
                });
            }
        }
        Some((specs, all))
    }
}

/// What the firewall calls a published port of a service.
fn of_port(service: &str, port: &PublishedPort) -> String {
    let ip = port.host.ip.map_or_else(String::new, |ip| format!("{ip}:"));
    format!("{service} {ip}{}/{}", port.host.port, port.protocol)
}

fn backends<'a>(instances: impl Iterator<Item = &'a At>) -> Vec<Backend> {
    let addresses = instances.flat_map(|at| at.addresses.iter());
    let backend = |ip: &Ipv4Addr| Backend {
        address: *ip,
        ready: true,
    };
    addresses.map(backend).collect()
}

impl Engine {
    /// Makes these the services, by name, beside whatever instances of them come and go. What stays as it was keeps its connections.
    pub fn set_services(&self, specs: BTreeMap<String, ServiceSpec>) {
        let mut wanted = self.0.traffic.wanted();
        if wanted.specs.as_ref() != Some(&specs) {
            wanted.specs = Some(specs);
            self.0.traffic.asked.send_modify(|n| *n += 1);
        }
    }

    /// Waits until `ports` of a service are this machine's, for a few seconds at most.
    ///
    /// # Errors
    /// Why one of them cannot be had here, in words.
    pub async fn have_ports(&self, service: &str, ports: &[PublishedPort]) -> Result<(), String> {
        let mut done = self.0.traffic.done.subscribe();
        let said = |done: &Done| {
            let there = done.published.get(service);
            done.refused.contains_key(service)
                || there.is_some_and(|there| ports.iter().all(|p| there.contains(p)))
        };
        let waited = tokio::time::timeout(PATIENCE, done.wait_for(said)).await;
        match waited {
            Ok(Ok(done)) => match done.refused.get(service) {
                Some(why) => Err(why.join("; ")),
                None => Ok(()),
            },
            // The daemon ends.
            Ok(Err(_)) => Ok(()),
            Err(_) => Err(format!(
                "the published ports of service {service} are not set up after {} s; the daemon's log says what keeps the firewall from it",
                PATIENCE.as_secs()
            )),
        }
    }

    /// A container as it is shown: with the ports of this machine that lead to it by its service.
    pub(crate) fn shown(&self, container: &Container) -> Snapshot {
        let mut snapshot = container.snapshot();
        let record = &mut snapshot.record;
        let service = record.config.labels.get(SERVICE_LABEL);
        if record.state.phase == Phase::Running
            && let Some(service) = service
            && let Some(published) = self.0.traffic.done.borrow().published.get(service)
        {
            let exposed = Ports::read(record.config.exposed_ports.keys());
            let listens = published
                .iter()
                .filter(|p| exposed.has(p.protocol, p.target));
            record.state.ports.extend(listens.map(|p| PortMapping {
                host_ip: p.host.ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
                host_port: p.host.port,
                container_port: p.target,
                protocol: p.protocol,
            }));
        }
        snapshot
    }

    /// Does what is wanted, for as long as there is an engine.
    pub(crate) fn direct_traffic(&self) {
        let asked = self.0.traffic.asked.subscribe();
        tokio::spawn(direct(std::sync::Arc::downgrade(&self.0), asked));
    }
}

async fn direct(inner: Weak<Inner>, mut asked: watch::Receiver<u64>) {
    let mut said = None;
    loop {
        asked.borrow_and_update();
        let Some(engine) = inner.upgrade().map(Engine) else {
            return;
        };
        let failed = match engine.0.traffic.services() {
            Some((specs, services)) => engine.direct_to(&specs, services).await,
            None => Ok(()),
        };
        drop(engine);
        let failed = failed.err();
        if let Some(why) = failed.as_ref().filter(|why| said.as_ref() != Some(*why)) {
            tracing::error!(
                error = why,
                "services are not as they should be on this machine; it is tried again"
            );
        }
        said.clone_from(&failed);
        let changed = asked.changed();
        let changed = match failed {
            Some(_) => tokio::time::timeout(REST, changed).await.unwrap_or(Ok(())),
            None => changed.await,
        };
        if changed.is_err() {
            return;
        }
    }
}

impl Engine {
    async fn direct_to(
        &self,
        specs: &BTreeMap<String, ServiceSpec>,
        services: Vec<Service>,
    ) -> Result<(), String> {
        let networks = self.0.networks.clone();
        let set = tokio::task::spawn_blocking(move || networks.set_services(services)).await;
        let set = set.map_err(|error| error.to_string())?;
        let set = set.map_err(|error: NetworkError| coracle_sys::full(&error));
        let mut done = Done::default();
        match &set {
            Ok(refusals) => done.stands(specs, refusals),
            // Whoever waits for a port hears why it does not come.
            Err(why) => {
                let has_ports = specs.iter().filter(|(_, s)| !s.published.is_empty());
                let refused = has_ports.map(|(name, _)| (name.clone(), vec![why.clone()]));
                done.refused = refused.collect();
                done.addresses = self.0.traffic.addresses();
                done.addresses
                    .retain(|name, ip| specs.get(name).is_some_and(|s| s.address == Some(*ip)));
            }
        }
        let before = self.0.traffic.done.send_replace(done.clone());
        if before.addresses != done.addresses {
            self.name_anew();
        }
        for (service, why) in &done.refused {
            if before.refused.get(service) != Some(why) && set.is_ok() {
                tracing::warn!(
                    service,
                    why = why.join("; "),
                    "a published port is not had here"
                );
            }
        }
        set.map(drop)
    }
}

impl Done {
    /// All of it stands, but for what was refused.
    fn stands(&mut self, specs: &BTreeMap<String, ServiceSpec>, refusals: &[Refusal]) {
        for refusal in refusals {
            let service = refusal.service.split(' ').next().unwrap_or_default();
            let why = coracle_sys::full(&refusal.error);
            self.refused
                .entry(service.to_owned())
                .or_default()
                .push(why);
        }
        for (name, spec) in specs {
            if let Some(address) = spec.address {
                self.addresses.insert(name.clone(), address);
            }
            let refused = |port: &&PublishedPort| {
                let name = of_port(name, port);
                refusals.iter().any(|r| r.service == name)
            };
            let held = spec.published.iter().filter(|p| !refused(p));
            self.published.insert(name.clone(), held.cloned().collect());
        }
    }
}
