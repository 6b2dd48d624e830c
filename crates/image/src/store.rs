//! The image store: what is here, under which names, and what may be collected.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use chrono::{DateTime, Utc};
use rustix::fs::FlockOperation;
use tokio::sync::Semaphore;

use crate::cache::Cache;
use crate::config::RegistryConfig;
use crate::content::{self, LayerFile, Layout, Syncer};
use crate::digest::{Digest, ImageId};
use crate::error::{ImageError, Result};
use crate::image::{self, Image, ImageSummary, ReadConfig};
use crate::index::{Index, Record};
use crate::peers::{Crowd, Peers};
use crate::reference::Reference;
use crate::transient::Transients;
use crate::trash;

/// All images of one state directory. Cheap to clone; all clones are one store.
#[derive(Clone)]
pub struct ImageStore(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub layout: Layout,
    pub config: RegistryConfig,
    pub syncer: Syncer,
    /// Bounds how many layers are fetched at once.
    pub downloads: Semaphore,
    index: Mutex<Index>,
    /// Content of work in progress, which no collection takes away.
    pins: Mutex<HashMap<Digest, usize>>,
    /// Images of which containers are being made, by how many.
    pub claims: Mutex<HashMap<ImageId, usize>>,
    locks: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    /// Layers that are in their place and perhaps not on the disk yet.
    pub unsettled: Mutex<BTreeSet<Digest>>,
    /// When containers were made of images since the index was written.
    used: Mutex<HashMap<ImageId, DateTime<Utc>>>,
    pub transients: Transients,
    pub cache: Cache,
    /// The machines around, as soon as there are any.
    peers: RwLock<Option<Arc<dyn Peers>>>,
    /// Held for the store's life: one process, one store.
    _lock: File,
}

