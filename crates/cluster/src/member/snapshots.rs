//! Copies of the store, taken now and then by every voter: `STATE_DIR/cluster/snapshots/`.
//!
//! A copy is etcd's own, as `etcdctl snapshot save` makes it; it is read back whole before it gets its name, and the oldest go
//! when there are too many. [`coracle_store::recover`] and `etcdctl snapshot restore` take it.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coracle_store::etcd::bolt::Bolt;
use coracle_store::{EtcdStore, Revision, Store as _};
use tokio::sync::{Mutex, watch};

use super::{MemberError, files};

const HALF: &str = "taking.tmp";
const END: &str = ".db";
/// How soon it is tried again, and how seldom at last: an etcd that only learns gives none before 3.5.
const AGAIN: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(300);

/// When they are taken, and how many are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Time from one to the next. Default 1 hour.
    pub every: Duration,
    /// How many are kept. Default 24.
    pub keep: usize,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(3600),
            keep: 24,
        }
    }
}

/// A copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its file.
    pub path: PathBuf,
    /// The revision of the store in it.
    pub revision: Revision,
    /// When it was taken.
    pub time: SystemTime,
}

/// Where a machine's copies are, below `dir` (`STATE_DIR/cluster`).
pub(super) fn copies(dir: &Path) -> PathBuf {
    dir.join("snapshots")
}

/// The directory of a machine's copies.
#[derive(Clone, Debug)]
pub struct Snapshots {
    dir: PathBuf,
    keep: usize,
    /// One is taken at a time.
    turn: Arc<Mutex<()>>,
}

impl Snapshots {
    /// Below `dir` (`STATE_DIR/cluster`); what a taking that was cut short left goes.
    ///
    /// # Errors
    /// `File`.
    pub fn open(dir: &Path, keep: usize) -> Result<Self, MemberError> {
        let dir = copies(dir);
        files::make_dir(&dir)?;
        let snapshots = Self {
            dir,
            keep: keep.max(1),
            turn: Arc::default(),
        };
        snapshots.clear()?;
        Ok(snapshots)
    }

    fn clear(&self) -> Result<PathBuf, MemberError> {
        let half = self.dir.join(HALF);
        match fs::remove_file(&half) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(MemberError::file("removing", &half)(error))
            }
            _ => Ok(half),
        }
    }

    /// Those that are there, the newest first. A file of another name is not one.
    ///
    /// # Errors
    /// `File`.
    pub fn list(&self) -> Result<Vec<Taken>, MemberError> {
        let failed = || MemberError::file("reading", &self.dir);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let name = entry.file_name();
            let parse = |name: &str| {
                let (revision, seconds) = name.strip_suffix(END)?.split_once('-')?;
                let time = UNIX_EPOCH + Duration::from_secs(seconds.parse().ok()?);
                Some((revision.parse().ok()?, time))
            };
            if let Some((revision, time)) = name.to_str().and_then(parse) {
                found.push(Taken {
                    path: entry.path(),
                    revision,
                    time,
                });
            }
        }
        found.sort_by_key(|taken| std::cmp::Reverse((taken.time, taken.revision)));
        Ok(found)
    }

    /// Takes one of this machine's etcd, reads it back, and lets the oldest go.
    ///
    /// # Errors
    /// `Store` where etcd gives none or what came is damaged; `File`.
    pub async fn take(&self, etcd: &EtcdStore) -> Result<Taken, MemberError> {
        let _turn = self.turn.lock().await;
        let half = self.clear()?;
        let file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&half)
            .map_err(MemberError::file("making", &half))?;
        etcd.snapshot(Box::new(file)).await?;
        let snapshots = self.clone();
        let settled = tokio::task::spawn_blocking(move || snapshots.settle(&half)).await;
        settled.map_err(|e| MemberError::file("reading", &self.dir)(e.into()))?
    }

    fn settle(&self, half: &Path) -> Result<Taken, MemberError> {
        File::open(half)
            .and_then(|file| file.sync_all())
            .map_err(MemberError::file("syncing", half))?;
        let revision = verify(half)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = now.unwrap_or_default().as_secs();
        let path = self.dir.join(format!("{revision:020}-{seconds}{END}"));
        fs::rename(half, &path).map_err(MemberError::file("naming", &path))?;
        files::sync_dir(&self.dir)?;
        for old in self.list()?.into_iter().skip(self.keep) {
            // It only wastes space; the next one tries again.
            if let Err(error) = fs::remove_file(&old.path) {
                tracing::warn!(path = %old.path.display(), %error, "an old snapshot could not be removed");
            }
        }
        Ok(Taken {
            path,
            revision,
            time: UNIX_EPOCH + Duration::from_secs(seconds),
        })
    }

    /// Takes one at each interval until told to stop. What fails is said once and tried again soon: an etcd that starts, or is not in
    /// step yet, gives none.
    pub async fn run(&self, etcd: &EtcdStore, every: Duration, mut stop: watch::Receiver<bool>) {
        let last = self.list().ok().and_then(|list| list.into_iter().next());
        let age = last.and_then(|last| last.time.elapsed().ok());
        // A daemon that is started often takes none at each start.
        let mut rest = every.saturating_sub(age.unwrap_or(every));
        let (mut said, mut again) = (false, AGAIN);
        loop {
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            rest = match self.take(etcd).await {
                Ok(_) => {
                    (said, again) = (false, AGAIN);
                    every
                }
                Err(error) => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!(error = %coracle_engine::full_error(&error), "no snapshot of the store could be taken yet");
                    }
                    let rest = again.min(every);
                    again = (again * 2).min(LONGEST);
                    rest
                }
            };
        }
    }
}

/// Reads a snapshot through; answers the revision of the store in it.
///
/// # Errors
/// `Store` (`Corrupt`).
pub fn verify(path: &Path) -> Result<Revision, MemberError> {
    let revision = coracle_store::newest(&Bolt::open(path)?)?;
    Ok(revision)
}
