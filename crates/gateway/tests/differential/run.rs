//! Runs operations on one server and says what it answered, without what is only its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use coracle_etcd_proto::etcdserverpb as pb;
use coracle_etcd_proto::etcdserverpb::compare::TargetUnion;
use coracle_etcd_proto::etcdserverpb::request_op::Request as RequestUnion;
use coracle_etcd_proto::etcdserverpb::response_op::Response as ResponseUnion;
use coracle_etcd_proto::etcdserverpb::watch_request::RequestUnion as WatchUnion;
use coracle_etcd_proto::mvccpb;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::watch_client::WatchClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use super::ops::*;

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Range(pb::RangeResponse),
    Put(pb::PutResponse),
    Delete(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    Grant(pb::LeaseGrantResponse),
    Revoke(pb::LeaseRevokeResponse),
    KeepAlive(pb::LeaseKeepAliveResponse),
    TimeToLive(pb::LeaseTimeToLiveResponse),
    Leases(pb::LeaseLeasesResponse),
    Watch(pb::WatchResponse),
    Canceled,
    Error(Code, String),
}

/// What a watch told, however it was cut.
#[derive(Clone, Default, PartialEq)]
pub struct Told {
    pub events: Vec<mvccpb::Event>,
    pub compact_revision: i64,
    pub canceled: bool,
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kv = |kv: &Option<mvccpb::KeyValue>| match kv {
            None => "-".to_owned(),
            Some(kv) => format!(
                "{:?}={:?} ({}, {}, {}, {})",
                kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease
            ),
        };
        for event in &self.events {
            let kind = event.r#type().as_str_name();
            writeln!(f, "{kind} {} before: {}", kv(&event.kv), kv(&event.prev_kv))?;
        }
        write!(
            f,
            "compacted {}, canceled {}",
            self.compact_revision, self.canceled
        )
    }
}

struct Watching {
    key: Bytes,
    end: Bytes,
    no_put: bool,
    no_delete: bool,
    start: i64,
    told: Told,
    /// We ended it; then what it told last is chance.
    ended: bool,
}

impl Watching {
    fn contains(&self, key: &[u8]) -> bool {
        match &self.end[..] {
            b"" => key == self.key,
            b"\0" => key >= &self.key[..],
            end => key >= &self.key[..] && key < end,
        }
    }
}

pub struct Side {
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    watch: WatchClient<Channel>,
    head: i64,
    stream: Option<(mpsc::Sender<pb::WatchRequest>, Streaming<pb::WatchResponse>)>,
    watches: BTreeMap<i64, Watching>,
    /// Those whose id was given anew.
    over: Vec<Told>,
    /// Revisions compacted at.
    compacted: BTreeSet<i64>,
}

fn bare(header: &mut Option<pb::ResponseHeader>) -> i64 {
    let header = header.as_mut().unwrap();
    (header.cluster_id, header.member_id, header.raft_term) = (0, 0, 0);
    header.revision
}

fn bare_steps(responses: &mut [pb::ResponseOp]) {
    for response in responses {
        let header = match response.response.as_mut().unwrap() {
            ResponseUnion::ResponseRange(r) => &mut r.header,
            ResponseUnion::ResponsePut(r) => &mut r.header,
            ResponseUnion::ResponseDeleteRange(r) => &mut r.header,
            ResponseUnion::ResponseTxn(r) => {
                bare_steps(&mut r.responses);
                &mut r.header
            }
        };
        bare(header);
    }
}

impl Side {
    pub fn new(channel: Channel) -> Self {
        Self {
            kv: KvClient::new(channel.clone()),
            lease: LeaseClient::new(channel.clone()),
            watch: WatchClient::new(channel),
            head: 1,
            stream: None,
            watches: BTreeMap::new(),
            over: Vec::new(),
            compacted: BTreeSet::new(),
        }
    }

    pub fn drop_watches(&mut self) {
        self.stream = None;
        self.watches.clear();
        self.over.clear();
    }

    /// An empty store, as far as there is one: revisions go on.
    pub async fn clear(&mut self) {
        self.drop_watches();
        for id in 1..5 {
            let _ = self.lease.lease_revoke(pb::LeaseRevokeRequest { id }).await;
        }
        let all = Bytes::from_static(b"\0");
        let all = pb::DeleteRangeRequest {
            key: all.clone(),
            range_end: all,
            prev_kv: false,
        };
        let answer = self.kv.delete_range(all).await.unwrap().into_inner();
        self.head = answer.header.unwrap().revision;
    }

