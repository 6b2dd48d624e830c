//! Why the daemon does not come up.

use std::io;
use std::path::{Path, PathBuf};

/// Why the daemon could not come up or go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration file cannot be used.
    #[error("configuration file {}: {why}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and key.
        why: String,
    },
    /// Another daemon works there.
    #[error("another daemon uses {}; stop it, or give --run-dir and --state-dir", path.display())]
    Busy {
        /// The run directory.
        path: PathBuf,
    },
    /// Another daemon has the network namespace.
    #[error(
        "another daemon runs in this network namespace, and would lose its links and rules; stop it, or start this one in a namespace of its own (ip netns exec NAME coracle daemon …)"
    )]
    Network,
    /// A file or socket.
    #[error("{action} {} failed", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The engine.
    #[error(transparent)]
    Engine(#[from] coracle_engine::EngineError),
    /// Builds.
    #[error(transparent)]
    Build(#[from] coracle_build::BuildError),
    /// Units.
    #[error(transparent)]
    Fleet(#[from] coracle_fleet::FleetError),
    /// The cluster.
    #[error("{what} failed")]
    Cluster {
        /// What was done.
        what: &'static str,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] coracle_store::StoreError),
    /// Signals or the runtime.
    #[error("the daemon cannot run here")]
    Runtime(#[source] io::Error),
}

pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DaemonError {
    let path = path.to_owned();
    move |source| DaemonError::File {
        action,
        path,
        source,
    }
}
