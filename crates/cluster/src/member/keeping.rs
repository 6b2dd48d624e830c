//! What the machine that leads does about voters: everything is seen, and from that the steps follow. Pure.
//!
//! The truth is etcd's own list of members. The list of who belongs ([`crate::members`]) and what machines are told ([`Record`])
//! are brought in line with it, and [`voters`] says what is to be changed in it:
//!
//! ```text
//! seen                                          steps
//! etcd: a*       list: a voter, b machine       b may have the CA's key (list: learner), etcd adds b
//! etcd: a*, ?    list: a voter, b learner       b is told
//! etcd: a*, b~   in step; c is there            etcd promotes b
//! etcd: a*, b    list: b learner                list: b voter
//! etcd: a*, c    list: b voter, b told in       list: b machine, b is told out
//! etcd: a*, b    b says that it is elsewhere    etcd's list has b there
//! ```
//! Nothing is remembered from one look to the next but since when machines are silent and who has failed, so whoever leads goes on
//! wherever the one before was killed.
//!
//! A member's own etcd is where the machine says before the machine says it, and it reaches the others by the addresses that they had:
//! that is enough for raft, and so for the change of the list. Two members may have exchanged their addresses, and etcd wants each once. Then one of
//! them is put where nobody is first.

use std::collections::BTreeMap;
use std::time::Duration;

use super::api::{MemberId, MemberInfo, initial_cluster};
use super::record::{Part, Record};
use super::voters::{self, Decision, Machine, Role};
use crate::MachineId;
use crate::members::Standing;
use crate::pki::PEER_NAME;

/// What is known of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where its etcd's peers reach it, or would.
    pub peer_url: Option<String>,
    /// For how long it, or its etcd, has not been seen; None while it is.
    pub dead: Option<Duration>,
    /// Its daemon gives signs.
    pub up: bool,
    /// Its door answers, whatever it says of its etcd.
    pub door: bool,
    /// How long ago it was taken out because its etcd was lost.
    pub failed: Option<Duration>,
    /// It can run etcd.
    pub capable: bool,
    /// It is about to go.
    pub leaving: bool,
    /// Its etcd holds what the leader's does.
    pub in_step: bool,
}

/// Everything that counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Who belongs to the cluster.
    pub list: BTreeMap<MachineId, Standing>,
    /// etcd's members.
    pub etcd: Vec<MemberInfo>,
    /// Which of them leads.
    pub leader: Option<MemberId>,
    /// What machines were told.
    pub records: BTreeMap<MachineId, Record>,
    /// What is known of them.
    pub known: BTreeMap<MachineId, Known>,
    /// The name of etcd's cluster.
    pub cluster: String,
}

/// Where nobody is, to make room for another member.
fn nowhere(id: &MachineId) -> String {
    format!("https://{id}.{PEER_NAME}:1")
}

/// One thing to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The list says so of a machine.
    List(MachineId, Standing),
    /// A machine is told this.
    Tell(MachineId, Record),
    /// etcd adds a learner of that URL.
    Add(String),
    /// etcd gives it its vote.
    Promote(MemberId),
    /// etcd takes it out.
    Remove(MemberId),
    /// etcd's list has it at that URL from now on. Never of a learner.
    Move(MemberId, String),
}

/// What to do, and why, or why nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In this order; after one that fails all is looked at anew.
    pub steps: Vec<Step>,
    /// For a person.
    pub reason: String,
}

impl Seen {
    /// The machine that a member is; one that never ran is known by what its machine was told, or else by its URL.
    pub fn machine_of(&self, member: &MemberInfo) -> Option<MachineId> {
        if !member.name.is_empty() {
            return member.name.parse().ok();
        }
        let is_it = |told: &Record| told.part == Part::In && told.member == member.id.0;
        if let Some((id, _)) = self.records.iter().find(|(_, told)| is_it(told)) {
            return Some(id.clone());
        }
        let url = member.peer_urls.first()?;
        let begun = |id: &MachineId| self.etcd.iter().any(|other| other.name == id.as_str());
        // Machines may have exchanged their addresses, or one be where another was: it is none that is another member, and who was to
        // be added is in the list as a learner.
        let there = |known: &Known| known.peer_url.as_ref() == Some(url);
        let all = self.known.iter();
        let all = all.filter(|(id, known)| there(known) && !begun(id));
        let found = all.max_by_key(|(id, known)| {
            let learns = self.list.get(*id) == Some(&Standing::Learner);
            (learns, known.up)
        });
        found.map(|(id, _)| id.clone())
    }

