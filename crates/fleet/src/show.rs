//! What people see of units.

use crate::error::{FleetError, Result};
use crate::fleet::{Fleet, UnitText};
use crate::leader::{Placed, Target};
use crate::model::{Actual, Desired, UnitView};
use crate::requests::named;
use crate::supervise::Supervised;
use coracle_engine::logs::{LogLine, LogQuery};
use coracle_unit::{Kind, Unit, UnitKind};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::mpsc;

impl Fleet {
    /// One unit, as far as this machine knows: any while it leads, otherwise one that it has.
    ///
    /// # Errors
    /// [`FleetError::NotFound`], [`FleetError::NotLeader`].
    pub async fn get(&self, name: &str) -> Result<(UnitView, UnitText)> {
        let leader = match self.leading() {
            Ok(leader) => leader,
            Err(error) => return self.get_here(name).await?.ok_or(error),
        };
        let target = named(&leader, name)?;
        let revision = leader.revision(&target.record()).await?;
        let text = UnitText {
            text: revision.text,
            dropins: revision.dropins,
        };
        Ok((self.view(&target), text))
    }

    /// A unit that this machine has, with its text as the machine has it.
    async fn get_here(&self, name: &str) -> Result<Option<(UnitView, UnitText)>> {
        let Ok(unit) = self.here(name) else {
            return Ok(None);
        };
        let text = self.text(unit.uid(), unit.record().revision).await?;
        Ok(text.map(|found| {
            let text = UnitText {
                text: found.text,
                dropins: found.dropins,
            };
            (self.view_here(&unit), text)
        }))
    }

    /// Images that units name which this machine has or may get, and those that the last revisions of services need, by their ids. One that ends
    /// with `*` has a specifier there: a template's.
    ///
    /// # Errors
    /// [`FleetError::Store`].
    pub async fn images(&self) -> Result<BTreeSet<String>> {
        let of = |unit: &Unit| match &unit.kind {
            Kind::Container { container, .. } => match container.image.split_once('%') {
                Some((start, _)) => Some(format!("{start}*")),
                None => Some(container.image.clone()),
            },
            _ => None,
        };
        let here = self.all().into_iter().map(|s| s.unit());
        let leader = self.0.leader.borrow().clone();
        let known = leader.map(|l| l.all()).unwrap_or_default();
        let known = known.into_iter().map(|t| t.unit());
        let named = here.chain(known).filter_map(|unit| of(&unit));
        let mut all: BTreeSet<String> = named.collect();
        all.extend(self.pinned_images().await?);
        Ok(all)
    }

    /// Every unit, by name, as far as this machine knows: of all while it leads, otherwise those that it has.
    pub fn list(&self) -> Vec<UnitView> {
        match self.leading() {
            Ok(leader) => leader.all().iter().map(|t| self.view(t)).collect(),
            Err(_) => self.all().iter().map(|s| self.view_here(s)).collect(),
        }
    }

    /// As [`Self::list`], but a unit that is on several machines is there once for each, as it stands on that one.
    pub fn list_everywhere(&self) -> Vec<UnitView> {
        let Ok(leader) = self.leading() else {
            return self.list();
        };
        let each = |target: &Arc<Target>| {
            let (record, unit) = (target.record(), target.unit());
            let placed = target.placed().into_iter();
            let placed: Vec<_> = placed.filter(|(_, p)| p.desired.is_some()).collect();
            if placed.len() < 2 {
                return vec![self.view(target)];
            }
            let one = |(machine, placed): (String, Placed)| {
                let actual = placed
                    .actual
                    .map_or_else(|| target.actual(), |actual| *actual);
                let outdated = actual.generation > 0 && actual.revision != record.revision;
                let here = machine == self.0.machine.id;
                self.seen(&unit, record.desired, &actual, machine, here, outdated)
            };
            placed.into_iter().map(one).collect()
        };
        leader.all().iter().flat_map(each).collect()
    }

