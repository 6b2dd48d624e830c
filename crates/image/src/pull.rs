//! Pulling an image: from other machines what they have, and the rest from a mirror or its registry.
//!
//! What a tag stands for is its registry's to say; a name that the registry does not know, or cannot say in time, is asked of the machines around.
//!
//! The states of one layer: *waiting* for a slot, *downloading* and unpacking at once, *placed*. A connection that breaks
//! is made again and goes on at the byte where it broke; the unpacking notices nothing. Bytes are hashed on their way, and
//! a layer is only placed when both of its digests are right; the image is only named when all of its layers are placed.

mod layer;
mod source;

use futures_util::future::try_join_all;

use self::source::{NotGot, Origin, Sources};

use crate::assemble::Placed;
use crate::config::RegistryConfig;
use crate::credentials::Credentials;
use crate::digest::{Digest, ImageId};
use crate::error::{ImageError, ManifestError, Result};
use crate::image::{self, Image};
use crate::manifest::{self, CONFIG_MAX, Document, MANIFEST_MAX, Manifest, Named};
use crate::peers::{Crowd, PeerError};
use crate::platform::{self, Platform};
use crate::progress::{Progress, ProgressEvent, Status};
use crate::reference::Reference;
use crate::store::{ImageStore, Pinned};

/// Indexes within indexes.
const DEEPEST: usize = 4;
/// The registry of images that have none.
const NOWHERE: &str = "localhost";

/// What a pull is for.
struct Asked<'a> {
    /// As a whole.
    reference: &'a Reference,
    /// As people call it.
    of: String,
    wanted: Platform,
    crowd: Crowd,
    progress: &'a dyn Progress,
}

impl<'a> Asked<'a> {
    fn sources(&'a self, config: &'a RegistryConfig, origin: Origin<'a>) -> Sources<'a> {
        Sources::new(config, &self.crowd, Some((origin, self.reference)))
    }
}

/// What is asked for first.
enum First<'a> {
    Tag(&'a str),
    Digest(Digest),
}

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
    /// Pulls an image for `platform` (this machine's if absent) from other machines, a mirror or its registry.
    ///
    /// # Errors
    /// [`ImageError::Pull`] with what the registry said, [`ImageError::Nowhere`] if other machines were asked besides, [`ImageError::Peers`] if one
    /// has it and does not give it, [`ImageError::Manifest`] and [`ImageError::Layer`] for what is
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
        if pulled.as_ref().is_err_and(|e| {
            !matches!(
                e,
                ImageError::Pull { .. } | ImageError::Nowhere { .. } | ImageError::Peers { .. }
            )
        }) {
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
        let config = &self.0.config;
        let wanted = platform.cloned().unwrap_or_else(Platform::host);
        let asked = &Asked {
            reference,
            of: reference.familiar(),
            wanted,
            crowd: self.crowd(),
            progress,
        };
        let image = &asked.of;
        // It has no registry, whatever else listens there.
        if reference.domain() == NOWHERE
            && let Some(pulled) = self.pull_by_name(asked).await
        {
            return pulled;
        }
        for mirror in config.mirrors_of(reference.domain()) {
            let sources = asked.sources(config, Origin::Mirror(mirror));
            match self.pull_from_origin(&sources, asked).await {
                Ok(image) => return Ok(image),
                // Our own disk would be as full with another source.
                Err(error) if error.is_no_space() => return Err(error),
                Err(error) => {
                    tracing::warn!(mirror, image, %error, "the mirror failed, the next one is asked")
                }
            }
        }
        let sources = asked.sources(config, Origin::Registry(credentials));
        let error = match self.pull_from_origin(&sources, asked).await {
            Err(error) if !error.is_no_space() => error,
            pulled => return pulled,
        };
        if !matches!(error, ImageError::Pull { .. }) {
            return Err(error);
        }
        let machines = asked.crowd.called();
        // What was never pushed is known to the machine that made it only.
        if reference.domain() != NOWHERE
            && let Some(pulled) = self.pull_by_name(asked).await
        {
            tracing::info!(image, %error, "the registry did not give it, another machine has it");
            return pulled;
        }
        if machines.is_empty() {
            return Err(error);
        }
        Err(ImageError::Nowhere {
            image: image.clone(),
            machines: machines.join(", "),
            source: Box::new(error),
        })
    }

    /// Pulls an image that has no registry from another machine: the one by this name that was made last.
    ///
    /// # Errors
    /// [`ImageError::Peers`] if no machine gives it, and else as [`Self::pull`].
    pub async fn pull_from_peers(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        progress: &dyn Progress,
    ) -> Result<Image> {
        let reference = &Reference::parse_normalized(&reference.to_string())?;
        let asked = &Asked {
            reference,
            of: reference.familiar(),
            wanted: platform.cloned().unwrap_or_else(Platform::host),
            crowd: self.crowd(),
            progress,
        };
        let nobody = || NotGot::Peers(PeerError::Nobody).of(&asked.of);
        self.pull_by_name(asked).await.ok_or_else(nobody)?
    }

