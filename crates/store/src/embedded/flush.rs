//! Moving what is in memory to the database, in the background, in large transactions.
//!
//! Say that history is kept from revision 20 on, and memory holds of key `a` the versions 17, 19 and 23. A flush up to 30
//! brings 19 and 23: nobody can see 17 any more. What the database has of `a` from before goes in the same step. So a key
//! that is written again and again costs the database one version for each flush, and history that is compacted before its
//! turn comes costs it nothing.
//!
//! After a flush the database is the whole store as of one frame of the log; the frames up to that one are not needed.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redb::{ReadableTable, Table, WriteTransaction};

use super::lock;
use super::memory::{Amount, Base, Entry, Portion};
use super::shared::Shared;
use super::tables::{
    FORMAT_OF_LEASES, LEASE_KEYS, LEASES, LOG, LeaseEntry, META, Record, VERSIONS, cost,
};
use crate::error::StoreError;
use crate::types::{LeaseId, Revision};
use std::path::Path;

/// Entries of the database's log that are cleaned in one transaction, at least.
const CLEAN: usize = 4096;
/// Bytes that are worth the time that it takes to give them back.
const WORTH: usize = 1 << 20;
/// How long to leave a failing disk alone.
const REST: Duration = Duration::from_millis(200);

/// Who flushes holds it.
pub(crate) struct Flushing {
    /// There may be history in the database to clean.
    clean: bool,
    /// Bytes moved since memory was given back.
    moved: usize,
}

impl Flushing {
    pub(crate) fn new() -> Self {
        Self {
            clean: true,
            moved: 0,
        }
    }
}

/// What the thread is asked for.
#[derive(Default)]
struct Asked {
    compacted: bool,
    half: bool,
    closed: bool,
}

/// Wakes the thread that flushes.
#[derive(Default)]
pub(crate) struct Bell {
    asked: Mutex<Asked>,
    wake: Condvar,
}

impl Bell {
    /// Asks for a flush of what is compacted, or of the older half.
    pub(crate) fn ring(&self, amount: Amount) {
        let mut asked = lock(&self.asked);
        match amount {
            Amount::Compacted => asked.compacted = true,
            Amount::Half | Amount::All => asked.half = true,
        }
        self.wake.notify_one();
    }

    pub(crate) fn close(&self) {
        lock(&self.asked).closed = true;
        self.wake.notify_one();
    }

    /// The half that was asked for is moved: who finds that there is still too much asks again.
    fn halved(&self) {
        lock(&self.asked).half = false;
    }

    fn is_closed(&self) -> bool {
        lock(&self.asked).closed
    }