impl ImageStore {
    /// Opens the store beneath `state_dir`, making it where it is missing. Work that an earlier process
    /// left unfinished is taken away.
    ///
    /// # Errors
    /// [`ImageError::Busy`] when another process has it open, [`ImageError::Version`] and
    /// [`ImageError::Damaged`] for an index that cannot be read, and I/O errors.
    pub fn open(state_dir: &Path, config: RegistryConfig) -> Result<Self> {
        let layout = Layout::open(state_dir)?;
        let lock_path = layout.images().join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(ImageError::io("open", &lock_path))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| {
            if e == rustix::io::Errno::WOULDBLOCK {
                ImageError::Busy {
                    path: state_dir.to_owned(),
                }
            } else {
                ImageError::io("lock", &lock_path)(e.into())
            }
        })?;
        layout.empty_tmp()?;
        let index = content::read_versioned(&index_path(&layout), Index::VERSION)?;
        let store = Self(Arc::new(Inner {
            syncer: Syncer::new(layout.root())?,
            downloads: Semaphore::new(config.downloads.max(1)),
            index: Mutex::new(index.unwrap_or_default()),
            pins: Mutex::default(),
            claims: Mutex::default(),
            locks: Mutex::default(),
            unsettled: Mutex::default(),
            used: Mutex::default(),
            transients: Mutex::default(),
            cache: Cache::open(&layout)?,
            peers: RwLock::default(),
            layout,
            config,
            _lock: lock,
        }));
        store.collect()?;
        Ok(store)
    }

    /// Has pulls ask other machines from now on.
    pub fn set_peers(&self, peers: Arc<dyn Peers>) {
        let lock = self.0.peers.write();
        *lock.unwrap_or_else(PoisonError::into_inner) = Some(peers);
    }

    /// The machines around, for one pull.
    pub(crate) fn crowd(&self) -> Crowd {
        let peers = self.0.peers.read().unwrap_or_else(PoisonError::into_inner);
        Crowd::new(peers.clone(), self.0.config.peer_patience)
    }

    /// All images, the newest first.
    #[must_use]
    pub fn list(&self) -> Vec<ImageSummary> {
        let index = self.0.index();
        let mut all: Vec<_> = index
            .images
            .iter()
            .filter(|(_, record)| !record.removed)
            .map(|(id, record)| ImageSummary {
                id: *id,
                repo_tags: familiar(index.tags_of(*id)),
                repo_digests: familiar(index.digests_of(*id)),
                created: record.created,
                added: record.added,
                last_used: self.0.used().get(id).copied().or(record.last_used),
                size: record.size,
                labels: record.labels.clone(),
            })
            .collect();
        all.sort_by_key(|i| std::cmp::Reverse((i.created, i.id)));
        all
    }

    /// The image with this name, id or beginning of an id.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::Ambiguous`], or what is wrong with the name or the content.
    pub fn get(&self, name_or_id: &str) -> Result<Image> {
        if let Some(image) = self.transient_of(name_or_id) {
            return Ok(Image::clone(&image));
        }
        let id = self.0.index().find(name_or_id)?.id();
        self.image(id)
    }

    /// An image that a container was made of, also if it was removed meanwhile.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] and [`ImageError::Missing`].
    pub fn image(&self, id: ImageId) -> Result<Image> {
        let missing = || ImageError::Missing {
            image: id.to_string(),
            digest: id.digest(),
        };
        let raw_config = self.0.layout.read_blob(&id.digest())?.ok_or_else(missing)?;
        let read = image::read_config(&raw_config).map_err(|source| ImageError::Manifest {
            image: id.to_string(),
            source,
        })?;
        let index = self.0.index();
        let gone = || ImageError::NotFound {
            name: id.to_string(),
        };
        let record = index.images.get(&id).ok_or_else(gone)?;
        Ok(Image {
            id,
            config: read.config,
            raw_config,
            layers: record.layers.clone(),
            size: record.size,
            repo_tags: familiar(index.tags_of(id)),
            repo_digests: familiar(index.digests_of(id)),
            created: record.created,
            added: record.added,
            healthcheck: read.healthcheck,
            shell: read.shell,
            on_build: read.on_build,
        })
    }

    /// Gives an image one more name; a name that another image had moves.
    ///
    /// # Errors
    /// When the source is not here or the index cannot be written.
    pub fn tag(&self, source: &str, target: &Reference) -> Result<()> {
        let target = normalized_tag(target)?;
        self.0.update(|index| {
            let id = index.find(source)?.id();
            index.tags.insert(target, id);
            Ok(())
        })
    }

    /// Notes that a container or a build is made of an image. It is written down with the next change of the index, or by
    /// [`Self::write_down`].
    pub fn used(&self, id: &ImageId) {
        self.0.used().insert(*id, Utc::now());
    }

    /// Writes down when images were used. Blocking.
    ///
    /// # Errors
    /// I/O errors.
    pub fn write_down(&self) -> Result<()> {
        self.0.update(|_| Ok(()))
    }

    /// The manifest that the image came with or was given here.
    pub(crate) fn manifest_of(&self, id: &ImageId) -> Result<Vec<u8>> {
        let digest = self.0.index().images.get(id).and_then(|r| r.manifest);
        let missing = || ImageError::Missing {
            image: id.to_string(),
            digest: digest.unwrap_or(id.digest()),
        };
        let digest = digest.ok_or_else(missing)?;
        self.0.layout.read_blob(&digest)?.ok_or_else(missing)
    }

    /// Gives an image one more name by digest.
    pub(crate) fn also_called(&self, id: ImageId, name: Reference) -> Result<()> {
        self.0.update(|index| {
            index.digests.insert(name, id);
            Ok(())
        })
    }

    /// The directories of the image's layers, topmost first, as overlayfs wants them.
    ///
    /// A layer that an image has twice stands only where it is topmost: it hides all of its lower self, and
    /// overlayfs refuses the same directory twice.
    ///
    /// # Errors
    /// When the image or one of its layers is not here.
    pub fn layer_dirs(&self, id: &ImageId) -> Result<Vec<PathBuf>> {
        if let Some(image) = self.transient_of(&id.to_string()) {
            return self.dirs_of(&image.layers);
        }
        let index = self.0.index();
        let gone = || ImageError::NotFound {
            name: id.to_string(),
        };
        let record = index.images.get(id).ok_or_else(gone)?;
        self.dirs_of(&record.layers).map_err(|error| match error {
            ImageError::Missing { digest, .. } => ImageError::Missing {
                image: id.to_string(),
                digest,
            },
            other => other,
        })
    }

    /// As [`Self::layer_dirs`], of layers, lowest first.
    ///
    /// # Errors
    /// When one of them is not here.
    pub fn dirs_of(&self, layers: &[Digest]) -> Result<Vec<PathBuf>> {
        let mut seen = BTreeSet::new();
        let mut dirs = Vec::new();
        for diff_id in layers.iter().rev().filter(|d| seen.insert(**d)) {
            let dir = self.0.layout.layer(diff_id).join("fs");
            if !dir.is_dir() {
                return Err(ImageError::Missing {
                    image: "an image in the making".into(),
                    digest: *diff_id,
                });
            }
            dirs.push(dir);
        }
        Ok(dirs)
    }

    /// Takes away content and layers that no image and no work in progress needs; bytes are not counted.
    ///
    /// # Errors
    /// When the directories cannot be read or changed.
    pub fn collect(&self) -> Result<()> {
        let layout = &self.0.layout;
        let work = layout.work("collect")?;
        let mut serial = 0;
        // Moving is quick and done under the locks; deleting is slow and done after.
        {
            let index = self.0.index();
            let pins = self.0.pins.lock().unwrap_or_else(PoisonError::into_inner);
            let mut layers: BTreeSet<Digest> = index
                .images
                .values()
                .flat_map(|r| r.layers.iter().copied())
                .collect();
            layers.extend(pins.keys());
            layers.extend(self.0.cache.layers());
            let mut blobs: BTreeSet<Digest> = index
                .images
                .values()
                .flat_map(|r| r.blobs.iter().copied())
                .collect();
            blobs.extend(pins.keys());
            blobs.extend(index.images.keys().map(ImageId::digest));
            for diff_id in &layers {
                blobs.extend(LayerFile::read(layout, diff_id)?.map(|l| l.blob));
            }
            for (dir, kept) in [(layout.layers(), &layers), (layout.blobs(), &blobs)] {
                for entry in fs::read_dir(&dir).map_err(ImageError::io("read", &dir))? {
                    let entry = entry.map_err(ImageError::io("read", &dir))?;
                    let name = entry.file_name();
                    let digest = name.to_str().and_then(|n| Digest::from_hex(n).ok());
                    if digest.is_some_and(|d| kept.contains(&d)) {
                        continue;
                    }
                    serial += 1;
                    fs::rename(entry.path(), work.path().join(serial.to_string()))
                        .map_err(ImageError::io("remove", entry.path()))?;
                }
            }
            // What was damaged and replaced goes with what replaced it.
            let aside = layout.aside().map(fs::read_dir);
            for entry in aside.into_iter().flatten().flatten().flatten() {
                let name = entry.file_name();
                let hex = name.to_str().and_then(|n| n.split('-').next());
                let digest = hex.and_then(|n| Digest::from_hex(n).ok());
                if digest.is_none_or(|d| !layers.contains(&d)) {
                    serial += 1;
                    fs::rename(entry.path(), work.path().join(serial.to_string()))
                        .map_err(ImageError::io("remove", entry.path()))?;
                }
            }
        }
        trash::remove_tree(work.path()).map_err(ImageError::io("remove", work.path()))
    }

    /// As [`Self::collect`], when there is an error to tell already.
    pub(crate) fn collect_after_failure(&self) {
        if let Err(error) = self.collect() {
            tracing::warn!(%error, "what a failed load or pull left is not taken away yet");
        }
    }

    /// Makes an image visible whose layers and content are all here.
    pub(crate) fn commit(
        &self,
        id: ImageId,
        read: &ReadConfig,
        manifest: Option<Digest>,
        mut blobs: Vec<Digest>,
        names: &[Reference],
    ) -> Result<Image> {
        self.settle(&read.diff_ids)?;
        let mut size = 0;
        for diff_id in &read.diff_ids {
            let layer = LayerFile::read(&self.0.layout, diff_id)?.ok_or(ImageError::Missing {
                image: id.to_string(),
                digest: *diff_id,
            })?;
            size += layer.size;
            blobs.push(layer.blob);
        }
        blobs.sort();
        blobs.dedup();
        let labels = read
            .config
            .config()
            .as_ref()
            .and_then(|c| c.labels().clone())
            .unwrap_or_default();
        self.0.update(|index| {
            let known = index.images.get(&id);
            let mut record = Record {
                layers: read.diff_ids.clone(),
                size,
                created: read.created,
                added: known.map_or_else(chrono::Utc::now, |k| k.added),
                manifest: manifest.or(known.and_then(|k| k.manifest)),
                blobs,
                labels: labels.into_iter().collect(),
                last_used: known.and_then(|k| k.last_used),
                // It came again.
                removed: false,
            };
            // The same image by another manifest: what is kept for the old names stays.
            record
                .blobs
                .extend(known.iter().flat_map(|k| k.blobs.iter().copied()));
            record.blobs.sort();
            record.blobs.dedup();
            index.images.insert(id, record);
            for name in names {
                let map = if name.digest().is_some() {
                    &mut index.digests
                } else {
                    &mut index.tags
                };
                map.insert(name.clone(), id);
            }
            Ok(())
        })?;
        self.image(id)
    }

    /// Keeps content from collection until the guard is dropped.
    pub(crate) fn pin(&self, digests: impl IntoIterator<Item = Digest>) -> Pinned {
        let digests: Vec<Digest> = digests.into_iter().collect();
        let mut pins = self.0.pins.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in &digests {
            *pins.entry(*digest).or_default() += 1;
        }
        drop(pins);
        Pinned {
            store: self.clone(),
            digests,
        }
    }

    /// The lock that makes work on one layer happen once.
    pub(crate) fn layer_lock(&self, diff_id: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(&diff_id).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        locks.insert(diff_id, Arc::downgrade(&lock));
        lock
    }

    /// Whether the layer is here, whole.
    pub(crate) fn has_layer(&self, diff_id: &Digest) -> bool {
        self.0.layout.layer(diff_id).join("layer.json").is_file()
    }
}

