//! The fleet: what it keeps, how it is opened, and what it shows.

use crate::agent::Reports;
use crate::containers::Containers;
use crate::error::{FleetError, Result};
use crate::leader::Leader;
use crate::machine;
use crate::model::{Dropin, Machine};
use crate::order::Units;
use crate::pace;
use crate::supervise::Supervised;
use coracle_engine::Engine;
use coracle_engine::exclusive::Permit;
use coracle_store::{LeaseId, Store};
use coracle_unit::{Unit, UnitName, load};
use std::collections::BTreeMap;
use std::path::PathBuf;
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
    /// None in the simulation, which has containers and no engine.
    engine: Option<Engine>,
    pub containers: Arc<dyn Containers>,
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

/// The machine that a fleet is on.
pub(crate) struct Here {
    pub machine: Machine,
    pub boot_id: String,
    pub containers: Arc<dyn Containers>,
    pub engine: Option<Engine>,
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
    /// The certificate of the CA that workstations know the machine by, if it serves its API to them.
    pub api_ca: String,
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
            api_ca: String::new(),
            labels: BTreeMap::new(),
        }
    }
}

impl Inner {
    pub(crate) fn engine(&self) -> &Engine {
        // Every way in from outside is through `Fleet::join`, which has one.
        self.engine
            .as_ref()
            .expect("what the simulation has needs no engine")
    }

    /// Where services have their addresses from.
    pub(crate) fn services_range(&self) -> ipnet::Ipv4Net {
        let options = self.engine.as_ref().map(|e| e.options().network.services);
        options.unwrap_or(coracle_network::services::DEFAULT_RANGE)
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
        let here = Here {
            machine: Machine {
                door: stores.door.clone(),
                can_vote: stores.can_vote,
                api_ca: stores.api_ca.clone(),
                labels: stores.labels.clone(),
                ..machine::facts(engine.machine_id())
            },
            boot_id: machine::boot_id(),
            containers: Arc::new(engine.clone()),
            engine: Some(engine),
        };
        let (fleet, may_lead) = Self::of(stores, here);
        let lease = fleet.be_there(fleet.0.alone()).await?;
        fleet.announce(lease.clone());
        fleet.begin(lease, may_lead).await?;
        // By now it is known of what is here whether it serves.
        fleet.follow_services();
        Ok(fleet)
    }

    /// Does nothing yet. Answers besides whether it may lead.
    pub(crate) fn of(stores: Stores, here: Here) -> (Self, watch::Receiver<bool>) {
        let fleet = Self(Arc::new(Inner {
            local: stores.local,
            cluster: stores.cluster,
            reports: Arc::new(Reports::new(stores.alone.clone())),
            alone: stores.alone,
            engine: here.engine,
            containers: here.containers,
            machine: here.machine,
            boot_id: here.boot_id,
            opened: pace::now(),
            units: RwLock::default(),
            leader: watch::Sender::new(None),
            signs: watch::Sender::new(0),
            held: Arc::default(),
            renumbering: watch::Sender::new(false),
            removed: watch::Sender::new(false),
            leaving: OnceLock::new(),
        }));
        (fleet, stores.may_lead)
    }

    /// Takes up what the machine has to run, and takes part in the cluster from here on.
    pub(crate) async fn begin(
        &self,
        lease: watch::Receiver<LeaseId>,
        may_lead: watch::Receiver<bool>,
    ) -> Result<()> {
        if self.0.alone() {
            self.containers().permit(Permit::Unlimited);
        }
        self.take_up().await?;
        self.hold();
        if self.0.alone() {
            // Not kept borrowed while it is waited.
            let id = *lease.borrow();
            self.lead_at_once(id).await?;
        }
        self.follow();
        self.fetch_images();
        self.report();
        self.stand_for_election(lease, may_lead);
        Ok(())
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.0.engine()
    }

    pub(crate) fn containers(&self) -> &dyn Containers {
        &*self.0.containers
    }

    /// Where a unit's output is.
    pub(crate) fn log_path(&self, unit: &Supervised) -> PathBuf {
        unit.log_path(self.containers().state_dir())
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
