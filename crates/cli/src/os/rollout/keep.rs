//! What a cluster keeps of its releases in the store: who has a turn, and how each release stands.

use super::now;
use crate::os::{Os, error::OsError};
use coracle_api::machines::{Known, resolve};
use coracle_fleet::model::keys;
use coracle_os::turns::{FORMAT, Proof, Turn, Turns, Verdict};
use coracle_store::{PutRequest, StoreExt as _};
use semver::Version;
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeSet, time::Duration};

/// Who has a turn.
const TURNS: &str = "/coracle/v1/locks/reboot";
/// How releases stand, each under its number.
const RELEASES: &str = "/coracle/v1/os/releases/";
/// How long the store may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is kept, for people.
#[derive(Debug, Serialize)]
pub struct Kept {
    turns: Turns,
    releases: Vec<(Version, Verdict)>,
}

fn release(version: &Version) -> String {
    format!("{RELEASES}{version}")
}

impl Os {
    async fn kept<T: DeserializeOwned + Format>(
        &self,
        key: &str,
    ) -> Result<Option<(T, i64)>, OsError> {
        let found = tokio::time::timeout(PATIENCE, self.store.get_json::<T>(key));
        let found = found.await.map_err(|_| OsError::Silent)??;
        match found {
            Some((record, _)) if record.format() > FORMAT => {
                Err(OsError::Newer(key.to_owned(), record.format()))
            }
            found => Ok(found),
        }
    }

    /// Changes a record in one step; begins anew if somebody else did meanwhile. `change` gives nothing if nothing is to be changed.
    async fn changed<T: DeserializeOwned + Serialize + Format>(
        &self,
        key: &str,
        mut change: impl FnMut(Option<T>) -> Result<Option<T>, OsError>,
    ) -> Result<(), OsError> {
        loop {
            let (known, revision) = match self.kept(key).await? {
                Some((known, revision)) => (Some(known), Some(revision)),
                None => (None, None),
            };
            let Some(new) = change(known)? else {
                return Ok(());
            };
            let value = serde_json::to_vec(&new).map_err(|e| OsError::Record(key.to_owned(), e))?;
            let put = PutRequest::new(key.to_owned(), value);
            let writing = async {
                match revision {
                    Some(revision) => self.store.replace(put, revision).await,
                    None => self.store.create(put).await,
                }
            };
            let written = tokio::time::timeout(PATIENCE, writing).await;
            let (done, _) = written.map_err(|_| OsError::Silent)??;
            if done {
                return Ok(());
            }
        }
    }

    /// Ids of the machines that there are.
    async fn members(&self) -> Result<BTreeSet<String>, OsError> {
        let listed = tokio::time::timeout(PATIENCE, self.store.list(keys::MACHINES));
        let listed = listed.await.map_err(|_| OsError::Silent)??;
        let ids = listed.kvs.iter().filter_map(|kv| {
            let key = std::str::from_utf8(&kv.key).ok()?;
            key.strip_prefix(keys::MACHINES).map(str::to_owned)
        });
        Ok(ids.collect())
    }

    /// How a release stands in the cluster.
    pub(super) async fn verdict(&self, version: &Version) -> Result<Option<Verdict>, OsError> {
        Ok(self.kept(&release(version)).await?.map(|(v, _)| v))
    }

    /// Says how a release stands, if that changes anything.
    pub(super) async fn judged(
        &self,
        version: &Version,
        standing: Proof,
        reason: Option<String>,
    ) -> Result<(), OsError> {
        let new = Verdict {
            version: FORMAT,
            standing,
            machine: self.name(),
            at: now(),
            reason,
            resumes: 0,
        };
        self.changed(&release(version), |known: Option<Verdict>| {
            Ok(Verdict::after(known.as_ref(), new.clone()))
        })
        .await
    }

    /// This machine's turn, if it has one.
    pub(super) async fn own_turn(&self) -> Result<Option<Turn>, OsError> {
        let turns = self.kept::<Turns>(TURNS).await?;
        let id = self.engine.machine_id();
        Ok(turns.and_then(|(mut turns, _)| turns.holders.remove(id)))
    }

