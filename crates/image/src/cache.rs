//! The build cache's records: which layer a step of a build made, by a key of all that went into it.
//!
//! A record keeps its layer from collection. The key is the caller's; here it is only a digest. Records lie one by one in
//! `cache/<key hex>.json`, written whole once their layer is on the disk; when each was used last is kept in memory and
//! written with the next change, so that a fully cached build writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::adopt::Pin;
use crate::content::{Layout, read_versioned};
use crate::digest::{Digest, ImageId};
use crate::error::{ImageError, Result};
use crate::store::ImageStore;

/// What a step of a build made. Format version 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CacheRecord {
    /// Format version.
    pub version: u64,
    /// Digest of what went into it.
    pub key: Digest,
    /// Its layer; none if it changed nothing.
    pub layer: Option<Digest>,
    /// What was made, for people.
    pub description: String,
    /// When it was made.
    pub created: DateTime<Utc>,
    /// When it was used last.
    pub last_used: DateTime<Utc>,
    /// How often it was used since.
    pub uses: u64,
}

impl CacheRecord {
    const VERSION: u64 = 1;

    /// A record of a step that was made just now.
    #[must_use]
    pub fn new(key: Digest, layer: Option<Digest>, description: String) -> Self {
        let now = Utc::now();
        Self {
            version: Self::VERSION,
            key,
            layer,
            description,
            created: now,
            last_used: now,
            uses: 0,
        }
    }
}

/// Which records are meant.
#[derive(Clone, Debug, Default)]
pub struct CacheQuery {
    /// Those too that an image shares its layer with.
    pub all: bool,
    /// Not used for so long.
    pub unused_for: Option<Duration>,
    /// As many of the oldest as it takes to have at most so many bytes of cache.
    pub keep: Option<u64>,
}

/// All records.
pub(crate) struct Cache {
    dir: PathBuf,
    records: Mutex<BTreeMap<Digest, CacheRecord>>,
}

impl Cache {
    /// Reads the records. One that cannot be read is worth nothing, and goes.
    pub fn open(layout: &Layout) -> Result<Self> {
        let dir = layout.root().join("cache");
        fs::create_dir_all(&dir).map_err(ImageError::io("make directory", &dir))?;
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(&dir).map_err(ImageError::io("read", &dir))? {
            let path = entry.map_err(ImageError::io("read", &dir))?.path();
            let read = read_versioned::<CacheRecord>(&path, CacheRecord::VERSION);
            let whole = |r: &CacheRecord| {
                let layer = |l: Digest| layout.layer(&l).join("layer.json").is_file();
                r.layer.is_none_or(layer)
            };
            match read {
                Ok(Some(record)) if whole(&record) => _ = records.insert(record.key, record),
                _ => {
                    tracing::warn!(path = %path.display(), "a record of the build cache is of no use; it is removed");
                    let _ = fs::remove_file(&path);
                }
            }
        }
        Ok(Self {
            dir,
            records: Mutex::new(records),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, CacheRecord>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, key: &Digest) -> PathBuf {
        self.dir.join(format!("{}.json", key.hex()))
    }

    /// Takes a record away, from the disk first.
    fn take(&self, key: &Digest) -> Result<Option<CacheRecord>> {
        let path = self.path(key);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(ImageError::io("remove", &path)(e));
            }
            _ => {}
        }
        Ok(self.lock().remove(key))
    }

    /// Layers that records need.
    pub fn layers(&self) -> BTreeSet<Digest> {
        self.lock().values().filter_map(|r| r.layer).collect()
    }
}

/// What images take, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All their layers.
    pub total: u64,
    /// Layers that no image in use has.
    pub free: u64,
    /// For each image the layers that it shares with another.
    pub shared: BTreeMap<ImageId, u64>,
}

impl ImageStore {
    /// What was made of this before, if it is here, and its layer kept from collection. That counts as a use.
    #[must_use]
    pub fn cached(&self, key: &Digest) -> Option<(CacheRecord, Option<Pin>)> {
        let wanted = self.0.cache.lock().get(key)?.layer;
        // From here on no collection takes it.
        let pin = wanted.map(|layer| self.hold(&[layer]));
        let gone = wanted.is_some_and(|layer| !self.has_layer(&layer));
        let mut records = self.0.cache.lock();
        let record = records.get_mut(key).filter(|r| r.layer == wanted)?;
        if gone {
            tracing::warn!(layer = ?wanted, "a layer of the build cache is not there; its step is done anew");
            return None;
        }
        record.last_used = Utc::now();
        record.uses += 1;
        Some((record.clone(), pin))
    }

