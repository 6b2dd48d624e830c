//! Who belongs to the cluster: the list that the door lets in by.
//!
//! It stands in the store at `/coracle/v1/members/<machine>`, which voters alone write. What a machine says of itself
//! (`/coracle/v1/machines/<machine>`) is no proof: it could write that after it was removed.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_store::{
    Compare, DeleteRangeRequest, KeyValue, PutRequest, Store, StoreError, StoreExt as _, TxnOp,
    TxnRequest,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::MachineId;
use crate::pki::Fingerprint;

/// Where members stand in the store.
pub const PREFIX: &str = "/coracle/v1/members/";
/// The version of a member's value.
const VERSION: u32 = 1;

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Runs units and writes what is its own.
    Machine,
    /// As a machine, and is given what a voter needs: it has a copy of the store, and no vote.
    Learner,
    /// Has the store and the CA's key, may lead, and writes everything.
    Voter,
}

/// A member as the door knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What it may do.
    pub standing: Standing,
    /// The hash of its key, which its certificates must be for; any key will do where that is not known.
    pub key: Option<Fingerprint>,
}

/// Who may come in. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members(Arc<BTreeMap<MachineId, Listed>>);

impl Members {
    /// A machine's standing; None for who is no member.
    pub fn standing(&self, machine: &MachineId) -> Option<Standing> {
        self.0.get(machine).map(|listed| listed.standing)
    }

    /// The standing of who shows a certificate for that machine with that key; None for who is no member, and for the key that a
    /// machine had before it was removed and came again.
    pub fn standing_with(&self, machine: &MachineId, key: &Fingerprint) -> Option<Standing> {
        let listed = self.0.get(machine)?;
        let fits = listed.key.is_none_or(|known| known.is(key));
        fits.then_some(listed.standing)
    }

    /// All of them, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&MachineId, Standing)> {
        self.0.iter().map(|(id, listed)| (id, listed.standing))
    }

    /// All of them with their keys, by id.
    pub fn listed(&self) -> impl Iterator<Item = (&MachineId, Listed)> {
        self.0.iter().map(|(id, listed)| (id, *listed))
    }
}

impl Standing {
    /// As a number, 0 being no standing at all.
    pub(crate) fn rank(standing: Option<Self>) -> u8 {
        match standing {
            None => 0,
            Some(Self::Machine) => 1,
            Some(Self::Learner) => 2,
            Some(Self::Voter) => 3,
        }
    }
}

/// Members whose keys are not known.
impl FromIterator<(MachineId, Standing)> for Members {
    fn from_iter<I: IntoIterator<Item = (MachineId, Standing)>>(all: I) -> Self {
        let any = |standing| Listed {
            standing,
            key: None,
        };
        let all = all.into_iter();
        all.map(|(id, standing)| (id, any(standing))).collect()
    }
}

impl FromIterator<(MachineId, Listed)> for Members {
    fn from_iter<I: IntoIterator<Item = (MachineId, Listed)>>(all: I) -> Self {
        Self(Arc::new(all.into_iter().collect()))
    }
}

/// A member as it stands in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The version of this value.
    pub version: u32,
    /// The hash of the key that its certificates are for.
    pub key: Fingerprint,
    /// It is a voter.
    #[serde(default)]
    pub voter: bool,
    /// It has a copy of the store, and no vote.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub learner: bool,
    /// When it joined, in seconds since 1970.
    pub joined: u64,
    /// The token that it came with, so that it may ask again until it has its certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Redeemed>,
}

/// A token that a member came with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redeemed {
    /// The token's id.
    pub id: String,
    /// The hash of its secret.
    pub secret: Fingerprint,
    /// When it runs out, in seconds since 1970.
    pub expires: u64,
}

impl Member {
    /// With that key.
    pub fn new(key: Fingerprint, now: u64) -> Self {
        Self {
            version: VERSION,
            key,
            voter: false,
            learner: false,
            joined: now,
            token: None,
        }
    }

    /// What it may do.
    pub fn standing(&self) -> Standing {
        match (self.voter, self.learner) {
            (true, _) => Standing::Voter,
            (false, true) => Standing::Learner,
            (false, false) => Standing::Machine,
        }
    }
}

/// The key of a member.
pub fn key(machine: &MachineId) -> String {
    format!("{PREFIX}{machine}")
}

fn machine_of(kv: &KeyValue) -> Option<MachineId> {
    let id = kv.key.strip_prefix(PREFIX.as_bytes())?;
    std::str::from_utf8(id).ok()?.parse().ok()
}

