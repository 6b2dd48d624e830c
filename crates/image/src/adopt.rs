//! A directory that overlayfs wrote becomes a layer without being copied: it is read once, for its digest, and moved to its place.
//! Its archive is not kept: packing gives the same bytes again, and whoever asks for them is told if it does not. So it is with a layer
//! that came as a plain archive, by its outline.
//!
//! Builds place many layers one after the other. They are not flushed each; whoever makes something of one that must outlive the
//! power, an image or a record of the build cache, flushes first ([`ImageStore::settle`]).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::PoisonError;

use chrono::{DateTime, Utc};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use sha2::{Digest as _, Sha256};

use crate::content::LayerFile;
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::ingest::{Compression, Ingested};
use crate::outline;
use crate::pack::{Tree, pack_dir};
use crate::store::{ImageStore, Pinned};
use crate::trash::remove_sockets;
use crate::unpack::Unpacked;

/// A layer that was made here.
pub struct Adopted {
    /// Its digest; none of one without entries.
    pub diff_id: Option<Digest>,
    /// Bytes in regular files.
    pub size: u64,
    /// Keeps it from collection.
    pub pin: Pin,
}

/// Layers that are kept from collection as long as this lives.
pub struct Pin {
    _pinned: Pinned,
}

impl ImageStore {
    /// Takes the tree below `upper`, an overlayfs layer on the store's own file system that nobody writes to any more. Files newer
    /// than `newest` become that old. Blocking.
    ///
    /// # Errors
    /// [`ImageError::NoSpace`], and I/O errors naming the path.
    pub fn adopt(&self, upper: &Path, newest: Option<DateTime<Utc>>) -> Result<Adopted> {
        if let Some(newest) = newest {
            clamp(upper, newest.timestamp())?;
        }
        let work = self.0.layout.work("adopt")?;
        let mut kept = Counted::default();
        let packed =
            pack_dir(upper, Tree::Layer, &mut kept).map_err(ImageError::io("read", upper))?;
        if packed.entries == 0 {
            return Ok(Adopted {
                diff_id: None,
                size: 0,
                pin: self.hold(&[]),
            });
        }
        if packed.sockets > 0 {
            // The layer is what its archive says, whoever makes it.
            remove_sockets(upper).map_err(ImageError::io("take sockets out of", upper))?;
        }
        let diff_id = Digest::finish(kept.hasher);
        let layer = Ingested {
            diff_id,
            blob: diff_id,
            blob_size: kept.length,
            compression: Compression::None,
            unpacked: Unpacked {
                size: packed.size,
                entries: packed.entries,
            },
        };
        let pin = self.hold(&[diff_id]);
        let into = work.path().join("layer");
        fs::create_dir(&into).map_err(ImageError::io("make directory", &into))?;
        fs::rename(upper, into.join("fs")).map_err(ImageError::io("take", upper))?;
        self.unsettled().insert(diff_id);
        self.place(&work, &layer, false)?;
        Ok(Adopted {
            diff_id: Some(diff_id),
            size: packed.size,
            pin,
        })
    }

    /// Keeps layers from collection.
    #[must_use]
    pub fn hold(&self, layers: &[Digest]) -> Pin {
        Pin {
            _pinned: self.pin(layers.iter().copied()),
        }
    }

    /// Whether the layer is here, whole.
    #[must_use]
    pub fn holds(&self, diff_id: &Digest) -> bool {
        self.has_layer(diff_id)
    }

    /// Returns when these layers are on the disk. Blocking.
    pub(crate) fn settle(&self, layers: &[Digest]) -> Result<()> {
        let waiting: Vec<Digest> = {
            let unsettled = self.unsettled();
            layers
                .iter()
                .filter(|l| unsettled.contains(l))
                .copied()
                .collect()
        };
        if waiting.is_empty() {
            return Ok(());
        }
        let root = self.0.layout.root();
        self.0
            .syncer
            .sync()
            .map_err(ImageError::io("flush", root))?;
        let mut unsettled = self.unsettled();
        for layer in waiting {
            unsettled.remove(&layer);
        }
        Ok(())
    }

