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
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// How long what could not be done is left alone.
const REST: Duration = Duration::from_secs(1);
/// How often it is tried to have a port that somebody else has.
const RETRY: Duration = Duration::from_secs(5);
/// How often a start asks for a port that somebody has, and how long it waits in between.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(300);
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

impl PublishedPort {
    /// What it takes of the machine, whatever it leads to.
    fn key(&self) -> (Protocol, HostPort) {
        (self.protocol, self.host)
    }
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
    /// As of that: whether it was said what runs on other machines.
    elsewhere: bool,
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
    /// The number of what was wanted.
    asked: u64,
    /// Services that are known.
    known: BTreeSet<String>,
    /// Addresses that the firewall has, by service.
    addresses: BTreeMap<String, Ipv4Addr>,
    /// Ports that could not be had, and why, by service.
    refused: BTreeMap<String, Vec<(PublishedPort, String)>>,
    /// What has been published, by service.
    published: BTreeMap<String, Vec<PublishedPort>>,
    /// Why nothing could be done.
    failed: Option<String>,
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

    /// Something is to be done, perhaps the same once more.
    fn again(&self) {
        self.asked.send_modify(|n| *n += 1);
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
            self.again();
        }
    }

    /// Addresses of services, by name, as the firewall has them.
    pub fn addresses(&self) -> BTreeMap<String, Ipv4Addr> {
        self.done.borrow().addresses.clone()
    }

    /// What the firewall is to have; nothing while that was not said.
    fn services(&self) -> Option<(u64, BTreeMap<String, ServiceSpec>, Vec<Service>)> {
        let wanted = self.wanted();
        let asked = *self.asked.borrow();
        let specs = wanted.specs.clone().filter(|_| wanted.elsewhere)?;
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
        Some((asked, specs, all))
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
            self.0.traffic.again();
        }
    }

    /// It was said what runs on other machines: with [`Self::set_remote`], or that there is nothing of them.
    pub fn elsewhere_is_known(&self) {
        let mut wanted = self.0.traffic.wanted();
        if !std::mem::replace(&mut wanted.elsewhere, true) {
            self.0.traffic.again();
        }
    }

    /// Waits until `ports` of a service are this machine's. A service of which this machine has not heard is waited for a few seconds only: it has its
    /// ports as soon as that comes.
    ///
    /// # Errors
    /// Why one of them cannot be had here, in words.
    pub async fn have_ports(&self, service: &str, ports: &[PublishedPort]) -> Result<(), String> {
        let mut had = self.ask_for_ports(service, ports).await;
        for _ in 1..TRIES {
            if had.is_ok() {
                break;
            }
            // Of a container that has just ended it is let go in a moment.
            tokio::time::sleep(PAUSE).await;
            had = self.ask_for_ports(service, ports).await;
        }
        had
    }

    async fn ask_for_ports(&self, service: &str, ports: &[PublishedPort]) -> Result<(), String> {
        let mut done = self.0.traffic.done.subscribe();
        // Who had one may have let it go since.
        self.0.traffic.again();
        let asked = *self.0.traffic.asked.borrow();
        let said = |done: &Done| {
            let there = done.published.get(service).into_iter().flatten();
            let there: Vec<_> = there.map(PublishedPort::key).collect();
            let refused = done.refused.get(service).into_iter().flatten();
            let refused: Vec<_> = refused.map(|(port, _)| port.key()).collect();
            let known =
                |port: &PublishedPort| there.contains(&port.key()) || refused.contains(&port.key());
            done.asked >= asked && (done.failed.is_some() || ports.iter().all(known))
        };
        let waited = tokio::time::timeout(PATIENCE, done.wait_for(said)).await;
        let Ok(Ok(done)) = waited else {
            tracing::warn!(
                service,
                "this machine has not heard yet of the ports that the service publishes; they are opened when it has"
            );
            return Ok(());
        };
        if let Some(why) = &done.failed {
            return Err(format!(
                "the published ports of service {service} cannot be opened: {why}"
            ));
        }
        let refused = done.refused.get(service).into_iter().flatten();
        let own = refused.filter(|(port, _)| ports.iter().any(|p| p.key() == port.key()));
        let whys: Vec<&str> = own.map(|(_, why)| &**why).collect();
        match whys.is_empty() {
            true => Ok(()),
            false => Err(whys.join("; ")),
        }
    }

    /// Waits until the firewall goes by what was said last of a service's instances, for a moment at most.
    pub(crate) async fn traffic_follows(&self) {
        let asked = *self.0.traffic.asked.borrow();
        let mut done = self.0.traffic.done.subscribe();
        let follows = done.wait_for(|d| d.asked >= asked || d.known.is_empty());
        let _ = tokio::time::timeout(REST, follows).await;
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
        let again = match engine.0.traffic.services() {
            Some((number, specs, services)) => {
                let (failed, refused) = engine.direct_to(number, &specs, services).await;
                if let Some(why) = failed.as_ref().filter(|why| said.as_ref() != Some(*why)) {
                    tracing::error!(
                        error = why,
                        "services are not as they should be on this machine; it is tried again"
                    );
                }
                said.clone_from(&failed);
                match (failed, refused) {
                    (Some(_), _) => Some(REST),
                    // Whoever has the port may let it go.
                    (None, true) => Some(RETRY),
                    (None, false) => None,
                }
            }
            None => None,
        };
        drop(engine);
        let changed = asked.changed();
        let changed = match again {
            Some(time) => tokio::time::timeout(time, changed).await.unwrap_or(Ok(())),
            None => changed.await,
        };
        if changed.is_err() {
            return;
        }
    }
}

