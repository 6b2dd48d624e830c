//! Why: typed, and as plain sentences.
use crate::ids::{MachineId, UnitName, VolumeName};
use crate::model::Protocol;
use std::collections::BTreeSet;
use std::fmt;

/// Why a unit cannot be on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhyNot {
    /// The machine is lost.
    Lost,
    /// No such machine is known.
    Unknown,
    /// The machine gets nothing new.
    Cordoned,
    /// The machine is being drained.
    Draining,
    /// MachineID names another one.
    OtherMachine(MachineId),
    /// MachineMetadata asks for one of these values.
    Label {
        /// The label.
        key: String,
        /// The values that would do.
        wanted: BTreeSet<String>,
        /// What the machine has.
        has: Option<String>,
    },
    /// A unit there must not share a machine with this one.
    Conflict {
        /// The other.
        with: UnitName,
        /// Whose Conflicts says so, with its glob.
        says: UnitName,
        /// The glob.
        glob: String,
    },
    /// A unit there has taken this one's place (Replaces).
    Replaced(UnitName),
    /// A unit there would have to make room (Replaces), and it cannot run elsewhere, or has not gone yet.
    CannotReplace(UnitName),
    /// MachineOf names a unit that is elsewhere.
    PeerElsewhere {
        /// The unit named.
        peer: UnitName,
        /// Where it is.
        on: MachineId,
    },
    /// MachineOf names a unit that is on no machine.
    PeerAbsent(UnitName),
    /// A volume of it has its data elsewhere.
    VolumeElsewhere {
        /// The volume.
        volume: VolumeName,
        /// Where the data is.
        on: MachineId,
    },
    /// Processor time, in thousandths of a processor.
    Cpu {
        /// Asked for.
        needed: u64,
        /// Not yet given away.
        free: u64,
    },
    /// Memory, in bytes.
    Memory {
        /// Asked for.
        needed: u64,
        /// Not yet given away.
        free: u64,
    },
    /// A host port is taken.
    Port {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// By whom.
        by: UnitName,
    },
    /// It has failed there within the failure window.
    FailedThere,
}

/// A [`WhyNot`] without its particulars, to be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is the WhyNot of its name")]
pub enum Kind {
    Lost,
    Unknown,
    Cordoned,
    Draining,
    OtherMachine,
    Label,
    Conflict,
    Replaced,
    CannotReplace,
    PeerElsewhere,
    PeerAbsent,
    VolumeElsewhere,
    Cpu,
    Memory,
    Port,
    FailedThere,
}

impl WhyNot {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            WhyNot::Lost => Kind::Lost,
            WhyNot::Unknown => Kind::Unknown,
            WhyNot::Cordoned => Kind::Cordoned,
            WhyNot::Draining => Kind::Draining,
            WhyNot::OtherMachine(_) => Kind::OtherMachine,
            WhyNot::Label { .. } => Kind::Label,
            WhyNot::Conflict { .. } => Kind::Conflict,
            WhyNot::Replaced(_) => Kind::Replaced,
            WhyNot::CannotReplace(_) => Kind::CannotReplace,
            WhyNot::PeerElsewhere { .. } => Kind::PeerElsewhere,
            WhyNot::PeerAbsent(_) => Kind::PeerAbsent,
            WhyNot::VolumeElsewhere { .. } => Kind::VolumeElsewhere,
            WhyNot::Cpu { .. } => Kind::Cpu,
            WhyNot::Memory { .. } => Kind::Memory,
            WhyNot::Port { .. } => Kind::Port,
            WhyNot::FailedThere => Kind::FailedThere,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Lost => "the machine is lost",
            Kind::Unknown => "no such machine is known",
            Kind::Cordoned => "the machine is cordoned",
            Kind::Draining => "the machine is being drained",
            Kind::OtherMachine => "MachineID names another machine",
            Kind::Label => "labels do not match (MachineMetadata)",
            Kind::Conflict => "a unit there conflicts (Conflicts)",
            Kind::Replaced => "a unit there has taken its place (Replaces)",
            Kind::CannotReplace => "a unit there cannot make room (Replaces)",
            Kind::PeerElsewhere => "a unit of MachineOf is elsewhere",
            Kind::PeerAbsent => "a unit of MachineOf is on no machine",
            Kind::VolumeElsewhere => "its data is elsewhere",
            Kind::Cpu => "too little processor time is left",
            Kind::Memory => "too little memory is left",
            Kind::Port => "a host port is taken",
            Kind::FailedThere => "it has failed there",
        })
    }
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WhyNot::OtherMachine(id) => write!(f, "MachineID names {id}"),
            WhyNot::Label { key, wanted, has } => {
                let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
                write!(
                    f,
                    "MachineMetadata asks for {key}={}, ",
                    wanted.join(" or ")
                )?;
                match has {
                    Some(has) => write!(f, "and it has {key}={has}"),
                    None => write!(f, "and it has no {key}"),
                }
            }
            WhyNot::Conflict { with, says, glob } => {
                write!(f, "{with} is there, and {says} has Conflicts={glob}")
            }
            WhyNot::Replaced(by) => write!(f, "{by}, which replaces it, is there"),
            WhyNot::CannotReplace(unit) => {
                write!(
                    f,
                    "{unit}, which it replaces, is there and fits nowhere else"
                )
            }
            WhyNot::PeerElsewhere { peer, on } => write!(f, "it follows {peer}, which is on {on}"),
            WhyNot::PeerAbsent(peer) => write!(f, "it follows {peer}, which is on no machine"),
            WhyNot::VolumeElsewhere { volume, on } => {
                write!(f, "the data of volume {volume} is on {on}")
            }
            WhyNot::Cpu { needed, free } => {
                write!(
                    f,
                    "it asks for {} CPU, and {} are left",
                    Cores(*needed),
                    Cores(*free)
                )
            }
            WhyNot::Memory { needed, free } => {
                write!(
                    f,
                    "it asks for {} memory, and {} are left",
                    Bytes(*needed),
                    Bytes(*free)
                )
            }
            WhyNot::Port { port, protocol, by } => {
                write!(f, "port {port}/{protocol} is taken by {by}")
            }
            plain => plain.kind().fmt(f),
        }
    }
}