    /// Ids of the other machines that have a turn.
    pub(super) async fn others_away(&self) -> Result<BTreeSet<String>, OsError> {
        let turns = self.kept::<Turns>(TURNS).await?;
        let holders = turns.map(|(turns, _)| turns.holders).unwrap_or_default();
        let own = self.engine.machine_id();
        Ok(holders.into_keys().filter(|id| id != own).collect())
    }

    /// Takes a turn; the same again where it has it.
    ///
    /// # Errors
    /// [`OsError::Wait`].
    pub(super) async fn take_turn(&self, turn: &Turn) -> Result<(), OsError> {
        let (verdict, members) = (self.verdict(&turn.to).await?, self.members().await?);
        let id = self.engine.machine_id();
        self.changed(TURNS, |known: Option<Turns>| {
            let known = known.unwrap_or_default();
            let with = known.with(id, turn.clone(), verdict.as_ref(), &members)?;
            Ok((with != known).then_some(with))
        })
        .await
    }

    /// Gives a turn back.
    pub(super) async fn give_turn(&self, id: &str) -> Result<(), OsError> {
        self.changed(TURNS, |known: Option<Turns>| {
            let mut turns = known.unwrap_or_default();
            Ok(turns.holders.remove(id).map(|_| turns))
        })
        .await
    }

    /// What is kept.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn rollout(&self) -> Result<Kept, OsError> {
        let turns = self.kept::<Turns>(TURNS).await?;
        let listed = tokio::time::timeout(PATIENCE, self.store.list(RELEASES));
        let listed = listed.await.map_err(|_| OsError::Silent)??;
        let read = |kv: &coracle_store::KeyValue| {
            let key = std::str::from_utf8(&kv.key).ok()?;
            let version = key.strip_prefix(RELEASES)?.parse().ok()?;
            Some((version, serde_json::from_slice(&kv.value).ok()?))
        };
        let mut releases: Vec<(Version, Verdict)> = listed.kvs.iter().filter_map(read).collect();
        releases.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Kept {
            turns: turns.map(|(turns, _)| turns).unwrap_or_default(),
            releases,
        })
    }

    /// How many machines may be away at once.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn set_at_once(&self, count: u32) -> Result<(), OsError> {
        self.changed(TURNS, |known: Option<Turns>| {
            let known = known.unwrap_or_default();
            let at_once = count.max(1);
            Ok((known.at_once != at_once).then_some(Turns { at_once, ..known }))
        })
        .await
    }

    /// Takes a machine's turn away; its host name.
    ///
    /// # Errors
    /// [`OsError::NoTurn`]; those of the store.
    pub async fn unlock(&self, machine: &str) -> Result<String, OsError> {
        let turns = self.kept::<Turns>(TURNS).await?;
        let holders = turns.map(|(turns, _)| turns.holders).unwrap_or_default();
        let known = holders.into_iter().map(|(id, turn)| Known {
            id,
            hostname: turn.name,
            alive: true,
            last_seen: None,
        });
        let known: Vec<Known> = known.collect();
        let found = resolve(machine, &known).map_err(OsError::NoTurn)?;
        self.give_turn(&found.id).await?;
        self.rollout.wake.notify_one();
        Ok(found.hostname.clone())
    }

    /// Has a release tried again that failed.
    ///
    /// # Errors
    /// [`OsError::NotStopped`]; those of the store.
    pub async fn resume(&self, version: &Version) -> Result<(), OsError> {
        let known = self.verdict(version).await?;
        let resumes = known.as_ref().map_or(0, |v| v.resumes);
        let here = self.declined(version, resumes)?.is_some();
        if !here && !known.is_some_and(|v| v.standing == Proof::Failed) {
            return Err(OsError::NotStopped(version.clone()));
        }
        self.judged(version, Proof::Resumed, None).await?;
        self.rollout.wake.notify_one();
        Ok(())
    }

    /// This machine's host name.
    pub(super) fn name(&self) -> String {
        let name = rustix::system::uname();
        name.nodename().to_string_lossy().into_owned()
    }
}

/// A record that says which format it has.
trait Format {
    fn format(&self) -> u32;
}

impl Format for Turns {
    fn format(&self) -> u32 {
        self.version
    }
}

impl Format for Verdict {
    fn format(&self) -> u32 {
        self.version
    }
}
