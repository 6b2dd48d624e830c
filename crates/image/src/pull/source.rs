//! What an image is pulled from: the machines around, and one registry or mirror.

use std::time::Duration;

use tokio::sync::OnceCell;

use crate::config::RegistryConfig;
use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::peers::{Crowd, PeerError};
use crate::reference::Reference;
use crate::registry::{Registry, RegistryError};

/// Why content did not come.
#[derive(Debug)]
pub(super) enum NotGot {
    Registry(RegistryError),
    Peers(PeerError),
}

impl NotGot {
    pub fn of(self, image: &str) -> ImageError {
        let image = image.to_owned();
        match self {
            Self::Registry(source) => ImageError::Pull { image, source },
            Self::Peers(source) => ImageError::Peers { image, source },
        }
    }
}

/// Where a registry's content is.
pub(super) enum Origin<'a> {
    Mirror(&'a str),
    Registry(Option<&'a Credentials>),
}

/// Machines first; then the registry, which is not spoken to before it is needed.
pub(super) struct Sources<'a> {
    pub crowd: &'a Crowd,
    config: &'a RegistryConfig,
    origin: Option<(Origin<'a>, &'a Reference)>,
    opened: OnceCell<Registry<'a>>,
}

impl<'a> Sources<'a> {
    pub fn new(
        config: &'a RegistryConfig,
        crowd: &'a Crowd,
        origin: Option<(Origin<'a>, &'a Reference)>,
    ) -> Self {
        Self {
            crowd,
            config,
            origin,
            opened: OnceCell::new(),
        }
    }

    pub fn has_registry(&self) -> bool {
        self.origin.is_some()
    }

    /// How long to wait before the machines are gone through once more.
    pub fn pause(&self, round: u32) -> Duration {
        self.config.backoff.saturating_mul(1 << round.min(5))
    }

    /// The registry; none if the image has none.
    pub async fn registry(&self) -> Result<Option<&Registry<'a>>, NotGot> {
        let Some((origin, reference)) = &self.origin else {
            return Ok(None);
        };
        let opening = self.opened.get_or_try_init(|| async {
            match origin {
                Origin::Mirror(url) => Registry::mirror(self.config, url, reference.path()),
                Origin::Registry(credentials) => {
                    let (domain, path) = (reference.domain(), reference.path());
                    Registry::open(self.config, domain, path, *credentials).await
                }
            }
        });
        opening.await.map(Some).map_err(NotGot::Registry)
    }

    /// A manifest or index by what it is called, with the media type that it was given. By digest the machines have it, too.
    pub async fn manifest(
        &self,
        (asked, digest): (&str, Option<Digest>),
        limit: u64,
    ) -> Result<(Vec<u8>, Option<String>), NotGot> {
        if let Some(digest) = digest
            && let Some(bytes) = self.crowd.document(&digest, limit).await
        {
            return Ok((bytes, None));
        }
        match self.registry().await? {
            Some(registry) => registry
                .manifest(asked, limit)
                .await
                .map_err(NotGot::Registry),
            None => Err(NotGot::Peers(PeerError::Nobody)),
        }
    }

    /// A small blob, whole. What a registry gives is not checked yet.
    pub async fn small_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, NotGot> {
        if let Some(bytes) = self.crowd.document(digest, limit).await {
            return Ok(bytes);
        }
        match self.registry().await? {
            Some(registry) => {
                let fetched = registry.small_blob(&digest.to_string(), limit).await;
                fetched.map_err(NotGot::Registry)
            }
            None => Err(NotGot::Peers(PeerError::Nobody)),
        }
    }
}
