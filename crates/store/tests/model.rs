//! Random operations against a simple model: same answers, revisions and watch streams.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use coracle_store::*;
use proptest::prelude::*;

type State = BTreeMap<Bytes, KeyValue>;

/// Every state there was, and what changed from one to the next.
struct Model {
    states: BTreeMap<i64, State>,
    events: Vec<Event>,
    compacted: i64,
    leases: BTreeSet<i64>,
}

#[derive(Clone, Debug)]
enum Action {
    Put {
        key: u8,
        value: u8,
        lease: i64,
    },
    Delete {
        from: u8,
        to: u8,
    },
    Txn {
        compare: (u8, u8, bool),
        success: Vec<Step>,
        failure: Vec<Step>,
    },
    Compact(u8),
    Read {
        from: u8,
        to: u8,
        back: u8,
        limit: i64,
    },
    Grant(i64),
    Revoke(i64),
    Reopen,
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8, u8),
    Read(u8, u8),
}

fn key(n: u8) -> Bytes {
    Bytes::from(format!("k{n}"))
}

fn in_range(candidate: &Bytes, from: u8, to: u8) -> bool {
    *candidate >= key(from) && *candidate < key(to)
}

impl Model {
    fn new() -> Self {
        Self {
            states: BTreeMap::from([(1, State::new())]),
            events: Vec::new(),
            compacted: 0,
            leases: BTreeSet::new(),
        }
    }

    fn revision(&self) -> i64 {
        *self.states.last_key_value().unwrap().0
    }

    fn now(&self) -> State {
        self.states.last_key_value().unwrap().1.clone()
    }

    fn put(&mut self, state: &mut State, key: Bytes, value: u8, lease: i64) {
        let revision = self.revision() + 1;
        let former = state.get(&key).cloned();
        let kv = KeyValue {
            key: key.clone(),
            value: vec![value; 3].into(),
            create_revision: former.as_ref().map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
            version: former.as_ref().map_or(1, |kv| kv.version + 1),
            lease,
        };
        state.insert(key, kv.clone());
        self.events.push(Event {
            kind: EventKind::Put,
            kv,
            prev_kv: former,
        });
    }

    fn delete(&mut self, state: &mut State, doomed: impl Fn(&KeyValue) -> bool) -> Vec<KeyValue> {
        let revision = self.revision() + 1;
        let gone: Vec<_> = state.values().filter(|kv| doomed(kv)).cloned().collect();
        for former in &gone {
            state.remove(&former.key);
            let kv = KeyValue {
                key: former.key.clone(),
                mod_revision: revision,
                ..KeyValue::default()
            };
            let prev_kv = Some(former.clone());
            self.events.push(Event {
                kind: EventKind::Delete,
                kv,
                prev_kv,
            });
        }
        gone
    }

    fn commit(&mut self, state: State) -> i64 {
        if state != self.now()
            || self
                .events
                .last()
                .is_some_and(|e| e.kv.mod_revision > self.revision())
        {
            self.states.insert(self.revision() + 1, state);
        }
        self.revision()
    }
}

fn duplicate(steps: &[Step]) -> bool {
    let mut puts = BTreeSet::new();
    steps
        .iter()
        .any(|step| matches!(step, Step::Put(k, _) if !puts.insert(*k)))
        || steps.iter().any(|step| match step {
            Step::Delete(from, to) => puts.iter().any(|k| in_range(&key(*k), *from, *to)),
            _ => false,
        })
}

fn range(from: u8, to: u8) -> RangeRequest {
    RangeRequest {
        key: key(from),
        range_end: key(to),
        ..Default::default()
    }
}

fn delete(from: u8, to: u8) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: key(from),
        range_end: key(to),
        prev_kv: true,
    }
}

fn op(step: &Step) -> TxnOp {
    match *step {
        Step::Put(k, v) => TxnOp::Put(PutRequest::new(key(k), vec![v; 3])),
        Step::Delete(from, to) => TxnOp::Delete(delete(from, to)),
        Step::Read(from, to) => TxnOp::Range(range(from, to)),
    }
}

fn select(state: &State, from: u8, to: u8) -> Vec<KeyValue> {
    state
        .values()
        .filter(|kv| in_range(&kv.key, from, to))
        .cloned()
        .collect()
}

