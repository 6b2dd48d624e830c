//! Beginning anew with what this machine has of the store, when those who had it are lost for good.
//!
//! ```text
//! recovering.json   what is to be is written down                       ┐ cut short here, the old state is there and
//! restore           the new etcd is made beside the old, and put in its place  ┘ `cluster recover` is to be said again
//! (the daemon begins anew: a CA of its own if there was no key for the old one; etcd runs)
//! finish            who votes and who is out is written into the store  ┐ cut short here, the next daemon goes on
//! epoch.json        from here on the others are told                    ┘
//! ```

use super::certify::{certify, peer_tls};
use super::dying::reached;
use super::epochs::Said;
use super::snapshots::seconds;
use super::strike::gone;
use super::{Cluster, ClusterError, Home, Options};
use coracle_cluster::join::Voter;
use coracle_cluster::member::MemberError;
use coracle_cluster::member::aside::put_aside;
use coracle_cluster::member::config::MemberConfig;
use coracle_cluster::member::epoch::{Epoch, KEY, Recovering};
use coracle_cluster::member::moving::{Mode, mode, set_mode};
use coracle_cluster::member::record::{PREFIX as ETCDS, cluster_of};
use coracle_cluster::member::recover::{Source, own_database, restore, tidy};
use coracle_cluster::member::snapshots::verify;
use coracle_cluster::members::{self, Listed, Member as Entry, Standing};
use coracle_cluster::pki::{Authority, Directory, Kind};
use coracle_cluster::{MachineId, member};
use coracle_engine::full_error;
use coracle_fleet::model::{LeaderRecord, keys};
use coracle_store::{
    Compare, DeleteRangeRequest, PutRequest, Revision, Store as _, StoreExt as _, TxnOp, TxnRequest,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

/// Between two tries to finish.
const REST: Duration = Duration::from_millis(500);
/// How long the list may take to be known here.
const KNOWN: Duration = Duration::from_secs(10);

/// What a recovery would begin with.
pub(super) struct Plan {
    source: Source,
    path: PathBuf,
    revision: Revision,
    written: SystemTime,
    new_ca: bool,
    /// Voters that lose their vote.
    voters: Vec<MachineId>,
    /// The other machines.
    others: Vec<MachineId>,
}

/// This machine, as it recovers.
pub(super) struct Own<'o> {
    pub dir: &'o Path,
    pub keys: &'o Directory,
    pub machine: &'o MachineId,
    pub options: &'o Options,
}

impl Own<'_> {
    /// How its etcd is run, as the only one of that epoch.
    fn config(&self, number: u64) -> MemberConfig {
        let door = self.options.advertise;
        MemberConfig {
            cluster: cluster_of(self.machine, number),
            program: self.options.program.clone(),
            ..MemberConfig::first(
                self.dir,
                self.machine.clone(),
                door.ip(),
                door.port(),
                Some(peer_tls(self.keys)),
            )
        }
    }

    /// Called when the daemon starts, before anything is asked of its keys: what a restored store needs is made whole. A machine
    /// without the CA's key makes itself a CA; nobody has seen that before it is whole, so one that was cut short is made once more.
    /// Nobody has a vote until the list in the new store says so.
    pub fn make_whole(&self) -> Result<(), ClusterError> {
        let Some(mut recovering) = Recovering::load(self.dir)? else {
            return Ok(());
        };
        if !recovering.is_in_place(self.dir, self.machine) {
            if mode(self.dir)? != Mode::Etcd {
                // It was alone, and is as if nothing had been.
                Recovering::remove(self.dir)?;
            }
            return Ok(());
        }
        let config = self.config(recovering.number);
        let known = MemberConfig::load(self.dir)?;
        if known.is_none_or(|known| known.cluster != config.cluster) {
            config.save(self.dir)?;
        }
        set_mode(self.dir, Mode::Etcd)?;
        reached(self.dir, "configured");
        let mut home = Home::load(self.dir)?;
        home.voters = vec![Voter {
            machine: self.machine.clone(),
            address: self.options.advertise.to_string(),
        }];
        if !recovering.new_ca || recovering.ca_made {
            home.members.values_mut().for_each(|voter| *voter = false);
            home.save(self.dir)?;
            reached(self.dir, "forgotten");
            return Ok(());
        }
        self.keys.clear()?;
        reached(self.dir, "keyless");
        let authority = Authority::found(self.keys)?;
        reached(self.dir, "founded");
        let addresses = [self.options.advertise.ip()];
        for kind in [Kind::Machine, Kind::Peer] {
            certify(self.keys, self.machine, &addresses, &authority, kind)?;
        }
        reached(self.dir, "certified");
        home.members = [(self.machine.clone(), false)].into();
        home.keys.clear();
        home.save(self.dir)?;
        reached(self.dir, "at home");
        recovering.ca_made = true;
        recovering.save(self.dir)?;
        reached(self.dir, "ca made");
        Ok(())
    }
}

