//! Why a unit is where it is, or is nowhere.
use crate::ids::{MachineId, UnitName};
use crate::model::{Placed, Placement, Wanted};
use crate::planner::Planner;
use crate::reason::{Kind, PlaceReason, WaitReason, WhyNot};
use crate::rules::Look;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Where a unit is and why, and each machine's verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The unit.
    pub unit: UnitName,
    /// What it is asked to be.
    pub wanted: Wanted,
    /// Where it is. The reason is known if this planner has placed it.
    pub placements: Vec<(Placement, Placed, Option<PlaceReason>)>,
    /// What it waits for.
    pub waits: Option<WaitReason>,
    /// All machines.
    pub machines: BTreeMap<MachineId, Verdict>,
}

/// What one machine is to a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is there.
    Here,
    /// It would fit.
    Fits,
    /// It would not, for all these reasons.
    No(Vec<WhyNot>),
}

impl Explanation {
    /// How many machines there are against which each kind of reason stands.
    pub fn counts(&self) -> BTreeMap<Kind, usize> {
        let mut counts = BTreeMap::new();
        for verdict in self.machines.values() {
            if let Verdict::No(reasons) = verdict {
                let kinds: std::collections::BTreeSet<Kind> =
                    reasons.iter().map(WhyNot::kind).collect();
                for kind in kinds {
                    *counts.entry(kind).or_default() += 1;
                }
            }
        }
        counts
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Here => f.write_str("it is here"),
            Verdict::Fits => f.write_str("it fits"),
            Verdict::No(reasons) => {
                let reasons: Vec<String> = reasons.iter().map(WhyNot::to_string).collect();
                f.write_str(&reasons.join("; "))
            }
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (placement, placed, reason) in &self.placements {
            write!(f, "{placement}")?;
            if placed.leaving {
                write!(f, " (leaving)")?;
            }
            match reason {
                Some(reason) => writeln!(f, ": {reason}")?,
                None => writeln!(f)?,
            }
        }
        if let Some(waits) = &self.waits {
            writeln!(f, "{} waits: {waits}", self.unit)?;
        } else if self.placements.is_empty() {
            writeln!(f, "{} is not asked to run", self.unit)?;
        }
        for (machine, verdict) in &self.machines {
            writeln!(f, "  {machine}: {verdict}")?;
        }
        Ok(())
    }
}

impl Planner {
    /// Whether a unit could be where another one is, once that had gone.
    pub fn fits_in_place_of(&self, unit: &UnitName, other: &UnitName) -> bool {
        let (Some(u), Some(other)) = (self.core.find(unit), self.core.find(other)) else {
            return false;
        };
        let gone = BTreeSet::from([other]);
        let home = self.core.unit(other).home();
        home.is_some_and(|home| self.core.fits(u, home.m, Look::Without(&gone)))
    }

    /// Why a unit is where it is; nothing if it is not known. Looks at every machine.
    pub fn explain(&self, unit: &UnitName) -> Option<Explanation> {
        let u = self.core.find(unit)?;
        let known = self.core.unit(u);
        let placements = known.held.iter().map(|held| {
            let placed = Placed {
                condition: held.condition,
                leaving: held.leaving,
            };
            (self.placement(u, held), placed, held.reason.clone())
        });
        let members = self
            .core
            .machines
            .iter()
            .filter(|(_, machine)| machine.state.is_some());
        let machines = members.map(|(m, machine)| {
            if known.live().any(|h| h.m == m) {
                return (machine.id.clone(), Verdict::Here);
            }
            let mut bars = Vec::new();
            self.core.bars(u, m, Look::Place, &mut |bar| {
                bars.push(bar);
                true
            });
            let mut why: Vec<WhyNot> = bars
                .into_iter()
                .map(|bar| self.core.why(u, m, bar, false))
                .collect();
            if self.core.failed_lately(u, m) && !why.is_empty() {
                why.push(WhyNot::FailedThere);
            }
            let verdict = if why.is_empty() {
                Verdict::Fits
            } else {
                Verdict::No(why)
            };
            (machine.id.clone(), verdict)
        });
        Some(Explanation {
            unit: unit.clone(),
            wanted: known.wanted,
            placements: placements.collect(),
            waits: known.wait.clone(),
            machines: machines.collect(),
        })
    }

    /// Where a unit is to be: the machine of its newest placement that is not leaving.
    pub fn home(&self, unit: &UnitName) -> Option<&MachineId> {
        let home = self.core.unit(self.core.find(unit)?).home()?;
        Some(&self.core.machines.get(home.m).id)
    }
}
