//! The index: which images are here and what they are called. One JSON file, replaced whole.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, ImageId};
use crate::error::{ImageError, Result};
use crate::reference::Reference;

/// `images/index.json`, format version 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Index {
    pub version: u64,
    #[serde(default)]
    pub images: BTreeMap<ImageId, Record>,
    /// Whole names with a tag.
    #[serde(default)]
    pub tags: BTreeMap<Reference, ImageId>,
    /// Whole names with a digest.
    #[serde(default)]
    pub digests: BTreeMap<Reference, ImageId>,
}

impl Default for Index {
    fn default() -> Self {
        let (images, tags, digests) = Default::default();
        Self {
            version: Self::VERSION,
            images,
            tags,
            digests,
        }
    }
}

/// One image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Diff ids, lowest first.
    pub layers: Vec<Digest>,
    /// Bytes in regular files of all layers.
    pub size: u64,
    /// When it was made.
    #[serde(default)]
    pub created: Option<DateTime<Utc>>,
    /// When it came here.
    pub added: DateTime<Utc>,
    /// The manifest it came with.
    #[serde(default)]
    pub manifest: Option<Digest>,
    /// All content that belongs to it: config, manifests, compressed layers.
    pub blobs: Vec<Digest>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When a container was made of it last, as far as that was written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<DateTime<Utc>>,
    /// It was removed, and stays out of sight as long as containers need it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
}

/// How a name was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// As an id or its beginning.
    Id(ImageId),
    /// As a name with a tag.
    Tag(Reference, ImageId),
    /// As a name with a digest.
    Digest(Reference, ImageId),
}

impl Found {
    pub fn id(&self) -> ImageId {
        match self {
            Self::Id(id) | Self::Tag(_, id) | Self::Digest(_, id) => *id,
        }
    }
}

impl Index {
    pub const VERSION: u64 = 1;

    /// Finds an image as docker does: a whole id, then a name, then the beginning of an id.
    pub fn find(&self, text: &str) -> Result<Found> {
        // With the tag that is meant, as docker says it.
        let not_found = || ImageError::NotFound {
            name: Reference::parse_normalized(text)
                .map_or_else(|_| text.to_owned(), |r| r.familiar()),
        };
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if let Ok(digest) = Digest::from_hex(hex) {
            let id = ImageId::from(digest);
            let visible = |r: &Record| !r.removed;
            return self
                .images
                .get(&id)
                .is_some_and(visible)
                .then_some(Found::Id(id))
                .ok_or_else(not_found);
        }
        let named = match Reference::parse_familiar(text) {
            Ok(reference) => self.named(&reference),
            Err(_) => None,
        };
        if let Some(found) = named {
            return Ok(found);
        }
        let is_hex = !hex.is_empty() && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex || hex.len() > 64 {
            // Tell what is wrong with a name that never could be one.
            if !is_hex {
                Reference::parse_familiar(text)?;
            }
            return Err(not_found());
        }
        let visible = self.images.iter().filter(|(_, r)| !r.removed);
        let mut fits = visible
            .map(|(id, _)| id)
            .filter(|id| id.hex().starts_with(hex));
        match (fits.next(), fits.count()) {
            (None, _) => Err(not_found()),
            (Some(id), 0) => Ok(Found::Id(*id)),
            (Some(_), more) => Err(ImageError::Ambiguous {
                prefix: text.to_owned(),
                count: more + 1,
            }),
        }
    }

    /// What a name means that is saved: images, with the names that they are to have. A name alone means all its tags.
    pub fn named_to_save(&self, text: &str) -> Result<Vec<(ImageId, Option<Reference>)>> {
        let alone = Reference::parse_familiar(text)
            .ok()
            .filter(|r| r.tag().is_none() && r.digest().is_none());
        let of_id = Digest::from_hex(text.strip_prefix("sha256:").unwrap_or(text)).is_ok();
        if let Some(alone) = alone.filter(|_| !of_id) {
            let tags = self.tags.iter().filter(|(t, _)| t.name() == alone.name());
            let all: Vec<_> = tags.map(|(t, id)| (*id, Some(t.clone()))).collect();
            if !all.is_empty() {
                return Ok(all);
            }
        }
        Ok(vec![match self.find(text)? {
            Found::Tag(name, id) => (id, Some(name)),
            other => (other.id(), None),
        }])
    }

