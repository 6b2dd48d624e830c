//! Clients that ask for random things, each over a connection of its own, and a watch of all.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use coracle_etcd_proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::watch_client::WatchClient;
use proptest::prelude::RngExt as _;
use proptest::test_runner::TestRng;
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::history::*;
use super::wire;
use crate::common::PATIENCE;

/// Where the server listens, and the how many-th it is.
#[derive(Clone, Default)]
pub struct Up {
    pub generation: u64,
    pub address: String,
}

/// What clients, watch and killer share.
pub struct Recorder {
    clock: AtomicU64,
    clients: AtomicU64,
    values: AtomicU64,
    operations: Mutex<Vec<Operation>>,
    pub told: Mutex<Told>,
    pub up: watch::Sender<Up>,
    /// The newest server that was, or is about to be, killed.
    pub doomed: AtomicU64,
    pub answered: watch::Sender<u64>,
    /// The newest revision that the watch told.
    pub watched: watch::Sender<Revision>,
    pub stop: AtomicBool,
}

impl Recorder {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            clock: AtomicU64::new(0),
            clients: AtomicU64::new(0),
            values: AtomicU64::new(0),
            operations: Mutex::default(),
            told: Mutex::default(),
            up: watch::Sender::default(),
            doomed: AtomicU64::new(0),
            answered: watch::Sender::default(),
            watched: watch::Sender::default(),
            stop: AtomicBool::new(false),
        })
    }

    pub fn tick(&self) -> Tick {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn note(&self, client: u64, called: Tick, returned: Tick, what: What) {
        let operation = Operation {
            client,
            called,
            returned,
            what,
        };
        self.operations.lock().unwrap().push(operation);
    }

    /// All that was noted, each once, in the order of calls.
    pub fn operations(&self) -> Vec<Operation> {
        let mut operations = std::mem::take(&mut *self.operations.lock().unwrap());
        operations.sort_by_key(|operation| operation.called);
        operations
    }

    /// A server behind `generation`, once it listens.
    async fn server(&self, generation: u64) -> Up {
        let mut up = self.up.subscribe();
        let up = up.wait_for(|up| up.generation > generation);
        let up = tokio::time::timeout(PATIENCE, up).await;
        up.expect("a server is started again").unwrap().clone()
    }

    /// A connection may end by a kill only.
    fn ended(&self, generation: u64, status: &Status) {
        let expected = [
            Code::Unavailable,
            Code::Unknown,
            Code::Cancelled,
            Code::Internal,
        ];
        let killed = self.doomed.load(Ordering::SeqCst) >= generation;
        assert!(
            killed && expected.contains(&status.code()),
            "server {generation} was killed: {killed}; {status:?}"
        );
    }
}

async fn connect(up: &Up) -> Option<Channel> {
    let endpoint = Channel::from_shared(up.address.clone()).unwrap();
    endpoint.tcp_nodelay(true).connect().await.ok()
}

pub struct Client {
    recorder: Arc<Recorder>,
    /// A new one after each answer that did not come.
    id: u64,
    rng: TestRng,
    /// What it last saw of each key, to compare with: the value and its revision.
    seen: [Option<(u64, Revision)>; KEYS],
}

impl Client {
    pub fn new(recorder: &Arc<Recorder>, rng: TestRng) -> Self {
        Self {
            recorder: Arc::clone(recorder),
            id: recorder.clients.fetch_add(1, Ordering::SeqCst),
            rng,
            seen: [None; KEYS],
        }
    }

    /// Asks until it is told to stop, from one server after the other.
    pub async fn run(mut self) {
        let recorder = Arc::clone(&self.recorder);
        let stop = || recorder.stop.load(Ordering::SeqCst);
        let mut generation = 0;
        while !stop() {
            let up = recorder.server(generation).await;
            generation = up.generation;
            let Some(channel) = connect(&up).await else {
                let refused = Status::unavailable("no connection");
                recorder.ended(generation, &refused);
                continue;
            };
            let mut kv = KvClient::new(channel);
            while !stop() {
                let request = self.request();
                if let Err(status) = self.ask(&mut kv, request).await {
                    recorder.ended(generation, &status);
                    self.id = recorder.clients.fetch_add(1, Ordering::SeqCst);
                    break;
                }
            }
        }
    }

    /// Asks for all keys at once.
    pub async fn look(&mut self) -> Revision {
        let success = (0..KEYS).map(Step::Get).collect();
        let request = Request::Txn {
            compare: Vec::new(),
            success,
            failure: Vec::new(),
        };
        let up = self.recorder.up.borrow().clone();
        let mut kv = KvClient::new(connect(&up).await.unwrap());
        self.ask(&mut kv, request).await.unwrap()
    }

    async fn ask(
        &mut self,
        kv: &mut KvClient<Channel>,
        request: Request,
    ) -> Result<Revision, Status> {
        let recorder = Arc::clone(&self.recorder);
        let called = recorder.tick();
        let answer = tokio::time::timeout(PATIENCE, wire::ask(kv, &request)).await;
        let returned = recorder.tick();
        match answer.expect("an answer in time") {
            Ok(answer) => {
                self.see(&request, &answer);
                let revision = answer.revision;
                recorder.note(self.id, called, returned, What::Answered(request, answer));
                recorder.answered.send_modify(|answered| *answered += 1);
                Ok(revision)
            }
            Err(status) => {
                // Reads without an answer say nothing. Until when a write may have happened shows later, at the next start.
                if request.writes() {
                    recorder.note(self.id, called, returned, What::Unknown(request));
                }
                Err(status)
            }
        }
    }

