//! Pushing an image.
//!
//! What the registry has already is not sent. The image's own manifest is pushed, byte by byte, so that its digest stays; only
//! where layers were never compressed (they were imported or made here) they are compressed on their way, always to the same bytes.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flate2::{Compression, GzBuilder};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::content::{LayerFile, WorkDir};
use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::error::{ImageError, ManifestError, Result};
use crate::image::Image;
use crate::manifest::{self, Document, media};
use crate::progress::{Progress, ProgressEvent, Status};
use crate::reference::Reference;
use crate::registry::Registry;
use crate::store::{ImageStore, normalized_tag};

/// Progress is told about this often.
const STEP: Duration = Duration::from_millis(200);

/// Bytes that are compressed at once.
const PIECE: usize = 256 << 10;

/// What a registry has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Digest of the manifest.
    pub digest: Digest,
    /// Its bytes.
    pub size: usize,
}

/// A blob to send.
struct Blob {
    digest: Digest,
    size: u64,
    file: PathBuf,
}

impl ImageStore {
    /// Pushes the image of this name to its registry.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] if there is none, [`ImageError::Missing`] if some of its content is not here, [`ImageError::Push`]
    /// with what the registry said.
    pub async fn push(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
        progress: &dyn Progress,
    ) -> Result<Pushed> {
        let reference = normalized_tag(reference)?;
        let of = reference.familiar();
        let failed = |source| ImageError::Push {
            image: of.clone(),
            source,
        };
        let image = self.get(&reference.to_string())?;
        let _pin = self.pin(image.layers.iter().copied().chain([image.id.digest()]));
        let own = self.manifest_of(&image.id)?;
        let work = Arc::new(self.0.layout.work("push")?);
        let (document, layers, config) = self.to_send(&image, &own, &of, &work).await?;
        let registry = Registry::open(
            &self.0.config,
            reference.domain(),
            reference.path(),
            credentials,
        )
        .await
        .map_err(failed)?
        .writing();
        for layer in &layers {
            progress.event(event(layer, Status::Preparing));
        }
        let sending = layers
            .iter()
            .map(|l| self.send(&registry, l, &of, Some(progress)));
        try_join_all(sending).await?;
        self.send(&registry, &config, &of, None).await?;
        let kind = manifest::media_type(&own);
        let (bytes, media_type) = match document {
            Some(document) => (document, kind),
            None => (own, kind),
        };
        let tag = reference.tag().unwrap_or(crate::reference::DEFAULT_TAG);
        registry
            .put_manifest(tag, &media_type, &bytes)
            .await
            .map_err(failed)?;
        let digest = Digest::of(&bytes);
        let named = format!("{}@{digest}", reference.name());
        self.also_called(image.id, Reference::parse_normalized(&named)?)?;
        Ok(Pushed {
            digest,
            size: bytes.len(),
        })
    }

    /// Layers and config, and another manifest if layers had to be compressed, which they are into `work`.
    async fn to_send(
        &self,
        image: &Image,
        bytes: &[u8],
        of: &str,
        work: &Arc<WorkDir>,
    ) -> Result<(Option<Vec<u8>>, Vec<Blob>, Blob)> {
        let refused = |source| ImageError::Manifest {
            image: of.to_owned(),
            source,
        };
        let unreadable = |source| {
            refused(ManifestError::Json {
                what: "manifest",
                source,
            })
        };
        let mut document: Value = serde_json::from_slice(bytes).map_err(unreadable)?;
        let Document::Image(read) = manifest::read(bytes, None).map_err(refused)? else {
            return Err(refused(ManifestError::MediaType("an index".into())));
        };
        let layout = &self.0.layout;
        let blob = &|digest: Digest, size: u64| {
            let file = layout.blob(&digest);
            if file.is_file() {
                return Ok(Blob { digest, size, file });
            }
            Err(ImageError::Missing {
                image: of.to_owned(),
                digest,
            })
        };
        // Two and more at once, as there are processors.
        let slots = std::thread::available_parallelism().map_or(1, usize::from);
        let slots = &Semaphore::new(slots);
        let each = read.layers.iter().enumerate().map(|(n, layer)| {
            let plain = document["layers"][n]["mediaType"] == media::OCI_LAYER;
            async move {
                if !plain && layout.has_blob(&layer.digest) {
                    // It is found under its own digest, so what it is compressed with does not matter.
                    return Ok::<_, ImageError>((blob(layer.digest, layer.size)?, String::new()));
                }
                // Not compressed, or here from another source than this manifest, and compressed in another way.
                let missing = || ImageError::Missing {
                    image: of.to_owned(),
                    digest: layer.digest,
                };
                let diff_id = image.layers.get(n).ok_or_else(missing)?;
                let here = LayerFile::read(layout, diff_id)?.ok_or_else(missing)?;
                if here.compression != "none" {
                    return Ok((blob(here.blob, here.blob_size)?, here.compression));
                }
                let _slot = slots.acquire().await.map_err(|_| ImageError::Interrupted)?;
                let (store, work, to) =
                    (self.clone(), work.clone(), work.path().join(n.to_string()));
                let failed = ImageError::io("compress", layout.layer(&here.diff_id));
                let compressed = tokio::task::spawn_blocking(move || {
                    // The directory must outlive the work in it.
                    let _work = work;
                    compress(store.content(&here)?, to)
                });
                let compressed = compressed.await.map_err(|_| ImageError::Interrupted)?;
                Ok((compressed.map_err(failed)?, "gzip".to_owned()))
            }
        });
        let each = try_join_all(each).await?;
        let (mut layers, mut another) = (Vec::new(), false);
        for (n, (layer, (found, compression))) in read.layers.iter().zip(each).enumerate() {
            if found.digest != layer.digest {
                another = true;
                let docker =
                    document["mediaType"] == media::DOCKER_MANIFEST && compression == "gzip";
                let media_type = if docker {
                    media::DOCKER_LAYER.to_owned()
                } else {
                    format!("{}+{compression}", media::OCI_LAYER)
                };
                document["layers"][n] = json!({
                    "mediaType": media_type,
                    "digest": found.digest.to_string(),
                    "size": found.size,
                });
            }
            layers.push(found);
        }
        let config = blob(read.config.digest, read.config.size)?;
        let document = another.then(|| document.to_string().into_bytes());
        Ok((document, layers, config))
    }

