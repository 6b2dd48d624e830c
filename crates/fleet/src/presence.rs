//! The machine is there: its facts, and its key under a lease that is kept as long as a daemon lives.
//!
//! Where units ask for it ([`crate::hold`]), the key is under a shorter lease of its own, and signs come more often; what the machine leads
//! and announces stays under the longer one.
//!
//! The lease outlives the daemon: the next one finds it at the machine's key and keeps it, so that a restart is no absence.

use crate::error::Result;
use crate::fleet::{Fleet, Inner};
use crate::hold::Signs;
use crate::model::{LeaderRecord, Machine, Marks, keys};
use crate::pace;
use coracle_engine::full_error;
use coracle_store::{LeaseId, PutRequest, StoreError, StoreExt as _, machine_lease};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Seconds of the machine's lease: after this time without a sign a machine is taken for lost, and what it leads and announces goes.
pub const LEASE: i64 = 10;
/// How often a sign is given.
pub const BEAT: Duration = Duration::from_secs(3);
/// How soon it is tried again after a failure, so that one does not cost the lease.
const AGAIN: Duration = Duration::from_secs(1);

/// A machine as people see it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its facts, with the labels that hold.
    pub machine: Machine,
    /// Labels of its own configuration.
    pub own: BTreeMap<String, String>,
    /// Whether it gives signs.
    pub alive: bool,
    /// What operators said of it.
    pub marks: Marks,
}

/// What is written of this machine.
#[derive(Default)]
struct Presence {
    /// Its facts.
    told: bool,
    /// The lease of what it leads and announces.
    lease: Option<LeaseId>,
    /// When that was kept.
    kept: Option<Instant>,
    /// A shorter one for its key, where its units ask for that; with its seconds.
    sign: Option<(LeaseId, i64)>,
    /// The one that its key is under, if it is there.
    key: Option<LeaseId>,
}

/// What the machine's key says: since when it is there, and the machine's lease, which may not be the key's own.
fn alive(since: &str, lease: LeaseId) -> String {
    format!("{since} {lease}")
}

/// The machine's lease of such a value; nothing where an older release wrote it, of which it is the key's own.
fn lease_of(value: &[u8]) -> Option<LeaseId> {
    let text = std::str::from_utf8(value).ok()?;
    text.split(' ').nth(1)?.parse().ok()
}

impl Inner {
    /// Says what this machine is, and gives a sign.
    async fn give_sign(&self, presence: &mut Presence, signs: Signs) -> Result<(), StoreError> {
        let told = match presence.told {
            true => Ok(()),
            false => self.tell_facts().await,
        };
        presence.told = told.is_ok();
        match &told {
            // A full disk is no reason to let a lease go that is there.
            Ok(()) | Err(StoreError::NoSpace { .. }) => {}
            Err(_) => return told,
        }
        // What is watched for most closely comes first.
        if let (Some((id, _)), Some(_)) = (presence.sign, presence.lease) {
            match self.cluster.lease_keep_alive(id).await {
                Ok(_) => {}
                Err(StoreError::LeaseNotFound(_)) => (presence.sign, presence.key) = (None, None),
                Err(error) => return Err(error),
            }
        }
        let due = presence
            .kept
            .is_none_or(|at| pace::now().duration_since(at) + AGAIN >= BEAT);
        let kept = match presence.lease {
            Some(id) if due => self.cluster.lease_keep_alive(id).await.map(|_| id),
            Some(id) => Ok(id),
            None => self.appear(presence).await,
        };
        if let Err(StoreError::LeaseNotFound(_)) = kept {
            *presence = Presence::default();
        }
        presence.lease = Some(kept?);
        if due {
            presence.kept = Some(pace::now());
        }
        self.sign_by(presence, signs).await?;
        told
    }

