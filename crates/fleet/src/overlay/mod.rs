//! The network and the names between machines, as the cluster's store says.
//!
//! ```text
//! subnets/<machine>   who has which subnet, and is reached where ─┐
//! alive/<machine>     who is there                                ├─> picture ─> Engine::set_overlay, Engine::set_remote
//! apps//discovery/…   what runs on the others                     ┘
//! ```
//! A machine writes its own subnet and nothing else. It does so in a transaction that holds only if nobody has written any subnet
//! since they were read, so two machines never have the same; then it is the machine's, also over restarts and absences.
//!
//! Worked example: `a` was alone and has containers on 10.210.0.0/22; `b` joins, with the same subnet on its default network.
//!
//! 1. `b` sees that `a` was there before and has claimed nothing yet, and waits for it.
//! 2. `a` claims what it has: 10.210.0.0/22.
//! 3. `b` claims 10.212.0.0/22, the first of the pool, and renumbers its default network, on which nothing runs yet. If something does,
//!    `b` says so, stays without the network between machines, and tries again.
//! 4. Each sees the other's subnet and lease, and makes its route; the names that `b` announces are answered on `a`, since they are
//!    of its subnet.
//! 5. `b`'s lease runs out: its names go with it at once, its route after a grace of two leases' time. What is sent to its subnet is refused then.
//!
//! While the store is away everything stays as it is, also over a restart of the daemon: the overlay is on the disk, and so are the names
//! of other machines as they were known last (`cluster/names.json`).

mod agreed;
mod before;
mod claims;
mod names;
mod picture;

use crate::fleet::{Fleet, Inner};
use crate::model::keys;
pub use agreed::{NetworkRecord, agree_on_pool, agreed_pool, read_pool};
use before::awaited;
pub use claims::SubnetRecord;
use claims::{Claims, Place};
use coracle_engine::{Engine, EngineError, full_error};
use coracle_network::NetworkError;
use coracle_network::overlay::{DEFAULT_POOL, OverlayKind, OverlaySpec, Peer};
use coracle_store::{
    Compare, CompareResult, CompareTarget, PutRequest, StoreError, StoreExt as _, TxnOp,
    TxnRequest, WatchRequest, prefix_end,
};
use ipnet::Ipv4Net;
use names::Names;
use picture::{Own, Picture, Told};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How long a store or a kernel that refused is left alone.
const REST: Duration = Duration::from_secs(1);
/// Changes that come together are done together.
const TOGETHER: Duration = Duration::from_millis(50);
/// How often the packet size of the machine's link is looked at.
const LINK: Duration = Duration::from_secs(10);
/// How long a machine that was there before is waited for until it claims its subnet.
const PATIENCE: Duration = Duration::from_secs(30);

/// How this machine takes part in the network between machines.
#[derive(Debug, Clone, Copy)]
pub struct ConnectOptions {
    /// The address of this machine that others reach it at. Some link here has it.
    pub underlay: Ipv4Addr,
}

/// Why the network between machines is not as it should be. It is tried again.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error(
        "machine {0} was in the cluster before this one, and has not said yet which subnet it keeps; it is waited for"
    )]
    Awaited(String),
    #[error(
        "this machine is without the network between machines: its default network has {present}, which {whose}, and cannot become {subnet}; \
         stop and remove what runs on it here, and it is renumbered by itself"
    )]
    Renumber {
        present: Ipv4Net,
        whose: String,
        subnet: Ipv4Net,
        #[source]
        source: EngineError,
    },
    #[error("the cluster's store cannot be asked; routes and names stay as they are")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<NetworkError> for ConnectError {
    fn from(error: NetworkError) -> Self {
        Self::Engine(error.into())
    }
}

impl From<tokio::task::JoinError> for ConnectError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Engine(error.into())
    }
}

impl Fleet {
    /// Connects this machine's default network with those of the others, and answers their names, for as long as there is a fleet. While the
    /// machine is alone it does nothing yet. To be called once.
    ///
    /// What is in the way is logged and tried again; [`coracle_network::Networks::overlay`] says how it stands.
    pub fn connect_machines(&self, options: ConnectOptions) {
        let (mut alone, mut gone) = (self.0.follow_alone(), self.0.leader.subscribe());
        let connecting = Connecting {
            fleet: Arc::downgrade(&self.0),
            options,
            pool: DEFAULT_POOL,
            picture: Picture::default(),
            applied: None,
            awaited: None,
            kept: None,
            told: BTreeSet::new(),
            said: None,
        };
        self.0.renumbering.send_replace(true);
        tokio::spawn(async move {
            let connect = async {
                let mut connecting = connecting;
                connecting.resume().await;
                if alone.wait_for(|alone| !alone).await.is_ok() {
                    connecting.run().await;
                }
            };
            tokio::select! {
                () = connect => {}
                // The sender goes with the fleet.
                _ = gone.wait_for(|_| false) => {}
            }
        });
    }

