//! The directories of the store, and how files come into them: whole or not at all.
//!
//! ```text
//! content/sha256/<hex>    manifests, configs and compressed layers, byte by byte as they came
//! layers/<diff id hex>/   fs/ (the overlayfs layer), layer.json, and outline if it came as a plain archive
//! images/index.json       names and images
//! tmp/                    work in progress; emptied when the store is opened, but for damaged layers that containers may run on
//! ```

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::trash;

/// Where things lie.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    serial: Arc<AtomicU64>,
}

impl Layout {
    /// Makes the directories and empties `tmp`.
    pub fn open(root: &Path) -> Result<Self> {
        let layout = Self {
            root: root.to_owned(),
            serial: Arc::default(),
        };
        let private = |path: PathBuf| {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(ImageError::io("make directory", &path))
        };
        private(layout.blobs())?;
        // Layers hold setuid programs: no one but root may reach them past the container.
        private(layout.layers())?;
        private(layout.images())?;
        private(layout.tmp())?;
        spread(&layout.tmp());
        Ok(layout)
    }

    /// Takes away what an earlier process left unfinished, and layers that were set aside before the machine started.
    pub fn empty_tmp(&self) -> Result<()> {
        let ours = boot().map(|boot| format!("{ASIDE}{boot}"));
        let failed = || ImageError::io("empty", self.tmp());
        for entry in fs::read_dir(self.tmp()).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            if ours.is_some() && entry.file_name().to_str() == ours.as_deref() {
                continue;
            }
            if entry.file_type().map_err(failed())?.is_dir() {
                trash::remove_tree(&entry.path()).map_err(failed())?;
            } else {
                fs::remove_file(entry.path()).map_err(failed())?;
            }
        }
        Ok(())
    }

    /// Keeps the tree of a layer that another one has replaced: containers that run may have it as a lower directory, and outlive
    /// this process. It goes when no image needs the layer any more, or with the first start after the machine's.
    pub fn set_aside(&self, tree: &Path, diff_id: &Digest) -> Result<()> {
        let Some(aside) = self.aside() else {
            return Ok(());
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&aside)
            .map_err(ImageError::io("make directory", &aside))?;
        loop {
            let serial = self.serial.fetch_add(1, Ordering::Relaxed);
            let to = aside.join(format!("{}-{serial}", diff_id.hex()));
            // An earlier process counted as well.
            if !to.exists() {
                return fs::rename(tree, &to).map_err(ImageError::io("set aside", tree));
            }
        }
    }

    /// Where layers are that were set aside; none if the kernel does not say since when it runs.
    pub fn aside(&self) -> Option<PathBuf> {
        Some(self.tmp().join(format!("{ASIDE}{}", boot()?)))
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn blobs(&self) -> PathBuf {
        self.root.join("content/sha256")
    }

    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    pub fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.layers().join(diff_id.hex())
    }

    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// A new work directory, taken away with everything in it when dropped.
    pub fn work(&self, what: &str) -> Result<WorkDir> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let path = self.tmp().join(format!("{what}-{serial}"));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(ImageError::io("make directory", &path))?;
        Ok(WorkDir(path))
    }

    /// Whether the blob is here.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob(digest).is_file()
    }

    /// Keeps a small blob whose digest was checked.
    pub fn put_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        if self.has_blob(digest) {
            return Ok(());
        }
        self.write_durably(&self.blob(digest), bytes)
    }

    /// Reads a small blob; `None` when it is not here.
    pub fn read_blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        let path = self.blob(digest);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(ImageError::io("read", &path)(e)),
        }
    }

    /// Writes a file so that it is there whole or not at all, also after a power cut. It grows in `tmp`, which
    /// is on the same file system and which a collection leaves alone.
    fn write_durably(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        let write = || {
            let mut file = tempfile::Builder::new()
                .prefix("new-")
                .tempfile_in(self.tmp())?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|e| e.error)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(ImageError::io("write", path))
    }

    /// Writes a versioned JSON file of ours.
    pub fn write_versioned<T: Serialize>(&self, path: &Path, value: &T) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(value).map_err(|source| ImageError::Damaged {
            path: path.to_owned(),
            source,
        })?;
        self.write_durably(path, &bytes)
    }
}

