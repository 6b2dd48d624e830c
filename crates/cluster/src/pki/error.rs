//! What can go wrong with keys and certificates.

use std::path::{Path, PathBuf};

/// An error about keys, certificates or their files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// A file operation failed.
    #[error("{doing} {path} failed")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// Written by a release that this one does not know.
    #[error(
        "{path} has format version {found}, this release reads up to {known}: start the newer release"
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest known here.
        known: u64,
    },
    /// A file that does not hold what it should.
    #[error(
        "{path} is no {what}: put back a copy of it, or have this machine leave the cluster and join again"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is expected there.
        what: &'static str,
        /// What does not fit, where that is known.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// A key and a certificate that do not belong together.
    #[error(
        "{key} is not the key of {certificate}: put back the pair, or have this machine leave the cluster and join again"
    )]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's.
        certificate: PathBuf,
    },
    /// This machine belongs to a cluster already, whose CA's key is elsewhere.
    #[error(
        "{path} is the certificate of a cluster whose key is on its voters: this machine is a member there and cannot found one; have it leave first"
    )]
    NotFounder {
        /// The CA's certificate.
        path: PathBuf,
    },
    /// What another machine sent is no certificate, or no request for one.
    #[error("what was sent is no {what}")]
    Foreign {
        /// What is expected.
        what: &'static str,
        /// What does not fit.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// A certificate that was given to us is not what we asked for.
    #[error("the certificate that was given is not for this machine: {why}")]
    Unfit {
        /// What is wrong with it.
        why: String,
    },
    /// A key or a certificate could not be made.
    #[error("making {what} failed")]
    Make {
        /// What was being made.
        what: &'static str,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
    /// A file of the API's that does not hold what it should.
    #[error(
        "{path} is no {what} ({why}): put back a copy of it, or remove it: it is made again, and where it is the CA's key, workstations have to trust this machine anew"
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is expected there.
        what: &'static str,
        /// What does not fit.
        why: String,
    },
    /// No TLS can be spoken with this key.
    #[error("the key in {path} cannot be used")]
    Key {
        /// The key's file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
}

impl PkiError {
    pub(crate) fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn make(what: &'static str) -> impl Fn(rcgen::Error) -> Self {
        move |source| Self::Make { what, source }
    }
}
