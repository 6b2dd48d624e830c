//! The embedded store: MVCC over one redb file with a log in front, one writer thread, group commit.
//!
//! # The two tables that matter
//! `versions` holds every version of every key under `(key, revision)`; `log` holds, for each
//! `(revision, step)`, the key that changed. Three puts and a deletion:
//!
//! ```text
//! put a=1 (2)   put b=1 (3)   put a=2 (4)   delete b (5)
//!
//! versions: (a,2)=1  (a,4)=2  (b,3)=1  (b,5)=gone        log: 2→a  3→b  4→a  5→b
//! ```
//!
//! A read at revision 3 takes, for each key, the last version not after 3: `a=1, b=1`. A watch
//! from 3 walks the log: `b=1, a=2, b gone`. Compaction to 4 walks the log up to 4 and drops what
//! no read at 4 or later can see: version `(a,2)`, and log entries 2 and 3.
//!
//! # Writing
//! Requests queue up; the writer takes all that wait, applies them in [`memory`], appends what they
//! did as one frame to the [`log`] files, and answers them after that file's one sync. While it syncs the next
//! group gathers. A request is checked whole before its first change, so a refused one leaves no
//! trace in its group. [`flush`] moves what is in memory to the database, by thousands of keys at once and
//! without what was overwritten and compacted meanwhile; opening the store reads the rest from the log files.
//!
//! # Reading
//! Reads take what memory has and the rest from redb's snapshots, beside the writer. A watch is a position in the log: when
//! one of its keys changes it is woken and reads on from where it was. So a slow one costs nothing
//! and catches up from history, or is told that its place is compacted.
//!
//! # Space
//! The quota counts live bytes of keys, values and bookkeeping. Freed pages are used again and
//! redb gives back a free end of the file; [`EmbeddedStore::defragment`] packs the rest. Disk
//! blocks for the database are reserved before a file of the log is begun, so a full disk refuses puts as
//! `NoSpace` instead of failing half way.

mod apply;
mod check;
mod compact;
mod dir;
mod disk;
mod flush;
mod heads;
mod history;
mod lease;
mod log;
mod memory;
mod queue;
mod read;
mod restore;
mod shared;
mod tables;
mod view;
mod watch;
mod writer;

use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::error::StoreError;
use crate::etcd::seed::{self, Seeded};
use crate::store::{BoxFuture, Store, WatchStream};
use crate::types::*;
pub(crate) use check::read_only;
pub(crate) use history::History;
pub use restore::Restored;
pub(crate) use tables::Record;

use disk::Disk;
use lease::Lessor;
use queue::{Op, Reply};
use shared::Shared;
use view::View;
use watch::Watch;

/// How an embedded store behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes that keys, values, history and bookkeeping may take. Default 128 MiB.
    pub quota_bytes: u64,
    /// Revisions of history that automatic compaction keeps at least, and twice as many at most; 0 keeps all. Default 5,000.
    pub keep_revisions: i64,
    /// Time after which automatic compaction forgets a revision; None: as long as it is among those kept. Default None.
    pub keep_for: Option<Duration>,
    /// Bytes of database pages held in memory. Default 2 MiB.
    pub cache_bytes: usize,
    /// Bytes of versions in memory that are not in the database yet: at more their older half is moved there. Default 6 MiB.
    pub memory_bytes: u64,
    /// The largest request in bytes. Default 1.5 MiB, as etcd.
    pub max_request_bytes: usize,
    /// The most steps of one transaction. Default 128, as etcd.
    pub max_txn_ops: usize,
    /// The shortest lease in seconds; shorter ones are lengthened. Default 2, as etcd.
    pub min_lease_ttl: i64,
    /// How long a watch with progress_notify is silent. Default 10 minutes, as etcd.
    pub progress_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            quota_bytes: 128 << 20,
            keep_revisions: 5_000,
            keep_for: None,
            cache_bytes: 2 << 20,
            memory_bytes: 6 << 20,
            max_request_bytes: 3 << 19,
            max_txn_ops: 128,
            min_lease_ttl: 2,
            progress_interval: Duration::from_secs(600),
        }
    }
}

