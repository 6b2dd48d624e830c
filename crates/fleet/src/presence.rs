//! The machine is there: its facts, and its key under a lease that is kept as long as a daemon lives.
//!
//! The lease outlives the daemon: the next one finds it at the machine's key and keeps it, so that a restart is no absence.

use crate::error::Result;
use crate::fleet::{Fleet, Inner};
use crate::model::{LeaderRecord, Machine, Marks, keys};
use crate::pace;
use coracle_engine::full_error;
use coracle_store::{LeaseId, PutRequest, StoreError, StoreExt as _, machine_lease};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Seconds of the machine's lease: after this time without a sign a machine is taken for lost.
pub const LEASE: i64 = 10;
/// How often a sign is given.
const BEAT: Duration = Duration::from_secs(3);
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
    lease: Option<LeaseId>,
}

impl Inner {
    /// Says what this machine is, and gives a sign.
    async fn give_sign(&self, presence: &mut Presence) -> Result<(), StoreError> {
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
        let kept = match presence.lease {
            Some(id) => self.cluster.lease_keep_alive(id).await.map(|_| id),
            None => self.appear().await,
        };
        if let Err(StoreError::LeaseNotFound(_)) = kept {
            *presence = Presence::default();
        }
        presence.lease = Some(kept?);
        told
    }

    async fn tell_facts(&self) -> Result<(), StoreError> {
        let key = keys::machine(&self.machine.id);
        self.cluster.put_json(&key, &self.machine).await.map(drop)
    }

    /// Says that this machine is there as long as the lease that is returned is kept.
    async fn appear(&self) -> Result<LeaseId, StoreError> {
        let (machine, store) = (&self.machine, &self.cluster);
        let alive = keys::alive(&machine.id);
        let former = store.get(alive.clone()).await?.map(|kv| kv.lease);
        if let Some(lease) = former.filter(|lease| *lease != 0) {
            match store.lease_keep_alive(lease).await {
                Ok(_) => return Ok(lease),
                Err(StoreError::LeaseNotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let lease = store
            .lease_grant(LEASE, machine_lease(&machine.id))
            .await?
            .id;
        let since = machine.since.to_rfc3339();
        store
            .put(PutRequest::new(alive, since).with_lease(lease))
            .await?;
        Ok(lease)
    }
}

impl Fleet {
    /// Appears, and gives signs for as long as there is a fleet. A full disk does not keep the daemon from looking after what
    /// runs, nor does a cluster's store that is away: it is tried again.
    ///
    /// Answers the lease, 0 while there is none.
    pub(crate) async fn be_there(&self, alone: bool) -> Result<watch::Receiver<LeaseId>> {
        let mut presence = Presence::default();
        if alone {
            match self.0.give_sign(&mut presence).await {
                Ok(()) => {}
                Err(error @ StoreError::NoSpace { .. }) => tracing::error!(
                    error = full_error(&error),
                    "the machine could not be written down"
                ),
                Err(error) => return Err(error.into()),
            }
        }
        let known = watch::Sender::new(presence.lease.unwrap_or(0));
        let follow = known.subscribe();
        let weak = Arc::downgrade(&self.0);
        pace::spawn(async move {
            let (mut rest, mut said) = (if alone { BEAT } else { Duration::ZERO }, false);
            loop {
                pace::sleep(rest).await;
                let Some(inner) = weak.upgrade() else { return };
                rest = AGAIN;
                match inner.give_sign(&mut presence).await {
                    Ok(()) => (rest, said) = (BEAT, false),
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
