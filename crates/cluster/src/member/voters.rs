//! Who is to have a vote: one step at a time, decided from what is known, without asking anybody.
//!
//! Two machines have one vote and a copy (a learner), since two votes are worth less than one: either's loss stops both. From
//! three machines on there are three votes, from seven on five. Say that `a`, `b`, `c` vote, `d` is there too, and `c` has been
//! dead for ten minutes:
//!
//! ```text
//! a b c†     d        remove c                 c is dead for 10 minutes, d can take its place
//! a b        d        add d as a learner
//! a b        d~       (wait)                   d is not in step yet
//! a b        d~       promote d
//! a b d               settled
//! ```
//! The dead one goes first, since etcd lets nobody in while a voter does not answer. That costs nothing: of three of which one is dead
//! both others are needed, and of two as well. Nothing is done without a majority, and nothing that would end it. A learner is promoted to an even number of votes only
//! where another machine stands ready to make it odd. A voter that is dead and has nobody to take its place stays, and counts
//! again when it is back; one whose daemon lives and whose etcd alone is dead is its own heir, and begins anew.
//!
//! Who was taken out as dead is asked after all others from then on, the one that failed last at the very end: a machine whose etcd
//! cannot run keeps nobody else out.

use std::cmp::Reverse;
use std::time::Duration;

use crate::MachineId;

/// How long a voter is dead before another takes its place.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// What a machine is to etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nothing.
    None,
    /// It gets everything and has no vote. `ready`: it holds what the leader does.
    Learner {
        /// See above.
        ready: bool,
    },
    /// It has a vote. `leader`: it leads.
    Voter {
        /// See above.
        leader: bool,
    },
}

/// A machine as it is known now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its name.
    pub id: MachineId,
    /// It belongs to the cluster; false for one that leaves or was removed and still is etcd's.
    pub belongs: bool,
    /// For how long it has not been seen; None while it is.
    pub dead: Option<Duration>,
    /// It can run etcd.
    pub capable: bool,
    /// Its daemon gives signs and can run etcd, whatever the etcd does that it has: it could begin another one.
    pub again: bool,
    /// How long ago it was taken out because its etcd was lost; None if it was not, as far as is known.
    pub failed: Option<Duration>,
    /// What it is to etcd.
    pub role: Role,
}

impl Machine {
    fn votes(&self) -> bool {
        matches!(self.role, Role::Voter { .. })
    }

    fn learns(&self) -> bool {
        matches!(self.role, Role::Learner { .. })
    }

    fn alive(&self) -> bool {
        self.dead.is_none()
    }

    fn lost(&self, patience: Duration) -> bool {
        self.dead.is_some_and(|time| time >= patience)
    }

    /// It could have a vote.
    fn stands_ready(&self) -> bool {
        self.belongs && self.alive() && self.capable && self.role == Role::None
    }
}

/// What is to be done with etcd's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    None,
    /// Add the machine as a learner.
    AddLearner(MachineId),
    /// Give the learner its vote.
    Promote(MachineId),
    /// Take the machine out.
    Remove(MachineId),
}

/// A step, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What is to be done now; the next is decided when it is done.
    pub step: Step,
    /// Why, or why nothing is.
    pub reason: String,
}

fn decide(step: Step, reason: impl Into<String>) -> Decision {
    Decision {
        step,
        reason: reason.into(),
    }
}

/// How many votes so many machines have.
pub fn wanted(machines: usize) -> usize {
    match machines {
        0..3 => 1,
        3..7 => 3,
        _ => 5,
    }
}

fn majority(votes: usize) -> usize {
    votes / 2 + 1
}

/// Counts what decides.
struct Count<'m> {
    machines: &'m [Machine],
    patience: Duration,
    votes: usize,
    alive: usize,
}

impl<'m> Count<'m> {
    fn new(machines: &'m [Machine], patience: Duration) -> Self {
        let voters = || machines.iter().filter(|machine| machine.votes());
        Self {
            machines,
            patience,
            votes: voters().count(),
            alive: voters().filter(|machine| machine.alive()).count(),
        }
    }

