//! What has to be so in the end: in the store, on the machines, and between the two.

use super::cluster::Cluster;
use super::data::Data;
use crate::model::{
    Active, Actual, Desired, DesiredRecord, Instance, Marks, UnitRecord, VolumeRecord, keys,
};
use crate::rollout::DeployRecord;
use crate::services::ServiceRecord;
use coracle_store::KeyValue;
use coracle_unit::{UnitKind, UnitName};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};

type Placed<T> = BTreeMap<(String, Instance), T>;

/// What the store says.
struct Said {
    units: BTreeMap<String, UnitRecord>,
    desired: Placed<DesiredRecord>,
    actual: Placed<Actual>,
    machines: BTreeSet<String>,
    marks: BTreeMap<String, Marks>,
    volumes: BTreeMap<String, VolumeRecord>,
    revisions: BTreeSet<String>,
    deploys: BTreeMap<String, DeployRecord>,
    services: BTreeMap<String, ServiceRecord>,
    /// Keys of images that machines are to have, or have.
    fetches: Vec<String>,
}

fn read<T: DeserializeOwned>(kv: &KeyValue) -> Option<T> {
    serde_json::from_slice(&kv.value).ok()
}

fn key(kv: &KeyValue) -> String {
    String::from_utf8_lossy(&kv.key).into_owned()
}

fn family<T: DeserializeOwned>(data: &Data, prefix: &str) -> BTreeMap<String, T> {
    let named = |kv: &KeyValue| Some((key(kv).strip_prefix(prefix)?.to_owned(), read(kv)?));
    data.below(prefix).into_iter().filter_map(named).collect()
}

fn placed<T: DeserializeOwned>(data: &Data, prefix: &str) -> Placed<T> {
    let named = |kv: &KeyValue| Some((keys::placed(&key(kv), prefix)?, read(kv)?));
    data.below(prefix).into_iter().filter_map(named).collect()
}

fn said(data: &Data) -> Said {
    let texts = data.below(keys::REVISIONS).into_iter().map(key);
    let uid = |key: String| {
        Some(
            key.strip_prefix(keys::REVISIONS)?
                .split_once('/')?
                .0
                .to_owned(),
        )
    };
    Said {
        units: family(data, keys::UNITS),
        desired: placed(data, keys::DESIRED),
        actual: placed(data, keys::ACTUAL),
        machines: family::<serde_json::Value>(data, keys::MACHINES)
            .into_keys()
            .collect(),
        marks: family(data, keys::MARKS),
        volumes: family(data, keys::VOLUMES),
        revisions: texts.filter_map(uid).collect(),
        deploys: family(data, keys::DEPLOYS),
        services: family(data, keys::SERVICES),
        fetches: [keys::FETCH, keys::IMAGES]
            .into_iter()
            .flat_map(|prefix| data.below(prefix).into_iter().map(key))
            .collect(),
    }
}

/// What is not as it should be.
pub(super) fn differences(
    cluster: &Cluster,
    asked: &BTreeMap<String, Option<Desired>>,
) -> Vec<String> {
    let said = cluster.shared.look(said);
    let mut wrong = Vec::new();
    for (name, asked) in asked {
        let is = said.units.get(name).map(|unit| unit.desired);
        if is != *asked {
            wrong.push(format!("{name} was asked to be {asked:?} and is {is:?}"));
        }
    }
    let over = said.deploys.values().all(|d| d.stage.is_over());
    if over && !said.fetches.is_empty() {
        wrong.push(format!("what images are for is over: {:?}", said.fetches));
    }
    for (name, record) in &said.units {
        wrong.extend(unit(cluster, &said, name, record));
    }
    let known: BTreeSet<&String> = said.units.values().map(|record| &record.uid).collect();
    wrong.extend(leftovers(cluster, &said, &known));
    wrong.extend(deploys(&said));
    wrong.extend(services(&said));
    if cluster.leader().is_none() {
        wrong.push("nobody leads".into());
    }
    wrong
}

