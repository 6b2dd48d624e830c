//! How a cluster begins, how machines come in, and how they leave.

use super::address::door_of;
use super::{Cluster, home::Home};
use crate::server::DaemonError;
use coracle_cluster::door::DoorOptions;
use coracle_cluster::join::{Admit, Join, JoinError, Newcomer, Voter, join};
use coracle_cluster::member::MemberError;
use coracle_cluster::member::config::{MemberConfig, PeerTls};
use coracle_cluster::member::moving::{Mode, Move, clear, set_mode};
use coracle_cluster::members;
use coracle_cluster::pki::{Authority, Identity, Kind, PEER_NAME, PkiError};
use coracle_cluster::token::{Token, issue};
use coracle_engine::full_error;
use coracle_network::overlay::Ipv4Net;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long etcd may take to start and to be compared when the store moves.
const MOVE: Duration = Duration::from_secs(60);

/// Why something about the cluster was not done.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is something here that would be lost.
    #[error(
        "this machine is not empty ({what}): joining would lose it; stop and destroy it first, or say --discard"
    )]
    NotEmpty {
        /// What.
        what: String,
    },
    /// It is in a cluster.
    #[error("this machine is in a cluster already; `coracle leave` takes it out")]
    Member,
    /// It is in none.
    #[error(
        "this machine is in no cluster; `coracle cluster token` begins one, `coracle join` joins one"
    )]
    NoMember,
    /// It has none of the keys.
    #[error("this machine is no voter, and only voters give tokens: ask one of {voters}")]
    NoVoter {
        /// Those.
        voters: String,
    },
    /// It cannot go.
    #[error("{0}")]
    CannotLeave(String),
    /// No such machine.
    #[error("{0}")]
    Unknown(String),
    /// Nobody may change what is written of machines.
    #[error("machine {0} cannot be taken off the list now: no machine leads; ask again")]
    NoLeader(coracle_cluster::MachineId),
    /// No address.
    #[error(
        "this machine's address towards others is not known (there is no default route); start the daemon with --advertise ADDRESS"
    )]
    NoAddress,
    /// An address that cannot be read.
    #[error(
        "\"{0}\" is no address of a machine: write one as `coracle cluster token` shows it, for example 192.0.2.7 or 192.0.2.7:7373"
    )]
    Address(String),
    /// A token for nobody, or that runs out at once.
    #[error("a token is for one machine at least, and for one second")]
    Useless,
    /// Another range for machines' subnets than the cluster's.
    #[error(
        "this machine's configuration says overlay_pool = \"{own}\" and the cluster takes machines' subnets from {agreed}, since it began; take that line out, start the daemon anew and join again with the same token"
    )]
    Pool {
        /// The configuration's.
        own: Ipv4Net,
        /// The cluster's.
        agreed: Ipv4Net,
    },
    /// A token that cannot be read.
    #[error(transparent)]
    Token(#[from] coracle_cluster::token::TokenError),
    /// The cluster said no, or was not reached.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Keys.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// etcd.
    #[error(transparent)]
    Etcd(#[from] MemberError),
    /// The store.
    #[error("the store cannot be used")]
    Store(#[from] coracle_store::StoreError),
    /// The daemon.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// A file.
    #[error("a file of the cluster's could not be written")]
    File(#[from] std::io::Error),
}

/// What a machine has that joining takes from it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Discarded {
    /// Units.
    pub units: usize,
    /// Keys of apps.
    pub keys: usize,
    /// Containers, those of units among them.
    pub containers: usize,
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

impl Cluster {
    fn has_address(&self) -> Result<(), ClusterError> {
        match self.advertise.ip().is_unspecified() {
            true => Err(ClusterError::NoAddress),
            false => Ok(()),
        }
    }

    /// A token with which `uses` machines may join within `ttl`. The first one begins the cluster.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn token(
        self: &Arc<Self>,
        ttl: Duration,
        uses: u32,
        who: &str,
    ) -> Result<Token, ClusterError> {
        self.has_address()?;
        if uses == 0 || ttl.is_zero() {
            return Err(ClusterError::Useless);
        }
        let _one = self.change.lock().await;
        if !self.is_founded() {
            self.found().await?;
        }
        let Some(authority) = self.authority.borrow().clone() else {
            let voters = self.voters.borrow();
            let voters: Vec<String> = voters
                .iter()
                .map(|v| self.called(v.machine.as_str()))
                .collect();
            return Err(ClusterError::NoVoter {
                voters: voters.join(", "),
            });
        };
        let token = Token::random(authority.pin())
            .map_err(|e| ClusterError::File(std::io::Error::other(e)))?;
        issue(&*self.store(), &token, ttl, uses, who, now()).await?;
        Ok(token)
    }

    /// Makes a CA and this machine its first member. May be cut short and done again.
    async fn found(self: &Arc<Self>) -> Result<(), ClusterError> {
        let authority = Authority::found(&self.keys)?;
        let identity = self.certified(&authority, Kind::Machine)?;
        let inside = self.inside.get().ok_or(ClusterError::NoMember)?;
        let listener = crate::doors::listen(&inside.run_dir, self.advertise).await?;
        let key = identity.request()?.key;
        self.agree().await?;
        members::found(&*self.store(), &self.machine, key, now()).await?;
        let voter = Voter {
            machine: self.machine.clone(),
            address: self.advertise.to_string(),
        };
        self.voters.send_replace(vec![voter]);
        self.authority.send_replace(Some(Arc::new(authority)));
        let client = super::client(&identity)?;
        let _ = self.client.set(client);
        let _ = self.identity.set(identity);
        self.write_home();
        self.open_up(Some(listener))?;
        Ok(())
    }

    /// A certificate of our own CA.
    fn certified(&self, authority: &Authority, kind: Kind) -> Result<Arc<Identity>, ClusterError> {
        if let Some(known) = Identity::open(&self.keys, kind, &self.machine)? {
            return Ok(known);
        }
        let asked = Identity::ask(&self.keys, kind, &self.machine)?;
        let addresses = self.addresses();
        let certificate = match kind {
            Kind::Machine => authority.machine(&asked.pem, &self.machine, &addresses)?,
            Kind::Peer => authority.peer(&asked.pem, &self.machine, &addresses)?,
        };
        let (pin, ca) = (authority.pin(), authority.certificate_pem());
        let identity = Identity::install(&self.keys, kind, &self.machine, &pin, ca, &certificate)?;
        Ok(identity)
    }

    /// What is done for newcomers: the first one has the store moved.
    pub(super) fn admission(self: &Arc<Self>) -> Admit {
        let cluster = self.clone();
        Arc::new(move |newcomer| {
            let cluster = cluster.clone();
            Box::pin(async move { cluster.admit(newcomer).await })
        })
    }

    async fn admit(self: Arc<Self>, newcomer: Newcomer) -> Result<Value, String> {
        // A client that gives up must not leave a move half done.
        let moved = tokio::spawn(async move {
            let _one = self.change.lock().await;
            if *self.alone.borrow() {
                self.move_store().await.map_err(|e| full_error(&e))?;
            }
            tracing::info!(machine = %newcomer.machine, address = newcomer.address, "a machine joins");
            self.told().await.map_err(|e| full_error(&e))
        });
        moved.await.map_err(|e| e.to_string())?
    }

    /// Moves the store into an etcd of this machine's, while everything runs on.
    async fn move_store(self: &Arc<Self>) -> Result<(), ClusterError> {
        let found = self.program.find().await?;
        let authority = self
            .authority
            .borrow()
            .clone()
            .ok_or(ClusterError::NoMember)?;
        let peer = self.certified(&authority, Kind::Peer)?;
        let config = MemberConfig::first(
            &self.dir,
            self.machine.clone(),
            self.advertise.ip(),
            self.advertise.port(),
            Some(peer_tls(&peer)),
        );
        tracing::info!("the store moves into etcd");
        let moving = Move {
            engine: self.engine.clone(),
            found,
            config,
            dir: self.dir.clone(),
            store: self.embedded.clone(),
            switch: self.switch.clone(),
            etcd: self.etcd.clone(),
            limit: MOVE,
            done: Box::new(|step| tracing::debug!(?step, "the store moves")),
        };
        let moved = moving.run().await?;
        let config = moved.member.config().clone();
        *self.member() = Some(moved.member);
        if let Err(error) = self.note_own(config).await {
            // Whoever leads tells it.
            tracing::debug!(
                error = full_error(&error),
                "which member this is, is not known yet"
            );
        }
        self.keeps.send_replace(true);
        self.renew_peer(peer);
        // From here on the former store is this machine's own.
        if let Err(error) = self.embedded.hold(false).await {
            tracing::warn!(
                error = full_error(&error),
                "this machine's own store waits for the next start of the daemon"
            );
        }
        self.alone.send_replace(false);
        self.stand();
        self.follow_etcd();
        tracing::info!("the store is in etcd");
        Ok(())
    }

    /// Joins the cluster of the machine at `address`. Afterwards the daemon is to begin anew.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn join(
        self: &Arc<Self>,
        address: &str,
        token: &str,
        discard: bool,
    ) -> Result<Discarded, ClusterError> {
        self.has_address()?;
        let address = door_of(address)?;
        let token: Token = token.parse()?;
        let _one = self.change.lock().await;
        // Also of one that is alone there: what is refused must not have cost it its keys.
        if self.is_founded() {
            return Err(ClusterError::Member);
        }
        if !discard && let Some(what) = self.holds().await? {
            return Err(ClusterError::NotEmpty { what });
        }
        let can_vote = self.program.find().await.is_ok();
        let newcomer = Newcomer {
            machine: self.machine.clone(),
            address: self.advertise.to_string(),
            can_vote,
            facts: json!({ "hostname": rustix::system::uname().nodename().to_string_lossy() }),
        };
        let asked = Join {
            token,
            at: address,
            newcomer,
            addresses: self.addresses(),
        };
        let joined = join(&self.keys, &asked, DoorOptions::default()).await?;
        self.fits(&joined.answer.extra)?;
        let gone = self.discard().await?;
        let home = Home {
            voters: joined.answer.voters,
            ..Home::default()
        };
        home.save(&self.dir)?;
        set_mode(&self.dir, Mode::Etcd)?;
        self.again.notify_one();
        Ok(gone)
    }

    /// What would be lost if this machine joined others.
    async fn holds(&self) -> Result<Option<String>, ClusterError> {
        let here = self.counted().await?;
        if here.units > 0 {
            return Ok(Some(format!("it has {} units", here.units)));
        }
        if here.keys > 0 {
            let keys = here.keys;
            return Ok(Some(format!("apps have {keys} keys in its store")));
        }
        let containers = here.containers;
        Ok((containers > 0).then(|| format!("it has {containers} containers")))
    }

    async fn counted(&self) -> Result<Discarded, ClusterError> {
        use coracle_fleet::model::keys;
        use coracle_store::StoreExt as _;
        let store = self.store();
        let units = store.list(keys::UNITS).await?.kvs.len();
        let app = |kv: &&coracle_store::KeyValue| !kv.key.starts_with(keys::DISCOVERY.as_bytes());
        let found = store.list(keys::APPS).await?.kvs;
        Ok(Discarded {
            units,
            keys: found.iter().filter(app).count(),
            containers: self.engine.list().len(),
        })
    }

    /// Takes everything away that a machine alone has: its units and what apps keep. Volumes and images stay.
    async fn discard(&self) -> Result<Discarded, ClusterError> {
        let gone = self.counted().await?;
        if let Some(inside) = self.inside.get() {
            for unit in inside.fleet.list() {
                if let Err(error) = inside.fleet.destroy(&unit.name).await {
                    tracing::warn!(
                        unit = unit.name,
                        error = full_error(&error),
                        "it could not be destroyed"
                    );
                }
            }
        }
        for container in self.engine.list() {
            let options = coracle_engine::remove::RemoveOptions {
                force: true,
                volumes: false,
            };
            if let Err(error) = self
                .engine
                .remove(container.record.id.as_str(), options)
                .await
            {
                tracing::warn!(container = %container.record.id, error = full_error(&error), "it could not be removed");
            }
        }
        let all = coracle_store::DeleteRangeRequest::prefix("/coracle/v1/");
        coracle_store::Store::delete_range(&*self.embedded, all).await?;
        Ok(gone)
    }

    /// Takes this machine out of its cluster; afterwards the daemon begins anew, alone.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn leave(self: &Arc<Self>, force: bool) -> Result<(), ClusterError> {
        if !self.is_founded() {
            return Err(ClusterError::NoMember);
        }
        let others = || {
            let members = self.members.borrow();
            members
                .iter()
                .filter(|(id, _)| **id != self.machine)
                .count()
        };
        if !*self.alone.borrow() && others() > 0 && !self.is_struck().await {
            if let Err(error) = self.hand_over(&self.machine).await {
                if !force {
                    return Err(error);
                }
                tracing::warn!(
                    error = full_error(&error),
                    "nobody has taken this machine's place"
                );
            }
        }
        let _one = self.change.lock().await;
        if *self.alone.borrow() {
            // Nobody has joined: units and what apps keep are this machine's own.
            for family in super::agreed::OWN {
                let all = coracle_store::DeleteRangeRequest::prefix(family);
                coracle_store::Store::delete_range(&*self.store(), all).await?;
            }
            self.keys.clear()?;
            self.forget_home()?;
            self.again.notify_one();
            return Ok(());
        }
        let others = others();
        if *self.keeps.borrow() && others == 0 && !force {
            return Err(ClusterError::CannotLeave(
                "this machine has the cluster's store, which leaving would lose with all units and what apps keep; it may stay as a cluster of one, or say --force to lose them".into(),
            ));
        }
        if others > 0
            && let Err(error) = self.strike(&self.machine).await
        {
            if !force {
                return Err(error);
            }
            tracing::warn!(
                error = full_error(&error),
                "the others still have this machine on their list; `coracle machine remove` there takes it off"
            );
        }
        let _part = self.part.lock().await;
        self.discard_here().await;
        set_mode(&self.dir, Mode::Embedded)?;
        clear(&self.engine, &self.dir).await?;
        self.keys.clear()?;
        self.forget_home()?;
        self.again.notify_one();
        Ok(())
    }

    /// Ends what units have here, which are others' from now on.
    async fn discard_here(&self) {
        if let Some(inside) = self.inside.get() {
            inside.fleet.end_here().await;
        }
        self.engine.set_remote(Vec::new());
        if let Err(error) = self.engine.set_overlay(None).await {
            tracing::warn!(
                error = full_error(&error),
                "the network between machines could not be taken down"
            );
        }
        let all = coracle_store::DeleteRangeRequest::prefix("/coracle/v1/");
        if let Err(error) = coracle_store::Store::delete_range(&*self.embedded, all).await {
            tracing::warn!(
                error = full_error(&error),
                "this machine's own store could not be emptied"
            );
        }
    }
}

/// Where etcd finds the certificates for its peers.
pub(super) fn peer_tls(peer: &Identity) -> PeerTls {
    let [certificate, key, ca] = peer.files();
    PeerTls {
        ca,
        certificate,
        key,
        allowed_name: Some(PEER_NAME.to_owned()),
    }
}
