//! The fleet: what it keeps, how it is opened, and what it shows.

use crate::agent::Reports;
use crate::error::{FleetError, Result};
use crate::leader::Leader;
use crate::machine;
use crate::model::{Dropin, Machine};
use crate::order::Units;
use crate::supervise::Supervised;
use coracle_engine::Engine;
use coracle_engine::exclusive::Permit;
use coracle_store::{LeaseId, Store};
use coracle_unit::{Unit, UnitName, load};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// The units of one machine, and of all while it leads. Cheap to clone; all clones are one fleet.
#[derive(Clone)]
pub struct Fleet(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    /// This machine's own: what it was asked last, and what it has done.
    pub local: Arc<dyn Store>,
    /// Everybody's. Of a machine that is alone it is the own one.
    pub cluster: Arc<dyn Store>,
    alone: watch::Receiver<bool>,
    engine: Engine,
    pub machine: Machine,
    boot_id: String,
    pub opened: Instant,
    /// What this machine has.
    pub units: RwLock<BTreeMap<String, Arc<Supervised>>>,
    /// Told of what happens to them.
    pub reports: Arc<Reports>,
    /// There while this machine leads.
    pub leader: watch::Sender<Option<Arc<Leader>>>,
    /// The lease of this machine's key, 0 while it has none.
    pub signs: watch::Sender<LeaseId>,
    /// Told when something exclusive is started.
    pub held: Arc<Notify>,
    /// Whether the default network may be about to get another subnet.
    pub renumbering: watch::Sender<bool>,
    /// Whether the cluster has said that it does not know this machine any more.
    pub removed: watch::Sender<bool>,
    /// Set when everything goes down: the longest wait for one that is to end, if it is not as its unit says.
    pub leaving: OnceLock<Option<Duration>>,
}

/// A unit with its text.
#[derive(Debug, Clone)]
pub struct UnitText {
    /// The file.
    pub text: String,
    /// Drop-ins.
    pub dropins: Vec<Dropin>,
}

/// The stores of a machine, and how it takes part in a cluster.
pub struct Stores {
    /// This machine's own.
    pub local: Arc<dyn Store>,
    /// Everybody's: of a machine that is alone the same, seen through what may switch it over later.
    pub cluster: Arc<dyn Store>,
    /// Whether the two are one still. Once false it stays so.
    pub alone: watch::Receiver<bool>,
    /// Whether this machine may lead.
    pub may_lead: watch::Receiver<bool>,
    /// Where the machine's door is, as address and port.
    pub door: String,
    /// Whether the machine can run etcd.
    pub can_vote: bool,
    /// Labels of the machine's configuration.
    pub labels: BTreeMap<String, String>,
}

impl Stores {
    /// Of a machine that is and stays alone.
    pub fn alone(store: Arc<dyn Store>) -> Self {
        // Receivers go on saying it when their senders are gone.
        Self {
            local: store.clone(),
            cluster: store,
            alone: watch::channel(true).1,
            may_lead: watch::channel(true).1,
            door: String::new(),
            can_vote: false,
            labels: BTreeMap::new(),
        }
    }
}

impl Inner {
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Whether the machine's own store is everybody's.
    pub(crate) fn alone(&self) -> bool {
        *self.alone.borrow()
    }

    /// As [`Self::alone`], to be waited on.
    pub(crate) fn follow_alone(&self) -> watch::Receiver<bool> {
        self.alone.clone()
    }
}

impl Fleet {
    /// Of a machine that is and stays alone.
    ///
    /// # Errors
    /// As [`Self::join`].
    pub async fn open(store: Arc<dyn Store>, engine: Engine) -> Result<Self> {
        Self::join(Stores::alone(store), engine).await
    }

    /// Registers this machine, and brings every unit that it has to where it was asked to be. In a cluster its store need not be
    /// there yet.
    ///
    /// # Errors
    /// When the machine's own store cannot be read.
    pub async fn join(stores: Stores, engine: Engine) -> Result<Self> {
        let machine = Machine {
            door: stores.door,
            can_vote: stores.can_vote,
            labels: stores.labels,
            ..machine::facts(engine.machine_id())
        };
        let alone = *stores.alone.borrow();
        let fleet = Self(Arc::new(Inner {
            local: stores.local,
            cluster: stores.cluster,
            reports: Arc::new(Reports::new(stores.alone.clone())),
            alone: stores.alone,
            engine,
            machine,
            boot_id: machine::boot_id(),
            opened: Instant::now(),
            units: RwLock::default(),
            leader: watch::Sender::new(None),
            signs: watch::Sender::new(0),
            held: Arc::default(),
            renumbering: watch::Sender::new(false),
            removed: watch::Sender::new(false),
            leaving: OnceLock::new(),
        }));
        let lease = fleet.be_there(alone).await?;
        fleet.announce(lease.clone());
        if alone {
            fleet.engine().permit(Permit::Unlimited);
        }
        fleet.take_up().await?;
        fleet.hold();
        if alone {
            // Not kept borrowed while it is waited.
            let id = *lease.borrow();
            fleet.lead_at_once(id).await?;
        }
        fleet.follow();
        fleet.report();
        fleet.stand_for_election(lease, stores.may_lead);
        Ok(fleet)
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(crate) fn boot_id(&self) -> &str {
        &self.0.boot_id
    }

    /// This machine.
    pub fn machine(&self) -> &Machine {
        &self.0.machine
    }

    pub(crate) fn all(&self) -> Vec<Arc<Supervised>> {
        self.0
            .units
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    pub(crate) fn supervised(&self, name: &str) -> Option<Arc<Supervised>> {
        self.0
            .units
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    /// Every unit's file, by name.
    pub(crate) fn units(&self) -> Units {
        self.all()
            .iter()
            .map(|s| s.unit())
            .map(|unit| (unit.name.to_string(), unit))
            .collect()
    }

    pub(crate) fn parse(&self, name: &str, text: &str, dropins: &[Dropin]) -> Result<Unit> {
        let name = UnitName::new(name)?;
        let dropins: Vec<(String, String)> = dropins
            .iter()
            .map(|d| (d.file.clone(), d.text.clone()))
            .collect();
        load(&name, text, &dropins, &machine::specifiers(&self.0.machine))
            .map_err(FleetError::Refused)
    }
}
