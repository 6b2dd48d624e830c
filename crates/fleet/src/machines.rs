//! What operators say of machines, and what they see of them.
//!
//! What is said is written as `marks/<id>`, beside what the machine says of itself, so that neither writes over the other's.

use crate::error::{FleetError, Result};
use crate::fleet::Fleet;
use crate::leader::Leader;
use crate::machine::check_label;
use crate::model::{Active, Machine, Marks};
use crate::presence::Seen;
use coracle_planner::{UnitName, WaitReason};
use serde::Serialize;
use std::collections::BTreeMap;

/// What is to be said of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// Labels: a value sets one, None takes one away, also one of the machine's own configuration.
    Labels(BTreeMap<String, Option<String>>),
    /// It gets nothing new.
    Cordon,
    /// What it has moves away, and it gets nothing new.
    Drain,
    /// It gets units again. A drain ends; what has moved stays where it is.
    Uncordon,
    /// A drain ends; one that was cordoned stays so.
    Undrain,
}

/// A machine as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MachineView {
    /// Its facts, with the labels that hold.
    #[serde(flatten)]
    pub machine: Machine,
    /// `alive` or `gone`.
    pub state: String,
    /// It gets nothing new.
    pub cordoned: bool,
    /// What it has moves away.
    pub draining: bool,
    /// What it is asked to have.
    pub placed: Vec<PlacedThere>,
    /// How far its drain is, if it is drained.
    pub drain: Option<DrainView>,
}

/// A unit on a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlacedThere {
    /// Its name.
    pub unit: String,
    /// Where it stands there.
    pub active: Active,
    /// Finer.
    pub sub: String,
}

/// How far a drain is, by names of units.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DrainView {
    /// Nothing is left to be moved.
    pub finished: bool,
    /// On their way: they run elsewhere or start there, and have not gone from here yet.
    pub moving: Vec<String>,
    /// Still to be moved.
    pub next: Vec<String>,
    /// What cannot be moved as things are.
    pub stuck: Vec<Stuck>,
    /// Have ended well, and stay with their output.
    pub done: Vec<String>,
    /// Run on every machine; they go last.
    pub global: Vec<String>,
}

/// What cannot be moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stuck {
    /// The unit.
    pub unit: String,
    /// Why not.
    pub reason: String,
    /// It could, were it not for a unit that is not up where it was moved to.
    pub held_up: bool,
}

impl Fleet {
    /// A machine by its id, its host name, or the beginning of either that no other has.
    ///
    /// # Errors
    /// [`FleetError::NoMachine`], [`FleetError::AmbiguousMachine`], [`FleetError::NotLeader`].
    pub fn machine_named(&self, text: &str) -> Result<MachineView> {
        let leader = self.leading()?;
        let seen = leader.machine(text)?;
        Ok(view(&leader, seen))
    }

    /// Says something of a machine, named as in [`Self::machine_named`]. What is said again changes nothing.
    ///
    /// # Errors
    /// As [`Self::machine_named`]; [`FleetError::Label`]; [`FleetError::Senseless`] for the drain of the only machine that there is.
    pub async fn mark(&self, text: &str, change: &Mark) -> Result<MachineView> {
        let leader = self.leading()?;
        let seen = leader.machine(text)?;
        let id = seen.machine.id.clone();
        if let Mark::Labels(labels) = change {
            check(labels)?;
        }
        let _one = self.change(&leader).await?;
        if *change == Mark::Drain && leader.machines().len() < 2 {
            return Err(FleetError::Senseless {
                what: format!("machine {} cannot be drained", leader.called(&id)),
                why: "it is the only one, so that nothing can move anywhere".into(),
                way_out: "join another one first, or stop everything with `coracle system down`"
                    .into(),
            });
        }
        leader
            .mark(&id, |marks| apply(marks, change, &seen.own))
            .await?;
        let seen = leader.machine(&id)?;
        Ok(view(&leader, seen))
    }
}

fn check(labels: &BTreeMap<String, Option<String>>) -> Result<()> {
    for (key, value) in labels {
        // What is taken away may be of a release that allowed more.
        let checked = match value {
            Some(value) => check_label(key, value),
            None if key.is_empty() => Err("its key is empty"),
            None => Ok(()),
        };
        checked.map_err(|why| FleetError::Label {
            label: match value {
                Some(value) => format!("{key}={value}"),
                None => format!("{key}-"),
            },
            why,
        })?;
    }
    Ok(())
}

