//! The same requests to a scoped store and to a plain one, whose answers are compared without the numbers of revisions.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use coracle_gateway::{Scope, Scoped};
use coracle_store::*;

use super::ops::*;
use crate::common::{APPS, scope};

/// Answers as text: of both sides the same text, or something is wrong.
type Told = Result<String, String>;

pub struct Pair {
    scoped: Scoped,
    outer: Arc<EmbeddedStore>,
    plain: EmbeddedStore,
    offset: Revision,
    /// The revisions of the app's writes, plain and scoped; first that before all of them.
    history: Vec<[Revision; 2]>,
    watches: Vec<[WatchStream; 2]>,
    /// What the machine wrote beside the app.
    outside: BTreeMap<Bytes, KeyValue>,
    _dirs: [tempfile::TempDir; 2],
}

/// Keys of the machine's, as near to the app's as they can be.
const OUTSIDE: [&[u8]; 8] = [
    b"\0",
    b"a",
    b"/coracle/v1/apps",
    b"/coracle/v1/apps/",
    b"/coracle/v1/apps0",
    b"/coracle/v1/units/a",
    b"zz",
    b"\xff\xff",
];

/// The side of an answer, with what makes its revisions comparable.
struct Side<'a> {
    number: usize,
    history: &'a [[Revision; 2]],
    /// The store's revision after the request.
    head: Revision,
}

impl Side<'_> {
    /// A key's revision: which of the app's writes it is.
    fn of(&self, revision: Revision) -> String {
        let mut all = self.history.iter().map(|pair| pair[self.number]);
        match all.position(|known| known == revision) {
            _ if revision == 0 => "none".to_owned(),
            Some(at) => format!("#{at}"),
            None => format!("unknown {revision} of side {}", self.number),
        }
    }

    fn kv(&self, kv: &KeyValue) -> String {
        let (created, changed) = (self.of(kv.create_revision), self.of(kv.mod_revision));
        let KeyValue {
            key,
            value,
            version,
            lease,
            ..
        } = kv;
        format!("{key:?}={value:?} {created} {changed} {version} {lease}")
    }

    fn kvs<'a>(&self, kvs: impl IntoIterator<Item = &'a KeyValue>) -> Vec<String> {
        kvs.into_iter().map(|kv| self.kv(kv)).collect()
    }

    /// An answer's revision: before or after the request.
    fn head(&self, revision: Revision) -> bool {
        revision == self.head
    }

    fn range(&self, found: &RangeResponse) -> String {
        let (head, kvs) = (self.head(found.revision), self.kvs(&found.kvs));
        format!("{head} {} {} {kvs:?}", found.more, found.count)
    }

    fn put(&self, done: &PutResponse) -> String {
        format!("{} {:?}", self.head(done.revision), self.kvs(&done.prev_kv))
    }

    fn delete(&self, done: &DeleteRangeResponse) -> String {
        let (head, kvs) = (self.head(done.revision), self.kvs(&done.prev_kvs));
        format!("{head} {} {kvs:?}", done.deleted)
    }

    fn txn(&self, done: &TxnResponse) -> String {
        let step = |step: &TxnOpResponse| match step {
            TxnOpResponse::Range(found) => format!("range {}", self.range(found)),
            TxnOpResponse::Put(done) => format!("put {}", self.put(done)),
            TxnOpResponse::Delete(done) => format!("delete {}", self.delete(done)),
            TxnOpResponse::Txn(done) => format!("txn {}", self.txn(done)),
        };
        let steps: Vec<_> = done.responses.iter().map(step).collect();
        format!("{} {} {steps:#?}", self.head(done.revision), done.succeeded)
    }
}

/// Without the numbers of revisions.
fn refused(error: StoreError) -> String {
    match error {
        StoreError::Compacted { .. } => "compacted".to_owned(),
        StoreError::FutureRevision { .. } => "future".to_owned(),
        // What a request shows by itself the gateway refuses before it comes here, in etcd's order.
        StoreError::EmptyKey | StoreError::ValueProvided | StoreError::LeaseProvided => {
            "malformed".to_owned()
        }
        other => format!("{other:?}"),
    }
}