/// Looks at what can be told of a transaction without a store: its size, its keys, and that no key is changed twice.
///
/// # Errors
/// `TooManyOps` above etcd's 128, `EmptyKey`, `ValueProvided`, `LeaseProvided`, `DuplicateKey`.
pub fn check_txn(request: &TxnRequest) -> Result<(), StoreError> {
    check::txn(request, Options::default().max_txn_ops)
}

/// A store in one directory of this machine. Closing is dropping.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    writer: Option<std::thread::JoinHandle<()>>,
    flusher: Option<std::thread::JoinHandle<()>>,
}

const ROOM_KIB: u32 = 32 << 10;

/// A poisoned lock only says that another thread panicked; the data behind ours is valid at
/// every step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EmbeddedStore {
    /// Opens the store in `dir`, making both where they are missing.
    ///
    /// Leases start with their full time again, as etcd's do after a leader change.
    ///
    /// # Errors
    /// `Locked` (another process has it), `UnknownFormat` (a newer release wrote it), `Corrupt`,
    /// `Database`, `Io`.
    pub fn open(dir: &Path, options: Options) -> Result<Self, StoreError> {
        let disk = Disk::open(dir, options.cache_bytes)?;
        let (mut shared, log, leases) = Shared::open(dir, disk, options)?;
        let with_time = leases.iter().map(|(id, ttl)| (*id, *ttl)).collect();
        shared.lessor = Mutex::new(Lessor::new(with_time, Instant::now()));
        let shared = Arc::new(shared);
        let start = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.into()).spawn(work);
            thread.map_err(|e| StoreError::io("starting a thread for", dir, e))
        };
        let (for_writer, for_flusher) = (Arc::clone(&shared), Arc::clone(&shared));
        let flusher = start("store-flush", Box::new(move || flush::run(&for_flusher)))?;
        let writer = start(
            "store-writer",
            Box::new(move || writer::run(&for_writer, log, leases)),
        );
        let writer = match writer {
            Ok(writer) => writer,
            Err(error) => {
                shared.bell.close();
                // It has nothing to do yet, and must leave the files for who tries again.
                let _ = flusher.join();
                return Err(error);
            }
        };
        Ok(Self {
            shared,
            writer: Some(writer),
            flusher: Some(flusher),
        })
    }

    /// Puts a snapshot taken by [`Store::snapshot`] into `dir`. A store that is there is moved aside, within `dir`.
    ///
    /// The revision jumps ahead of the snapshot's and of the replaced store's, and all before it is compacted: who watched
    /// or read at an old revision is told so, and no revision is given twice. Killed at any point, `dir` holds either
    /// store, whole.
    ///
    /// # Errors
    /// `Locked` where the store is in use, `NoSnapshot` for other bytes, `Io`.
    pub fn restore(snapshot: &mut dyn Read, dir: &Path) -> Result<Restored, StoreError> {
        restore::restore(snapshot, dir)
    }

    /// Answers when all writes asked for before are done, and from then on changes nothing by itself: no lease runs out and no
    /// history is forgotten, until it is released (`false`). Requests are answered as ever.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn hold(&self, held: bool) -> Result<(), StoreError> {
        match self.submit(Op::Hold(held), 0).await? {
            Reply::Done(()) => Ok(()),
            // The writer answers each operation in its own kind.
            _ => Err(self.shared.closed()),
        }
    }

    /// Writes everything that can still be seen of the store into a new file at `path` that `etcdctl snapshot restore` takes:
    /// an etcd begun with it has the same revisions, history and leases. See [`crate::etcd`].
    ///
    /// # Errors
    /// `Io` (also where the file is there already), `NoSpace`, `Database`, `Corrupt`.
    pub async fn seed(&self, path: &Path) -> Result<Seeded, StoreError> {
        let path = path.to_owned();
        self.blocking(move |shared| seed::write(&shared.history()?, &path))
            .await
    }

    async fn submit(&self, op: Op, size: usize) -> Result<Reply, StoreError> {
        let max = self.shared.options.max_request_bytes;
        if size > max {
            return Err(StoreError::RequestTooLarge { size, max });
        }
        // As wide as the largest request at most, so the cast holds.
        let kib = u32::try_from(size / 1024 + 1)
            .unwrap_or(u32::MAX)
            .min(ROOM_KIB);
        let _room = self
            .shared
            .room
            .acquire_many(kib)
            .await
            .map_err(|_| self.shared.closed())?;
        let (send, receive) = oneshot::channel();
        self.shared
            .queue
            .push(op, send)
            .map_err(|()| self.shared.closed())?;
        receive.await.map_err(|_| self.shared.closed())?
    }

    async fn read<T: Send + 'static>(
        &self,
        large: bool,
        work: impl Fn(&View<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        if !large && let Some(done) = self.shared.read_now(&work) {
            return done;
        }
        self.blocking(move |shared| shared.read(work)).await
    }

    /// On a thread that may take its time; few at once.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _turn = self
            .shared
            .readers
            .acquire()
            .await
            .map_err(|_| self.shared.closed())?;
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .map_err(|_| self.shared.closed())?
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(writer) = self.writer.take() {
            // A panicked writer has nothing more to save: what it answered is on disk.
            let _ = writer.join();
        }
        self.shared.bell.close();
        if let Some(flusher) = self.flusher.take() {
            let _ = flusher.join();
        }
        self.shared.hub.close();
        // A hash or a snapshot may still be moving things to the database.
        let _one = lock(&self.shared.flushing);
        // Watches may outlive the store; the next opener must not have to wait for them.
        self.shared.disk.close();
    }
}