    /// Has the machine's key under a lease of the length that is asked for.
    async fn sign_by(&self, presence: &mut Presence, signs: Signs) -> Result<(), StoreError> {
        let Some(lease) = presence.lease else {
            return Ok(());
        };
        let (machine, store) = (&self.machine, &self.cluster);
        let former = presence.sign;
        if former.map_or(LEASE, |(_, seconds)| seconds) != signs.lease {
            presence.sign = match signs.lease == LEASE {
                true => None,
                false => {
                    let id = machine_lease(&machine.id);
                    let granted = store.lease_grant(signs.lease, id).await?;
                    Some((granted.id, signs.lease))
                }
            };
        }
        let under = presence.sign.map_or(lease, |(id, _)| id);
        if presence.key != Some(under) {
            let value = alive(&machine.since.to_rfc3339(), lease);
            let put = PutRequest::new(keys::alive(&machine.id), value).with_lease(under);
            store.put(put).await?;
            presence.key = Some(under);
        }
        if let Some((id, _)) = former.filter(|former| Some(*former) != presence.sign) {
            // Nothing is under it any more; it would go by itself, too.
            let _ = store.lease_revoke(id).await;
        }
        Ok(())
    }

    async fn tell_facts(&self) -> Result<(), StoreError> {
        let key = keys::machine(&self.machine.id);
        self.cluster.put_json(&key, &self.machine).await.map(drop)
    }