    fn named(&self, reference: &Reference) -> Option<Found> {
        if let Some(digest) = reference.digest() {
            let key = reference.with_digest(digest);
            let id = self.digests.get(&key).copied();
            // name@<id> is understood too, as long as the image has that name.
            let by_id = || {
                let id = ImageId::from(digest);
                let called = |(name, of): (&Reference, &ImageId)| {
                    *of == id && name.name() == reference.name()
                };
                (self.tags.iter().any(called) || self.digests.iter().any(called)).then_some(id)
            };
            // And name@<its manifest>, which is what machines call it that pull it from this one.
            let by_manifest = || {
                let mut called = self
                    .tags
                    .iter()
                    .filter(|(t, _)| t.name() == reference.name());
                let is = |id: &&ImageId| self.images.get(*id)?.manifest.filter(|m| *m == digest);
                called.find_map(|(_, id)| is(&id).map(|_| *id))
            };
            let id = id.or_else(by_id).or_else(by_manifest);
            return id.map(|id| Found::Digest(key, id));
        }
        let key = match reference.tag() {
            Some(_) => reference.clone(),
            None => reference.with_tag(crate::reference::DEFAULT_TAG).ok()?,
        };
        self.tags.get(&key).map(|id| Found::Tag(key.clone(), *id))
    }

    /// Names with tags of an image.
    pub fn tags_of(&self, id: ImageId) -> impl Iterator<Item = &Reference> {
        self.tags
            .iter()
            .filter(move |(_, of)| **of == id)
            .map(|(name, _)| name)
    }

    /// Names with digests of an image.
    pub fn digests_of(&self, id: ImageId) -> impl Iterator<Item = &Reference> {
        self.digests
            .iter()
            .filter(move |(_, of)| **of == id)
            .map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(crate) fn sample() -> (Index, ImageId, ImageId) {
        let mut index = Index::default();
        let id = |c: &str| ImageId::from(Digest::from_hex(&c.repeat(32)).unwrap());
        let (a, b) = (id("ab"), id("ac"));
        for image in [a, b] {
            let record = Record {
                layers: vec![],
                size: 1,
                created: None,
                added: DateTime::UNIX_EPOCH,
                manifest: None,
                blobs: vec![],
                labels: BTreeMap::new(),
                last_used: None,
                removed: false,
            };
            index.images.insert(image, record);
        }
        index
            .tags
            .insert(Reference::parse_normalized("redis").unwrap(), a);
        index
            .tags
            .insert(Reference::parse_normalized("ac").unwrap(), a);
        let digest = Digest::of(b"manifest");
        index.digests.insert(
            Reference::parse_normalized(&format!("redis@{digest}")).unwrap(),
            a,
        );
        (index, a, b)
    }

    #[test]
    fn names_before_prefixes() {
        let (index, a, b) = sample();
        let id = |text: &str| index.find(text).unwrap().id();
        assert_eq!(id("redis"), a);
        assert_eq!(id("docker.io/library/redis:latest"), a);
        assert_eq!(id(&a.to_string()), a);
        assert_eq!(id(&b.hex()), b);
        assert_eq!(id("aca"), b);
        assert_eq!(id("sha256:aca"), b);
        assert_eq!(id("ac"), a, "a name wins over a prefix");
        assert_eq!(id(&format!("redis:gone@{}", Digest::of(b"manifest"))), a);
        assert!(matches!(
            index.find("a"),
            Err(ImageError::Ambiguous { count: 2, .. })
        ));
        assert!(matches!(
            index.find("redis:7"),
            Err(ImageError::NotFound { .. })
        ));
        assert!(matches!(index.find("Redis"), Err(ImageError::Reference(_))));
        assert!(matches!(index.find(""), Err(ImageError::Reference(_))));
    }

    #[test]
    fn what_is_saved() {
        let (mut index, a, b) = sample();
        index
            .tags
            .insert(Reference::parse_normalized("redis:7").unwrap(), b);
        let saved = |text: &str| {
            let all = index.named_to_save(text).unwrap().into_iter();
            all.map(|(id, name)| (id, name.map_or_else(String::new, |n| n.familiar())))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            saved("redis"),
            [(b, "redis:7".into()), (a, "redis:latest".into())]
        );
        assert_eq!(saved("redis:7"), [(b, "redis:7".into())]);
        assert_eq!(saved("ac"), [(a, "ac:latest".into())], "a name, not an id");
        assert_eq!(saved("aca"), [(b, String::new())]);
        assert_eq!(saved(&a.to_string()), [(a, String::new())]);
        assert!(index.named_to_save("nothing").is_err());
    }

    #[test]
    fn a_newer_release_may_add_fields() {
        let (index, a, _) = sample();
        let mut json = serde_json::to_value(&index).unwrap();
        json["colour"] = "blue".into();
        json["images"][a.to_string()]["stars"] = 5.into();
        let again: Index = serde_json::from_value(json).unwrap();
        assert_eq!(again.images, index.images);
        assert_eq!(again.digests, index.digests);
    }
}