    fn at(&self, at: At) -> i64 {
        match at {
            At::Zero => 0,
            At::Ago(n) => (self.head - n).max(1),
            At::Ahead(n) => self.head + n,
            At::Exactly(n) => n,
        }
    }

    fn range(&self, range: &Range) -> pb::RangeRequest {
        let [min_mod, max_mod, min_create, max_create] = range.bounds.map(|at| self.at(at));
        pb::RangeRequest {
            key: range.key.clone(),
            range_end: range.end.clone(),
            limit: range.limit,
            revision: self.at(range.revision),
            sort_order: range.order,
            sort_target: range.target,
            serializable: false,
            keys_only: range.keys_only,
            count_only: range.count_only,
            min_mod_revision: min_mod,
            max_mod_revision: max_mod,
            min_create_revision: min_create,
            max_create_revision: max_create,
        }
    }

    fn put(put: &Put) -> pb::PutRequest {
        pb::PutRequest {
            key: put.key.clone(),
            value: put.value.clone(),
            lease: put.lease,
            prev_kv: put.prev_kv,
            ignore_value: put.ignore_value,
            ignore_lease: put.ignore_lease,
        }
    }

    fn delete(delete: &Delete) -> pb::DeleteRangeRequest {
        pb::DeleteRangeRequest {
            key: delete.key.clone(),
            range_end: delete.end.clone(),
            prev_kv: delete.prev_kv,
        }
    }

    fn txn(&self, txn: &Txn) -> pb::TxnRequest {
        let compare = txn.compare.iter().map(|compare| {
            let (target, union) = match &compare.target {
                Target::Version(n) => (0, TargetUnion::Version(*n)),
                Target::Create(at) => (1, TargetUnion::CreateRevision(self.at(*at))),
                Target::Mod(at) => (2, TargetUnion::ModRevision(self.at(*at))),
                Target::Value(value) => (3, TargetUnion::Value(value.clone())),
                Target::Lease(id) => (4, TargetUnion::Lease(*id)),
                Target::Mixed(kind, union) => (*kind, union.clone()),
            };
            pb::Compare {
                result: compare.result,
                target,
                key: compare.key.clone(),
                range_end: compare.end.clone(),
                target_union: Some(union),
            }
        });
        let step = |step: &Step| pb::RequestOp {
            request: match step {
                Step::Range(range) => Some(RequestUnion::RequestRange(self.range(range))),
                Step::Put(put) => Some(RequestUnion::RequestPut(Self::put(put))),
                Step::Delete(d) => Some(RequestUnion::RequestDeleteRange(Self::delete(d))),
                Step::Txn(txn) => Some(RequestUnion::RequestTxn(self.txn(txn))),
                Step::Nothing => None,
            },
        };
        pb::TxnRequest {
            compare: compare.collect(),
            success: txn.success.iter().map(step).collect(),
            failure: txn.failure.iter().map(step).collect(),
        }
    }

    pub async fn run(&mut self, op: &Op) -> Outcome {
        match self.try_run(op).await {
            Ok(outcome) => outcome,
            Err(status) => Outcome::Error(status.code(), status.message().to_owned()),
        }
    }

