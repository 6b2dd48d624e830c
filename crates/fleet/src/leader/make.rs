//! Units that a deploy makes or starts anew, with what they need.

use super::{Change, Leader, Target};
use crate::error::{FleetError, Result};
use crate::fleet::Fleet;
use crate::model::{Desired, UnitRecord};
use crate::order;
use crate::pace;
use crate::rollout::record::DeployRecord;
use coracle_unit::{Unit, UnitName};
use std::sync::Arc;

impl Leader {
    /// A unit itself gets a revision and is started with it; who stops it from here on means it.
    pub(super) async fn start_by(
        &self,
        fleet: &Fleet,
        deploy: &mut DeployRecord,
        unit: &str,
        revision: u64,
    ) -> Result<()> {
        self.make(fleet, deploy, &UnitName::new(unit)?, revision)
            .await?;
        deploy.made.insert(unit.to_owned());
        Ok(())
    }

    /// Makes a unit, or gives one that is there another text, and starts it with all that it needs.
    pub(super) async fn make(
        &self,
        fleet: &Fleet,
        deploy: &DeployRecord,
        name: &UnitName,
        revision: u64,
    ) -> Result<()> {
        let service = self.target(&deploy.unit);
        let service = service.ok_or_else(|| FleetError::NotFound(deploy.unit.clone()))?;
        let text = self
            .service_text(&deploy.unit, &service.record(), revision)
            .await?;
        let unit = self.parse(name.as_str(), &text.text, &text.dropins)?;
        let mut changes = self.needed(fleet, &unit).await?;
        let known = self.target(name.as_str());
        let (target, record) = match &known {
            Some(target) => {
                let record = target.record();
                // Its own numbers go on; a service that is one unit has no other.
                let own = match record.service.is_none() && !is_instance(&unit) {
                    true => revision,
                    false => record.revision + 1,
                };
                let record = UnitRecord {
                    revision: own,
                    of: Some(revision),
                    last: Some(record.next() - 1).filter(|_| !is_instance(&unit)),
                    desired: Desired::Active,
                    unloaded: false,
                    generation: record.generation + 1,
                    order: record.order + 1,
                    ..record
                };
                (target.clone(), record)
            }
            None => {
                let record = UnitRecord {
                    of: Some(revision),
                    held: name.is_successor(),
                    desired: Desired::Active,
                    generation: 1,
                    order: 1,
                    ..UnitRecord::new(pace::new_uid()?)
                };
                (Target::new(record.clone(), unit.clone()), record)
            }
        };
        changes.push(Change {
            text: Some((text, unit)),
            ..Change::new(&target, record)
        });
        self.write_units(changes).await?;
        if known.is_none() {
            self.insert(name.as_str(), target);
        }
        Ok(())
    }

    /// A service that is one unit and does not run has its former text again.
    pub(super) async fn give_back(&self, deploy: &DeployRecord) -> Result<()> {
        let Some(target) = self.target(&deploy.unit) else {
            return Ok(());
        };
        let record = target.record();
        let text = self
            .service_text(&deploy.unit, &record, deploy.from)
            .await?;
        let unit = self.parse(&deploy.unit, &text.text, &text.dropins)?;
        let record = UnitRecord {
            revision: match record.service.is_none() {
                true => deploy.from,
                false => record.revision + 1,
            },
            of: Some(deploy.from),
            last: Some(record.next() - 1),
            ..record
        };
        let change = Change {
            text: Some((text, unit)),
            ..Change::new(&target, record)
        };
        self.write_units(vec![change]).await
    }

    /// Units that another one needs and that do not run.
    pub(super) async fn needed(&self, fleet: &Fleet, unit: &Unit) -> Result<Vec<Change>> {
        fleet.have_instances(self, unit).await?;
        let mut needs = order::requires(unit);
        let wanted = unit.unit.wants.iter();
        needs.extend(wanted.filter(|w| self.target(w).is_some()).cloned());
        if let Some(missing) = needs.iter().find(|n| self.target(n).is_none()) {
            return Err(order::OrderError::Missing {
                unit: unit.name.base().to_string(),
                missing: missing.clone(),
            }
            .into());
        }
        let order = order::start(&needs, self)?;
        let targets = order.iter().filter_map(|name| self.target(name));
        let down = targets.filter(|t| t.record().desired != Desired::Active);
        let start = |target: Arc<Target>| {
            let record = target.record();
            let record = UnitRecord {
                desired: Desired::Active,
                unloaded: false,
                generation: record.generation + 1,
                order: record.order + 1,
                ..record
            };
            Change::new(&target, record)
        };
        Ok(down.map(start).collect())
    }
}

/// Whether its texts are its template's.
fn is_instance(unit: &Unit) -> bool {
    unit.name.instance().is_some() || unit.name.is_successor()
}
