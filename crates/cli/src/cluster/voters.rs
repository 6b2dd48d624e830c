//! The machine that leads sees to it that there are as many voters as there should be, one step at a time.
//!
//! What is decided, and why it does no harm to be killed anywhere or to have been followed by another leader, is in
//! [`coracle_cluster::member::keeping`]. etcd's own members have ids that are never used again, so that a step of one who was slow is about
//! the member that it saw or about none.

use super::Cluster;
use super::error::ClusterError;
use coracle_cluster::MachineId;
use coracle_cluster::member::MemberError;
use coracle_cluster::member::api::{Health, MemberId, Members};
use coracle_cluster::member::config::{MemberConfig, peer_url_beside};
use coracle_cluster::member::keeping::{Known, Seen, Step};
use coracle_cluster::member::record::{self, LEAVING, Record};
use coracle_cluster::members;
use coracle_engine::full_error;
use coracle_fleet::model::{Machine as Facts, keys};
use coracle_store::{StoreExt as _, WatchRequest};
use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Between two looks when nothing happens, and when something is under way.
const QUIET: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_millis(500);
/// How long a machine's etcd may take to say how it stands.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a learner whose machine is there may need to begin.
const BEGINNING: Duration = Duration::from_secs(60);
/// How long etcd may take to give a vote.
const PROMOTE: Duration = Duration::from_secs(5);

/// What is remembered from one look to the next.
#[derive(Default)]
pub(super) struct Past {
    /// Since when machines are silent.
    silent: BTreeMap<MachineId, Instant>,
    /// When machines were taken out because their etcd was lost.
    failed: BTreeMap<MachineId, Instant>,
}

