//! What can go wrong with images.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::{Digest, DigestError};
use crate::peers::PeerError;
use crate::reference::ReferenceError;
use crate::registry::RegistryError;
use crate::unpack::{LayerError, is_no_space};

/// A result of this crate.
pub type Result<T, E = ImageError> = std::result::Result<T, E>;

/// An error about images. Its message names the thing; `source()` leads to the cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The name cannot be read.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The digest cannot be read.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// No such image here.
    #[error("No such image: {name}")]
    NotFound {
        /// As asked for.
        name: String,
    },
    /// An id prefix fits several images.
    #[error("image id {prefix} is ambiguous: {count} images begin with it; give more digits")]
    Ambiguous {
        /// As asked for.
        prefix: String,
        /// How many there are.
        count: usize,
    },
    /// The image cannot be removed as things stand.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// A layer is refused.
    #[error("layer {layer} of {image} is refused")]
    Layer {
        /// Digest, or name within the archive.
        layer: String,
        /// The image as asked for.
        image: String,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// A manifest, index or config is refused.
    #[error("{image} is refused")]
    Manifest {
        /// The image as asked for.
        image: String,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// An archive given to `load` or `import` is refused.
    #[error("the archive is refused")]
    Archive(#[source] ArchiveError),
    /// A change given to `import` cannot be read.
    #[error("change {change:?} cannot be read: {reason}")]
    Change {
        /// As written.
        change: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The registry did not give what was asked for.
    #[error("cannot pull {image}")]
    Pull {
        /// The image as asked for.
        image: String,
        /// Why.
        #[source]
        source: RegistryError,
    },
    /// No registry has it, and other machines did not give it.
    #[error("cannot get {image} from another machine")]
    Peers {
        /// The image as asked for.
        image: String,
        /// Why.
        #[source]
        source: PeerError,
    },
    /// No registry gives it, and no other machine has it.
    #[error(
        "cannot pull {image}: its registry does not give it, and no machine asked has it ({machines}); push it to a registry, or build or load it on one of them"
    )]
    Nowhere {
        /// The image as asked for.
        image: String,
        /// The machines, as people call them, with commas between.
        machines: String,
        /// What the registry said.
        #[source]
        source: Box<ImageError>,
    },
    /// The registry did not take what it was given.
    #[error("cannot push {image}")]
    Push {
        /// The image as asked for.
        image: String,
        /// Why.
        #[source]
        source: RegistryError,
    },
    /// The registry did not answer a question as hoped.
    #[error("cannot ask {registry}")]
    Ask {
        /// The registry.
        registry: String,
        /// Why.
        #[source]
        source: RegistryError,
    },
    /// The disk is full.
    #[error("no space is left for {path}; free some, or remove unused images")]
    NoSpace {
        /// What was to be written.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file system failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file of ours cannot be read.
    #[error("{path} is damaged; restore it from a backup or remove it and pull the images again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// A file of ours was written by a release that this one does not understand.
    #[error("{path} has format version {found}, this release reads version {known}; upgrade first")]
    Version {
        /// The file.
        path: PathBuf,
        /// The version in it.
        found: u64,
        /// The version that is read.
        known: u64,
    },
    /// Another process works with the directory.
    #[error(
        "the image store in {path} is in use by another process; stop it or use another directory"
    )]
    Busy {
        /// The store's directory.
        path: PathBuf,
    },
    /// Kept content is gone or changed.
    #[error("content {digest} of {image} is missing; pull or load the image again")]
    Missing {
        /// The image's id.
        image: String,
        /// The content.
        digest: Digest,
    },
    /// The task that did the work died.
    #[error("the work was cut short")]
    Interrupted,
}

/// What kind of error it is, for those who answer by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Something by that name is not here, or not in the registry.
    NotFound,
    /// It does not fit what is here.
    Conflict,
    /// What was given cannot be read or is refused.
    Invalid,
    /// The registry refuses us.
    Unauthorized,
    /// The registry cannot be reached or failed.
    Unavailable,
    /// This machine failed.
    Internal,
}

impl ImageError {
    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            _ if self.is_no_space() => ErrorKind::Internal,
            Self::NotFound { .. }
            | Self::Peers {
                source: PeerError::Nobody,
                ..
            } => ErrorKind::NotFound,
            Self::Peers { .. } => ErrorKind::Unavailable,
            Self::Nowhere { source, .. } => source.kind(),
            Self::Conflict(_) => ErrorKind::Conflict,
            Self::Reference(_)
            | Self::Digest(_)
            | Self::Ambiguous { .. }
            | Self::Layer { .. }
            | Self::Manifest { .. }
            | Self::Archive(_)
            | Self::Change { .. } => ErrorKind::Invalid,
            Self::Pull { source, .. } | Self::Push { source, .. } | Self::Ask { source, .. } => {
                match source {
                    RegistryError::NotFound { .. } => ErrorKind::NotFound,
                    RegistryError::Unauthorized { .. } => ErrorKind::Unauthorized,
                    _ => ErrorKind::Unavailable,
                }
            }
            _ => ErrorKind::Internal,
        }
    }
}

