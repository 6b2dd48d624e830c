//! Turns: which machines of a cluster may be away for a restart, and what became of releases. Pure; who keeps it is not said here.
//!
//! After CoreOS's locksmith (a semaphore in the store, held by machines, without an end by itself): whoever has a turn keeps it until it is
//! well again or an operator takes it away, so that a release that no machine survives ends with the first one.

use semver::Version;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The format of both records.
pub const FORMAT: u32 = 1;

/// Who has a turn: by the machine's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turns {
    /// [`FORMAT`].
    pub version: u32,
    /// How many machines may have one at the same time; 1 at least.
    pub at_once: u32,
    /// Who has one.
    pub holders: BTreeMap<String, Turn>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            version: FORMAT,
            at_once: 1,
            holders: BTreeMap::new(),
        }
    }
}

/// A machine's turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// The machine's host name.
    pub name: String,
    /// When it began, in seconds since 1970.
    pub since: u64,
    /// The release that it restarts into.
    pub to: Version,
    /// The boot in which it began.
    pub boot: String,
}

/// What became of a release in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// [`FORMAT`].
    pub version: u32,
    /// How it stands.
    pub standing: Proof,
    /// The host name of the machine that says so.
    pub machine: String,
    /// When, in seconds since 1970.
    pub at: u64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How often operators have said that it is to be tried again.
    #[serde(default)]
    pub resumes: u64,
}

/// How a release stands in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// A machine runs it and is well.
    Good,
    /// A machine has gone back from it.
    Failed,
    /// It had failed, and an operator wants it to be tried again.
    Resumed,
}

/// Why a machine has to wait.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wait {
    /// A machine has gone back from it.
    #[error(
        "release {to} failed on {machine} ({reason}), so nobody else takes it; `coracle os rollout resume {to}` tries it again"
    )]
    Stopped {
        /// The release.
        to: Version,
        /// Where.
        machine: String,
        /// Why.
        reason: String,
    },
    /// Nobody runs it yet, and a machine is trying it.
    #[error("{0} tries the release first")]
    Tried(String),
    /// As many are away as may be.
    #[error("waits for its turn: {} has one; a machine that does not come back is passed over with `coracle os rollout unlock MACHINE`", .0.join(", "))]
    Away(Vec<String>),
}

impl Turns {
    /// With a turn for a machine; the same where it has it already. `members` are the ids of the machines that there are: those that were removed
    /// count no more.
    ///
    /// # Errors
    /// Why it has to wait.
    pub fn with(
        &self,
        id: &str,
        turn: Turn,
        verdict: Option<&Verdict>,
        members: &BTreeSet<String>,
    ) -> Result<Self, Wait> {
        if let Some(failed) = verdict.filter(|v| v.standing == Proof::Failed) {
            return Err(failed.stops(&turn.to));
        }
        let mut turns = self.clone();
        turns.holders.retain(|id, _| members.contains(id));
        if turns.holders.get(id).is_some_and(|t| t.to == turn.to) {
            return Ok(turns);
        }
        turns.holders.remove(id);
        let proven = verdict.is_some_and(|v| v.standing == Proof::Good);
        let mut others = turns.holders.values();
        if let Some(first) = others.find(|other| !proven && other.to == turn.to) {
            return Err(Wait::Tried(first.name.clone()));
        }
        if turns.holders.len() >= self.at_once.max(1) as usize {
            let names = turns.holders.values().map(|t| t.name.clone());
            return Err(Wait::Away(names.collect()));
        }
        turns.holders.insert(id.to_owned(), turn);
        Ok(turns)
    }
}

impl Verdict {
    /// What a failure says to those that would take the release.
    pub fn stops(&self, to: &Version) -> Wait {
        Wait::Stopped {
            to: to.clone(),
            machine: self.machine.clone(),
            reason: self.reason.clone().unwrap_or_default(),
        }
    }