    async fn try_run(&mut self, op: &Op) -> Result<Outcome, tonic::Status> {
        let (outcome, revision) = match op {
            Op::Range(range) => {
                let request = self.range(range);
                let mut answer = self.kv.range(request).await?.into_inner();
                let revision = bare(&mut answer.header);
                (Outcome::Range(answer), revision)
            }
            Op::Put(put) => {
                let mut answer = self.kv.put(Self::put(put)).await?.into_inner();
                let revision = bare(&mut answer.header);
                (Outcome::Put(answer), revision)
            }
            Op::Delete(delete) => {
                let request = Self::delete(delete);
                let mut answer = self.kv.delete_range(request).await?.into_inner();
                let revision = bare(&mut answer.header);
                (Outcome::Delete(answer), revision)
            }
            Op::Txn(txn) => {
                let request = self.txn(txn);
                let mut answer = self.kv.txn(request).await?.into_inner();
                bare_steps(&mut answer.responses);
                let revision = bare(&mut answer.header);
                (Outcome::Txn(answer), revision)
            }
            Op::Compact(at) => {
                // A watch that still reads history is told what it can be told first: etcd lets it wait for 100 ms.
                self.sync().await;
                let revision = self.at(*at);
                let request = pb::CompactionRequest {
                    revision,
                    physical: false,
                };
                self.compacted.insert(revision);
                let mut answer = self.kv.compact(request).await?.into_inner();
                let revision = bare(&mut answer.header);
                (Outcome::Compact(answer), revision)
            }
            Op::Grant { id, ttl } => {
                let request = pb::LeaseGrantRequest { id: *id, ttl: *ttl };
                let mut answer = self.lease.lease_grant(request).await?.into_inner();
                let revision = bare(&mut answer.header);
                (Outcome::Grant(answer), revision)
            }
            Op::Revoke(id) => {
                let request = pb::LeaseRevokeRequest { id: *id };
                let mut answer = self.lease.lease_revoke(request).await?.into_inner();
                let revision = bare(&mut answer.header);
                (Outcome::Revoke(answer), revision)
            }
            Op::KeepAlive(id) => {
                let once = tokio_stream::once(pb::LeaseKeepAliveRequest { id: *id });
                let answers = self.lease.lease_keep_alive(once).await?;
                let mut answer = answers.into_inner().message().await?.unwrap();
                let revision = bare(&mut answer.header);
                (Outcome::KeepAlive(answer), revision)
            }
            Op::TimeToLive { id, keys } => {
                let (id, keys) = (*id, *keys);
                let request = pb::LeaseTimeToLiveRequest { id, keys };
                let mut answer = self.lease.lease_time_to_live(request).await?.into_inner();
                // It was granted a moment ago, at a slightly other time.
                if answer.ttl > 0 && answer.granted_ttl - answer.ttl <= 2 {
                    answer.ttl = answer.granted_ttl;
                }
                // etcd's are in no order.
                answer.keys.sort();
                let revision = bare(&mut answer.header);
                (Outcome::TimeToLive(answer), revision)
            }
            Op::Leases => {
                let request = pb::LeaseLeasesRequest {};
                let mut answer = self.lease.lease_leases(request).await?.into_inner();
                answer.leases.sort_by_key(|lease| lease.id);
                let revision = bare(&mut answer.header);
                (Outcome::Leases(answer), revision)
            }
            Op::Watch(watch) => (Outcome::Watch(self.watch(watch).await?), 0),
            Op::Cancel(id) => (self.cancel(*id).await?, 0),
        };
        self.head = self.head.max(revision);
        Ok(outcome)
    }

    async fn ask(&mut self, union: WatchUnion) -> Result<(), tonic::Status> {
        let request = pb::WatchRequest {
            request_union: Some(union),
        };
        if let Some((ask, _)) = &self.stream {
            ask.send(request).await.unwrap();
            return Ok(());
        }
        // etcd answers the call with its first response only.
        let (ask, asked) = mpsc::channel(8);
        ask.send(request).await.unwrap();
        let stream = self.watch.watch(ReceiverStream::new(asked)).await?;
        self.stream = Some((ask, stream.into_inner()));
        Ok(())
    }

    /// Reads until an answer is the one waited for; what else comes is noted.
    async fn until(
        &mut self,
        mut found: impl FnMut(&pb::WatchResponse, &BTreeMap<i64, Watching>) -> bool,
    ) -> Result<pb::WatchResponse, tonic::Status> {
        loop {
            let (_, stream) = self.stream.as_mut().unwrap();
            let message = tokio::time::timeout(Duration::from_secs(10), stream.message());
            let mut answer = match message.await {
                Ok(answer) => answer?.expect("the stream goes on"),
                Err(_) => return Err(tonic::Status::deadline_exceeded("nothing comes")),
            };
            bare(&mut answer.header);
            if let Some(watching) = self.watches.get_mut(&answer.watch_id)
                && !answer.created
            {
                let events = answer.events.iter().filter(|event| {
                    // etcd before 3.5.18 forgets a deletion at the very revision of the compaction, which a watch from
                    // there should be told.
                    event.r#type() == mvccpb::event::EventType::Put
                        || !self
                            .compacted
                            .contains(&event.kv.as_ref().unwrap().mod_revision)
                });
                watching.told.events.extend(events.cloned());
                watching.told.canceled |= answer.canceled;
                watching.told.compact_revision |= answer.compact_revision;
            }
            if found(&answer, &self.watches) {
                return Ok(answer);
            }
        }
    }

