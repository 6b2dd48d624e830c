//! What the writer, the readers, the watches and who flushes have in common.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::Semaphore;

use super::disk::{self, Disk};
use super::flush::{self, Bell, Flushing};
use super::lease::Lessor;
use super::log::Log;
use super::memory::{Amount, Base, Memory};
use super::queue::Queue;
use super::view::View;
use super::watch::Hub;
use super::{Options, ROOM_KIB, lock};
use crate::error::StoreError;
use crate::types::LeaseId;

/// What the writer, the readers and the watches share.
pub(crate) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) options: Options,
    pub(super) disk: Disk,
    pub(super) memory: Memory,
    pub(super) flushing: Mutex<Flushing>,
    pub(super) bell: Bell,
    /// Bytes of the log's files.
    pub(super) log_bytes: AtomicU64,
    pub(super) lessor: Mutex<Lessor>,
    pub(super) hub: Hub,
    pub(super) queue: Queue,
    /// Bounds the memory of waiting writes, in KiB.
    pub(super) room: Semaphore,
    /// One snapshot at a time; its client may be slow.
    pub(super) snapshots: Semaphore,
    /// Bounds the threads that large reads take.
    pub(super) readers: Semaphore,
    /// Leases do not run out and history is not forgotten.
    pub(super) held: AtomicBool,
}

impl Shared {
    pub(super) fn open(
        dir: &Path,
        disk: Disk,
        options: Options,
    ) -> Result<(Self, Log, BTreeMap<LeaseId, i64>), StoreError> {
        let mut shared = Self {
            dir: dir.to_owned(),
            disk,
            memory: Memory::new(Base::default()),
            flushing: Mutex::new(Flushing::new()),
            bell: Bell::default(),
            log_bytes: AtomicU64::new(0),
            lessor: Mutex::new(Lessor::new(Vec::new(), Instant::now())),
            hub: Hub::new(0),
            queue: Queue::default(),
            room: Semaphore::new(ROOM_KIB as usize),
            snapshots: Semaphore::new(1),
            readers: Semaphore::new(8),
            held: AtomicBool::new(false),
            options,
        };
        let (log, leases) = shared.load()?;
        shared.log_bytes(log.bytes());
        shared.hub = Hub::new(shared.memory.counters().revision);
        Ok((shared, log, leases))
    }

    /// Reads the log into memory, on top of what the database holds; answers the leases, too. Nobody else may be flushing.
    pub(super) fn load(&self) -> Result<(Log, BTreeMap<LeaseId, i64>), StoreError> {
        let (base, id, leases) = self.disk.read(|reader| {
            let (id, sequence) = reader.log_of()?;
            let base = Base {
                counters: reader.counters()?,
                sequence,
            };
            Ok((base, id, reader.leases()?))
        })?;
        let memory = Memory::new(base);
        let log = Log::open(&self.dir, id, base.sequence, |sequence, changes| {
            memory.replay(sequence, changes, &self.dir)
        })?;
        let mut leases: BTreeMap<_, _> = leases.into_iter().collect();
        for (id, granted) in memory.leases() {
            match granted {
                Some(ttl) => leases.insert(id, ttl),
                None => leases.remove(&id),
            };
        }
        self.memory.replace(memory);
        Ok((log, leases))
    }

