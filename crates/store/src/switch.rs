//! A store in whose place another one comes while it is in use.
//!
//! # The exchange
//! The new store holds what the old one does, at the same revisions (see [`crate::etcd::seed`]); that is what makes this simple.
//!
//! ```text
//!            freeze        the copy is made and compared       switch_to
//! writes     ──────┤ wait ……………………………………………………………………………………………………├──── go on at the new store
//! reads      ───────────────────────────────────────────────────┤──── from now on there
//! watch W    tells 38, 40 … from the old store, up to 41, its last; then opens the new one from 42
//! ```
//! Say that the old store ended at 41 and W, a slow watch, had told all up to 38. It tells 39 to 41 from the old store, which
//! stays until then, and begins at the new store with 42: nothing twice, nothing left out. A watch whose keys did not change for
//! long has told "nothing" up to 41 in the same way, so it does not matter to it what the new store has forgotten. The old store
//! says how far a watch is by its answers to a question for progress, which must be exact, as the embedded store's are.
//!
//! A frozen store that is not exchanged after all thaws when its [`Frozen`] is dropped, and the writes go on where they were.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedRwLockWriteGuard, RwLock, RwLockReadGuard, watch};

use crate::embedded::read_only;
use crate::error::StoreError;
use crate::store::{BoxFuture, Store, WatchControl, WatchHandle, WatchNext, WatchStream, Watching};
use crate::types::*;

/// How long a watch leaves a store alone that it cannot begin at.
const REST: Duration = Duration::from_millis(100);

/// The store that is in use, and at which revisions those before it ended.
#[derive(Clone)]
struct Current {
    store: Arc<dyn Store>,
    ended: Vec<Revision>,
}

/// See the module.
pub struct Switch {
    current: watch::Sender<Current>,
    /// Writers have it together; who freezes has it alone.
    gate: Arc<RwLock<()>>,
}

/// Writes wait as long as this is there.
pub struct Frozen<'s> {
    switch: &'s Switch,
    _gate: OwnedRwLockWriteGuard<()>,
}

impl Switch {
    /// In use is `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            current: watch::Sender::new(Current {
                store,
                ended: Vec::new(),
            }),
            gate: Arc::default(),
        }
    }

    /// The store that is in use.
    pub fn current(&self) -> Arc<dyn Store> {
        self.current.borrow().store.clone()
    }

    /// Answers when the writes that are on their way are done; those that come wait then. Reads, watches and lease keep-alives
    /// go on.
    ///
    /// A write whose future was dropped may still be done after, see [`crate::EmbeddedStore::hold`].
    pub async fn freeze(&self) -> Frozen<'_> {
        Frozen {
            switch: self,
            _gate: self.gate.clone().write_owned().await,
        }
    }

    /// The store to write to, as long as the guard is there.
    async fn enter(&self) -> (RwLockReadGuard<'_, ()>, Arc<dyn Store>) {
        let gate = self.gate.read().await;
        // Behind the gate: after an exchange it is the new one.
        (gate, self.current())
    }
}

impl Frozen<'_> {
    /// Whether `new` stands where the store in use does; answers the revision.
    ///
    /// # Errors
    /// `Unlike` where it does not, and what either store answers.
    pub async fn check(&self, new: &dyn Store) -> Result<Revision, StoreError> {
        let old = self.switch.current();
        let (stands, given) = (old.status().await?.revision, new.status().await?.revision);
        match stands == given {
            true => Ok(stands),
            false => Err(StoreError::Unlike { stands, given }),
        }
    }

    /// Everything goes on at `new`, which stands at `revision` as the store in use does ([`Self::check`]); watches follow by
    /// themselves.
    pub fn exchange(self, new: Arc<dyn Store>, revision: Revision) {
        self.switch.current.send_modify(|current| {
            current.ended.push(revision);
            current.store = new;
        });
    }

    /// [`Self::check`] and [`Self::exchange`].
    ///
    /// # Errors
    /// As the first; writes go on at the old store then.
    pub async fn switch_to(self, new: Arc<dyn Store>) -> Result<(), StoreError> {
        let revision = self.check(&*new).await?;
        self.exchange(new, revision);
        Ok(())
    }

    /// Writes go on where they were; as dropping it.
    pub fn thaw(self) {}
}

