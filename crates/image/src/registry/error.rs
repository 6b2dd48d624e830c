//! Why a registry did not give what was asked for.

use std::path::PathBuf;

/// An error of a registry or on the way to it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The registry's or mirror's address cannot be read.
    #[error("{0:?} is no address of a registry; write http://host:port or https://host")]
    Address(String),
    /// No connection, or it broke.
    #[error("no answer from {url}; is the registry running and reachable?")]
    Transport {
        /// What was asked.
        url: String,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// TLS cannot be set up.
    #[error(
        "cannot set up TLS for {host}: install the system's CA certificates, or put the registry's CA into {certs}/ca.crt"
    )]
    Trust {
        /// The registry.
        host: String,
        /// Where its own CA would lie.
        certs: PathBuf,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// A certificate file cannot be used.
    #[error("cannot use {path} for TLS")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no such image.
    #[error("{what} is not there: {message}; check the name, or log in if it is private")]
    NotFound {
        /// What was asked for.
        what: String,
        /// What the registry says.
        message: String,
    },
    /// The registry wants to know who we are.
    #[error("{host} refuses access: {message}; log in with credentials that may do this")]
    Unauthorized {
        /// The registry.
        host: String,
        /// What it says.
        message: String,
    },
    /// The registry asks for a kind of authentication that we do not know.
    #[error("{host} asks for authentication of a kind that is not supported: {challenge:?}")]
    Challenge {
        /// The registry.
        host: String,
        /// Its WWW-Authenticate header.
        challenge: String,
    },
    /// The token server's answer cannot be read.
    #[error("the token server {realm} gave an answer that cannot be read: {reason}")]
    Token {
        /// Its address.
        realm: String,
        /// What is wrong.
        reason: String,
    },
    /// Another answer than success.
    #[error("{url} answers {status}: {message}")]
    Status {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the registry says.
        message: String,
        /// The pause that it asks for, in seconds.
        retry_after: Option<u64>,
    },
    /// The answer is longer than it may be.
    #[error("{url} sends more than {limit} bytes")]
    TooLarge {
        /// What was asked.
        url: String,
        /// The bound.
        limit: u64,
    },
    /// The answer ended early, again and again.
    #[error("{url} sent {received} of {expected} bytes and stopped")]
    Incomplete {
        /// What was asked.
        url: String,
        /// Bytes received.
        received: u64,
        /// Bytes expected.
        expected: u64,
    },
    /// A file that is to be sent cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A redirection that is not followed.
    #[error("{url} redirects to {target:?}, which is not followed: {reason}")]
    Redirect {
        /// What was asked.
        url: String,
        /// Where it leads.
        target: String,
        /// Why not.
        reason: &'static str,
    },
}

impl RegistryError {
    /// Whether there was no connection at all: no such name, nobody who listens, no TLS.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Transport { source, .. } if source.is_connect())
    }

    /// Whether trying again may help.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Transport { source, .. } => !source.is_builder(),
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500..=599),
            Self::Incomplete { .. } => true,
            _ => false,
        }
    }
}