    /// Waits until the default network of a machine that has just come to a cluster has its subnet there: what starts before keeps it
    /// from being renumbered. Not for ever, since what is in the way may be on the network already.
    pub(crate) async fn until_renumbered(&self) {
        if self.0.alone() {
            return;
        }
        let mut renumbering = self.0.renumbering.subscribe();
        let done = renumbering.wait_for(|renumbering| !renumbering);
        let _ = crate::pace::within(PATIENCE + REST, done).await;
    }
}

/// Where what is known of the cluster is kept.
fn dir(engine: &Engine) -> PathBuf {
    engine.options().state_dir.join("cluster")
}

struct Connecting {
    fleet: Weak<Inner>,
    options: ConnectOptions,
    /// Where machines' subnets are taken from.
    pool: Ipv4Net,
    picture: Picture,
    /// What the engine has taken.
    applied: Option<OverlaySpec>,
    /// Since when another machine's claim is waited for.
    awaited: Option<Instant>,
    /// The names that are on the disk.
    kept: Option<Names>,
    /// Problems that were said.
    told: BTreeSet<String>,
    /// The last error.
    said: Option<String>,
}

fn blocking<T: Send + 'static>(
    engine: &Engine,
    work: impl FnOnce(&Engine) -> T + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    let engine = engine.clone();
    tokio::task::spawn_blocking(move || work(&engine))
}

impl Connecting {
    async fn run(mut self) {
        while let Some(fleet) = self.there() {
            let rest = match self.follow(fleet).await {
                Ok(()) => TOGETHER,
                Err(error) => {
                    self.say(&error);
                    REST
                }
            };
            tokio::time::sleep(rest).await;
        }
    }