impl Cluster {
    /// What would be done, or why not.
    ///
    /// # Errors
    /// `CannotRecover`; `Etcd` for a file that cannot be read.
    pub(super) async fn plan(&self, from: Option<&Path>) -> Result<Plan, ClusterError> {
        self.has_address()?;
        let no = |why: String| Err(ClusterError::CannotRecover(why));
        if *self.alone.borrow() {
            if from.is_none() {
                return no("this machine's store is its own and nothing of it is lost; a copy of another cluster's store is taken over with --from FILE".into());
            }
            if self.is_founded() {
                return no("this machine has a store of its own and has given tokens for it; `coracle leave` first, which keeps what it has".into());
            }
            if let Some(what) = self.holds().await? {
                return no(format!(
                    "this machine is not empty ({what}): taking over another store would lose it; stop and destroy it first"
                ));
            }
        }
        let standing: Vec<(MachineId, Standing)> = {
            let members = self.members.borrow();
            let all = members.iter().filter(|(id, _)| **id != self.machine);
            all.map(|(id, standing)| (id.clone(), standing)).collect()
        };
        let (voters, others): (Vec<_>, Vec<_>) = standing
            .into_iter()
            .partition(|(_, standing)| *standing == Standing::Voter);
        let ids = |all: Vec<(MachineId, Standing)>| all.into_iter().map(|(id, _)| id).collect();
        let (voters, others): (Vec<MachineId>, Vec<MachineId>) = (ids(voters), ids(others));
        if !*self.alone.borrow() && self.answers().await {
            if Recovering::load(&self.dir)?.is_some() {
                return no(
                    "it is on its way already; `coracle cluster status` says when it is done"
                        .into(),
                );
            }
            if from.is_none() || !voters.is_empty() || self.member().is_none() {
                return no("the cluster's store answers, so nothing is to be recovered; an older copy takes its place only on the one machine that votes, with --from FILE".into());
            }
        }
        // A machine with a copy and no vote has the key too, which counts; a CA that a recovery before made is nobody else's yet.
        let new_ca =
            Authority::open(&self.keys)?.is_none() || self.in_place()?.is_some_and(|r| r.new_ca);
        let dir = self.dir.clone();
        let copies = self.copies();
        let from = from.map(Path::to_owned);
        let chosen = tokio::task::spawn_blocking(move || choose(&dir, copies, from)).await;
        let (source, path, revision) =
            chosen.map_err(|e| ClusterError::File(std::io::Error::other(e)))??;
        let written = path.metadata().and_then(|meta| meta.modified())?;
        Ok(Plan {
            source,
            path,
            revision,
            written,
            new_ca,
            voters,
            others,
        })
    }

    /// One that is on its way and has the new etcd in its place.
    pub(super) fn in_place(&self) -> Result<Option<Recovering>, MemberError> {
        let found = Recovering::load(&self.dir)?;
        Ok(found.filter(|found| found.is_in_place(&self.dir, &self.machine)))
    }

    /// Whether one is on its way.
    pub(super) fn is_recovering(&self) -> bool {
        Recovering::load(&self.dir).is_ok_and(|found| found.is_some())
    }

    /// As it is shown to who decides.
    pub(super) fn shown_plan(&self, plan: &Plan) -> Value {
        let called = |ids: &[MachineId]| -> Vec<String> {
            ids.iter().map(|id| self.called(id.as_str())).collect()
        };
        json!({
            "source": match plan.source {
                Source::Own => "own",
                Source::Snapshot(_) => "snapshot",
            },
            "path": plan.path,
            "revision": plan.revision,
            "written": seconds(plan.written),
            "new_ca": plan.new_ca,
            "voters": called(&plan.voters),
            "others": called(&plan.others),
        })
    }

