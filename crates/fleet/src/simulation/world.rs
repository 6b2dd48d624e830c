//! Time, tasks and chance of a simulation: one thread, one clock that goes on when nothing else can, one seed.
//!
//! Which of the tasks that can go on does is drawn. So the order of what happens at the same time is another one with each seed,
//! and the same with the same.

use chrono::{DateTime, Utc};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

thread_local! {
    static HERE: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// The world that this thread is in, if it is in one.
pub(crate) fn here() -> Option<World> {
    HERE.with_borrow(Clone::clone)
}

/// When a world begins.
const BEGAN: Duration = Duration::from_secs(1_000_000);

/// Tasks that end together: a daemon's. What has none goes on to the end.
pub(crate) type Group = u64;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// See the module. Clones are one world.
#[derive(Clone)]
pub(crate) struct World(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    ready: Arc<Mutex<BTreeSet<u64>>>,
    began: Instant,
    loud: bool,
}

struct State {
    now: Duration,
    next: u64,
    tasks: BTreeMap<u64, Slot>,
    timers: BTreeMap<(Duration, u64), Waker>,
    /// Of the task that goes on just now.
    group: Group,
    /// Tasks to be ended.
    aborted: BTreeSet<u64>,
    dice: Dice,
    /// What has happened, in words.
    trace: Vec<String>,
    polls: u64,
}

struct Slot {
    group: Group,
    waker: Waker,
    /// None while it goes on.
    work: Option<Work>,
}

struct Alarm {
    id: u64,
    ready: Arc<Mutex<BTreeSet<u64>>>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        ready.insert(self.id);
    }
}

/// Draws numbers, always the same ones from a seed.
#[derive(Clone)]
pub(crate) struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n.max(1)
    }
}

/// Time as the worlds count it: a world's second 0.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

impl World {
    /// `loud` is whether what happens is written down.
    pub fn new(seed: u64, loud: bool) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::new(State {
                // Times before now have to be thinkable.
                now: BEGAN,
                next: 1,
                tasks: BTreeMap::new(),
                timers: BTreeMap::new(),
                group: 0,
                aborted: BTreeSet::new(),
                dice: Dice(seed),
                trace: Vec::new(),
                polls: 0,
            }),
            ready: Arc::default(),
            began: epoch(),
            loud,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since the world began.
    pub fn now(&self) -> Duration {
        self.state().now
    }

    pub fn instant(&self) -> Instant {
        self.0.began + self.now()
    }

    pub fn utc(&self) -> DateTime<Utc> {
        let time = chrono::Duration::from_std(self.now()).unwrap_or_default();
        DateTime::<Utc>::UNIX_EPOCH + time
    }

    pub fn new_uid(&self) -> String {
        let drawn = self.below(u64::MAX);
        format!("{drawn:032x}")
    }

    /// A number below that one.
    pub fn below(&self, n: u64) -> u64 {
        self.state().dice.below(n)
    }

    pub fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn of<'a, T>(&self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }

    /// Notes what happens, for whoever reads the trace of a seed that failed.
    pub fn note(&self, what: impl FnOnce() -> String) {
        if !self.0.loud {
            return;
        }
        let what = what();
        let mut state = self.state();
        let text = format!(
            "{:9.3} {what}",
            state.now.as_secs_f64() - BEGAN.as_secs_f64()
        );
        state.trace.push(text);
    }

    pub fn is_loud(&self) -> bool {
        self.0.loud
    }

    pub fn trace(&self) -> Vec<String> {
        self.state().trace.clone()
    }

    /// The same for two runs that did the same.
    pub fn sum(&self) -> u64 {
        let state = self.state();
        state.dice.0 ^ state.polls
    }

    pub fn sleep(&self, time: Duration) -> Sleep {
        let mut state = self.state();
        state.next += 1;
        Sleep {
            key: (state.now.saturating_add(time), state.next),
            world: self.clone(),
        }
    }

