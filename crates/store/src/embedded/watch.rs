//! Watches: positions in the log.
//!
//! A watch is told nothing by the writer but "revision r is yours". Say that watch W looks at
//! `a`, has seen all up to 4, and the writer commits 5 (`b`) and 6 (`a`): the hub marks W with
//! 6 and wakes it; W reads the log from 6 to the newest revision at that moment and is in step
//! again. Had W slept through 7 to 900 the mark would still be 6, the first one missed: nothing is
//! queued for it, and if 6 is compacted by then it is told so. A watch whose keys do not change
//! has no mark, so compaction never hits it.

mod told;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::lock;
use super::memory::Entry;
use super::read::{Bounds, End};
use super::shared::Shared;
use crate::error::StoreError;
use crate::store::{WatchControl, WatchHandle, WatchNext, Watching};
use crate::types::*;
use told::{Read, read_log};

/// What the writer and one watch share.
struct Slot {
    id: u64,
    bounds: Bounds,
    /// Guarded by the hub's lock too; 0: nothing new.
    mark: Mutex<Revision>,
    wake: tokio::sync::Notify,
    progress: AtomicBool,
    canceled: AtomicBool,
}

/// All watches of a store.
pub(crate) struct Hub {
    inner: Mutex<Watches>,
    ids: AtomicU64,
}

struct Watches {
    published: Revision,
    closed: bool,
    keys: HashMap<Bytes, Vec<Arc<Slot>>>,
    ranges: BTreeMap<(Bytes, u64), Arc<Slot>>,
}

impl Hub {
    pub(crate) fn new(published: Revision) -> Self {
        let inner = Watches {
            published,
            closed: false,
            keys: HashMap::new(),
            ranges: BTreeMap::new(),
        };
        Self {
            inner: Mutex::new(inner),
            ids: AtomicU64::new(1),
        }
    }

    /// Called after each commit, with its changes in order.
    pub(crate) fn publish(&self, revision: Revision, changed: &[Entry]) {
        let mut inner = lock(&self.inner);
        inner.published = revision;
        let mark = |slot: &Slot, revision| {
            let mut mark = lock(&slot.mark);
            if *mark == 0 {
                *mark = revision;
                slot.wake.notify_one();
            }
        };
        for entry in changed {
            let key = entry.key();
            for slot in inner.keys.get(key).into_iter().flatten() {
                mark(slot, entry.revision);
            }
            if inner.ranges.is_empty() {
                continue;
            }
            let upto = (Bytes::copy_from_slice(key), u64::MAX);
            for (_, slot) in inner.ranges.range(..=upto) {
                if slot.bounds.contains(key) {
                    mark(slot, entry.revision);
                }
            }
        }
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        let mut inner = lock(&self.inner);
        inner.closed = true;
        for slot in inner.keys.values().flatten().chain(inner.ranges.values()) {
            slot.wake.notify_one();
        }
    }

    /// The newest revision whose answer has been given.
    pub(crate) fn published(&self) -> Revision {
        lock(&self.inner).published
    }

    fn add(&self, slot: &Arc<Slot>) -> Revision {
        let mut inner = lock(&self.inner);
        if slot.bounds.end == End::Single {
            inner
                .keys
                .entry(slot.bounds.start.clone())
                .or_default()
                .push(Arc::clone(slot));
        } else {
            inner
                .ranges
                .insert((slot.bounds.start.clone(), slot.id), Arc::clone(slot));
        }
        inner.published
    }

    fn remove(&self, slot: &Slot) {
        let mut inner = lock(&self.inner);
        if slot.bounds.end != End::Single {
            inner.ranges.remove(&(slot.bounds.start.clone(), slot.id));
        } else if let Some(slots) = inner.keys.get_mut(&slot.bounds.start) {
            slots.retain(|other| other.id != slot.id);
            if slots.is_empty() {
                inner.keys.remove(&slot.bounds.start);
            }
        }
    }
}

/// How long to leave a database alone that is being packed or opened anew.
const BUSY: Duration = Duration::from_millis(5);

/// One watch.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    request: WatchRequest,
    /// The store's revision when it began.
    begun: Revision,
    /// The first revision not told yet.
    next: Revision,
    /// The log is to be read up to here.
    upto: Revision,
    over: bool,
}

struct Handle(Arc<Slot>);

impl WatchControl for Handle {
    fn request_progress(&self) {
        self.0.progress.store(true, Ordering::Release);
        self.0.wake.notify_one();
    }