    /// None if no machine has the name.
    async fn pull_by_name(&self, asked: &Asked<'_>) -> Option<Result<Image>> {
        let (reference, crowd) = (asked.reference, &asked.crowd);
        if crowd.is_empty() {
            return None;
        }
        let by_name = reference.digest().is_none();
        let digests = match reference.digest() {
            Some(digest) => vec![digest],
            None => {
                let named = crowd.named(reference).await;
                named.into_iter().map(|h| h.manifest).collect()
            }
        };
        let mut last = None;
        for digest in digests {
            let sources = Sources::new(&self.0.config, crowd, None);
            let pulled = match self.find(&sources, First::Digest(digest), asked).await {
                Ok(found) => self.fetch(&sources, found, by_name, asked).await,
                // Nobody has what somebody said to have.
                Err(ImageError::Peers { .. }) if last.is_none() && !by_name => return None,
                Err(error) => Err(error),
            };
            match pulled {
                Err(error) if !error.is_no_space() => last = Some(Err(error)),
                pulled => return Some(pulled),
            }
        }
        last
    }

    /// Pulls what a registry or mirror has under the name. One that does not answer soon is passed over if another machine has
    /// an image of that name.
    async fn pull_from_origin(&self, sources: &Sources<'_>, asked: &Asked<'_>) -> Result<Image> {
        let reference = asked.reference;
        let first = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => First::Digest(digest),
            (None, tag) => First::Tag(tag.unwrap_or(crate::reference::DEFAULT_TAG)),
        };
        let found = {
            let finding = self.find(sources, first, asked);
            tokio::pin!(finding);
            let soon = asked.crowd.patience() / 2;
            let late = tokio::time::timeout(soon, &mut finding).await;
            match late {
                Ok(found) => found?,
                Err(_) if asked.crowd.is_empty() => finding.await?,
                Err(_) => tokio::select! {
                    found = &mut finding => found?,
                    Some(pulled) = self.pull_by_name(asked) => {
                        tracing::info!(image = asked.of, "the registry is silent, another machine has it");
                        return pulled;
                    }
                    else => return Err(ImageError::Interrupted),
                },
            }
        };
        self.fetch(sources, found, false, asked).await
    }

    /// Asks for the manifest, through indexes.
    async fn find(
        &self,
        sources: &Sources<'_>,
        first: First<'_>,
        asked: &Asked<'_>,
    ) -> Result<Found> {
        let of = &asked.of;
        let refused = |source| ImageError::Manifest {
            image: of.to_owned(),
            source,
        };
        let (mut name, mut expected) = match first {
            First::Tag(tag) => (tag.to_owned(), None),
            First::Digest(digest) => (digest.to_string(), Some(digest)),
        };
        let mut documents: Vec<(Digest, Vec<u8>)> = Vec::new();
        loop {
            let got = sources.manifest((&name, expected), MANIFEST_MAX).await;
            let (bytes, kind) = got.map_err(|e| e.of(of))?;
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
                    let chosen = platform::choose(&entries, &asked.wanted).ok_or_else(|| {
                        refused(ManifestError::Platform {
                            wanted: asked.wanted.to_string(),
                            offered: platform::offered(&entries),
                        })
                    })?;
                    let named = Named::of("manifest", chosen).map_err(refused)?;
                    expected = Some(named.digest);
                    name = named.digest.to_string();
                }
            }
        }
    }

    /// Fetches config and layers, and makes the image visible. One that was found by its name on another machine is in no registry, and
    /// must not be taken for one that can be had again by its digest.
    async fn fetch(
        &self,
        sources: &Sources<'_>,
        found: Found,
        by_name: bool,
        asked: &Asked<'_>,
    ) -> Result<Image> {
        let (of, reference, progress) = (&asked.of[..], asked.reference, asked.progress);
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
        let layers = &found.manifest.layers;
        let config = match self.0.layout.read_blob(&named.digest)? {
            Some(config) => config,
            None => {
                // Who has the config has the layers, mostly: one question for all.
                let all = layers.iter().map(|l| l.digest).chain([named.digest]);
                sources.crowd.look_for(all).await;
                let fetched = sources.small_blob(&named.digest, CONFIG_MAX).await;
                fetched.map_err(|e| e.of(of))?
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
        if !asked.wanted.runs(&read.platform) {
            return Err(refused(ManifestError::Platform {
                wanted: asked.wanted.to_string(),
                offered: read.platform.to_string(),
            }));
        }
        read.check_layers(layers.len()).map_err(refused)?;
        for layer in layers {
            progress.event(event(layer, Status::Pulling));
        }
        let pairs = || layers.iter().zip(&read.diff_ids);
        let missing = pairs().filter(|(_, diff_id)| !self.has_layer(diff_id));
        sources.crowd.look_for(missing.map(|(l, _)| l.digest)).await;
        let fetches =
            pairs().map(|(layer, diff_id)| self.layer(sources, *layer, *diff_id, of, progress));
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
        if !by_name {
            // What it was pulled as can be asked for by digest too.
            names.push(Reference::parse_normalized(&format!(
                "{}@{}",
                reference.name(),
                found.top
            ))?);
        }
        let blobs = found.documents.iter().map(|(d, _)| *d).collect();
        self.commit(
            ImageId::from(named.digest),
            &read,
            Some(found.manifest_digest),
            blobs,
            &names,
        )
    }
}

fn event(layer: &Named, status: Status) -> ProgressEvent {
    ProgressEvent {
        id: layer.digest.short(),
        status,
    }
}
