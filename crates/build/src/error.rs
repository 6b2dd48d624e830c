//! What can go wrong in a build.

use coracle_dockerfile::DockerfileError;
use coracle_engine::EngineError;
use coracle_image::ImageError;
use coracle_sys::view::ViewError;
use std::io;
use std::path::PathBuf;

/// An error of a build. `Display` names the thing, the cause and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile cannot be read as one.
    #[error("{file}: {source}")]
    Dockerfile {
        /// Its name.
        file: String,
        /// Line and cause.
        #[source]
        source: DockerfileError,
    },
    /// A step failed.
    #[error("{file}:{line}: {step}: {cause}")]
    Step {
        /// The Dockerfile's name.
        file: String,
        /// First line of the instruction, from 1.
        line: usize,
        /// The instruction, as it is written.
        step: String,
        /// Why.
        #[source]
        cause: Box<BuildError>,
    },
    /// A command ended with an error.
    #[error("The command '{command}' returned a non-zero code: {code}{}", if *.oom { " (the kernel ended it: out of memory)" } else { "" })]
    Command {
        /// The command.
        command: String,
        /// Its exit code.
        code: i32,
        /// Whether it ran out of memory.
        oom: bool,
    },
    /// The request or the Dockerfile asks for what cannot be.
    #[error("{0}")]
    Invalid(String),
    /// Something is not in the context or the stage.
    #[error("{0}")]
    Missing(String),
    /// A file here.
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
    /// Copying.
    #[error("copying failed: {0}")]
    Copy(#[source] io::Error),
    /// The archive of the context or of ADD.
    #[error("{what} cannot be unpacked")]
    Archive {
        /// Which archive.
        what: String,
        /// Why not.
        #[source]
        source: coracle_image::LayerError,
    },
    /// A download.
    #[error("{url} cannot be fetched: {why}")]
    Fetch {
        /// From where.
        url: String,
        /// Why not.
        why: String,
    },
    /// A filesystem in the making cannot be mounted.
    #[error("the files of the image in the making cannot be reached")]
    View(#[from] ViewError),
    /// Layers cannot be mounted.
    #[error("the files of the image in the making cannot be reached")]
    Overlay(#[from] coracle_sys::overlay::OverlayError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Images.
    #[error("{0}")]
    Image(#[source] Box<ImageError>),
    /// A background thread panicked or was cancelled.
    #[error("the build was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
    /// Another stage failed, and this one waited for it.
    #[error("a stage that this one needs failed")]
    Needed,
}

impl From<ImageError> for BuildError {
    fn from(error: ImageError) -> Self {
        Self::Image(Box::new(error))
    }
}

/// Result of a step of a build.
pub type Result<T> = std::result::Result<T, BuildError>;

pub(crate) fn file(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> BuildError {
    let path = path.into();
    move |source| BuildError::File {
        action,
        path,
        source,
    }
}

pub(crate) fn invalid(text: impl Into<String>) -> BuildError {
    BuildError::Invalid(text.into())
}
