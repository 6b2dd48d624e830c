//! Why a unit is where it is, or is nowhere, for people.

use crate::error::{FleetError, Result};
use crate::fleet::Fleet;
use crate::leader::{Leader, Target};
use crate::model::{Active, Desired};
use crate::requests::named;
use coracle_planner::Verdict;
use serde::Serialize;

/// Where a unit is and why, and what each machine is to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// Full name.
    pub unit: String,
    /// What it was asked to be.
    pub desired: Desired,
    /// Where it stands.
    pub active: Active,
    /// Finer.
    pub sub: String,
    /// Where it is.
    pub placements: Vec<PlacementView>,
    /// What it waits for, or why it stays although it should go elsewhere.
    pub waits: Option<String>,
    /// Every machine.
    pub machines: Vec<MachineVerdict>,
}

/// A unit on a machine, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlacementView {
    /// The machine's id.
    pub machine: String,
    /// As people call the machine.
    pub hostname: String,
    /// Counts how often the unit was placed.
    pub incarnation: u64,
    /// Whether it is asked to go from there.
    pub leaving: bool,
    /// Why it was placed there; unknown of what a leader before this one has placed.
    pub reason: Option<String>,
}

/// What a machine is to a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MachineVerdict {
    /// The machine's id.
    pub machine: String,
    /// As people call the machine.
    pub hostname: String,
    /// Whether the unit is there.
    pub here: bool,
    /// Whether it would fit there, if it is not.
    pub fits: bool,
    /// What stands against it.
    pub reasons: Vec<String>,
}

impl Fleet {
    /// Why a unit is where it is.
    ///
    /// # Errors
    /// [`FleetError::NotFound`], [`FleetError::Template`], [`FleetError::NotLeader`].
    pub fn explain(&self, name: &str) -> Result<Explained> {
        let leader = self.leading()?;
        let target = named(&leader, name)?;
        let unit = target.unit();
        if unit.name.is_template() {
            let example = unit.name.instantiate("1");
            let example = example.map_or_else(|_| String::new(), |n| n.to_string());
            return Err(FleetError::Template(unit.name.to_string(), example));
        }
        Ok(match leader.explain(unit.name.as_str()) {
            Some(explanation) => planned(&leader, &target, &explanation),
            None => resource(&leader, &target),
        })
    }
}

fn plain(target: &Target) -> Explained {
    let actual = target.actual();
    Explained {
        unit: target.unit().name.to_string(),
        desired: target.record().desired,
        active: actual.active,
        sub: actual.sub,
        placements: Vec::new(),
        waits: None,
        machines: Vec::new(),
    }
}

fn planned(
    leader: &Leader,
    target: &Target,
    explanation: &coracle_planner::Explanation,
) -> Explained {
    let placements = explanation.placements.iter();
    let placements = placements.map(|(placement, placed, reason)| PlacementView {
        machine: placement.machine.to_string(),
        hostname: leader.called(placement.machine.as_str()),
        incarnation: placement.incarnation,
        leaving: placed.leaving,
        reason: reason.as_ref().map(|r| leader.in_words(&r.to_string())),
    });
    let machines = explanation.machines.iter().map(|(id, verdict)| {
        let reasons = match verdict {
            Verdict::No(reasons) => reasons.as_slice(),
            Verdict::Here | Verdict::Fits => &[],
        };
        MachineVerdict {
            machine: id.to_string(),
            hostname: leader.called(id.as_str()),
            here: *verdict == Verdict::Here,
            fits: *verdict == Verdict::Fits,
            reasons: reasons
                .iter()
                .map(|r| leader.in_words(&r.to_string()))
                .collect(),
        }
    });
    let waits = explanation.waits.as_ref();
    Explained {
        placements: placements.collect(),
        waits: waits.map(|w| leader.in_words(&w.to_string())),
        machines: machines.collect(),
        ..plain(target)
    }
}

/// Volumes and networks are wherever a unit is that needs them.
fn resource(leader: &Leader, target: &Target) -> Explained {
    let name = target.unit().name.to_string();
    let users: Vec<(String, Vec<String>)> = leader
        .needed_by(&name)
        .iter()
        .filter_map(|user| Some((user.clone(), leader.target(user)?.machines())))
        .collect();
    let placements = target.placed().into_iter().map(|(machine, placed)| {
        let there = users.iter().filter(|(_, on)| on.contains(&machine));
        let there: Vec<&str> = there.map(|(user, _)| user.as_str()).collect();
        let reason = match there.as_slice() {
            [] => "no unit that is here needs it now".to_owned(),
            [one] => format!("{one}, which needs it, is here"),
            several => format!("{}, which need it, are here", several.join(", ")),
        };
        PlacementView {
            hostname: leader.called(&machine),
            incarnation: placed.instance.incarnation,
            leaving: placed.desired.is_none(),
            reason: Some(reason),
            machine,
        }
    });
    Explained {
        placements: placements.collect(),
        ..plain(target)
    }
}