/// Thousandths of a processor, as people write them.
struct Cores(u64);

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 as f64 / 1000.0)
    }
}

struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["G", "M", "K"];
        for (at, unit) in units.iter().enumerate() {
            let size = 1u64 << (30 - 10 * at);
            if self.0 >= size {
                // One digit behind the point tells a request from what is nearly enough.
                let tenths = self.0 / (size / 10).max(1);
                return match tenths % 10 {
                    0 => write!(f, "{}{unit}", tenths / 10),
                    rest => write!(f, "{}.{rest}{unit}", tenths / 10),
                };
            }
        }
        write!(f, "{}", self.0)
    }
}

/// Why nothing else fits: what stands against the machines that were looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nowhere {
    /// The one machine in question, if there is only one, and what stands against it.
    pub only: Option<(MachineId, WhyNot)>,
    /// What stands against the machines, each kind once.
    pub kinds: BTreeSet<Kind>,
}

impl fmt::Display for Nowhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((_, why)) = &self.only
            && matches!(
                why.kind(),
                Kind::PeerAbsent | Kind::PeerElsewhere | Kind::VolumeElsewhere | Kind::OtherMachine
            )
        {
            return why.fmt(f);
        }
        if let Some((machine, why)) = &self.only {
            return write!(f, "it can only be on {machine}: {why}");
        }
        if self.kinds.is_empty() {
            return f.write_str("there is no machine for it");
        }
        let kinds: Vec<String> = self.kinds.iter().map(Kind::to_string).collect();
        write!(f, "no machine fits: {}", kinds.join("; or "))
    }
}

/// What made a unit need a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It is to be on a machine and is on none.
    Wanted,
    /// Its machine is lost.
    Lost(MachineId),
    /// Its machine is drained.
    Drain(MachineId),
    /// It keeps failing where it is.
    Failing(MachineId),
    /// A rule forbids the machine it is on.
    Rule(MachineId, WhyNot),
    /// Another unit takes its place (Replaces).
    Room(MachineId, UnitName),
}

/// Why that machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Of those that fit it has the fewest units of its group, then the least load.
    LeastLoaded,
    /// MachineID.
    MachineId,
    /// MachineOf.
    Peer(UnitName),
    /// Data.
    Volume(VolumeName),
    /// Global.
    Everywhere,
    /// Replaces: where the unit was that makes room.
    PlaceOf(UnitName),
}

/// Why a unit is placed, and why there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceReason {
    /// Why it is placed.
    pub cause: Cause,
    /// Why there.
    pub choice: Choice,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Wanted => f.write_str("it is to be on a machine"),
            Cause::Lost(m) => write!(f, "its machine {m} is lost"),
            Cause::Drain(m) => write!(f, "its machine {m} is being drained"),
            Cause::Failing(m) => write!(f, "it keeps failing on {m}"),
            Cause::Rule(m, why) => write!(f, "it may not stay on {m} ({why})"),
            Cause::Room(m, by) => write!(f, "it makes room on {m} for {by} (Replaces)"),
        }
    }
}

impl fmt::Display for PlaceReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; ", self.cause)?;
        match &self.choice {
            Choice::LeastLoaded => f.write_str("this is the least loaded machine that fits"),
            Choice::MachineId => f.write_str("MachineID names this machine"),
            Choice::Peer(peer) => write!(f, "it follows {peer}, which is here (MachineOf)"),
            Choice::Volume(volume) => write!(f, "the data of volume {volume} is here"),
            Choice::Everywhere => f.write_str("it runs on every machine that fits (Global)"),
            Choice::PlaceOf(unit) => write!(f, "it takes the place of {unit} (Replaces)"),
        }
    }
}

