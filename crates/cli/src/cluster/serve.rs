//! What runs as long as this machine is in a cluster: its door, the lists of members and machines, new certificates in time.

use super::{Cluster, Neighbour, failed};
use crate::doors;
use crate::server::DaemonError;
use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse as _;
use coracle_cluster::door::{Door, Limits, Paths};
use coracle_cluster::guard::Faces;
use coracle_cluster::join::{Reception, Voter, renew};
use coracle_cluster::members::{self, Members, Standing};
use coracle_cluster::pki::{Authority, Identity, Kind, keep_renewed};
use coracle_engine::full_error;
use coracle_fleet::model::keys;
use coracle_fleet::presence::Seen;
use coracle_fleet::{Fleet, FleetError};
use coracle_gateway::Identity as StoreIdentity;
use coracle_store::WatchRequest;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

/// How long a store that does not answer is left alone.
const REST: Duration = Duration::from_secs(1);
/// Between two tries to have the door's address.
const DOOR: Duration = Duration::from_secs(5);

/// What the door needs of the rest of the daemon.
pub struct Inside {
    /// Units and machines.
    pub fleet: Fleet,
    /// Everything that this machine answers itself.
    pub own: Router,
    /// The same, and what is for other machines is passed on to them.
    pub all: Router,
    /// What stands in the headers of the store's answers.
    pub store: StoreIdentity,
    /// Where sockets are kept.
    pub run_dir: PathBuf,
}

impl Cluster {
    /// The rest of the daemon is there; what this machine is begins to be served.
    ///
    /// # Errors
    /// When TLS cannot be spoken with this machine's certificate. An address that cannot be had is waited for: what runs here is to
    /// be looked after, whatever the network does.
    pub async fn begin(self: &Arc<Self>, inside: Inside) -> Result<(), DaemonError> {
        let _ = self.inside.set(inside);
        tokio::spawn(self.clone().keep_copies());
        if self.no_etcd.is_some() {
            tokio::spawn(self.clone().look_for_etcd());
        }
        let Some(inside) = self.inside.get().filter(|_| self.is_founded()) else {
            return Ok(());
        };
        let listener = match doors::listen(&inside.run_dir, self.advertise).await {
            Ok(listener) => Some(listener),
            Err(error) => {
                tracing::error!(
                    error = full_error(&error),
                    "the door to other machines cannot be opened yet; it is tried again. --advertise says which address it has"
                );
                None
            }
        };
        self.open_up(listener)
    }

    /// The door's address, when it can be had; none if the daemon stops before.
    async fn listen_later(&self) -> Option<TcpListener> {
        let run_dir = &self.inside.get()?.run_dir;
        loop {
            tokio::select! {
                () = tokio::time::sleep(DOOR) => {}
                () = self.stop.cancelled() => return None,
            }
            if let Ok(listener) = doors::listen(run_dir, self.advertise).await {
                tracing::info!("the door to other machines is open");
                return Some(listener);
            }
        }
    }

    /// Opens the door, here or when its address can be had, and follows who belongs here.
    pub(super) fn open_up(
        self: &Arc<Self>,
        listener: Option<TcpListener>,
    ) -> Result<(), DaemonError> {
        let (Some(identity), Some(inside)) = (self.identity.get(), self.inside.get()) else {
            return Ok(());
        };
        let door = Door::new(
            identity.clone(),
            self.members.subscribe(),
            Limits::default(),
        );
        let door = door.map_err(|e| failed("opening the door")(Box::new(e)))?;
        let reception = Reception {
            store: self.store(),
            authority: self.authority.subscribe(),
            cluster: self.machine.to_string(),
            voters: self.voters.subscribe(),
            admit: self.admission(),
        };
        let open = reception.router().merge(self.epoch_router());
        let paths = Paths::new(by_header(self, inside)).with_open(open);
        let paths = paths.with_store(Faces::new(
            self.at_door.clone(),
            inside.store,
            self.members.subscribe(),
        ));
        let cluster = self.clone();
        tokio::spawn(async move {
            let listener = match listener {
                Some(listener) => listener,
                None => match cluster.listen_later().await {
                    Some(listener) => listener,
                    None => return,
                },
            };
            if let Err(error) = door.serve(listener, paths, cluster.stop.clone()).await {
                tracing::error!(%error, "the door to other machines is shut");
            }
        });
        let known = self.members.clone();
        tokio::spawn(members::follow(self.store(), known, self.stop.clone()));
        tokio::spawn(self.clone().follow_machines());
        tokio::spawn(self.clone().follow_epochs());
        tokio::spawn(self.clone().finish_recovery());
        tokio::spawn(self.clone().cut_removed());
        let renewed = self.clone();
        tokio::spawn(renewed.look_after_certificates(
            identity.clone(),
            Kind::Machine,
            self.stop.clone(),
        ));
        if *self.keeps.borrow()
            && let Ok(Some(peer)) = Identity::open(&self.keys, Kind::Peer, &self.machine)
        {
            self.renew_peer(peer);
        }
        self.follow_etcd();
        Ok(())
    }

