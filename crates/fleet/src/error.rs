//! What can go wrong with units.

use crate::order::OrderError;
use crate::translate::TranslateError;
use coracle_engine::EngineError;
use coracle_store::StoreError;
use coracle_unit::Diagnostics;

/// An error about units. Its message names the unit, the cause and the way out.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// No unit has that name.
    #[error("no such unit: {0}; `coracle unit list` shows those that were submitted")]
    NotFound(String),
    /// A service has no such revision.
    #[error(
        "revision {number} of {unit} is not there; `coracle history {unit}` lists those that are"
    )]
    NoRevision {
        /// The service.
        unit: String,
        /// The number that was asked for.
        number: u64,
    },
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] coracle_unit::name::NameError),
    /// The file has problems; all of them.
    #[error("{0}")]
    Refused(Diagnostics),
    /// What the file asks is read, and not honoured yet.
    #[error("{unit}: {what} is not honoured by this release; {way_out}")]
    Unsupported {
        /// The unit.
        unit: String,
        /// Section and key.
        what: String,
        /// What to do instead.
        way_out: &'static str,
    },
    /// A template was asked to run.
    #[error("{0} is a template; start an instance of it, such as {1}")]
    Template(String, String),
    /// Another machine leads, or none does.
    #[error("this machine does not lead, and nothing was changed; ask again")]
    NotLeader,
    /// It was asked to run, and no machine can have it now.
    #[error(
        "{unit} waits: {reason}; it starts as soon as it can (`coracle unit explain {unit}` says more)"
    )]
    Waits {
        /// The unit.
        unit: String,
        /// For what.
        reason: String,
    },
    /// Machines that give signs do not do what they are asked.
    #[error(
        "{unit} was asked to {asked}, and {machines} gives signs but has not answered within {seconds} s; it is done as soon as {machines} answers: see to the daemon there, `coracle unit status {unit}` says how it stands"
    )]
    Silent {
        /// The unit.
        unit: String,
        /// What was asked: `start`, `stop`.
        asked: &'static str,
        /// As people call the machines.
        machines: String,
        /// How long they were waited for.
        seconds: u64,
    },
    /// A machine that is there has not said that it stopped what is to be destroyed.
    #[error(
        "{unit} is not destroyed: it was asked to stop first, and {machines} gives signs but has not answered within {seconds} s; it stops as soon as {machines} answers: see to the daemon there and destroy it again"
    )]
    NotDestroyed {
        /// The unit.
        unit: String,
        /// As people call the machines.
        machines: String,
        /// How long they were waited for.
        seconds: u64,
    },
    /// No machine is called so.
    #[error("no machine \"{text}\" is known; there are {known}")]
    NoMachine {
        /// What was asked for.
        text: String,
        /// Those that are known.
        known: String,
    },
    /// Several machines are called so.
    #[error("machine \"{text}\" is ambiguous: {fits}; give the id")]
    AmbiguousMachine {
        /// What was asked for.
        text: String,
        /// Those that fit.
        fits: String,
    },
    /// It is no label.
    #[error("label {label}: {why}; write KEY=VALUE, or KEY- to take one away")]
    Label {
        /// As it was given.
        label: String,
        /// What is wrong.
        why: &'static str,
    },
    /// It makes no sense, as things are.
    #[error("{what}: {why}; {way_out}")]
    Senseless {
        /// What was asked.
        what: String,
        /// Why not.
        why: String,
        /// What to do instead.
        way_out: String,
    },
    /// Machines that were given up came back in the moment in which what ran there was to begin elsewhere.
    #[error("{} came back just now, with what was to begin elsewhere; ask again", .0.join(", "))]
    Back(Vec<String>),
    /// Nothing is known of the volume.
    #[error(
        "no unit uses a volume {0}, and none has left data in one; `coracle volume rebind` wants the name of a volume of units"
    )]
    NoVolume(String),
    /// Everything goes down.
    #[error("everything is being taken down; ask again when the daemon is back")]
    Leaving,
    /// The order of units.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// A unit that cannot become a container.
    #[error(transparent)]
    Translate(#[from] TranslateError),
    /// A unit that was started and did not come up.
    #[error("{unit} failed: {reason}{}", if log.is_empty() { String::new() } else { format!("\n  its last lines:\n{log}") })]
    Failed {
        /// The unit.
        unit: String,
        /// Why.
        reason: String,
        /// Its last lines of output, indented.
        log: String,
    },
    /// The store.
    #[error("the store cannot be used")]
    Store(#[from] StoreError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Result of an operation on units.
pub type Result<T, E = FleetError> = std::result::Result<T, E>;
