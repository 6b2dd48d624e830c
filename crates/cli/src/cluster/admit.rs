//! How a cluster begins, how machines come in, and how they leave.

use super::address::door_of;
use super::certify::{certify, peer_tls};
use super::error::ClusterError;
use super::{Cluster, home::Home};
use coracle_cluster::door::DoorOptions;
use coracle_cluster::join::{Admit, Join, Newcomer, Voter, join};
use coracle_cluster::member::aside::put_aside;
use coracle_cluster::member::config::MemberConfig;
use coracle_cluster::member::moving::{Mode, Move, set_mode};
use coracle_cluster::members;
use coracle_cluster::pki::{Authority, Identity, Kind};
use coracle_cluster::token::{Token, issue};
use coracle_engine::full_error;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long etcd may take to start and to be compared when the store moves.
const MOVE: Duration = Duration::from_secs(60);

/// What a machine has that joining takes from it.
#[derive(Debug, Clone, Default)]
pub struct Discarded {
    /// Units.
    pub units: usize,
    /// Keys of apps.
    pub keys: usize,
    /// Containers, those of units among them.
    pub containers: usize,
    /// Where copies of a former cluster's store are now.
    pub aside: Option<PathBuf>,
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
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
        if uses == 0 || ttl.is_zero() {
            return Err(ClusterError::Useless);
        }
        let _one = self.change.lock().await;
        if !self.is_founded() {
            self.found().await?;
        }
        let authority = self.as_voter()?;
        let token = Token::random(authority.pin())
            .map_err(|e| ClusterError::File(std::io::Error::other(e)))?;
        issue(&*self.store(), &token, ttl, uses, who, now()).await?;
        Ok(token)
    }

    /// The CA, whose key voters have.
    ///
    /// # Errors
    /// `NoMember`, `NoVoter`.
    pub(super) fn as_voter(&self) -> Result<Arc<Authority>, ClusterError> {
        if !self.is_founded() {
            return Err(ClusterError::NoMember);
        }
        self.authority.borrow().clone().ok_or_else(|| {
            let voters = self.voters.borrow();
            let voters = voters.iter().map(|v| self.called(v.machine.as_str()));
            ClusterError::NoVoter {
                voters: voters.collect::<Vec<_>>().join(", "),
            }
        })
    }

    /// Makes a CA and this machine its first member. May be cut short and done again.
    async fn found(self: &Arc<Self>) -> Result<(), ClusterError> {
        let authority = Authority::found(&self.keys)?;
        // What a leave of an older release has left here.
        if let Some(aside) = put_aside(&self.dir)? {
            tracing::info!(path = %aside.display(), "copies of a former cluster's store are put aside");
        }
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
            self.told().await.map_err(|e| full_error(&e))
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
        self.fits(&joined.answer.extra)?;
        let mut gone = self.discard().await?;
        self.learn_epoch(&joined.answer.voters).await?;
        gone.aside = put_aside(&self.dir)?;
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
    pub(super) async fn holds(&self) -> Result<Option<String>, ClusterError> {
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
            aside: None,
        })
    }

    /// Takes everything away that a machine alone has: its units and what apps keep. Volumes and images stay.
    pub(super) async fn discard(&self) -> Result<Discarded, ClusterError> {
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
}
