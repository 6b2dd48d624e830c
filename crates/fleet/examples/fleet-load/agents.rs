//! Machines of which there is nothing but what they say: simulated agents.
//!
//! Each does with the store what a machine's daemon does: it writes its facts, keeps a lease with a sign every three seconds, watches
//! the keys below its own `desired/<machine>/` and nothing else, reads the text of each unit that is new to it, and reports how its
//! instances stand, all news in one transaction. There is no engine: what is asked of a machine is so at once. All of them are in one
//! process and share a few connections, as machines do that come through voters' doors.

use super::Fallible;
use coracle_fleet::machine::facts;
use coracle_fleet::model::{Active, Actual, Desired, DesiredRecord, Instance, Machine, keys};
use coracle_fleet::presence::{BEAT, LEASE};
use coracle_store::{
    DeleteRangeRequest, EtcdOptions, EtcdStore, EventKind, LeaseId, PutRequest, RangeRequest,
    Store, StoreError, StoreExt as _, TxnOp, TxnRequest, WatchRequest, machine_lease,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::AbortHandle;

/// Machines on one connection.
const SHARE: usize = 100;
/// Machines that come up at a time.
const COME: usize = 64;
/// Machines that answer at a time: of real ones never all do so in the same moment, in which signs of life would come too late.
const ANSWER: usize = 64;
/// Records of one transaction.
const AT_ONCE: usize = 100;
/// How long a store that does not answer is left alone.
const REST: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(300);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All machines, and what has been seen of them together.
pub struct Agents {
    machines: Vec<Arc<Agent>>,
    seen: Arc<Seen>,
    answering: watch::Sender<bool>,
}

/// What has happened on all machines.
struct Seen {
    /// Whose turn it is to answer.
    turns: Semaphore,
    /// The first and the last time that a machine was asked for an instance, and how many were.
    asked: Mutex<(Option<Instant>, Option<Instant>, usize)>,
    /// By unit: the last instance that was acknowledged, and when.
    acknowledged: Mutex<HashMap<String, (u64, Instant)>>,
    /// A machine that lost its lease though it gave signs: what is measured then is not what was to be measured.
    lapsed: Mutex<usize>,
}

impl Seen {
    fn new() -> Self {
        Self {
            turns: Semaphore::new(ANSWER),
            asked: Mutex::default(),
            acknowledged: Mutex::default(),
            lapsed: Mutex::default(),
        }
    }
}

struct Agent {
    id: String,
    store: Arc<dyn Store>,
    lease: AtomicI64,
    asked: Mutex<Asked>,
    news: Notify,
    tasks: Mutex<Vec<AbortHandle>>,
}

#[derive(Default)]
struct Asked {
    now: BTreeMap<Instance, DesiredRecord>,
    /// Instances of which there is something to report.
    news: BTreeSet<Instance>,
}

impl Agents {
    /// Has machines come up, and waits until all watch. They answer nothing before [`Self::answer`].
    pub async fn join(url: &str, count: usize) -> Fallible<Self> {
        let (seen, answering) = (Arc::new(Seen::new()), watch::Sender::new(false));
        let mut stores: Vec<Arc<dyn Store>> = Vec::new();
        for _ in 0..count.div_ceil(SHARE) {
            stores.push(Arc::new(EtcdStore::new(EtcdOptions::new([url]))?));
        }
        let (gate, mut coming) = (Arc::new(Semaphore::new(COME)), tokio::task::JoinSet::new());
        let mut machines = Vec::new();
        for n in 0..count {
            let agent = Arc::new(Agent {
                id: format!("{:032x}", n + 1),
                store: stores[n % stores.len()].clone(),
                lease: AtomicI64::new(0),
                asked: Mutex::default(),
                news: Notify::new(),
                tasks: Mutex::default(),
            });
            machines.push(agent.clone());
            let (gate, seen, may) = (gate.clone(), seen.clone(), answering.subscribe());
            coming.spawn(async move {
                let _one = gate.acquire().await;
                agent.come_up(n, seen, may).await
            });
        }
        while let Some(came) = coming.join_next().await {
            came??;
        }
        Ok(Self {
            machines,
            seen,
            answering,
        })
    }

    /// From now on they report.
    pub fn answer(&self) {
        self.answering.send_replace(true);
    }

    /// Waits until so many instances were asked for; answers the seconds from the first to the last.
    pub async fn asked(&self, count: usize) -> Fallible<f64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let (Some(first), Some(last), known) = *locked(&self.seen.asked)
                && known >= count
            {
                return Ok((last - first).as_secs_f64());
            }
            if Instant::now() > deadline {
                return Err(format!("machines are not asked for {count} instances").into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends a machine and its lease; answers the seconds until all that it had was acknowledged by others, and how many units that were.
    pub async fn lose(&self, n: usize) -> Fallible<(f64, usize)> {
        let agent = &self.machines[n];
        for task in locked(&agent.tasks).drain(..) {
            task.abort();
        }
        let had: BTreeMap<String, u64> = {
            let asked = locked(&agent.asked);
            let all = asked.now.iter();
            all.map(|(instance, r)| (r.unit.clone(), instance.incarnation))
                .collect()
        };
        let begun = Instant::now();
        agent
            .store
            .lease_revoke(agent.lease.load(Ordering::Relaxed))
            .await?;
        loop {
            let last = {
                let known = locked(&self.seen.acknowledged);
                let last = had.iter().map(|(unit, incarnation)| {
                    let (now, when) = known.get(unit)?;
                    (now > incarnation).then_some(*when)
                });
                last.collect::<Option<Vec<Instant>>>()
            };
            if let Some(last) = last {
                let last = last.into_iter().max().unwrap_or(begun);
                return Ok(((last - begun).as_secs_f64(), had.len()));
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("units of machine {} were not replaced", agent.id).into());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// How often a machine's lease ran out although it gave signs.
    pub fn lapsed(&self) -> usize {
        *locked(&self.seen.lapsed)
    }

    /// Machines do nothing more.
    pub fn end(self) {
        for agent in self.machines {
            locked(&agent.tasks).drain(..).for_each(|task| task.abort());
        }
    }
}

impl Agent {
    async fn come_up(
        self: Arc<Self>,
        n: usize,
        seen: Arc<Seen>,
        may: watch::Receiver<bool>,
    ) -> Fallible<()> {
        self.appear(n).await?;
        let prefix = keys::desired_of(&self.id);
        let found = self.store.list(prefix.clone()).await?;
        let watch = WatchRequest::prefix(prefix).from(found.revision + 1);
        let watch = self.store.watch(watch).await?;
        let tasks = [
            tokio::spawn(self.clone().give_signs(n, seen.clone())).abort_handle(),
            tokio::spawn(self.clone().follow(watch, seen.clone())).abort_handle(),
            tokio::spawn(self.clone().report(may, seen)).abort_handle(),
        ];
        locked(&self.tasks).extend(tasks);
        Ok(())
    }

    /// Its facts, and its key under a lease.
    async fn appear(&self, n: usize) -> Result<(), StoreError> {
        let machine = Machine {
            hostname: format!("simulated-{n}"),
            cpus: 16,
            memory: 64 << 30,
            door: format!("10.0.{}.{}:7373", n / 256, n % 256),
            ..facts(&self.id)
        };
        self.store
            .put_json(&keys::machine(&self.id), &machine)
            .await?;
        let wanted = machine_lease(&self.id);
        let lease: LeaseId = self.store.lease_grant(LEASE, wanted).await?.id;
        let alive = PutRequest::new(keys::alive(&self.id), machine.since.to_rfc3339());
        self.store.put(alive.with_lease(lease)).await?;
        self.lease.store(lease, Ordering::Relaxed);
        Ok(())
    }

    async fn give_signs(self: Arc<Self>, n: usize, seen: Arc<Seen>) {
        // Machines do not beat together.
        let mut rest = BEAT * u32::try_from(n % 97).unwrap_or(0) / 97;
        loop {
            tokio::time::sleep(rest).await;
            let lease = self.lease.load(Ordering::Relaxed);
            rest = match self.store.lease_keep_alive(lease).await {
                Ok(_) => BEAT,
                Err(StoreError::LeaseNotFound(_)) => {
                    *locked(&seen.lapsed) += 1;
                    let _ = self.appear(n).await;
                    BEAT
                }
                Err(_) => REST,
            };
        }
    }

    async fn follow(self: Arc<Self>, mut watch: coracle_store::WatchStream, seen: Arc<Seen>) {
        while let Some(Ok(answer)) = watch.next().await {
            let now = Instant::now();
            let mut asked = locked(&self.asked);
            for event in answer.events {
                let key = std::str::from_utf8(&event.kv.key).unwrap_or_default();
                let Some((_, instance)) = keys::placed(key, keys::DESIRED) else {
                    continue;
                };
                asked.news.insert(instance.clone());
                if event.kind == EventKind::Delete {
                    asked.now.remove(&instance);
                } else if let Ok(record) = serde_json::from_slice(&event.kv.value)
                    && asked.now.insert(instance, record).is_none()
                {
                    let (first, last, count) = &mut *locked(&seen.asked);
                    first.get_or_insert(now);
                    *last = Some(now);
                    *count += 1;
                }
            }
            drop(asked);
            self.news.notify_one();
        }
    }

    async fn report(self: Arc<Self>, mut may: watch::Receiver<bool>, seen: Arc<Seen>) {
        // Whoever could say so is gone with its sender.
        let _ = may.wait_for(|may| *may).await;
        let mut read = BTreeSet::new();
        loop {
            let news = std::mem::take(&mut locked(&self.asked).news);
            if news.is_empty() {
                self.news.notified().await;
                continue;
            }
            let news: Vec<Instance> = news.into_iter().collect();
            let _one = seen.turns.acquire().await;
            for some in news.chunks(AT_ONCE) {
                if self.tell(some, &mut read, &seen).await.is_err() {
                    locked(&self.asked).news.extend(some.iter().cloned());
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    /// Reads the texts of these that it has not: one alone, several in one transaction.
    async fn read(&self, some: &[Instance], read: &mut BTreeSet<String>) -> Result<(), StoreError> {
        let keys: BTreeSet<String> = {
            let asked = locked(&self.asked);
            let known = some.iter().filter_map(|i| Some((i, asked.now.get(i)?)));
            let keys = known.map(|(i, record)| keys::revision(&i.uid, record.revision));
            keys.filter(|key| !read.contains(key)).collect()
        };
        if keys.len() == 1 {
            self.store
                .get(keys.iter().next().cloned().unwrap_or_default())
                .await?;
        } else if !keys.is_empty() {
            let range = |key: &String| TxnOp::Range(RangeRequest::key(key.clone()));
            let txn = TxnRequest {
                success: keys.iter().map(range).collect(),
                ..TxnRequest::default()
            };
            self.store.txn(txn).await?;
        }
        read.extend(keys);
        Ok(())
    }

    /// Says how these stand: as they were asked to.
    async fn tell(
        &self,
        some: &[Instance],
        read: &mut BTreeSet<String>,
        seen: &Seen,
    ) -> Result<(), StoreError> {
        let (mut success, mut told) = (Vec::new(), Vec::new());
        self.read(some, read).await?;
        for instance in some {
            let key = keys::actual(&self.id, instance);
            let record = locked(&self.asked).now.get(instance).cloned();
            let Some(record) = record else {
                success.push(TxnOp::Delete(DeleteRangeRequest::key(key)));
                continue;
            };
            let actual = actual(&record, instance);
            // What is written here is made of plain fields.
            let value = serde_json::to_vec(&actual).unwrap_or_default();
            success.push(TxnOp::Put(PutRequest::new(key, value)));
            told.push((record.unit, instance.incarnation));
        }
        let txn = TxnRequest {
            success,
            ..TxnRequest::default()
        };
        self.store.txn(txn).await?;
        let now = Instant::now();
        let mut known = locked(&seen.acknowledged);
        known.extend(told.into_iter().map(|(unit, n)| (unit, (n, now))));
        Ok(())
    }
}

/// A container's, of the size that real ones have.
fn actual(record: &DesiredRecord, instance: &Instance) -> Actual {
    let runs = record.desired == Desired::Active;
    Actual {
        active: if runs {
            Active::Active
        } else {
            Active::Inactive
        },
        sub: if runs { "running" } else { "dead" }.into(),
        reason: if runs { "it runs" } else { "it was stopped" }.into(),
        generation: record.generation,
        order: record.order,
        revision: record.revision,
        boot_id: "4f3a9c01d2e34b5c8d7e6f5a4b3c2d1e".into(),
        settled: !runs,
        container: runs.then(|| format!("{0}{0}", instance.uid)),
        run: 1,
        ..Actual::new(&record.unit, chrono::Utc::now())
    }
}
