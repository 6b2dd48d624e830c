//! Units' texts as this machine has them, and units with what is known of them here.

use super::Agent;
use crate::error::Result;
use crate::fleet::Fleet;
use crate::model::{Actual, DesiredRecord, Instance, RevisionRecord, keys};
use crate::pace;
use crate::supervise::Supervised;
use coracle_engine::full_error;
use coracle_store::{StoreError, StoreExt as _};
use coracle_unit::Unit;
use std::sync::{Arc, PoisonError};

impl Agent {
    /// What is to leave and has no driver, since another one has its name, has never run here: its leader waits to hear that.
    pub(super) async fn answer_for(&self, fleet: &Fleet, name: &str, newest: Option<&Instance>) {
        let of = self.wanted.get(name).into_iter().flatten();
        let open = of.filter(|(instance, record)| record.leaving && Some(*instance) != newest);
        for (instance, record) in open {
            let key = keys::actual(&fleet.0.machine.id, instance);
            let is_said = !matches!(fleet.0.local.get(key).await, Ok(None));
            if is_said || fleet.name_here(instance).is_some() {
                continue;
            }
            fleet.never_ran(name, instance, record).await;
        }
    }
}

impl Fleet {
    /// Says of an instance that is to leave that it was never here.
    pub(super) async fn never_ran(&self, name: &str, instance: &Instance, record: &DesiredRecord) {
        let never = Actual {
            reason: "it never ran here".into(),
            generation: record.generation,
            order: record.order,
            settled: true,
            ..Actual::new(name, pace::utc())
        };
        if let Err(error) = self.write_actual(instance, &never).await {
            tracing::error!(
                unit = name,
                error = full_error(&error),
                "that the unit does not run could not be written"
            );
        }
    }

    /// A unit's text: from the own store, or from the cluster's, of which a copy is kept.
    pub(crate) async fn text(
        &self,
        uid: &str,
        number: u64,
    ) -> Result<Option<RevisionRecord>, StoreError> {
        let key = keys::revision(uid, number);
        if let Some((found, _)) = self.0.local.get_json::<RevisionRecord>(&key).await? {
            return Ok(Some(found));
        }
        if self.0.alone() {
            return Ok(None);
        }
        let found = self.0.cluster.get_json::<RevisionRecord>(&key).await?;
        let Some((found, _)) = found else {
            return Ok(None);
        };
        self.0.local.put_json(&key, &found).await?;
        Ok(Some(found))
    }

    /// A unit as one of its texts says; None of one that is not there any more.
    pub(super) async fn read_text(
        &self,
        name: &str,
        uid: &str,
        number: u64,
    ) -> Result<Option<Unit>> {
        let Some(text) = self.text(uid, number).await? else {
            return Ok(None);
        };
        self.parse(name, &text.text, &text.dropins).map(Some)
    }

    /// As [`Self::assigned`]. One that has a driver by another name is driven by this one from here on.
    pub(super) async fn taken_over(
        &self,
        instance: &Instance,
        record: &DesiredRecord,
    ) -> Result<Option<Arc<Supervised>>> {
        let unit = self.assigned(instance, record).await?;
        let former = {
            let mut units = self.0.units.write().unwrap_or_else(PoisonError::into_inner);
            let mut all = units.iter();
            let found = all.find(|(_, other)| other.instance == *instance);
            let name = found.map(|(name, _)| name.clone());
            name.and_then(|name| units.remove(&name))
        };
        let Some(former) = former else {
            return Ok(unit);
        };
        // Like a daemon's death: who follows looks, and goes on.
        former.set_task(None);
        self.assigned(instance, record).await
    }

    /// A unit with its driver's state, as the stores have it.
    pub(super) async fn assigned(
        &self,
        instance: &Instance,
        record: &DesiredRecord,
    ) -> Result<Option<Arc<Supervised>>> {
        let name = &record.unit;
        let Some(unit) = self.read_text(name, &instance.uid, record.revision).await? else {
            return Ok(None);
        };
        let key = keys::actual(&self.0.machine.id, instance);
        let actual = self.0.local.get_json::<Actual>(&key).await?;
        let actual = actual.map_or_else(|| Actual::new(name, pace::utc()), |(a, _)| a);
        let running = if actual.revision == 0 || actual.revision == record.revision {
            None
        } else {
            let read = self.read_text(name, &instance.uid, actual.revision).await;
            let unread = |error: &crate::FleetError| {
                tracing::warn!(
                    unit = name,
                    error = full_error(error),
                    "the text that it runs cannot be read; it is stopped as its present text says"
                );
            };
            read.inspect_err(unread).ok().flatten()
        };
        let supervised = Supervised::new(instance.clone(), record.clone(), unit, running, actual);
        Ok(Some(supervised))
    }
}