fn apply(marks: &mut Marks, change: &Mark, own: &BTreeMap<String, String>) {
    match change {
        Mark::Labels(labels) => {
            for (key, value) in labels {
                match value {
                    Some(value) => drop(marks.labels.insert(key.clone(), value.clone())),
                    // The machine says it again with each start.
                    None if own.contains_key(key) => {
                        marks.labels.insert(key.clone(), String::new());
                    }
                    None => drop(marks.labels.remove(key)),
                }
            }
        }
        Mark::Cordon => marks.cordoned = true,
        Mark::Drain => marks.draining = true,
        Mark::Undrain => marks.draining = false,
        Mark::Uncordon => (marks.cordoned, marks.draining) = (false, false),
    }
}

fn view(leader: &Leader, seen: Seen) -> MachineView {
    let id = &seen.machine.id;
    let there = leader.all().into_iter().filter_map(|target| {
        let placed = target.placed().remove(id)?;
        placed.desired.as_ref()?;
        let unit = target.unit().name.to_string();
        let (active, sub) = match placed.actual {
            Some(actual) => (actual.active, actual.sub),
            None => (Active::Inactive, "placed".to_owned()),
        };
        Some(PlacedThere { unit, active, sub })
    });
    MachineView {
        placed: there.collect(),
        state: if seen.alive { "alive" } else { "gone" }.to_owned(),
        cordoned: seen.marks.cordoned,
        draining: seen.marks.draining,
        drain: seen.marks.draining.then(|| drain(leader, id)),
        machine: seen.machine,
    }
}

fn names(units: &[UnitName]) -> Vec<String> {
    units.iter().map(ToString::to_string).collect()
}

fn drain(leader: &Leader, id: &str) -> DrainView {
    let drain = leader.drain(id);
    let stuck = drain.stuck.iter().map(|(unit, reason)| Stuck {
        unit: unit.to_string(),
        reason: leader.in_words(&reason.to_string()),
        held_up: matches!(reason, WaitReason::NotUp(_) | WaitReason::Behind(_)),
    });
    DrainView {
        finished: drain.finished(),
        moving: names(&drain.moving),
        next: names(&drain.next),
        stuck: stuck.collect(),
        done: names(&drain.done),
        global: names(&drain.global),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(those: &[(&str, Option<&str>)]) -> BTreeMap<String, Option<String>> {
        let owned =
            |(key, value): &(&str, Option<&str>)| ((*key).to_owned(), value.map(ToOwned::to_owned));
        those.iter().map(owned).collect()
    }

    #[test]
    fn what_is_said_is_written_down() {
        let own = BTreeMap::from([("rack".to_owned(), "a".to_owned())]);
        let mut marks = Marks::default();
        let set = Mark::Labels(labels(&[("rack", Some("b")), ("disk", Some("ssd"))]));
        apply(&mut marks, &set, &own);
        assert_eq!(marks.labels["rack"], "b");
        let take = Mark::Labels(labels(&[("rack", None), ("disk", None), ("gone", None)]));
        apply(&mut marks, &take, &own);
        assert_eq!(
            marks.labels,
            BTreeMap::from([("rack".to_owned(), String::new())]),
            "a label of the configuration is hidden, the others are forgotten"
        );
        apply(&mut marks, &Mark::Cordon, &own);
        apply(&mut marks, &Mark::Drain, &own);
        assert!(marks.cordoned && marks.draining);
        apply(&mut marks, &Mark::Uncordon, &own);
        assert!(!marks.cordoned && !marks.draining);
    }

    #[test]
    fn labels_that_are_none_are_named() {
        for (key, value, said) in [
            ("a b", Some("c"), "label a b=c: it has a space in it"),
            ("a", Some(""), "label a=: its value is empty"),
            ("", None, "label -: its key is empty"),
        ] {
            let told = check(&labels(&[(key, value)])).map_err(|e| e.to_string());
            assert!(
                told.as_ref().is_err_and(|e| e.starts_with(said)),
                "{told:?}"
            );
        }
    }
}
