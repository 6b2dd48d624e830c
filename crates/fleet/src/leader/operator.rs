//! What operators say of machines and volumes, and ask of the planner.

use super::spec::keeps_data_in;
use super::{Group, Leader, Target, locked};
use crate::error::Result;
use crate::model::{Marks, VERSION, VolumeRecord, keys};
use crate::presence::Seen;
use coracle_planner::{Drain, Explanation, MachineId, UnitName, VolumeName};
use coracle_store::StoreExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Leader {
    /// A machine as a person names it.
    ///
    /// # Errors
    /// [`crate::FleetError::NoMachine`], [`crate::FleetError::AmbiguousMachine`].
    pub fn machine(&self, text: &str) -> Result<Seen> {
        locked(&self.machines).find(text).cloned()
    }

    /// As people call a machine.
    pub fn called(&self, id: &str) -> String {
        locked(&self.machines).called(id)
    }

    /// With machines as people call them instead of their ids.
    pub fn in_words(&self, text: &str) -> String {
        locked(&self.machines).in_words(text)
    }

    /// Writes what an operator says of a machine. Whatever is placed after this goes by it.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub async fn mark(&self, id: &str, change: impl FnOnce(&mut Marks)) -> Result<()> {
        let key = keys::marks(id);
        let found = self.store.get_json::<Marks>(&key).await?;
        let before = found.map(|(marks, _)| marks).unwrap_or_default();
        let mut marks = before.clone();
        change(&mut marks);
        if marks == before {
            return Ok(());
        }
        marks.version = VERSION;
        let mut group = Group::default();
        group.put(key.clone(), &marks)?;
        self.commit([group]).await?;
        // If that cannot be read now, the watch brings it.
        if let Ok(Some((marks, written))) = self.store.get_json::<Marks>(&key).await {
            locked(&self.machines).mark(id, marks, written);
            self.later.store(self.tell_machines(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// How far a machine's drain is.
    pub fn drain(&self, id: &str) -> Drain {
        self.with_planner(|planner| planner.drain(&MachineId::from(id)))
    }

    /// Why a unit is where it is; None of one that is not placed by the planner.
    pub fn explain(&self, name: &str) -> Option<Explanation> {
        self.with_planner(|planner| planner.explain(&UnitName::from(name)))
    }

    /// What needs a volume or network.
    pub fn needed_by(&self, name: &str) -> Vec<String> {
        locked(&self.needs).users(name)
    }

    /// The machine that has a volume's data.
    pub async fn volume(&self, name: &str) -> Result<Option<String>> {
        let key = keys::volume(name);
        let found = self.store.get_json::<VolumeRecord>(&key).await?;
        Ok(found.map(|(record, _)| record.machine))
    }

    /// The volume that a person names: by its own name, or by its unit's.
    pub fn volume_named(&self, text: &str) -> String {
        let unit = coracle_unit::UnitName::new(text).ok();
        let named = unit.and_then(|unit| self.volume_of(&unit));
        named.unwrap_or_else(|| text.to_owned())
    }

    /// Units that are where a volume's data is.
    pub fn with_data_in(&self, volume: &str) -> Vec<Arc<Target>> {
        let named = |name: &coracle_unit::UnitName| self.volume_of(name);
        let mut all = self.all();
        all.retain(|target| keeps_data_in(&target.unit(), volume, &named));
        all
    }

    /// A volume's data is on another machine from now on. Units that wait for it are placed there.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub async fn rebind(&self, volume: &str, machine: &str) -> Result<()> {
        let record = VolumeRecord {
            version: VERSION,
            machine: machine.to_owned(),
        };
        let mut group = Group::default();
        group.put(keys::volume(volume), &record)?;
        self.commit([group]).await?;
        let (volume, machine) = (VolumeName::from(volume), MachineId::from(machine));
        self.with_planner(|planner| planner.set_volume(&volume, Some(&machine)));
        self.place_anew().await
    }
}
