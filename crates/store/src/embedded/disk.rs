//! The file: opening it, keeping others out, reserving room in it, copying it.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction,
};

use super::dir::{make_private, sync_dir, take_lock};
use super::lock;
use super::tables::{
    Counters, FORMAT, Format, LEASE_KEYS, LEASES, LOG, META, Reader, VERSIONS, corrupt, log_of,
};
use crate::error::StoreError;
use crate::types::Revision;

pub(super) const FILE: &str = "store.redb";
const SNAPSHOT: &str = "snapshot.tmp";
pub(super) const RESTORE: &str = "restore.tmp";
const FRESH: &str = "fresh.tmp";

/// Blocks taken from the disk beyond what a flush needs.
const SLACK: u64 = 256 << 10;
/// Blocks are taken in steps of this size, so that few pay for it.
const STEP: u64 = 1 << 20;

/// Bytes of a database file that is not read through after a kill: a larger one's commits say which pages are free, for one more
/// sync each. A smaller one is looked through in a tenth of a second.
const LARGE: u64 = 64 << 20;

/// The database file of one directory, locked against other processes.
pub(crate) struct Disk {
    dir: PathBuf,
    path: PathBuf,
    cache: usize,
    /// Why there is none: it could not be opened anew, or [`Disk::close`].
    database: RwLock<Result<Database, StoreError>>,
    /// Counts openings; lets a reader tell whether trying again makes sense.
    opened: AtomicU64,
    reserved: Mutex<Reserved>,
    full: AtomicBool,
    busy: AtomicBool,
    snapshot: Mutex<()>,
    /// Held for its lock; None after [`Disk::close`].
    lock: Mutex<Option<File>>,
}

/// How far the file's blocks are known to be there.
#[derive(Default)]
struct Reserved {
    length: u64,
    upto: u64,
}

impl Disk {
    pub(crate) fn open(dir: &Path, cache: usize) -> Result<Self, StoreError> {
        make_private(dir)?;
        let held = take_lock(dir)?;
        for left in [SNAPSHOT, RESTORE] {
            // Left by a process that was killed; where it cannot go it only wastes space.
            let _ = std::fs::remove_file(dir.join(left));
        }
        Self::open_locked(dir, cache, Some(held))
    }

