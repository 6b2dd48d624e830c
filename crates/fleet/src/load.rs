//! Fleet's two states of a unit that does not run: loaded, which has a machine, and inactive, which has none.

use crate::error::{FleetError, Result};
use crate::fleet::{Fleet, UnitText};
use crate::leader::Change;
use crate::model::{Desired, UnitRecord, UnitView};
use crate::order;
use crate::requests::named;

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
        let leader = self.leading()?;
        let (target, order) = {
            let _one = self.change(&leader).await?;
            let target = self.find(&leader, name).await?;
            let unit = target.unit();
            if unit.name.is_template() && desired == Desired::Loaded {
                let example = unit.name.instantiate("1");
                let example = example.map_or_else(|_| String::new(), |n| n.to_string());
                return Err(FleetError::Template(unit.name.to_string(), example));
            }
            let order = order::stop(&[unit.name.to_string()], &*leader);
            for one in order.iter().filter(|n| **n != unit.name.as_str()) {
                leader.halt(one).await?;
            }
            let mut record = target.record();
            record.desired = desired;
            record.unloaded = desired == Desired::Inactive;
            record.order += 1;
            leader
                .write_units(vec![Change::new(&target, record)])
                .await?;
            (target, order)
        };
        if block {
            for one in order.iter().filter_map(|n| leader.target(n)) {
                self.wait_down(&leader, &one).await?;
            }
        }
        Ok(self.view(&target))
    }

    /// Whether a unit's last request to start it has been taken up.
    pub fn has_begun(&self, name: &str) -> bool {
        let target = self.leading().and_then(|leader| named(&leader, name));
        target.is_ok_and(|t| t.actual().generation == t.record().generation)
    }

    /// Whether what was asked of a unit last has been answered: till then one that failed is not taken for one that was stopped.
    pub fn has_answered(&self, name: &str) -> bool {
        let target = self.leading().and_then(|leader| named(&leader, name));
        target.is_ok_and(|t| t.placed().is_empty() || t.actual().order >= t.record().order)
    }

    /// The text that a unit runs or ran last; of one that never ran, the one that was submitted last.
    ///
    /// # Errors
    /// [`FleetError::NotFound`], [`FleetError::Store`].
    pub async fn text_that_runs(&self, name: &str) -> Result<UnitText> {
        let leader = self.leading()?;
        let target = named(&leader, name)?;
        let record = target.record();
        let revision = match target.actual().revision {
            0 => record.revision,
            ran => ran,
        };
        let revision = leader.revision(&UnitRecord { revision, ..record }).await?;
        Ok(UnitText {
            text: revision.text,
            dropins: revision.dropins,
        })
    }
}