impl Pair {
    pub async fn new(offset: Revision) -> Self {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let open = |dir: &tempfile::TempDir| EmbeddedStore::open(dir.path(), Options::default());
        let outer = Arc::new(open(&dirs[0]).unwrap());
        let plain = open(&dirs[1]).unwrap();
        let scope = Scope { offset, ..scope() };
        outer.lease_grant(1000, OWN).await.unwrap();
        let mut pair = Self {
            scoped: Scoped::new(outer.clone(), scope),
            outer,
            plain,
            offset,
            history: Vec::new(),
            watches: Vec::new(),
            outside: BTreeMap::new(),
            _dirs: dirs,
        };
        for n in 0..OUTSIDE.len() as u8 {
            pair.write_outside(n).await;
        }
        // A past that both have forgotten.
        for store in pair.stores() {
            for value in ["1", "2", "3"] {
                store.put(PutRequest::new("a", value)).await.unwrap();
            }
            let all = DeleteRangeRequest::prefix("");
            store.delete_range(all).await.unwrap();
        }
        let before = pair.heads().await;
        pair.plain.compact(before[0]).await.unwrap();
        pair.outer.compact(before[1] - offset).await.unwrap();
        pair.history.push(before);
        pair
    }

    async fn heads(&self) -> [Revision; 2] {
        let plain = self.plain.status().await.unwrap().revision;
        let outer = self.outer.status().await.unwrap().revision;
        [plain, outer + self.offset]
    }

    fn stores(&self) -> [&dyn Store; 2] {
        [&self.plain, &self.scoped]
    }

    async fn write_outside(&mut self, n: u8) {
        let key = OUTSIDE[usize::from(n) % OUTSIDE.len()];
        if n % 5 == 4 {
            let request = DeleteRangeRequest::key(key);
            self.outer.delete_range(request).await.unwrap();
        } else {
            let mut put = PutRequest::new(key, vec![n]);
            put.lease = if n.is_multiple_of(3) { OWN } else { 0 };
            self.outer.put(put).await.unwrap();
        }
        match self.outer.get(key).await.unwrap() {
            Some(kv) => self.outside.insert(kv.key.clone(), kv),
            None => self.outside.remove(key),
        };
    }

    /// A revision's number on each side, if the app's writes are `late`, the last one before the next of them.
    fn at(&self, at: At, heads: [Revision; 2], late: bool) -> [Revision; 2] {
        match at {
            At::Zero => [0, 0],
            At::Below(n) | At::Forgotten(n) => [n, n],
            At::Ahead(n) => heads.map(|head| head + n),
            At::Ago(n) => {
                let last = self.history.len() - 1;
                let place = last.saturating_sub(n);
                let [plain, scoped] = self.history[place];
                match self.history.get(place + 1) {
                    _ if !late => [plain, scoped],
                    Some(next) => [plain, next[1] - 1],
                    None => heads,
                }
            }
        }
    }

    fn range(&self, range: &Range, heads: [Revision; 2]) -> [RangeRequest; 2] {
        let at = self.at(range.at, heads, range.request.keys_only);
        let bounds = range.bounds.map(|bound| self.at(bound, heads, false));
        [0, 1].map(|side| {
            let [min_mod, max_mod, min_create, max_create] = bounds.map(|bound| bound[side]);
            RangeRequest {
                revision: at[side],
                min_mod_revision: min_mod,
                max_mod_revision: max_mod,
                min_create_revision: min_create,
                max_create_revision: max_create,
                ..range.request.clone()
            }
        })
    }

