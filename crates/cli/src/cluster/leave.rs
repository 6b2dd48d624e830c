//! How a machine leaves its cluster. Before one that has the store goes, another takes its place.

use super::Cluster;
use super::error::ClusterError;
use coracle_cluster::MachineId;
use coracle_cluster::member::epoch;
use coracle_cluster::member::moving::{Mode, clear, set_mode};
use coracle_cluster::member::record::leaving;
use coracle_cluster::member::voters::may_go;
use coracle_cluster::members::Standing;
use coracle_engine::full_error;
use coracle_store::{PutRequest, machine_lease};
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
        // Of one that has nothing of the store nothing is to be handed over.
        let keeps = self.standing() > Some(Standing::Machine);
        if !*self.alone.borrow()
            && others() > 0
            && keeps
            && !self.is_struck().await
            && let Err(error) = self.hand_over(&self.machine).await
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
            self.keys.clear()?;
            epoch::forget(&self.dir)?;
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
        epoch::forget(&self.dir)?;
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

    /// Has a machine taken out of etcd's members, in whatever order keeps a majority; answers when that is done. Of one that is none of them
    /// nothing is to be done.
    ///
    /// # Errors
    /// `CannotLeave` where nobody can take its place, or has not in time.
    pub(super) async fn hand_over(
        self: &Arc<Self>,
        machine: &MachineId,
    ) -> Result<(), ClusterError> {
        let standing = || self.members.borrow().standing(machine);
        match standing() {
            Some(Standing::Machine) | None => return Ok(()),
            Some(Standing::Learner) => {}
            Some(Standing::Voter) => self.may_be_without(machine).await?,
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

    /// Whether this machine was taken off the list, by a voter's word; then its own list does not follow any more.
    pub(super) async fn is_struck(&self) -> bool {
        let Some(client) = self.client.get() else {
            return false;
        };
        for target in self.targets() {
            let request = axum::http::Request::get("/v1/cluster/voters");
            let Ok(request) = request.body(axum::body::Body::empty()) else {
                continue;
            };
            let asked = tokio::time::timeout(WORD, client.send(&target, request)).await;
            if let Ok(Ok(answer)) = asked {
                return answer.status() == axum::http::StatusCode::UNAUTHORIZED;
            }
        }
        false
    }

    /// Whether a voter can go.
    async fn may_be_without(&self, machine: &MachineId) -> Result<(), ClusterError> {
        // By what is known here; whoever leads looks again before each step.
        let seen = self.see(&mut super::voters::Past::default()).await?;
        may_go(&seen.machines(&self.machine), machine).map_err(|why| {
            let name = self.called(machine.as_str());
            ClusterError::CannotLeave(format!(
                "{name} cannot go: {why}; join another machine that has etcd (packages etcd-server and etcd-client), start those that do not answer, or have the others leave first; --force leaves all the same, and what is in the store may be lost with it"
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
        // It runs out by itself.
        let _ = store.lease_revoke(lease).await;
        if done {
            return Ok(());
        }
        let name = self.called(machine.as_str());
        Err(ClusterError::CannotLeave(format!(
            "no other machine has taken the place of {name} within {} s; `coracle cluster status` says what is waited for, and it may be asked again",
            PATIENCE.as_secs()
        )))
    }
}
