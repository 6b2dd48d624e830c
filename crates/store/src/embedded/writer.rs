//! The writer: one thread that takes all waiting requests, and syncs once for them.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use redb::ReadableTable;
use tokio::sync::oneshot;

use super::apply::Group;
use super::tables::{Counters, FORMAT, LeaseEntry};
use super::{Shared, compact, disk, lock};
use crate::error::StoreError;
use crate::types::*;

/// Something for the writer to do.
pub(crate) enum Op {
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(Revision),
    Grant { ttl: i64, id: LeaseId },
    Revoke(LeaseId),
    Defragment,
}

/// Its answer.
#[derive(Debug)]
pub(crate) enum Reply {
    Put(PutResponse),
    Delete(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(CompactResponse),
    Grant(LeaseGrantResponse),
    Revoke(LeaseRevokeResponse),
    Done(()),
}

type Sender = oneshot::Sender<Result<Reply, StoreError>>;

/// Requests that wait for the writer.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Default)]
struct Waiting {
    requests: Vec<(Op, Sender)>,
    closed: bool,
}

impl Queue {
    pub(crate) fn push(&self, op: Op, reply: Sender) -> Result<(), ()> {
        let mut waiting = lock(&self.waiting);
        if waiting.closed {
            return Err(());
        }
        waiting.requests.push((op, reply));
        self.wake.notify_one();
        Ok(())
    }

    pub(crate) fn close(&self) {
        lock(&self.waiting).closed = true;
        self.wake.notify_one();
    }

    /// All that waits; sleeps until there is something, or until `until`. None when closed and
    /// empty.
    fn take(&self, until: impl Fn() -> Option<Instant>) -> Option<Vec<(Op, Sender)>> {
        let mut waiting = lock(&self.waiting);
        loop {
            if !waiting.requests.is_empty() {
                return Some(std::mem::take(&mut waiting.requests));
            }
            if waiting.closed {
                return None;
            }
            let poisoned = std::sync::PoisonError::into_inner;
            let until = until();
            // After it, so that "now" is due.
            let now = Instant::now();
            waiting = match until {
                Some(at) if at <= now => return Some(Vec::new()),
                Some(at) => {
                    let result = self.wake.wait_timeout(waiting, at - now);
                    result
                        .map(|(guard, _)| guard)
                        .unwrap_or_else(|e| e.into_inner().0)
                }
                None => self.wake.wait(waiting).unwrap_or_else(poisoned),
            };
        }
    }
}

/// Leases that one group lets expire.
const EXPIRE: usize = 256;
/// Log entries cleaned in an otherwise idle group.
const CLEAN: usize = 512;
/// How long to leave a failing disk alone when nobody asks.
const REST: Duration = Duration::from_millis(200);

/// The writer's thread, until the queue is closed.
pub(crate) fn run(shared: &Shared, counters: Counters) {
    let mut writer = Writer {
        shared,
        counters,
        clean: true,
        broken: false,
        rest: None,
    };
    while let Some(requests) = shared.queue.take(|| writer.next_wake()) {
        writer.turn(requests);
    }
}

struct Writer<'s> {
    shared: &'s Shared,
    counters: Counters,
    /// There may be history to clean.
    clean: bool,
    /// The database must be opened anew before it is used.
    broken: bool,
    /// Work of our own failed: not before this.
    rest: Option<Instant>,
}

