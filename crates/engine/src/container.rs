//! One container in memory: its record, what waits for it, and what runs beside it.
//!
//! Three locks, always taken in this order:
//!
//! 1. `op` serialises what people ask (start, stop, remove);
//! 2. `run` is held from a start until the teardown of that run is done, so that a next start or a removal
//!    waits for addresses and mounts to be free;
//! 3. the record's own lock, held only while it is read or replaced.

use crate::client::Connection;
use crate::error::Result;
use crate::exclusive::Permit;
use crate::health::Health;
use crate::id::ContainerId;
use crate::record::{Phase, Record};
use crate::stdio::Streams;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

/// What waiters see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Phase.
    pub phase: Phase,
    /// How many runs have ended in this daemon's time.
    pub exits: u64,
    /// Exit code of the last run.
    pub code: i32,
    /// Why the last start failed.
    pub error: String,
    /// The container is gone.
    pub removed: bool,
}

/// A copy of a container's state.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What is stored.
    pub record: Record,
    /// Health, when it has a test and runs.
    pub health: Option<Health>,
}

/// A client that attached before the start.
pub(crate) struct PendingAttach {
    pub streams: Streams,
    pub reply: oneshot::Sender<Result<Connection>>,
}

pub(crate) struct Container {
    pub id: ContainerId,
    /// State directory: record, log, upper and work directories.
    pub dir: PathBuf,
    /// The shim's run directory.
    pub run_dir: PathBuf,
    /// Below each cgroup hierarchy.
    cgroup: String,
    /// It is being removed: no further run will need its links' names.
    pub going: std::sync::atomic::AtomicBool,
    /// It runs and was asked to end; see [`crate::names::Stopping`].
    pub stopping: std::sync::atomic::AtomicBool,
    /// It is found as an instance of its service no more, or not yet; see [`crate::Engine::leave`].
    pub left: std::sync::atomic::AtomicBool,
    /// It is exclusive, whatever its label says; see [`crate::Engine::claim`].
    pub claimed: std::sync::atomic::AtomicBool,
    pub op: Arc<tokio::sync::Mutex<()>>,
    pub run: Arc<tokio::sync::Mutex<()>>,
    record: Mutex<Record>,
    status: watch::Sender<Status>,
    health: Mutex<Option<Health>>,
    pending: Mutex<Vec<PendingAttach>>,
    permit: Mutex<Option<Permit>>,
    restart_timer: Mutex<Option<AbortHandle>>,
    health_task: Mutex<Option<AbortHandle>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is one assignment, so a panic leaves them whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Container {
    pub fn new(record: Record, dir: PathBuf, run_dir: PathBuf, cgroup_root: &str) -> Arc<Self> {
        let status = Status {
            phase: record.state.phase,
            exits: 0,
            code: record.state.exit_code,
            error: record.state.error.clone(),
            removed: false,
        };
        Arc::new(Self {
            id: record.id.clone(),
            dir,
            run_dir,
            cgroup: format!("{cgroup_root}/{}", record.id),
            going: std::sync::atomic::AtomicBool::new(false),
            stopping: std::sync::atomic::AtomicBool::new(false),
            left: std::sync::atomic::AtomicBool::new(false),
            claimed: std::sync::atomic::AtomicBool::new(false),
            op: Arc::default(),
            run: Arc::default(),
            record: Mutex::new(record),
            status: watch::Sender::new(status),
            health: Mutex::default(),
            pending: Mutex::default(),
            permit: Mutex::default(),
            restart_timer: Mutex::default(),
            health_task: Mutex::default(),
        })
    }

    /// Below each cgroup hierarchy.
    pub fn cgroup(&self) -> String {
        self.cgroup.clone()
    }

    pub fn record(&self) -> Record {
        locked(&self.record).clone()
    }

    pub fn read<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        look(&locked(&self.record))
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            record: self.record(),
            health: self.health(),
        }
    }

    pub fn phase(&self) -> Phase {
        self.read(|r| r.state.phase)
    }

    pub fn name(&self) -> String {
        self.read(|r| r.name.clone())
    }

    /// Changes the record, on disk first.
    ///
    /// # Errors
    /// When it cannot be written; nothing has changed then.
    pub fn change(&self, change: impl FnOnce(&mut Record)) -> Result<()> {
        let mut record = locked(&self.record);
        let mut next = record.clone();
        change(&mut next);
        next.serial += 1;
        next.save(&self.dir)?;
        *record = next;
        drop(record);
        self.tell(false);
        Ok(())
    }

    /// Changes the record to what has happened already. If that cannot be written now (a full disk), it is true in
    /// memory, and `exit.json` or the living shim tells a next daemon.
    pub fn happened(&self, ended: bool, change: impl FnOnce(&mut Record)) {
        let mut record = locked(&self.record);
        change(&mut record);
        record.serial += 1;
        if let Err(error) = record.save(&self.dir) {
            tracing::warn!(container = %self.id, %error, "the state could not be written");
        }
        drop(record);
        self.tell(ended);
    }

    fn tell(&self, ended: bool) {
        let (phase, code, error) = self.read(|r| {
            let s = &r.state;
            (s.phase, s.exit_code, s.error.clone())
        });
        self.status.send_modify(|s| {
            s.phase = phase;
            // Those of a run that has begun since are none of the one that ended.
            if ended {
                s.code = code;
                s.error = error;
                s.exits += 1;
            }
        });
    }

    /// Says that it is gone.
    pub fn tell_removed(&self) {
        self.status.send_modify(|s| s.removed = true);
    }

    /// Whether the present run is its last.
    pub fn is_going(&self) -> bool {
        self.going.load(std::sync::atomic::Ordering::Relaxed)
            || self.read(|r| r.host_config.auto_remove)
    }

    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    pub fn health(&self) -> Option<Health> {
        locked(&self.health).clone()
    }

    pub fn set_health(&self, health: Option<Health>) {
        *locked(&self.health) = health;
    }

    pub fn push_pending(&self, attach: PendingAttach) {
        let mut pending = locked(&self.pending);
        // Clients that left before the start.
        pending.retain(|p| !p.reply.is_closed());
        pending.push(attach);
    }

    pub fn take_pending(&self) -> Vec<PendingAttach> {
        std::mem::take(&mut *locked(&self.pending))
    }

    /// Sets what a start that begins now goes by, in place of what is permitted to all.
    pub fn set_permit(&self, permit: Option<Permit>) {
        *locked(&self.permit) = permit;
    }

    pub fn permit(&self) -> Option<Permit> {
        *locked(&self.permit)
    }

    /// Replaces the timer of the next restart; the former one is cancelled.
    pub fn set_restart_timer(&self, timer: Option<AbortHandle>) {
        if let Some(former) = std::mem::replace(&mut *locked(&self.restart_timer), timer) {
            former.abort();
        }
    }

    /// Forgets the timer without cancelling it: it is the caller.
    pub fn restart_timer_fired(&self) {
        locked(&self.restart_timer).take();
    }

    /// Replaces the task that tests health; the former one is stopped.
    pub fn set_health_task(&self, task: Option<AbortHandle>) {
        if let Some(former) = std::mem::replace(&mut *locked(&self.health_task), task) {
            former.abort();
        }
    }

    /// What events say about it.
    pub fn attributes(&self) -> std::collections::BTreeMap<String, String> {
        self.read(|r| {
            let mut all = r.config.labels.clone();
            all.insert("name".into(), r.name.clone());
            all.insert("image".into(), r.config.image.clone());
            all
        })
    }
}