    /// Without this voter there are votes, and a majority of them lives.
    fn may_lose(&self, voter: &Machine) -> bool {
        let alive = self.alive - usize::from(voter.alive());
        self.votes > 1 && alive >= majority(self.votes - 1)
    }

    /// With one voter more that lives there is a majority still.
    fn may_gain(&self) -> bool {
        self.alive + 1 >= majority(self.votes + 1)
    }

    fn learner(&self) -> Option<&'m Machine> {
        self.machines.iter().find(|machine| machine.learns())
    }

    /// The machine to be added next: one that never failed, else the one whose failure is the longest ago.
    fn candidate(&self) -> Option<&'m Machine> {
        let ready = self.machines.iter().filter(|m| m.stands_ready());
        ready.min_by_key(|machine| (machine.failed.map(Reverse), &machine.id))
    }

    /// Who can take the place of a voter that is lost: another machine, else its own with another etcd.
    fn heir_of(&self, lost: &'m Machine) -> Option<&'m Machine> {
        let own = Some(lost).filter(|lost| lost.again && lost.belongs);
        self.candidate().or(own)
    }
}

/// Whether a voter may be taken out: there are other votes, and a majority of them lives. Else why not, for a person.
///
/// # Errors
/// Why it must stay.
pub fn may_go(machines: &[Machine], voter: &MachineId) -> Result<(), String> {
    let count = Count::new(machines, PATIENCE);
    let Some(found) = machines.iter().find(|m| m.id == *voter && m.votes()) else {
        return Ok(());
    };
    if count.may_lose(found) {
        return Ok(());
    }
    // One that lives hands its vote over before it goes.
    let heir = machines
        .iter()
        .any(|m| m.id != *voter && m.belongs && m.alive() && m.capable && !m.votes());
    if found.alive() && heir && count.alive >= majority(count.votes) {
        return Ok(());
    }
    Err(match count.votes {
        1 => "it has the only vote, and no other machine can take it over now".to_owned(),
        votes => format!(
            "of the {} other voters {} answer, which would be no majority",
            votes - 1,
            count.alive - usize::from(found.alive())
        ),
    })
}

/// The next step; a voter that is dead for `patience` ([`PATIENCE`]) is replaced. Machines that are none of etcd's members and do not belong any more may be left out.
pub fn next(machines: &[Machine], patience: Duration) -> Decision {
    let count = Count::new(machines, patience);
    if count.votes == 0 {
        return decide(Step::None, "there is no etcd yet");
    }
    if count.alive < majority(count.votes) {
        let (alive, votes) = (count.alive, count.votes);
        let reason =
            format!("{alive} of {votes} voters live, which is no majority: nothing can be changed");
        return decide(Step::None, reason);
    }
    let here = machines.iter().filter(|m| m.belongs && m.capable).count();
    let wanted = wanted(here);
    gone(&count)
        .or_else(|| stale_learner(&count))
        .or_else(|| replace(&count))
        .or_else(|| grow(&count, wanted, here))
        .or_else(|| shrink(&count, wanted))
        .unwrap_or_else(|| {
            decide(
                Step::None,
                format!("{} of {wanted} votes are given", count.votes),
            )
        })
}

/// Members whose machine does not belong any more.
fn gone(count: &Count<'_>) -> Option<Decision> {
    let mut strangers = count
        .machines
        .iter()
        .filter(|m| !m.belongs && m.role != Role::None);
    let out = strangers.find(|machine| machine.learns() || count.may_lose(machine))?;
    let reason = format!("{} does not belong to the cluster any more", out.id);
    Some(decide(Step::Remove(out.id.clone()), reason))
}

/// A learner that is lost keeps others out: there is one at a time.
fn stale_learner(count: &Count<'_>) -> Option<Decision> {
    let learner = count
        .learner()
        .filter(|learner| learner.lost(count.patience))?;
    let other = count.candidate()?;
    let reason = format!(
        "{} is dead, and {} can take its place",
        learner.id, other.id
    );
    Some(decide(Step::Remove(learner.id.clone()), reason))
}