macro_rules! expect {
    ($self:ident, $reply:expr, $variant:ident) => {
        match $reply.await? {
            Reply::$variant(answer) => Ok(answer),
            // The writer answers each operation in its own kind.
            _ => Err($self.shared.closed()),
        }
    };
}

impl Store for EmbeddedStore {
    fn range(&self, request: RangeRequest) -> BoxFuture<'_, RangeResponse> {
        Box::pin(async move {
            check::range(&request)?;
            let large = !request.range_end.is_empty();
            self.read(large, move |view| {
                check::revision(request.revision, &view.counters)?;
                read::range(view, &request, view.counters.revision)
            })
            .await
        })
    }

    fn put(&self, request: PutRequest) -> BoxFuture<'_, PutResponse> {
        Box::pin(async move {
            check::put(&request)?;
            let size = request.key.len() + request.value.len();
            expect!(self, self.submit(Op::Put(request), size), Put)
        })
    }

    fn delete_range(&self, request: DeleteRangeRequest) -> BoxFuture<'_, DeleteRangeResponse> {
        Box::pin(async move {
            check::delete(&request)?;
            let size = request.key.len() + request.range_end.len();
            expect!(self, self.submit(Op::Delete(request), size), Delete)
        })
    }

    fn txn(&self, request: TxnRequest) -> BoxFuture<'_, TxnResponse> {
        Box::pin(async move {
            check::txn(&request, self.shared.options.max_txn_ops)?;
            if check::read_only(&request) {
                return self
                    .read(true, move |view| apply::read_only(view, &request))
                    .await;
            }
            let size = check::txn_size(&request);
            expect!(self, self.submit(Op::Txn(request), size), Txn)
        })
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, CompactResponse> {
        Box::pin(async move { expect!(self, self.submit(Op::Compact(revision), 0), Compact) })
    }

    fn watch(&self, request: WatchRequest) -> BoxFuture<'_, WatchStream> {
        Box::pin(async move {
            let watch = Watch::new(&self.shared, request)?;
            Ok(WatchStream::new(watch))
        })
    }

    fn lease_grant(&self, ttl: i64, id: LeaseId) -> BoxFuture<'_, LeaseGrantResponse> {
        Box::pin(async move {
            if ttl > lease::MAX_TTL {
                return Err(StoreError::LeaseTtlTooLarge(ttl));
            }
            expect!(self, self.submit(Op::Grant { ttl, id }, 0), Grant)
        })
    }

    fn lease_revoke(&self, id: LeaseId) -> BoxFuture<'_, LeaseRevokeResponse> {
        Box::pin(async move { expect!(self, self.submit(Op::Revoke(id), 0), Revoke) })
    }

    fn lease_keep_alive(&self, id: LeaseId) -> BoxFuture<'_, LeaseKeepAliveResponse> {
        Box::pin(async move {
            let ttl = lock(&self.shared.lessor).renew(id, Instant::now())?;
            let revision = self.shared.hub.published();
            Ok(LeaseKeepAliveResponse { revision, ttl })
        })
    }

    fn lease_time_to_live(
        &self,
        id: LeaseId,
        keys: bool,
    ) -> BoxFuture<'_, LeaseTimeToLiveResponse> {
        Box::pin(async move {
            let (ttl, granted_ttl) = lock(&self.shared.lessor).remaining(id, Instant::now())?;
            let (revision, keys) = self
                .read(keys, move |view| {
                    let at = view.counters.revision;
                    let found = if keys {
                        let keys = view.lease_keys(id, at)?;
                        keys.into_iter().map(|(key, _)| key).collect()
                    } else {
                        Vec::new()
                    };
                    Ok((at, found))
                })
                .await?;
            Ok(LeaseTimeToLiveResponse {
                revision,
                id,
                ttl,
                granted_ttl,
                keys,
            })
        })
    }

    fn leases(&self) -> BoxFuture<'_, LeasesResponse> {
        Box::pin(async move {
            let revision = self.shared.hub.published();
            let ids = lock(&self.shared.lessor).by_deadline();
            Ok(LeasesResponse { revision, ids })
        })
    }

    fn defragment(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move { expect!(self, self.submit(Op::Defragment, 0), Done) })
    }

    fn hash(&self, revision: Revision) -> BoxFuture<'_, HashResponse> {
        Box::pin(async move {
            self.blocking(move |shared| {
                // Each part by itself: nothing has to be written for it, and the disk may be full.
                let _still = lock(&shared.flushing);
                let view = || View::new(&shared.memory, &shared.disk);
                shared.disk.again(|| read::hash(&view(), revision))
            })
            .await
        })
    }

    fn status(&self) -> BoxFuture<'_, Status> {
        Box::pin(async move {
            let counters = self.shared.memory.counters();
            Ok(Status {
                revision: counters.revision,
                compact_revision: counters.compacted,
                bytes_in_use: counters.bytes,
                bytes_on_disk: self.shared.disk.bytes_on_disk()?
                    + self.shared.log_bytes.load(Ordering::Relaxed),
                quota_bytes: self.shared.options.quota_bytes,
                no_space: counters.bytes >= self.shared.options.quota_bytes
                    || self.shared.disk.is_full(),
                leases: lock(&self.shared.lessor).ids().len(),
            })
        })
    }

    fn snapshot(&self, mut out: Box<dyn Write + Send>) -> BoxFuture<'_, Revision> {
        Box::pin(async move {
            let _turn = self.shared.snapshots.acquire().await;
            let shared = Arc::clone(&self.shared);
            let taken = tokio::task::spawn_blocking(move || {
                shared.settle()?;
                disk::snapshot(&shared.disk, &mut *out)
            });
            taken.await.map_err(|_| self.shared.closed())?
        })
    }
}
