//! Copies of the store on this machine: taken as long as it runs etcd, and listed.

use super::{Cluster, ClusterError};
use coracle_cluster::member::run::State;
use coracle_cluster::member::snapshots::Taken;
use coracle_cluster::members::Standing;
use coracle_engine::full_error;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How soon it is seen that this machine runs etcd now.
const LOOK: Duration = Duration::from_secs(3);

/// Seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// As it is shown.
pub(super) fn shown(taken: &Taken) -> Value {
    json!({
        "path": taken.path,
        "revision": taken.revision,
        "taken": seconds(taken.time),
        "bytes": taken.path.metadata().map_or(0, |meta| meta.len()),
    })
}

impl Cluster {
    /// Takes copies whenever this machine runs etcd, for as long as the daemon lives.
    pub(super) async fn keep_copies(self: Arc<Self>) {
        loop {
            // An etcd that only learns gives none; its own data is the copy.
            let learns = self.standing() == Some(Standing::Learner);
            let found = match learns {
                true => None,
                false => self.member().as_ref().map(|m| (m.store(), m.state())),
            };
            if let Some((Ok(store), mut state)) = found {
                let (stop, stopped) = tokio::sync::watch::channel(false);
                // Also when nobody looks after it any more.
                let ended = state.wait_for(|state| *state == State::Stopped);
                let every = self.options.snapshots.every;
                tokio::select! {
                    () = self.snapshots.run(&store, every, stopped) => {}
                    _ = ended => {}
                    () = self.stop.cancelled() => {}
                }
                drop(stop);
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Takes one now.
    ///
    /// # Errors
    /// Where this machine runs no etcd, or it gives none.
    pub(super) async fn take_copy(&self) -> Result<Taken, ClusterError> {
        let store = self.member().as_ref().map(|member| member.store());
        let Some(store) = store else {
            let others: Vec<String> = self
                .voters
                .borrow()
                .iter()
                .filter(|voter| voter.machine != self.machine)
                .map(|voter| self.called(voter.machine.as_str()))
                .collect();
            return Err(ClusterError::CannotCopy(match others.as_slice() {
                [] => "this machine's store is its own, and no etcd: `coracle store snapshot save FILE` copies it".into(),
                others => format!("this machine does not run the cluster's etcd; ask one that does: {}", others.join(", ")),
            }));
        };
        Ok(self.snapshots.take(&store?).await?)
    }

    /// Those that are there, the newest first.
    pub(super) fn copies(&self) -> Vec<Taken> {
        self.snapshots.list().unwrap_or_else(|error| {
            tracing::warn!(error = full_error(&error), "snapshots cannot be listed");
            Vec::new()
        })
    }
}