    /// None when closed.
    fn wait(&self, not_before: Option<Instant>) -> Option<Asked> {
        let mut asked = lock(&self.asked);
        loop {
            if asked.closed {
                return None;
            }
            let rest = not_before.and_then(|at| at.checked_duration_since(Instant::now()));
            asked = match rest {
                Some(rest) => {
                    let woken = self.wake.wait_timeout(asked, rest);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None if asked.compacted || asked.half => return Some(std::mem::take(&mut *asked)),
                None => self
                    .wake
                    .wait(asked)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// The thread's work, until the bell is closed.
pub(crate) fn run(shared: &Shared) {
    let mut not_before = None;
    while let Some(asked) = shared.bell.wait(not_before) {
        let work = || -> Result<(), StoreError> {
            if asked.half {
                flush(shared, Amount::Half)?;
                shared.bell.halved();
            }
            while asked.compacted && flush(shared, Amount::Compacted)? {
                if shared.bell.is_closed() {
                    break;
                }
            }
            Ok(())
        };
        not_before = None;
        let done = work();
        give_back(shared);
        if let Err(error) = done {
            if !matches!(error, StoreError::NoSpace { .. }) {
                tracing::warn!(error = %crate::full(&error), "what is in the store's log could not be moved to its database yet");
            }
            not_before = Some(Instant::now() + REST);
            if asked.half {
                shared.bell.ring(Amount::Half);
            }
            if asked.compacted {
                shared.bell.ring(Amount::Compacted);
            }
        }
    }
}

/// What went to the database was much of what memory held, and the way there took as much again.
fn give_back(shared: &Shared) {
    let moved = std::mem::take(&mut lock(&shared.flushing).moved);
    if moved >= WORTH {
        coracle_sys::memory::give_back();
    }
}

/// Moves so much, and cleans some history; answers whether there is more to clean.
///
/// # Errors
/// `NoSpace`, `Database`, `Corrupt`; nothing is lost then, and the database is as it was.
pub(crate) fn flush(shared: &Shared, amount: Amount) -> Result<bool, StoreError> {
    let mut one = lock(&shared.flushing);
    let flushed = move_some(shared, amount, &mut one);
    let Err(error) = flushed else {
        return flushed;
    };
    if !matches!(error, StoreError::NoSpace { .. } | StoreError::Corrupt { .. })
        // redb asks for that after a failed write; readers wait for it.
        && let Err(again) = shared.disk.mend()
    {
        tracing::warn!(error = %crate::full(&again), "the store's database could not be opened anew yet");
    }
    Err(shared.explain(error))
}

fn move_some(shared: &Shared, amount: Amount, one: &mut Flushing) -> Result<bool, StoreError> {
    let memory = &shared.memory;
    let standing = memory.base();
    let portion = memory.portion(amount);
    let compacts = portion.base.counters.compacted != standing.counters.compacted;
    if portion.base.sequence == standing.sequence && !compacts && !one.clean {
        return Ok(false);
    }
    let entries = memory.entries(&portion);
    let bytes: usize = entries
        .iter()
        .map(|e| 2 * e.key().len() + e.record().len() + 256)
        .sum();
    if !shared.disk.reserve(bytes as u64)? {
        shared.disk.set_full(true);
        return Err(shared.no_space());
    }
    let path = shared.disk.path();
    let txn = shared.disk.begin_write()?;
    let mut tables = Tables::open(&txn, portion.base, path)?;
    tables.bring(&entries)?;
    tables.bring_leases(&portion)?;
    let more = if one.clean || compacts {
        tables.clean(CLEAN.max(2 * entries.len()))?
    } else {
        false
    };
    let base = tables.finish()?;
    if let Err(error) = txn.commit() {
        // It may be on the disk all the same; then it must not be done a second time.
        shared.disk.reopen()?;
        if base.sequence == standing.sequence || shared.disk.flushed()? != base.sequence {
            return Err(StoreError::database(path, error));
        }
    }
    memory.moved(&portion, &entries, base);
    one.clean = more;
    one.moved += bytes;
    Ok(more)
}

/// The tables of one flush.
pub(crate) struct Tables<'t> {
    pub versions: Table<'t, (&'static [u8], i64), &'static [u8]>,
    pub log: Table<'t, (i64, u32), &'static [u8]>,
    leases: Table<'t, i64, &'static [u8]>,
    lease_keys: Table<'t, (i64, &'static [u8]), ()>,
    meta: Table<'t, &'static str, &'static [u8]>,
    pub base: Base,
    pub path: &'t Path,
}

impl<'t> Tables<'t> {
    fn open(txn: &'t WriteTransaction, base: Base, path: &'t Path) -> Result<Self, StoreError> {
        let error = |e: redb::TableError| StoreError::database(path, e);
        Ok(Self {
            versions: txn.open_table(VERSIONS).map_err(error)?,
            log: txn.open_table(LOG).map_err(error)?,
            leases: txn.open_table(LEASES).map_err(error)?,
            lease_keys: txn.open_table(LEASE_KEYS).map_err(error)?,
            meta: txn.open_table(META).map_err(error)?,
            base,
            path,
        })
    }

    /// Writes the numbers; the last thing before the commit.
    fn finish(mut self) -> Result<Base, StoreError> {
        self.base
            .store(&mut self.meta)
            .map_err(|e| StoreError::database(self.path, e))?;
        Ok(self.base)
    }

    /// Versions by key and revision.
    fn bring(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        let mut history = Vec::new();
        for versions in entries.chunk_by(|a, b| a.key() == b.key()) {
            self.bring_key(versions, &mut history)?;
        }
        history.sort_unstable();
        for (revision, step, key) in history {
            self.log
                .insert((revision, step), key)
                .map_err(|e| StoreError::database(self.path, e))?;
        }
        Ok(())
    }

    fn bring_key<'e>(
        &mut self,
        versions: &'e [Entry],
        history: &mut Vec<(Revision, u32, &'e [u8])>,
    ) -> Result<(), StoreError> {
        let (path, compacted) = (self.path, self.base.counters.compacted);
        let ([first, ..], [.., last]) = (versions, versions) else {
            return Ok(());
        };
        let key = first.key();
        let old = versions.partition_point(|entry| entry.revision <= compacted);
        let former = first.former;
        // The newest of those that only the newest can be seen of.
        let standing = old.checked_sub(1).and_then(|at| versions.get(at));
        let deleted = match standing {
            Some(entry) => {
                let record = Record::decode(entry.record(), path)?;
                record.deleted && entry.revision < compacted
            }
            None => false,
        };
        if deleted {
            // It is not brought, so nothing older may be left that it hides.
            self.forget(key, first.revision)?;
        } else if old > 0 && former.revision > 0 {
            // What is older than that one is hidden, and the cleaning finds it: a version has its entry in the log there
            // unless it was the oldest to be kept.
            self.drop_version(key, former.revision)?;
        }
        for entry in &versions[old.saturating_sub(1)..] {
            let record = Record::decode(entry.record(), path)?;
            if record.deleted && entry.revision < compacted {
                continue;
            }
            self.versions
                .insert((key, entry.revision), entry.record())
                .map_err(|e| StoreError::database(path, e))?;
            self.base.counters.bytes += cost(key.len(), entry.record().len());
            if entry.revision >= compacted {
                history.push((entry.revision, record.step, key));
            }
        }
        let lease = Record::decode(last.record(), path)?.lease;
        self.move_lease(key, former.lease, lease)
    }

    /// Drops all versions of a key before `before`.
    fn forget(&mut self, key: &[u8], before: Revision) -> Result<(), StoreError> {
        let error = |e: redb::StorageError| StoreError::database(self.path, e);
        let mut dead = Vec::new();
        for item in self
            .versions
            .range((key, i64::MIN)..(key, before))
            .map_err(error)?
        {
            let (at, _) = item.map_err(error)?;
            dead.push(at.value().1);
        }
        for at in dead {
            self.drop_version(key, at)?;
        }
        Ok(())
    }

    /// Drops a version of a key, if it is there.
    pub(crate) fn drop_version(&mut self, key: &[u8], at: Revision) -> Result<(), StoreError> {
        let dropped = self
            .versions
            .remove((key, at))
            .map_err(|e| StoreError::database(self.path, e))?;
        if let Some(record) = dropped {
            let bytes = &mut self.base.counters.bytes;
            *bytes = bytes.saturating_sub(cost(key.len(), record.value().len()));
        }
        Ok(())
    }

    fn move_lease(&mut self, key: &[u8], from: LeaseId, to: LeaseId) -> Result<(), StoreError> {
        let error = |e: redb::StorageError| StoreError::database(self.path, e);
        if from == to {
            return Ok(());
        }
        if from != 0 {
            self.lease_keys.remove((from, key)).map_err(error)?;
        }
        if to != 0 {
            self.lease_keys.insert((to, key), ()).map_err(error)?;
        }
        Ok(())
    }

    fn bring_leases(&mut self, portion: &Portion) -> Result<(), StoreError> {
        let error = |e: redb::StorageError| StoreError::database(self.path, e);
        for (id, granted) in &portion.leases {
            match granted {
                Some(ttl) => {
                    let entry = LeaseEntry {
                        version: FORMAT_OF_LEASES,
                        ttl: *ttl,
                    };
                    let entry = serde_json::to_vec(&entry)
                        .map_err(|e| StoreError::io("encoding a lease for", self.path, e.into()))?;
                    self.leases.insert(*id, &entry[..]).map_err(error)?;
                }
                None => {
                    self.leases.remove(*id).map_err(error)?;
                }
            }
        }
        Ok(())
    }
}
