//! A successor takes the place of the unit that it was made for, in one transaction: the name is its own from then on, and the
//! former unit is one that was destroyed, which its machine has still to stop and forget.

use super::leave::leaving;
use super::{Group, Leader, Placed, Target, locked};
use crate::error::{FleetError, Result};
use crate::model::{Desired, UnitRecord, keys};
use coracle_unit::{Unit, UnitName};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

impl Leader {
    /// See the module.
    ///
    /// # Errors
    /// [`FleetError::NotFound`]; as [`Self::commit`], then nothing is changed.
    pub(super) async fn promote(&self, name: &str) -> Result<()> {
        let coming = UnitName::new(name)?.successor().to_string();
        let missing = |name: &str| FleetError::NotFound(name.to_owned());
        let former = self.target(name).ok_or_else(|| missing(name))?;
        let next = self.target(&coming).ok_or_else(|| missing(&coming))?;
        let (was, is) = (former.record(), next.record());
        // Of a service that is one unit, its revisions and deploys stay where they are.
        let of_its_own = former.unit().name.instance().is_none();
        let record = UnitRecord {
            service: of_its_own.then(|| was.service().to_owned()),
            last: of_its_own.then(|| was.next() - 1),
            ..is
        };
        let unit = Unit {
            name: former.unit().name.clone(),
            ..(*next.unit()).clone()
        };
        let mut group = Group::default();
        group.put(keys::unit(name), &record)?;
        group.delete(keys::unit(&coming));
        group.delete(keys::status(&coming));
        if was.uid != record.service() {
            group.delete_below(keys::revisions(&was.uid));
        }
        let desired = self.desired(name, &record);
        for (machine, placed) in next.placed() {
            let key = keys::desired(&machine, &placed.instance);
            if placed.desired.is_some() {
                group.put(key, &desired)?;
            }
        }
        let before = former.placed();
        for (machine, placed) in &before {
            let key = keys::desired(machine, &placed.instance);
            match &placed.desired {
                Some(asked) if self.is_unheard(machine, placed) => {
                    group.put(key, &leaving((**asked).clone()))?;
                }
                // Its machine has still to say what became of it.
                _ if placed.leaving => {}
                _ => group.delete(key),
            }
        }
        let unheard = self.unheard(&former);
        self.commit([group]).await?;
        // Who waits for the former one hears that something else is asked of it.
        former.set(
            UnitRecord {
                desired: Desired::Inactive,
                order: was.order + 1,
                ..was
            },
            None,
        );
        self.change(&former, |all| {
            for (machine, placed) in all.iter_mut() {
                placed.leaving |= unheard.contains(machine);
                placed.desired = None;
            }
        });
        self.tell_placed(&former);
        self.remove(name);
        self.rename(&coming, name, &next, record, unit);
        Ok(())
    }

    /// In memory a unit has another name from now on.
    fn rename(&self, from: &str, to: &str, target: &Arc<Target>, record: UnitRecord, unit: Unit) {
        for (machine, placed) in target.placed() {
            self.tell_gone(target, &machine, &placed.instance);
        }
        locked(&self.needs).set(from, None);
        locked(&self.statuses).remove(from);
        let mut targets = self.targets.write().unwrap_or_else(PoisonError::into_inner);
        targets.remove(from);
        drop(targets);
        let gone = coracle_planner::UnitName::from(from);
        self.with_planner(|planner| planner.set_unit(&gone, None));
        target.set(record.clone(), Some(unit.clone()));
        let desired = self.desired(to, &record);
        self.change(target, |all: &mut BTreeMap<String, Placed>| {
            for placed in all.values_mut() {
                if let Some(asked) = placed.desired.as_mut() {
                    **asked = desired.clone();
                }
            }
        });
        self.insert(to, target.clone());
        self.tell_unit(target, &record, &unit);
        self.tell_placed(target);
        self.wake.notify_one();
    }
}
