//! A machine that was away for long may know none of those any more that have the store: then it asks all machines that it knows.

use super::Cluster;
use coracle_cluster::join::Voter;
use coracle_store::etcd::State;
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;

/// How long the store is away before others are asked, and between two times that they are.
const REST: Duration = Duration::from_secs(5);

impl Cluster {
    /// Asks for voters whenever none of those that are known answers.
    pub(super) async fn seek_voters(self: Arc<Self>) {
        let mut state = self.etcd.state();
        let seeking = async {
            loop {
                if state
                    .wait_for(|state| *state == State::CutOff)
                    .await
                    .is_err()
                {
                    return;
                }
                tokio::time::sleep(REST).await;
                if *state.borrow_and_update() != State::CutOff {
                    continue;
                }
                self.seek().await;
            }
        };
        tokio::select! {
            () = seeking => {}
            () = self.stop.cancelled() => {}
        }
    }

    async fn seek(&self) {
        let machines: Vec<String> = self.neighbours.borrow().keys().cloned().collect();
        let others = machines.iter().filter(|id| **id != self.machine.as_str());
        let asked = others.map(|id| self.ask_door::<Vec<Voter>>(id, "/v1/cluster/voters"));
        let answers = join_all(asked).await;
        let mut heard = Vec::new();
        for voter in answers.into_iter().flatten().flatten() {
            if !heard.contains(&voter) {
                heard.push(voter);
            }
        }
        if *self.heard() != heard {
            tracing::info!(?heard, "others name these machines as having the store");
            *self.heard() = heard;
            self.aim();
        }
    }
}
