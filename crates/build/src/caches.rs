//! Directories of `RUN --mount=type=cache`: kept from build to build, by name.
//!
//! `shared` is one directory for all, `locked` one at a time, and `private` another one for whoever comes while it is used.

use crate::error::{Result, file};
use crate::work::make;
use chrono::{DateTime, Utc};
use coracle_dockerfile::Sharing;
use coracle_image::Digest;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Users of one directory at the same time, at most.
const ALL: u32 = 1 << 20;

/// One that is kept.
#[derive(Debug, Clone)]
pub struct CacheMount {
    /// Name of its directory here.
    pub key: String,
    /// As the Dockerfile calls it.
    pub id: String,
    /// Bytes in it.
    pub size: u64,
    /// When it was used last.
    pub last_used: DateTime<Utc>,
    /// Whether a build uses it now.
    pub in_use: bool,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Caches {
    dir: PathBuf,
    used: Mutex<BTreeMap<String, Arc<Semaphore>>>,
}

/// A directory, as long as it is used.
#[derive(Debug)]
pub(crate) struct Used {
    pub path: PathBuf,
    /// Whether it was made just now.
    pub new: bool,
    _permit: OwnedSemaphorePermit,
}

impl Caches {
    pub fn open(dir: &Path) -> Result<Arc<Self>> {
        make(dir, 0o700)?;
        Ok(Arc::new(Self {
            dir: dir.to_owned(),
            used: Mutex::default(),
        }))
    }

    fn semaphore(&self, key: &str) -> Arc<Semaphore> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Semaphore::new(ALL as usize));
        used.entry(key.to_owned()).or_insert_with(new).clone()
    }

    /// A directory to use. Waits for others only if it is to be locked, or they have locked it.
    pub async fn take(
        &self,
        id: &str,
        sharing: &Sharing,
        mode: u32,
        owner: (u32, u32),
    ) -> Result<Used> {
        let name = Digest::of(id.as_bytes()).hex();
        let (key, permit) = match sharing {
            Sharing::Shared => (name.clone(), self.semaphore(&name).acquire_owned().await),
            Sharing::Locked => {
                let all = self.semaphore(&name).acquire_many_owned(ALL).await;
                (name.clone(), all)
            }
            Sharing::Private => {
                let mut number = 0;
                loop {
                    let key = if number == 0 {
                        name.clone()
                    } else {
                        format!("{name}-{number}")
                    };
                    if let Ok(permit) = self.semaphore(&key).try_acquire_many_owned(ALL) {
                        break (key, Ok(permit));
                    }
                    number += 1;
                }
            }
        };
        let permit = permit.map_err(|_| crate::error::invalid("the builder is going down"))?;
        let dir = self.dir.join(&key);
        let path = dir.join("data");
        let new = !path.exists();
        if new {
            make(&dir, 0o700)?;
            fs::write(dir.join("id"), id).map_err(file("writing", dir.join("id")))?;
            let fresh = dir.join("new");
            make(&fresh, 0o755)?;
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(&fresh, permissions)
                .map_err(file("setting the mode of", &fresh))?;
            std::os::unix::fs::chown(&fresh, Some(owner.0), Some(owner.1))
                .map_err(file("setting the owner of", &fresh))?;
            fs::rename(&fresh, &path).map_err(file("making", &path))?;
        }
        // Tells when it was used last.
        let _ = fs::File::open(dir.join("id")).and_then(|f| f.set_modified(SystemTime::now()));
        Ok(Used {
            path,
            new,
            _permit: permit,
        })
    }

    /// All that are kept. Blocking.
    pub fn list(&self) -> Vec<CacheMount> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let one = |entry: fs::DirEntry| {
            let key = entry.file_name().into_string().ok()?;
            let id = fs::read_to_string(entry.path().join("id")).ok()?;
            let used = fs::metadata(entry.path().join("id")).and_then(|m| m.modified());
            Some(CacheMount {
                in_use: self.semaphore(&key).available_permits() < ALL as usize,
                size: size(&entry.path().join("data")),
                last_used: used.unwrap_or(SystemTime::UNIX_EPOCH).into(),
                key,
                id,
            })
        };
        entries.filter_map(one).collect()
    }

    /// Removes one, unless somebody uses it; what the Dockerfile called it. Blocking.
    pub fn remove(&self, key: &str) -> Result<Option<String>> {
        // Nobody may begin to use it while it goes.
        let Ok(_all) = self.semaphore(key).try_acquire_many_owned(ALL) else {
            return Ok(None);
        };
        let dir = self.dir.join(key);
        let id = fs::read_to_string(dir.join("id")).unwrap_or_default();
        fs::remove_dir_all(&dir).map_err(file("removing", &dir))?;
        Ok(Some(id))
    }

    /// Removes those that nobody uses and that were not used for so long; their keys and bytes. Blocking.
    pub fn prune(&self, unused_for: Option<Duration>) -> Result<(Vec<String>, u64)> {
        let (mut gone, mut freed) = (Vec::new(), 0);
        for mount in self.list() {
            let unused = (Utc::now() - mount.last_used).to_std().unwrap_or_default();
            if unused_for.is_some_and(|wanted| unused < wanted) {
                continue;
            }
            if self.remove(&mount.key)?.is_some() {
                gone.push(mount.key);
                freed += mount.size;
            }
        }
        Ok((gone, freed))
    }
}

fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(facts) if facts.is_dir() => size(&entry.path()),
        Ok(facts) if facts.is_file() => facts.len(),
        _ => 0,
    };
    entries.map(of).sum()
}