    async fn watch(&mut self, watch: &Watch) -> Result<pb::WatchResponse, tonic::Status> {
        let start = self.at(watch.start);
        let create = pb::WatchCreateRequest {
            key: watch.key.clone(),
            range_end: watch.end.clone(),
            start_revision: start,
            progress_notify: false,
            filters: watch.filters.clone(),
            prev_kv: watch.prev_kv,
            watch_id: watch.id,
            fragment: watch.fragment,
        };
        self.ask(WatchUnion::CreateRequest(create)).await?;
        let created = self.until(|answer, _| answer.created).await?;
        if !created.canceled {
            let watching = Watching {
                key: match watch.key.is_empty() {
                    true => Bytes::from_static(b"\0"),
                    false => watch.key.clone(),
                },
                end: watch.end.clone(),
                no_put: watch.filters.contains(&0),
                no_delete: watch.filters.contains(&1),
                start,
                told: Told::default(),
                ended: false,
            };
            if let Some(former) = self.watches.insert(created.watch_id, watching)
                && !former.ended
            {
                self.over.push(former.told);
            }
        }
        Ok(created)
    }

    async fn cancel(&mut self, watch_id: i64) -> Result<Outcome, tonic::Status> {
        // What is to come of it, and of a compaction that ended it, comes first.
        self.sync().await;
        let running = self.watches.get(&watch_id);
        if running.is_none_or(|w| w.ended) {
            return Ok(Outcome::Canceled);
        }
        let cancel = pb::WatchCancelRequest { watch_id };
        self.ask(WatchUnion::CancelRequest(cancel)).await?;
        let ended = self.until(|answer, _| answer.watch_id == watch_id && answer.canceled);
        ended.await?;
        self.watches.get_mut(&watch_id).unwrap().ended = true;
        Ok(Outcome::Canceled)
    }

    /// Changes a key of each watch, and waits until all have told of all that concerns them.
    async fn sync(&mut self) {
        // Those that a compaction ended too, of which this side may have heard or not: both must see the same writes.
        let running = self.watches.iter().filter(|(_, w)| !w.ended);
        let running: Vec<_> = running.map(|(id, w)| (*id, w.key.clone())).collect();
        let mut changes = Vec::new();
        for (_, key) in &running {
            let put = pb::PutRequest {
                key: key.clone(),
                ..Default::default()
            };
            let put = self.kv.put(put).await.unwrap().into_inner();
            let delete = pb::DeleteRangeRequest {
                key: key.clone(),
                ..Default::default()
            };
            let delete = self.kv.delete_range(delete).await.unwrap().into_inner();
            let of = |header: Option<pb::ResponseHeader>| header.unwrap().revision;
            changes.push((key.clone(), false, of(put.header)));
            changes.push((key.clone(), true, of(delete.header)));
        }
        if let Some((_, _, last)) = changes.last() {
            self.head = *last;
        }
        for (id, _) in running {
            let watching = &self.watches[&id];
            let concerns = changes.iter().filter(|(key, deleted, revision)| {
                let filtered = if *deleted {
                    watching.no_delete
                } else {
                    watching.no_put
                };
                !filtered && *revision >= watching.start && watching.contains(key)
            });
            let Some((_, _, last)) = concerns.last() else {
                continue;
            };
            let is_told = |watches: &BTreeMap<i64, Watching>| {
                let told = &watches[&id].told;
                let seen = |e: &mvccpb::Event| e.kv.as_ref().unwrap().mod_revision >= *last;
                told.canceled || told.events.last().is_some_and(seen)
            };
            if !is_told(&self.watches) {
                self.until(|_, watches| is_told(watches)).await.unwrap();
            }
        }
    }

    /// What all watches told in the end.
    pub async fn watched(&mut self) -> Vec<Told> {
        self.sync().await;
        let lasting = self.watches.values().filter(|w| !w.ended);
        let told = lasting.map(|w| w.told.clone()).collect::<Vec<_>>();
        let all = [std::mem::take(&mut self.over), told].concat();
        self.drop_watches();
        all
    }
}
