//! Where the units of a deploy stand, as its plan wants to know it.

use super::{Leader, Target, locked};
use crate::model::{Active, Actual, Desired, UnitRecord};
use crate::pace;
use crate::rollout::plan::{Place, Seen, Serves, State};
use crate::rollout::record::{DeployRecord, Stage};
use coracle_unit::container::Network;
use coracle_unit::{Kind, Unit, UnitName};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Leader {
    /// Where the units of a deploy stand. `now` is whether their time counts from now on, if it does not yet.
    pub(crate) fn observe(&self, deploy: &DeployRecord, now: bool) -> BTreeMap<String, Seen> {
        let each = |name: String| {
            let unit = self.target(&name);
            let successor = UnitName::new(&name).ok().map(|n| n.successor());
            let successor = successor.and_then(|n| self.target(n.as_str()));
            let alone = unit.as_ref().and_then(|u| self.must_be_alone(&u.unit()));
            let alone = alone.or_else(|| deploy.alone.clone());
            let leaving = {
                let leaving = locked(&self.leaving);
                let mut all = leaving.values();
                // Of one that is away it is not known when it has gone.
                let goes = |t: &Arc<Target>| t.placed().values().any(|p| p.alive);
                all.any(|t| t.unit().name.as_str() == name && goes(t))
            };
            let proving = deploy.before.get(&name) != Some(&deploy.to);
            let old = unit.clone();
            let place = |target: Arc<Target>, new: bool| {
                let record = target.record();
                let actual = target.actual();
                // A text that was submitted and has not been started is not what runs.
                let outdated = record.desired == Desired::Active
                    && actual.generation == record.generation
                    && actual.revision != 0
                    && actual.revision != record.revision;
                let revision = if outdated { 0 } else { record.present() };
                let forward = deploy.stage == Stage::Forward;
                let proves = forward && (new || (proving && revision == deploy.to));
                let state = self.state(&target, &record, proves, old.as_deref(), now);
                Place {
                    revision,
                    serves: match record.held {
                        true => Serves::Held,
                        false if target.actual().order < record.order => Serves::Asked,
                        false => Serves::Yes,
                    },
                    wanted: record.desired == Desired::Active,
                    state,
                }
            };
            let seen = Seen {
                successor: successor.map(|t| place(t, true)),
                unit: unit.map(|t| place(t, false)),
                leaving,
                alone,
            };
            (name, seen)
        };
        deploy.units().into_iter().map(each).collect()
    }

    /// Why there must not be two of a unit at a time.
    pub(crate) fn must_be_alone(&self, unit: &Unit) -> Option<String> {
        let named = |name: &UnitName| self.volume_of(name);
        let why = match &unit.kind {
            _ if unit.deploy.exclusive == Some(true) => "it is exclusive",
            _ if super::spec::is_exclusive(unit, &named) => {
                "it has data in a volume, and there must not be two that write to it"
            }
            Kind::Container { container, .. } => {
                let fixed = |key: &str| container.texts.contains_key(key);
                let host = |n: &Network| matches!(n, Network::Host);
                if fixed("IP") || fixed("IP6") {
                    "it has an address that is its own"
                } else if container.networks.iter().any(host) {
                    "it is on the machine's network, whose ports are there once"
                } else {
                    return None;
                }
            }
            _ => "a service of the host has its files and ports for itself",
        };
        Some(why.to_owned())
    }

    fn state(
        &self,
        target: &Target,
        record: &UnitRecord,
        proves: bool,
        old: Option<&Target>,
        now: bool,
    ) -> State {
        let actual = target.actual();
        let failed = |reason: String| State::Failed {
            reason,
            code: actual.code,
            last_lines: actual.last_lines.clone(),
        };
        let mut well = false;
        let state = if record.desired != Desired::Active {
            match target.is_down(record) {
                true => State::Down,
                false => State::Coming,
            }
        } else if let Some(waits) = target
            .waits()
            // What runs may stay where it is for something that does not matter here.
            .filter(|w| crate::answers::waits(&actual) && !w.briefly() && !w.failing())
        {
            let name = |t: &Target| coracle_planner::UnitName::from(t.unit().name.as_str());
            let in_place = old.is_some_and(|old| {
                self.with_planner(|p| p.fits_in_place_of(&name(target), &name(old)))
            });
            State::Nowhere {
                reason: waits.reason,
                in_place,
            }
        } else if actual.generation != record.generation || !target.is_alive() {
            State::Coming
        } else if actual.active == Active::Failed {
            failed(actual.reason.clone())
        } else if proves && actual.restarts > 0 {
            failed(format!("it did not stay up: {}", actual.reason))
        } else if proves && actual.health.as_deref() == Some("unhealthy") {
            failed("its health test fails".to_owned())
        } else if proves && is_end(&target.unit(), &actual) {
            failed(format!("it did not stay up: {}", actual.reason))
        } else if actual.health.as_deref() == Some("starting") {
            // An image may have a test of its own.
            State::Coming
        } else if actual.active == Active::Active || actual.settled {
            well = true;
            State::Up
        } else {
            State::Coming
        };
        let mut deploys = locked(&self.deploys);
        if !well {
            deploys.well.remove(&record.uid);
            return state;
        }
        if actual.settled {
            return State::Settled;
        }
        let settle = target.unit().deploy.settle.duration().unwrap_or_default();
        let present = pace::now();
        let since = deploys.well.get(&record.uid).copied();
        if since.is_none() && now {
            deploys.well.insert(record.uid.clone(), present);
        }
        let end = since.unwrap_or(present) + settle;
        if !proves || present >= end {
            return State::Settled;
        }
        deploys.due = Some(deploys.due.map_or(end, |due| due.min(end)));
        state
    }
}

/// Whether what was to run on has ended.
fn is_end(unit: &Unit, actual: &Actual) -> bool {
    let runs_on = match &unit.kind {
        Kind::Container { .. } => true,
        Kind::Service(service) => service.service_type != "oneshot",
        Kind::Volume(_) | Kind::Network(_) => false,
    };
    runs_on && actual.active == Active::Inactive && actual.settled
}
