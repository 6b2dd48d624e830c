//! A machine's way to a store, with what may befall it: delay, loss of questions or answers, watches that hang or break.
//!
//! What is on its way goes on when who asked is gone: a daemon that dies does not take back what it has sent.

use super::data::{Data, holds};
use super::world::World;
use coracle_store::{
    BoxFuture, CompactResponse, DeleteRangeRequest, DeleteRangeResponse, Event, HashResponse,
    LeaseGrantResponse, LeaseId, LeaseKeepAliveResponse, LeaseRevokeResponse,
    LeaseTimeToLiveResponse, LeasesResponse, OWN_LEASE, PutRequest, PutResponse, RangeRequest,
    RangeResponse, Revision, Status, Store, StoreError, TxnRequest, TxnResponse, WatchControl,
    WatchHandle, WatchNext, WatchRequest, WatchResponse, WatchStream, Watching,
};
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Says what follows from a write: who wrote, and what it changed.
pub(crate) type Told = dyn Fn(Option<usize>, &Data, &[Event]) + Send + Sync;

/// A store that machines have links to. Clones are one.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Inner>);

struct Inner {
    world: World,
    data: Mutex<Data>,
    revision: watch::Sender<Revision>,
    told: Box<Told>,
    /// Of a store that forgets one of its rules, for the checks' own sake.
    no_compares: bool,
}

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Questions come through.
    pub to: bool,
    /// Answers come through.
    pub from: bool,
    /// Milliseconds that each way takes at most.
    pub slow: u64,
    /// Watches end by themselves now and then.
    pub breaks: bool,
}

impl Line {
    pub const GOOD: Self = Self {
        to: true,
        from: true,
        slow: 20,
        breaks: true,
    };
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new(world: &World, no_compares: bool, told: Box<Told>) -> Self {
        Self(Arc::new(Inner {
            world: world.clone(),
            data: Mutex::new(Data::new()),
            revision: watch::Sender::new(1),
            told,
            no_compares,
        }))
    }

    /// Looks at what is there.
    pub fn look<T>(&self, look: impl FnOnce(&Data) -> T) -> T {
        look(&locked(&self.0.data))
    }

    /// Does something to it; `by` is the machine that asked.
    pub fn act<T>(&self, by: Option<usize>, act: impl FnOnce(&mut Data, Duration) -> T) -> T {
        let now = self.0.world.now();
        let mut data = locked(&self.0.data);
        let before = data.revision();
        let done = act(&mut data, now);
        let after = data.revision();
        if after != before {
            let events = data.since(before + 1).to_vec();
            (self.0.told)(by, &data, &events);
        }
        drop(data);
        if after != before {
            self.0.revision.send_replace(after);
        }
        done
    }

    /// Ends leases whose time is over, for ever.
    pub async fn expire(self) {
        loop {
            let now = self.0.world.now();
            let next = self.look(Data::next_end);
            match next {
                Some(end) if end <= now => {
                    self.act(None, Data::expire);
                }
                // As etcd: looked at twice a second.
                _ => {
                    let half = Duration::from_millis(500);
                    let rest = next.map_or(10 * half, |end| end.saturating_sub(now));
                    self.0.world.sleep(rest.max(half)).await;
                }
            }
        }
    }

    pub fn link(&self, machine: usize, line: watch::Receiver<Line>) -> Arc<Link> {
        Arc::new(Link {
            shared: self.clone(),
            machine,
            line,
            local: false,
        })
    }

    /// Of a store on the machine's own disk.
    pub fn local(&self, machine: usize) -> Arc<Link> {
        Arc::new(Link {
            shared: self.clone(),
            machine,
            line: watch::channel(Line::GOOD).1,
            local: true,
        })
    }
}

/// See the module.
pub(crate) struct Link {
    shared: Shared,
    machine: usize,
    line: watch::Receiver<Line>,
    local: bool,
}

impl Link {
    fn world(&self) -> &World {
        &self.shared.0.world
    }

    fn delay(&self, slow: u64) -> Duration {
        let world = self.world();
        let most = match world.below(60) {
            // Now and then one takes its time.
            0 => slow * 20,
            1..=5 => slow * 5,
            _ => slow,
        };
        Duration::from_millis(1 + world.below(most))
    }