    pub(crate) fn view(&self, target: &Target) -> UnitView {
        let (record, unit, actual) = (target.record(), target.unit(), target.actual());
        let machines = target.machines();
        let here = machines.contains(&self.0.machine.id);
        let machine = match here {
            true => self.0.machine.id.clone(),
            false => machines.into_iter().next().unwrap_or_default(),
        };
        let outdated = actual.generation > 0 && actual.revision != record.revision;
        self.seen(&unit, record.desired, &actual, machine, here, outdated)
    }

    /// One that this machine has.
    pub(crate) fn view_here(&self, supervised: &Supervised) -> UnitView {
        let (record, actual) = (supervised.record(), supervised.actual());
        let outdated = actual.generation > 0 && actual.revision != record.revision;
        let machine = self.0.machine.id.clone();
        let unit = supervised.unit();
        self.seen(&unit, record.desired, &actual, machine, true, outdated)
    }

    fn seen(
        &self,
        unit: &Unit,
        desired: Desired,
        actual: &Actual,
        machine: String,
        here: bool,
        outdated: bool,
    ) -> UnitView {
        // What is here is looked at, what is elsewhere was told.
        let (health, ports) = match here {
            true => self.shown(actual),
            false => (actual.health.clone(), actual.ports.clone()),
        };
        let container = actual.container.clone();
        let there = |id: &String| !here || self.containers().look(id).is_some();
        let service = crate::services::name_of(unit);
        let leader = self.0.leader.borrow().clone();
        let known = service.as_deref().zip(leader);
        let known = known.and_then(|(name, leader)| leader.service(name));
        UnitView {
            service,
            address: known.and_then(|s| s.address),
            name: unit.name.to_string(),
            kind: unit.name.kind().suffix().to_owned(),
            description: unit.description.clone(),
            desired,
            active: actual.active,
            sub: actual.sub.clone(),
            since: (actual.generation > 0).then_some(actual.since),
            machine,
            health,
            container: container.filter(there),
            reason: actual.reason.clone(),
            ports,
            template: unit.name.is_template(),
            outdated,
            restarts: actual.restarts,
        }
    }

    /// Health and published ports of a unit's container.
    pub(crate) fn shown(&self, actual: &Actual) -> (Option<String>, Vec<String>) {
        let id = actual.container.as_deref();
        let Some(found) = id.and_then(|id| self.containers().look(id)) else {
            return (None, Vec::new());
        };
        (found.health.map(ToOwned::to_owned), found.ports)
    }

    /// The output of a unit that this machine has.
    ///
    /// # Errors
    /// [`FleetError::NotFound`], or [`FleetError::Unsupported`] for units that say nothing.
    pub fn logs(&self, name: &str, query: LogQuery) -> Result<mpsc::Receiver<LogLine>> {
        match self.here(name) {
            Ok(unit) => self.logs_of(&unit, query),
            // One that was never anywhere has said nothing.
            Err(error) => match self.leading().and_then(|leader| named(&leader, name)) {
                Ok(target) => silent(target.unit().name.kind(), target.unit().name.as_str()),
                Err(_) => Err(error),
            },
        }
    }

    pub(crate) fn logs_of(
        &self,
        supervised: &Supervised,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<LogLine>> {
        let unit = supervised.unit();
        match unit.name.kind() {
            UnitKind::Container => match supervised.actual().container {
                Some(id) => Ok(self.containers().logs(&id, query)?),
                None => Ok(mpsc::channel(1).1),
            },
            UnitKind::Service => Ok(self.engine().process_logs(self.log_path(supervised), query)),
            kind => silent(kind, unit.name.as_str()),
        }
    }
}

fn silent(kind: UnitKind, name: &str) -> Result<mpsc::Receiver<LogLine>> {
    match kind {
        UnitKind::Container | UnitKind::Service => Ok(mpsc::channel(1).1),
        _ => Err(FleetError::Unsupported {
            unit: name.to_owned(),
            what: "a log".into(),
            way_out: "volumes and networks say nothing",
        }),
    }
}
