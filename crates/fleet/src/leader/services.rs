//! Services follow from units: who leads gives them addresses, and writes down what every machine is to know. See [`crate::services`].

use super::{Group, Leader, locked};
use crate::error::Result;
use crate::model::keys;
use crate::services::{PortRecord, ServiceRecord, choose, name_of, published, record_of};
use coracle_unit::{Unit, UnitName};
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// What is known of services.
pub(super) struct Services {
    /// Where addresses are from.
    range: Ipv4Net,
    /// As they are written.
    records: BTreeMap<String, ServiceRecord>,
    /// Addresses in these.
    taken: BTreeSet<Ipv4Addr>,
    /// Names of units that are, or were, of a service.
    units: BTreeMap<String, BTreeSet<String>>,
    /// Which are to be looked at.
    due: BTreeSet<String>,
    /// Which have no address, as there is none left.
    without: BTreeSet<String>,
}

impl Services {
    pub fn new(range: Ipv4Net, records: BTreeMap<String, ServiceRecord>) -> Self {
        Self {
            range,
            due: records.keys().cloned().collect(),
            taken: records.values().filter_map(|r| r.address).collect(),
            records,
            units: BTreeMap::new(),
            without: BTreeSet::new(),
        }
    }
}

impl Leader {
    /// A unit's text is another, or there is a new one.
    pub(super) fn service_of(&self, name: &str, unit: &Unit) {
        // Of one that is none any more, too: what it was before is looked at.
        let service = name_of(unit).unwrap_or_else(|| unit.name.base().prefix().to_owned());
        let mut services = locked(&self.services);
        let units = services.units.entry(service.clone()).or_default();
        units.insert(name.to_owned());
        services.due.insert(service);
        drop(services);
        self.wake.notify_one();
    }

    /// A unit is no more.
    pub(super) fn service_lost(&self, name: &str) {
        if let Ok(name) = UnitName::new(name) {
            let service = name.base().prefix().to_owned();
            locked(&self.services).due.insert(service);
            self.wake.notify_one();
        }
    }

    /// Whether something is to be written.
    pub(super) fn services_due(&self) -> bool {
        !locked(&self.services).due.is_empty()
    }

    /// Writes what has become of services since.
    pub(crate) async fn write_services(&self) -> Result<()> {
        let due = std::mem::take(&mut locked(&self.services).due);
        let mut changes = Vec::new();
        for service in &due {
            let units = locked(&self.services).units.get(service).cloned();
            let targets: Vec<_> = units
                .into_iter()
                .flatten()
                .filter_map(|name| Some((self.target(&name)?, name)))
                .collect();
            let units: Vec<_> = targets.iter().map(|(target, _)| target.unit()).collect();
            let mut services = locked(&self.services);
            let names = targets.into_iter().map(|(_, name)| name).collect();
            services.units.insert(service.clone(), names);
            let mut wanted = record_of(units.iter().map(|u| &**u), None);
            if let Some(wanted) = &mut wanted {
                wanted.address = services.address(service);
            } else {
                services.units.remove(service);
                services.without.remove(service);
            }
            if services.records.get(service) == wanted.as_ref() {
                continue;
            }
            // At once, so that the next one gets another address.
            let before = services.set(service, wanted.clone());
            changes.push((service.clone(), before, wanted));
        }
        let mut groups = Vec::new();
        for (service, _, wanted) in &changes {
            let mut group = Group::default();
            match wanted {
                Some(record) => group.put(keys::service(service), record)?,
                None => group.delete(keys::service(service)),
            }
            groups.push(group);
        }
        let written = self.commit(groups).await;
        if written.is_err() {
            let mut services = locked(&self.services);
            services.due.extend(due);
            for (service, before, _) in changes {
                services.set(&service, before);
            }
        }
        written
    }

    /// Another service that has one of a unit's published ports on every machine, and which.
    pub(crate) fn port_taken(&self, unit: &Unit) -> Option<(String, PortRecord)> {
        let (own, ports) = (name_of(unit)?, published(unit));
        let services = locked(&self.services);
        let others = services.records.iter().filter(|(name, _)| **name != own);
        let mut all = others.flat_map(|(name, r)| r.ports.iter().map(move |p| (name, p)));
        let taken = all.find(|(_, other)| ports.iter().any(|p| p.is_in_the_way_of(other)))?;
        Some((taken.0.clone(), taken.1.clone()))
    }

    /// A service as it is written.
    pub(crate) fn service(&self, name: &str) -> Option<ServiceRecord> {
        locked(&self.services).records.get(name).cloned()
    }
}

impl Services {
    /// A service is written so from now on; answers how it was.
    fn set(&mut self, service: &str, record: Option<ServiceRecord>) -> Option<ServiceRecord> {
        let address = record.as_ref().and_then(|r| r.address);
        let before = match record {
            Some(record) => self.records.insert(service.to_owned(), record),
            None => self.records.remove(service),
        };
        if let Some(ip) = before.as_ref().and_then(|r| r.address) {
            self.taken.remove(&ip);
        }
        self.taken.extend(address);
        before
    }

    /// The address that a service has, or gets.
    fn address(&mut self, service: &str) -> Option<Ipv4Addr> {
        // It keeps what it has, also where who leads now has another range.
        let has = self.records.get(service).and_then(|r| r.address);
        if has.is_some() {
            return has;
        }
        let chosen = choose(service, &self.taken, self.range);
        if chosen.is_none() && self.without.insert(service.to_owned()) {
            tracing::error!(
                service,
                "no address of {} is free: it is named by its instances; give services more (`services` in [network] of coracle.toml)",
                self.range
            );
        }
        chosen
    }
}