async fn act(store: &EmbeddedStore, model: &mut Model, action: &Action) {
    match action {
        Action::Put {
            key: k,
            value,
            lease,
        } => {
            let request = PutRequest {
                prev_kv: true,
                ..PutRequest::new(key(*k), vec![*value; 3]).with_lease(*lease)
            };
            let answer = store.put(request).await;
            if *lease != 0 && !model.leases.contains(lease) {
                assert!(matches!(answer, Err(StoreError::LeaseNotFound(_))));
                return;
            }
            let answer = answer.unwrap();
            let mut state = model.now();
            assert_eq!(answer.prev_kv.as_ref(), state.get(&key(*k)));
            model.put(&mut state, key(*k), *value, *lease);
            assert_eq!(answer.revision, model.commit(state));
        }
        Action::Delete { from, to } => {
            let answer = store.delete_range(delete(*from, *to)).await.unwrap();
            let mut state = model.now();
            let gone = model.delete(&mut state, |kv| in_range(&kv.key, *from, *to));
            assert_eq!(answer.prev_kvs, gone);
            assert_eq!(answer.deleted, gone.len() as i64);
            assert_eq!(answer.revision, model.commit(state));
        }
        Action::Txn {
            compare: (k, value, exists),
            success,
            failure,
        } => {
            let target = match exists {
                true => CompareTarget::Value(vec![*value; 3].into()),
                false => CompareTarget::Version(0),
            };
            let request = TxnRequest {
                compare: vec![Compare::new(key(*k), CompareResult::Equal, target)],
                success: success.iter().map(op).collect(),
                failure: failure.iter().map(op).collect(),
            };
            let answer = store.txn(request).await;
            if duplicate(success) || duplicate(failure) {
                assert!(matches!(answer, Err(StoreError::DuplicateKey(_))));
                return;
            }
            let answer = answer.unwrap();
            let mut state = model.now();
            let found = state.get(&key(*k));
            let holds = match exists {
                true => found.is_some_and(|kv| kv.value == vec![*value; 3]),
                false => found.is_none(),
            };
            assert_eq!(answer.succeeded, holds);
            let steps = if holds { success } else { failure };
            for (step, response) in steps.iter().zip(&answer.responses) {
                match (step, response) {
                    (Step::Put(k, v), TxnOpResponse::Put(_)) => {
                        model.put(&mut state, key(*k), *v, 0);
                    }
                    (Step::Delete(from, to), TxnOpResponse::Delete(response)) => {
                        let gone = model.delete(&mut state, |kv| in_range(&kv.key, *from, *to));
                        assert_eq!(response.prev_kvs, gone);
                    }
                    (Step::Read(from, to), TxnOpResponse::Range(response)) => {
                        assert_eq!(response.kvs, select(&state, *from, *to));
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(answer.revision, model.commit(state));
        }
        Action::Compact(back) => {
            let at = model.revision() - i64::from(*back);
            let answer = store.compact(at).await;
            assert_eq!(answer.is_ok(), at > model.compacted, "{answer:?}");
            model.compacted = model.compacted.max(at);
        }
        Action::Read {
            from,
            to,
            back,
            limit,
        } => {
            let at = model.revision() - i64::from(*back);
            if at < 1 {
                return;
            }
            let request = RangeRequest {
                limit: *limit,
                ..range(*from, *to).at(at)
            };
            let answer = store.range(request).await;
            if at < model.compacted {
                assert!(matches!(answer, Err(StoreError::Compacted { .. })));
                return;
            }
            let answer = answer.unwrap();
            let mut kvs = select(&model.states[&at], *from, *to);
            assert_eq!(answer.count, kvs.len() as i64);
            assert_eq!(answer.more, *limit > 0 && kvs.len() as i64 > *limit);
            if *limit > 0 {
                kvs.truncate(*limit as usize);
            }
            assert_eq!(answer.kvs, kvs);
        }
        Action::Grant(id) => {
            let answer = store.lease_grant(1000, *id).await;
            assert_eq!(answer.is_ok(), model.leases.insert(*id), "{answer:?}");
        }
        Action::Revoke(id) => {
            let answer = store.lease_revoke(*id).await;
            assert_eq!(answer.is_ok(), model.leases.remove(id), "{answer:?}");
            if let Ok(answer) = answer {
                let mut state = model.now();
                model.delete(&mut state, |kv| kv.lease == *id);
                assert_eq!(answer.revision, model.commit(state));
            }
        }
        // The caller does it.
        Action::Reopen => {}
    }
}

/// All that a watch tells up to the store's revision.
async fn collect(watch: &mut WatchStream, upto: i64) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    watch.handle().request_progress();
    loop {
        let answer = watch.next().await.unwrap().unwrap();
        assert_eq!(answer.compact_revision, 0);
        events.extend(answer.events);
        if answer.revision >= upto {
            return events;
        }
    }
}

async fn check(actions: Vec<Action>) {
    let dir = tempfile::tempdir().unwrap();
    // In one half of the cases all stays in memory, in the other it moves to the database all the time.
    let memory_bytes = match actions.len() % 2 {
        0 => Options::default().memory_bytes,
        _ => 500,
    };
    let options = || Options {
        keep_revisions: 0,
        memory_bytes,
        ..Options::default()
    };
    let mut store = EmbeddedStore::open(dir.path(), options()).unwrap();
    let mut model = Model::new();
    let everything = || WatchRequest {
        prev_kv: true,
        ..WatchRequest::prefix("")
    };
    for action in &actions {
        if let Action::Reopen = action {
            drop(store);
            store = EmbeddedStore::open(dir.path(), options()).unwrap();
        }
        let told = model.events.len();
        // Before it, so that nothing is compacted away from under this watch.
        let mut live = store.watch(everything()).await.unwrap();
        act(&store, &mut model, action).await;
        assert_eq!(store.status().await.unwrap().revision, model.revision());
        assert_eq!(
            collect(&mut live, model.revision()).await,
            model.events[told..]
        );
    }
    let from = model.compacted.max(1);
    let mut past = store.watch(everything().from(from)).await.unwrap();
    let mut expected: Vec<_> = model
        .events
        .iter()
        .filter(|event| event.kv.mod_revision >= from)
        .cloned()
        .collect();
    for event in expected
        .iter_mut()
        .filter(|event| event.kv.mod_revision <= model.compacted)
    {
        // What was before the compaction is not told.
        event.prev_kv = None;
    }
    if !expected.is_empty() {
        assert_eq!(collect(&mut past, model.revision()).await, expected);
    }
    for id in model.leases {
        let keys = store.lease_time_to_live(id, true).await.unwrap().keys;
        let state = model.states.last_key_value().unwrap().1;
        let expected: Vec<_> = state
            .values()
            .filter(|kv| kv.lease == id)
            .map(|kv| kv.key.clone())
            .collect();
        assert_eq!(keys, expected);
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..8u8, any::<u8>()).prop_map(|(k, v)| Step::Put(k, v)),
        1 => (0..9u8, 0..9u8).prop_map(|(a, b)| Step::Delete(a, b)),
        1 => (0..9u8, 0..9u8).prop_map(|(a, b)| Step::Read(a, b)),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let steps = || prop::collection::vec(step(), 0..4);
    prop_oneof![
        8 => (0..8u8, 0..4u8, prop_oneof![3 => Just(0), 1 => 1..4i64])
            .prop_map(|(key, value, lease)| Action::Put { key, value, lease }),
        2 => (0..9u8, 0..9u8).prop_map(|(from, to)| Action::Delete { from, to }),
        4 => ((0..8u8, 0..4u8, any::<bool>()), steps(), steps())
            .prop_map(|(compare, success, failure)| Action::Txn { compare, success, failure }),
        1 => (0..12u8).prop_map(Action::Compact),
        4 => (0..9u8, 0..9u8, 0..12u8, 0..4i64)
            .prop_map(|(from, to, back, limit)| Action::Read { from, to, back, limit }),
        1 => (1..4i64).prop_map(Action::Grant),
        1 => (1..4i64).prop_map(Action::Revoke),
        1 => Just(Action::Reopen),
    ]
}

/// PROPTEST_CASES asks for a longer run.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(48)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..Default::default() })]
    #[test]
    fn the_store_answers_as_the_model(actions in prop::collection::vec(action(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(actions));
    }
}

#[tokio::test]
async fn others_cannot_read_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("store");
    for mode in [None, Some(0o755)] {
        if let Some(mode) = mode {
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        drop(EmbeddedStore::open(&dir, Options::default()).unwrap());
        assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }
}