impl Cluster {
    /// Looks after voters for as long as this machine leads.
    pub(super) async fn look_after_voters(self: Arc<Self>) {
        let mut members = self.members.subscribe();
        let mut neighbours = self.neighbours.subscribe();
        let (mut past, mut rest, mut said) = (Past::default(), QUIET, String::new());
        loop {
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                _ = members.changed() => {}
                _ = neighbours.changed() => {}
                () = self.look.notified() => {}
                () = self.stop.cancelled() => return,
            }
            rest = QUIET;
            if !self.leads_voters() {
                past = Past::default();
                continue;
            }
            match self.round(&mut past).await {
                Ok(true) => rest = SOON,
                Ok(false) => said.clear(),
                Err(error) => {
                    rest = SOON;
                    let error = full_error(&error);
                    if error != said {
                        tracing::warn!(error, "voters cannot be looked after now");
                    }
                    said = error;
                }
            }
        }
    }

    /// Has voters looked at when somebody is about to leave.
    pub(super) async fn follow_leaving(self: Arc<Self>) {
        let following = async {
            loop {
                if let Ok(mut watch) = self.store().watch(WatchRequest::prefix(LEAVING)).await {
                    while let Some(Ok(answer)) = watch.next().await {
                        if answer.canceled {
                            break;
                        }
                        self.look.notify_one();
                    }
                }
                tokio::time::sleep(SOON).await;
            }
        };
        tokio::select! {
            () = following => {}
            () = self.stop.cancelled() => {}
        }
    }

    fn leads_voters(&self) -> bool {
        let leads = self.inside.get().is_some_and(|inside| inside.fleet.leads());
        leads && !*self.alone.borrow() && *self.keeps.borrow()
    }

    /// Looks once; answers whether something is under way.
    async fn round(&self, past: &mut Past) -> Result<bool, ClusterError> {
        let patience = self.options.replace_after;
        let seen = self.see(past).await?;
        let plan = seen.plan(&self.machine, patience);
        plan.reason
            .clone_into(&mut self.decided.lock().unwrap_or_else(PoisonError::into_inner));
        let some = !plan.steps.is_empty();
        for step in plan.steps {
            if !self.leads_voters() {
                return Ok(false);
            }
            tracing::info!(?step, reason = plan.reason, "voters change");
            let fails = seen.fails(&step, patience);
            self.step(step).await?;
            if let Some(machine) = fails {
                past.failed.insert(machine, Instant::now());
            }
        }
        Ok(some || seen.learns())
    }

    async fn step(&self, step: Step) -> Result<(), ClusterError> {
        let store = self.store();
        let etcd = Members::at(&self.client_url())?;
        match step {
            Step::List(machine, standing) => {
                members::set_standing(&*store, &machine, standing).await?;
            }
            Step::Tell(machine, entry) => {
                record::tell(&*store, &machine, &entry).await?;
            }
            Step::Add(url) => drop(etcd.add_learner(&url).await?),
            Step::Promote(member) => etcd.promote_when_ready(member, PROMOTE).await?,
            Step::Remove(member) => etcd.remove(member).await?,
            Step::Move(member, url) => etcd.update(member, &url).await?,
        }
        Ok(())
    }

    /// Sees everything that counts. `past` is brought up to now.
    pub(super) async fn see(&self, past: &mut Past) -> Result<Seen, ClusterError> {
        let store = self.store();
        let list = members::list(&*store).await?;
        let list: BTreeMap<_, _> = list.iter().map(|(id, s)| (id.clone(), s)).collect();
        let mut records = BTreeMap::new();
        for kv in store.list(record::PREFIX).await?.kvs {
            let id = id_of(&kv.key, record::PREFIX);
            if let (Some(id), Ok(entry)) = (id, serde_json::from_slice::<Record>(&kv.value)) {
                records.insert(id, entry);
            }
        }
        let leaving = store.list(LEAVING).await?.kvs;
        let leaving: BTreeSet<_> = leaving
            .iter()
            .filter_map(|kv| id_of(&kv.key, LEAVING))
            .collect();
        let facts = store.list(keys::MACHINES).await?.kvs;
        let doors = facts
            .iter()
            .filter_map(|kv| serde_json::from_slice(&kv.value).ok());
        let doors = doors.map(|machine: Facts| (machine.id, machine.door));
        let doors: BTreeMap<String, String> = doors.collect();
        // After the store: what this etcd has done by now is not older than what was read.
        let etcd = Members::at(&self.client_url())?;
        let (all, own) = (etcd.list().await?, etcd.health(ANSWER).await?);
        let mut seen = Seen {
            list,
            etcd: all,
            leader: (own.leader != 0).then_some(MemberId(own.leader)),
            records,
            known: self.known(&leaving, &doors),
            cluster: self.own_cluster()?,
        };
        self.listen(&mut seen, own, past).await;
        Ok(seen)
    }

    /// The name of etcd's cluster, also of one that runs on while its program is gone.
    fn own_cluster(&self) -> Result<String, MemberError> {
        let config = MemberConfig::load(&self.dir)?;
        Ok(config.map(|config| config.cluster).unwrap_or_default())
    }

    /// Machines, with their doors as the store has them now: what this machine knows of them may be older than etcd's list.
    fn known(
        &self,
        leaving: &BTreeSet<MachineId>,
        doors: &BTreeMap<String, String>,
    ) -> BTreeMap<MachineId, Known> {
        let neighbours = self.neighbours.borrow();
        let known = neighbours.iter().filter_map(|(id, neighbour)| {
            let id: MachineId = id.parse().ok()?;
            let door = doors.get(id.as_str()).and_then(|door| door.parse().ok());
            let known = Known {
                peer_url: door.map(peer_url_beside),
                dead: (!neighbour.alive).then_some(Duration::ZERO),
                up: neighbour.alive || id == self.machine,
                door: true,
                failed: None,
                capable: neighbour.can_vote,
                leaving: leaving.contains(&id),
                in_step: false,
            };
            Some((id, known))
        });
        known.collect()
    }

    /// Asks every member's machine how its etcd stands, and notes who is silent, and for how long.
    async fn listen(&self, seen: &mut Seen, own: Health, past: &mut Past) {
        let members: Vec<_> = seen
            .etcd
            .iter()
            .filter_map(|member| Some((seen.machine_of(member)?, member.id, member.learner)))
            .filter(|(id, ..)| *id != self.machine)
            .collect();
        let asked = join_all(members.iter().map(|(id, ..)| self.health_of(id))).await;
        let heard: BTreeMap<_, _> = members
            .iter()
            .zip(asked)
            .map(|((id, member, learner), health)| {
                let door = !matches!(health, Err(Unheard::Silent(_)));
                let health = health.ok().filter(|health| health.member == member.0);
                (id.clone(), (*learner, door, health))
            })
            .collect();
        let now = Instant::now();
        let Past { silent, failed } = past;
        silent.retain(|id, _| seen.known.contains_key(id));
        failed.retain(|id, _| seen.known.contains_key(id));
        for (id, known) in &mut seen.known {
            known.failed = failed.get(id).map(|at| now - *at);
            if *id == self.machine {
                known.dead = None;
                continue;
            }
            let answers = match heard.get(id) {
                Some((_, door, health)) => {
                    known.door = *door;
                    known.in_step = health.is_some_and(|health| health.in_step_with(&own));
                    health.is_some()
                }
                None => true,
            };
            if known.dead.is_none() && answers {
                silent.remove(id);
                continue;
            }
            let since = now - *silent.entry(id.clone()).or_insert(now);
            let learner = heard.get(id).is_some_and(|(learner, ..)| *learner);
            let begins = known.dead.is_none() && learner && since < BEGINNING;
            known.dead = (!begins).then_some(since);
        }
    }

    /// How this machine's own etcd stands.
    ///
    /// # Errors
    /// Why that is not known.
    pub(super) async fn own_health(&self) -> Result<Health, String> {
        if !*self.keeps.borrow() {
            return Err("this machine has no etcd".to_owned());
        }
        let etcd = Members::at(&self.client_url()).map_err(|e| full_error(&e))?;
        etcd.health(ANSWER).await.map_err(|e| full_error(&e))
    }

    /// How a machine's etcd stands, asked of the machine.
    ///
    /// # Errors
    /// Why that is not known.
    pub(super) async fn health_of(&self, machine: &MachineId) -> Result<Health, Unheard> {
        if *machine == self.machine {
            return self.own_health().await.map_err(Unheard::Said);
        }
        self.ask_door(machine.as_str(), "/v1/cluster/etcd").await
    }

    /// Asks a machine's door something short.
    pub(super) async fn ask_door<T: serde::de::DeserializeOwned>(
        &self,
        machine: &str,
        path: &str,
    ) -> Result<T, Unheard> {
        let request = axum::http::Request::get(path).body(axum::body::Body::empty());
        let request = request.map_err(|e| Unheard::Silent(e.to_string()))?;
        self.ask_door_so(machine, request).await
    }

    /// The same of any request whose answer is short.
    pub(super) async fn ask_door_so<T: serde::de::DeserializeOwned>(
        &self,
        machine: &str,
        request: axum::http::Request<axum::body::Body>,
    ) -> Result<T, Unheard> {
        let asked = async {
            let silent = |error: String| Unheard::Silent(error);
            let sent = self.send(machine, request).await;
            let answer = sent.map_err(|e| silent(e.to_string()))?;
            let status = answer.status();
            let body = answer.into_body().collect().await;
            let body = body.map_err(|e| silent(e.to_string()))?.to_bytes();
            match status.is_success() {
                true => serde_json::from_slice(&body).map_err(|e| Unheard::Said(e.to_string())),
                false => Err(Unheard::Said(format!("it answered {status}"))),
            }
        };
        let answer = tokio::time::timeout(ANSWER, asked).await;
        answer.map_err(|_| Unheard::Silent("it does not answer".to_owned()))?
    }
}

/// Why a machine's door did not tell what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unheard {
    /// It did not answer.
    #[error("{0}")]
    Silent(String),
    /// It answered something else.
    #[error("{0}")]
    Said(String),
}

fn id_of(key: &[u8], prefix: &str) -> Option<MachineId> {
    let id = key.strip_prefix(prefix.as_bytes())?;
    std::str::from_utf8(id).ok()?.parse().ok()
}
