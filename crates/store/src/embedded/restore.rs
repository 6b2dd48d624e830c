//! Putting a snapshot in the place of a store.
//!
//! ```text
//! store.redb     gets what its log has; where it cannot, replaced-N.log-* are copies of the log's files
//! restore.tmp    the snapshot's bytes, then the revision's jump, synced
//! replaced-N     a second name (hard link) of the store that is there, synced
//! store.redb     restore.tmp renamed over it
//! ```
//! So `store.redb` is at every point one of the two stores, whole: a daemon never finds none and begins anew at revision 1. The log's files that lie about name the database that they go
//! with: the one restored begins with none, and uses their room.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadableDatabase as _};

use super::Options;
use super::dir::{make_private, sync_dir, take_lock};
use super::disk::{Disk, FILE, RESTORE, check_format};
use super::shared::Shared;
use super::tables::{Counters, META, corrupt};
use crate::error::StoreError;
use crate::types::Revision;

/// How far the revision jumps: more than a store counts between a snapshot and its restoring.
const JUMP: Revision = 1_000_000_000;
/// Pages of the databases held in memory, in bytes.
const CACHE: usize = 4 << 20;

/// What [`super::EmbeddedStore::restore`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The store's revision now; all before it is compacted.
    pub revision: Revision,
    /// Where the store lies that was there.
    pub aside: Option<PathBuf>,
    /// Its revision, if it could be read.
    pub previous: Option<Revision>,
}

pub(super) fn restore(snapshot: &mut dyn Read, dir: &Path) -> Result<Restored, StoreError> {
    make_private(dir)?;
    let _lock = take_lock(dir)?;
    let temp = dir.join(RESTORE);
    let restored = place(snapshot, dir, &temp);
    if restored.is_err() {
        // It only wastes space; the next opening tries again.
        let _ = std::fs::remove_file(&temp);
    }
    restored
}

fn place(snapshot: &mut dyn Read, dir: &Path, temp: &Path) -> Result<Restored, StoreError> {
    let target = dir.join(FILE);
    write(snapshot, temp)?;
    let there = target.exists();
    let (previous, settled) = match there {
        true => settle(dir),
        false => (None, true),
    };
    let (free, replaced) = free_name(dir, &target)?;
    // A store that cannot be read may have jumped once with each one that was replaced before it.
    let unread = if there && previous.is_none() {
        replaced
    } else {
        0
    };
    let revision = jump(temp, previous, unread)?;
    File::open(temp)
        .and_then(|file| file.sync_all())
        .map_err(|e| StoreError::io("syncing", temp, e))?;
    if !settled {
        keep_log(dir, &free)?;
    }
    if there {
        std::fs::hard_link(&target, &free).map_err(|e| StoreError::io("making", &free, e))?;
        sync_dir(dir)?;
    }
    std::fs::rename(temp, &target).map_err(|e| StoreError::io("restoring", &target, e))?;
    sync_dir(dir)?;
    Ok(Restored {
        revision,
        aside: there.then_some(free),
        previous,
    })
}

/// The snapshot's bytes in a file of their own.
fn write(mut snapshot: &mut dyn Read, temp: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(temp) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            return Err(StoreError::io("removing", temp, e));
        }
        _ => {}
    }
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(temp)
        .map_err(|e| StoreError::io("making", temp, e))?;
    std::io::copy(&mut snapshot, &mut file)
        .map(drop)
        .map_err(|e| StoreError::io("copying the snapshot to", temp, e))
}

fn open(path: &Path) -> Result<Database, StoreError> {
    let database = Database::builder().set_cache_size(CACHE).open(path);
    database.map_err(|e| StoreError::database(path, e))
}

fn counters(database: &Database, path: &Path) -> Result<Counters, StoreError> {
    let error = |e: redb::Error| StoreError::database(path, e);
    let txn = database.begin_read().map_err(|e| error(e.into()))?;
    let meta = txn.open_table(META).map_err(|e| error(e.into()))?;
    Counters::load(&meta, path)
}

/// The revision of the store in `dir`, if it can be read, and whether all of it is in its database now, which is to lie
/// without its log.
fn settle(dir: &Path) -> (Option<Revision>, bool) {
    let read = || -> Result<(Revision, bool), StoreError> {
        let disk = Disk::open_locked(dir, CACHE, None)?;
        let (shared, ..) = Shared::open(dir, disk, Options::default())?;
        let settled = shared.settle();
        if let Err(error) = &settled {
            tracing::warn!(error = %crate::full(error), "the log of the store that is replaced is kept beside it");
        }
        Ok((shared.memory.counters().revision, settled.is_ok()))
    };
    // A damaged file may make the database panic, and is replaced for just that.
    let read = std::thread::scope(|scope| scope.spawn(read).join());
    match read {
        Ok(Ok((revision, settled))) => (Some(revision), settled),
        Ok(Err(error)) => {
            tracing::warn!(error = %crate::full(&error), "the store that is replaced cannot be read");
            (None, false)
        }
        Err(_) => (None, false),
    }
}

/// Copies what the log of the replaced store has beside it: `replaced-1.log-0`. Not by links, as its files are used again.
fn keep_log(dir: &Path, aside: &Path) -> Result<(), StoreError> {
    for (number, log) in super::log::files(dir)? {
        let copy = aside.with_extension(format!("log-{number}"));
        std::fs::copy(&log, &copy)
            .and_then(|_| File::open(&copy)?.sync_all())
            .map_err(|e| StoreError::io("keeping the replaced store's log as", &copy, e))?;
    }
    Ok(())
}

/// A name for the store that is replaced, and how many were before.
///
/// One that was linked by a restore that came no further is the store itself, not one before: its name goes.
fn free_name(dir: &Path, target: &Path) -> Result<(PathBuf, i64), StoreError> {
    let inode = |path: &Path| path.symlink_metadata().map(|m| (m.dev(), m.ino())).ok();
    let own = inode(target);
    for n in 1.. {
        let name = dir.join(format!("replaced-{n}.redb"));
        match inode(&name) {
            None => return Ok((name, n - 1)),
            found if found == own => {
                std::fs::remove_file(&name).map_err(|e| StoreError::io("removing", &name, e))?;
                return Ok((name, n - 1));
            }
            Some(_) => {}
        }
    }
    Err(corrupt(dir, "no name is free"))
}

/// Moves the snapshot's revision ahead of all that was given before, and compacts up to it.
fn jump(temp: &Path, previous: Option<Revision>, more: i64) -> Result<Revision, StoreError> {
    let no_snapshot = |error: StoreError| StoreError::NoSnapshot {
        source: Arc::new(error),
    };
    let database = open(temp).map_err(no_snapshot)?;
    let mut counters = counters(&database, temp).map_err(no_snapshot)?;
    check_format(&database, temp).map_err(no_snapshot)?;
    let newest = counters.revision.max(previous.unwrap_or(0));
    let ahead = JUMP.saturating_mul(more + 1);
    counters.revision = newest
        .checked_add(ahead)
        .ok_or_else(|| no_snapshot(corrupt(temp, "its revision is too large")))?;
    counters.compacted = counters.revision;
    let stored = || -> Result<(), redb::Error> {
        let txn = database.begin_write()?;
        counters.store(&mut txn.open_table(META)?)?;
        txn.commit()?;
        Ok(())
    };
    stored().map_err(|e| StoreError::database(temp, e))?;
    Ok(counters.revision)
}