    /// Does it. Afterwards the daemon begins anew, and finishes it.
    ///
    /// # Errors
    /// As [`Self::plan`]; what etcd says. What was there is there still then.
    pub(super) async fn recover(
        self: &Arc<Self>,
        from: Option<&Path>,
    ) -> Result<Value, ClusterError> {
        let _one = self.change.lock().await;
        let plan = self.plan(from).await?;
        let found = self.find_etcd().await?;
        let known = self.epoch.borrow().as_ref().map_or(0, |epoch| epoch.number);
        let number = known + 1;
        if let Some(authority) = Authority::open(&self.keys)? {
            self.certified(&authority, Kind::Peer)?;
        }
        let own = Own {
            dir: &self.dir,
            keys: &self.keys,
            machine: &self.machine,
            options: &self.options,
        };
        let config = own.config(number);
        let recovering = Recovering {
            ca_made: self.in_place()?.is_some_and(|before| before.ca_made),
            ..Recovering::new(number, plan.new_ca)
        };
        recovering.save(&self.dir)?;
        reached(&self.dir, "noted");
        tracing::warn!(path = %plan.path.display(), revision = plan.revision, "the store is made anew");
        let _part = self.part.lock().await;
        let (dir, source) = (&self.dir, &plan.source);
        let restored = async {
            if *self.alone.borrow() {
                // Of what it has as one that is alone nothing is anybody's.
                self.discard().await?;
                // What a leave of an older release has left here is another cluster's, unless it is just what is to be restored.
                if !plan.path.starts_with(&self.dir) {
                    put_aside(&self.dir)?;
                }
                reached(dir, "discarded");
            }
            self.stop_own().await?;
            let done = |step| reached(dir, &format!("{step:?}"));
            let restored = restore(&self.engine, &found, &config, dir, source, &done).await?;
            if !plan.new_ca {
                self.forget_votes();
            }
            Ok::<_, ClusterError>(restored)
        };
        let restored = restored.await;
        if restored.is_err() && !recovering.is_in_place(dir, &self.machine) {
            // What was there goes on as if nothing had been.
            if let Err(error) = Recovering::remove(dir).and_then(|()| tidy(dir)) {
                tracing::warn!(
                    error = full_error(&error),
                    "what a recovery left could not be removed yet"
                );
            }
        }
        // Whatever came of it, the next daemon goes by the files.
        self.again.notify_one();
        let restored = restored?;
        Ok(json!({ "revision": restored.revision, "former": restored.former }))
    }

    /// Nobody has a vote until the list in the new store says so; see [`Self::try_to_finish`].
    fn forget_votes(&self) {
        let members = self.members.borrow().clone();
        let plain = |listed: Listed| Listed {
            standing: Standing::Machine,
            ..listed
        };
        let all = members.listed();
        self.members.send_replace(
            all.map(|(id, listed)| (id.clone(), plain(listed)))
                .collect(),
        );
        self.voters.send_replace(vec![Voter {
            machine: self.machine.clone(),
            address: self.advertise.to_string(),
        }]);
        self.write_home();
    }

