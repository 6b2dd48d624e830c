//! What a machine is told of its etcd: `/coracle/v1/etcd/<machine>`, which voters alone write.
//!
//! The machine that leads writes there whom etcd has added or taken out, after it is done; the machine itself follows its own entry.

use std::cmp::Ordering;
use std::sync::Arc;

use coracle_store::{
    Compare, CompareResult, CompareTarget, PutRequest, Store, StoreError, TxnOp, TxnRequest,
};
use serde::{Deserialize, Serialize};

use super::config::MemberConfig;
use crate::{MachineId, members};

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

/// Tells a machine. One that was struck off is told nothing: nobody would take that entry away again. Answers whether it was written.
///
/// # Errors
/// The store's.
pub async fn tell(
    store: &dyn Store,
    machine: &MachineId,
    entry: &Record,
) -> Result<bool, StoreError> {
    let key = key(machine);
    let value = serde_json::to_vec(entry).map_err(|source| StoreError::Json {
        key: key.clone(),
        source: Arc::new(source),
    })?;
    let there = CompareTarget::Create(0);
    let member = Compare::new(members::key(machine), CompareResult::NotEqual, there);
    let txn = TxnRequest {
        compare: vec![member],
        success: vec![TxnOp::Put(PutRequest::new(key, value))],
        failure: vec![],
    };
    Ok(store.txn(txn).await?.succeeded)
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

/// How often the store of that etcd cluster was made anew, and by which machine last; by nobody where it is a first one.
pub(super) fn epoch_of(cluster: &str) -> (u64, &str) {
    // A first one's name ends with the machine's id.
    let name = cluster.strip_prefix("coracle-").unwrap_or(cluster);
    let epoch = name
        .split_once('-')
        .and_then(|(machine, number)| Some((number.parse().ok()?, machine)));
    epoch.unwrap_or((0, ""))
}

/// What to do, when that is the entry and `config` how this machine's etcd is run; `begun` if that was let in
/// by the others once ([`MemberConfig::has_begun`]). Pure.
///
/// Without an entry nothing is done: who began the cluster has none at first.
pub fn act(entry: Option<&Record>, config: Option<&MemberConfig>, begun: bool) -> Act {
    let Some(entry) = entry else {
        return Act::Rest;
    };
    if let Some(config) = config {
        match epoch_of(&entry.cluster).cmp(&epoch_of(&config.cluster)) {
            // One of the store that this machine's was made anew of: nothing of it is so any more.
            Ordering::Less => return Act::Rest,
            Ordering::Equal => {}
            // One of a store that was made anew after this machine's: which member its etcd is says nothing there.
            Ordering::Greater if entry.part == Part::In => return Act::Begin,
            Ordering::Greater => return Act::Rest,
        }
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
    use crate::pki::Fingerprint;
    use coracle_store::{EmbeddedStore, Options, StoreExt as _};

    #[tokio::test]
    async fn who_was_struck_off_is_told_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path(), Options::default()).unwrap();
        let id: MachineId = "11111111111111111111111111111111".parse().unwrap();
        let entry = Record::new(7, "c".into(), Vec::new());
        let key_of = Fingerprint([1; 32]);
        members::found(&store, &id, key_of, 1).await.unwrap();
        assert!(tell(&store, &id, &entry).await.unwrap());
        let told = async || store.get_json::<Record>(&key(&id)).await.unwrap();
        assert_eq!(told().await.map(|(told, _)| told), Some(entry.clone()));
        // A leader that looked before, and says late that it is out.
        members::remove(&store, &id).await.unwrap();
        store
            .delete_range(coracle_store::DeleteRangeRequest::key(key(&id)))
            .await
            .unwrap();
        assert!(!tell(&store, &id, &entry.out()).await.unwrap());
        assert_eq!(told().await, None);
    }

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
        // Who did not know which member it was is not that one, and what it has is not ended by who was taken out there.
        let unknown = MemberConfig {
            member: None,
            ..old
        };
        assert_eq!(act(Some(&later), Some(&unknown), true), Act::Begin);
        assert_eq!(act(Some(&later.out()), Some(&unknown), true), Act::Rest);
        // Of two of the same number the higher machine's counts.
        let higher = of(cluster_of(&"2".repeat(32).parse().unwrap(), 2));
        assert_eq!(act(Some(&higher), Some(&unknown), true), Act::Begin);
        let lower = of(cluster_of(&"0".repeat(32).parse().unwrap(), 2));
        assert_eq!(act(Some(&lower), Some(&unknown), true), Act::Rest);
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