    fn cancel(&self) {
        self.0.canceled.store(true, Ordering::Release);
        self.0.wake.notify_one();
    }
}

impl Watching for Watch {
    fn next(&mut self) -> WatchNext<'_> {
        Box::pin(self.answer())
    }

    fn handle(&self) -> WatchHandle {
        WatchHandle::new(Handle(Arc::clone(&self.slot)))
    }

    fn revision(&self) -> Revision {
        self.begun
    }
}

impl Watch {
    pub(crate) fn new(shared: &Arc<Shared>, mut request: WatchRequest) -> Result<Self, StoreError> {
        if request.key.is_empty() {
            request.key = Bytes::from_static(b"\0");
        }
        let slot = Arc::new(Slot {
            id: shared.hub.ids.fetch_add(1, Ordering::Relaxed),
            bounds: Bounds::new(&request.key, &request.range_end),
            mark: Mutex::new(0),
            wake: tokio::sync::Notify::new(),
            progress: AtomicBool::new(false),
            canceled: AtomicBool::new(false),
        });
        let published = shared.hub.add(&slot);
        let start = request.start_revision;
        let next = if start > 0 { start } else { published + 1 };
        Ok(Self {
            shared: Arc::clone(shared),
            slot,
            request,
            begun: published,
            next,
            upto: published,
            over: false,
        })
    }

    async fn answer(&mut self) -> Option<Result<WatchResponse, StoreError>> {
        loop {
            if self.over {
                return None;
            }
            if self.slot.canceled.load(Ordering::Acquire) {
                self.over = true;
                let revision = self.next - 1;
                return Some(Ok(WatchResponse {
                    revision,
                    canceled: true,
                    ..Default::default()
                }));
            }
            if self.next <= self.upto {
                while self.shared.disk.is_busy() {
                    // Waiting for it in the read would keep a thread from others.
                    tokio::time::sleep(BUSY).await;
                }
                match self.catch_up() {
                    Ok(Some(answer)) => return Some(Ok(answer)),
                    Ok(None) => {}
                    Err(error) => return Some(Err(error)),
                }
                // Reading history must not keep a thread from others.
                tokio::task::yield_now().await;
                continue;
            }
            if self.take_mark()? {
                continue;
            }
            if self.slot.progress.swap(false, Ordering::AcqRel) {
                return Some(Ok(self.progress()));
            }
            let woken = self.slot.wake.notified();
            if self.request.progress_notify {
                let interval = self.shared.options.progress_interval;
                if tokio::time::timeout(interval, woken).await.is_err() && !self.take_mark()? {
                    return Some(Ok(self.progress()));
                }
            } else {
                woken.await;
            }
        }
    }

    /// Whether the hub has something new; None when the store is closed.
    fn take_mark(&mut self) -> Option<bool> {
        let inner = lock(&self.shared.hub.inner);
        let mark = std::mem::take(&mut *lock(&self.slot.mark));
        if mark == 0 {
            return (!inner.closed).then_some(false);
        }
        self.next = self.next.max(mark);
        self.upto = inner.published;
        Some(true)
    }

    // Nothing is marked, so nothing up to the newest revision was missed. Without this the
    // position of a watch that sees no change would be an old one.
    fn progress(&mut self) -> WatchResponse {
        let inner = lock(&self.shared.hub.inner);
        let told = if *lock(&self.slot.mark) == 0 {
            inner.published
        } else {
            self.upto
        };
        WatchResponse {
            revision: told,
            ..Default::default()
        }
    }

    /// Reads on in the log; None where that held nothing for this watch.
    fn catch_up(&mut self) -> Result<Option<WatchResponse>, StoreError> {
        let (request, bounds) = (&self.request, &self.slot.bounds);
        let (from, upto) = (self.next, self.upto);
        let read = self
            .shared
            .read(|view| read_log(view, request, bounds, from, upto));
        let read = match read {
            Err(StoreError::Compacted { compacted, .. }) => Read::Compacted(compacted),
            read => read?,
        };
        match read {
            Read::Compacted(compact_revision) => {
                self.over = true;
                Ok(Some(WatchResponse {
                    revision: upto,
                    compact_revision,
                    canceled: true,
                    ..Default::default()
                }))
            }
            Read::Events { events, reached } => {
                self.next = self.next.max(reached + 1);
                let answer = WatchResponse {
                    revision: reached,
                    events,
                    ..Default::default()
                };
                Ok((!answer.events.is_empty()).then_some(answer))
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.hub.remove(&self.slot);
    }
}