    async fn ask<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Data, Duration) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.ask_if(false, act).await
    }

    /// `fenced` is whether it is done only if something is as who asks knows it.
    async fn ask_if<T: Send + 'static>(
        &self,
        fenced: bool,
        act: impl FnOnce(&mut Data, Duration) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (world, by) = (self.world().clone(), Some(self.machine));
        if self.local {
            world.sleep(Duration::from_micros(world.below(300))).await;
            let done = self.shared.act(by, act);
            world.sleep(Duration::from_micros(world.below(300))).await;
            return done;
        }
        let away = |sent| StoreError::Unreachable {
            why: "it is simulated to be away".into(),
            sent,
        };
        let line = *self.line.borrow();
        // A connection that is known to be broken takes no question.
        if !line.to && world.one_in(2) {
            world.sleep(Duration::from_millis(world.below(1000))).await;
            return Err(away(false));
        }
        let (there, back) = (self.delay(line.slow), self.delay(line.slow));
        // What depends on nothing would do harm if it came after who asked has given up and gone on.
        let there = if fenced {
            there
        } else {
            there.min(PATIENCE / 2)
        };
        let (answer, come) = oneshot::channel();
        let (shared, mut follow) = (self.shared.clone(), self.line.clone());
        let inner = world.clone();
        world.spawn_in(0, async move {
            inner.sleep(there).await;
            if !follow.borrow_and_update().to {
                return;
            }
            let done = shared.act(by, act);
            inner.sleep(back).await;
            if follow.borrow_and_update().from {
                let _ = answer.send(done);
            }
        });
        // As etcd's client has it. What was asked may still be done, later.
        match crate::pace::within(PATIENCE, come).await {
            Some(Ok(done)) => done,
            None => Err(away(true)),
            Some(Err(_)) => {
                // Nobody answers; that is noticed after a time.
                let time = 500 + world.below(4500);
                world.sleep(Duration::from_millis(time)).await;
                Err(away(true))
            }
        }
    }
}

/// What the fleet never asks of a store is not played: an ask of it ends the test.
const NOT_ASKED: &str =
    "the fleet has never asked this of its store; the simulation has to learn it";

impl Store for Link {
    fn range(&self, request: RangeRequest) -> BoxFuture<'_, RangeResponse> {
        Box::pin(self.ask(move |data, _| data.range(&request)))
    }

    fn put(&self, request: PutRequest) -> BoxFuture<'_, PutResponse> {
        Box::pin(self.ask(move |data, _| data.put(request)))
    }

    fn delete_range(&self, request: DeleteRangeRequest) -> BoxFuture<'_, DeleteRangeResponse> {
        Box::pin(self.ask(move |data, _| Ok(data.delete(&request))))
    }

    fn txn(&self, mut request: TxnRequest) -> BoxFuture<'_, TxnResponse> {
        if self.shared.0.no_compares && !request.success.is_empty() {
            request.compare.clear();
        }
        let fenced = !request.compare.is_empty();
        Box::pin(self.ask_if(fenced, move |data, _| data.txn(request)))
    }

    fn compact(&self, _: Revision) -> BoxFuture<'_, CompactResponse> {
        unreachable!("{NOT_ASKED}")
    }

    fn watch(&self, request: WatchRequest) -> BoxFuture<'_, WatchStream> {
        Box::pin(async move {
            let begun = self.ask(|data, _| Ok(data.revision())).await?;
            let next = match request.start_revision {
                0 => begun + 1,
                from => from,
            };
            Ok(WatchStream::new(Watch {
                world: self.world().clone(),
                shared: self.shared.clone(),
                line: self.line.clone(),
                request,
                begun,
                next,
                due: None,
                over: false,
                local: self.local,
            }))
        })
    }

    fn lease_grant(&self, ttl: i64, _: LeaseId) -> BoxFuture<'_, LeaseGrantResponse> {
        // Drawn here, since the product draws it of what is not the seed's.
        let id = OWN_LEASE | self.world().below(1 << 60) as LeaseId;
        Box::pin(self.ask(move |data, now| Ok(data.grant(ttl, id, now))))
    }

    fn lease_revoke(&self, id: LeaseId) -> BoxFuture<'_, LeaseRevokeResponse> {
        Box::pin(self.ask(move |data, _| data.revoke(id)))
    }

    fn lease_keep_alive(&self, id: LeaseId) -> BoxFuture<'_, LeaseKeepAliveResponse> {
        Box::pin(self.ask(move |data, now| data.keep_alive(id, now)))
    }

    fn lease_time_to_live(&self, _: LeaseId, _: bool) -> BoxFuture<'_, LeaseTimeToLiveResponse> {
        unreachable!("{NOT_ASKED}")
    }

    fn leases(&self) -> BoxFuture<'_, LeasesResponse> {
        unreachable!("{NOT_ASKED}")
    }

    fn defragment(&self) -> BoxFuture<'_, ()> {
        unreachable!("{NOT_ASKED}")
    }

    fn hash(&self, _: Revision) -> BoxFuture<'_, HashResponse> {
        unreachable!("{NOT_ASKED}")
    }

    fn status(&self) -> BoxFuture<'_, Status> {
        Box::pin(self.ask(|data, _| {
            Ok(Status {
                revision: data.revision(),
                compact_revision: 0,
                bytes_in_use: 0,
                bytes_on_disk: 0,
                quota_bytes: 0,
                no_space: false,
                leases: 0,
            })
        }))
    }

    fn snapshot(&self, _: Box<dyn Write + Send>) -> BoxFuture<'_, Revision> {
        unreachable!("{NOT_ASKED}")
    }
}

