//! Images that go, and what keeps them: names, containers, and containers that are being made.
//!
//! What is removed by force while a container that does not run needs it is only out of sight: the container's layers are the image's.
//! It goes with the last such container ([`ImageStore::release`]).

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};

use crate::digest::ImageId;
use crate::error::Result;
use crate::image::Image;
use crate::index::Record;
use crate::remove::{self, InUse, Removed};
use crate::store::{ImageStore, Inner};

/// Keeps an image for a container that is being made of it.
pub struct Claim(Option<(ImageStore, ImageId)>);

impl Drop for Claim {
    fn drop(&mut self) {
        let Some((store, id)) = &self.0 else { return };
        let mut claims = store.0.claims();
        match claims.get_mut(id) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(claims.remove(id)),
        }
    }
}

impl ImageStore {
    /// As [`Self::get`], for a container that is being made: the image stays until the guard is dropped. By then the container must
    /// be known to those who remove images.
    ///
    /// # Errors
    /// As [`Self::get`]'s.
    pub fn claim(&self, name_or_id: &str) -> Result<(Image, Claim)> {
        if let Some(image) = self.transient_of(name_or_id) {
            return Ok((Image::clone(&image), Claim(None)));
        }
        let id = {
            let index = self.0.index();
            let id = index.find(name_or_id)?.id();
            *self.0.claims().entry(id).or_default() += 1;
            id
        };
        let claim = Claim(Some((self.clone(), id)));
        Ok((self.image(id)?, claim))
    }

    /// Takes a name away, and with its last name the image with all that no other image needs, by the
    /// rules of docker's `rmi`. `in_use` tells of a container made from the image, a running one first. What a container needs is
    /// kept out of sight until [`Self::release`].
    ///
    /// # Errors
    /// [`ImageError::Conflict`] when a container or other names hold on to it, [`ImageError::NotFound`], and
    /// I/O errors.
    pub fn remove(
        &self,
        name_or_id: &str,
        force: bool,
        in_use: &dyn Fn(&ImageId) -> Option<InUse>,
    ) -> Result<Vec<Removed>> {
        let removed = self.0.update(|index| {
            let id = index.find(name_or_id)?.id();
            let claim = if self.0.claims().contains_key(&id) {
                Some(InUse {
                    container: "that is being made".into(),
                    running: true,
                })
            } else {
                in_use(&id)
            };
            let plan = remove::plan(index, name_or_id, force, claim.as_ref())?;
            let mut removed = Vec::new();
            for name in plan.names {
                index.tags.remove(&name);
                index.digests.remove(&name);
                removed.push(Removed::Untagged(name.familiar()));
            }
            if plan.delete {
                match index.images.get_mut(&plan.id) {
                    Some(record) if claim.is_some() => record.removed = true,
                    _ => _ = index.images.remove(&plan.id),
                }
                removed.push(Removed::Deleted(plan.id));
            }
            Ok(removed)
        })?;
        self.collect()?;
        Ok(removed)
    }

    /// Takes away images that were removed while containers needed them, and that none needs any more.
    ///
    /// # Errors
    /// I/O errors.
    pub fn release(&self, needed: &dyn Fn(&ImageId) -> bool) -> Result<()> {
        let goes = |id: &ImageId, r: &Record| {
            r.removed && !self.0.claims().contains_key(id) && !needed(id)
        };
        if !self.0.index().images.iter().any(|(id, r)| goes(id, r)) {
            return Ok(());
        }
        self.0.update(|index| {
            index.images.retain(|id, r| !goes(id, r));
            Ok(())
        })?;
        self.collect()
    }
}

impl Inner {
    fn claims(&self) -> MutexGuard<'_, HashMap<ImageId, usize>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