    /// Runs `work` on the store as of now; again where it read at that revision and that was compacted meanwhile.
    pub(crate) fn read<T>(
        &self,
        work: impl Fn(&View<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut tries = 0;
        loop {
            // While nothing is flushed nothing goes missing.
            let _still = (tries > 2).then(|| lock(&self.flushing));
            let mut begun = 0;
            let done = self.disk.again(|| {
                let view = View::new(&self.memory, &self.disk);
                begun = view.counters.revision;
                work(&view)
            });
            match done {
                Err(StoreError::Compacted { requested, .. }) if requested == begun => tries += 1,
                done => return done,
            }
        }
    }

    /// As [`Shared::read`], once and without waiting; None where it would have to.
    pub(crate) fn read_now<T>(
        &self,
        work: impl Fn(&View<'_>) -> Result<T, StoreError>,
    ) -> Option<Result<T, StoreError>> {
        if self.disk.is_busy() {
            return None;
        }
        let view = View::new(&self.memory, &self.disk);
        match work(&view) {
            Err(error) if disk::is_stale(&error) => None,
            Err(StoreError::Compacted { requested, .. }) if requested == view.counters.revision => {
                None
            }
            done => Some(done),
        }
    }

    /// Everything in the database.
    pub(crate) fn settle(&self) -> Result<(), StoreError> {
        flush::flush(self, Amount::All).map(drop)
    }

    /// Whether it is held, see [`super::EmbeddedStore::hold`].
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    pub(super) fn log_bytes(&self, bytes: u64) {
        self.log_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn no_space(&self) -> StoreError {
        StoreError::NoSpace {
            path: self.dir.clone(),
            used: self.memory.counters().bytes,
            quota: self.options.quota_bytes,
        }
    }

    /// The error of a full disk in the words for it.
    pub(crate) fn explain(&self, error: StoreError) -> StoreError {
        if disk::is_no_space(&error) {
            self.disk.set_full(true);
            return self.no_space();
        }
        error
    }

    pub(crate) fn closed(&self) -> StoreError {
        StoreError::Closed {
            path: self.dir.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use redb::ReadableTable;

    use super::super::EmbeddedStore;
    use super::super::apply::read_only;
    use super::super::tables::cost;
    use super::*;
    use crate::store::{Store as _, StoreExt as _};
    use crate::types::*;

    fn open(dir: &Path, options: Options) -> EmbeddedStore {
        EmbeddedStore::open(dir, options).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_snapshot_that_is_newer_than_a_compaction_answers_nothing_older() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Options::default());
        for (key, value) in [("b", "1"), ("a", "3"), ("a", "4")] {
            store.put(PutRequest::new(key, value)).await.unwrap();
        }
        store.shared.settle().unwrap();
        for value in ["5", "6"] {
            store.put(PutRequest::new("a", value)).await.unwrap();
        }
        let view = View::new(&store.shared.memory, &store.shared.disk);
        // The compaction and its flush come before the view's first look into the database.
        store.compact(6).await.unwrap();
        store.shared.settle().unwrap();
        let request = TxnRequest {
            success: vec![
                TxnOp::Range(RangeRequest::key("b")),
                TxnOp::Range(RangeRequest {
                    revision: 5,
                    ..RangeRequest::key("a")
                }),
            ],
            ..Default::default()
        };
        let error = read_only(&view, &request).unwrap_err();
        assert!(matches!(error, StoreError::Compacted { .. }), "{error:?}");
    }

    /// After random writes with little memory, what the database holds is what should be there, and counted.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_flushed_adds_up() {
        let mut seed: u64 = 7;
        let mut random = move |below: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..4 {
            let dir = tempfile::tempdir().unwrap();
            let options = || Options {
                keep_revisions: 40,
                memory_bytes: 8 << 10,
                ..Options::default()
            };
            let mut store = open(dir.path(), options());
            let lease = store.lease_grant(1000, 0).await.unwrap().id;
            for _ in 0..1500 {
                let key = format!("k{}", random(20));
                match random(48) {
                    0..12 => {
                        let gone = DeleteRangeRequest::key(key);
                        store.delete_range(gone).await.unwrap();
                    }
                    12..16 => {
                        let put = PutRequest {
                            lease,
                            ..PutRequest::new(key, "leased")
                        };
                        store.put(put).await.unwrap();
                    }
                    16 => store.shared.settle().unwrap(),
                    17 if random(8) == 0 => {
                        drop(store);
                        store = open(dir.path(), options());
                    }
                    _ => {
                        let value = vec![b'v'; usize::try_from(random(200)).unwrap()];
                        store.put(PutRequest::new(key, value)).await.unwrap();
                    }
                }
            }
            let last = store
                .put(PutRequest::new("end", ""))
                .await
                .unwrap()
                .revision;
            store.compact(last).await.unwrap();
            store.shared.settle().unwrap();
            while flush::flush(&store.shared, Amount::Compacted).unwrap() {}
            let live = store.list("").await.unwrap();
            let held = live.kvs.iter().filter(|kv| kv.lease == lease);
            let held: Vec<_> = held.map(|kv| kv.key.clone()).collect();
            let read = store.shared.disk.read(|reader| {
                let (mut bytes, mut keys) = (0, BTreeSet::new());
                for item in reader.versions().iter().unwrap() {
                    let (at, record) = item.unwrap();
                    let key = at.value().0;
                    assert!(keys.insert(key.to_vec()), "two versions of {key:?}");
                    bytes += cost(key.len(), record.value().len());
                }
                let log = reader.log()?.iter().unwrap().count();
                Ok((bytes, keys.len(), log, reader.lease_keys(lease)?))
            });
            let (bytes, keys, log, leased) = read.unwrap();
            assert_eq!(store.shared.memory.counters().bytes, bytes);
            assert_eq!(i64::try_from(keys).unwrap(), live.count);
            assert_eq!(log, 1, "entries of the log from the compaction on");
            assert_eq!(leased, held);
        }
    }
}