    /// Without a lock of its own where `held` is None: the caller has it.
    pub(super) fn open_locked(
        dir: &Path,
        cache: usize,
        held: Option<File>,
    ) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        if !path.exists() {
            if !super::log::files(dir)?.is_empty() {
                return Err(corrupt(&path, "it is gone, and its log is still there"));
            }
            make_database(&path, dir)?;
        }
        let database = open_database(&path, dir, cache)?;
        begin_log(&database, &path)?;
        Ok(Self {
            dir: dir.to_owned(),
            path,
            cache,
            database: RwLock::new(Ok(database)),
            opened: AtomicU64::new(1),
            reserved: Mutex::default(),
            full: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            snapshot: Mutex::new(()),
            lock: Mutex::new(held),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn closed(&self) -> StoreError {
        StoreError::Closed {
            path: self.dir.clone(),
        }
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        work(database.as_ref().map_err(Clone::clone)?)
    }

    pub(crate) fn begin_write(&self) -> Result<WriteTransaction, StoreError> {
        let large = self.bytes_on_disk()? > LARGE;
        self.with(|db| {
            let begun = db.begin_write();
            let mut txn = begun.map_err(|e| StoreError::database(&self.path, e))?;
            txn.set_quick_repair(large);
            Ok(txn)
        })
    }

    pub(crate) fn begin_read(&self) -> Result<ReadTransaction, StoreError> {
        self.with(|db| {
            db.begin_read()
                .map_err(|e| StoreError::database(&self.path, e))
        })
    }

    /// Counts openings: an error of a snapshot from before the last one is no reason to give up.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Acquire)
    }

    /// Runs `work` on a snapshot of the database alone; again where the file was opened anew meanwhile.
    pub(crate) fn read<T>(
        &self,
        work: impl Fn(&Reader) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.again(|| work(&Reader::new(self.begin_read()?, &self.path)?))
    }

    /// Does `work` again where the file was opened anew meanwhile.
    pub(crate) fn again<T>(
        &self,
        mut work: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let give_up = Instant::now() + Duration::from_secs(2);
        loop {
            let opened = self.opened();
            match work() {
                Err(error) if is_stale(&error) && Instant::now() < give_up => {
                    if self.opened() == opened {
                        // Who found it failing is about to open it anew; this is once in a full disk.
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
                result => return result,
            }
        }
    }

    /// Opens the file anew, as redb asks for after a failed write.
    pub(crate) fn reopen(&self) -> Result<(), StoreError> {
        self.replace(|_| Ok(()))
    }

    /// Closes the database, opens it anew and does `work` on it while nobody else can.
    fn replace(
        &self,
        work: impl FnOnce(&mut Database) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.busy.store(true, Ordering::Release);
        let mut slot = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // Closed first: redb locks the file against a second opening. That ends the reads that are going on; they try again.
        *slot = Err(self.closed());
        *slot = open_database(&self.path, &self.dir, self.cache);
        let done = match &mut *slot {
            Ok(database) => work(database),
            Err(error) => Err(error.clone()),
        };
        *lock(&self.reserved) = Reserved::default();
        self.opened.fetch_add(1, Ordering::AcqRel);
        self.busy.store(false, Ordering::Release);
        done
    }

    /// Opens the file anew if it cannot be read. Nobody else may be flushing.
    pub(crate) fn mend(&self) -> Result<(), StoreError> {
        let read = || Reader::new(self.begin_read()?, &self.path)?.counters();
        read().map(drop).or_else(|_| self.reopen())
    }

    /// The newest frame of the log that is in the file.
    pub(crate) fn flushed(&self) -> Result<u64, StoreError> {
        self.read(|reader| Ok(reader.log_of()?.1))
    }

    /// Somebody has the file for long; who may not wait must not ask now.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    /// Packs the file.
    pub(crate) fn defragment(&self) -> Result<(), StoreError> {
        self.replace(|database| {
            let failed = |e: redb::Error| StoreError::database(&self.path, e);
            database.compact().map_err(|e| failed(e.into()))?;
            if self.bytes_on_disk()? <= LARGE {
                return Ok(());
            }
            // Packing does not say which pages are free.
            let mut txn = database.begin_write().map_err(|e| failed(e.into()))?;
            txn.set_quick_repair(true);
            txn.commit().map_err(|e| failed(e.into()))
        })
    }

    pub(crate) fn close(&self) {
        let mut slot = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *slot = Err(self.closed());
        lock(&self.lock).take();
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    pub(crate) fn set_full(&self, full: bool) {
        if self.full.swap(full, Ordering::Relaxed) != full {
            if full {
                tracing::warn!(path = %self.path.display(), "the disk is full; puts are refused");
            } else {
                tracing::info!(path = %self.path.display(), "the disk has room again");
            }
        }
    }

    pub(crate) fn bytes_on_disk(&self) -> Result<u64, StoreError> {
        let meta = std::fs::metadata(&self.path);
        Ok(meta
            .map_err(|e| StoreError::io("looking at", &self.path, e))?
            .len())
    }

    /// Makes sure that the disk has the blocks for a transaction of about `bytes`.
    ///
    /// redb writes into holes and beyond the end, and a write that fails closes it; so the disk
    /// is asked before. Answers false where it is full.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<bool, StoreError> {
        let length = self.bytes_on_disk()?;
        let mut reserved = lock(&self.reserved);
        if length < reserved.length {
            // redb cut the free end off, and with it what was reserved beyond.
            reserved.upto = 0;
        }
        reserved.length = length;
        // A large database's commit has with it which of the pages are free: a few bits for each.
        let need = length + bytes + SLACK + length / 8192;
        if need <= reserved.upto {
            return Ok(true);
        }
        let file = File::options()
            .write(true)
            .open(&self.path)
            .map_err(|e| StoreError::io("opening", &self.path, e))?;
        for upto in [need + STEP, need] {
            use rustix::io::Errno;
            match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, upto) {
                // Where the filesystem cannot reserve, a full disk is found when writing.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    reserved.upto = upto;
                    return Ok(true);
                }
                Err(Errno::NOSPC | Errno::DQUOT) => {}
                Err(e) => return Err(StoreError::io("reserving room in", &self.path, e.into())),
            }
        }
        Ok(false)
    }
}

/// The handle that the error came from was closed, or must be.
pub(crate) fn is_stale(error: &StoreError) -> bool {
    match error {
        StoreError::Database { source, .. } => {
            matches!(
                **source,
                redb::Error::PreviousIo | redb::Error::DatabaseClosed
            )
        }
        _ => false,
    }
}

/// The disk was full.
pub(crate) fn is_no_space(error: &StoreError) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let full = |e: &std::io::Error| matches!(e.kind(), StorageFull | QuotaExceeded);
    match error {
        StoreError::Io { source, .. } => full(source),
        StoreError::Database { source, .. } => match &**source {
            redb::Error::Io(e) => full(e),
            _ => false,
        },
        _ => false,
    }
}

/// An empty store. It gets its name when it is whole: of one that is half made nobody can tell that it held nothing.
fn make_database(path: &Path, dir: &Path) -> Result<(), StoreError> {
    let fresh = dir.join(FRESH);
    match std::fs::remove_file(&fresh) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(StoreError::io("removing", &fresh, e));
        }
        _ => {}
    }
    let made = Database::create(&fresh).map_err(|e| StoreError::database(&fresh, e))?;
    make_tables(&made).map_err(|e| StoreError::database(&fresh, e))?;
    drop(made);
    File::open(&fresh)
        .and_then(|file| file.sync_all())
        .and_then(|()| std::fs::rename(&fresh, path))
        .map_err(|e| StoreError::io("making", path, e))?;
    sync_dir(dir)
}

fn open_database(path: &Path, dir: &Path, cache: usize) -> Result<Database, StoreError> {
    let database = Database::builder()
        .set_cache_size(cache)
        .open(path)
        .map_err(|e| match e {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                StoreError::Locked {
                    path: dir.to_owned(),
                }
            }
            other => StoreError::database(path, other),
        })?;
    check_format(&database, path)?;
    Ok(database)
}

