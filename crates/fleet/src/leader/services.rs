//! Services follow from units: who leads gives them addresses, and writes down what every machine is to know. See [`crate::services`].

use super::{Group, Leader, locked};
use crate::error::Result;
use crate::model::keys;
use crate::services::{ServiceRecord, choose, name_of, record_of};
use coracle_unit::{Unit, UnitName};
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};

/// What is known of services.
pub(super) struct Services {
    /// Where addresses are from.
    range: Ipv4Net,
    /// As they are written.
    records: BTreeMap<String, ServiceRecord>,
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
    pub(super) async fn write_services(&self) -> Result<()> {
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
            let address = services.address(service);
            let wanted = record_of(units.iter().map(|u| &**u), address);
            if wanted.is_none() {
                services.units.remove(service);
                services.without.remove(service);
            }
            if services.records.get(service) == wanted.as_ref() {
                continue;
            }
            // At once, so that the next one gets another address.
            let before = match &wanted {
                Some(record) => services.records.insert(service.clone(), record.clone()),
                None => services.records.remove(service),
            };
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
                match before {
                    Some(record) => drop(services.records.insert(service, record)),
                    None => drop(services.records.remove(&service)),
                }
            }
        }
        written
    }

    /// A service as it is written.
    pub(crate) fn service(&self, name: &str) -> Option<ServiceRecord> {
        locked(&self.services).records.get(name).cloned()
    }
}

impl Services {
    /// The address that a service has, or gets.
    fn address(&mut self, service: &str) -> Option<std::net::Ipv4Addr> {
        let has = self.records.get(service).and_then(|r| r.address);
        if let Some(ip) = has.filter(|ip| self.range.contains(ip)) {
            return Some(ip);
        }
        let others = self.records.iter().filter(|(name, _)| *name != service);
        let taken = others.filter_map(|(_, r)| r.address).collect();
        let chosen = choose(service, &taken, self.range);
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
