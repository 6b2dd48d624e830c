//! Failures are remembered in the units' records, so that the budget of moves holds whoever leads.

use super::{Leader, Target};
use crate::model::{Actual, UnitRecord};
use coracle_planner::{Failures, MachineId, Timestamp, UnitName};
use std::collections::BTreeMap;

/// Whether an instance is not started again where it is.
pub(crate) fn keeps_failing(actual: &Actual) -> bool {
    matches!(actual.sub.as_str(), "start-limit-hit" | "unreadable")
}

impl Leader {
    /// Tells the planner what the leaders before this one have seen of a unit.
    pub(super) fn tell_failures(&self, target: &Target) {
        let record = target.record();
        if record.failed.is_empty() && record.moved.is_empty() {
            return;
        }
        let failed = record.failed.iter();
        let failures = Failures {
            failed: failed
                .map(|(id, at)| (MachineId::from(id.as_str()), Timestamp(*at)))
                .collect(),
            moved: record.moved.iter().map(|at| Timestamp(*at)).collect(),
        };
        let name = UnitName::from(target.unit().name.as_str());
        self.with_planner(|planner| planner.set_failures(&name, &failures));
    }

    /// Writes what the planner knows of a unit's failures into its record; whether that is news.
    pub(super) fn note_failures(&self, name: &str, record: &mut UnitRecord) -> bool {
        let known = self.with_planner(|planner| planner.failures(&UnitName::from(name)));
        let failed = known.failed.into_iter();
        let failed: BTreeMap<String, u64> = failed.map(|(id, at)| (id.to_string(), at.0)).collect();
        let moved: Vec<u64> = known.moved.iter().map(|at| at.0).collect();
        let news = record.failed != failed || record.moved != moved;
        (record.failed, record.moved) = (failed, moved);
        news
    }
}