impl Store for Switch {
    fn range(&self, request: RangeRequest) -> BoxFuture<'_, RangeResponse> {
        Box::pin(async move { self.current().range(request).await })
    }

    fn put(&self, request: PutRequest) -> BoxFuture<'_, PutResponse> {
        Box::pin(async move {
            let (_gate, store) = self.enter().await;
            store.put(request).await
        })
    }

    fn delete_range(&self, request: DeleteRangeRequest) -> BoxFuture<'_, DeleteRangeResponse> {
        Box::pin(async move {
            let (_gate, store) = self.enter().await;
            store.delete_range(request).await
        })
    }

    fn txn(&self, request: TxnRequest) -> BoxFuture<'_, TxnResponse> {
        Box::pin(async move {
            if read_only(&request) {
                return self.current().txn(request).await;
            }
            let (_gate, store) = self.enter().await;
            store.txn(request).await
        })
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, CompactResponse> {
        Box::pin(async move {
            let (_gate, store) = self.enter().await;
            store.compact(revision).await
        })
    }

    fn watch(&self, request: WatchRequest) -> BoxFuture<'_, WatchStream> {
        Box::pin(async move {
            let mut current = self.current.subscribe();
            let store = current.borrow_and_update().clone();
            let watch = SwitchWatch::open(current, store, request).await?;
            Ok(WatchStream::new(watch))
        })
    }

    fn lease_grant(&self, ttl: i64, id: LeaseId) -> BoxFuture<'_, LeaseGrantResponse> {
        Box::pin(async move {
            let (_gate, store) = self.enter().await;
            store.lease_grant(ttl, id).await
        })
    }

    fn lease_revoke(&self, id: LeaseId) -> BoxFuture<'_, LeaseRevokeResponse> {
        Box::pin(async move {
            let (_gate, store) = self.enter().await;
            store.lease_revoke(id).await
        })
    }

    fn lease_keep_alive(&self, id: LeaseId) -> BoxFuture<'_, LeaseKeepAliveResponse> {
        Box::pin(async move { self.current().lease_keep_alive(id).await })
    }

    fn lease_time_to_live(
        &self,
        id: LeaseId,
        keys: bool,
    ) -> BoxFuture<'_, LeaseTimeToLiveResponse> {
        Box::pin(async move { self.current().lease_time_to_live(id, keys).await })
    }

    fn leases(&self) -> BoxFuture<'_, LeasesResponse> {
        Box::pin(async move { self.current().leases().await })
    }

    fn defragment(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let (_gate, store) = self.enter().await;
            store.defragment().await
        })
    }

    fn hash(&self, revision: Revision) -> BoxFuture<'_, HashResponse> {
        Box::pin(async move { self.current().hash(revision).await })
    }

    fn status(&self) -> BoxFuture<'_, Status> {
        Box::pin(async move { self.current().status().await })
    }

    fn snapshot(&self, out: Box<dyn Write + Send>) -> BoxFuture<'_, Revision> {
        Box::pin(async move { self.current().snapshot(out).await })
    }
}

/// What a watch and its handles share.
struct Asked {
    /// Of the stream that is read now.
    inner: Mutex<WatchHandle>,
    /// Progress was asked for and is not told yet.
    owed: AtomicBool,
    canceled: AtomicBool,
}

impl Asked {
    fn inner(&self) -> std::sync::MutexGuard<'_, WatchHandle> {
        // A handle is valid at every step.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on with another stream, which is asked what was asked of the one before.
    fn follow(&self, handle: WatchHandle) {
        let mut inner = self.inner();
        *inner = handle;
        if self.owed.load(Ordering::Acquire) {
            inner.request_progress();
        }
        if self.canceled.load(Ordering::Acquire) {
            inner.cancel();
        }
    }
}

struct Handle(Arc<Asked>);

impl WatchControl for Handle {
    fn request_progress(&self) {
        // Under the lock, so that a stream which comes now is told either here or by `follow`.
        let inner = self.0.inner();
        self.0.owed.store(true, Ordering::Release);
        inner.request_progress();
    }

    fn cancel(&self) {
        let inner = self.0.inner();
        self.0.canceled.store(true, Ordering::Release);
        inner.cancel();
    }
}