    pub(crate) fn unsettled(&self) -> std::sync::MutexGuard<'_, BTreeSet<Digest>> {
        self.0
            .unsettled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes in regular files of all layers that are here, each counted once. Blocking.
    #[must_use]
    pub fn layers_size(&self) -> u64 {
        let entries = fs::read_dir(self.0.layout.layers()).into_iter().flatten();
        let of = |entry: io::Result<fs::DirEntry>| {
            let name = entry.ok()?.file_name();
            let diff_id = Digest::from_hex(name.to_str()?).ok()?;
            Some(self.layer_size(&diff_id))
        };
        entries.filter_map(of).sum()
    }

    /// Bytes in regular files of a layer; 0 if it is not here.
    #[must_use]
    pub fn layer_size(&self, diff_id: &Digest) -> u64 {
        match LayerFile::read(&self.0.layout, diff_id) {
            Ok(Some(file)) => file.size,
            _ => 0,
        }
    }
}

/// An archive, hashed and thrown away.
#[derive(Default)]
struct Counted {
    hasher: Sha256,
    length: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ImageStore {
    /// A layer's content as it is known by its digest: what is kept, or the layer packed again. That ends with an error if the
    /// layer is not what it was.
    pub(crate) fn content(&self, layer: &LayerFile) -> io::Result<Box<dyn Read + Send>> {
        match File::open(self.0.layout.blob(&layer.blob)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && layer.is_packed_when_asked() => {}
            opened => return Ok(Box::new(opened?)),
        }
        let (reader, writer) = io::pipe()?;
        let directory = self.0.layout.layer(&layer.diff_id);
        let tree = directory.join("fs");
        let outline = directory.join("outline");
        let outline = outline.is_file().then_some(outline);
        let packing = std::thread::Builder::new().name("pack".into());
        packing.spawn(move || {
            // Who reads sees by the digest that it ended early.
            let mut writer = BufWriter::with_capacity(256 << 10, writer);
            let packed = match outline {
                Some(outline) => File::open(&tree).and_then(|tree| {
                    outline::replay(&outline, tree, &mut writer)?;
                    writer.flush()
                }),
                None => pack_dir(&tree, Tree::Layer, writer).map(drop),
            };
            if let Err(error) = packed {
                tracing::debug!(%error, tree = %tree.display(), "a layer was not packed to its end");
            }
        })?;
        Ok(Box::new(Checked {
            inner: BufReader::with_capacity(256 << 10, reader),
            hasher: Some(Sha256::new()),
            wanted: layer.blob,
        }))
    }
}

/// Ends well only if all of it was what it should be.
struct Checked<R> {
    inner: R,
    hasher: Option<Sha256>,
    wanted: Digest,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        match &mut self.hasher {
            Some(hasher) if length > 0 => hasher.update(&buffer[..length]),
            Some(_) if !buffer.is_empty() => {
                let found = self.hasher.take().map(Digest::finish);
                if found != Some(self.wanted) {
                    let text = format!("the layer {} was changed on the disk", self.wanted);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
            }
            _ => {}
        }
        Ok(length)
    }
}

/// Makes everything below a directory at most so young, in seconds since 1970.
fn clamp(dir: &Path, newest: i64) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(ImageError::io("read", dir))? {
        let entry = entry.map_err(ImageError::io("read", dir))?;
        let path = entry.path();
        let facts = entry.metadata().map_err(ImageError::io("read", &path))?;
        if facts.is_dir() {
            clamp(&path, newest)?;
        }
        use std::os::unix::fs::MetadataExt as _;
        if facts.mtime() > newest || facts.is_dir() {
            let time = Timespec {
                tv_sec: facts.mtime().min(newest),
                tv_nsec: if facts.mtime() >= newest {
                    0
                } else {
                    facts.mtime_nsec()
                },
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| ImageError::io("set the time of", &path)(e.into()))?;
        }
    }
    Ok(())
}
