//! Which store counts after one was made anew: machines ask each other, and go over to it.
//! See [`coracle_cluster::member::epoch`].

use super::{Cluster, ClusterError, Home, failed};
use crate::server::DaemonError;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use coracle_cluster::door::{DoorClient, Target};
use coracle_cluster::join::Voter;
use coracle_cluster::member::config::MemberConfig;
use coracle_cluster::member::epoch::{Epoch, KEY, Recovering};
use coracle_cluster::member::recover::{stand_down, tidy};
use coracle_cluster::member::run::runs;
use coracle_cluster::member::{MemberError, epoch};
use coracle_cluster::pki::{Authority, Directory, Identity, Kind};
use coracle_engine::{Engine, full_error};
use coracle_store::{StoreError, StoreExt as _};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http_body_util::{BodyExt as _, Limited};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Between two rounds of questions.
const LOOK: Duration = Duration::from_secs(5);
/// How long a round may take.
const ROUND: Duration = Duration::from_secs(5);
/// The same before this machine's etcd starts, which waits for it.
const BEFORE: Duration = Duration::from_secs(2);
/// How long the store may take to answer before it counts as away.
pub(super) const ANSWER: Duration = Duration::from_secs(2);
/// Bytes of an answer at most.
const LARGEST: usize = 64 << 10;

/// What comes of a question to the cluster's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Nothing.
    Nothing,
    /// It answers.
    Own,
    /// One answers that was made anew after this machine's etcd began; this machine is to go over to it.
    Later,
}

/// Asks those machines; the epoch that counts before `known` and is proved, if there is one.
async fn newest(
    client: &DoorClient,
    identity: &Identity,
    machines: Vec<Target>,
    known: Option<&Epoch>,
    within: Duration,
) -> Option<Epoch> {
    let mut answers: FuturesUnordered<_> =
        machines.iter().map(|target| ask(client, target)).collect();
    let mut best: Option<Epoch> = None;
    let all = async {
        while let Some(answer) = answers.next().await {
            let Some(epoch) = answer.filter(|epoch| epoch.beats(known)) else {
                continue;
            };
            if let Err(error) = epoch.verify(identity.ca()) {
                tracing::warn!(machine = %epoch.machine, number = epoch.number, error = full_error(&error), "a store that was made anew is not proved, and not believed");
            } else if epoch.beats(best.as_ref()) {
                best = Some(epoch);
            }
        }
    };
    // Who does not answer in time is asked in the next round.
    let _ = tokio::time::timeout(within, all).await;
    best
}

async fn ask(client: &DoorClient, target: &Target) -> Option<Epoch> {
    let request = axum::http::Request::get("/v1/cluster/epoch").body(axum::body::Body::empty());
    let answer = client.send(target, request.ok()?).await.ok()?;
    if answer.status() != StatusCode::OK {
        return None;
    }
    let body = Limited::new(answer.into_body(), LARGEST).collect().await;
    serde_json::from_slice(&body.ok()?.to_bytes()).ok()
}

fn targets(home: &Home, own: &coracle_cluster::MachineId) -> Vec<Target> {
    let all = home.machines.iter();
    let others = all.filter(|(id, (_, door))| *id != own.as_str() && !door.is_empty());
    others
        .filter_map(|(id, (_, door))| {
            Some(Target {
                machine: id.parse().ok()?,
                addresses: vec![door.clone()],
            })
        })
        .collect()
}

/// What an epoch is looked for with, before the daemon is whole.
pub(super) struct Early<'e> {
    pub engine: &'e Engine,
    pub dir: &'e Path,
    pub keys: &'e Directory,
    pub client: &'e DoorClient,
    pub identity: &'e Identity,
}