    /// Writes into the new store who has it, as soon as that answers, and lets the others know.
    pub(super) async fn finish_recovery(self: Arc<Self>) {
        let mut said = false;
        loop {
            match self.try_to_finish().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) if !std::mem::replace(&mut said, true) => {
                    tracing::warn!(
                        error = full_error(&error),
                        "the recovery of the store is not finished yet"
                    );
                }
                Err(_) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(REST) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Who led the store before does not lead this one, though its lease may go on when it comes back.
    async fn end_of_the_leader(&self) -> Result<(), ClusterError> {
        let Some(leader) = self.etcd.get(keys::LEADER).await? else {
            return Ok(());
        };
        let record: Option<LeaderRecord> = serde_json::from_slice(&leader.value).ok();
        if record.is_none_or(|record| record.machine != self.machine.as_str()) {
            let end = TxnRequest {
                compare: vec![Compare::unchanged(keys::LEADER, leader.mod_revision)],
                success: vec![TxnOp::Delete(DeleteRangeRequest::key(keys::LEADER))],
                failure: vec![],
            };
            self.etcd.txn(end).await?;
        }
        Ok(())
    }

    /// Whether there is nothing left to do.
    async fn try_to_finish(&self) -> Result<bool, ClusterError> {
        let Some(recovering) = Recovering::load(&self.dir)? else {
            return Ok(true);
        };
        if !recovering.is_in_place(&self.dir, &self.machine) {
            if self.said().await != Said::Own {
                // It was cut short before there was anything new: it is to be said again, unless this machine is about to go over to
                // what another one made.
                return Ok(false);
            }
            tracing::warn!(
                "the store is back as it was, and the recovery that was cut short is given up"
            );
            Recovering::remove(&self.dir)?;
            tidy(&self.dir)?;
            return Ok(true);
        }
        let authority = Authority::open(&self.keys)?;
        let identity = self.identity.get();
        let (Some(authority), Some(identity)) = (authority, identity) else {
            return Ok(false);
        };
        let key = identity.request()?.key;
        // Not by way of the list, which this is to change.
        let store = self.etcd.clone();
        let mut entry = match members::get(&*store, &self.machine).await? {
            Some((entry, _)) => entry,
            None => Entry::new(key, seconds(SystemTime::now())),
        };
        (entry.voter, entry.learner, entry.key) = (true, false, key);
        let value = serde_json::to_vec(&entry).map_err(std::io::Error::other)?;
        let put = PutRequest::new(members::key(&self.machine), value);
        store.put(put).await?;
        reached(&self.dir, "listed");
        let listed = members::list(&*store).await?;
        for (machine, standing) in listed.iter().filter(|(id, _)| **id != self.machine) {
            if recovering.new_ca {
                // Its certificate is of a CA that is gone. Nobody else can lead here.
                let out = TxnRequest {
                    success: gone(machine),
                    ..TxnRequest::default()
                };
                store.txn(out).await?;
            } else if standing != Standing::Machine {
                members::set_standing(&*store, machine, Standing::Machine).await?;
            }
        }
        reached(&self.dir, "struck");
        store
            .delete_range(DeleteRangeRequest::prefix(ETCDS))
            .await?;
        self.end_of_the_leader().await?;
        let epoch = Epoch::new(
            &authority,
            recovering.number,
            self.machine.clone(),
            self.advertise.to_string(),
        )?;
        self.check_texts().await;
        reached(&self.dir, "led by nobody");
        store.put_json(KEY, &epoch).await?;
        reached(&self.dir, "told");
        epoch.save(&self.dir)?;
        reached(&self.dir, "known");
        self.epoch.send_replace(Some(epoch));
        // As soon as that is known here, it is the list that says whom this machine asks. It may have been read before what was
        // written above; so what counts is that it says now what it did not say in the beginning.
        let mut known = self.members.subscribe();
        let votes = known.wait_for(|known| known.standing(&self.machine) == Some(Standing::Voter));
        if tokio::time::timeout(KNOWN, votes).await.is_err() {
            return Ok(false);
        }
        self.write_home();
        reached(&self.dir, "home");
        Recovering::remove(&self.dir)?;
        reached(&self.dir, "finished");
        self.recovering.store(false, Ordering::Release);
        self.stand();
        tracing::info!(number = recovering.number, "the store is recovered");
        Ok(true)
    }
}

/// What is newest, unless somebody says: this machine's own etcd, or a copy.
fn choose(
    dir: &Path,
    copies: Vec<member::snapshots::Taken>,
    from: Option<PathBuf>,
) -> Result<(Source, PathBuf, Revision), MemberError> {
    if let Some(path) = from {
        let revision = verify(&path)?;
        return Ok((Source::Snapshot(path.clone()), path, revision));
    }
    let path = own_database(dir)?;
    let own = verify(&path);
    let copy = copies.into_iter().find_map(|taken| {
        let revision = verify(&taken.path).ok()?;
        Some((Source::Snapshot(taken.path.clone()), taken.path, revision))
    });
    match (own, copy) {
        (Ok(own), Some(copy)) if copy.2 > own => Ok(copy),
        (Ok(own), _) => Ok((Source::Own, path, own)),
        (Err(_), Some(copy)) => Ok(copy),
        (Err(error), None) => Err(error),
    }
}