    /// Says that this machine is there as long as the lease that is returned is kept.
    async fn appear(&self, presence: &mut Presence) -> Result<LeaseId, StoreError> {
        let (machine, store) = (&self.machine, &self.cluster);
        let key = keys::alive(&machine.id);
        if let Some(former) = store.get(key.clone()).await?.filter(|kv| kv.lease != 0) {
            let lease = lease_of(&former.value).unwrap_or(former.lease);
            match store.lease_keep_alive(lease).await {
                Ok(_) => {
                    if lease != former.lease {
                        let kept = store.lease_keep_alive(former.lease).await?;
                        presence.sign = Some((former.lease, kept.ttl));
                    }
                    presence.key = Some(former.lease);
                    return Ok(lease);
                }
                Err(StoreError::LeaseNotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let lease = store
            .lease_grant(LEASE, machine_lease(&machine.id))
            .await?
            .id;
        let since = alive(&machine.since.to_rfc3339(), lease);
        store
            .put(PutRequest::new(key, since).with_lease(lease))
            .await?;
        presence.key = Some(lease);
        Ok(lease)
    }
}

/// gRPC's code for who is not known at the door.
const UNAUTHENTICATED: i32 = 16;

impl Inner {
    /// What a sign's answer says of whether this machine is still one of the cluster's. No answer says nothing.
    fn note_removal(&self, error: Option<&StoreError>) {
        let removed = match error {
            None => false,
            Some(StoreError::Refused { code, .. }) if *code == UNAUTHENTICATED => true,
            Some(_) => return,
        };
        if self
            .removed
            .send_if_modified(|known| std::mem::replace(known, removed) != removed)
            && removed
        {
            tracing::error!(
                "this machine was removed from the cluster, which runs its units elsewhere; what runs here runs on. `coracle leave` makes it a machine of \
                 its own, which may join again"
            );
        }
    }
}

impl Fleet {
    /// Whether the cluster does not know this machine any more.
    pub fn is_removed(&self) -> bool {
        *self.0.removed.borrow()
    }

    /// Appears, and gives signs for as long as there is a fleet. A full disk does not keep the daemon from looking after what
    /// runs, nor does a cluster's store that is away: it is tried again.
    ///
    /// Answers the lease, 0 while there is none.
    pub(crate) async fn be_there(&self, alone: bool) -> Result<watch::Receiver<LeaseId>> {
        let mut presence = Presence::default();
        if alone {
            match self.0.give_sign(&mut presence, Signs::USUAL).await {
                Ok(()) => {}
                Err(error @ StoreError::NoSpace { .. }) => tracing::error!(
                    error = full_error(&error),
                    "the machine could not be written down"
                ),
                Err(error) => return Err(error.into()),
            }
        }
        self.0.signs.send_replace(presence.key.unwrap_or(0));
        let known = watch::Sender::new(presence.lease.unwrap_or(0));
        let follow = known.subscribe();
        let weak = Arc::downgrade(&self.0);
        pace::spawn(async move {
            let (mut rest, mut said) = (if alone { BEAT } else { Duration::ZERO }, false);
            loop {
                pace::sleep(rest).await;
                let Some(inner) = weak.upgrade() else { return };
                // Nobody watches a machine that is alone.
                let signs = match inner.alone() {
                    true => Signs::USUAL,
                    false => inner.signs_wanted(),
                };
                rest = AGAIN.min(signs.beat());
                let given = inner.give_sign(&mut presence, signs).await;
                inner.note_removal(given.as_ref().err());
                match given {
                    Ok(()) => (rest, said) = (signs.beat(), false),
                    // It ran out while the machine slept or was cut off.
                    Err(StoreError::LeaseNotFound(_)) => rest = Duration::ZERO,
                    Err(error) if !std::mem::replace(&mut said, true) => tracing::error!(
                        error = full_error(&error),
                        "the machine's lease could not be kept; it is tried again"
                    ),
                    Err(_) => {}
                }
                let now = presence.lease.unwrap_or(0);
                known.send_if_modified(|known| std::mem::replace(known, now) != now);
                inner.signs.send_replace(presence.key.unwrap_or(0));
            }
        });
        Ok(follow)
    }

    /// Whether this machine leads.
    pub fn leads(&self) -> bool {
        self.0.leader.borrow().is_some()
    }

    /// The machine that leads, by id.
    ///
    /// # Errors
    /// [`crate::FleetError::Store`].
    pub async fn leader(&self) -> Result<Option<String>> {
        let found = self
            .0
            .cluster
            .get_json::<LeaderRecord>(keys::LEADER)
            .await?;
        Ok(found.map(|(leader, _)| leader.machine))
    }

    /// Every machine that is known, by id.
    ///
    /// # Errors
    /// [`crate::FleetError::Store`].
    pub async fn machines(&self) -> Result<Vec<Seen>> {
        let store = &self.0.cluster;
        let of = |kvs: Vec<coracle_store::KeyValue>, prefix: &'static str| {
            kvs.into_iter().filter_map(move |kv| {
                let key = String::from_utf8(kv.key.to_vec()).ok()?;
                Some((key.strip_prefix(prefix)?.to_owned(), kv.value))
            })
        };
        let alive: BTreeMap<_, _> = of(store.list(keys::ALIVE).await?.kvs, keys::ALIVE).collect();
        let marks: BTreeMap<_, _> = of(store.list(keys::MARKS).await?.kvs, keys::MARKS).collect();
        let machines = of(store.list(keys::MACHINES).await?.kvs, keys::MACHINES);
        let seen = machines.filter_map(|(id, value)| {
            let machine: Machine = serde_json::from_slice(&value).ok()?;
            let marks = marks.get(&id);
            let marks = marks.and_then(|m| serde_json::from_slice::<Marks>(m).ok());
            let alive = alive.contains_key(&id);
            Some(Seen::new(machine, alive, marks.unwrap_or_default()))
        });
        Ok(seen.collect())
    }
}

impl Seen {
    /// With the labels that hold: an operator's win, and an empty one takes away.
    pub fn new(machine: Machine, alive: bool, marks: Marks) -> Self {
        let mut seen = Self {
            own: machine.labels.clone(),
            machine,
            alive,
            marks: Marks::default(),
        };
        seen.mark(marks);
        seen
    }

    /// An operator says this now.
    pub fn mark(&mut self, marks: Marks) {
        let mut labels = self.own.clone();
        labels.extend(marks.labels.clone());
        labels.retain(|_, value| !value.is_empty());
        self.machine.labels = labels;
        self.marks = marks;
    }
}
