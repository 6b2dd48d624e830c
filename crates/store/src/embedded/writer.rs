//! The writer: one thread that takes all waiting requests, and syncs once for them.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::apply::{Done, Group};
use super::compact::{self, Ages};
use super::disk::is_stale;
use super::flush::flush;
use super::lock;
use super::log::{Building, Log, SEGMENT};
use super::memory::Amount;
use super::queue::{Closing, Op, Reply, Sender};
use super::shared::Shared;
use super::tables::Counters;
use super::view::View;
use crate::error::StoreError;
use crate::types::*;

/// Leases that one group lets expire.
const EXPIRE: usize = 256;
/// How long to leave a failing disk alone when nobody asks.
const REST: Duration = Duration::from_millis(200);
/// Bytes of keys and values in one group, about: what waits longer goes with the next.
const GROUP: usize = 1 << 20;
/// Longest wait for others to share a sync with, in times that a sync takes: where requests come slower than that, the disk is
/// not what they wait for.
const PATIENCE: u32 = 4;
/// Longest wait for them on a slow disk.
const LONGEST_PATIENCE: Duration = Duration::from_millis(4);
/// Bytes of a frame that takes no further request: deletions, and values that are kept, do not show in [`size`].
const LONG: usize = 4 * GROUP;
/// Bytes of the log's file left for deletions when the disk has no more.
const TAIL: u64 = 256 << 10;
/// Bytes of the log's files at which the older half is moved to the database, too: small groups take a sector each.
const LOG: u64 = 32 << 20;

/// The writer's thread, until the queue is closed.
pub(crate) fn run(shared: &Shared, log: Log, leases: BTreeMap<LeaseId, i64>) {
    let _closing = Closing(&shared.queue);
    let mut writer = Writer {
        shared,
        log,
        leases,
        frame: Building::new(),
        ages: shared.options.keep_for.map(Ages::new),
        broken: false,
        rest: None,
        sync: Duration::ZERO,
    };
    writer.old();
    let mut answered = 0;
    loop {
        let patience = (writer.sync * PATIENCE).min(LONGEST_PATIENCE);
        let taken = shared.queue.take(answered, patience, || writer.next_wake());
        let Some(requests) = taken else {
            break;
        };
        answered = requests.len();
        writer.turn(requests);
    }
}

struct Writer<'s> {
    shared: &'s Shared,
    log: Log,
    /// The leases alive and their time to live in seconds.
    leases: BTreeMap<LeaseId, i64>,
    frame: Building,
    ages: Option<Ages>,
    /// Memory must be read from the log anew before it is used.
    broken: bool,
    /// Work of our own failed: not before this.
    rest: Option<Instant>,
    /// What a group's sync took, on average of the last ones.
    sync: Duration,
}

/// What the writer does by itself with a group.
#[derive(Default)]
struct Own {
    expired: Vec<LeaseId>,
    /// History before this revision is old enough.
    forget: Option<Revision>,
}

impl Own {
    fn is_empty(&self) -> bool {
        self.expired.is_empty() && self.forget.is_none()
    }
}

