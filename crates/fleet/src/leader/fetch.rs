//! Machines are asked to have a deploy's image before it begins. See [`crate::rollout::fetch`].

use super::{Group, Leader, locked};
use crate::error::Result;
use crate::model::{FetchRecord, HadRecord, Pinned, VERSION, keys};
use crate::pace;
use crate::rollout::DeployRecord;
use crate::rollout::fetch::{Fetch, next};
use coracle_store::{Event, EventKind};
use std::collections::{BTreeMap, BTreeSet};

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
        if event.kind == EventKind::Put && !self.is_open(uid) {
            // It comes late.
            locked(&self.answered).push(keys::image(machine, uid));
            return;
        }
        let mut fetches = locked(&self.fetches);
        let of = fetches.had.entry(uid.to_owned()).or_default();
        match said.filter(|_| event.kind == EventKind::Put) {
            Some(said)
                if of
                    .get(machine)
                    .is_some_and(|known| known.deploy > said.deploy) => {}
            Some(said) => drop(of.insert(machine.to_owned(), said)),
            None => drop(of.remove(machine)),
        }
        drop(fetches);
        locked(&self.deploys).due = Some(pace::now());
    }

    /// Whether a deploy of the service of this uid is under way.
    fn is_open(&self, uid: &str) -> bool {
        let units = self.open_deploys().into_iter();
        let mut targets = units.filter_map(|unit| self.target(&unit));
        targets.any(|target| target.record().service() == uid)
    }

    /// What was for deploys that are over goes.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub(super) async fn drop_fetches(&self) -> Result<()> {
        let uids: BTreeSet<String> = {
            let fetches = locked(&self.fetches);
            let all = fetches.asked.keys().chain(fetches.had.keys());
            all.cloned().collect()
        };
        for uid in uids.iter().filter(|uid| !self.is_open(uid)) {
            self.commit([self.fetched(uid)]).await?;
            self.fetches_over(uid);
        }
        Ok(())
    }

    /// Machines that give signs and have instances that get another revision, with what they are called. What has run before is there, since images of
    /// the last revisions stay; a way back waits for nobody.
    fn holders(&self, deploy: &DeployRecord) -> BTreeMap<String, String> {
        let changes = |(unit, from): &(&String, &u64)| {
            !deploy.known && **from != deploy.to && deploy.after.contains(*unit)
        };
        let units = deploy.before.iter().filter(changes);
        let targets = units.filter_map(|(unit, _)| self.target(unit));
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

    /// What was asked for a service's deploy, and said, goes; [`Self::fetches_over`] follows once it has.
    pub(crate) fn fetched(&self, uid: &str) -> Group {
        let mut group = Group::default();
        let fetches = locked(&self.fetches);
        for machine in fetches.asked.get(uid).into_iter().flat_map(BTreeMap::keys) {
            group.delete(keys::fetch(machine, uid));
        }
        for machine in fetches.had.get(uid).into_iter().flat_map(BTreeMap::keys) {
            group.delete(keys::image(machine, uid));
        }
        group
    }

    pub(crate) fn fetches_over(&self, uid: &str) {
        let mut fetches = locked(&self.fetches);
        fetches.asked.remove(uid);
        fetches.had.remove(uid);
    }
}