    /// Goes on from where the daemon before this one was.
    async fn resume(&mut self) {
        let Some(fleet) = self.there() else { return };
        let known = match blocking(fleet.engine(), |e| e.networks().overlay()).await {
            Ok(Ok(Some(known))) => known,
            // It was in no network with others.
            Ok(Ok(None)) => return fleet.engine().elsewhere_is_known(),
            Ok(Err(error)) => return self.say(&error.into()),
            Err(error) => return self.say(&error.into()),
        };
        // It has been renumbered, whenever that was.
        fleet.0.renumbering.send_replace(false);
        let peers: Vec<Peer> = known.peers.into_iter().map(|p| p.peer).collect();
        let machines = peers.iter().map(|p| p.machine.clone());
        self.picture = Picture::new(machines, Instant::now());
        let dir = self::dir(fleet.engine());
        match blocking(fleet.engine(), move |_| names::load(&dir)).await {
            Ok(Ok(names)) => fleet.engine().set_remote(names.remote(&peers)),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the names of other machines are not known until the store is asked")
            }
            Err(error) => self.say(&error.into()),
        }
    }

    /// Keeps the names of other machines for a daemon that comes up while the store is away.
    async fn keep_names(&mut self, fleet: &Fleet) {
        let names = self.picture.names(&fleet.0.machine.id);
        if self.kept.as_ref() == Some(&names) {
            return;
        }
        let (dir, kept) = (dir(fleet.engine()), names.clone());
        match blocking(fleet.engine(), move |_| names.save(&dir)).await {
            Ok(Ok(())) => self.kept = Some(kept),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the names of other machines could not be written down");
            }
            Err(error) => self.say(&error.into()),
        }
    }

    /// The fleet, unless it is gone or goes down with all networks.
    fn there(&self) -> Option<Fleet> {
        let fleet = Fleet(self.fleet.upgrade()?);
        (!fleet.is_leaving()).then_some(fleet)
    }

    /// Says it once.
    fn say(&mut self, error: &ConnectError) {
        let text = full_error(error);
        if self.said.as_ref() == Some(&text) {
            return;
        }
        match error {
            ConnectError::Awaited(_) => tracing::info!("{text}"),
            ConnectError::Store(_) => {
                tracing::warn!(error = text, "the network between machines is not followed")
            }
            _ => tracing::error!(
                error = text,
                "the network between machines is not whole; it is tried again"
            ),
        }
        self.said = Some(text);
    }

    /// Claims this machine's subnet, then makes the network what the store says, until a watch ends or the claim is to be looked
    /// at anew.
    async fn follow(&mut self, fleet: Fleet) -> Result<(), ConnectError> {
        let claimed = self.claim(&fleet).await?;
        let store = &fleet.0.cluster;
        let subnets = store.list(keys::SUBNETS).await?;
        let alive = store.list(keys::ALIVE).await?;
        let names = store.list(keys::DISCOVERY).await?;
        let from = |prefix: &'static str, listed: i64| {
            store.watch(WatchRequest::prefix(prefix).from(listed + 1))
        };
        let mut of_subnets = from(keys::SUBNETS, subnets.revision).await?;
        let mut of_alive = from(keys::ALIVE, alive.revision).await?;
        let mut of_names = from(keys::DISCOVERY, names.revision).await?;
        self.picture
            .read(&subnets.kvs, &alive.kvs, &names.kvs, Instant::now());
        let machine = fleet.0.machine.id.clone();
        // Nothing is held of it while it is waited.
        drop(fleet);
        let mut due = Some(Instant::now());
        let mut looks = tokio::time::interval(LINK);
        loop {
            if due.is_some_and(|due| due <= Instant::now()) {
                let Some(fleet) = self.there() else {
                    return Ok(());
                };
                let picture = &mut self.picture;
                let held = picture.claims.get(&machine) == Some(&claimed);
                if !held || picture.claims.before(&machine).is_some() {
                    return Ok(());
                }
                let again = match self.apply(&fleet, &claimed).await {
                    Ok(()) => {
                        self.said = None;
                        None
                    }
                    Err(error) => {
                        self.say(&error);
                        Some(Instant::now() + REST)
                    }
                };
                let next = self.picture.next(Instant::now());
                due = again.into_iter().chain(next).min();
            }
            let until = due.map(tokio::time::Instant::from_std);
            let (told, answer) = tokio::select! {
                answer = of_subnets.next() => (Told::Subnets, answer),
                answer = of_alive.next() => (Told::Alive, answer),
                answer = of_names.next() => (Told::Names, answer),
                _ = looks.tick() => match self.link_mtu().await {
                    // Others are to be told.
                    Some(mtu) if claimed.mtu != Some(mtu) => return Ok(()),
                    _ => continue,
                },
                () = async { match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                } } => continue,
            };
            let Some(answer) = answer.transpose()?.filter(|a| !a.canceled) else {
                return Ok(());
            };
            if self.picture.learn(told, &answer.events, Instant::now()) {
                let soon = Instant::now() + TOGETHER;
                due = Some(due.map_or(soon, |due| due.min(soon)));
            }
        }
    }

    /// The largest packet of the link to other machines, if it has one now.
    async fn link_mtu(&self) -> Option<u32> {
        let (fleet, underlay) = (self.there()?, self.options.underlay);
        let asked = blocking(fleet.engine(), move |e| e.networks().link_mtu(underlay));
        asked.await.ok()?.ok()?
    }

    /// Writes this machine's subnet, if it is not written already.
    async fn claim(&mut self, fleet: &Fleet) -> Result<SubnetRecord, ConnectError> {
        let (store, own) = (&fleet.0.cluster, fleet.0.machine.id.as_str());
        self.pool = agreed::learn_pool(&**store, &*fleet.0.local).await?;
        loop {
            let found = store.list(keys::SUBNETS).await?;
            let claims = Claims::read(&found.kvs);
            if let Some(other) = awaited(fleet, &claims).await?
                && self.awaited.get_or_insert_with(Instant::now).elapsed() < PATIENCE
            {
                return Err(ConnectError::Awaited(other));
            }
            let underlay = self.options.underlay;
            let networks = blocking(fleet.engine(), move |e| {
                let networks = e.networks();
                let (bridge, local) = (networks.get("bridge")?, networks.taken_subnets()?);
                Ok::<_, NetworkError>((bridge.subnet, local, networks.link_mtu(underlay)?))
            });
            let (present, local, mtu) = networks.await??;
            let record = claims.choose(&Place {
                own,
                present,
                local: &local,
                underlay,
                mtu,
                pool: self.pool,
            })?;
            if claims.get(own) == Some(&record) {
                return Ok(record);
            }
            // Nobody has written since they were read.
            let unchanged = Compare {
                range_end: prefix_end(keys::SUBNETS.as_bytes()),
                ..Compare::new(
                    keys::SUBNETS,
                    CompareResult::Less,
                    CompareTarget::Mod(found.revision + 1),
                )
            };
            let key = keys::subnet(own);
            let value = serde_json::to_vec(&record).map_err(|source| StoreError::Json {
                key: key.clone(),
                source: Arc::new(source),
            })?;
            let txn = TxnRequest {
                compare: vec![unchanged],
                success: vec![TxnOp::Put(PutRequest::new(key, value))],
                failure: vec![],
            };
            if store.txn(txn).await?.succeeded {
                tracing::info!(subnet = %record.subnet, "this machine's subnet in the cluster");
                return Ok(record);
            }
        }
    }

    /// Makes the engine what the picture says.
    async fn apply(&mut self, fleet: &Fleet, claimed: &SubnetRecord) -> Result<(), ConnectError> {
        let engine = fleet.engine();
        let renumbered = self.renumber(fleet, claimed).await;
        fleet.0.renumbering.send_replace(false);
        renumbered?;
        let own = Own {
            machine: &fleet.0.machine.id,
            subnet: claimed.subnet,
            underlay: self.options.underlay,
            pool: self.pool,
        };
        let picture = &mut self.picture;
        let view = picture.view(&own, Instant::now());
        self.told.retain(|told| view.problems.contains(told));
        for problem in view.problems {
            if self.told.insert(problem.clone()) {
                tracing::warn!("{problem}");
            }
        }
        let spec = OverlaySpec {
            kind: OverlayKind::default(),
            own: own.underlay,
            subnet: own.subnet,
            peers: view.peers,
            ranges: view.ranges,
            mtu: agreed::mtu(&picture.claims),
        };
        if self.applied.as_ref() != Some(&spec) {
            self.applied = None;
            engine.set_overlay(Some(spec.clone())).await?;
            self.applied = Some(spec.clone());
        }
        let mut remote = view.remote;
        if !remote.is_empty() {
            // An address behind no route of ours may be somebody else's.
            let mut reached = reached(engine).await?;
            if reached.len() < spec.peers.len() && engine.ensure_overlay().await? {
                reached = self::reached(engine).await?;
            }
            remote.retain(|r| reached.contains(&r.machine));
        }
        engine.set_remote(remote);
        self.keep_names(fleet).await;
        Ok(())
    }

    /// Gives the default network the subnet that was claimed. If that cannot be, this machine is in no network with others: what it has
    /// is somebody else's.
    async fn renumber(
        &mut self,
        fleet: &Fleet,
        claimed: &SubnetRecord,
    ) -> Result<(), ConnectError> {
        let (engine, subnet) = (fleet.engine(), claimed.subnet);
        let present = engine.networks().get("bridge")?.subnet;
        if present == subnet {
            return Ok(());
        }
        let mut renumbered = engine.renumber_default(subnet).await;
        let set = |e: &EngineError| matches!(e, EngineError::Network(NetworkError::OverlaySet(_)));
        if renumbered.as_ref().is_err_and(set) {
            engine.set_overlay(None).await?;
            renumbered = engine.renumber_default(subnet).await;
        }
        self.applied = None;
        let Err(source) = renumbered else {
            tracing::info!(%present, %subnet, "the default network has its subnet in the cluster now");
            return Ok(());
        };
        engine.set_remote(Vec::new());
        if blocking(engine, |e| e.networks().overlay())
            .await??
            .is_some()
        {
            engine.set_overlay(None).await?;
        }
        let holder = self.picture.claims.holder(present, &fleet.0.machine.id);
        let whose = holder.map_or_else(
            || "is not its own in the cluster".to_owned(),
            |machine| format!("is machine {machine}'s in the cluster"),
        );
        Err(ConnectError::Renumber {
            present,
            whose,
            subnet,
            source,
        })
    }
}

/// Machines that packets are sent to.
async fn reached(engine: &Engine) -> Result<BTreeSet<String>, ConnectError> {
    let status = blocking(engine, |e| e.networks().overlay()).await??;
    let peers = status.into_iter().flat_map(|s| s.peers);
    Ok(peers.filter(|p| p.routed).map(|p| p.peer.machine).collect())
}
