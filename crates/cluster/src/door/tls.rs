//! TLS on both sides of the door.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use super::DoorError;
use super::pin::Pinned;
use crate::pki::{Fingerprint, Identity, PkiError};

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Which protocol is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Http {
    /// HTTP/1.1, which may be upgraded.
    One,
    /// HTTP/2: many requests at once.
    Two,
}

impl Http {
    fn name(self) -> Vec<u8> {
        match self {
            Self::One => HTTP1.to_vec(),
            Self::Two => HTTP2.to_vec(),
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The door's side: shows the machine's certificate as it is at the time, and verifies the client's where it shows one.
pub(super) fn server(identity: Arc<Identity>) -> Result<ServerConfig, DoorError> {
    let roots = identity.roots()?;
    let clients = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|e| PkiError::Foreign {
            what: "certificate of a CA",
            source: Some(e.into()),
        })?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(identity);
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// A member's side.
pub(super) fn member(identity: Arc<Identity>, http: Http) -> Result<ClientConfig, DoorError> {
    let roots = identity.roots()?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_cert_resolver(identity);
    config.alpn_protocols = vec![http.name()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The side of a machine that has a token only.
pub(super) fn stranger(pin: Fingerprint) -> Result<ClientConfig, DoorError> {
    let verifier = Arc::new(Pinned::new(pin, provider()));
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![Http::One.name()];
    config.resumption = Resumption::disabled();
    Ok(config)
}