    fn txn(&self, txn: &Txn, heads: [Revision; 2]) -> [TxnRequest; 2] {
        [0, 1].map(|side| {
            let compare = txn.compare.iter().map(|condition| {
                let revision = self.at(condition.at, heads, false)[side];
                let mut compare = condition.compare.clone();
                match &mut compare.target {
                    CompareTarget::Create(given) | CompareTarget::Mod(given) => *given = revision,
                    _ => {}
                }
                compare
            });
            let steps = |steps: &[Step]| {
                let step = |step: &Step| match step {
                    Step::Range(range) => TxnOp::Range(self.range(range, heads)[side].clone()),
                    Step::Put(put) => TxnOp::Put(put.clone()),
                    Step::Delete(delete) => TxnOp::Delete(delete.clone()),
                    Step::Txn(txn) => TxnOp::Txn(self.txn(txn, heads)[side].clone()),
                };
                steps.iter().map(step).collect()
            };
            TxnRequest {
                compare: compare.collect(),
                success: steps(&txn.success),
                failure: steps(&txn.failure),
            }
        })
    }

    /// Runs one request on both sides; says where they differ.
    pub async fn run(&mut self, op: &Op) -> Result<(), String> {
        let heads = self.heads().await;
        match op {
            Op::Outside(n) => {
                self.write_outside(*n).await;
                return Ok(());
            }
            Op::Grant { id, ttl } if *id == OWN => {
                // Free in the plain store: here it is taken.
                let answer = self.scoped.lease_grant(*ttl, OWN).await;
                return match answer {
                    Err(StoreError::LeaseExists(OWN)) => Ok(()),
                    other => Err(format!("granted the machine's: {other:?}")),
                };
            }
            Op::Watch { request, at } => return self.watch(request, *at, heads).await,
            _ => {}
        }
        let [plain, scoped] = [self.ask(0, op, heads).await, self.ask(1, op, heads).await];
        let after = self.heads().await;
        let moved = [0, 1].map(|side| after[side] > heads[side]);
        if moved[0] != moved[1] {
            return Err(format!("{op:?}: moved the revision: {moved:?}"));
        }
        if moved[0] {
            self.history.push(after);
        }
        let side = |number| Side {
            number,
            history: &self.history,
            head: after[number],
        };
        let (plain, scoped) = (told(side(0), plain), told(side(1), scoped));
        if plain != scoped {
            return Err(format!("{op:?}\nplain: {plain:#?}\nscoped: {scoped:#?}"));
        }
        Ok(())
    }

    async fn ask(&self, side: usize, op: &Op, heads: [Revision; 2]) -> Result<Answer, StoreError> {
        let store = self.stores()[side];
        Ok(match op {
            Op::Range(range) => {
                let request = self.range(range, heads)[side].clone();
                Answer::Range(store.range(request).await?)
            }
            Op::Put(put) => Answer::Put(store.put(put.clone()).await?),
            Op::Delete(delete) => Answer::Delete(store.delete_range(delete.clone()).await?),
            Op::Txn(txn) => Answer::Txn(store.txn(self.txn(txn, heads)[side].clone()).await?),
            Op::Compact(at) => {
                let revision = self.at(*at, heads, false)[side];
                Answer::Head(store.compact(revision).await?.revision, String::new())
            }
            Op::Grant { ttl, id } => {
                let granted = store.lease_grant(*ttl, *id).await?;
                Answer::Head(granted.revision, format!("{} {}", granted.id, granted.ttl))
            }
            Op::Revoke(id) => Answer::Head(store.lease_revoke(*id).await?.revision, String::new()),
            Op::KeepAlive(id) => {
                let kept = store.lease_keep_alive(*id).await?;
                Answer::Head(kept.revision, kept.ttl.to_string())
            }
            Op::TimeToLive { id, keys } => {
                let found = store.lease_time_to_live(*id, *keys).await?;
                let told = format!("{} {} {:?}", found.id, found.granted_ttl, found.keys);
                Answer::Head(found.revision, told)
            }
            Op::Leases => {
                let mut found = store.leases().await?;
                found.ids.sort();
                let count = store.status().await?.leases;
                Answer::Head(found.revision, format!("{count} {:?}", found.ids))
            }
            Op::Watch { .. } | Op::Outside(_) => unreachable!("not asked for here"),
        })
    }