    /// What is known once a machine has tried a release; nothing if that changes nothing. A failure stands until an operator says otherwise: that it
    /// is good elsewhere does not make it good.
    pub fn after(known: Option<&Self>, new: Self) -> Option<Self> {
        let resumes = known.map_or(0, |k| k.resumes) + u64::from(new.standing == Proof::Resumed);
        let new = Self { resumes, ..new };
        match (known.map(|k| k.standing), new.standing) {
            (Some(Proof::Failed | Proof::Good), Proof::Good) => None,
            (Some(Proof::Failed), Proof::Failed) => None,
            _ => Some(new),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn turn(name: &str, minor: u64) -> Turn {
        Turn {
            name: name.to_owned(),
            since: 0,
            to: Version::new(0, minor, 0),
            boot: "boot".to_owned(),
        }
    }

    fn verdict(standing: Proof) -> Verdict {
        Verdict {
            version: FORMAT,
            standing,
            machine: "m1".to_owned(),
            at: 7,
            reason: (standing == Proof::Failed).then(|| "no web".to_owned()),
            resumes: 0,
        }
    }

    fn members() -> BTreeSet<String> {
        ["a", "b", "c"].map(str::to_owned).into()
    }

    #[test]
    fn one_after_the_other_has_a_turn() {
        let none = Turns::default();
        let one = none.with("a", turn("m1", 2), None, &members()).unwrap();
        assert_eq!(
            one.with("a", turn("m1", 2), None, &members()),
            Ok(one.clone())
        );
        let good = verdict(Proof::Good);
        let wait = one
            .with("b", turn("m2", 2), Some(&good), &members())
            .unwrap_err();
        assert_eq!(wait, Wait::Away(vec!["m1".to_owned()]));
        let two = Turns { at_once: 2, ..one };
        let two = two
            .with("b", turn("m2", 2), Some(&good), &members())
            .unwrap();
        assert_eq!(two.holders.len(), 2);
    }

    #[test]
    fn the_first_one_is_alone_however_many_may_be_away() {
        let turns = Turns {
            at_once: 5,
            ..Turns::default()
        };
        let one = turns.with("a", turn("m1", 2), None, &members()).unwrap();
        let wait = one.with("b", turn("m2", 2), None, &members()).unwrap_err();
        assert_eq!(wait, Wait::Tried("m1".to_owned()));
        let resumed = verdict(Proof::Resumed);
        let wait = one.with("b", turn("m2", 2), Some(&resumed), &members());
        assert_eq!(wait, Err(Wait::Tried("m1".to_owned())));
    }

    #[test]
    fn a_failure_stops_everybody_until_it_is_resumed() {
        let none = Turns::default();
        let failed = verdict(Proof::Failed);
        let wait = none.with("b", turn("m2", 2), Some(&failed), &members());
        let said = wait.unwrap_err().to_string();
        assert!(said.contains("failed on m1 (no web)") && said.contains("resume 0.2.0"));
        let resumed = Verdict::after(Some(&failed), verdict(Proof::Resumed)).unwrap();
        assert!(
            none.with("b", turn("m2", 2), Some(&resumed), &members())
                .is_ok()
        );
        assert_eq!(Verdict::after(Some(&failed), verdict(Proof::Good)), None);
        let good = verdict(Proof::Good);
        assert_eq!(
            Verdict::after(Some(&good), failed.clone()),
            Some(failed.clone()),
            "also one that was good before stops"
        );
        assert_eq!(resumed.resumes, 1);
        let again = Verdict::after(Some(&resumed), failed).unwrap();
        assert_eq!((again.standing, again.resumes), (Proof::Failed, 1));
        let again = Verdict::after(Some(&again), verdict(Proof::Resumed)).unwrap();
        assert_eq!(again.resumes, 2);
    }

    #[test]
    fn who_was_removed_keeps_nobody_waiting() {
        let one = Turns::default()
            .with("gone", turn("m9", 2), None, &["gone".to_owned()].into())
            .unwrap();
        let next = one.with("a", turn("m1", 2), None, &members()).unwrap();
        assert_eq!(next.holders.keys().collect::<Vec<_>>(), ["a"]);
    }
}