impl Writer<'_> {
    /// The revision up to which history is old enough to be forgotten.
    fn old(&mut self) -> Option<Revision> {
        let (ages, now) = (self.ages.as_mut()?, Instant::now());
        ages.note(self.shared.hub.published(), now);
        ages.due(now)
    }

    fn next_wake(&self) -> Option<Instant> {
        let own = if self.broken {
            Some(Instant::now())
        } else if self.shared.is_held() {
            None
        } else {
            // A grant is answered by this thread, so a new nearest deadline is seen here; one
            // that moved away costs an empty turn.
            let leases = lock(&self.shared.lessor).next_deadline();
            let ages = self
                .ages
                .as_ref()
                .and_then(|ages| ages.next(self.shared.hub.published()));
            leases.into_iter().chain(ages).min()
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
        let idle = resting || self.shared.is_held();
        let expired = match idle {
            true => Vec::new(),
            false => lock(&self.shared.lessor).expired(Instant::now(), EXPIRE),
        };
        let (after, mut ops): (Vec<_>, Vec<_>) = requests
            .into_iter()
            .partition(|(op, _)| matches!(op, Op::Defragment | Op::Hold(_)));
        let forget = match idle {
            true => None,
            false => self.old(),
        };
        let mut own = Own { expired, forget };
        while !ops.is_empty() || !own.is_empty() {
            let mut bytes = 0;
            let some = ops.iter().take_while(|(op, _)| {
                bytes += size(op);
                bytes <= GROUP
            });
            let some = some.count().clamp(ops.len().min(1), ops.len());
            let mut later = ops.split_off(some);
            match self.answer(ops, std::mem::take(&mut own)) {
                Ok(mut left) => {
                    left.append(&mut later);
                    ops = left;
                }
                Err(error) => return refuse(later.into_iter().chain(after), &error),
            }
        }
        for (op, sender) in after {
            let done = match op {
                Op::Hold(held) => {
                    self.shared.held.store(held, Ordering::Release);
                    Ok(())
                }
                _ => self.pack(),
            };
            let _ = sender.send(done.map(Reply::Done));
        }
    }

    /// Does one group, and answers it; what it had no room for is handed back. An error says that no other can be done now.
    fn answer(
        &mut self,
        mut ops: Vec<(Op, Sender)>,
        own: Own,
    ) -> Result<Vec<(Op, Sender)>, StoreError> {
        let mut replies = Vec::with_capacity(ops.len());
        let mut done = self.group(&ops, &own, &mut replies);
        if let Err(error) = &done
            && is_stale(error)
            && self.recover().is_ok()
        {
            // Its snapshot was closed by who opened the database anew; nothing of it was written yet.
            replies.clear();
            done = self.group(&ops, &own, &mut replies);
        }
        match done {
            Ok(()) => {
                self.rest = None;
                let later = ops.split_off(replies.len());
                for ((_, sender), reply) in ops.into_iter().zip(replies) {
                    // Who dropped the request does not want to know.
                    let _ = sender.send(reply);
                }
                self.make_way();
                Ok(later)
            }
            Err(error) => {
                self.broken = true;
                self.rest = Some(Instant::now() + REST);
                refuse(ops, &error);
                // Now, not at the next request: what is kept of it after all, watches learn here.
                self.recover().inspect_err(|again| {
                    tracing::warn!(error = %crate::full(again), "the store's log could not be read anew yet");
                })?;
                Ok(Vec::new())
            }
        }
    }

    /// Has the older half of memory moved to the database when it is much; waits for that when it is far too much.
    fn make_way(&self) {
        let shared = self.shared;
        let (waiting, memory) = (shared.memory.waiting(), shared.options.memory_bytes);
        if waiting > memory || self.log.waiting(shared.memory.flushed()) > LOG {
            shared.bell.ring(Amount::Half);
        }
        // A few groups are never too many.
        if waiting > 2 * memory + (1 << 20) {
            // It is said by who flushes; puts are refused where there is no room.
            let _ = flush(shared, Amount::Half);
        }
    }

    /// Gives back what the files have to spare.
    fn pack(&mut self) -> Result<(), StoreError> {
        flush(self.shared, Amount::All)?;
        while flush(self.shared, Amount::Compacted)? {}
        let _one = lock(&self.shared.flushing);
        let packed = self.shared.disk.defragment();
        // What could not be opened is tried again, also if nobody writes.
        self.broken |= packed.is_err();
        packed?;
        self.log.trim(self.shared.memory.flushed(), 0);
        self.shared.log_bytes(self.log.bytes());
        Ok(())
    }

    /// Reads memory from the log anew. A group whose writing failed may still have been kept: then the
    /// watches learn of it here.
    fn recover(&mut self) -> Result<(), StoreError> {
        let shared = self.shared;
        let _one = lock(&shared.flushing);
        let known = shared.hub.published();
        shared.disk.mend()?;
        let (log, leases) = shared.load()?;
        self.log = log;
        self.leases = leases;
        self.broken = false;
        let counters = shared.memory.counters();
        let mut changed = Vec::new();
        // Fails where the database holds these: they were published before they came there.
        let _ = shared
            .memory
            .logged(known + 1, counters.revision, |entry, _| {
                changed.push(entry.clone());
                true
            });
        shared.hub.publish(counters.revision, &changed);
        let leases: Vec<_> = self.leases.iter().map(|(id, ttl)| (*id, *ttl)).collect();
        lock(&shared.lessor).reconcile(&leases, Instant::now());
        Ok(())
    }

    /// Sees to it that the log takes a group of about `bytes`; false where the disk has no room for it.
    fn make_room(&mut self, bytes: u64) -> Result<bool, StoreError> {
        let shared = self.shared;
        if self.log.room() >= bytes + TAIL {
            return Ok(true);
        }
        for flushed in [false, true] {
            if flushed {
                match flush(shared, Amount::All) {
                    Ok(_) => {}
                    Err(StoreError::NoSpace { .. }) => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            // What is in the log must find its place in the database one day.
            if !shared
                .disk
                .reserve(2 * (shared.memory.waiting() + bytes + SEGMENT))?
            {
                continue;
            }
            match self.log.rotate(bytes + TAIL, shared.memory.flushed()) {
                Ok(()) => {
                    shared.log_bytes(self.log.bytes());
                    return Ok(true);
                }
                Err(error) if super::disk::is_no_space(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn group(
        &mut self,
        ops: &[(Op, Sender)],
        own: &Own,
        replies: &mut Vec<Result<Reply, StoreError>>,
    ) -> Result<(), StoreError> {
        let shared = self.shared;
        let payload: usize = ops.iter().map(|(op, _)| size(op) + 128).sum();
        let room = self.make_room(payload as u64)?;
        if ops.iter().any(|(op, _)| grows(op)) {
            shared.disk.set_full(!room);
        }
        // The snapshot is not held over the writing: its pages are to be used again.
        let (counters, done) = self.apply(ops, own, room, replies)?;
        if self.frame.is_empty() {
            let mut lessor = lock(&shared.lessor);
            own.expired.iter().for_each(|id| lessor.remove(*id));
            return Ok(());
        }
        let length = self.frame.len() as u64;
        if length > self.log.room() {
            // One deletion can be of any number of keys.
            self.log
                .rotate(length, shared.memory.flushed())
                .map_err(|e| shared.explain(e))?;
            shared.log_bytes(self.log.bytes());
        }
        let begun = Instant::now();
        let sequence = self.log.append(&mut self.frame)?;
        // One that took long for once is not what the next will take.
        self.sync = (self.sync * 7 + begun.elapsed()) / 8;
        self.publish(sequence, counters, done, own);
        Ok(())
    }

    /// What the requests do, in memory and in the frame: as many of them as go into one frame.
    fn apply(
        &mut self,
        ops: &[(Op, Sender)],
        own: &Own,
        room: bool,
        replies: &mut Vec<Result<Reply, StoreError>>,
    ) -> Result<(Counters, Done), StoreError> {
        let shared = self.shared;
        self.frame.clear();
        let view = View::new(&shared.memory, &shared.disk);
        let mut group = Group::new(view, &mut self.frame, &mut self.leases);
        for (op, _) in ops {
            if group.len() > LONG {
                break;
            }
            let bytes = group.counters.bytes + size(op) as u64;
            if grows(op) && (!room || bytes > shared.options.quota_bytes) {
                replies.push(Err(shared.no_space()));
                continue;
            }
            match apply(&mut group, op, shared.options.min_lease_ttl) {
                // Not the request's fault, or half done: the whole group fails.
                Err(error) if group.is_amid() || !is_refusal(&error) => return Err(error),
                reply => replies.push(reply),
            }
        }
        for id in &own.expired {
            match group.revoke(*id) {
                Ok(_) | Err(StoreError::LeaseNotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let many = match shared.is_held() {
            true => None,
            false => compact::due(&group.counters, shared.options.keep_revisions),
        };
        if let Some(revision) = many.max(own.forget)
            && revision > group.counters.compacted
        {
            group.forget_before(revision);
        }
        Ok((group.counters, group.done))
    }

    /// What is on the disk becomes visible.
    fn publish(&self, sequence: u64, counters: Counters, done: Done, own: &Own) {
        let shared = self.shared;
        let compacted = counters.compacted != shared.memory.counters().compacted;
        {
            let mut lessor = lock(&shared.lessor);
            for (id, granted) in &done.leases {
                match granted {
                    Some(ttl) => lessor.insert(*id, *ttl, Instant::now()),
                    None => lessor.remove(*id),
                }
            }
            for id in &own.expired {
                lessor.remove(*id);
            }
        }
        shared
            .memory
            .publish(sequence, counters, done.weight, done.leases);
        shared.hub.publish(counters.revision, &done.changed);
        if compacted {
            shared.bell.ring(Amount::Compacted);
        }
    }
}

fn apply(group: &mut Group<'_>, op: &Op, min_ttl: i64) -> Result<Reply, StoreError> {
    match op {
        Op::Put(put) => group.put(put).map(Reply::Put),
        Op::Delete(delete) => group.delete(delete).map(Reply::Delete),
        Op::Txn(request) => group.txn(request).map(Reply::Txn),
        Op::Compact(revision) => group.compact(*revision).map(Reply::Compact),
        Op::Grant { ttl, id } => group
            .grant((*ttl).max(min_ttl), *id, draw)
            .map(Reply::Grant),
        Op::Revoke(id) => group.revoke(*id).map(Reply::Revoke),
        Op::Defragment | Op::Hold(_) => Ok(Reply::Done(())),
    }
}

/// A lease's id; the standard library's source of randomness will do, as the name need not be secret.
fn draw() -> LeaseId {
    (RandomState::new().build_hasher().finish() & (i64::MAX as u64)) as i64
}

fn refuse(requests: impl IntoIterator<Item = (Op, Sender)>, error: &StoreError) {
    for (_, sender) in requests {
        let _ = sender.send(Err(error.clone()));
    }
}

/// The request is wrong, and the store is not.
fn is_refusal(error: &StoreError) -> bool {
    !matches!(
        error,
        StoreError::Database { .. }
            | StoreError::Corrupt { .. }
            | StoreError::Io { .. }
            | StoreError::Locked { .. }
            | StoreError::Closed { .. }
            | StoreError::UnknownFormat { .. }
    )
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