    async fn watch(
        &mut self,
        request: &WatchRequest,
        at: At,
        heads: [Revision; 2],
    ) -> Result<(), String> {
        // "After the next one" is not the same event on both sides.
        let at = if let At::Ahead(_) = at {
            At::Ahead(1)
        } else {
            at
        };
        let starts = self.at(at, heads, false);
        let begin = async |side: usize| {
            let request = request.clone().from(starts[side]);
            let stream = self.stores()[side].watch(request.clone()).await;
            stream.map_err(|e| format!("{request:?} on side {side}: {e:?}"))
        };
        let streams = [begin(0).await?, begin(1).await?];
        if streams[1].revision() != heads[1] {
            return Err(format!("watch at {}, not {heads:?}", streams[1].revision()));
        }
        self.watches.push(streams);
        Ok(())
    }

    /// What the watches told, and what lies outside the scope.
    pub async fn finish(mut self) -> Result<(), String> {
        for (at, [plain, scoped]) in std::mem::take(&mut self.watches).into_iter().enumerate() {
            let (plain, scoped) = (self.events(0, plain).await, self.events(1, scoped).await);
            if plain != scoped {
                return Err(format!(
                    "watch {at}\nplain: {plain:#?}\nscoped: {scoped:#?}"
                ));
            }
        }
        let everything = RangeRequest::prefix("");
        let found = self.outer.range(everything).await.unwrap().kvs;
        let is_apps = |kv: &KeyValue| kv.key.starts_with(APPS) && kv.key.len() > APPS.len();
        let found: Vec<_> = found.into_iter().filter(|kv| !is_apps(kv)).collect();
        let written: Vec<_> = self.outside.values().cloned().collect();
        if found != written {
            return Err(format!("outside is {found:?}\nand should be {written:?}"));
        }
        let own = self.outer.lease_time_to_live(OWN, true).await;
        let own = own.map_err(|e| format!("the machine's lease: {e:?}"))?;
        let leased = written.into_iter().filter(|kv| kv.lease == OWN);
        if own.keys != leased.map(|kv| kv.key).collect::<Vec<_>>() || own.granted_ttl != 1000 {
            return Err(format!("the machine's lease has become {own:?}"));
        }
        Ok(())
    }

    /// All that a watch has to tell by now.
    async fn events(&self, number: usize, mut stream: WatchStream) -> Vec<String> {
        let side = Side {
            number,
            history: &self.history,
            head: 0,
        };
        let mut told = Vec::new();
        stream.handle().request_progress();
        while let Some(answer) = stream.next().await {
            let answer = answer.unwrap();
            for event in &answer.events {
                // A deletion has no more than its key and revision.
                let (kv, before) = (side.kv(&event.kv), side.kvs(&event.prev_kv));
                told.push(format!("{:?} {kv} before: {before:?}", event.kind));
            }
            if answer.canceled {
                told.push(format!("over, from {}", side.of(answer.compact_revision)));
            } else if answer.events.is_empty() {
                break;
            }
        }
        told
    }
}

enum Answer {
    Range(RangeResponse),
    Put(PutResponse),
    Delete(DeleteRangeResponse),
    Txn(TxnResponse),
    /// A revision, and all else.
    Head(Revision, String),
}

fn told(side: Side<'_>, answer: Result<Answer, StoreError>) -> Told {
    match answer.map_err(refused)? {
        Answer::Range(found) => Ok(side.range(&found)),
        Answer::Put(done) => Ok(side.put(&done)),
        Answer::Delete(done) => Ok(side.delete(&done)),
        Answer::Txn(done) => Ok(side.txn(&done)),
        Answer::Head(revision, told) => Ok(format!("{} {told}", side.head(revision))),
    }
}
