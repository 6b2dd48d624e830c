//! This machine in its cluster: which store is used, the door to the others, and how it came there.
//!
//! ```text
//! alone ── token ──> founded: CA, members, the door is open ── first join ──> the store moves into etcd (live)
//! alone ── join  ──> the machine's certificate, mode etcd ── the daemon begins anew ──> member
//! ```
//! What decides is on disk below `STATE_DIR/cluster`: `mode.json` says which store holds, `etcd/member.json` whether this machine runs etcd,
//! `home.json` which doors to ask.

mod admit;
mod api;
mod certify;
mod elsewhere;
mod epochs;
mod etcd;
mod home;
mod lead;
mod recover;
mod serve;
mod snapshots;

pub use api::routes;
pub use coracle_api::own_address;
pub use elsewhere::Away;
pub use etcd::ClusterOptions;
pub use lead::led;
pub use serve::Inside;

use admit::ClusterError;
use certify::certify;

use crate::server::DaemonError;
use coracle_cluster::MachineId;
use coracle_cluster::door::{DoorClient, DoorOptions, Target, endpoint};
use coracle_cluster::join::Voter;
use coracle_cluster::member::epoch::Epoch;
use coracle_cluster::member::moving::{Mode, settle};
use coracle_cluster::member::run::Member;
use coracle_cluster::member::snapshots::Snapshots;
use coracle_cluster::members::Members;
use coracle_cluster::pki::{Authority, Directory, Identity, Kind};
use coracle_engine::Engine;
use coracle_fleet::Stores;
use coracle_store::{EmbeddedStore, EtcdOptions, EtcdStore, Store, Switch};
use home::Home;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// The door's port unless another is given.
pub const DOOR_PORT: u16 = 7373;

/// Another machine, as far as it is known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its host name.
    pub hostname: String,
    /// Where its door is.
    pub door: String,
    /// Whether it gives signs.
    pub alive: bool,
}

/// See the module.
pub struct Cluster {
    /// `STATE_DIR/cluster`.
    dir: PathBuf,
    keys: Directory,
    machine: MachineId,
    advertise: SocketAddr,
    engine: Engine,
    options: ClusterOptions,
    embedded: Arc<EmbeddedStore>,
    switch: Arc<Switch>,
    alone: watch::Sender<bool>,
    may_lead: watch::Sender<bool>,
    members: watch::Sender<Members>,
    authority: watch::Sender<Option<Arc<Authority>>>,
    voters: watch::Sender<Vec<Voter>>,
    neighbours: Arc<watch::Sender<BTreeMap<String, Neighbour>>>,
    /// The number of the store, as it was known last.
    pub store_number: Option<u64>,
    /// There once it is in a cluster.
    identity: OnceLock<Arc<Identity>>,
    client: OnceLock<Arc<DoorClient>>,
    /// This machine's etcd.
    member: Mutex<Option<Member>>,
    /// Why it does not run though it should.
    no_etcd: Option<String>,
    /// Copies of the store.
    snapshots: Snapshots,
    /// The store that was made anew, if one was.
    epoch: watch::Sender<Option<Epoch>>,
    /// What the door needs of the rest of the daemon.
    inside: OnceLock<serve::Inside>,
    /// One change of what this machine is at a time.
    change: tokio::sync::Mutex<()>,
    /// Told when the daemon is to begin anew.
    pub again: Arc<Notify>,
    stop: CancellationToken,
}

fn failed(
    what: &'static str,
) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> DaemonError {
    move |source| DaemonError::Cluster { what, source }
}