    /// Keeps what was made, on the disk. Blocking.
    ///
    /// # Errors
    /// [`ImageError::NoSpace`] and I/O errors.
    pub fn remember(&self, record: CacheRecord) -> Result<()> {
        if let Some(layer) = record.layer {
            self.settle(&[layer])?;
        }
        let path = self.0.cache.path(&record.key);
        self.0.layout.write_versioned(&path, &record)?;
        self.0.cache.lock().insert(record.key, record);
        Ok(())
    }

    /// All records, with their layers' bytes and whether an image has the layer as well.
    #[must_use]
    pub fn cache(&self) -> Vec<(CacheRecord, u64, bool)> {
        let shared = self.image_layers();
        let records: Vec<CacheRecord> = self.0.cache.lock().values().cloned().collect();
        let of = |r: CacheRecord| {
            let size = r.layer.map_or(0, |l| self.layer_size(&l));
            let is_shared = r.layer.is_some_and(|l| shared.contains(&l));
            (r, size, is_shared)
        };
        records.into_iter().map(of).collect()
    }

    /// Forgets records, and takes away what only they kept. The records' keys and the bytes that became free. Blocking.
    ///
    /// # Errors
    /// I/O errors.
    pub fn forget(&self, query: &CacheQuery) -> Result<(Vec<Digest>, u64)> {
        let mut all = self.cache();
        all.sort_by_key(|(r, ..)| r.last_used);
        let now = Utc::now();
        let mut total: u64 = all
            .iter()
            .filter(|(_, _, shared)| !shared)
            .map(|(_, s, _)| s)
            .sum();
        let (mut gone, mut freed) = (Vec::new(), 0);
        let mut layers: BTreeMap<Digest, usize> = BTreeMap::new();
        for layer in all.iter().filter_map(|(r, ..)| r.layer) {
            *layers.entry(layer).or_default() += 1;
        }
        for (record, size, shared) in all {
            let unused = (now - record.last_used).to_std().unwrap_or_default();
            let meant = (query.all || !shared)
                && query.unused_for.is_none_or(|wanted| unused >= wanted)
                && query.keep.is_none_or(|keep| total > keep);
            if !meant {
                continue;
            }
            self.0.cache.take(&record.key)?;
            let last = record
                .layer
                .and_then(|l| layers.get_mut(&l))
                .is_some_and(|n| {
                    *n -= 1;
                    *n == 0
                });
            if last && !shared {
                freed += size;
                total = total.saturating_sub(size);
            }
            gone.push(record.key);
        }
        if !gone.is_empty() {
            self.collect()?;
        }
        Ok((gone, freed))
    }

    /// Forgets one record, and takes away what only it kept; its description, if it was there. Blocking.
    ///
    /// # Errors
    /// I/O errors.
    pub fn forget_one(&self, key: &Digest) -> Result<Option<String>> {
        let Some(record) = self.0.cache.take(key)? else {
            return Ok(None);
        };
        self.collect()?;
        Ok(Some(record.description))
    }

    /// What images take, layers counted once however many share them. `used` are the images that must stay.
    #[must_use]
    pub fn usage(&self, used: &BTreeSet<ImageId>) -> Usage {
        let images: Vec<(ImageId, BTreeSet<Digest>)> = {
            let index = self.0.index();
            let of = |(id, r): (&ImageId, &crate::index::Record)| {
                (*id, r.layers.iter().copied().collect())
            };
            index.images.iter().map(of).collect()
        };
        let mut users: BTreeMap<Digest, u64> = BTreeMap::new();
        for layer in images.iter().flat_map(|(_, layers)| layers) {
            *users.entry(*layer).or_default() += 1;
        }
        let sizes: BTreeMap<Digest, u64> = users.keys().map(|l| (*l, self.layer_size(l))).collect();
        let shared = |layers: &BTreeSet<Digest>| {
            let shared = layers
                .iter()
                .filter(|l| users.get(l).is_some_and(|n| *n > 1));
            shared.filter_map(|l| sizes.get(l)).sum()
        };
        let needed = images.iter().filter(|(id, _)| used.contains(id));
        let needed: BTreeSet<Digest> = needed.flat_map(|(_, l)| l.iter().copied()).collect();
        let free = sizes.iter().filter(|(layer, _)| !needed.contains(layer));
        Usage {
            total: sizes.values().sum(),
            free: free.map(|(_, size)| size).sum(),
            shared: images.iter().map(|(id, l)| (*id, shared(l))).collect(),
        }
    }

    fn image_layers(&self) -> BTreeSet<Digest> {
        let index = self.0.index();
        let layers = index.images.values().flat_map(|r| r.layers.iter().copied());
        layers.collect()
    }
}
