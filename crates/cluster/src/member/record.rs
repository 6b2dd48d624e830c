//! What a machine is told of its etcd: `/coracle/v1/etcd/<machine>`, which voters alone write.
//!
//! The machine that leads writes there whom etcd has added or taken out, after it is done; the machine itself follows its own entry.

use serde::{Deserialize, Serialize};

use super::config::MemberConfig;
use crate::MachineId;

/// Where the entries stand in the store.
pub const PREFIX: &str = "/coracle/v1/etcd/";
/// Where machines stand that are about to go: `/coracle/v1/leaving/<machine>`, under a lease of who takes them out.
pub const LEAVING: &str = "/coracle/v1/leaving/";
const VERSION: u32 = 1;

/// Whether the machine is one of etcd's members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// It is, with a vote or without.
    In,
    /// It was taken out.
    Out,
}

/// A machine's entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version of this value.
    pub version: u32,
    /// etcd's id for the member that it is or was.
    pub member: u64,
    /// Which of the two.
    pub part: Part,
    /// The name of etcd's cluster ([`MemberConfig::cluster`]).
    pub cluster: String,
    /// Every member's name and URL for peers, to begin with.
    pub peers: Vec<(String, String)>,
}

impl Record {
    /// Of a member that is in.
    pub fn new(member: u64, cluster: String, peers: Vec<(String, String)>) -> Self {
        Self {
            version: VERSION,
            member,
            part: Part::In,
            cluster,
            peers,
        }
    }

    /// The same member, taken out.
    pub fn out(&self) -> Self {
        Self {
            part: Part::Out,
            ..self.clone()
        }
    }
}

/// The key of a machine's entry.
pub fn key(machine: &MachineId) -> String {
    format!("{PREFIX}{machine}")
}

/// The key of a machine that is about to go.
pub fn leaving(machine: &MachineId) -> String {
    format!("{LEAVING}{machine}")
}

/// What a machine is to do about its etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Rest,
    /// Get what a voter needs, and begin an etcd, in place of one that it may have.
    Begin,
    /// Begin the one that it has anew, which could not begin yet: the others have changed.
    BeginAnew,
    /// Note which member it is.
    Note,
    /// End its etcd, and discard what that held.
    End,
}

/// The name of the etcd cluster that a machine begins, made anew for the `number`th time ([`super::epoch`]).
pub fn cluster_of(machine: &MachineId, number: u64) -> String {
    format!("coracle-{machine}-{number}")
}

/// How often the store of that cluster was made anew.
fn epoch_of(cluster: &str) -> u64 {
    // A first one's name ends with the machine's id.
    let machine = cluster.strip_prefix("coracle-").unwrap_or(cluster);
    let number = machine.split_once('-').map(|(_, number)| number.parse());
    number.and_then(Result::ok).unwrap_or(0)
}

/// What to do, when that is the entry and `config` how this machine's etcd is run; `begun` if that was let in
/// by the others once ([`MemberConfig::has_begun`]). Pure.
///
/// Without an entry nothing is done: who began the cluster has none at first.
pub fn act(entry: Option<&Record>, config: Option<&MemberConfig>, begun: bool) -> Act {
    let Some(entry) = entry else {
        return Act::Rest;
    };
    // One of the store that this machine's was made anew of: nothing of it is so any more.
    if config.is_some_and(|config| epoch_of(&entry.cluster) < epoch_of(&config.cluster)) {
        return Act::Rest;
    }
    match (entry.part, config) {
        (Part::In, None) => Act::Begin,
        (Part::Out, None) => Act::Rest,
        // Who began the cluster did not know yet.
        (Part::In, Some(config)) if config.member.is_none() => Act::Note,
        (Part::In, Some(config)) if config.member != Some(entry.member) => Act::Begin,
        (Part::In, Some(config)) if !begun && config.initial_cluster != entry.peers => {
            Act::BeginAnew
        }
        (Part::In, Some(_)) => Act::Rest,
        (Part::Out, Some(config)) => match config.member {
            Some(member) if member != entry.member => Act::Rest,
            _ => Act::End,
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_an_etcd_of_before_was_told_counts_no_more() {
        let id: MachineId = "11111111111111111111111111111111".parse().unwrap();
        let first = MemberConfig::first("/s".as_ref(), id.clone(), [192, 0, 2, 1].into(), 1, None);
        let config = MemberConfig {
            cluster: cluster_of(&id, 2),
            ..first.clone()
        };
        let of = |cluster: String| Record::new(1, cluster, Vec::new());
        for old in [of(first.cluster.clone()), of(cluster_of(&id, 1))] {
            assert_eq!(act(Some(&old), Some(&config), true), Act::Rest);
            assert_eq!(act(Some(&old.out()), Some(&config), true), Act::Rest);
        }
        let own = of(config.cluster.clone());
        assert_eq!(act(Some(&own), Some(&config), true), Act::Note);
        let later = of(cluster_of(&id, 3));
        let old = MemberConfig {
            member: Some(7),
            ..config
        };
        assert_eq!(act(Some(&later), Some(&old), true), Act::Begin);
    }

    #[test]
    fn the_table() {
        let id: MachineId = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let peers = vec![("a".to_owned(), "https://192.0.2.1:7374".to_owned())];
        let entry = |member| Record::new(member, "c".into(), peers.clone());
        let config = |member| MemberConfig {
            member,
            initial_cluster: peers.clone(),
            ..MemberConfig::first("/s".as_ref(), id.clone(), [192, 0, 2, 1].into(), 7373, None)
        };
        let other = MemberConfig {
            initial_cluster: Vec::new(),
            ..config(Some(1))
        };
        for (entry, config, begun, wanted) in [
            (None, None, false, Act::Rest),
            (None, Some(config(Some(1))), true, Act::Rest),
            (Some(entry(1)), None, false, Act::Begin),
            (Some(entry(1)), Some(config(Some(1))), true, Act::Rest),
            (Some(entry(1)), Some(config(Some(1))), false, Act::Rest),
            (Some(entry(1)), Some(config(None)), true, Act::Note),
            (Some(entry(2)), Some(config(Some(1))), true, Act::Begin),
            (Some(entry(1)), Some(other.clone()), false, Act::BeginAnew),
            (Some(entry(1)), Some(other.clone()), true, Act::Rest),
            (Some(entry(1).out()), Some(config(Some(1))), true, Act::End),
            (Some(entry(1).out()), Some(config(None)), true, Act::End),
            // It was taken out once, and is another member by now, of which nothing is told yet.
            (Some(entry(1).out()), Some(config(Some(2))), true, Act::Rest),
            (Some(entry(1).out()), None, false, Act::Rest),
        ] {
            let done = act(entry.as_ref(), config.as_ref(), begun);
            assert_eq!(done, wanted, "{entry:?} {config:?} {begun}");
        }
    }
}
