//! Pulling an image.
//!
//! The states of one layer: *waiting* for a slot, *downloading* and unpacking at once, *placed*. A connection that breaks
//! is made again and goes on at the byte where it broke; the unpacking notices nothing. Bytes are hashed on their way, and
//! a layer is only placed when both of its digests are right; the image is only named when all of its layers are placed.

use std::io::{self, Read};

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::sync::mpsc;

use crate::assemble::Placed;
use crate::credentials::Credentials;
use crate::digest::{Digest, ImageId};
use crate::error::{ImageError, ManifestError, Result};
use crate::image::{self, Image};
use crate::ingest::Expected;
use crate::manifest::{self, CONFIG_MAX, Document, MANIFEST_MAX, Manifest, Named};
use crate::platform::{self, Platform};
use crate::progress::{Progress, ProgressEvent, Status};
use crate::reference::Reference;
use crate::registry::{Registry, RegistryError};
use crate::store::{ImageStore, Pinned};

/// Pieces of a blob that wait for the unpacker.
const WAITING: usize = 32;
/// Progress is told about this often: every so many bytes.
const STEP: u64 = 512 << 10;
/// Indexes within indexes.
const DEEPEST: usize = 4;

/// A layer that is here and stays until this is dropped.
#[allow(dead_code)] // It is held, not read.
enum Kept {
    Already(Pinned),
    Placed(Placed),
}

/// What a registry said about an image.
struct Found {
    manifest: Manifest,
    manifest_digest: Digest,
    /// Digest of what the name points at: of the index, if there is one.
    top: Digest,
    /// Manifest and index, as they came.
    documents: Vec<(Digest, Vec<u8>)>,
}

