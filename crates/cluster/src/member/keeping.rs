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
//! ```
//! Nothing is remembered from one look to the next, so whoever leads goes on wherever the one before was killed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::api::{MemberId, MemberInfo, initial_cluster};
use super::record::{Part, Record};
use super::voters::{self, Decision, Machine, Role};
use crate::MachineId;
use crate::members::Standing;

/// What is known of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where its etcd's peers reach it, or would.
    pub peer_url: Option<String>,
    /// For how long it, or its etcd, has not been seen; None while it is.
    pub dead: Option<Duration>,
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
    /// The machine that a member is; one that never ran is known by its URL.
    pub fn machine_of(&self, member: &MemberInfo) -> Option<MachineId> {
        if !member.name.is_empty() {
            return member.name.parse().ok();
        }
        let url = member.peer_urls.first()?;
        let mut known = self.known.iter();
        let found = known.find(|(_, known)| known.peer_url.as_ref() == Some(url));
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
            let ready = self.known.get(&id).is_some_and(|known| known.in_step);
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
