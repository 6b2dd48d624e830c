//! Directories of `RUN --mount=type=cache`: kept from build to build, by name.
//!
//! `shared` is one directory for all, `locked` one at a time, and `private` another one for whoever comes while it is used.

use crate::error::{Result, file};
use crate::work::make;
use chrono::{DateTime, Utc};
use coracle_dockerfile::Sharing;
use coracle_image::{Digest, remove_tree};
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
    making: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// A directory, as long as it is used.
#[derive(Debug)]
pub(crate) struct Used {
    pub path: PathBuf,
    _permit: OwnedSemaphorePermit,
}

impl Caches {
    pub fn open(dir: &Path) -> Result<Arc<Self>> {
        make(dir, 0o700)?;
        Ok(Arc::new(Self {
            dir: dir.to_owned(),
            used: Mutex::default(),
            making: Mutex::default(),
        }))
    }

    fn semaphore(&self, key: &str) -> Arc<Semaphore> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Semaphore::new(ALL as usize));
        used.entry(key.to_owned()).or_insert_with(new).clone()
    }

    /// A directory to use. Waits for others only if it is to be locked, or they have locked it. Who needs several takes them in the
    /// order of their names, each once, or two would wait for each other. `fill` puts into a new one what it begins with.
    pub async fn take(
        &self,
        id: &str,
        sharing: &Sharing,
        mode: u32,
        owner: (u32, u32),
        fill: impl FnOnce(&Path) -> Result<()> + Send + 'static,
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
        // Of those who share a new one, one makes it and the others wait.
        let making = self.making(&key).lock_owned().await;
        let permit = if path.exists() {
            permit
        } else {
            let (dir, path, id) = (dir.clone(), path.clone(), id.to_owned());
            // Whoever asked may leave; nobody else begins, uses or removes it before this is done.
            tokio::task::spawn_blocking(move || {
                let _making = making;
                begin(&dir, &path, &id, mode, owner, fill).map(|()| permit)
            })
            .await??
        };
        // Tells when it was used last.
        let _ = fs::File::open(dir.join("id")).and_then(|f| f.set_modified(SystemTime::now()));
        Ok(Used {
            path,
            _permit: permit,
        })
    }

    fn making(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        making.entry(key.to_owned()).or_default().clone()
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
        remove_tree(&dir).map_err(file("removing", &dir))?;
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

/// Makes a new one, which is there whole or not at all.
fn begin(
    dir: &Path,
    path: &Path,
    id: &str,
    mode: u32,
    owner: (u32, u32),
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    make(dir, 0o700)?;
    fs::write(dir.join("id"), id).map_err(file("writing", dir.join("id")))?;
    let fresh = dir.join("new");
    // One that was cut short.
    remove_tree(&fresh).map_err(file("removing", &fresh))?;
    make(&fresh, 0o755)?;
    fill(&fresh)?;
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(&fresh, permissions).map_err(file("setting the mode of", &fresh))?;
    std::os::unix::fs::chown(&fresh, Some(owner.0), Some(owner.1))
        .map_err(file("setting the owner of", &fresh))?;
    fs::rename(&fresh, path).map_err(file("making", path))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn one_makes_what_all_share() {
        let dir = tempfile::tempdir().unwrap();
        let caches = Caches::open(dir.path()).unwrap();
        let made = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..32 {
            let (caches, made) = (caches.clone(), made.clone());
            all.spawn(async move {
                let fill = move |path: &Path| {
                    made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    fs::write(path.join("first"), "x").map_err(file("writing", path))
                };
                let used = caches
                    .take("apt", &Sharing::Shared, 0o755, (0, 0), fill)
                    .await
                    .unwrap();
                // Nobody sees it before it is filled, and nobody replaces it.
                assert!(used.path.join("first").exists());
                let own = tempfile::NamedTempFile::new_in(&used.path).unwrap();
                let (_, path) = own.keep().unwrap();
                path
            });
        }
        let paths = all.join_all().await;
        assert!(paths.iter().all(|p| p.exists()));
        assert_eq!(made.load(std::sync::atomic::Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn who_leaves_does_not_let_others_in_before_it_is_filled() {
        let dir = tempfile::tempdir().unwrap();
        let caches = Caches::open(dir.path()).unwrap();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
        let first = {
            let caches = caches.clone();
            let fill = move |path: &Path| {
                begun.send(()).unwrap();
                may_go_on.recv().unwrap();
                fs::write(path.join("first"), "x").map_err(file("writing", path))
            };
            tokio::spawn(async move {
                let shared = Sharing::Shared;
                caches.take("apt", &shared, 0o755, (0, 0), fill).await
            })
        };
        has_begun.await.unwrap();
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        let key = Digest::of(b"apt").hex();
        assert_eq!(caches.remove(&key).unwrap(), None, "it is removed");
        let again = |_: &Path| -> Result<()> { panic!("it is filled twice") };
        let second = caches.take("apt", &Sharing::Shared, 0o755, (0, 0), again);
        tokio::pin!(second);
        // It waits: what it would fill is being filled.
        let early = futures_util::poll!(&mut second);
        assert!(early.is_pending());
        go_on.send(()).unwrap();
        let used = second.await.unwrap();
        assert!(used.path.join("first").exists());
    }
}
