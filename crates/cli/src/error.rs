//! Errors as people see them, and the exit codes they end with.

use serde_json::Value;
use std::io;
use std::path::PathBuf;

/// What can go wrong on this side.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Nobody listens.
    #[error("cannot reach the daemon at {}; start it with `coracle daemon`, or say where it is with --run-dir or CORACLE_RUN_DIR", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another machine is not reached, or does not let us in.
    #[error(transparent)]
    Remote(#[from] coracle_cluster::clients::RemoteError),
    /// The daemon said no.
    #[error("Error response from daemon: {message}")]
    Daemon {
        /// HTTP status.
        status: u16,
        /// Its words.
        message: String,
        /// Problems of a unit file, one by one.
        diagnostics: Value,
    },
    /// The connection broke.
    #[error("the connection to the daemon broke; if it runs, its log says why")]
    Http(#[from] hyper::Error),
    /// The daemon's answer cannot be read.
    #[error("the daemon's answer cannot be read")]
    Json(#[from] serde_json::Error),
    /// The command line cannot be honoured.
    #[error("{0}")]
    Usage(String),
    /// A file.
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
    /// The terminal or a stream.
    #[error("reading or writing failed")]
    Io(#[from] io::Error),
    /// A template that cannot be read.
    #[error("template: {0}")]
    Template(String),
    /// The daemon itself.
    #[error(transparent)]
    Server(#[from] crate::server::DaemonError),
    /// Said already; only the exit code is left.
    #[error("")]
    Exit(i32),
}

/// Result of a command.
pub type Result<T> = std::result::Result<T, CliError>;

impl CliError {
    /// Exit code: that of the process, docker's 125 to 127 for `run`, or 1.
    pub fn code(&self, running: bool) -> i32 {
        let Self::Daemon { message, .. } = self else {
            return match self {
                Self::Exit(code) => *code,
                _ if running => 125,
                _ => 1,
            };
        };
        if !running {
            return 1;
        }
        if message.contains("executable file not found")
            || message.contains("no such file or directory")
        {
            127
        } else if message.contains("permission denied") || message.contains("is a directory") {
            126
        } else {
            125
        }
    }

    /// Nothing of that name.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Daemon { status: 404, .. })
    }
}

/// Does something with each name, goes on after errors, and fails at the end if there were any.
pub async fn each<F: Future<Output = Result<()>>>(
    names: &[String],
    mut act: impl FnMut(String) -> F,
) -> Result<()> {
    let mut failed = false;
    for name in names {
        match act(name.clone()).await {
            Ok(()) => {}
            Err(
                error @ (CliError::Unreachable { .. } | CliError::Remote(_) | CliError::Exit(_)),
            ) => return Err(error),
            Err(error) => {
                eprintln!("{}", coracle_engine::full_error(&error));
                failed = true;
            }
        }
    }
    if failed {
        Err(CliError::Exit(1))
    } else {
        Ok(())
    }
}
