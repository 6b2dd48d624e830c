//! Machines are asked to have a deploy's image before it begins. See [`crate::rollout::fetch`].

use super::{Group, Leader, locked};
use crate::error::Result;
use crate::model::{FetchRecord, HadRecord, Pinned, VERSION, keys};
use crate::pace;
use crate::rollout::DeployRecord;
use crate::rollout::fetch::{Fetch, next};
use coracle_store::Event;
use coracle_store::EventKind;
use std::collections::BTreeMap;

/// By the service's uid, then by machine.
type By<T> = BTreeMap<String, BTreeMap<String, T>>;

/// What was asked, and what was said.
#[derive(Default)]
pub(super) struct Fetches {
    asked: By<u64>,
    had: By<HadRecord>,
}

fn by<T>(all: BTreeMap<String, T>) -> By<T> {
    let mut by = By::new();
    for (key, value) in all {
        if let Some((machine, uid)) = key.split_once('/') {
            let of = by.entry(uid.to_owned()).or_default();
            of.insert(machine.to_owned(), value);
        }
    }
    by
}

impl Fetches {
    pub fn new(asked: BTreeMap<String, FetchRecord>, had: BTreeMap<String, HadRecord>) -> Self {
        let asked = asked.into_iter().map(|(key, record)| (key, record.deploy));
        Self {
            asked: by(asked.collect()),
            had: by(had),
        }
    }
}

impl Leader {
    /// A machine says whether it has an image; `key` is what follows the family's.
    pub(super) fn told_image(&self, key: &str, event: &Event) {
        let Some((machine, uid)) = key.split_once('/') else {
            return;
        };
        let said = serde_json::from_slice::<HadRecord>(&event.kv.value).ok();
        let mut fetches = locked(&self.fetches);
        let of = fetches.had.entry(uid.to_owned()).or_default();
        match said.filter(|_| event.kind == EventKind::Put) {
            Some(said) => drop(of.insert(machine.to_owned(), said)),
            None => drop(of.remove(machine)),
        }
        drop(fetches);
        locked(&self.deploys).due = Some(pace::now());
    }

    /// Machines that give signs and have instances of a service, with what they are called.
    fn holders(&self, deploy: &DeployRecord) -> BTreeMap<String, String> {
        let targets = deploy.units().into_iter().filter_map(|u| self.target(&u));
        let machines = targets.flat_map(|t| t.machines());
        let ids: Vec<String> = machines.collect();
        let roll = locked(&self.machines);
        let there = ids.into_iter().filter(|id| roll.gives_signs(id));
        there.map(|id| (id.clone(), roll.called(&id))).collect()
    }

    /// What is done first, in words; nothing on a machine that is alone.
    pub(crate) fn fetches(&self, deploy: &DeployRecord, image: Option<&Pinned>) -> Option<String> {
        let holders = self.holders(deploy);
        let image = image.filter(|_| locked(&self.machines).len() > 1 && !holders.is_empty())?;
        let names: Vec<&str> = holders.values().map(|name| &**name).collect();
        Some(format!(
            "{}: fetch it first ({})",
            image.name,
            names.join(", ")
        ))
    }

    /// Whether a deploy may begin, and asks machines for what that needs.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub(super) async fn fetch(&self, deploy: &DeployRecord, late: bool) -> Result<Fetch> {
        let holders = self.holders(deploy);
        let service = self.target(&deploy.unit);
        let Some(service) = service.filter(|_| locked(&self.machines).len() > 1) else {
            return Ok(Fetch::Had);
        };
        let record = service.record();
        let text = self.service_text(&deploy.unit, &record, deploy.to).await?;
        let Some(image) = text.image.filter(|_| !holders.is_empty()) else {
            return Ok(Fetch::Had);
        };
        let uid = record.service().to_owned();
        let fetch = {
            let fetches = locked(&self.fetches);
            let (no_asked, no_had) = (BTreeMap::new(), BTreeMap::new());
            let asked = fetches.asked.get(&uid).unwrap_or(&no_asked);
            let had = fetches.had.get(&uid).unwrap_or(&no_had);
            next(deploy, &holders, asked, had, late)
        };
        let Fetch::Ask(machines) = &fetch else {
            return Ok(fetch);
        };
        let mut group = Group::default();
        for machine in machines {
            let record = FetchRecord {
                version: VERSION,
                deploy: deploy.number,
                image: image.clone(),
            };
            group.put(keys::fetch(machine, &uid), &record)?;
        }
        self.commit([group]).await?;
        let mut fetches = locked(&self.fetches);
        let asked = fetches.asked.entry(uid).or_default();
        asked.extend(machines.iter().map(|m| (m.clone(), deploy.number)));
        drop(fetches);
        Ok(fetch)
    }

    /// What was asked for a service's deploy, and said, is over.
    pub(super) fn fetched(&self, uid: &str) -> Group {
        let mut group = Group::default();
        let mut fetches = locked(&self.fetches);
        for machine in fetches.asked.remove(uid).into_iter().flatten() {
            group.delete(keys::fetch(&machine.0, uid));
        }
        for machine in fetches.had.remove(uid).into_iter().flatten() {
            group.delete(keys::image(&machine.0, uid));
        }
        group
    }
}
