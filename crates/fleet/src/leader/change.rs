//! Units that get another record, and what of each is to be written.

use super::{Target, Waits};
use crate::model::{Instance, RevisionRecord, UnitRecord};
use coracle_unit::Unit;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A unit that is to have another record.
pub(crate) struct Change {
    pub target: Arc<Target>,
    pub record: UnitRecord,
    /// Its new text.
    pub text: Option<(RevisionRecord, Unit)>,
    /// Another key that gets the text.
    pub also: Option<String>,
}

impl Change {
    pub fn new(target: &Arc<Target>, record: UnitRecord) -> Self {
        Self {
            target: target.clone(),
            record,
            text: None,
            also: None,
        }
    }

    pub(super) fn unit(&self) -> Arc<Unit> {
        unit_of(&self.target, self.text.as_ref())
    }
}

/// A unit as it is once its new text is written, if it gets one.
pub(super) fn unit_of(target: &Target, text: Option<&(RevisionRecord, Unit)>) -> Arc<Unit> {
    text.map_or_else(|| target.unit(), |(_, unit)| Arc::new(unit.clone()))
}

/// One unit's part of what is to be written.
pub(super) struct Write {
    pub target: Arc<Target>,
    pub record: UnitRecord,
    pub text: Option<(RevisionRecord, Unit)>,
    pub also: Option<String>,
    /// Whether the record is another than before.
    pub changed: bool,
    /// Machines that get it.
    pub add: BTreeMap<String, Instance>,
    /// Machines that lose it.
    pub drop: BTreeSet<String>,
    /// Machines that must not be back.
    pub given_up: BTreeSet<String>,
    pub binds: Vec<(String, String)>,
    /// What it waits for; Some(None) is that it waits no more.
    pub waits: Option<Option<Waits>>,
}

impl Write {
    pub fn of(target: Arc<Target>) -> Self {
        Self {
            record: target.record(),
            target,
            text: None,
            also: None,
            changed: false,
            add: BTreeMap::new(),
            drop: BTreeSet::new(),
            given_up: BTreeSet::new(),
            binds: Vec::new(),
            waits: None,
        }
    }
}