fn listed(kv: &KeyValue) -> Listed {
    // What cannot be read is a member that may do little: one that is shut out could not be removed by its own commands.
    match serde_json::from_slice::<Member>(&kv.value) {
        Ok(member) => Listed {
            standing: member.standing(),
            key: Some(member.key),
        },
        Err(error) => {
            let key = String::from_utf8_lossy(&kv.key);
            tracing::warn!(%key, %error, "a member that cannot be read counts as no voter");
            Listed {
                standing: Standing::Machine,
                key: None,
            }
        }
    }
}

/// A member's value, and the revision that wrote it.
///
/// # Errors
/// The store's.
pub async fn get(
    store: &dyn Store,
    machine: &MachineId,
) -> Result<Option<(Member, i64)>, StoreError> {
    store.get_json(&key(machine)).await
}

/// All members.
///
/// # Errors
/// The store's.
pub async fn list(store: &dyn Store) -> Result<Members, StoreError> {
    let found = store.list(PREFIX).await?;
    Ok(members(&found.kvs))
}

fn members(kvs: &[KeyValue]) -> Members {
    let member = |kv: &KeyValue| Some((machine_of(kv)?, listed(kv)));
    kvs.iter().filter_map(member).collect()
}

/// Enters the first machine, a voter, into a list that is empty, or has it already, with whatever key.
///
/// # Errors
/// The store's.
pub async fn found(
    store: &dyn Store,
    machine: &MachineId,
    founder: Fingerprint,
    now: u64,
) -> Result<(), StoreError> {
    loop {
        let (known, revision) = match get(store, machine).await? {
            Some((known, _)) if known.voter && known.key.is(&founder) => return Ok(()),
            Some((known, revision)) => (known.joined, revision),
            None => (now, 0),
        };
        let mut member = Member::new(founder, known);
        member.voter = true;
        let put = PutRequest::new(key(machine), value(machine, &member)?);
        let written = match revision {
            0 => store.create(put).await?.0,
            _ => store.replace(put, revision).await?.0,
        };
        if written {
            return Ok(());
        }
    }
}

/// Says what a member may do; answers whether there is such a member.
///
/// # Errors
/// The store's.
pub async fn set_standing(
    store: &dyn Store,
    machine: &MachineId,
    standing: Standing,
) -> Result<bool, StoreError> {
    loop {
        let Some((mut member, revision)) = get(store, machine).await? else {
            return Ok(false);
        };
        if member.standing() == standing {
            return Ok(true);
        }
        member.voter = standing == Standing::Voter;
        member.learner = standing == Standing::Learner;
        let put = PutRequest::new(key(machine), value(machine, &member)?);
        if store.replace(put, revision).await?.0 {
            return Ok(true);
        }
    }
}

/// Strikes a machine off; with the next word of the store each door cuts it off. Answers whether it was a member.
///
/// # Errors
/// The store's.
pub async fn remove(store: &dyn Store, machine: &MachineId) -> Result<bool, StoreError> {
    let request = DeleteRangeRequest::key(key(machine));
    Ok(store.delete_range(request).await?.deleted > 0)
}

/// A member's value as bytes.
pub(crate) fn value(machine: &MachineId, member: &Member) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(member).map_err(|source| StoreError::Json {
        key: key(machine),
        source: Arc::new(source),
    })
}

/// A transaction that writes a member who is not there yet (`seen` 0) or was last changed at `seen`, with what goes with it.
pub(crate) fn write(
    machine: &MachineId,
    member: &Member,
    seen: i64,
    also: (Compare, TxnOp),
) -> Result<TxnRequest, StoreError> {
    let put = PutRequest::new(key(machine), value(machine, member)?);
    Ok(TxnRequest {
        compare: vec![Compare::unchanged(key(machine), seen), also.0],
        success: vec![TxnOp::Put(put), also.1],
        failure: vec![],
    })
}

/// Keeps `known` as the store has it, until `stop` is cancelled. As long as the store is away the list stays as it was, so that
/// machines go on reaching each other; what `known` holds in the beginning counts until the store has answered.
pub async fn follow(store: Arc<dyn Store>, known: watch::Sender<Members>, stop: CancellationToken) {
    let read = |kv: &KeyValue| Some((machine_of(kv)?, Some(listed(kv))));
    let tell = |now: &BTreeMap<MachineId, Listed>| {
        known.send_if_modified(|known| {
            let changed = *known.0 != *now;
            if changed {
                *known = Members(Arc::new(now.clone()));
            }
            changed
        });
    };
    crate::follow::follow(&*store, PREFIX, "members", read, tell, stop).await;
}