impl Early<'_> {
    /// Before this machine's etcd is started: one that was given up for lost must not come back as if nothing had been. Answers what
    /// this machine knows of, and changes `home` if that is new.
    pub async fn check(&self, home: &mut Home) -> Result<Option<Epoch>, DaemonError> {
        let known = Epoch::load(self.dir).map_err(|e| failed("reading epoch.json")(Box::new(e)))?;
        let config = MemberConfig::load(self.dir);
        let config = config.map_err(|e| failed("reading member.json")(Box::new(e)))?;
        let recovering = Recovering::load(self.dir);
        let recovering = recovering.map_err(|e| failed("reading recovering.json")(Box::new(e)))?;
        let is_its_own =
            recovering.is_some_and(|found| found.is_in_place(self.dir, self.identity.machine()));
        let Some(config) = config.filter(|_| !is_its_own) else {
            return Ok(known);
        };
        let found = match &known {
            // It knows already, and has not gone over.
            Some(known) if known.ends(&config) => Some(known.clone()),
            // One that runs is looked after by `follow_epochs`: a daemon's restart does not wait.
            _ if runs(self.engine).await => None,
            _ => {
                let machines = targets(home, self.identity.machine());
                newest(self.client, self.identity, machines, known.as_ref(), BEFORE).await
            }
        };
        let Some(epoch) = found else {
            return Ok(known);
        };
        self.go_over(home, &epoch, Some(&config), known.as_ref())
            .await
            .map_err(failed("leaving the store that was given up"))?;
        Ok(Some(epoch))
    }

    /// This machine's own etcd is given up if the epoch ends it, and the store is asked of who made it anew. May be cut short and done
    /// again: the epoch is written last.
    async fn go_over(
        &self,
        home: &mut Home,
        epoch: &Epoch,
        config: Option<&MemberConfig>,
        known: Option<&Epoch>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if config.is_none_or(|config| epoch.ends(config)) {
            tracing::warn!(
                machine = %epoch.machine, number = epoch.number,
                "the store was made anew on another machine; this one goes over to it, its own copy is put aside in STATE_DIR/cluster/etcd"
            );
            stand_down(self.engine, self.dir).await?;
            tidy(self.dir)?;
            Authority::forget(self.keys)?;
            if known != Some(epoch) {
                home.voters = vec![Voter {
                    machine: epoch.machine.clone(),
                    address: epoch.address.clone(),
                }];
                home.members.values_mut().for_each(|voter| *voter = false);
                home.members.insert(epoch.machine.clone(), true);
                home.save(self.dir)?;
            }
        }
        // What this machine had begun of its own is of the store that was given up, also where the new one has told it of an etcd already.
        Recovering::remove(self.dir)?;
        epoch.save(self.dir)?;
        Ok(())
    }
}

impl Cluster {
    /// A machine that comes in asks where it is: it was not there when the store was made anew.
    pub(super) async fn learn_epoch(&self, voters: &[Voter]) -> Result<(), ClusterError> {
        let Some(identity) = Identity::open(&self.keys, Kind::Machine, &self.machine)? else {
            return Ok(());
        };
        // What another cluster may have left.
        epoch::forget(&self.dir)?;
        let client = super::client(&identity)?;
        let all = voters.iter().map(|voter| Target {
            machine: voter.machine.clone(),
            addresses: vec![voter.address.clone()],
        });
        if let Some(epoch) = newest(&client, &identity, all.collect(), None, BEFORE).await {
            epoch.save(&self.dir)?;
        }
        Ok(())
    }

    /// What other machines are told, whoever they are: a machine that was given up may be no member any more.
    pub(super) fn epoch_router(self: &Arc<Self>) -> Router {
        async fn answer(State(cluster): State<Arc<Cluster>>) -> Response {
            match &*cluster.epoch.borrow() {
                Some(epoch) => Json(epoch).into_response(),
                None => StatusCode::NO_CONTENT.into_response(),
            }
        }
        Router::new()
            .route("/v1/cluster/epoch", get(answer))
            .with_state(self.clone())
    }

    /// Whether the cluster's store answers.
    pub(super) async fn answers(&self) -> bool {
        self.said().await != Said::Nothing
    }

    /// Which store answers, if one does. What it says of its epoch is kept.
    pub(super) async fn said(&self) -> Said {
        let asked = self.switch.get_json::<Epoch>(KEY);
        match tokio::time::timeout(ANSWER, asked).await {
            Ok(Ok(Some((epoch, _)))) => match self.know(epoch) {
                Ok(true) => Said::Own,
                Ok(false) => Said::Later,
                Err(error) => {
                    tracing::warn!(
                        error = full_error(&error),
                        "epoch.json could not be written"
                    );
                    Said::Own
                }
            },
            Ok(Ok(None)) => Said::Own,
            // It was asked, and says something that this release cannot read.
            Ok(Err(StoreError::Json { .. })) => Said::Own,
            Ok(Err(_)) | Err(_) => Said::Nothing,
        }
    }