struct Watch {
    world: World,
    shared: Shared,
    line: watch::Receiver<Line>,
    request: WatchRequest,
    begun: Revision,
    /// The first revision not told yet.
    next: Revision,
    /// When what is there to be told comes.
    due: Option<Duration>,
    over: bool,
    local: bool,
}

struct Nothing;

impl WatchControl for Nothing {
    fn request_progress(&self) {}
    fn cancel(&self) {}
}

impl Watching for Watch {
    fn next(&mut self) -> WatchNext<'_> {
        Box::pin(self.tell())
    }

    fn handle(&self) -> WatchHandle {
        WatchHandle::new(Nothing)
    }

    fn revision(&self) -> Revision {
        self.begun
    }
}

impl Watch {
    async fn tell(&mut self) -> Option<Result<WatchResponse, StoreError>> {
        let mut revisions = self.shared.0.revision.subscribe();
        let mut line = self.line.clone();
        while !self.over {
            let stands = *line.borrow_and_update();
            if !(stands.to && stands.from) {
                // It may be mended before anybody notices.
                let patience = Duration::from_millis(200 + self.world.below(8000));
                let mended = async {
                    let _ = line.wait_for(|line| line.to && line.from).await;
                };
                if crate::pace::within(patience, mended).await.is_none() {
                    return Some(Err(StoreError::Unreachable {
                        why: "it is simulated to be away".into(),
                        sent: false,
                    }));
                }
                continue;
            }
            let there = *revisions.borrow_and_update();
            if there < self.next {
                if self.local {
                    let _ = revisions.changed().await;
                    continue;
                }
                tokio::select! {
                    biased;
                    _ = line.changed() => {}
                    _ = revisions.changed() => {}
                }
                continue;
            }
            let now = self.world.now();
            let slow = stands.slow;
            let due = *self.due.get_or_insert_with(|| {
                let most = if self.world.one_in(40) {
                    slow * 30
                } else {
                    slow
                };
                now + Duration::from_millis(1 + self.world.below(most))
            });
            if now < due {
                let wait = self.world.sleep(due - now);
                tokio::select! {
                    biased;
                    _ = line.changed() => {}
                    () = wait => {}
                }
                continue;
            }
            self.due = None;
            let (key, end) = (&self.request.key, &self.request.range_end);
            let (revision, events) = self.shared.look(|data| {
                let since = data.since(self.next).iter();
                let own = since.filter(|e| holds(key, end, &e.kv.key));
                (data.revision(), own.cloned().collect::<Vec<Event>>())
            });
            self.next = revision + 1;
            if stands.breaks && self.world.one_in(300) {
                // It may be told that it is over at any time.
                self.over = true;
                let canceled = WatchResponse {
                    revision,
                    canceled: true,
                    ..WatchResponse::default()
                };
                return Some(Ok(canceled));
            }
            if !events.is_empty() {
                return Some(Ok(WatchResponse {
                    revision,
                    events,
                    ..WatchResponse::default()
                }));
            }
        }
        None
    }
}