/// Why a unit is taken from a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WithdrawReason {
    /// It is asked to be on no machine.
    Stopped,
    /// The unit was destroyed.
    Destroyed,
    /// It was destroyed and submitted anew.
    Remade,
    /// It goes elsewhere, and its successor comes first or at the same time.
    Moved(Cause),
    /// It must go before its successor may start (exclusive), or there is no place for one.
    Leaves(Cause),
    /// The newer placement did not come up; the older one stays.
    GivenUp,
    /// It is exclusive and was placed twice.
    Twice,
}

impl fmt::Display for WithdrawReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WithdrawReason::Stopped => f.write_str("it is asked to be on no machine"),
            WithdrawReason::Destroyed => f.write_str("the unit was destroyed"),
            WithdrawReason::Remade => f.write_str("the unit was destroyed and submitted anew"),
            WithdrawReason::Moved(cause) => write!(f, "it runs elsewhere now: {cause}"),
            WithdrawReason::Leaves(cause) => write!(f, "{cause}"),
            WithdrawReason::GivenUp => {
                f.write_str("it did not come up here, and still runs where it was")
            }
            WithdrawReason::Twice => f.write_str("it must never run twice (exclusive)"),
        }
    }
}

/// What a unit waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitReason {
    /// A machine that fits.
    Machine(Nowhere),
    /// Its machine is lost, and no other fits.
    Lost(MachineId, Nowhere),
    /// It must never run twice, and its lost machine may still run it until its lease is over for sure.
    Fence(MachineId),
    /// It must never run twice, and its last incarnation has not gone yet.
    Gone(MachineId),
    /// Its data is on a machine that is lost.
    Data {
        /// The volume.
        volume: VolumeName,
        /// Where it is.
        on: MachineId,
    },
    /// Its volumes are on several machines.
    Apart(Vec<(VolumeName, MachineId)>),
    /// Units that it replaces move away first.
    Room {
        /// Where.
        on: MachineId,
        /// Which.
        units: Vec<UnitName>,
    },
    /// It should leave its machine, which is drained, and cannot.
    Drain(MachineId, Nowhere),
    /// A drain moved it there, and it has failed.
    NotUp(MachineId),
    /// A drain goes on with it once that one is well.
    Behind(UnitName),
    /// It should make room for another (Replaces), and cannot.
    Replaced(MachineId, UnitName, Nowhere),
    /// It keeps failing, and no other machine fits.
    Failing(MachineId, Nowhere),
    /// It keeps failing and was moved as often as is allowed.
    Budget {
        /// Where it stays.
        on: MachineId,
        /// How often it was moved.
        moves: usize,
        /// Within how many milliseconds.
        window: u64,
    },
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitReason::Machine(nowhere) => nowhere.fmt(f),
            WaitReason::Lost(m, nowhere) => write!(f, "its machine {m} is lost; {nowhere}"),
            WaitReason::Fence(m) => write!(
                f,
                "its machine {m} is lost, and it must never run twice: it is placed again when {m} has stopped it for sure"
            ),
            WaitReason::Gone(m) => {
                write!(
                    f,
                    "it must never run twice, and it has not gone from {m} yet"
                )
            }
            WaitReason::Data { volume, on } => write!(
                f,
                "the data of volume {volume} is on {on}, which is lost; bring {on} back, or start with another copy: coracle volume rebind {volume}"
            ),
            WaitReason::Apart(volumes) => {
                let each: Vec<String> =
                    volumes.iter().map(|(v, m)| format!("{v} on {m}")).collect();
                write!(
                    f,
                    "its volumes are on different machines ({}); move one with coracle volume rebind",
                    each.join(", ")
                )
            }
            WaitReason::Room { on, units } => {
                let units: Vec<&str> = units.iter().map(UnitName::as_str).collect();
                write!(
                    f,
                    "{} moves away from {on} first (Replaces)",
                    units.join(", ")
                )
            }
            WaitReason::Drain(m, nowhere) => {
                write!(f, "it stays on {m}, which is being drained: {nowhere}")
            }
            WaitReason::NotUp(m) => write!(
                f,
                "it was moved to {m} and has failed there; the drain goes on once it runs, or is stopped"
            ),
            WaitReason::Behind(unit) => {
                write!(f, "it moves once {unit}, which went before it, is well")
            }
            WaitReason::Replaced(m, by, nowhere) => {
                write!(
                    f,
                    "it stays on {m} beside {by}, which replaces it: {nowhere}"
                )
            }
            WaitReason::Failing(m, nowhere) => write!(f, "it keeps failing on {m}; {nowhere}"),
            WaitReason::Budget { on, moves, window } => write!(
                f,
                "it keeps failing, and was moved {moves} times within {} s, which is the limit; it stays on {on}",
                window / 1000
            ),
        }
    }
}
