//! Fleet's two states of a unit that does not run: loaded, which has a machine, and inactive, which has none.

use crate::error::{FleetError, Result};
use crate::fleet::{Fleet, UnitText};
use crate::model::{Desired, UnitRecord, UnitView};
use crate::order;

impl Fleet {
    /// Places a unit on a machine without running it there. One that runs is stopped, with those that need it, and keeps its
    /// machine. With `block` returns once it is down.
    ///
    /// # Errors
    /// [`FleetError::NotFound`], [`FleetError::Template`], [`FleetError::Store`].
    pub async fn load(&self, name: &str, block: bool) -> Result<UnitView> {
        self.put_down(name, Desired::Loaded, block).await
    }

    /// Stops a unit, with those that need it, and takes it off its machine. With `block` returns once it is down.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn unload(&self, name: &str, block: bool) -> Result<UnitView> {
        self.put_down(name, Desired::Inactive, block).await
    }

    async fn put_down(&self, name: &str, desired: Desired, block: bool) -> Result<UnitView> {
        let (supervised, order) = {
            let _one = self.change().await?;
            let supervised = self.find(name).await?;
            let unit = supervised.unit();
            if unit.name.is_template() && desired == Desired::Loaded {
                let example = unit.name.instantiate("1");
                let example = example.map_or_else(|_| String::new(), |n| n.to_string());
                return Err(FleetError::Template(unit.name.to_string(), example));
            }
            let order = order::stop(&[unit.name.to_string()], &self.units());
            for one in order.iter().filter(|n| **n != unit.name.as_str()) {
                self.halt(one).await?;
            }
            let mut record = supervised.record();
            if record.desired != desired {
                record.desired = desired;
                self.write(unit.name.as_str(), &record, None).await?;
            }
            supervised.set(record, None);
            (supervised, order)
        };
        if block {
            for one in order.iter().filter_map(|n| self.supervised(n)) {
                self.wait_down(&one).await;
            }
        }
        Ok(self.view(&supervised))
    }

    /// Whether a unit's last request to start it has been taken up.
    pub fn has_begun(&self, name: &str) -> bool {
        self.supervised(name)
            .is_some_and(|unit| unit.actual().generation == unit.record().generation)
    }

    /// The text that a unit runs or ran last; of one that never ran, the one that was submitted last.
    ///
    /// # Errors
    /// [`FleetError::NotFound`], [`FleetError::Store`].
    pub async fn text_that_runs(&self, name: &str) -> Result<UnitText> {
        let supervised = self.named(name)?;
        let record = supervised.record();
        let revision = match supervised.actual().revision {
            0 => record.revision,
            ran => ran,
        };
        let revision = self.revision(&UnitRecord { revision, ..record }).await?;
        Ok(UnitText {
            text: revision.text,
            dropins: revision.dropins,
        })
    }
}