    /// Begins what there is to do once the store is in etcd; nothing where it is not yet, or where that was begun.
    pub(super) fn follow_etcd(self: &Arc<Self>) {
        if *self.alone.borrow() || self.followed.swap(true, Ordering::AcqRel) {
            return;
        }
        tokio::spawn(self.clone().follow_standing());
        tokio::spawn(self.clone().follow_own());
        tokio::spawn(self.clone().look_after_voters());
        tokio::spawn(self.clone().follow_leaving());
        tokio::spawn(self.clone().seek_voters());
        tokio::spawn(self.clone().tell_silent());
        tokio::spawn(self.clone().follow_own_health());
    }

    /// Cuts every connection to machines that are no members any more. Their own to this one are the door's to cut.
    async fn cut_removed(self: Arc<Self>) {
        let Some(client) = self.client.get() else {
            return;
        };
        let mut members = self.members.subscribe();
        let mut before = members.borrow_and_update().clone();
        loop {
            tokio::select! {
                changed = members.changed() => if changed.is_err() { return },
                () = self.stop.cancelled() => return,
            }
            let now = members.borrow_and_update().clone();
            for (machine, _) in before.iter().filter(|(id, _)| now.standing(id).is_none()) {
                client.cut(machine);
            }
            before = now;
        }
    }

    /// Keeps the list of machines and voters as the store has it, on disk too.
    async fn follow_machines(self: Arc<Self>) {
        let mut members = self.members.subscribe();
        let mut said = false;
        loop {
            let error = tokio::select! {
                error = self.machines_change(&mut members) => error,
                () = self.stop.cancelled() => return,
            };
            if let Err(error) = error
                && !std::mem::replace(&mut said, true)
            {
                tracing::debug!(
                    error = full_error(&error),
                    "machines cannot be looked at now"
                );
            }
            tokio::time::sleep(REST).await;
        }
    }

    /// Looks at all machines whenever one comes, goes or changes; ends when a watch does.
    async fn machines_change(
        &self,
        members: &mut watch::Receiver<Members>,
    ) -> Result<(), FleetError> {
        let Some(inside) = self.inside.get() else {
            return Ok(());
        };
        let store = self.store();
        let of = |prefix: &'static str| store.watch(WatchRequest::prefix(prefix));
        // Opened first, so that nothing is missed between the look and the watch.
        let (mut facts, mut signs) = (of(keys::MACHINES).await?, of(keys::ALIVE).await?);
        loop {
            let seen = inside.fleet.machines().await?.into_iter();
            let neighbour = |seen: Seen| Neighbour {
                hostname: seen.machine.hostname,
                door: seen.machine.door,
                alive: seen.alive,
                can_vote: seen.machine.can_vote,
            };
            self.learn(
                seen.map(|seen| (seen.machine.id.clone(), neighbour(seen)))
                    .collect(),
            );
            let told = tokio::select! {
                told = facts.next() => told,
                told = signs.next() => told,
                _ = members.changed() => {
                    self.write_home();
                    continue;
                }
            };
            match told {
                Some(Ok(answer)) if !answer.canceled => {}
                Some(Err(error)) => return Err(error.into()),
                _ => return Ok(()),
            }
        }
    }