fn unit(cluster: &Cluster, said: &Said, name: &str, record: &UnitRecord) -> Vec<String> {
    let mut wrong = Vec::new();
    if name.ends_with(".volume") {
        return wrong;
    }
    let of = |id: &String| cluster.machines.iter().find(|m| m.id == *id);
    let runs: Vec<usize> = {
        let running = cluster.books.running().into_iter();
        let own = running.filter(|ran| ran.uid == record.uid);
        // A machine that was removed is nobody's business any more.
        own.map(|ran| ran.machine)
            .filter(|n| !cluster.machines[*n].is_removed())
            .collect()
    };
    let free = |id: &String| {
        said.machines.contains(id)
            && said
                .marks
                .get(id)
                .is_none_or(|m| !m.cordoned && !m.draining)
    };
    let asked: Vec<usize> = {
        let own = said
            .desired
            .iter()
            .filter(|((_, i), _)| i.uid == record.uid);
        own.filter_map(|((id, _), _)| Some(of(id)?.number))
            .collect()
    };
    if record.desired != Desired::Active {
        if !runs.is_empty() {
            wrong.push(format!(
                "{name} is {:?} and runs on {runs:?}",
                record.desired
            ));
        }
        return wrong;
    }
    let free: Vec<usize> = {
        let all = said.machines.iter().filter(|id| free(id));
        all.filter_map(|id| Some(of(id)?.number)).collect()
    };
    if name.starts_with("glob") {
        for machine in free.iter().filter(|m| !runs.contains(m)) {
            wrong.push(format!("{name} does not run on m{machine}"));
        }
        for machine in &runs {
            let marks = said.marks.get(&cluster.machines[*machine].id);
            if marks.is_some_and(|m| m.draining) {
                wrong.push(format!("{name} is still on m{machine}, which is drained"));
            }
        }
        return wrong;
    }
    let fits: Vec<usize> = match name.split('-').next() {
        Some("rack") => free.iter().copied().filter(|m| m % 2 == 0).collect(),
        Some(kind @ ("vol" | "res")) => {
            let volume = if kind == "res" { "kept" } else { "vol-a" };
            let volume = said.volumes.get(volume);
            match volume.map(|v| &v.machine) {
                Some(id) => of(id)
                    .map(|m| m.number)
                    .into_iter()
                    .filter(|m| free.contains(m))
                    .collect(),
                None => free.clone(),
            }
        }
        Some("bad") => Vec::new(),
        _ => free.clone(),
    };
    if runs.len() > 1 || !fits.is_empty() && runs.is_empty() {
        wrong.push(format!(
            "{name} runs on {runs:?}, is asked of {asked:?} and fits on {fits:?}"
        ));
    }
    for machine in &runs {
        if !asked.contains(machine) {
            wrong.push(format!(
                "{name} runs on m{machine}, of which nobody asks it"
            ));
        }
        let id = &cluster.machines[*machine].id;
        let stuck = said.marks.get(id).is_some_and(|m| m.draining);
        if stuck && !fits.is_empty() {
            wrong.push(format!("{name} is still on m{machine}, which is drained"));
        }
        let told = said
            .actual
            .iter()
            .find(|((on, i), _)| on == id && i.uid == record.uid);
        let up = told.is_some_and(|(_, actual)| actual.active == Active::Active);
        if !up {
            wrong.push(format!(
                "{name} runs on m{machine}, and is not said to be up"
            ));
        }
    }
    for ((id, instance), _) in said
        .desired
        .iter()
        .filter(|((_, i), _)| i.uid == record.uid)
    {
        let told = said.actual.get(&(id.clone(), instance.clone()));
        let answers = told.is_some_and(|actual| {
            actual.generation == record.generation
                && actual.order == record.order
                && (actual.active == Active::Active || actual.settled)
        });
        if !answers {
            wrong.push(format!(
                "{name} is asked of {id} and has no answer from there"
            ));
        }
    }
    wrong
}

/// Deploys that are not at one of their ends.
/// Each container unit's service has an address of its own, and there are no others.
fn services(said: &Said) -> Vec<String> {
    let names = said
        .units
        .keys()
        .filter_map(|name| UnitName::new(name).ok());
    let names = names.filter(|name| name.kind() == UnitKind::Container);
    let wanted: BTreeSet<String> = names.map(|n| n.base().prefix().to_owned()).collect();
    let is: BTreeSet<String> = said.services.keys().cloned().collect();
    let mut wrong = Vec::new();
    if wanted != is {
        wrong.push(format!("services are {is:?} and should be {wanted:?}"));
    }
    let addresses: BTreeSet<_> = said.services.values().filter_map(|s| s.address).collect();
    if addresses.len() != said.services.len() {
        wrong.push(format!("services share addresses: {:?}", said.services));
    }
    wrong
}