impl ImageStore {
    /// Pulls an image for `platform` (this machine's if absent) from a mirror or its registry.
    ///
    /// # Errors
    /// [`ImageError::Pull`] with what the registry said, [`ImageError::Manifest`] and [`ImageError::Layer`] for what is
    /// refused, [`ImageError::NoSpace`]. Nothing is visible then. Layers that were whole stay for the next pull if the registry
    /// failed, until the next collection; otherwise they go.
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        credentials: Option<&Credentials>,
        progress: &dyn Progress,
    ) -> Result<Image> {
        let pulled = self.pull_from_any(reference, platform, credentials, progress);
        let pulled = pulled.await;
        // Another try at what a registry broke off need not begin anew; at what is refused, or had no room, it would end the same.
        if pulled
            .as_ref()
            .is_err_and(|e| !matches!(e, ImageError::Pull { .. }))
        {
            let store = self.clone();
            let collecting = tokio::task::spawn_blocking(move || store.collect_after_failure());
            collecting.await.map_err(|_| ImageError::Interrupted)?;
        }
        pulled
    }

    async fn pull_from_any(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        credentials: Option<&Credentials>,
        progress: &dyn Progress,
    ) -> Result<Image> {
        let reference = &Reference::parse_normalized(&reference.to_string())?;
        let of = reference.familiar();
        let failed = |source| ImageError::Pull {
            image: of.clone(),
            source,
        };
        let wanted = platform.cloned().unwrap_or_else(Platform::host);
        let config = &self.0.config;
        for mirror in config.mirrors_of(reference.domain()) {
            let registry = Registry::mirror(config, mirror, reference.path()).map_err(failed)?;
            match self.find(&registry, reference, &wanted, &of).await {
                Ok(found) => match self
                    .fetch(&registry, found, (reference, &wanted), &of, progress)
                    .await
                {
                    Ok(image) => return Ok(image),
                    // Our own disk would be as full with another source.
                    Err(error) if error.is_no_space() => return Err(error),
                    Err(error) => {
                        tracing::warn!(mirror, image = of, %error, "the mirror failed, the next one is asked")
                    }
                },
                Err(error) => {
                    tracing::info!(mirror, image = of, %error, "the mirror does not have it")
                }
            }
        }
        let registry = Registry::open(config, reference.domain(), reference.path(), credentials)
            .await
            .map_err(failed)?;
        let found = self.find(&registry, reference, &wanted, &of).await?;
        self.fetch(&registry, found, (reference, &wanted), &of, progress)
            .await
    }

    /// Asks for the manifest, through indexes.
    async fn find(
        &self,
        registry: &Registry<'_>,
        reference: &Reference,
        wanted: &Platform,
        of: &str,
    ) -> Result<Found> {
        let refused = |source| ImageError::Manifest {
            image: of.to_owned(),
            source,
        };
        let mut expected = reference.digest();
        let mut asked = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or(crate::reference::DEFAULT_TAG).to_owned(),
        };
        let mut documents: Vec<(Digest, Vec<u8>)> = Vec::new();
        loop {
            let got = registry.manifest(&asked, MANIFEST_MAX).await;
            let (bytes, kind) = got.map_err(|source| ImageError::Pull {
                image: of.to_owned(),
                source,
            })?;
            let digest = Digest::of(&bytes);
            if let Some(expected) = expected.filter(|e| *e != digest) {
                return Err(refused(ManifestError::WrongDigest {
                    what: "manifest",
                    expected,
                    actual: digest,
                }));
            }
            let document = manifest::read(&bytes, kind.as_deref()).map_err(refused)?;
            documents.push((digest, bytes));
            match document {
                Document::Image(manifest) => {
                    let top = documents.first().map_or(digest, |(d, _)| *d);
                    return Ok(Found {
                        manifest,
                        manifest_digest: digest,
                        top,
                        documents,
                    });
                }
                Document::Index(_) if documents.len() > DEEPEST => {
                    return Err(refused(ManifestError::Nested));
                }
                Document::Index(entries) => {
                    let chosen = platform::choose(&entries, wanted).ok_or_else(|| {
                        refused(ManifestError::Platform {
                            wanted: wanted.to_string(),
                            offered: platform::offered(&entries),
                        })
                    })?;
                    let named = Named::of("manifest", chosen).map_err(refused)?;
                    expected = Some(named.digest);
                    asked = named.digest.to_string();
                }
            }
        }
    }

    /// Fetches config and layers, and makes the image visible.
    async fn fetch(
        &self,
        registry: &Registry<'_>,
        found: Found,
        (reference, wanted): (&Reference, &Platform),
        of: &str,
        progress: &dyn Progress,
    ) -> Result<Image> {
        let refused = |source| ImageError::Manifest {
            image: of.to_owned(),
            source,
        };
        let named = found.manifest.config;
        let _pin = self.pin(
            found
                .documents
                .iter()
                .map(|(d, _)| *d)
                .chain([named.digest]),
        );
        let config = match self.0.layout.read_blob(&named.digest)? {
            Some(config) => config,
            None => {
                let fetched = registry
                    .small_blob(&named.digest.to_string(), CONFIG_MAX)
                    .await;
                fetched.map_err(|source| ImageError::Pull {
                    image: of.to_owned(),
                    source,
                })?
            }
        };
        let actual = Digest::of(&config);
        if actual != named.digest {
            return Err(refused(ManifestError::WrongDigest {
                what: "config",
                expected: named.digest,
                actual,
            }));
        }
        let read = image::read_config(&config).map_err(refused)?;
        if !wanted.runs(&read.platform) {
            return Err(refused(ManifestError::Platform {
                wanted: wanted.to_string(),
                offered: read.platform.to_string(),
            }));
        }
        let layers = &found.manifest.layers;
        read.check_layers(layers.len()).map_err(refused)?;
        for layer in layers {
            progress.event(event(layer, Status::Pulling));
        }
        let fetches = layers
            .iter()
            .zip(&read.diff_ids)
            .map(|(layer, diff_id)| self.layer(registry, *layer, *diff_id, of, progress));
        let _placed = try_join_all(fetches).await?;
        let layout = &self.0.layout;
        for (digest, bytes) in found
            .documents
            .iter()
            .map(|(d, b)| (d, b))
            .chain([(&named.digest, &config)])
        {
            layout.put_blob(digest, bytes)?;
        }
        let mut names = vec![];
        if reference.digest().is_none() {
            names.push(reference.clone());
        }
        // What it was pulled as can be asked for by digest too.
        names.push(Reference::parse_normalized(&format!(
            "{}@{}",
            reference.name(),
            found.top
        ))?);
        let blobs = found.documents.iter().map(|(d, _)| *d).collect();
        self.commit(
            ImageId::from(named.digest),
            &read,
            Some(found.manifest_digest),
            blobs,
            &names,
        )
    }

    async fn layer(
        &self,
        registry: &Registry<'_>,
        layer: Named,
        diff_id: Digest,
        of: &str,
        progress: &dyn Progress,
    ) -> Result<Kept> {
        // Two pulls, or one image with a layer twice: one of them does the work.
        let lock = self.layer_lock(diff_id);
        let _once = lock.lock().await;
        let pin = self.pin([diff_id, layer.digest]);
        if self.has_layer(&diff_id) {
            progress.event(event(&layer, Status::AlreadyExists));
            return Ok(Kept::Already(pin));
        }
        progress.event(event(&layer, Status::Waiting));
        let _slot = self
            .0
            .downloads
            .acquire()
            .await
            .map_err(|_| ImageError::Interrupted)?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let store = self.clone();
        let expected = Expected {
            blob: Some(layer.digest),
            blob_size: Some(layer.size),
            diff_id: Some(diff_id),
            verbatim: true,
        };
        let (name, image) = (layer.digest.short(), of.to_owned());
        let unpacking = tokio::task::spawn_blocking(move || {
            let stream = Incoming {
                receiver,
                rest: Bytes::new(),
            };
            store.take_layer(stream, expected, (&name, &image), |_| {})
        });
        let downloaded = download(registry, layer, &sender, progress).await;
        drop(sender);
        let placed = unpacking.await.map_err(|_| ImageError::Interrupted)?;
        match (placed, downloaded) {
            (Ok(placed), _) => {
                progress.event(event(&layer, Status::PullComplete));
                Ok(Kept::Placed(placed))
            }
            // The unpacker's end is the cause, not the consequence, unless it only saw the stream end.
            (Err(error), Ok(())) => Err(error),
            (Err(error), Err(_)) if error.is_no_space() => Err(error),
            (Err(_), Err(source)) => Err(ImageError::Pull {
                image: of.to_owned(),
                source,
            }),
        }
    }
}

