//! This machine in its cluster: which store is used, the door to the others, and how it came there.
//!
//! ```text
//! alone ── token ──> founded: CA, members, the door is open ── first join ──> the store moves into etcd (live)
//! alone ── join  ──> the machine's certificate, mode etcd ── the daemon begins anew ──> member
//! ```
//! What of etcd a machine has changes while it runs: the machine that leads decides ([`voters`]), the machine itself follows ([`own`]), and
//! everybody asks who has the store now ([`aim`]).
//!
//! What decides is on disk below `STATE_DIR/cluster`: `mode.json` says which store holds, `etcd/member.json` whether this machine runs etcd,
//! `home.json` which doors to ask.

mod address;
mod admit;
mod agreed;
mod aim;
mod api;
mod certify;
mod clients;
mod dying;
mod elsewhere;
mod epochs;
mod error;
mod etcd;
mod home;
mod lead;
mod leave;
mod moved;
mod own;
mod places;
mod recover;
mod seek;
mod serve;
mod snapshots;
mod status;
mod strike;
mod tokens;
mod voters;

pub use api::routes;
pub use coracle_api::own_address;
pub use elsewhere::Away;
pub use lead::led;
pub use places::Places;
pub use serve::Inside;

use error::ClusterError;

use crate::server::DaemonError;
use coracle_cluster::MachineId;
use coracle_cluster::door::{DoorClient, DoorOptions, Target};
use coracle_cluster::join::Voter;
use coracle_cluster::member::config::client_url_beside;
use coracle_cluster::member::epoch::{Epoch, Recovering};
use coracle_cluster::member::find::Program;
use coracle_cluster::member::moving::{self, Mode, settle};
use coracle_cluster::member::run::Member;
use coracle_cluster::member::snapshots::{Schedule, Snapshots};
use coracle_cluster::members::Members;
use coracle_cluster::pki::{Authority, Directory, Fingerprint, Identity, Kind};
use coracle_engine::Engine;
use coracle_fleet::Stores;
use coracle_network::overlay::Ipv4Net;
use coracle_store::{EmbeddedStore, EtcdOptions, EtcdStore, Store, Switch};
use home::Home;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
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
    /// Whether it can run etcd.
    pub can_vote: bool,
}

/// What the daemon is told of its cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where others reach this machine.
    pub advertise: SocketAddr,
    /// How long a voter is dead before another machine takes its place.
    pub replace_after: Duration,
    /// When copies of the store are taken.
    pub snapshots: Schedule,
    /// Which etcd is run.
    pub program: Program,
    /// Where machines' subnets are to be taken from, if that is said.
    pub overlay_pool: Option<Ipv4Net>,
    /// Whether this machine may become one of those that have the store.
    pub votes: bool,
    /// Clients of the API that this machine's configuration names: the hashes of their keys.
    pub pinned: Vec<(Fingerprint, String)>,
}