impl Cluster {
    /// Finds out what this machine is, and opens the store that holds.
    ///
    /// # Errors
    /// When files cannot be read. That the machine's etcd cannot be found is no error: see [`etcd`].
    pub async fn open(
        engine: &Engine,
        embedded: Arc<EmbeddedStore>,
        advertise: SocketAddr,
        options: ClusterOptions,
    ) -> Result<Arc<Self>, DaemonError> {
        let dir = engine.options().state_dir.join("cluster");
        let machine: MachineId = engine
            .machine_id()
            .parse()
            .map_err(|e| failed("reading the machine's id")(Box::new(e)))?;
        let keys = Directory::open(&dir).map_err(|e| failed("opening its keys")(Box::new(e)))?;
        let mode = settle(engine, &dir)
            .await
            .map_err(|e| failed("finding out which store holds")(Box::new(e)))?;
        recover::own_ca(
            &dir,
            &keys,
            &machine,
            &[advertise.ip()],
            &advertise.to_string(),
        )
        .map_err(|e| failed("finishing a recovery")(Box::new(e)))?;
        let mut home = Home::load(&dir).map_err(|e| failed("reading home.json")(Box::new(e)))?;
        let identity = Identity::open(&keys, Kind::Machine, &machine)
            .map_err(|e| failed("reading its certificate")(Box::new(e)))?;
        let snapshots = Snapshots::open(&dir, options.snapshots.keep)
            .map_err(|e| failed("opening its snapshots")(Box::new(e)))?;
        let authority =
            Authority::open(&keys).map_err(|e| failed("reading the CA")(Box::new(e)))?;
        // A join that was cut short leaves a certificate, and the machine alone; asked again it goes on with the same key.
        let identity = identity.filter(|_| mode == Mode::Etcd || authority.is_some());
        let neighbours = Arc::new(watch::Sender::new(home.neighbours()));
        let client = match &identity {
            Some(identity) => Some(client(identity)?),
            None => None,
        };
        let mut epoch = None;
        if let (Mode::Etcd, Some(identity), Some(client)) = (mode, &identity, &client) {
            let early = epochs::Early {
                engine,
                dir: &dir,
                keys: &keys,
                client,
                identity,
            };
            epoch = early.check(&mut home).await?;
        }
        // What was given up is given up with the CA's key.
        let authority =
            Authority::open(&keys).map_err(|e| failed("reading the CA")(Box::new(e)))?;
        let own = match (mode, &client) {
            (Mode::Etcd, Some(client)) => {
                let neighbours = neighbours.clone();
                etcd::own(engine, &options, &dir, client, &home.voters, neighbours).await?
            }
            (Mode::Etcd, None) => {
                return Err(failed("reading its certificate")(
                    "mode.json says that the store is the cluster's, and there is no certificate to ask it with; restore STATE_DIR/cluster"
                        .into(),
                ));
            }
            _ => etcd::Own {
                store: embedded.clone(),
                member: None,
                missing: None,
                here: true,
            },
        };
        let etcd = mode == Mode::Etcd;
        let cluster = Arc::new(Self {
            dir,
            keys,
            machine,
            advertise,
            engine: engine.clone(),
            options,
            embedded,
            switch: Arc::new(Switch::new(own.store)),
            alone: watch::Sender::new(!etcd),
            may_lead: watch::Sender::new(own.here),
            members: watch::Sender::new(home.members()),
            authority: watch::Sender::new(authority.map(Arc::new)),
            voters: watch::Sender::new(home.voters.clone()),
            neighbours,
            store_number: home.store,
            identity: OnceLock::new(),
            client: OnceLock::new(),
            member: Mutex::new(own.member),
            no_etcd: own.missing,
            snapshots,
            epoch: watch::Sender::new(epoch),
            inside: OnceLock::new(),
            change: tokio::sync::Mutex::default(),
            again: Arc::default(),
            stop: CancellationToken::new(),
        });
        if let (Some(identity), Some(client)) = (identity, client) {
            let _ = cluster.identity.set(identity);
            let _ = cluster.client.set(client);
        }
        Ok(cluster)
    }

    /// What the fleet works with.
    pub fn stores(&self) -> Stores {
        Stores {
            local: self.embedded.clone(),
            cluster: self.switch.clone(),
            alone: self.alone.subscribe(),
            may_lead: self.may_lead.subscribe(),
            door: self.door(),
            labels: BTreeMap::new(),
        }
    }

    /// Where others reach this machine; empty where that is not known.
    fn door(&self) -> String {
        match self.advertise.ip().is_unspecified() {
            true => String::new(),
            false => self.advertise.to_string(),
        }
    }

    /// The store that everybody uses.
    pub fn store(&self) -> Arc<dyn Store> {
        self.switch.clone()
    }

    /// Whether this machine is in a cluster, be it the only one there.
    pub fn is_founded(&self) -> bool {
        self.identity.get().is_some()
    }

    fn addresses(&self) -> Vec<IpAddr> {
        vec![self.advertise.ip()]
    }

    fn member(&self) -> std::sync::MutexGuard<'_, Option<Member>> {
        self.member.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The voters' doors.
    fn targets(&self) -> Vec<Target> {
        let voters = self.voters.borrow();
        let others = voters.iter().filter(|v| v.machine != self.machine);
        let target = |v: &Voter| Target {
            machine: v.machine.clone(),
            addresses: vec![v.address.clone()],
        };
        others.map(target).collect()
    }

    /// Tells everything of this machine's cluster to end.
    pub fn leave_off(&self) {
        self.stop.cancel();
    }
}

fn client(identity: &Arc<Identity>) -> Result<Arc<DoorClient>, DaemonError> {
    let made = DoorClient::new(identity.clone(), DoorOptions::default());
    Ok(Arc::new(
        made.map_err(|e| failed("speaking TLS")(Box::new(e)))?,
    ))
}

/// The store behind voters' doors.
fn through_doors(
    client: &Arc<DoorClient>,
    voters: &[Voter],
    neighbours: Arc<watch::Sender<BTreeMap<String, Neighbour>>>,
) -> Result<EtcdStore, DaemonError> {
    let known: BTreeMap<MachineId, String> = voters
        .iter()
        .map(|v| (v.machine.clone(), v.address.clone()))
        .collect();
    let endpoints: Vec<String> = voters.iter().map(|v| endpoint(&v.machine)).collect();
    let find = move |machine: &MachineId| {
        // Where it says it is now, then where it was.
        let now = neighbours
            .borrow()
            .get(machine.as_str())
            .map(|n| n.door.clone());
        let then = known.get(machine).cloned();
        let addresses: Vec<String> = now.into_iter().chain(then).collect();
        (!addresses.is_empty()).then(|| Target {
            machine: machine.clone(),
            addresses,
        })
    };
    let options = EtcdOptions {
        dial: Some(client.dial(find)),
        ..EtcdOptions::new(endpoints)
    };
    EtcdStore::new(options).map_err(DaemonError::Store)
}
