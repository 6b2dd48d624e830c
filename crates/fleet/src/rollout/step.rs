//! The steps of a deploy.

use super::record::{Report, Stage};

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A unit gets a successor with that revision.
    Begin {
        /// The unit.
        unit: String,
        /// The service's revision.
        revision: u64,
        /// Why.
        reason: String,
    },
    /// A unit that is not there is made and started.
    Create {
        /// The unit.
        unit: String,
        /// The service's revision.
        revision: u64,
        /// Why.
        reason: String,
    },
    /// A unit gets that revision, and is started anew with it.
    Replace {
        /// The unit.
        unit: String,
        /// The service's revision.
        revision: u64,
        /// Why.
        reason: String,
    },
    /// The successor is found as an instance, beside the unit.
    Admit {
        /// The unit.
        unit: String,
        /// Why.
        reason: String,
    },
    /// The successor takes the unit's place.
    Promote {
        /// The unit.
        unit: String,
        /// Why.
        reason: String,
    },
    /// The successor is removed.
    Drop {
        /// The unit whose successor it is.
        unit: String,
        /// There is room for it only once the unit has gone.
        in_place: bool,
        /// Why.
        reason: String,
    },
    /// The unit is stopped.
    Stop {
        /// The unit.
        unit: String,
        /// Why.
        reason: String,
    },
    /// The unit is stopped, and removed once it is down.
    Remove {
        /// The unit.
        unit: String,
        /// Why.
        reason: String,
    },
    /// Nothing more is begun until somebody says so.
    Pause {
        /// Why.
        reason: String,
    },
    /// It goes back.
    TurnBack(Report),
    /// It has come to its end.
    Finish {
        /// Which.
        stage: Stage,
        /// Why.
        reason: String,
    },
}