impl Engine {
    /// Why it could not be done, and whether ports were refused.
    async fn direct_to(
        &self,
        number: u64,
        specs: &BTreeMap<String, ServiceSpec>,
        services: Vec<Service>,
    ) -> (Option<String>, bool) {
        let networks = self.0.networks.clone();
        let set = move || match networks.set_services(services.clone()) {
            // Published ports need no address of the range.
            Err(error @ NetworkError::ServiceRange { .. }) => {
                let ports = services.into_iter().filter(|s| s.address.is_none());
                let set = networks.set_services(ports.collect());
                set.map(|refusals| (refusals, Some(coracle_sys::full(&error))))
            }
            other => other.map(|refusals| (refusals, None)),
        };
        let set = tokio::task::spawn_blocking(set).await;
        let set = match set {
            Ok(set) => set.map_err(|error| coracle_sys::full(&error)),
            Err(error) => Err(error.to_string()),
        };
        let mut done = self.0.traffic.done.borrow().clone();
        done.asked = number;
        done.known = specs.keys().cloned().collect();
        let failed = match &set {
            Ok((refusals, no_addresses)) => {
                done.failed = None;
                done.stands(specs, refusals, no_addresses.is_none());
                no_addresses.clone()
            }
            Err(why) => {
                done.failed = Some(why.clone());
                let same = |name: &String, ip: &mut Ipv4Addr| {
                    specs.get(name).is_some_and(|s| s.address == Some(*ip))
                };
                done.addresses.retain(same);
                Some(why.clone())
            }
        };
        let before = self.0.traffic.done.send_replace(done.clone());
        if before.addresses != done.addresses {
            self.name_anew();
        }
        for (service, refused) in &done.refused {
            if before.refused.get(service) != Some(refused) {
                for (_, why) in refused {
                    tracing::warn!(service, why, "a published port is not had here");
                }
            }
        }
        (failed, !done.refused.is_empty())
    }
}

impl Done {
    /// All of it stands, but for what was refused.
    fn stands(
        &mut self,
        specs: &BTreeMap<String, ServiceSpec>,
        refusals: &[Refusal],
        with_addresses: bool,
    ) {
        (self.addresses, self.refused, self.published) = Default::default();
        for (name, spec) in specs {
            if let Some(address) = spec.address.filter(|_| with_addresses) {
                self.addresses.insert(name.clone(), address);
            }
            for port in &spec.published {
                let own = of_port(name, port);
                match refusals.iter().find(|r| r.service == own) {
                    Some(refusal) => {
                        let why = coracle_sys::full(&refusal.error);
                        let refused = self.refused.entry(name.clone()).or_default();
                        refused.push((port.clone(), why));
                    }
                    None => {
                        let held = self.published.entry(name.clone()).or_default();
                        held.push(port.clone());
                    }
                }
            }
        }
    }
}
