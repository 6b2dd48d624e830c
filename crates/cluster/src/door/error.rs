//! What can go wrong on the way to another machine.

use std::sync::Arc;

use rustls::CertificateError;

use super::WrongCluster;
use crate::pki::PkiError;

/// An error of the door.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DoorError {
    /// No address of a machine is known.
    #[error("no address of {machine} is known")]
    NoAddress {
        /// The machine.
        machine: String,
    },
    /// No connection could be made.
    #[error("{machine} does not answer at {address}{}", hint(source))]
    Unreachable {
        /// The machine, or what is known of it.
        machine: String,
        /// The address tried last.
        address: String,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// What answered is of another cluster than the token.
    #[error(
        "what answers at {address} belongs to another cluster than the token: make a token there, or join at a machine of the token's cluster"
    )]
    WrongCluster {
        /// The address.
        address: String,
    },
    /// The connection broke while it was in use, or was never taken.
    #[error("the connection to {machine} broke")]
    Broken {
        /// The machine.
        machine: String,
        /// What happened.
        #[source]
        source: hyper::Error,
    },
    /// A request that makes no sense.
    #[error("the request cannot be sent to {machine}: {why}")]
    Request {
        /// The machine.
        machine: String,
        /// What is wrong.
        why: String,
    },
    /// Our own certificates are no use.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up with this machine's certificate")]
    Tls(#[source] Arc<rustls::Error>),
}

impl From<rustls::Error> for DoorError {
    fn from(source: rustls::Error) -> Self {
        Self::Tls(Arc::new(source))
    }
}

/// What TLS said, where it was TLS.
pub(super) fn tls(source: &std::io::Error) -> Option<&rustls::Error> {
    source.get_ref()?.downcast_ref()
}

/// The way out of what TLS refuses.
fn hint(source: &std::io::Error) -> &'static str {
    let Some(rustls::Error::InvalidCertificate(certificate)) = tls(source) else {
        return "";
    };
    match certificate {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            " (its certificate has run out: compare the clocks of both machines, else have it join again)"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            " (its certificate does not count yet: compare the clocks of both machines)"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            " (another machine has this address now)"
        }
        CertificateError::UnknownIssuer => " (another cluster's machine has this address)",
        _ => "",
    }
}

/// Whether a handshake failed because the token's CA was not there.
pub(super) fn is_wrong_cluster(source: &std::io::Error) -> bool {
    let Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) = tls(source)
    else {
        return false;
    };
    other.0.downcast_ref::<WrongCluster>().is_some()
}