/// Voters that are lost, when there is somebody for their place.
fn replace(count: &Count<'_>) -> Option<Decision> {
    let lost = |m: &&Machine| m.votes() && m.lost(count.patience) && count.may_lose(m);
    let mut lost = count.machines.iter().filter(lost);
    let (out, heir) = match count.learner() {
        Some(learner) if learner.alive() => {
            let out = lost.next()?;
            if learner.role != (Role::Learner { ready: true }) {
                let reason = format!(
                    "{} is to take the place of {} and is not in step yet",
                    learner.id, out.id
                );
                return Some(decide(Step::None, reason));
            }
            (out, learner)
        }
        Some(_) => return None,
        None => lost.find_map(|out| Some((out, count.heir_of(out)?)))?,
    };
    let dead = out.dead.unwrap_or_default().as_secs();
    let reason = match heir.id == out.id {
        true => format!(
            "the etcd of {} has been dead for {dead} s while its daemon lives, and it begins anew",
            out.id
        ),
        false => format!(
            "{} has been dead for {dead} s, and {} can take its place",
            out.id, heir.id
        ),
    };
    Some(decide(Step::Remove(out.id.clone()), reason))
}

/// Votes, and the copy that two machines have.
fn grow(count: &Count<'_>, wanted: usize, here: usize) -> Option<Decision> {
    let leaving = count
        .machines
        .iter()
        .filter(|m| m.votes() && !m.belongs)
        .count();
    let staying = count.votes - leaving;
    let more = staying < wanted;
    match count.learner() {
        Some(learner) if more => {
            if !learner.alive() || learner.role != (Role::Learner { ready: true }) {
                let reason = format!("{} is to have a vote and is not in step yet", learner.id);
                return Some(decide(Step::None, reason));
            }
            let odd = (count.votes + 1) % 2 == 1;
            if !(odd || leaving > 0 || count.candidate().is_some()) {
                let reason = format!(
                    "{} gets no vote: an even number of votes is worth less, and no other machine can have one now",
                    learner.id
                );
                return Some(decide(Step::None, reason));
            }
            if !count.may_gain() {
                return Some(decide(
                    Step::None,
                    "too many voters are dead for another one",
                ));
            }
            let reason = format!(
                "{} machines have {wanted} votes, and {} is in step",
                here, learner.id
            );
            Some(decide(Step::Promote(learner.id.clone()), reason))
        }
        Some(learner) if wanted > 1 && count.votes >= wanted => {
            let reason = format!(
                "all {wanted} votes are given, so {} need not learn",
                learner.id
            );
            Some(decide(Step::Remove(learner.id.clone()), reason))
        }
        Some(_) => None,
        None if more || (wanted == 1 && count.votes == 1) => {
            let new = count.candidate()?;
            if let Some(dead) = count.machines.iter().find(|m| m.votes() && !m.alive()) {
                let reason = format!(
                    "{} is to be let in, and etcd lets nobody in while {} does not answer",
                    new.id, dead.id
                );
                return Some(decide(Step::None, reason));
            }
            let reason = match more {
                true => format!("{here} machines have {wanted} votes"),
                false => "a second machine keeps a copy".to_owned(),
            };
            Some(decide(Step::AddLearner(new.id.clone()), reason))
        }
        None => None,
    }
}

/// Votes that are too many: of the dead first, and of the leader last.
fn shrink(count: &Count<'_>, wanted: usize) -> Option<Decision> {
    if count.votes <= wanted {
        return None;
    }
    let voters = count
        .machines
        .iter()
        .filter(|m| m.votes() && count.may_lose(m));
    let out = voters.max_by_key(|m| {
        let leads = m.role == (Role::Voter { leader: true });
        (m.dead.is_some(), !leads, m.id.clone())
    })?;
    let reason = format!("there are {} votes and {wanted} are wanted", count.votes);
    Some(decide(Step::Remove(out.id.clone()), reason))
}

#[cfg(test)]
mod tests;