struct SwitchWatch {
    current: watch::Receiver<Current>,
    /// The store that `stream` is of; it stays as long as it is read.
    store: Arc<dyn Store>,
    /// How many stores there were before it.
    before: usize,
    stream: WatchStream,
    request: WatchRequest,
    begun: Revision,
    /// The first revision not told yet.
    next: Revision,
    asked: Arc<Asked>,
    over: bool,
    /// The switch is gone with its store; what there is goes on.
    alone: bool,
}

impl SwitchWatch {
    async fn open(
        current: watch::Receiver<Current>,
        from: Current,
        request: WatchRequest,
    ) -> Result<Self, StoreError> {
        let stream = from.store.watch(request.clone()).await?;
        let begun = stream.revision();
        let asked = Asked {
            inner: Mutex::new(stream.handle()),
            owed: AtomicBool::new(false),
            canceled: AtomicBool::new(false),
        };
        let next = match request.start_revision {
            start if start > 0 => start,
            _ => begun + 1,
        };
        Ok(Self {
            current,
            before: from.ended.len(),
            store: from.store,
            stream,
            request,
            begun,
            next,
            asked: Arc::new(asked),
            over: false,
            alone: false,
        })
    }

    /// The revision that the store which is read ended at, if there is another.
    fn ended(&self) -> Option<Revision> {
        self.current.borrow().ended.get(self.before).copied()
    }

    async fn answer(&mut self) -> Option<Result<WatchResponse, StoreError>> {
        loop {
            if self.over {
                return None;
            }
            let ended = self.ended();
            if ended.is_some_and(|ended| self.next > ended) {
                self.follow().await;
                continue;
            }
            if ended.is_some() {
                // So that it says that all is told, where there is nothing to tell.
                self.asked.inner().request_progress();
            }
            let told = tokio::select! {
                told = self.stream.next() => told,
                changed = self.current.changed(), if ended.is_none() && !self.alone => {
                    self.alone = changed.is_err();
                    continue;
                }
            };
            // It may have come with the last answer.
            let ended = self.ended();
            match told {
                Some(Ok(answer)) => {
                    if let Some(answer) = self.take(answer, ended) {
                        return Some(Ok(answer));
                    }
                }
                // The old store is closed before all was told: the new one has that, too.
                None | Some(Err(_)) if ended.is_some() => self.follow().await,
                None => {
                    self.over = true;
                    return None;
                }
                Some(Err(error)) => return Some(Err(error)),
            }
        }
    }

    fn take(
        &mut self,
        mut answer: WatchResponse,
        ended: Option<Revision>,
    ) -> Option<WatchResponse> {
        if answer.canceled {
            self.over = true;
            return Some(answer);
        }
        let events = !answer.events.is_empty();
        if let Some(ended) = ended {
            // What is written to the old store later is not the same store's any more.
            answer.events.retain(|event| event.kv.mod_revision <= ended);
            answer.revision = answer.revision.min(ended);
        }
        if events || ended.is_some() {
            // etcd's answers to a question for progress may overtake what is still to be told.
            self.next = self.next.max(answer.revision + 1);
        }
        if !answer.events.is_empty() {
            return Some(answer);
        }
        let owed = !events && self.asked.owed.swap(false, Ordering::AcqRel);
        (owed || self.request.progress_notify).then_some(answer)
    }

    /// Begins at the newest store with what is not told yet. Dropped on the way, it begins anew.
    async fn follow(&mut self) {
        let newest = self.current.borrow_and_update().clone();
        let request = WatchRequest {
            start_revision: self.next,
            ..self.request.clone()
        };
        match newest.store.watch(request).await {
            Ok(stream) => {
                self.asked.follow(stream.handle());
                self.before = newest.ended.len();
                self.store = newest.store;
                self.stream = stream;
            }
            Err(error) => {
                // A watch is not over because its store is away for a moment.
                tracing::debug!(error = %crate::full(&error), "a watch cannot go on at the new store yet");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

impl Watching for SwitchWatch {
    fn next(&mut self) -> WatchNext<'_> {
        Box::pin(self.answer())
    }

    fn handle(&self) -> WatchHandle {
        WatchHandle::new(Handle(self.asked.clone()))
    }

    fn revision(&self) -> Revision {
        self.begun
    }
}