/// Why an image cannot be removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Conflict {
    /// An id with names in several repositories.
    #[error(
        "conflict: unable to delete {id} (must be forced) - image is referenced in multiple repositories"
    )]
    MultipleNames {
        /// Short id.
        id: String,
    },
    /// A stopped container was made from the name.
    #[error(
        "conflict: unable to remove repository reference {name:?} (must force) - container {container} is using its referenced image {id}"
    )]
    NameInUse {
        /// As asked for.
        name: String,
        /// The container.
        container: String,
        /// Short id.
        id: String,
    },
    /// A stopped container was made from it.
    #[error(
        "conflict: unable to delete {id} (must be forced) - image is being used by stopped container {container}"
    )]
    UsedByStopped {
        /// Short id.
        id: String,
        /// The container.
        container: String,
    },
    /// A running container was made from it.
    #[error(
        "conflict: unable to delete {id} (cannot be forced) - image is being used by running container {container}"
    )]
    UsedByRunning {
        /// Short id.
        id: String,
        /// The container.
        container: String,
    },
}

/// What is wrong with a manifest, index or config.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The first format of docker's registry.
    #[error(
        "it is a manifest of schema 1, which is obsolete; push the image again with a current tool"
    )]
    Schema1,
    /// A media type that is no image.
    #[error("its media type {0:?} is no image manifest")]
    MediaType(String),
    /// The JSON cannot be read.
    #[error("its {what} cannot be read")]
    Json {
        /// manifest, index or config.
        what: &'static str,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// A digest of an algorithm that is not taken.
    #[error("its {what} names content that cannot be checked")]
    Digest {
        /// manifest, index or layer.
        what: &'static str,
        /// The cause.
        #[source]
        source: DigestError,
    },
    /// Too large to be read.
    #[error("its {what} has {size} bytes; at most {limit} are read")]
    TooLarge {
        /// manifest or config.
        what: &'static str,
        /// As declared or seen.
        size: u64,
        /// The bound.
        limit: u64,
    },
    /// Manifest and config disagree.
    #[error("its manifest has {layers} layers, its config {diff_ids} diff ids")]
    Layers {
        /// In the manifest.
        layers: usize,
        /// In the config.
        diff_ids: usize,
    },
    /// No image for the platform.
    #[error("it has no image for {wanted}, only for {offered}")]
    Platform {
        /// As asked for, or this machine's.
        wanted: String,
        /// What there is.
        offered: String,
    },
    /// An index within an index within an index…
    #[error("its indexes are nested too deeply")]
    Nested,
    /// Content is not what its name says.
    #[error("its {what} has digest {actual}, not {expected}: the content was changed on the way")]
    WrongDigest {
        /// manifest or config.
        what: &'static str,
        /// As named.
        expected: Digest,
        /// As read.
        actual: Digest,
    },
}

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The tar format is broken.
    #[error("it is no tar archive that can be read")]
    Tar(#[source] LayerError),
    /// Neither kind of image archive.
    #[error(
        "it has neither manifest.json nor index.json: it is no image archive; use import for a root file system"
    )]
    NoManifest,
    /// A member that the manifest names is not there.
    #[error("member {0:?} is missing")]
    Missing(String),
    /// A member appears with another content than its name says.
    #[error("member {name:?} has digest {actual}, not {expected}")]
    WrongDigest {
        /// Its name.
        name: String,
        /// As named.
        expected: Digest,
        /// As read.
        actual: Digest,
    },
    /// Too many members.
    #[error("it has more than {limit} members")]
    TooMany {
        /// The bound.
        limit: usize,
    },
}

impl ImageError {
    /// Sorts an I/O error: a full disk is told apart.
    pub(crate) fn io(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            let path = path.as_ref().to_owned();
            if is_no_space(&source) {
                Self::NoSpace { path, source }
            } else {
                Self::Io {
                    action,
                    path,
                    source,
                }
            }
        }
    }

    /// Whether the disk is full.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(
            self,
            Self::NoSpace { .. }
                | Self::Layer {
                    source: LayerError::NoSpace(_),
                    ..
                }
        )
    }
}