    /// Machines as [`voters`] looks at them. Of `own`, which does the work, it counts that it leads.
    pub fn machines(&self, own: &MachineId) -> Vec<Machine> {
        let mut all: BTreeMap<MachineId, Role> = self
            .list
            .keys()
            .map(|id| (id.clone(), Role::None))
            .collect();
        for member in &self.etcd {
            let Some(id) = self.machine_of(member) else {
                continue;
            };
            // What a machine holds by another member is not what one holds that has not begun.
            let ready = !member.name.is_empty();
            let ready = ready && self.known.get(&id).is_some_and(|known| known.in_step);
            let role = match member.learner {
                true => Role::Learner { ready },
                false => Role::Voter {
                    leader: self.leader == Some(member.id) || id == *own,
                },
            };
            all.insert(id, role);
        }
        let machine = |(id, role): (MachineId, Role)| {
            let known = self.known.get(&id);
            Machine {
                belongs: self.list.contains_key(&id) && known.is_none_or(|known| !known.leaving),
                dead: known.map_or(Some(Duration::ZERO), |known| known.dead),
                capable: role != Role::None || known.is_some_and(|known| known.capable),
                // Of one whose door does not answer it is not known that its etcd is lost, nor could it be seen that another one is well.
                again: known.is_some_and(|known| known.up && known.door && known.capable),
                failed: known.and_then(|known| known.failed),
                id,
                role,
            }
        };
        all.into_iter().map(machine).collect()
    }

    /// What `own`, which leads, is to do; a voter that is dead for `patience` is replaced.
    pub fn plan(&self, own: &MachineId, patience: Duration) -> Plan {
        let mut strangers = self.etcd.iter().filter(|m| self.machine_of(m).is_none());
        // Added for a machine that was gone before it began.
        if let Some(stranger) = strangers.rfind(|m| m.name.is_empty()) {
            return Plan {
                steps: vec![Step::Remove(stranger.id)],
                reason: format!("etcd's member {:?} is no machine's", stranger.peer_urls),
            };
        }
        if let Some(moved) = self.moved() {
            return moved;
        }
        let Decision { step, reason } = voters::next(&self.machines(own), patience);
        let mut steps = self.in_line(&step);
        let member = |id: &MachineId| self.member(id).map(|member| member.id);
        let url = |id: &MachineId| self.known.get(id)?.peer_url.clone();
        match &step {
            voters::Step::None => {}
            // The list has it as a learner by then.
            voters::Step::AddLearner(id) => steps.extend(url(id).map(Step::Add)),
            voters::Step::Promote(id) => steps.extend(member(id).map(Step::Promote)),
            voters::Step::Remove(id) => steps.extend(member(id).map(Step::Remove)),
        }
        Plan { steps, reason }
    }

    /// One member that is elsewhere than etcd's list says. Where another one still has its place, it waits for that.
    fn moved(&self) -> Option<Plan> {
        let etcd = self.etcd.iter();
        let all: Vec<_> = etcd
            .filter_map(|member| {
                let id = self.machine_of(member)?;
                let wanted = self.place_of(member, &id)?;
                let is_there = member.peer_urls.iter().eq([&wanted]);
                (!is_there).then_some((member, id, wanted))
            })
            .collect();
        let taken = |url: &String| self.etcd.iter().any(|m| m.peer_urls.contains(url));
        let free = all.iter().find(|(.., wanted)| !taken(wanted));
        let (member, id, url) = match free {
            Some((member, id, wanted)) => (member, id, wanted.clone()),
            None => {
                let mut all = all.iter();
                let (member, id, _) = all.find(|(m, id, _)| !m.peer_urls.contains(&nowhere(id)))?;
                (member, id, nowhere(id))
            }
        };
        // etcd 3.4 forgets of a member whose URLs change that it is a learner, and raft does not: it would count as a voter that it is not.
        // So one without a vote begins anew where it is now.
        let step = match member.learner {
            true => Step::Remove(member.id),
            false => Step::Move(member.id, url.clone()),
        };
        Some(Plan {
            reason: format!("{id} is reached at {url} now"),
            steps: vec![step],
        })
    }