/// How the directory of layers that were set aside begins; what follows is what [`boot`] says.
const ASIDE: &str = "aside-";

/// What tells this start of the machine from others: no container outlives it.
fn boot() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// Has the file system, if it is ext4, put each directory made in this one into a region of its own. Otherwise new layers lie where
/// others were removed, and for minutes ext4 passes over every inode removed there each time it makes a file.
fn spread(dir: &Path) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let flagged = File::open(dir).and_then(|dir| {
        let flags = ioctl_getflags(&dir)? | IFlags::TOPDIR;
        Ok(ioctl_setflags(&dir, flags)?)
    });
    if let Err(error) = flagged {
        tracing::debug!(%error, dir = %dir.display(), "the file system takes no hints");
    }
}

/// A directory of work in progress.
#[derive(Debug)]
pub(crate) struct WorkDir(PathBuf);

impl WorkDir {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if let Err(e) = trash::remove_tree(&self.0) {
            tracing::warn!(path = %self.0.display(), error = %e, "cannot remove a work directory");
        }
    }
}

/// Reads a versioned JSON file of ours; `None` when it is not there.
pub(crate) fn read_versioned<T: DeserializeOwned>(path: &Path, known: u64) -> Result<Option<T>> {
    #[derive(Deserialize)]
    struct Version {
        version: u64,
    }
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(ImageError::io("read", path)(e)),
    };
    let damaged = |source| ImageError::Damaged {
        path: path.to_owned(),
        source,
    };
    let found = serde_json::from_slice::<Version>(&bytes)
        .map_err(damaged)?
        .version;
    if found != known {
        return Err(ImageError::Version {
            path: path.to_owned(),
            found,
            known,
        });
    }
    serde_json::from_slice(&bytes).map_err(damaged).map(Some)
}

/// What a layer's directory says about itself: `layer.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LayerFile {
    pub version: u64,
    pub diff_id: Digest,
    /// Bytes in regular files.
    pub size: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// The content that it was unpacked from.
    pub blob: Digest,
    /// That content's bytes.
    pub blob_size: u64,
    /// `gzip`, `zstd` or `none`.
    pub compression: String,
}

impl LayerFile {
    pub const VERSION: u64 = 1;

    /// Whether its content need not be kept, since the layer gives it again, packed or by its outline.
    pub fn is_packed_when_asked(&self) -> bool {
        self.compression == "none" && self.blob == self.diff_id
    }

    /// Reads the file of a layer; `None` when the layer is not here.
    pub fn read(layout: &Layout, diff_id: &Digest) -> Result<Option<Self>> {
        read_versioned(&layout.layer(diff_id).join("layer.json"), Self::VERSION)
    }
}

/// Flushes the file system, once for all who ask while a flush is running: each call returns after a flush
/// that began after the call.
#[derive(Debug)]
pub(crate) struct Syncer {
    dir: File,
    state: Mutex<Rounds>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Rounds {
    started: u64,
    finished: u64,
    running: bool,
    failed: Option<(u64, Errno)>,
}

impl Syncer {
    pub fn new(dir: &Path) -> Result<Self> {
        let dir = File::open(dir).map_err(ImageError::io("open", dir))?;
        Ok(Self {
            dir,
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Returns when everything written before the call is on the disk.
    pub fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = state.started + 1;
        while state.finished < wanted {
            if state.running {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.running = true;
            state.started += 1;
            let round = state.started;
            drop(state);
            let result = rustix::fs::syncfs(&self.dir);
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.running = false;
            state.finished = round;
            if let Err(errno) = result {
                state.failed = Some((round, errno));
            }
            self.changed.notify_all();
        }
        match state.failed {
            Some((round, errno)) if round >= wanted => Err(errno.into()),
            _ => Ok(()),
        }
    }
}
