//! How a machine leaves its cluster. Before one that has the store goes, another takes its place.

use super::Cluster;
use super::error::ClusterError;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use coracle_cluster::MachineId;
use coracle_cluster::member::aside::put_aside;
use coracle_cluster::member::epoch;
use coracle_cluster::member::moving::{Mode, clear, set_mode};
use coracle_cluster::member::record::leaving;
use coracle_cluster::member::voters::may_go;
use coracle_cluster::members::{self, Standing};
use coracle_cluster::pki::{Authority, Item};
use coracle_engine::full_error;
use coracle_store::{PutRequest, machine_lease};
use futures_util::future::join_all;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long it is waited until another has taken the place of a machine that goes.
const PATIENCE: Duration = Duration::from_secs(90);
/// Seconds that the word of it stays when nobody waits any more.
const LEASE: i64 = 15;
const BEAT: Duration = Duration::from_secs(3);
/// How long a voter may take to say whether this machine belongs to its cluster.
const WORD: Duration = Duration::from_secs(5);

impl Cluster {
    /// Takes this machine out of its cluster; afterwards the daemon begins anew, alone. Answers where the copies of that cluster's store
    /// are that were here, if there were any. What was cut short is done again, or finished where this machine is alone already.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn leave(self: &Arc<Self>, force: bool) -> Result<Option<PathBuf>, ClusterError> {
        if !self.is_founded() {
            if !*self.alone.borrow() || !self.keys.path(Item::CaCertificate).exists() {
                return Err(ClusterError::NoMember);
            }
            let _one = self.change.lock().await;
            let aside = put_aside(&self.dir)?;
            self.forget_cluster()?;
            return Ok(aside);
        }
        let others = || {
            let members = self.members.borrow();
            members
                .iter()
                .filter(|(id, _)| **id != self.machine)
                .count()
        };
        let shared = !*self.alone.borrow() && others() > 0;
        // Of one that has nothing of the store nothing is to be handed over.
        let keeps = self.standing() > Some(Standing::Machine);
        let votes = self.authority.borrow().is_some();
        // Of one that was removed neither, and nobody is to be told: the others let it in no more.
        let struck = shared && (keeps || votes) && self.is_struck().await;
        if shared
            && keeps
            && !struck
            && let Err(error) = self.hand_over(&self.machine, true).await
        {
            if !force {
                return Err(error);
            }
            tracing::warn!(
                error = full_error(&error),
                "nobody has taken this machine's place"
            );
        }
        let _one = self.change.lock().await;
        if *self.alone.borrow() {
            // Nobody has joined: units and what apps keep are this machine's own.
            for family in super::agreed::OWN {
                let all = coracle_store::DeleteRangeRequest::prefix(family);
                coracle_store::Store::delete_range(&*self.store(), all).await?;
            }
            let aside = put_aside(&self.dir)?;
            self.forget_cluster()?;
            self.again.notify_one();
            return Ok(aside);
        }
        let others = others();
        if *self.keeps.borrow() && others == 0 && !force {
            return Err(ClusterError::CannotLeave(
                "this machine has the cluster's store, which leaving would lose with all units and what apps keep; it may stay as a cluster of one, or say --force to lose them".into(),
            ));
        }
        if others > 0
            && !struck
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
        // Before the file says that this machine is alone: cut short after that, one with the CA's key would be taken for a founder.
        self.stop_own().await?;
        self.authority.send_replace(None);
        Authority::forget(&self.keys)?;
        let aside = put_aside(&self.dir)?;
        set_mode(&self.dir, Mode::Embedded)?;
        clear(&self.engine, &self.dir).await?;
        self.forget_cluster()?;
        self.again.notify_one();
        Ok(aside)
    }

    /// Removes what says in which cluster this machine was.
    fn forget_cluster(&self) -> Result<(), ClusterError> {
        self.keys.clear()?;
        epoch::forget(&self.dir)?;
        Ok(self.forget_home()?)
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

    /// Has a machine taken out of etcd's members, in whatever order keeps a majority; answers when that is done. Of one that is none of them
    /// nothing is to be done. `leaves`: the machine itself was asked, and not to remove it.
    ///
    /// # Errors
    /// `CannotLeave` where nobody can take its place, or has not in time.
    pub(super) async fn hand_over(
        self: &Arc<Self>,
        machine: &MachineId,
        leaves: bool,
    ) -> Result<(), ClusterError> {
        let standing = || self.members.borrow().standing(machine);
        match standing() {
            Some(Standing::Machine) | None => return Ok(()),
            Some(Standing::Learner) => {}
            Some(Standing::Voter) => self.may_be_without(machine, leaves).await?,
        }
        let own = *machine == self.machine;
        if own {
            self.leaving.send_replace(true);
        }
        let done = self.out_of_the_list(machine).await;
        if own && done.is_err() {
            self.leaving.send_replace(false);
        }
        done
    }

    /// Whether this machine was taken off the list, by the store's word or else by the voters'; its own list does not follow any more then.
    /// A voter that has just come back may not know of this machine yet: one that does counts for more.
    async fn is_struck(&self) -> bool {
        let listed = members::get(&*self.etcd, &self.machine);
        if let Ok(Ok(listed)) = tokio::time::timeout(WORD, listed).await {
            return listed.is_none();
        }
        let Some(client) = self.client.get() else {
            return false;
        };
        let targets = self.targets();
        let asked = join_all(targets.iter().map(|target| async move {
            let request = Request::get("/v1/cluster/voters").body(Body::empty());
            let sent = client.send(target, request.ok()?);
            let answer = tokio::time::timeout(WORD, sent).await.ok()?.ok()?;
            Some(answer.status() == StatusCode::UNAUTHORIZED)
        }));
        let answers: Vec<bool> = asked.await.into_iter().flatten().collect();
        !answers.is_empty() && answers.into_iter().all(|unknown| unknown)
    }

    /// Whether a voter can go.
    async fn may_be_without(&self, machine: &MachineId, leaves: bool) -> Result<(), ClusterError> {
        let name = self.called(machine.as_str());
        // By what is known here; whoever leads looks again before each step.
        let seen = match self.see(&mut super::voters::Past::default()).await {
            Err(error) if leaves => {
                return Err(ClusterError::CannotLeave(format!(
                    "{name} has a vote that it cannot hand over, since its own etcd, or the store, does not answer ({}); `coracle machine remove {name}` on another machine takes it out, and `coracle leave` makes it alone then; --force leaves at once, and the others have it on their list until it is removed there",
                    full_error(&error)
                )));
            }
            seen => seen?,
        };
        may_go(&seen.machines(&self.machine), machine).map_err(|why| {
            // Of a removal there is no such option.
            let force = match leaves {
                true => "; --force leaves all the same, and what is in the store may be lost with it",
                false => "",
            };
            ClusterError::CannotLeave(format!(
                "{name} cannot go: {why}; join another machine that has etcd (packages etcd-server and etcd-client), start those that do not answer, or have the others leave first{force}"
            ))
        })
    }

    async fn out_of_the_list(&self, machine: &MachineId) -> Result<(), ClusterError> {
        let store = self.store();
        let lease = machine_lease(self.machine.as_str());
        let lease = store.lease_grant(LEASE, lease).await?.id;
        let put = PutRequest::new(leaving(machine), "").with_lease(lease);
        store.put(put).await?;
        let mut members = self.members.subscribe();
        let gone = members.wait_for(|members| {
            members
                .standing(machine)
                .is_none_or(|now| now == Standing::Machine)
        });
        let kept = async {
            loop {
                tokio::time::sleep(BEAT).await;
                if let Err(error) = store.lease_keep_alive(lease).await {
                    tracing::debug!(
                        error = full_error(&error),
                        "the word of a leave is not kept"
                    );
                }
            }
        };
        let done = tokio::select! {
            _ = gone => true,
            () = kept => false,
            () = tokio::time::sleep(PATIENCE) => false,
        };
        if done {
            // The word of it goes with the machine's entry: as long as that is there, the leader would let it in again.
            let _ = store.lease_keep_alive(lease).await;
            // One that has no vote any more is struck off by those who have.
            self.stand();
            return Ok(());
        }
        // It runs out by itself.
        let _ = store.lease_revoke(lease).await;
        let name = self.called(machine.as_str());
        Err(ClusterError::CannotLeave(format!(
            "no other machine has taken the place of {name} within {} s; `coracle cluster status` says what is waited for, and it may be asked again",
            PATIENCE.as_secs()
        )))
    }
}