    /// Where etcd's list is to have a member: where its machine says. What two say is the one's that gives signs, and the other
    /// was there before it was lost.
    fn place_of(&self, member: &MemberInfo, id: &MachineId) -> Option<String> {
        let known = self.known.get(id)?;
        let url = known.peer_url.as_ref()?;
        let rival = self.known.iter().any(|(other, there)| {
            let same = other != id && there.peer_url.as_ref() == Some(url);
            same && match (known.up, there.up) {
                (true, false) => false,
                (false, true) => true,
                _ => other < id && self.member(other).is_some(),
            }
        });
        match rival {
            true if member.peer_urls.contains(url) => Some(nowhere(id)),
            // It stays where it is, which is not where the other one comes.
            true => None,
            false => Some(url.clone()),
        }
    }

    /// Whether a learner is on its way to a vote, and is to be looked at again soon.
    pub fn learns(&self) -> bool {
        let on_its_way = |id: MachineId| {
            let known = self.known.get(&id);
            known.is_some_and(|known| known.dead.is_none() && !known.in_step)
        };
        let mut learners = self.etcd.iter().filter(|member| member.learner);
        self.list.len() > 2 && learners.any(|m| self.machine_of(m).is_some_and(on_its_way))
    }

    /// The machine that a step takes out because it has been dead for `patience`.
    pub fn fails(&self, step: &Step, patience: Duration) -> Option<MachineId> {
        let Step::Remove(id) = step else { return None };
        let member = self.etcd.iter().find(|member| member.id == *id)?;
        let machine = self.machine_of(member)?;
        let dead = self.known.get(&machine)?.dead?;
        (dead >= patience).then_some(machine)
    }

    fn member(&self, id: &MachineId) -> Option<&MemberInfo> {
        let mut etcd = self.etcd.iter();
        etcd.find(|member| self.machine_of(member).as_ref() == Some(id))
    }

    /// The list, and what machines are told, as etcd's members are.
    fn in_line(&self, next: &voters::Step) -> Vec<Step> {
        let mut steps = Vec::new();
        for (id, standing) in &self.list {
            let member = self.member(id);
            let wanted = match member {
                Some(member) if member.learner => Standing::Learner,
                Some(_) => Standing::Voter,
                // It may get the CA's key before it is added.
                None if *next == voters::Step::AddLearner(id.clone()) => Standing::Learner,
                None => Standing::Machine,
            };
            if *standing != wanted {
                steps.push(Step::List(id.clone(), wanted));
            }
            let told = self.records.get(id);
            match (member, told) {
                (Some(member), told) => steps.extend(self.tell(id, member, told)),
                (None, Some(told)) if told.part == Part::In => {
                    steps.push(Step::Tell(id.clone(), told.out()));
                }
                (None, _) => {}
            }
        }
        steps
    }

    fn tell(&self, id: &MachineId, member: &MemberInfo, told: Option<&Record>) -> Option<Step> {
        let peers = initial_cluster(&self.etcd, member.id, id.as_str());
        let record = Record::new(member.id.0, self.cluster.clone(), peers);
        let known = match told {
            Some(told) if told.member == record.member && told.part == Part::In => {
                // Once it runs, etcd tells it of the others.
                !member.name.is_empty() || told.peers == record.peers
            }
            _ => false,
        };
        (!known).then(|| Step::Tell(id.clone(), record))
    }
}

#[cfg(test)]
mod tests;