    fn see(&mut self, request: &Request, answer: &Answer) {
        let steps = request.steps(answer.succeeded).iter();
        for (step, outcome) in steps.zip(&answer.outcomes) {
            match (*step, outcome) {
                (Step::Get(key), Outcome::Got(kv)) => {
                    self.seen[key] = kv.map(|kv| (kv.value, kv.modified));
                }
                (Step::Put(key, value, _), _) => self.seen[key] = Some((value, answer.revision)),
                (Step::Delete(key, _), _) => self.seen[key] = None,
                (Step::Get(_), _) => panic!("{request} -> {answer}"),
            }
        }
    }

    fn below(&mut self, n: usize) -> usize {
        self.rng.random_range(0..n)
    }

    fn put(&mut self, key: Key) -> Step {
        // No value is put twice.
        let value = self.recorder.values.fetch_add(1, Ordering::SeqCst);
        Step::Put(key, value, self.below(2) == 0)
    }

    fn request(&mut self) -> Request {
        let one = self.below(KEYS);
        let two = (one + 1 + self.below(KEYS - 1)) % KEYS;
        let modified = self.seen[one].map_or(0, |(_, modified)| modified);
        let (compare, success, failure) = match self.below(100) {
            0..20 => return Request::One(Step::Get(one)),
            20..36 => return Request::One(self.put(one)),
            36..44 => return Request::One(Step::Delete(one, self.below(2) == 0)),
            44..76 => {
                let compare = match (self.below(2), self.seen[one]) {
                    (0, Some((value, _))) => Compare::Value(one, value),
                    _ => Compare::Modified(one, modified),
                };
                (vec![compare], vec![self.put(one)], vec![Step::Get(one)])
            }
            76..86 => {
                let puts = [self.put(one), self.put(two)];
                let gets = [Step::Get(one), Step::Get(two)];
                (Vec::new(), [gets, puts].concat(), Vec::new())
            }
            86..95 => {
                let compare = vec![Compare::Modified(one, modified)];
                let success = vec![Step::Delete(two, true), self.put(one), Step::Get(two)];
                (compare, success, vec![Step::Get(two), Step::Get(one)])
            }
            _ => (Vec::new(), vec![Step::Get(one), Step::Get(two)], Vec::new()),
        };
        Request::Txn {
            compare,
            success,
            failure,
        }
    }
}

/// A watch of all keys from revision 2 on, that goes on behind what it has at each server.
pub async fn keep_watching(recorder: Arc<Recorder>) {
    let mut generation = 0;
    loop {
        let up = recorder.server(generation).await;
        generation = up.generation;
        let from = recorder.told.lock().unwrap().last() + 1;
        let hear = |revision: Revision, events: &[Event]| {
            // It was there a moment ago; where it was longer ago, this moment does, too.
            let (called, returned) = (recorder.tick(), recorder.tick());
            recorder.note(u64::MAX, called, returned, What::Heard(revision));
            let mut told = recorder.told.lock().unwrap();
            told.hear(events);
            recorder.watched.send_replace(told.last());
            true
        };
        let status = watch_from(&up, from, hear).await;
        recorder.ended(generation, &status);
    }
}

/// What a watch from the beginning tells, to revision `last`.
pub async fn replay(recorder: &Recorder, last: Revision) -> Told {
    let mut told = Told::default();
    let up = recorder.up.borrow().clone();
    let hear = |_, events: &[Event]| {
        told.hear(events);
        told.last() < last
    };
    let watching = tokio::time::timeout(PATIENCE, watch_from(&up, 2, hear));
    let status = watching.await.expect("all is told in time");
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    told
}

/// Watches until `hear` has enough, which gets the header's revision and the events of each response; or until the end.
async fn watch_from(
    up: &Up,
    from: Revision,
    mut hear: impl FnMut(Revision, &[Event]) -> bool,
) -> Status {
    let Some(channel) = connect(up).await else {
        return Status::unavailable("no connection");
    };
    let create = pb::WatchCreateRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        start_revision: from,
        prev_kv: true,
        ..Default::default()
    };
    let union = pb::watch_request::RequestUnion::CreateRequest(create);
    let create = pb::WatchRequest {
        request_union: Some(union),
    };
    // The stream of requests stays open.
    let (ask, asked) = tokio::sync::mpsc::channel(1);
    ask.send(create).await.unwrap();
    let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
    let mut answers = match WatchClient::new(channel).watch(asked).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return status,
    };
    loop {
        let answer = match answers.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Status::unavailable("the stream ended"),
            Err(status) => return status,
        };
        assert!(!answer.canceled, "{answer:?}");
        let revision = answer.header.as_ref().unwrap().revision;
        let events: Vec<_> = answer.events.iter().map(wire::event).collect();
        assert!(
            events.last().is_none_or(|event| event.revision <= revision),
            "{answer:?}"
        );
        if !hear(revision, &events) {
            return Status::ok("heard enough");
        }
    }
}
