//! What goes in and what comes out.
use crate::ids::{MachineId, Timestamp, Uid, UnitName, VolumeName};
use crate::reason::{PlaceReason, WaitReason, WithdrawReason};
use coracle_unit::fleet::FleetSection;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A machine as the store knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MachineState {
    /// Whether it is there. False means lost: its lease has run out.
    pub alive: bool,
    /// It gets nothing new, and keeps what it has.
    pub cordoned: bool,
    /// It gets nothing new, and what it has moves elsewhere, one unit at a time.
    pub draining: bool,
    /// Its labels (MachineMetadata).
    pub labels: BTreeMap<String, String>,
    /// Processors for units, in thousandths of one. 0 is unknown: no unit with a request fits.
    pub cpu_millis: u64,
    /// Memory for units, in bytes. 0 is unknown: no unit with a request fits.
    pub memory: u64,
}

/// A port's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

/// What a unit is asked to be; fleet's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// On no machine.
    #[default]
    Inactive,
    /// On a machine, not started.
    Loaded,
    /// On a machine, running.
    Launched,
}

/// What of a unit bears on its place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Needs {
    /// `[X-Fleet]`.
    pub fleet: FleetSection,
    /// Processor time asked for, in thousandths of a processor. 0 asks for nothing.
    pub cpu_millis: u64,
    /// Memory asked for, in bytes. 0 asks for nothing.
    pub memory: u64,
    /// Ports that it publishes on the host, whatever address.
    pub ports: BTreeSet<(u16, Protocol)>,
    /// Units of one group are spread over machines; usually the template's name.
    pub spread: Option<String>,
    /// Local volumes. One that has data keeps the unit at its machine, one without gets the unit's. A global
    /// unit has each on every machine, so they bind nothing.
    pub volumes: BTreeSet<VolumeName>,
    /// Never two at a time. A unit with volumes is exclusive anyway, a global one never.
    pub exclusive: bool,
}

/// A unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitSpec {
    /// Which submit of the name this is.
    pub uid: Uid,
    /// What it is asked to be.
    pub wanted: Wanted,
    /// The highest incarnation that the store has seen; the planner goes on from there.
    pub incarnation: u64,
    /// Where it may run.
    pub needs: Needs,
}

/// One incarnation of a unit on a machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placement {
    /// The unit.
    pub unit: UnitName,
    /// Its uid.
    pub uid: Uid,
    /// The machine.
    pub machine: MachineId,
    /// Counts the unit's placements; the newest is where it belongs.
    pub incarnation: u64,
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{} on {}", self.unit, self.incarnation, self.machine)
    }
}

/// How a placement is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Its machine has said nothing yet.
    #[default]
    Assigned,
    /// It has failed, and is not started again there.
    Failed,
    /// It is loaded or starts, and is not healthy yet; or not any more.
    Present,
    /// It runs and is healthy.
    Healthy,
    /// It has ended well and is not to run again: it stays where it is, even if that machine is lost.
    Done,
}

/// A placement as the store has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Placed {
    /// How it is.
    pub condition: Condition,
    /// It is withdrawn already and only not gone yet.
    pub leaving: bool,
}

/// What is remembered of a unit that keeps failing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failures {
    /// Where it has failed, and when last.
    pub failed: BTreeMap<MachineId, Timestamp>,
    /// When it was moved for that, the oldest first.
    pub moved: Vec<Timestamp>,
}

/// What an operator may set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What a unit without a request counts when machines are compared, in thousandths of a processor.
    pub usual_cpu_millis: u64,
    /// The same in bytes.
    pub usual_memory: u64,
    /// What one unit more counts besides its requests, in millionths of a machine.
    pub unit_weight: u64,
    /// How often a unit that keeps failing is moved within `failure_window`.
    pub failure_moves: usize,
    /// Milliseconds.
    pub failure_window: u64,
    /// How many units leave a draining machine at a time.
    pub drain_at_once: usize,
    /// About how many decisions one plan has; the rest comes with the next. 0 is no bound.
    pub batch: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            usual_cpu_millis: 100,
            usual_memory: 64 << 20,
            unit_weight: 1000,
            failure_moves: 3,
            failure_window: 600_000,
            drain_at_once: 1,
            batch: 0,
        }
    }
}

/// What follows. The planner takes each as done; what could not be done is told with `take_back`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The machine gets the unit.
    Place {
        /// What, where, which incarnation.
        placement: Placement,
        /// Why, and why there.
        reason: PlaceReason,
        /// Volumes that had no machine and have this one from now on. To be written in the same transaction.
        binds: Vec<VolumeName>,
    },
    /// The machine loses it.
    Withdraw {
        /// What, where, which incarnation.
        placement: Placement,
        /// Why.
        reason: WithdrawReason,
    },
    /// It waits, or stays although it should go elsewhere.
    Wait {
        /// The unit.
        unit: UnitName,
        /// What for.
        reason: WaitReason,
    },
    /// It waits for nothing; what was said with the last `Wait` holds no longer.
    Settled {
        /// The unit.
        unit: UnitName,
    },
}

impl Decision {
    /// The unit it is about.
    pub fn unit(&self) -> &UnitName {
        match self {
            Decision::Place { placement, .. } | Decision::Withdraw { placement, .. } => {
                &placement.unit
            }
            Decision::Wait { unit, .. } | Decision::Settled { unit } => unit,
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decision::Place {
                placement, reason, ..
            } => write!(f, "place {placement}: {reason}"),
            Decision::Withdraw { placement, reason } => {
                write!(f, "withdraw {placement}: {reason}")
            }
            Decision::Wait { unit, reason } => write!(f, "{unit} waits: {reason}"),
            Decision::Settled { unit } => write!(f, "{unit} is settled"),
        }
    }
}
