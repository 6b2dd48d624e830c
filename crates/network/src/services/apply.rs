//! Services: set, kept on the disk, looked after and removed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use coracle_sys::netlink::{Flow, NetlinkError, forget_flows, tcp_flows, udp_flows};
use serde::{Deserialize, Serialize};

use super::rules::{Places, Rendered, Way};
use super::{Refusal, Rules, Service, ServicePort, normal, route};
use crate::error::NetworkError;
use crate::firewall::{self, Published};
use crate::link::failed;
use crate::model::{Driver, Protocol};
use crate::networks::{Inner, Networks};
use crate::ports::claim;
use crate::stored;

const VERSION: u64 = 1;
/// Not a network's, whose files end in `.json`.
const FILE: &str = "services";

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    version: u64,
    services: Vec<Service>,
    /// Published ports that a service did not get: a daemon that comes does not take them before they are asked for again.
    #[serde(default)]
    refused: BTreeSet<(String, Published)>,
}

/// Holds a published port against every other program.
struct Claim {
    service: String,
    _socket: OwnedFd,
}

/// The services as they were set last, and what has become of them.
#[derive(Default)]
pub(crate) struct Services {
    /// None until some service is set.
    spec: Option<Vec<Service>>,
    claims: BTreeMap<Published, Claim>,
    /// What the firewall has.
    loaded: Option<Rendered>,
    /// What the file has.
    stored: Option<Stored>,
    /// All of it was removed, and stays so until the next daemon.
    down: bool,
}

impl ServicePort {
    /// The ports of the machine that it is published on.
    pub(super) fn keys(&self) -> BTreeSet<Published> {
        let key = |p: &super::HostPort| {
            let ip = p.ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
            (self.protocol, ip, p.port)
        };
        self.published.iter().map(key).collect()
    }
}

/// All published ports, and by which service.
fn published(services: &[Service]) -> Vec<(String, Published)> {
    let mut all = Vec::new();
    for service in services {
        let keys = service.ports.iter().flat_map(ServicePort::keys);
        all.extend(keys.map(|key| (service.name.clone(), key)));
    }
    all
}

impl Networks {
    /// Makes the services of this machine what `services` says: all of them, at once. Does nothing that is done already, so it may be
    /// called as often as instances come and go. They are kept on the disk, and stand again after [`Networks::open`]
    /// before anything else is asked of it. Connections that are there stay where they are; UDP flows of instances that are gone or not
    /// ready any more find another one with their next packet.
    ///
    /// Returns the published ports that could not be had here; all else stands without them. They are tried again with the next call.
    /// Who holds a port keeps it; of several that want it anew the first by name gets it.
    ///
    /// From the first service on, every address of [`crate::Options::services`] is refused that no service has, also when the last one is
    /// gone. Does nothing after [`Self::teardown`].
    ///
    /// # Errors
    /// [`NetworkError::BadService`] for services that contradict themselves or each other, and [`NetworkError::ServiceRange`] where this
    /// machine has addresses of the services' range otherwise: nothing is changed. Others when the kernel or the firewall refuses, or the
    /// file cannot be written: what was asked for stays as far as it got, and the next call with the same tries again.
    pub fn set_services(&self, services: Vec<Service>) -> Result<Vec<Refusal>, NetworkError> {
        let mut inner = self.lock();
        let services = normal(services, inner.options.services)?;
        let first = inner.services.spec.is_none();
        if inner.services.down || (first && services.is_empty()) {
            return Ok(Vec::new());
        }
        let has = |all: &[Service]| all.iter().any(|s| s.address.is_some());
        if has(&services) && !inner.services.spec.as_deref().is_some_and(has) {
            inner.services_range_is_free()?;
        }
        let (claims, refusals) = inner.claim_all(published(&services));
        inner.services.claims = claims;
        inner.services.spec = Some(services);
        let loaded = inner.services_load();
        let routed = inner.services_route().map(drop);
        let refused = refusals
            .iter()
            .map(|r| (r.service.clone(), (r.protocol, r.ip, r.port)));
        let kept = inner.services_keep(refused.collect());
        loaded.and(routed).and(kept)?;
        Ok(refusals)
    }

    /// How many TCP connections, open or about to be, this machine has sent to the instance at `address` for some service. When an
    /// instance that is not ready has none left on any machine, nobody talks to it any more. What came straight to its address or by a
    /// port that a container has published does not count.
    ///
    /// # Errors
    /// When the kernel does not say its connections.
    pub fn connections(&self, address: Ipv4Addr) -> Result<usize, NetworkError> {
        let all =
            tcp_flows(address.into()).map_err(failed(format!("list connections to {address}")))?;
        let inner = self.lock();
        let range = inner.options.services;
        let by_service = |f: &Flow| match f.asked.ip() {
            IpAddr::V4(ip) => range.contains(&ip),
            IpAddr::V6(_) => false,
        };
        let of_container = |f: &Flow| {
            let key = |ip| (Protocol::Tcp, ip, f.asked.port());
            [f.asked.ip(), Ipv4Addr::UNSPECIFIED.into()]
                .into_iter()
                .any(|ip| inner.ports.contains_key(&key(ip)))
        };
        let counts = |f: &&Flow| f.open && f.translated() && (by_service(f) || !of_container(f));
        Ok(all.iter().filter(counts).count())
    }
}