/// Reads the format version.
pub(super) fn check_format(database: &Database, path: &Path) -> Result<(), StoreError> {
    let error = |e: redb::Error| StoreError::database(path, e);
    let txn = database.begin_read().map_err(|e| error(e.into()))?;
    match txn.open_table(META) {
        Ok(meta) => {
            let entry = meta.get("format").map_err(|e| error(e.into()))?;
            let entry = entry.ok_or_else(|| corrupt(path, "the format version is missing"))?;
            let format: Format = serde_json::from_slice(entry.value())
                .map_err(|_| corrupt(path, "the format version is no JSON of ours"))?;
            if !(1..=FORMAT).contains(&format.version) {
                return Err(StoreError::UnknownFormat {
                    path: path.to_owned(),
                    found: format.version,
                    known: FORMAT,
                });
            }
            Ok(())
        }
        Err(redb::TableError::TableDoesNotExist(_)) => {
            Err(corrupt(path, "it is another program's database"))
        }
        Err(e) => Err(error(e.into())),
    }
}

fn make_tables(database: &Database) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    {
        txn.open_table(VERSIONS)?;
        txn.open_table(LOG)?;
        txn.open_table(LEASES)?;
        txn.open_table(LEASE_KEYS)?;
        let mut meta = txn.open_table(META)?;
        set_format(&mut meta)?;
        Counters {
            revision: 1,
            compacted: 0,
            bytes: 0,
        }
        .store(&mut meta)?;
    }
    txn.commit()?;
    Ok(())
}

fn set_format(
    meta: &mut redb::Table<'_, &'static str, &'static [u8]>,
) -> Result<(), redb::StorageError> {
    let format = format!("{{\"version\":{FORMAT}}}");
    meta.insert("format", format.as_bytes()).map(drop)
}

/// Gives a database that has no log one of its own; what lies about of others' is not read then.
fn begin_log(database: &Database, path: &Path) -> Result<(), StoreError> {
    let begun = || -> Result<(), redb::Error> {
        let txn = database.begin_write()?;
        {
            let mut meta = txn.open_table(META)?;
            set_format(&mut meta)?;
            // Only to be another than those before it.
            let id = RandomState::new().build_hasher().finish();
            meta.insert("log", &id.to_le_bytes()[..])?;
            meta.insert("flushed", &0_u64.to_le_bytes()[..])?;
        }
        txn.commit()?;
        Ok(())
    };
    let txn = database
        .begin_read()
        .map_err(|e| StoreError::database(path, e))?;
    let meta = txn
        .open_table(META)
        .map_err(|e| StoreError::database(path, e))?;
    match log_of(&meta, path)? {
        Some(_) => Ok(()),
        None => begun().map_err(|e| StoreError::database(path, e)),
    }
}

/// Copies a snapshot's tables into a fresh file and that to `out`.
pub(crate) fn snapshot(disk: &Disk, out: &mut dyn Write) -> Result<Revision, StoreError> {
    let _one_at_a_time = lock(&disk.snapshot);
    let path = disk.dir.join(SNAPSHOT);
    let revision = disk.read(|reader| {
        // A try before may have left it.
        let _ = std::fs::remove_file(&path);
        copy(reader, &path)?;
        Ok(reader.counters()?.revision)
    });
    let sent = revision.and_then(|revision| {
        File::open(&path)
            .and_then(|mut file| std::io::copy(&mut file, out))
            .and_then(|_| out.flush())
            .map_err(|e| StoreError::io("sending", &path, e))?;
        Ok(revision)
    });
    // The next opening tries again.
    let _ = std::fs::remove_file(&path);
    sent
}

fn copy(reader: &Reader, path: &Path) -> Result<(), StoreError> {
    fn table<K: redb::Key + 'static, V: redb::Value + 'static>(
        from: &redb::ReadTransaction,
        to: &WriteTransaction,
        which: redb::TableDefinition<'static, K, V>,
    ) -> Result<(), redb::Error> {
        let from = from.open_table(which)?;
        let mut to = to.open_table(which)?;
        for item in from.iter()? {
            let (key, value) = item?;
            to.insert(key.value(), value.value())?;
        }
        Ok(())
    }
    let all = || -> Result<(), redb::Error> {
        let database = Database::builder().set_cache_size(4 << 20).create(path)?;
        let to = database.begin_write()?;
        let from = reader.txn();
        table(from, &to, META)?;
        {
            // The copy is whole by itself.
            let mut meta = to.open_table(META)?;
            meta.remove("log")?;
            meta.remove("flushed")?;
        }
        table(from, &to, VERSIONS)?;
        table(from, &to, LOG)?;
        table(from, &to, LEASES)?;
        table(from, &to, LEASE_KEYS)?;
        to.commit()?;
        Ok(())
    };
    all().map_err(|e| match e {
        // An error of the source must be told from one of the copy: only it may be tried again.
        redb::Error::PreviousIo | redb::Error::DatabaseClosed => reader.error(e),
        e => StoreError::database(path, e),
    })
}
