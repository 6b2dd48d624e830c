//! A machine that was away for long may know none of those any more that have the store: then it asks all machines that it knows.
//!
//! There may be none to ask but voters whose addresses have changed. So these tell every machine that gives no sign where they are,
//! again and again: it believes a member, since whoever is at an address has to show that it is the machine that is looked for.

use super::Cluster;
use axum::body::Body;
use axum::http::{Request, header};
use coracle_cluster::join::Voter;
use coracle_cluster::members::Standing;
use coracle_store::etcd::State;
use futures_util::future::join_all;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// How long the store is away before others are asked, and between two times that they are.
const REST: Duration = Duration::from_secs(5);
/// How much of what others name is kept: some addresses for each of at most five voters.
const MANY: usize = 16;

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
        self.hear(answers.into_iter().flatten().flatten());
    }

    /// Others name these machines as having the store.
    fn hear(&self, voters: impl Iterator<Item = Voter>) {
        let mut new = Vec::new();
        for voter in voters.filter(|voter| voter.machine != self.machine) {
            if !self.heard().contains(&voter) && !new.contains(&voter) {
                new.push(voter);
            }
        }
        if !new.is_empty() {
            tracing::info!(?new, "others name these machines as having the store");
            let mut heard = self.heard();
            // What is heard last counts first, and all of it is about machines that are few.
            new.append(&mut heard);
            new.truncate(MANY);
            *heard = new;
            drop(heard);
            self.aim();
        }
    }

    /// What another machine tells without being asked; of no use while the store is there.
    pub(super) fn is_told(&self, voters: Vec<Voter>) {
        if *self.etcd.state().borrow() == State::CutOff {
            self.hear(voters.into_iter());
        }
    }

    /// Who has the store, as far as is known here.
    pub(super) fn named(&self) -> Vec<Voter> {
        let mut voters = self.voters.borrow().clone();
        if let Some(own) = voters.iter_mut().find(|v| v.machine == self.machine) {
            // It knows that before the store does.
            let door = self.door();
            if !door.is_empty() {
                own.address = door;
            }
        }
        for voter in self.heard().iter() {
            if !voters.contains(voter) {
                voters.push(voter.clone());
            }
        }
        voters
    }

    /// A voter tells machines that give no sign who has the store.
    pub(super) async fn tell_silent(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(REST) => {}
                () = self.stop.cancelled() => return,
            }
            if !*self.keeps.borrow() || self.standing() != Some(Standing::Voter) {
                continue;
            }
            let voters = self.named();
            let neighbours = self.neighbours.borrow().clone();
            let silent = neighbours
                .iter()
                .filter(|(id, n)| !n.alive && **id != self.machine.as_str() && !n.door.is_empty());
            join_all(silent.map(|(id, _)| self.tell(id, &voters))).await;
        }
    }

    async fn tell(&self, machine: &str, voters: &[Voter]) {
        let body = serde_json::to_vec(voters).unwrap_or_default();
        let request = Request::post("/v1/cluster/voters")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body));
        // One that is off does not answer, and most that give no sign are off.
        if let Ok(request) = request
            && let Err(error) = self.ask_door_so::<Value>(machine, request).await
        {
            tracing::trace!(machine, %error, "a silent machine cannot be told of voters");
        }
    }
}
