//! This machine's etcd: begun when it is told to have one, ended when it was taken out, while the daemon runs.
//!
//! ```text
//! told in   ──▶ the CA's key and a certificate from a voter ──▶ member.json ──▶ etcd runs, and learns
//! (the list says voter: it is asked first from then on, and this machine may lead)
//! told out  ──▶ etcd ends ──▶ member.json, its data and the CA's key go ──▶ a machine as any other
//! ```
//! Killed anywhere on the way, the next daemon finds the entry and what is on disk, and goes on from there.

use super::Cluster;
use super::certify::peer_tls;
use super::error::ClusterError;
use coracle_cluster::join::become_voter;
use coracle_cluster::member::api::Members;
use coracle_cluster::member::config::{Initial, MemberConfig};
use coracle_cluster::member::moving::clear;
use coracle_cluster::member::record::{Act, Record, act, key};
use coracle_cluster::member::recover::make_room;
use coracle_cluster::member::run::Member;
use coracle_cluster::pki::{Authority, Identity, Kind};
use coracle_engine::full_error;
use coracle_store::{Store as _, StoreExt as _, WatchRequest};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// How long what could not be done is left alone.
const REST: Duration = Duration::from_secs(1);
/// How often this machine's etcd is asked how it stands, and after how many questions in vain another machine is to lead.
const HEALTH: Duration = Duration::from_secs(5);
const AILING: u32 = 3;

impl Cluster {
    /// Follows what this machine is told of its etcd.
    pub(super) async fn follow_own(self: Arc<Self>) {
        let mut said = String::new();
        loop {
            let error = tokio::select! {
                error = self.own_changes() => error,
                () = self.stop.cancelled() => return,
            };
            if let Err(error) = error {
                let error = full_error(&error);
                if error != said {
                    tracing::warn!(error, "this machine's etcd is not as it is to be yet");
                }
                said = error;
            }
            tokio::time::sleep(REST).await;
        }
    }

    /// Notices when this machine's etcd does not answer any more, as who has none cannot look after voters.
    pub(super) async fn follow_own_health(self: Arc<Self>) {
        let mut failed = 0;
        loop {
            tokio::select! {
                () = tokio::time::sleep(HEALTH) => {}
                () = self.stop.cancelled() => return,
            }
            failed = match *self.keeps.borrow() {
                true => failed + 1,
                false => 0,
            };
            if failed > 0 && self.own_health().await.is_ok() {
                failed = 0;
            }
            let ailing = failed >= AILING;
            self.ailing
                .send_if_modified(|known| std::mem::replace(known, ailing) != ailing);
        }
    }

    /// Does what the entry says, and waits for its next change; ends when the watch does.
    async fn own_changes(self: &Arc<Self>) -> Result<(), ClusterError> {
        let key = key(&self.machine);
        let mut watch = self.etcd.watch(WatchRequest::key(key.clone())).await?;
        loop {
            let entry = self.etcd.get_json::<Record>(&key).await?;
            self.follow_entry(entry.map(|(entry, _)| entry)).await?;
            match watch.next().await {
                Some(Ok(answer)) if !answer.canceled => {}
                Some(Err(error)) => return Err(error.into()),
                _ => return Ok(()),
            }
        }
    }

    async fn follow_entry(self: &Arc<Self>, entry: Option<Record>) -> Result<(), ClusterError> {
        // Not dropped half done when the daemon stops waiting for it.
        let cluster = self.clone();
        let done = tokio::spawn(async move {
            let _one = cluster.part.lock().await;
            let config = MemberConfig::load(&cluster.dir)?;
            let begun = config.as_ref().is_some_and(MemberConfig::has_begun);
            let Some(entry) = entry else { return Ok(()) };
            match (act(Some(&entry), config.as_ref(), begun), config) {
                (Act::Rest, _) => Ok(()),
                (Act::Note, Some(config)) => Ok(MemberConfig {
                    member: Some(entry.member),
                    ..config
                }
                .save(&cluster.dir)?),
                (Act::End, _) => cluster.end_own().await,
                (Act::Begin | Act::BeginAnew | Act::Note, _) => cluster.begin_own(entry).await,
            }
        });
        done.await
            .map_err(|e| ClusterError::File(std::io::Error::other(e)))?
    }

    /// Begins an etcd that the others have added.
    async fn begin_own(self: &Arc<Self>, entry: Record) -> Result<(), ClusterError> {
        let found = self.find_etcd().await?;
        let client = self.client.get().ok_or(ClusterError::NoMember)?;
        let identity = self.identity.get().ok_or(ClusterError::NoMember)?;
        let (keys, addresses) = (&self.keys, self.addresses());
        let (_, peer) = become_voter(keys, client, identity, &self.targets(), addresses).await?;
        self.stop_own().await?;
        make_room(&self.engine, &self.dir, &entry.cluster).await?;
        let config = MemberConfig {
            initial: Initial::Existing,
            initial_cluster: entry.peers,
            cluster: entry.cluster,
            member: Some(entry.member),
            program: self.options.program.clone(),
            ..MemberConfig::first(
                &self.dir,
                self.machine.clone(),
                self.advertise.ip(),
                self.advertise.port(),
                Some(peer_tls(keys)),
            )
        };
        config.save(&self.dir)?;
        tracing::info!("this machine's etcd begins, with a copy of the store");
        let member = Member::start(self.engine.clone(), &found, config, &self.dir);
        *self.member() = Some(member);
        self.keeps.send_replace(true);
        self.renew_peer(peer);
        Ok(())
    }

    /// Ends an etcd that the others have taken out, with all that it has.
    async fn end_own(self: &Arc<Self>) -> Result<(), ClusterError> {
        tracing::info!(
            "this machine's etcd was taken out; it ends, and its copy of the store goes"
        );
        self.stop_own().await?;
        self.authority.send_replace(None);
        Authority::forget(&self.keys)?;
        // Last, so that a daemon that is killed before does all of it again.
        Ok(clear(&self.engine, &self.dir).await?)
    }

    /// Stops it, if there is one; the store is asked elsewhere first.
    pub(super) async fn stop_own(&self) -> Result<(), ClusterError> {
        self.peer_stop
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .cancel();
        self.keeps.send_replace(false);
        self.stand();
        let member = self.member().take();
        match member {
            Some(member) => Ok(member.stop().await?),
            None => Ok(()),
        }
    }

    /// Renews the certificate for etcd's peers as long as this machine's etcd is there; etcd reads the files at each connection.
    pub(super) fn renew_peer(self: &Arc<Self>, peer: Arc<Identity>) {
        let stop = self.stop.child_token();
        *self
            .peer_stop
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = stop.clone();
        tokio::spawn(self.clone().look_after_certificates(peer, Kind::Peer, stop));
    }

    /// Notes which member this machine's etcd is, as soon as that answers.
    pub(super) async fn note_own(&self, mut config: MemberConfig) -> Result<(), ClusterError> {
        let all = Members::at(&config.client_url())?.list().await?;
        let own = all
            .iter()
            .find(|member| member.name == self.machine.as_str());
        config.member = own.map(|own| own.id.0);
        Ok(config.save(&self.dir)?)
    }
}
