//! What this machine gives to others.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use chrono::Utc;
use tokio::io::AsyncRead;

use super::{Held, VERSION};
use crate::content::LayerFile;
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::ingest::Compression;
use crate::produced::produced;
use crate::reference::Reference;
use crate::store::{ImageStore, Pinned};

/// Bytes that wait for a slow reader.
const WAITING: usize = 1 << 20;

/// Content on its way.
pub struct Content {
    /// Its bytes, from where they were asked for. They end with an error if they are not what they should be.
    pub bytes: Box<dyn AsyncRead + Send + Unpin>,
    /// How many all of it has, if that is known before.
    pub length: Option<u64>,
}

/// Where a digest's bytes come from.
enum Source {
    /// A file of that content.
    File(File, u64),
    /// A layer, as it is kept.
    Layer(LayerFile),
    /// The plain archive of a layer that is kept compressed.
    Plain(LayerFile),
}

impl Source {
    /// Bytes, if they are known before all of them were made.
    fn length(&self) -> Option<u64> {
        match self {
            Self::File(_, length) => Some(*length),
            Self::Layer(layer) => Some(layer.blob_size),
            Self::Plain(_) => None,
        }
    }
}

impl ImageStore {
    /// What is here under a whole name with a tag or digest. Images in the making are not.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], and [`ImageError::Missing`] for an image whose manifest is gone.
    pub fn held(&self, reference: &Reference) -> Result<Held> {
        let index = self.0.index();
        let id = index.find(&reference.to_string())?.id();
        let record = index.images.get(&id).filter(|r| !r.removed);
        let record = record.ok_or_else(|| ImageError::NotFound {
            name: reference.familiar(),
        })?;
        let manifest = record.manifest.ok_or_else(|| ImageError::Missing {
            image: id.to_string(),
            digest: id.digest(),
        })?;
        Ok(Held {
            version: VERSION,
            id,
            manifest,
            created: record.created,
            added: record.added.min(Utc::now()),
        })
    }

    /// Which of these can be had from here. Blocking, for as long as some looks into directories take.
    #[must_use]
    pub fn here(&self, digests: &[Digest]) -> Vec<Digest> {
        let layout = &self.0.layout;
        let has = |d: &&Digest| layout.has_blob(d) || self.has_layer(d);
        digests.iter().filter(has).copied().collect()
    }

    /// How many bytes [`Self::open_content`] gives; none if that shows at their end only. Blocking.
    ///
    /// # Errors
    /// As [`Self::open_content`]'s.
    pub fn content_length(&self, digest: &Digest) -> Result<Option<u64>> {
        Ok(self.source_of(digest)?.1.length())
    }

    /// Opens the content of a digest, from byte `from` on: a document, config or layer as it is kept, or by its diff id a layer's plain
    /// archive, which is made on the way and checked. Blocking; must be called within the runtime.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], or [`ImageError::Io`].
    pub fn open_content(&self, digest: &Digest, from: u64) -> Result<Content> {
        let (pin, source) = self.source_of(digest)?;
        let length = source.length();
        if let Source::File(mut file, length) = source {
            let sought = file.seek(SeekFrom::Start(from.min(length)));
            sought.map_err(ImageError::io("read", self.0.layout.blob(digest)))?;
            return Ok(Content {
                bytes: Box::new(tokio::fs::File::from_std(file)),
                length: Some(length),
            });
        }
        let (reader, mut writer, ending) = produced(WAITING);
        let store = self.clone();
        tokio::task::spawn_blocking(move || {
            let sent = store.write_content(source, from, &mut writer);
            drop((writer, pin));
            ending.tell(sent);
        });
        Ok(Content {
            bytes: Box::new(reader),
            length,
        })
    }

    fn source_of(&self, digest: &Digest) -> Result<(Pinned, Source)> {
        let layout = &self.0.layout;
        let pin = self.pin([*digest]);
        let path = layout.blob(digest);
        match File::open(&path) {
            Ok(file) => {
                let length = file
                    .metadata()
                    .map_err(ImageError::io("read", &path))?
                    .len();
                return Ok((pin, Source::File(file, length)));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(ImageError::io("read", &path)(e)),
        }
        let layer = LayerFile::read(layout, digest)?.ok_or_else(|| ImageError::NotFound {
            name: digest.to_string(),
        })?;
        let pin = self.pin([layer.diff_id, layer.blob]);
        if layer.blob == *digest {
            return Ok((pin, Source::Layer(layer)));
        }
        Ok((pin, Source::Plain(layer)))
    }

    fn write_content(&self, source: Source, from: u64, to: &mut impl Write) -> io::Result<()> {
        let mut content: Box<dyn Read> = match source {
            Source::File(file, _) => Box::new(file),
            Source::Layer(layer) => self.content(&layer)?,
            Source::Plain(layer) => {
                let kept = io::BufReader::with_capacity(256 << 10, self.content(&layer)?);
                let compression = match layer.compression.as_str() {
                    "gzip" => Compression::Gzip,
                    "zstd" => Compression::Zstd,
                    _ => Compression::None,
                };
                compression.reader(kept)?
            }
        };
        let passed = io::copy(&mut (&mut content).take(from), &mut io::sink())?;
        if passed == from {
            io::copy(&mut content, to)?;
        }
        // What is wrong with it shows at its end.
        to.flush()
    }
}