    /// A task of the group of the one that goes on now.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> Spawned {
        let group = self.state().group;
        self.spawn_in(group, work)
    }

    pub fn spawn_in(
        &self,
        group: Group,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Spawned {
        let mut state = self.state();
        state.next += 1;
        let id = state.next;
        let ready = self.0.ready.clone();
        let slot = Slot {
            group,
            waker: Waker::from(Arc::new(Alarm { id, ready })),
            work: Some(Box::pin(work)),
        };
        slot.waker.wake_by_ref();
        state.tasks.insert(id, slot);
        Spawned {
            id,
            world: self.clone(),
        }
    }

    /// A group that no task has.
    pub fn new_group(&self) -> Group {
        let mut state = self.state();
        state.next += 1;
        state.next
    }

    /// Ends all tasks of a group where they wait.
    pub fn end(&self, group: Group) {
        let ended: Vec<Slot> = {
            let mut state = self.state();
            let ids: Vec<u64> = state
                .tasks
                .iter()
                .filter(|(_, s)| s.group == group)
                .map(|(id, _)| *id)
                .collect();
            ids.iter().filter_map(|id| state.tasks.remove(id)).collect()
        };
        // What they hold may speak to the world when it goes.
        drop(ended);
    }

    /// Runs until this is done. Panics if nothing can go on before, or nothing comes to rest.
    pub fn run(&self, work: impl Future<Output = ()> + Send + 'static) {
        HERE.set(Some(self.clone()));
        let _left = Left(self.clone());
        let main = self.spawn_in(0, work).id;
        while self.state().tasks.contains_key(&main) {
            self.step();
        }
    }

    fn step(&self) {
        let aborted = std::mem::take(&mut self.state().aborted);
        for id in aborted {
            let ended = self.state().tasks.remove(&id);
            drop(ended);
        }
        let drawn = {
            let mut ready = self.0.ready.lock().unwrap_or_else(PoisonError::into_inner);
            let n = match ready.len() as u64 {
                0 => None,
                1 => Some(0),
                many => Some(self.below(many)),
            };
            let id = n.and_then(|n| ready.iter().nth(n as usize).copied());
            id.inspect(|id| {
                ready.remove(id);
            })
        };
        match drawn {
            Some(id) => self.poll(id),
            None => self.time_goes_on(),
        }
    }

    fn poll(&self, id: u64) {
        let (mut work, waker) = {
            let mut state = self.state();
            state.polls += 1;
            let last = state.trace.len().saturating_sub(30);
            assert!(
                state.polls < 3_000_000,
                "nothing comes to rest: {}",
                state.trace[last..].join("\n")
            );
            let Some(slot) = state.tasks.get_mut(&id) else {
                return;
            };
            let Some(work) = slot.work.take() else { return };
            let (waker, group) = (slot.waker.clone(), slot.group);
            state.group = group;
            (work, waker)
        };
        let done = work.as_mut().poll(&mut Context::from_waker(&waker));
        let mut state = self.state();
        state.group = 0;
        if done.is_pending() {
            if let Some(slot) = state.tasks.get_mut(&id) {
                slot.work = Some(work);
                return;
            }
        } else {
            state.tasks.remove(&id);
        }
        drop(state);
        drop(work);
    }

    fn time_goes_on(&self) {
        let mut state = self.state();
        let Some(((now, _), waker)) = state.timers.pop_first() else {
            drop(state);
            panic!("nothing can go on any more");
        };
        state.now = state.now.max(now);
        waker.wake();
    }
}

/// Ends the world, however it is left.
struct Left(World);

impl Drop for Left {
    fn drop(&mut self) {
        let rest = std::mem::take(&mut self.0.state().tasks);
        drop(rest);
        HERE.set(None);
    }
}

/// A wait.
pub(crate) struct Sleep {
    key: (Duration, u64),
    world: World,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.world.state();
        if state.now >= self.key.0 {
            state.timers.remove(&self.key);
            return Poll::Ready(());
        }
        state.timers.insert(self.key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.world.state().timers.remove(&self.key);
    }
}

/// A task of a world.
pub(crate) struct Spawned {
    id: u64,
    world: World,
}

impl Spawned {
    pub fn abort(&self) {
        self.world.state().aborted.insert(self.id);
    }
}
