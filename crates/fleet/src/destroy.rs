//! A unit is destroyed: its record and texts go at once, machines forget it after, and with it its containers. Volumes stay.

use crate::answers::ANSWER;
use crate::error::{FleetError, Result};
use crate::fleet::Fleet;
use crate::leader::{Group, Leader, Placed, Target};
use crate::model::{Desired, keys};
use crate::requests::named;
use coracle_engine::EngineError;
use coracle_unit::UnitName;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Leader {
    /// Takes a unit's record and texts away, and has its machines forget it. Of a service its deploys go too, and with a unit its successor.
    ///
    /// # Errors
    /// As [`Self::commit`]; nothing is changed then.
    pub(crate) async fn forget(&self, target: &Arc<Target>) -> Result<()> {
        let (name, record) = (target.unit().name.clone(), target.record());
        let mut all = vec![target.clone()];
        if !name.is_successor() {
            all.extend(self.target(name.successor().as_str()));
            let deploy = self.deploy_of(name.as_str()).filter(|_| name.is_template());
            let units = deploy.map(|d| d.units()).unwrap_or_default();
            let units = units.iter().filter_map(|unit| UnitName::new(unit).ok());
            all.extend(units.filter_map(|unit| self.target(unit.successor().as_str())));
        }
        let mut group = Group::default();
        for target in &all {
            let (name, record) = (target.unit().name.to_string(), target.record());
            group.delete(keys::unit(&name));
            group.delete_below(keys::revisions(&record.uid));
            group.delete(keys::status(&name));
            for (machine, placed) in target.placed() {
                group.delete(keys::desired(&machine, &placed.instance));
            }
        }
        if record.service() != record.uid {
            group.delete_below(keys::revisions(record.service()));
        }
        group.delete_below(keys::deploys(record.service()));
        group.join(self.fetched(record.service()));
        self.commit([group]).await?;
        self.fetches_over(record.service());
        let asked_no_more = |all: &mut BTreeMap<String, Placed>| {
            for placed in all.values_mut() {
                (placed.desired, placed.leaving) = (None, false);
            }
        };
        for target in &all {
            self.change(target, asked_no_more);
            self.tell_placed(target);
            self.remove(target.unit().name.as_str());
        }
        self.forget_deploys(name.as_str());
        Ok(())
    }
}

impl Fleet {
    /// Stops a unit and forgets it with its container and texts. Volumes stay.
    ///
    /// # Errors
    /// [`FleetError::NotFound`], [`FleetError::Store`]; [`FleetError::NotDestroyed`] where a machine does not answer.
    pub async fn destroy(&self, name: &str) -> Result<()> {
        let leader = self.leading()?;
        let name = named(&leader, name)?.unit().name.to_string();
        let target = loop {
            if let Err(error) = self.stop(&name, true).await {
                return Err(match error {
                    FleetError::Silent {
                        unit,
                        machines,
                        seconds,
                        ..
                    } => FleetError::NotDestroyed {
                        unit,
                        machines,
                        seconds,
                    },
                    other => other,
                });
            }
            let _one = self.change(&leader).await?;
            let Some(target) = leader.target(&name) else {
                return Err(FleetError::NotFound(name));
            };
            // Somebody may have started it again meanwhile.
            if target.goal.borrow().desired == Desired::Active {
                continue;
            }
            leader.leave_out(&target.unit().name).await?;
            leader.forget(&target).await?;
            break target;
        };
        // Machines forget what they are asked for no more; one that is away or silent will when it is back.
        let (mut ticks, mut over) = (leader.ticks(), leader.over());
        let silent = crate::pace::sleep(ANSWER);
        tokio::pin!(silent);
        let is_there = |placed: &Placed| placed.alive && placed.actual.is_some();
        while target.placed().values().any(is_there) {
            tokio::select! {
                biased;
                _ = ticks.changed() => {}
                _ = over.wait_for(|over| *over) => break,
                () = &mut silent => break,
            }
        }
        Ok(())
    }

    /// Removes every container of a unit, with its volumes that have no name.
    pub(crate) async fn remove_containers(&self, uid: &str) -> Result<(), EngineError> {
        for old in self.containers().of_unit(uid) {
            match self.containers().remove(&old).await {
                Ok(()) | Err(EngineError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
