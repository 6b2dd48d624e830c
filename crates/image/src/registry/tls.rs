//! The HTTP client for one address: whom it trusts and how it shows who we are.

use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use reqwest::{Certificate, Client, Identity, Url};

use super::RegistryError;
use crate::config::{RegistryConfig, is_loopback};

const CONNECT: Duration = Duration::from_secs(10);

/// One provider of cryptography for the whole program, whoever needs it first.
fn provider() {
    static ONCE: Once = Once::new();
    // Somebody else's choice is as good.
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

/// A client for `base`, with the CAs and client certificates of `<certs>/<host[:port]>/`.
pub(crate) fn client(config: &RegistryConfig, base: &Url) -> Result<Client, RegistryError> {
    provider();
    let host = base.host_str().unwrap_or_default();
    let authority = base
        .port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let mut builder = Client::builder()
        .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .read_timeout(config.silence);
    if config.is_insecure(&authority) {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    if is_loopback(host) {
        // No proxy leads to this machine's own ports.
        builder = builder.no_proxy();
    }
    let dir = config.certs_dir.join(&authority);
    let (certificates, identity) = certificates(&dir)?;
    builder = builder.tls_certs_merge(certificates);
    if let Some(identity) = identity {
        builder = builder.identity(identity);
    }
    builder.build().map_err(|source| RegistryError::Trust {
        host: authority,
        certs: dir,
        source,
    })
}

type Found = (Vec<Certificate>, Option<Identity>);

/// `*.crt` are CAs; a `*.cert` with a `*.key` of the same name is a client certificate.
fn certificates(dir: &Path) -> Result<Found, RegistryError> {
    let mut found = (Vec::new(), None);
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Ok(found);
    };
    let mut paths: Vec<_> = entries.flatten().map(|e| e.path()).collect();
    paths.sort();
    for path in paths {
        let bad = |source: Box<dyn std::error::Error + Send + Sync>| RegistryError::Certificate {
            path: path.clone(),
            source,
        };
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => {
                let pem = std::fs::read(&path).map_err(|e| bad(e.into()))?;
                found
                    .0
                    .extend(Certificate::from_pem_bundle(&pem).map_err(|e| bad(e.into()))?);
            }
            Some("cert") => {
                let mut pem = std::fs::read(&path).map_err(|e| bad(e.into()))?;
                pem.push(b'\n');
                pem.extend(std::fs::read(path.with_extension("key")).map_err(|e| bad(e.into()))?);
                found.1 = Some(Identity::from_pem(&pem).map_err(|e| bad(e.into()))?);
            }
            _ => {}
        }
    }
    Ok(found)
}
