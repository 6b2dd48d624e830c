//! Whom a machine trusts that has nothing but a token.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, Error, OtherError};

use crate::pki::{Fingerprint, Seen, roots};
use crate::tls13::signatures_of_tls13;

/// The server did not show a CA with the key that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server's certificates are not of the cluster that the token was made in")]
pub struct WrongCluster;

/// Takes the CA from the server's own chain, if its key has the hash that the token carries, and verifies the server against
/// that CA as any other would.
#[derive(Debug)]
pub(super) struct Pinned {
    pin: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    pub(super) fn new(pin: Fingerprint, provider: Arc<CryptoProvider>) -> Self {
        Self { pin, provider }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned =
            |ca: &&CertificateDer<'_>| Seen::read(ca).is_ok_and(|seen| seen.key.is(&self.pin));
        let Some(ca) = intermediates.iter().find(pinned) else {
            let why = OtherError(Arc::new(WrongCluster));
            return Err(CertificateError::Other(why).into());
        };
        let root = roots(&ca.clone().into_owned()).map_err(|_| CertificateError::BadEncoding)?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(root, Arc::clone(&self.provider))
                .build()
                .map_err(|e| Error::General(e.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    signatures_of_tls13!();
}