impl Writer<'_> {
    fn next_wake(&self) -> Option<Instant> {
        let own = if self.clean || self.broken {
            Some(Instant::now())
        } else {
            // A grant is answered by this thread, so a new nearest deadline is seen here; one
            // that moved away costs an empty turn.
            lock(&self.shared.lessor).next_deadline()
        };
        own.map(|at| self.rest.map_or(at, |rest| at.max(rest)))
    }

    fn turn(&mut self, requests: Vec<(Op, Sender)>) {
        if self.broken
            && let Err(error) = self.recover()
        {
            self.rest = Some(Instant::now() + REST);
            return refuse(requests, &error);
        }
        let resting = self.rest.is_some_and(|rest| rest > Instant::now());
        let expired = match resting {
            true => Vec::new(),
            false => lock(&self.shared.lessor).expired(Instant::now(), EXPIRE),
        };
        let (packs, ops): (Vec<_>, Vec<_>) = requests
            .into_iter()
            .partition(|(op, _)| matches!(op, Op::Defragment));
        let clean = self.clean && !resting;
        if clean || !ops.is_empty() || !expired.is_empty() {
            let mut replies = Vec::with_capacity(ops.len());
            match self.group(&ops, &expired, &mut replies) {
                Ok(()) => {
                    self.rest = None;
                    for ((_, sender), reply) in ops.into_iter().zip(replies) {
                        // Who dropped the request does not want to know.
                        let _ = sender.send(reply);
                    }
                }
                Err(error) => {
                    self.broken = true;
                    let error = self.explain(error);
                    self.rest = Some(Instant::now() + REST);
                    // Now, not at the next request: readers wait for it.
                    if let Err(again) = self.recover() {
                        tracing::warn!(error = %again, "the store could not be opened anew yet");
                    }
                    refuse(ops, &error);
                }
            }
        }
        for (_, sender) in packs {
            let packed = self.shared.disk.defragment();
            self.broken |= packed.is_err();
            let _ = sender.send(packed.map(Reply::Done));
        }
    }

    fn no_space(&self) -> StoreError {
        StoreError::NoSpace {
            path: self.shared.dir.clone(),
            used: self.counters.bytes,
            quota: self.shared.options.quota_bytes,
        }
    }

    fn explain(&self, error: StoreError) -> StoreError {
        if disk::is_no_space(&error) {
            self.shared.disk.set_full(true);
            return self.no_space();
        }
        error
    }

    /// Opens the database anew. A group whose commit failed may still have been kept: then the
    /// watches learn of it here.
    fn recover(&mut self) -> Result<(), StoreError> {
        let counters = self.shared.disk.reopen().map_err(|e| self.explain(e))?;
        self.broken = false;
        let known = self.counters.revision;
        self.counters = counters;
        if counters.revision > known {
            let changed = self.shared.disk.read(|reader| {
                let log = reader.log()?;
                let mut changed = Vec::new();
                for item in log.range((known + 1, 0)..).map_err(|e| reader.error(e))? {
                    let (at, key) = item.map_err(|e| reader.error(e))?;
                    changed.push((at.value().0, bytes::Bytes::copy_from_slice(key.value())));
                }
                Ok(changed)
            })?;
            self.shared.hub.publish(counters.revision, &changed);
        }
        let leases = self.shared.disk.read(|reader| reader.leases())?;
        lock(&self.shared.lessor).reconcile(&leases, Instant::now());
        Ok(())
    }

    fn group(
        &mut self,
        ops: &[(Op, Sender)],
        expired: &[LeaseId],
        replies: &mut Vec<Result<Reply, StoreError>>,
    ) -> Result<(), StoreError> {
        let shared = self.shared;
        let payload: usize = ops.iter().map(|(op, _)| size(op)).sum();
        let room = shared
            .disk
            .reserve(3 * payload as u64 + 16384 * ops.len() as u64)?;
        if ops.iter().any(|(op, _)| grows(op)) {
            shared.disk.set_full(!room);
        }
        let txn = shared.disk.begin_write()?;
        let path = shared.disk.path();
        let mut group = Group::new(&txn, self.counters, path)?;
        let mut granted = Vec::new();
        let mut ended = Vec::new();
        for (op, _) in ops {
            if grows(op)
                && (!room || group.counters.bytes + size(op) as u64 > shared.options.quota_bytes)
            {
                replies.push(Err(self.no_space()));
                continue;
            }
            let reply = match op {
                Op::Put(put) => group.put(put).map(Reply::Put),
                Op::Delete(delete) => group.delete(delete).map(Reply::Delete),
                Op::Txn(request) => group.txn(request).map(Reply::Txn),
                Op::Compact(revision) => group.compact(*revision).map(Reply::Compact),
                Op::Grant { ttl, id } => self.grant(&mut group, *ttl, *id).map(|lease| {
                    granted.push((lease.id, lease.ttl));
                    Reply::Grant(lease)
                }),
                Op::Revoke(id) => group.revoke(*id).map(|answer| {
                    ended.push(*id);
                    Reply::Revoke(answer)
                }),
                Op::Defragment => Ok(Reply::Done(())),
            };
            match reply {
                // Not the request's fault: the whole group fails.
                Err(
                    error @ (StoreError::Database { .. }
                    | StoreError::Corrupt { .. }
                    | StoreError::Io { .. }),
                ) => return Err(error),
                reply => replies.push(reply),
            }
        }
        for id in expired {
            match group.revoke(*id) {
                Ok(_) | Err(StoreError::LeaseNotFound(_)) => ended.push(*id),
                Err(error) => return Err(error),
            }
        }
        if let Some(revision) = compact::due(&group.counters, shared.options.keep_revisions) {
            group.counters.compacted = revision;
        }
        let compacted = group.counters.compacted != self.counters.compacted;
        let clean = if self.clean || compacted {
            group.clean(CLEAN.max(4 * ops.len()))?
        } else {
            false
        };
        let (counters, changed) = group.finish()?;
        txn.commit().map_err(|e| StoreError::database(path, e))?;
        self.counters = counters;
        self.clean = clean;
        {
            let mut lessor = lock(&shared.lessor);
            for (id, ttl) in granted {
                lessor.insert(id, ttl, Instant::now());
            }
            for id in ended {
                lessor.remove(id);
            }
        }
        shared.hub.publish(counters.revision, &changed);
        Ok(())
    }

    fn grant(
        &self,
        group: &mut Group<'_>,
        ttl: i64,
        id: LeaseId,
    ) -> Result<LeaseGrantResponse, StoreError> {
        let ttl = ttl.max(self.shared.options.min_lease_ttl);
        let path = group.path;
        let taken = |group: &Group<'_>, id: LeaseId| {
            let found = group.leases.get(id).map_err(|e| group.error(e))?;
            Ok::<_, StoreError>(found.is_some())
        };
        let id = if id != 0 {
            if taken(group, id)? {
                return Err(StoreError::LeaseExists(id));
            }
            id
        } else {
            loop {
                // The standard library's source of randomness; the name need not be secret.
                let drawn = RandomState::new().build_hasher().finish() & (i64::MAX as u64);
                let drawn = drawn as i64;
                if drawn != 0 && !taken(group, drawn)? {
                    break drawn;
                }
            }
        };
        let entry = serde_json::to_vec(&LeaseEntry {
            version: FORMAT,
            ttl,
        })
        .map_err(|e| StoreError::io("encoding a lease for", path, e.into()))?;
        group
            .leases
            .insert(id, &entry[..])
            .map_err(|e| StoreError::database(path, e))?;
        Ok(LeaseGrantResponse {
            revision: group.counters.revision,
            id,
            ttl,
        })
    }
}

fn refuse(requests: Vec<(Op, Sender)>, error: &StoreError) {
    for (_, sender) in requests {
        let _ = sender.send(Err(error.clone()));
    }
}

/// May need more space than it frees.
fn grows(op: &Op) -> bool {
    fn puts(txn: &TxnRequest) -> bool {
        txn.success.iter().chain(&txn.failure).any(|op| match op {
            TxnOp::Put(_) => true,
            TxnOp::Range(_) | TxnOp::Delete(_) => false,
            TxnOp::Txn(inner) => puts(inner),
        })
    }
    match op {
        Op::Put(_) | Op::Grant { .. } => true,
        Op::Txn(txn) => puts(txn),
        _ => false,
    }
}

/// Bytes of keys and values.
fn size(op: &Op) -> usize {
    match op {
        Op::Put(put) => put.key.len() + put.value.len(),
        Op::Txn(txn) => super::check::txn_size(txn),
        _ => 64,
    }
}