fn deploys(said: &Said) -> Vec<String> {
    let mut wrong = Vec::new();
    for name in said.units.keys().filter(|name| name.contains('+')) {
        wrong.push(format!("{name} is there still"));
    }
    let mut last: BTreeMap<&str, &DeployRecord> = BTreeMap::new();
    for (key, deploy) in &said.deploys {
        let Some((uid, _)) = key.split_once('/') else {
            continue;
        };
        let is_known = said.units.values().any(|unit| unit.service() == uid);
        if !is_known {
            wrong.push(format!("a deploy of {uid} is left, which is no unit's"));
        }
        let former = last.insert(uid, deploy);
        if let Some(former) = former.filter(|former| former.number > deploy.number) {
            last.insert(uid, former);
        }
    }
    for (uid, deploy) in last {
        let name = &deploy.unit;
        if !deploy.stage.is_over() {
            wrong.push(format!(
                "deploy {} of {name} is not over: {deploy:?}",
                deploy.number
            ));
            continue;
        }
        let Some(unit) = said.units.get(name).filter(|u| u.service() == uid) else {
            continue;
        };
        if unit.held {
            wrong.push(format!("{name} is held back still"));
        }
        // Other texts may have been submitted since.
        let ends = [
            Some(&deploy.to),
            deploy.before.get(name),
            Some(&deploy.from),
        ];
        let is_end = ends.into_iter().flatten().any(|end| *end <= unit.present());
        if !is_end {
            wrong.push(format!(
                "{name} is at none of its ends: {unit:?}, {deploy:?}"
            ));
        }
    }
    wrong
}

/// What is there of nobody's.
fn leftovers(cluster: &Cluster, said: &Said, known: &BTreeSet<&String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for machine in cluster.members() {
        for (unit, uid, runs) in machine.table.list() {
            let asked = said
                .desired
                .keys()
                .any(|(on, i)| *on == machine.id && i.uid == uid);
            if !asked {
                let how = if runs { "a running" } else { "an ended" };
                wrong.push(format!(
                    "m{} has {how} container of {unit}, of which nobody asks it",
                    machine.number
                ));
            }
        }
        let own = machine.own().look(|data| {
            let desired: Placed<DesiredRecord> = placed(data, keys::DESIRED);
            let actual: Placed<Actual> = placed(data, keys::ACTUAL);
            (desired, actual)
        });
        let mine = |(key, _): &(&(String, Instance), &DesiredRecord)| key.0 == machine.id;
        let asked: Placed<DesiredRecord> = said
            .desired
            .iter()
            .filter(mine)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        if own.0 != asked {
            let differ = |(key, _): &(&(String, Instance), &DesiredRecord)| {
                own.0.get(*key) != asked.get(*key)
            };
            let all = own.0.iter().chain(&asked).filter(differ);
            let all: BTreeSet<String> = all.map(|((_, i), d)| format!("{i} {d:?}")).collect();
            wrong.push(format!(
                "m{} does not know what it is asked: {all:?}",
                machine.number
            ));
        }
        let mine = |(key, _): &(&(String, Instance), &Actual)| key.0 == machine.id;
        let told: Placed<Actual> = said
            .actual
            .iter()
            .filter(mine)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        if own.1 != told {
            wrong.push(format!("m{} has not said how all stands", machine.number));
        }
    }
    for (id, instance) in said.desired.keys().chain(said.actual.keys()) {
        if !known.contains(&instance.uid) {
            wrong.push(format!(
                "something is written of {instance}, which is no unit's"
            ));
        }
        if !said.machines.contains(id) {
            wrong.push(format!(
                "something is written of {instance} on {id}, which is no machine"
            ));
        }
    }
    for key in said
        .actual
        .keys()
        .filter(|key| !said.desired.contains_key(key))
    {
        wrong.push(format!("{} is written as actual and not as desired", key.1));
    }
    let services: BTreeSet<&str> = said.units.values().map(UnitRecord::service).collect();
    let is_known = |uid: &&String| known.contains(uid) || services.contains(uid.as_str());
    for uid in said.revisions.iter().filter(|uid| !is_known(uid)) {
        wrong.push(format!("a text of {uid} is left, which is no unit's"));
    }
    wrong
}
