//! How a cluster begins, how machines come in, and how they leave.

use super::certify::{certify, peer_tls};
use super::{Cluster, home::Home};
use crate::server::DaemonError;
use coracle_cluster::door::DoorOptions;
use coracle_cluster::join::{Admit, Join, JoinError, Newcomer, Voter, join};
use coracle_cluster::member::config::MemberConfig;
use coracle_cluster::member::moving::{Mode, Move, clear, set_mode};
use coracle_cluster::member::{MemberError, epoch};
use coracle_cluster::members;
use coracle_cluster::pki::{Authority, Identity, Kind, PkiError};
use coracle_cluster::token::{Token, issue};
use coracle_engine::full_error;
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
    /// There is nothing to recover, or nothing to recover from.
    #[error("{0}")]
    CannotRecover(String),
    /// No copy of the store can be taken here.
    #[error("{0}")]
    CannotCopy(String),
    /// No address.
    #[error(
        "this machine's address towards others is not known (there is no default route); start the daemon with --advertise ADDRESS"
    )]
    NoAddress,
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

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

impl Cluster {
    pub(super) fn has_address(&self) -> Result<(), ClusterError> {
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
        let key = identity.request()?.key;
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
        self.open_up().await?;
        Ok(())
    }

    /// A certificate of our own CA.
    pub(super) fn certified(
        &self,
        authority: &Authority,
        kind: Kind,
    ) -> Result<Arc<Identity>, ClusterError> {
        certify(
            &self.keys,
            &self.machine,
            &self.addresses(),
            authority,
            kind,
        )
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
            Ok(json!({}))
        });
        moved.await.map_err(|e| e.to_string())?
    }

    /// Moves the store into an etcd of this machine's, while everything runs on.
    async fn move_store(self: &Arc<Self>) -> Result<(), ClusterError> {
        let program = self.options.program.clone();
        let found = self.find_etcd().await?;
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
            Some(peer_tls(&self.keys)),
        );
        let config = MemberConfig { program, ..config };
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
    ) -> Result<(), ClusterError> {
        self.has_address()?;
        let token: Token = token.parse()?;
        let _one = self.change.lock().await;
        // Also of one that is alone there: what is refused must not have cost it its keys.
        if self.is_founded() {
            return Err(ClusterError::Member);
        }
        if !discard && let Some(what) = self.holds().await? {
            return Err(ClusterError::NotEmpty { what });
        }
        let address = match address.parse::<std::net::IpAddr>() {
            Ok(ip) => std::net::SocketAddr::new(ip, super::DOOR_PORT).to_string(),
            Err(_) if !address.contains(':') => format!("{address}:{}", super::DOOR_PORT),
            Err(_) => address.to_owned(),
        };
        let can_vote = self.has_etcd().await;
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
        self.discard().await?;
        self.learn_epoch(&joined.answer.voters).await?;
        let home = Home {
            voters: joined.answer.voters,
            ..Home::default()
        };
        home.save(&self.dir)?;
        set_mode(&self.dir, Mode::Etcd)?;
        self.again.notify_one();
        Ok(())
    }

    /// What would be lost if this machine joined others.
    pub(super) async fn holds(&self) -> Result<Option<String>, ClusterError> {
        use coracle_fleet::model::keys;
        use coracle_store::StoreExt as _;
        let store = self.store();
        let units = store.list(keys::UNITS).await?.kvs.len();
        if units > 0 {
            return Ok(Some(format!("it has {units} units")));
        }
        let app = |kv: &&coracle_store::KeyValue| !kv.key.starts_with(keys::DISCOVERY.as_bytes());
        let found = store.list(keys::APPS).await?.kvs;
        let apps = found.iter().filter(app).count();
        if apps > 0 {
            return Ok(Some(format!("apps have {apps} keys in its store")));
        }
        let containers = self.engine.list().len();
        Ok((containers > 0).then(|| format!("it has {containers} containers")))
    }

    /// Takes everything away that a machine alone has: its units and what apps keep. Volumes and images stay.
    pub(super) async fn discard(&self) -> Result<(), ClusterError> {
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
        Ok(())
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
        if !*self.alone.borrow() && others() > 0 {
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
            for family in [members::PREFIX, coracle_cluster::token::PREFIX] {
                let all = coracle_store::DeleteRangeRequest::prefix(family);
                coracle_store::Store::delete_range(&*self.store(), all).await?;
            }
            self.keys.clear()?;
            epoch::forget(&self.dir)?;
            Home::remove(&self.dir)?;
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
        epoch::forget(&self.dir)?;
        Home::remove(&self.dir)?;
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

    /// Strikes a machine off: its door is shut for it at once, and what it had goes elsewhere.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn strike(&self, machine: &coracle_cluster::MachineId) -> Result<(), ClusterError> {
        use coracle_fleet::model::keys;
        use coracle_store::{DeleteRangeRequest, TxnOp, TxnRequest};
        let id = machine.as_str();
        let store = self.store();
        let delete = |key: String| {
            TxnOp::Delete(match key.ends_with('/') {
                true => DeleteRangeRequest::prefix(key),
                false => DeleteRangeRequest::key(key),
            })
        };
        // A voter's door does the rest for a machine that may not write the list itself.
        let voter = self.authority.borrow().is_some();
        if !voter {
            let client = self.client.get().ok_or(ClusterError::NoMember)?;
            let mut last = None;
            // With the word the door is shut, which may be before its answer is here: then it is asked once more.
            let twice = self.targets().into_iter().flat_map(|t| [t.clone(), t]);
            for target in twice {
                let request = axum::http::Request::delete(format!("/v1/machines/{id}"))
                    .body(axum::body::Body::empty());
                let Ok(request) = request else { continue };
                match client.send(&target, request).await {
                    Ok(answer) if answer.status().is_success() => return Ok(()),
                    // It knows us no more: that is what was asked.
                    Ok(answer) if answer.status() == axum::http::StatusCode::UNAUTHORIZED => {
                        return Ok(());
                    }
                    Ok(answer) => {
                        last = Some(format!("{} answered {}", target.machine, answer.status()))
                    }
                    Err(error) => last = Some(full_error(&error)),
                }
            }
            return Err(ClusterError::CannotLeave(format!(
                "no voter took machine {id} off the list: {}; ask again when one can be reached, or say --force to leave all the same",
                last.unwrap_or_else(|| "none is known".into())
            )));
        }
        members::remove(&*store, machine).await?;
        let gone = [
            keys::alive(id),
            keys::machine(id),
            keys::marks(id),
            keys::desired_of(id),
            keys::actual_of(id),
            keys::subnet(id),
            coracle_cluster::member::record::key(machine),
            coracle_cluster::member::record::leaving(machine),
        ];
        let txn = TxnRequest {
            success: gone.into_iter().map(delete).collect(),
            ..TxnRequest::default()
        };
        store.txn(txn).await?;
        Ok(())
    }
}