/// See the module.
pub struct Cluster {
    /// `STATE_DIR/cluster`.
    dir: PathBuf,
    keys: Directory,
    machine: MachineId,
    advertise: SocketAddr,
    /// Where machines' subnets are to be taken from, as this machine's configuration says.
    overlay_pool: Option<Ipv4Net>,
    engine: Engine,
    options: Options,
    embedded: Arc<EmbeddedStore>,
    switch: Arc<Switch>,
    /// The store in etcd, wherever it can be asked.
    etcd: Arc<EtcdStore>,
    /// The same at this machine's own etcd alone, for those who come to the door.
    at_door: Arc<EtcdStore>,
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
    /// The store is being made anew, and its list does not say yet who has it.
    recovering: AtomicBool,
    /// The store that was made anew, if one was.
    epoch: watch::Sender<Option<Epoch>>,
    /// Whether there is one.
    keeps: watch::Sender<bool>,
    /// One change of this machine's etcd at a time.
    part: tokio::sync::Mutex<()>,
    /// Ends the renewal of its certificate.
    peer_stop: Mutex<CancellationToken>,
    /// Its program can be run.
    can_vote: bool,
    /// This machine is about to leave.
    leaving: watch::Sender<bool>,
    /// Its etcd does not answer.
    ailing: watch::Sender<bool>,
    /// Told when voters are to be looked at.
    look: Notify,
    /// What was decided of them last, while this machine leads.
    decided: Mutex<String>,
    /// Voters that others name, the last first, while none of those that are known answers.
    heard: Arc<Mutex<Vec<Voter>>>,
    /// What runs once the store is in etcd is started.
    followed: AtomicBool,
    /// What the door needs of the rest of the daemon.
    inside: OnceLock<serve::Inside>,
    /// What `home.json` says; none once this machine has left.
    written: Mutex<Option<Home>>,
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
        options: Options,
    ) -> Result<Arc<Self>, DaemonError> {
        let (advertise, overlay_pool) = (options.advertise, options.overlay_pool);
        let dir = engine.options().state_dir.join("cluster");
        let machine: MachineId = engine
            .machine_id()
            .parse()
            .map_err(|e| failed("reading the machine's id")(Box::new(e)))?;
        let keys = Directory::open(&dir).map_err(|e| failed("opening its keys")(Box::new(e)))?;
        settle(engine, &dir)
            .await
            .map_err(|e| failed("finding out which store holds")(Box::new(e)))?;
        let own = recover::Own {
            dir: &dir,
            keys: &keys,
            machine: &machine,
            options: &options,
        };
        own.make_whole()
            .map_err(|e| failed("finishing a recovery")(Box::new(e)))?;
        let mode =
            moving::mode(&dir).map_err(|e| failed("finding out which store holds")(Box::new(e)))?;
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
        let local = client_url_beside(advertise);
        let etcd_at = |lasting| {
            let options = EtcdOptions {
                lasting,
                ..EtcdOptions::new([local.clone()])
            };
            EtcdStore::new(options).map(Arc::new)
        };
        let (in_etcd, at_door) = (etcd_at(true)?, etcd_at(false)?);
        let (own, has_etcd);
        let store: Arc<dyn Store> = match (mode, &client) {
            (Mode::Etcd, Some(_)) => {
                moved::follow_address(engine, &dir, &keys, &machine, advertise).await;
                // An image that is not here is pulled when the daemon is up.
                let found = options.find(engine, &dir, false).await;
                has_etcd = found.is_ok();
                own = etcd::own(engine, &options, &dir, found).await?;
                in_etcd.clone()
            }
            (Mode::Etcd, None) => {
                return Err(failed("reading its certificate")(
                    "mode.json says that the store is the cluster's, and there is no certificate to ask it with; restore STATE_DIR/cluster"
                        .into(),
                ));
            }
            _ => {
                has_etcd = options.seems_here(engine);
                own = etcd::Own::default();
                embedded.clone()
            }
        };
        let can_vote = options.votes && has_etcd;
        let etcd = mode == Mode::Etcd;
        let recovering = Recovering::load(&dir)
            .map_err(|e| failed("reading recovering.json")(Box::new(e)))?
            .is_some_and(|found| found.is_in_place(&dir, &machine));
        let cluster = Arc::new(Self {
            dir,
            keys,
            machine,
            advertise,
            overlay_pool,
            engine: engine.clone(),
            options,
            embedded,
            switch: Arc::new(Switch::new(store)),
            etcd: in_etcd,
            at_door,
            alone: watch::Sender::new(!etcd),
            may_lead: watch::Sender::new(!etcd || own.here),
            members: watch::Sender::new(home.members()),
            authority: watch::Sender::new(authority.map(Arc::new)),
            voters: watch::Sender::new(home.voters.clone()),
            neighbours,
            store_number: home.store,
            identity: OnceLock::new(),
            client: OnceLock::new(),
            keeps: watch::Sender::new(own.here),
            member: Mutex::new(own.member),
            no_etcd: own.missing,
            snapshots,
            recovering: AtomicBool::new(recovering),
            epoch: watch::Sender::new(epoch),
            part: tokio::sync::Mutex::default(),
            peer_stop: Mutex::default(),
            can_vote,
            leaving: watch::Sender::new(false),
            ailing: watch::Sender::new(false),
            look: Notify::new(),
            decided: Mutex::default(),
            heard: Arc::default(),
            followed: AtomicBool::new(false),
            inside: OnceLock::new(),
            written: Mutex::new(Some(home)),
            change: tokio::sync::Mutex::default(),
            again: Arc::default(),
            stop: CancellationToken::new(),
        });
        if let (Some(identity), Some(client)) = (identity, client) {
            let _ = cluster.identity.set(identity);
            let _ = cluster.client.set(client);
        }
        cluster.stand();
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
            can_vote: self.can_vote,
            api_ca: String::new(),
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
        // Each begins with another one.
        let first = self
            .machine
            .as_str()
            .bytes()
            .map(usize::from)
            .sum::<usize>();
        let mut voters = voters.clone();
        if !voters.is_empty() {
            let by = first % voters.len();
            voters.rotate_left(by);
        }
        let others = voters.into_iter().filter(|v| v.machine != self.machine);
        let target = |v: Voter| Target {
            machine: v.machine,
            addresses: vec![v.address],
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