impl Inner {
    pub fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn used(&self) -> MutexGuard<'_, HashMap<ImageId, DateTime<Utc>>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the index: on the disk first, then in memory. What changes nothing writes nothing.
    pub fn update<T>(&self, change: impl FnOnce(&mut Index) -> Result<T>) -> Result<T> {
        let mut index = self.index();
        let mut next = index.clone();
        let result = change(&mut next)?;
        for (id, time) in self.used().iter() {
            if let Some(record) = next.images.get_mut(id) {
                record.last_used = Some(*time);
            }
        }
        if next != *index {
            self.layout
                .write_versioned(&index_path(&self.layout), &next)?;
            *index = next;
        }
        Ok(result)
    }
}

/// Content kept from collection while this lives.
pub(crate) struct Pinned {
    store: ImageStore,
    digests: Vec<Digest>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut pins = self
            .store
            .0
            .pins
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for digest in &self.digests {
            match pins.get_mut(digest) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(pins.remove(digest)),
            }
        }
    }
}

fn index_path(layout: &Layout) -> PathBuf {
    layout.images().join("index.json")
}

fn familiar<'a>(names: impl Iterator<Item = &'a Reference>) -> Vec<String> {
    names.map(Reference::familiar).collect()
}

/// The whole name under which a tag is kept.
pub(crate) fn normalized_tag(reference: &Reference) -> Result<Reference> {
    let full = Reference::parse_normalized(&reference.to_string())?;
    match full.tag() {
        Some(_) => Ok(full),
        None => Ok(full.with_tag(crate::reference::DEFAULT_TAG)?),
    }
}