/// Forgets flows of UDP. Who cannot be told goes on where it is until it pauses for half a minute.
fn forget(what: &str, gone: impl Fn(&Flow) -> bool) {
    let forget = || -> Result<usize, NetlinkError> {
        let all = udp_flows(false)?;
        forget_flows(all.iter().filter(|f| gone(f)))
    };
    if let Err(error) = forget() {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "cannot clear the UDP flows of {what}");
    }
}

impl Inner {
    fn services_file(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Refuses a range that is something else on this machine.
    fn services_range_is_free(&mut self) -> Result<(), NetworkError> {
        let range = self.options.services;
        match self.services_overlap(range)? {
            None => Ok(()),
            Some(other) => Err(NetworkError::ServiceRange { range, other }),
        }
    }

    /// Holds what is published: what is held already stays so. The rest of what was held is let go.
    fn claim_all(
        &mut self,
        wanted: Vec<(String, Published)>,
    ) -> (BTreeMap<Published, Claim>, Vec<Refusal>) {
        let mut held = std::mem::take(&mut self.services.claims);
        let mut claims = BTreeMap::new();
        for (service, key) in &wanted {
            if held.get(key).is_some_and(|c| c.service == *service) {
                claims.extend(held.remove_entry(key));
            }
        }
        for (service, key) in &wanted {
            if !claims.contains_key(key)
                && let Some(mut claim) = held.remove(key)
            {
                claim.service.clone_from(service);
                claims.insert(*key, claim);
            }
        }
        drop(held);
        let mut refusals = Vec::new();
        for (service, key) in wanted {
            if claims.get(&key).is_some_and(|c| c.service == service) {
                continue;
            }
            match self.claim_one(&key, &service, &claims) {
                Ok(claim) => {
                    claims.insert(key, claim);
                }
                Err(error) => refusals.push(Refusal {
                    service,
                    protocol: key.0,
                    ip: key.1,
                    port: key.2,
                    error,
                }),
            }
        }
        (claims, refusals)
    }

    fn claim_one(
        &self,
        key: &Published,
        service: &str,
        others: &BTreeMap<Published, Claim>,
    ) -> Result<Claim, NetworkError> {
        let (protocol, ip, port) = *key;
        let own = service.to_owned();
        // A port of a service has the service's name, and what tells it from the others.
        let service = service.split(' ').next().unwrap_or(service).to_owned();
        if ip.is_ipv6() {
            return Err(NetworkError::ServiceIpv6 {
                service,
                ip,
                port,
                protocol,
            });
        }
        match claim(ip, port, protocol) {
            Ok((socket, _)) => Ok(Claim {
                service: own,
                _socket: socket,
            }),
            Err(NetworkError::PortInUse { .. }) => Err(NetworkError::ServicePort {
                by: self.holder(key, others),
                service,
                ip,
                port,
                protocol,
            }),
            Err(error) => Err(error),
        }
    }

    /// Who has a port that is in use, in words.
    fn holder(&self, key: &Published, claims: &BTreeMap<Published, Claim>) -> String {
        let same = |other: &&Published| {
            let any = other.1.is_unspecified() || key.1.is_unspecified();
            let family = other.1.is_ipv4() == key.1.is_ipv4();
            (other.0, other.2) == (key.0, key.2) && family && (any || other.1 == key.1)
        };
        if let Some(other) = claims.keys().find(same) {
            let name = claims[other].service.as_str();
            return format!("service {}", name.split(' ').next().unwrap_or(name));
        }
        let Some(other) = self.ports.keys().find(same) else {
            return "another program".into();
        };
        let id = &self.ports[other].container;
        let known = self.endpoints.iter().find(|e| e.container_id == *id);
        format!("container {}", known.map_or(id, |e| &e.container_name))
    }

    /// Whether any service was ever set.
    pub(crate) fn has_services(&self) -> bool {
        self.services.spec.is_some()
    }

    /// What the firewall is to have.
    pub(crate) fn service_rules(&self) -> Option<Rules> {
        let spec = self.services.spec.as_ref()?;
        let default = self.get("bridge").ok()?;
        let others = self.networks.values();
        let others = others.filter(|n| n.driver == Driver::Bridge && n.id != default.id);
        let peers = |r: crate::overlay::Rules| r.peers.iter().map(|p| p.subnet).collect();
        let places = Places {
            bridge: default.bridge,
            subnet: default.subnet,
            gateway: default.gateway,
            others: others
                .map(|n| (n.bridge.clone(), n.subnet, n.internal))
                .collect(),
            peers: self.overlay_rules().map(peers),
        };
        let claims = self.services.claims.iter();
        let held = claims.map(|(k, c)| (*k, c.service.clone())).collect();
        let rendered = Rendered::new(spec, &held, &places);
        Some(Rules::new(self.options.services, places, rendered))
    }

    /// After the firewall was loaded: UDP flows forget the ways that it has no more.
    pub(crate) fn services_loaded(&mut self, rules: Option<Rules>) {
        let before = self.services.loaded.take();
        self.services.loaded = rules.map(|r| r.rendered);
        let ways = |r: &Option<Rendered>| r.as_ref().map(|r| r.ways.clone()).unwrap_or_default();
        let (before, now) = (ways(&before), ways(&self.services.loaded));
        let gone: BTreeSet<Way> = before.difference(&now).copied().collect();
        if gone.is_empty() {
            return;
        }
        forget("services' instances that are gone", |flow| {
            let (IpAddr::V4(asked), IpAddr::V4(backend)) = (flow.asked.ip(), flow.answers.ip())
            else {
                return false;
            };
            let way = |asked, port, target| Way {
                asked,
                port,
                backend,
                target,
            };
            let (port, target) = (flow.asked.port(), flow.answers.port());
            let one = way(Some(asked), port, target);
            flow.translated()
                && (gone.contains(&one)
                    || gone.contains(&way(None, port, target)) && !now.contains(&one)
                    || port == target && gone.contains(&way(Some(asked), 0, 0)))
        });
    }

    /// Brings the firewall to what was set last, by what changed if that can be.
    fn services_load(&mut self) -> Result<(), NetworkError> {
        let rules = self.service_rules();
        let (Some(before), Some(new)) = (&self.services.loaded, &rules) else {
            return self.reload();
        };
        let change = new.rendered.change(before);
        if change.is_empty() {
            return Ok(());
        }
        match firewall::load(&change) {
            Ok(()) => {
                self.services_loaded(rules);
                Ok(())
            }
            // After a foreign flush there is nothing to change: the whole table sets it right.
            Err(_) => self.reload(),
        }
    }

    /// Sets the range's route if it is not there; true if that was needed.
    pub(crate) fn services_route(&mut self) -> Result<bool, NetworkError> {
        let default = self.get("bridge")?;
        let bridge = self.bridges.get(&default.id).copied();
        match (&self.services.spec, bridge) {
            (Some(_), Some(bridge)) => route::ensure(
                &mut self.netlink,
                self.options.services,
                bridge,
                default.gateway,
            ),
            _ => Ok(false),
        }
    }

    /// Forgets flows of UDP that began while nothing translated them, and would never be.
    pub(crate) fn services_forget_lost(&self) {
        let range = self.options.services;
        if self.services.spec.is_some() {
            forget("services", |flow| match flow.answers.ip() {
                IpAddr::V4(ip) => range.contains(&ip),
                IpAddr::V6(_) => false,
            });
        }
    }

    fn services_keep(
        &mut self,
        refused: BTreeSet<(String, Published)>,
    ) -> Result<(), NetworkError> {
        let Some(services) = self.services.spec.clone() else {
            return Ok(());
        };
        let new = Stored {
            version: VERSION,
            services,
            refused,
        };
        if self.services.stored.as_ref() != Some(&new) {
            self.durable(&self.services_file(), &new)?;
            self.services.stored = Some(new);
        }
        Ok(())
    }

    /// At daemon start: takes over what was set, before the firewall is loaded for the first time.
    pub(crate) fn services_open(&mut self) -> Result<bool, NetworkError> {
        let Some(stored) = stored::read::<Stored>(&self.services_file(), VERSION)? else {
            return Ok(true);
        };
        let mut wanted = published(&stored.services);
        wanted.retain(|w| !stored.refused.contains(w));
        let (claims, refusals) = self.claim_all(wanted);
        let whole = refusals.is_empty();
        for refusal in refusals {
            let error = &refusal.error as &dyn std::error::Error;
            tracing::warn!(error, "a published port waits until services are set anew");
        }
        self.services.claims = claims;
        self.services.spec = Some(stored.services.clone());
        self.services.stored = Some(stored);
        Ok(whole)
    }

    /// The rest of [`Self::services_open`], when the firewall stands.
    pub(crate) fn services_resume(&mut self) {
        if let Err(error) = self.services_route() {
            // Containers reach services without it.
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "the machine itself does not reach services");
        }
        self.services_forget_lost();
    }

    /// When everything goes and the services are to come back with the next daemon.
    pub(crate) fn services_down(&mut self) -> Result<(), NetworkError> {
        self.services = Services {
            down: true,
            ..Services::default()
        };
        route::clear(&mut self.netlink)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What is on the disk is read by the next release.
    #[test]
    fn services_as_they_are_stored() {
        let text = r#"{"version":1,"services":[{"name":"web","address":"10.216.0.5","ports":[{"protocol":"tcp","port":80,"target":8080,"published":[{"ip":null,"port":80}]}],"backends":[{"address":"10.210.0.2","ready":true}]}],"refused":[["web",["tcp","0.0.0.0",80]]]}"#;
        let stored: Stored = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&stored).unwrap(), text);
        let [(service, key)] = &published(&stored.services)[..] else {
            unreachable!("one port is published")
        };
        assert!(stored.refused.contains(&(service.clone(), *key)));
    }
}
