//! Images that are on their way to become one: what a build has so far. They are found by their id only, are in no list and on
//! no disk, and go with their guard.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::Utc;

use crate::adopt::Pin;
use crate::digest::{Digest, ImageId};
use crate::error::{ImageError, Result};
use crate::image::{self, Image};
use crate::store::ImageStore;

/// Those of one store.
pub(crate) type Transients = Mutex<HashMap<ImageId, Arc<Image>>>;

/// Keeps a transient image, and its layers from collection.
pub struct Transient {
    store: ImageStore,
    /// How containers are made of it.
    pub id: ImageId,
    _pin: Pin,
}

impl ImageStore {
    /// Makes a transient image of a config whose layers are here. Several of the same config would be the same image: give each
    /// something of its own.
    ///
    /// # Errors
    /// [`ImageError::Manifest`] for a config that cannot be read.
    pub fn transient(&self, config: Vec<u8>) -> Result<Transient> {
        let id = ImageId::from(Digest::of(&config));
        let read = image::read_config(&config).map_err(|source| ImageError::Manifest {
            image: id.to_string(),
            source,
        })?;
        let pin = self.hold(&read.diff_ids);
        let image = Image {
            id,
            config: read.config,
            raw_config: config,
            layers: read.diff_ids,
            size: 0,
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            created: read.created,
            added: Utc::now(),
            healthcheck: read.healthcheck,
            shell: read.shell,
            on_build: read.on_build,
        };
        self.transients().insert(id, Arc::new(image));
        Ok(Transient {
            store: self.clone(),
            id,
            _pin: pin,
        })
    }

    pub(crate) fn transient_of(&self, name: &str) -> Option<Arc<Image>> {
        let digest = Digest::from_hex(name.strip_prefix("sha256:").unwrap_or(name)).ok()?;
        self.transients().get(&ImageId::from(digest)).cloned()
    }

    fn transients(&self) -> std::sync::MutexGuard<'_, HashMap<ImageId, Arc<Image>>> {
        self.0
            .transients
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Transient {
    fn drop(&mut self) {
        self.store.transients().remove(&self.id);
    }
}
