//! What can go wrong in a container's life.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// An error of the engine. `Display` names the thing, the cause and, where there is one, the way out.
#[derive(Debug, Error)]
pub enum EngineError {
    /// Nothing has that name or id.
    #[error("No such {kind}: {name}")]
    NotFound {
        /// `container`, `volume`, `exec instance`.
        kind: &'static str,
        /// As it was asked for.
        name: String,
    },
    /// Several ids begin like this.
    #[error("several containers have an id that begins with {prefix}; give more of it")]
    Ambiguous {
        /// As it was asked for.
        prefix: String,
    },
    /// The request cannot be honoured as it stands.
    #[error("{0}")]
    Invalid(String),
    /// It does not fit the present state.
    #[error("{0}")]
    Conflict(String),
    /// It is exclusive, and this machine may not run it now.
    #[error("{0}")]
    NotPermitted(String),
    /// It is not to be written.
    #[error("{0}")]
    Forbidden(String),
    /// The container has nothing at that path.
    #[error("Could not find the file {path} in container {container}")]
    NoSuchPath {
        /// In the container.
        path: String,
        /// Its name.
        container: String,
    },
    /// A container's files cannot be reached from outside.
    #[error("the container's files cannot be reached")]
    View(#[from] coracle_sys::view::ViewError),
    /// An archive could not be copied in.
    #[error("the archive was not copied to its end")]
    Archive(#[source] coracle_image::LayerError),
    /// Nothing to do: it is as asked already.
    #[error("not modified")]
    NotModified,
    /// The process could not be started.
    #[error("{message}")]
    Start {
        /// 125, 126 or 127.
        code: i32,
        /// Cause.
        message: String,
    },
    /// Images.
    #[error("{0}")]
    Image(#[source] Box<coracle_image::ImageError>),
    /// Control groups.
    #[error(transparent)]
    Cgroup(#[from] coracle_sys::cgroup::CgroupError),
    /// Networks.
    #[error(transparent)]
    Network(#[from] coracle_network::NetworkError),
    /// A file.
    #[error("{}: {action} failed", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A record on disk cannot be read.
    #[error("{} cannot be read as a record of this release", .path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A record on disk is of a release that this one does not know.
    #[error("{} has format version {found}; this release reads up to {known}: start the newer release again", .path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: u32,
        /// What is known.
        known: u32,
    },
    /// The holder or a shim.
    #[error("{whom}: {action} failed")]
    Shim {
        /// `holder` or `shim of web`.
        whom: String,
        /// What was tried.
        action: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The holder or a shim said no.
    #[error("{whom}: {message}")]
    Refused {
        /// `holder` or `shim of web`.
        whom: String,
        /// Cause.
        message: String,
    },
    /// The kernel gave no random bytes.
    #[error("no random bytes from the kernel")]
    Random(#[from] getrandom::Error),
    /// A background thread panicked or was cancelled.
    #[error("an operation was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl From<coracle_image::ImageError> for EngineError {
    fn from(error: coracle_image::ImageError) -> Self {
        Self::Image(Box::new(error))
    }
}

impl EngineError {
    /// For `map_err` on file operations.
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }

    /// Nothing has that name.
    pub fn not_found(kind: &'static str, name: impl Into<String>) -> Self {
        Self::NotFound {
            kind,
            name: name.into(),
        }
    }
}

/// Result of an engine operation.
pub type Result<T> = std::result::Result<T, EngineError>;