    fn learn(&self, now: BTreeMap<String, Neighbour>) {
        let members = self.members.borrow().clone();
        let door = |id: &coracle_cluster::MachineId| {
            let known = now.get(id.as_str()).map(|n| n.door.clone());
            let former = self.voters.borrow().clone();
            let former = former
                .into_iter()
                .find(|v| v.machine == *id)
                .map(|v| v.address);
            known.or(former)
        };
        let voters: Vec<Voter> = members
            .iter()
            .filter(|(_, standing)| *standing == Standing::Voter)
            .filter_map(|(machine, _)| {
                Some(Voter {
                    machine: machine.clone(),
                    address: door(machine)?,
                })
            })
            .collect();
        self.heard().clear();
        if !voters.is_empty() {
            self.voters.send_if_modified(|known| {
                *known != voters && {
                    *known = voters;
                    true
                }
            });
        }
        self.neighbours.send_if_modified(|known| {
            *known != now && {
                *known = now;
                true
            }
        });
        self.write_home();
    }

    /// Whom to ask after a restart.
    pub(super) fn home(&self) -> super::home::Home {
        let members = self.members.borrow().clone();
        super::home::Home {
            version: 1,
            store: self.inside.get().map(|inside| inside.store.cluster),
            voters: self.voters.borrow().clone(),
            members: members
                .iter()
                .map(|(id, standing)| (id.clone(), standing == Standing::Voter))
                .collect(),
            keys: members
                .listed()
                .filter_map(|(id, listed)| Some((id.clone(), listed.key?)))
                .collect(),
            machines: self
                .neighbours
                .borrow()
                .iter()
                .map(|(id, n)| (id.clone(), (n.hostname.clone(), n.door.clone())))
                .collect(),
        }
    }

    /// Writes that down, and who may come in then, unless it stands there already.
    pub(super) fn write_home(&self) {
        let home = self.home();
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.is_none() || *written == Some(home.clone()) {
            return;
        }
        match home.save(&self.dir) {
            Ok(()) => *written = Some(home),
            Err(error) => {
                tracing::warn!(%error, "which machines there are could not be written down");
            }
        }
    }

    /// Removes what was written down, for good.
    pub(super) fn forget_home(&self) -> std::io::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        *written = None;
        super::home::Home::remove(&self.dir)
    }

    /// New certificates, long before the old ones end.
    pub(super) async fn look_after_certificates(
        self: Arc<Self>,
        identity: Arc<Identity>,
        kind: Kind,
        stop: CancellationToken,
    ) {
        let is_peer = kind == Kind::Peer;
        let ask = |asked: coracle_cluster::pki::Asked| {
            let cluster = self.clone();
            async move {
                let mut authority = cluster.authority.borrow().clone();
                if is_peer && authority.is_none() {
                    // A learner has the CA's key for what is its own.
                    let own = Authority::open(&cluster.keys).map_err(|e| full_error(&e))?;
                    authority = own.map(Arc::new);
                }
                let addresses = cluster.addresses();
                if let Some(authority) = authority {
                    let made = match is_peer {
                        true => authority.peer(&asked.pem, &cluster.machine, &addresses),
                        false => authority.machine(&asked.pem, &cluster.machine, &addresses),
                    };
                    return made.map_err(|e| full_error(&e));
                }
                let Some(client) = cluster.client.get() else {
                    return Err("this machine is in no cluster".to_owned());
                };
                let renewed = renew(client, &cluster.targets(), asked.pem, addresses).await;
                renewed.map_err(|e| full_error(&e))
            }
        };
        keep_renewed(identity, ask, stop).await;
    }
}

/// What came to the leader may be for a third machine; what came from another door is answered here.
fn by_header(cluster: &Arc<Cluster>, inside: &Inside) -> Router {
    let (own, all) = (inside.own.clone(), inside.all.clone());
    let removal = super::api::door_routes(cluster.clone());
    let (own, all) = (own.merge(removal.clone()), all.merge(removal));
    Router::new().fallback(move |request: Request| {
        let led = request.headers().contains_key(super::lead::LED);
        let mut router = if led { all.clone() } else { own.clone() };
        async move { router.call(request).await.into_response() }
    })
}
