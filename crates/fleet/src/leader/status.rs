//! What units on other machines that wait for a unit are told of it. Nobody is told of units that nobody waits for, nor in a cluster of one.

use super::{Group, Leader, Target, locked};
use crate::model::{StatusRecord, UnitRecord, VERSION, keys};
use std::collections::BTreeMap;

impl Leader {
    /// How a unit stands, for units on other machines that wait for it.
    pub(super) fn status(&self, name: &str, target: &Target, record: &UnitRecord) -> Option<Group> {
        if locked(&self.machines).len() < 2 || !locked(&self.needs).is_waited_for(name) {
            return None;
        }
        let actual = target.actual();
        let status = StatusRecord {
            version: VERSION,
            desired: record.desired,
            active: actual.active,
            settled: actual.settled,
            answered: actual.generation == record.generation && actual.order == record.order,
            down: Some(target.is_down(record)),
        };
        let told = locked(&self.statuses).insert(name.to_owned(), status.clone());
        if told.as_ref() == Some(&status) {
            return None;
        }
        let mut group = Group::default();
        group.put(keys::status(name), &status).ok()?;
        Some(group)
    }

    /// How units stand whose records are written now, and those that they wait for: who begins to wait finds it told.
    pub(super) fn statuses<'a>(
        &self,
        written: impl Iterator<Item = (&'a str, &'a Target, &'a UnitRecord)>,
    ) -> Vec<Group> {
        let mut told: BTreeMap<String, Option<Group>> = BTreeMap::new();
        for (name, target, record) in written {
            told.insert(name.to_owned(), self.status(name, target, record));
        }
        let waiting: Vec<String> = told.keys().cloned().collect();
        for name in waiting {
            let waited = locked(&self.needs).awaited(&name);
            for other in waited {
                if let Some(target) = self.target(&other).filter(|_| !told.contains_key(&other)) {
                    let group = self.status(&other, &target, &target.record());
                    told.insert(other, group);
                }
            }
        }
        told.into_values().flatten().collect()
    }
}