fn event(layer: &Named, status: Status) -> ProgressEvent {
    ProgressEvent {
        id: layer.digest.short(),
        status,
    }
}

/// Sends a blob's bytes, going on where a connection broke. Ends quietly when the receiver has.
async fn download(
    registry: &Registry<'_>,
    layer: Named,
    to: &mpsc::Sender<Result<Bytes, ()>>,
    progress: &dyn Progress,
) -> Result<(), RegistryError> {
    let digest = layer.digest.to_string();
    let (mut received, mut told, mut tries) = (0_u64, 0_u64, 1);
    loop {
        let before = received;
        let error = match once(registry, &digest, &mut received, layer.size, to, |now| {
            if now - told >= STEP || now == layer.size {
                told = now;
                progress.event(event(
                    &layer,
                    Status::Downloading {
                        current: now,
                        total: layer.size,
                    },
                ));
            }
        })
        .await
        {
            Ok(true) => {
                progress.event(event(&layer, Status::DownloadComplete));
                return Ok(());
            }
            Ok(false) => return Ok(()),
            Err(error) => error,
        };
        if received > before {
            // It got further: the registry lives.
            tries = 1;
        }
        if !registry.may_go(&error) || tries >= registry.attempts() {
            // The unpacker must not take the end for the end of the blob.
            let _ = to.send(Err(())).await;
            return Err(error);
        }
        let pause = registry.pause(tries, &error);
        progress.event(event(
            &layer,
            Status::Retrying {
                seconds: pause.as_secs().max(1),
            },
        ));
        tracing::info!(layer = digest, %error, "a download broke and is tried again");
        tokio::time::sleep(pause).await;
        tries += 1;
    }
}

/// One connection. True when the whole blob was sent, false when nobody takes it any more.
async fn once(
    registry: &Registry<'_>,
    digest: &str,
    received: &mut u64,
    size: u64,
    to: &mpsc::Sender<Result<Bytes, ()>>,
    mut tell: impl FnMut(u64),
) -> Result<bool, RegistryError> {
    let mut response = registry.blob(digest, *received).await?;
    // Without ranges it comes from the beginning: what we have is skipped.
    let mut skip = if response.status() == reqwest::StatusCode::PARTIAL_CONTENT {
        0
    } else {
        *received
    };
    let url = response.url().to_string();
    loop {
        let chunk = response.chunk().await;
        let Some(mut chunk) = chunk.map_err(|source| RegistryError::Transport {
            url: url.clone(),
            source,
        })?
        else {
            break;
        };
        let cut = usize::try_from(skip.min(chunk.len() as u64)).unwrap_or(chunk.len());
        skip -= cut as u64;
        let _ = chunk.split_to(cut);
        if chunk.is_empty() {
            continue;
        }
        *received += chunk.len() as u64;
        tell(*received);
        if to.send(Ok(chunk)).await.is_err() {
            return Ok(false);
        }
    }
    if *received < size {
        return Err(RegistryError::Incomplete {
            url,
            received: *received,
            expected: size,
        });
    }
    Ok(true)
}

/// What was received, as a blocking reader.
struct Incoming {
    receiver: mpsc::Receiver<Result<Bytes, ()>>,
    rest: Bytes,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.receiver.blocking_recv() {
                Some(Ok(bytes)) => self.rest = bytes,
                // The download failed, which it says itself.
                Some(Err(())) => return Err(io::ErrorKind::BrokenPipe.into()),
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.rest.len());
        buffer[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}