    /// Keeps an epoch that is new here and proved. False where this machine still runs, or would run, an etcd that it ends, as one that
    /// reads by others' doors may: then nothing is kept, as if this machine had gone over.
    fn know(&self, epoch: Epoch) -> Result<bool, MemberError> {
        let Some(identity) = self.identity.get() else {
            return Ok(true);
        };
        if epoch.verify(identity.ca()).is_err() {
            return Ok(true);
        }
        if MemberConfig::load(&self.dir)?.is_some_and(|config| epoch.ends(&config)) {
            return Ok(false);
        }
        if epoch.beats(self.epoch.borrow().as_ref()) {
            epoch.save(&self.dir)?;
            self.epoch.send_replace(Some(epoch));
        }
        Ok(true)
    }

    /// Asks the others as long as this machine's etcd may be one that was given up, or the store does not answer.
    pub(super) async fn follow_epochs(self: Arc<Self>) {
        let mut checked = 0;
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.stop.cancelled() => return,
            }
            if *self.alone.borrow() {
                continue;
            }
            let answers = self.answers().await;
            let number = self.epoch.borrow().as_ref().map_or(0, |epoch| epoch.number);
            if answers && number != checked && self.check_texts().await {
                checked = number;
            }
            // Who would have none, and reaches a store, has nothing to go over with.
            if answers && !MemberConfig::path(&self.dir).exists() {
                continue;
            }
            if let Err(error) = self.look_for_epoch().await {
                tracing::error!(%error, "this machine cannot go over to the store that was made anew yet");
            }
        }
    }

    /// What this machine keeps of units must be what the store has that counts now.
    pub(super) async fn check_texts(&self) -> bool {
        let Some(inside) = self.inside.get() else {
            return false;
        };
        let checked = inside.fleet.check_texts().await;
        if let Err(error) = &checked {
            tracing::debug!(error = full_error(error), "units' texts are compared later");
        }
        checked.is_ok()
    }

    /// Whether nothing is to begin anew here by that epoch: this machine asks its store, has an etcd of it, or is about to begin one itself.
    fn has_gone_over(&self, epoch: &Epoch) -> Result<bool, MemberError> {
        if self.in_place()?.is_some() {
            return Ok(true);
        }
        Ok(match MemberConfig::load(&self.dir)? {
            Some(config) => !epoch.ends(&config),
            None => {
                let voters = self.voters.borrow();
                let asks_it = voters.iter().any(|voter| voter.machine == epoch.machine);
                asks_it || self.epoch.borrow().as_ref() == Some(epoch)
            }
        })
    }

    async fn look_for_epoch(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (Some(client), Some(identity)) = (self.client.get(), self.identity.get()) else {
            return Ok(());
        };
        let machines = targets(&self.home(), &self.machine);
        let known = self.epoch.borrow().clone();
        let found = newest(client, identity, machines, known.as_ref(), ROUND).await;
        let Some(epoch) = found.or(known) else {
            return Ok(());
        };
        if self.has_gone_over(&epoch)? {
            self.know(epoch)?;
            return Ok(());
        }
        let (_one, _part) = (self.change.lock().await, self.part.lock().await);
        // Meanwhile this machine may have made the store anew itself, have learnt of it, or have begun an etcd there.
        let known = self.epoch.borrow().clone();
        if known
            .as_ref()
            .is_some_and(|known| known.beats(Some(&epoch)))
            || self.has_gone_over(&epoch)?
        {
            return Ok(());
        }
        let config = MemberConfig::load(&self.dir)?;
        self.stop_own().await?;
        let early = Early {
            engine: &self.engine,
            dir: &self.dir,
            keys: &self.keys,
            client,
            identity,
        };
        let mut home = self.home();
        let gone_over = early
            .go_over(&mut home, &epoch, config.as_ref(), known.as_ref())
            .await;
        if gone_over.is_ok() {
            self.recovering.store(false, Ordering::Release);
            // Whoever writes it from here on writes the same.
            self.voters.send_replace(home.voters.clone());
            self.members.send_replace(home.members());
        }
        self.again.notify_one();
        gone_over
    }
}