    async fn send(
        &self,
        registry: &Registry<'_>,
        blob: &Blob,
        of: &str,
        progress: Option<&dyn Progress>,
    ) -> Result<()> {
        let failed = |source| ImageError::Push {
            image: of.to_owned(),
            source,
        };
        let tell = |status| {
            if let Some(progress) = progress {
                progress.event(event(blob, status));
            }
        };
        let slots = &self.0.downloads;
        let _slot = slots.acquire().await.map_err(|_| ImageError::Interrupted)?;
        if registry.has_blob(&blob.digest).await.map_err(failed)? {
            tell(Status::AlreadyExists);
            return Ok(());
        }
        let sent = Arc::new(AtomicU64::new(0));
        let upload = registry.upload(&blob.digest, &blob.file, blob.size, &sent);
        tokio::pin!(upload);
        loop {
            tokio::select! {
                done = &mut upload => {
                    done.map_err(failed)?;
                    tell(Status::Pushed);
                    return Ok(());
                }
                () = tokio::time::sleep(STEP) => tell(Status::Uploading {
                    current: sent.load(Ordering::Relaxed),
                    total: blob.size,
                }),
            }
        }
    }
}

fn event(blob: &Blob, status: Status) -> ProgressEvent {
    ProgressEvent {
        id: blob.digest.short(),
        status,
    }
}

/// Counts and hashes what is written.
struct Counted<W> {
    to: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.to.write(bytes)?;
        self.hasher.update(&bytes[..length]);
        self.bytes += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Compresses with gzip; the same bytes give the same bytes.
fn compress(mut from: impl Read, to: PathBuf) -> io::Result<Blob> {
    let counted = Counted {
        to: BufWriter::with_capacity(256 << 10, File::create_new(&to)?),
        hasher: Sha256::new(),
        bytes: 0,
    };
    // Without a time and a name in its header.
    let mut encoder = GzBuilder::new()
        .mtime(0)
        .write(counted, Compression::default());
    // What it writes depends on the pieces that it is given. Those of a pipe have any length.
    let mut piece = Vec::with_capacity(PIECE);
    while (&mut from).take(PIECE as u64).read_to_end(&mut piece)? > 0 {
        encoder.write_all(&piece)?;
        piece.clear();
    }
    let mut counted = encoder.finish()?;
    counted.flush()?;
    Ok(Blob {
        digest: Digest::finish(counted.hasher),
        size: counted.bytes,
        file: to,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Gives what it has in pieces, each longer than the one before.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            let length = self.1.min(buffer.len());
            (&mut self.0).take(length as u64).read(buffer)
        }
    }

    #[test]
    fn pieces_of_any_length_give_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..1_000_000_u32)
            .map(|n| (n.wrapping_mul(n) >> 11) as u8)
            .collect();
        let whole = compress(&bytes[..], dir.path().join("whole")).unwrap();
        let pieces = compress(Pieces(&bytes, 0), dir.path().join("pieces")).unwrap();
        assert_eq!(whole.digest, pieces.digest);
        let mut again = Vec::new();
        let file = File::open(pieces.file).unwrap();
        let mut decoder = flate2::read::GzDecoder::new(file);
        decoder.read_to_end(&mut again).unwrap();
        assert!(again == bytes);
    }
}
