//! Texts of units, and the images that they stood for.

use super::VERSION;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// An immutable text: `revisions/<uid>/<n>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionRecord {
    /// [`VERSION`].
    pub version: u32,
    /// The file's text.
    pub text: String,
    /// Drop-ins in the order in which they apply.
    pub dropins: Vec<Dropin>,
    /// When it was submitted.
    pub created: DateTime<Utc>,
    /// The image that its `Image=` stood for when it was deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Pinned>,
    /// Who deployed it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub who: String,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl RevisionRecord {
    /// Of a text that was submitted now.
    pub fn new(text: &str, dropins: Vec<Dropin>) -> Self {
        Self {
            version: VERSION,
            text: text.to_owned(),
            dropins,
            created: crate::pace::utc(),
            image: None,
            who: String::new(),
            message: String::new(),
        }
    }

    /// Whether what runs by a new one is the same. One that says nothing of the image leaves that as it is.
    pub fn is_same(&self, new: &Self) -> bool {
        let same_image = new.image.is_none() || self.image == new.image;
        same_image && (&self.text, &self.dropins) == (&new.text, &new.dropins)
    }
}

/// An image as it was, whatever its name stands for by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// As the unit names it.
    pub name: String,
    /// `sha256:` and the digest of its config.
    pub id: String,
    /// `NAME@sha256:…`, by which a registry or another machine gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// A drop-in file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropin {
    /// Its name, `10-memory.conf`.
    pub file: String,
    /// Its text.
    pub text: String,
}
