//! The workstation's side.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error as TlsError, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{PORT, SHA256};
use crate::pki::{Seen, chain, is_for};
use crate::tls13::signatures_of_tls13;

/// A connection to a machine.
pub type TlsIo = tokio_rustls::client::TlsStream<TcpStream>;

/// How long a machine may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a machine is not reached, or does not let us in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// An address that cannot be read.
    #[error(
        "\"{0}\" is no address of a machine; write tcp://HOST:PORT, for example tcp://web1:{PORT}"
    )]
    Address(String),
    /// A file of ours.
    #[error("{} cannot be read; `coracle client request NAME` makes a key and a certificate, `coracle client trust HOST` asks a machine for its CA, and CORACLE_CERT_PATH says where they are", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file with something else in it.
    #[error("{} is no {what} in PEM ({why})", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is expected there.
        what: &'static str,
        /// What does not fit.
        why: String,
    },
    /// Our key does not fit our certificate.
    #[error("{} and key.pem there are no pair; make another with `coracle client request NAME`", path.display())]
    NoPair {
        /// The certificate's file.
        path: PathBuf,
        /// What TLS says.
        #[source]
        source: TlsError,
    },
    /// No connection.
    #[error(
        "{host}:{port} does not answer; is the machine up, and does its daemon serve its API there (api_listen in coracle.toml, --api-listen)?"
    )]
    Unreachable {
        /// The machine.
        host: String,
        /// The port.
        port: u16,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No TLS, or not with whom it should be.
    #[error("no secure connection to {host}:{port}{}", .source.get_ref().and_then(|e| e.downcast_ref()).map_or("", hint))]
    Tls {
        /// The machine.
        host: String,
        /// The port.
        port: u16,
        /// What TLS says.
        #[source]
        source: io::Error,
    },
}

/// The way out of what TLS refuses, on this side or on the other.
pub(super) fn hint(error: &TlsError) -> &'static str {
    use AlertDescription as A;
    match error {
        TlsError::InvalidCertificate(why) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                ": its certificate has run out; compare the clocks of both, else look into the daemon's log"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                ": its certificate does not count yet; compare the clocks of both"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                ": its certificate is not for this name or address; use one that the machine has, or tell it with api_names in its coracle.toml"
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                ": it is none of the machines that ca.pem is of; compare its fingerprint (STATE_DIR/api/fingerprint there), then `coracle client trust HOST`"
            }
            _ => "",
        },
        TlsError::AlertReceived(A::AccessDenied) => {
            ": it does not let this certificate in: it was revoked, or never added (`coracle client ls` there lists who is)"
        }
        TlsError::AlertReceived(A::CertificateExpired) => {
            ": this certificate, or its entry there, has run out or does not count yet; compare the clocks of both, else make another with `coracle client request NAME`"
        }
        TlsError::AlertReceived(A::UnsupportedCertificate) => {
            ": this certificate is a machine's and no client's; `coracle client request NAME` makes one"
        }
        TlsError::AlertReceived(A::UnknownCA | A::BadCertificate) => {
            ": this certificate is none that `coracle client create` or `coracle client request` made"
        }
        TlsError::AlertReceived(A::CertificateRequired) => {
            ": it lets in nobody without a certificate; put cert.pem and key.pem beside ca.pem"
        }
        TlsError::InvalidMessage(_) => ": what answers there does not speak TLS",
        TlsError::PeerIncompatible(_) | TlsError::AlertReceived(A::ProtocolVersion) => {
            ": what answers there does not speak TLS 1.3"
        }
        _ => "",
    }
}

fn open(path: &Path) -> Result<String, RemoteError> {
    fs::read_to_string(path).map_err(|source| RemoteError::File {
        path: path.to_owned(),
        source,
    })
}

/// What a workstation has: `ca.pem`, `cert.pem` and `key.pem` of one directory, as docker names them.
pub struct Credentials(Arc<ClientConfig>);

impl Credentials {
    /// Reads them.
    ///
    /// # Errors
    /// `File`, `Pem`, `NoPair`.
    pub fn read(dir: &Path) -> Result<Self, RemoteError> {
        let pem = |path: &Path, what| {
            let path = path.to_owned();
            move |why: String| RemoteError::Pem { path, what, why }
        };
        let path = dir.join("ca.pem");
        let mut roots = RootCertStore::empty();
        for ca in chain(&open(&path)?).map_err(|e| pem(&path, "list of CAs")(e.to_string()))? {
            roots
                .add(ca)
                .map_err(|e| pem(&path, "list of CAs")(e.to_string()))?;
        }
        let path = dir.join("cert.pem");
        let certificate = chain(&open(&path)?);
        let certificate = certificate.map_err(|e| pem(&path, "certificate")(e.to_string()))?;
        let path = dir.join("key.pem");
        let key = PrivateKeyDer::from_pem_slice(open(&path)?.as_bytes());
        let key = key.map_err(|e| pem(&path, "key")(e.to_string()))?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .and_then(|config| {
                config
                    .with_root_certificates(roots)
                    .with_client_auth_cert(certificate, key)
            })
            .map_err(|source| RemoteError::NoPair {
                path: dir.join("cert.pem"),
                source,
            })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }
}

/// A machine's port, as `HOST[:PORT]` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// A name or an address.
    pub host: String,
    /// [`PORT`] where none was given.
    pub port: u16,
}

impl Remote {
    /// Reads `HOST`, `HOST:PORT` or `[IPv6]:PORT`.
    ///
    /// # Errors
    /// `Address`.
    pub fn read(text: &str) -> Result<Self, RemoteError> {
        let bad = || RemoteError::Address(text.to_owned());
        let text = text.trim_end_matches('/');
        let is_v6 = text.parse::<std::net::Ipv6Addr>().is_ok();
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !is_v6 && !port.ends_with(']') => {
                let port = port.parse().ok().filter(|port| *port != 0);
                (host, port.ok_or_else(bad)?)
            }
            _ => (text, PORT),
        };
        let host = host
            .strip_prefix('[')
            .map_or(Some(host), |h| h.strip_suffix(']'));
        let host = host.ok_or_else(bad)?.to_owned();
        // What cannot be a certificate's name is no machine's either.
        ServerName::try_from(host.as_str()).map_err(|_| bad())?;
        Ok(Self { host, port })
    }

    fn tls(&self, source: io::Error) -> RemoteError {
        RemoteError::Tls {
            host: self.host.clone(),
            port: self.port,
            source,
        }
    }

    async fn connected(&self, config: Arc<ClientConfig>) -> Result<TlsIo, RemoteError> {
        let unreachable = |source| RemoteError::Unreachable {
            host: self.host.clone(),
            port: self.port,
            source,
        };
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let name = ServerName::try_from(self.host.clone());
        let name = name.map_err(|_| RemoteError::Address(self.host.clone()))?;
        let stream = TcpStream::connect((self.host.as_str(), self.port));
        let stream = tokio::time::timeout(PATIENCE, stream).await;
        let stream = stream.map_err(late).and_then(|s| s).map_err(unreachable)?;
        let _ = stream.set_nodelay(true);
        let shaken = TlsConnector::from(config).connect(name, stream);
        let shaken = tokio::time::timeout(PATIENCE, shaken).await;
        shaken
            .map_err(late)
            .and_then(|s| s)
            .map_err(|e| self.tls(e))
    }

    /// Connects. Whether the machine lets us in shows with its first answer: see [`Self::refusal`].
    ///
    /// # Errors
    /// `Unreachable`, `Tls`.
    pub async fn connect(&self, credentials: &Credentials) -> Result<TlsIo, RemoteError> {
        self.connected(credentials.0.clone()).await
    }

    /// What the machine said by TLS, if that is at the bottom of an error.
    pub fn refusal(&self, error: &(dyn std::error::Error + 'static)) -> Option<RemoteError> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            let inner = error
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref);
            let tls = inner.and_then(|e| e.downcast_ref::<TlsError>());
            if let Some(tls) = tls.or_else(|| error.downcast_ref()) {
                return Some(self.tls(io::Error::new(io::ErrorKind::InvalidData, tls.clone())));
            }
            cause = error.source();
        }
        None
    }
}

/// What a machine shows to everybody who comes to its port.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The certificate of its CA, in PEM.
    pub ca: String,
    /// The hash of the CA's key, `sha256:…`.
    pub fingerprint: String,
    /// Why its own certificate is no good for the name that it was reached by, if it is none.
    pub unfit: Option<String>,
}

/// Looks at what a machine shows, without believing it.
///
/// # Errors
/// `Unreachable`, `Tls`; `Address` where what answers shows no CA.
pub async fn look(remote: &Remote) -> Result<Shown, RemoteError> {
    let provider = Arc::new(ring::default_provider());
    let seen = Arc::new(Onlooker {
        chain: Mutex::default(),
        provider: provider.clone(),
    });
    let failed = |e: TlsError| remote.tls(io::Error::other(e));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    drop(remote.connected(Arc::new(config)).await?);
    let chain = std::mem::take(&mut *seen.chain.lock().unwrap_or_else(PoisonError::into_inner));
    let [leaf, .., ca] = chain.as_slice() else {
        return Err(remote.tls(io::Error::other(
            "what answers there shows no CA; it is no machine of Coracle's",
        )));
    };
    let key = Seen::read(ca)
        .map_err(|e| remote.tls(io::Error::other(e)))?
        .key;
    let unfit = is_for(ca, leaf, remote.host.clone())
        .err()
        .map(|e| e.to_string());
    Ok(Shown {
        ca: pem(ca),
        fingerprint: format!("{SHA256}{key}"),
        unfit,
    })
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = data_encoding::BASE64.encode(certificate);
    let lines = text.as_bytes().chunks(64);
    let lines: Vec<&str> = lines.filter_map(|l| std::str::from_utf8(l).ok()).collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

/// Remembers the certificates that it is shown. Nobody speaks with a machine over a connection that this one has let pass.
#[derive(Debug)]
struct Onlooker {
    chain: Mutex<Vec<CertificateDer<'static>>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Onlooker {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let all = std::iter::once(leaf).chain(rest);
        let all = all.map(|certificate| certificate.clone().into_owned());
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = all.collect();
        Ok(ServerCertVerified::assertion())
    }

    signatures_of_tls13!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, host, port) in [
            ("web1", "web1", 2376),
            ("web1:1", "web1", 1),
            ("192.0.2.1:2376/", "192.0.2.1", 2376),
            ("[2001:db8::1]:3", "2001:db8::1", 3),
            ("[2001:db8::1]", "2001:db8::1", 2376),
            ("2001:db8::1", "2001:db8::1", 2376),
        ] {
            let host = host.to_owned();
            assert_eq!(Remote::read(text).unwrap(), Remote { host, port }, "{text}");
        }
        for text in ["", ":1", "a:0", "a:b", "a b", "a:70000", "[a", "http://a"] {
            assert!(Remote::read(text).is_err(), "{text}");
        }
    }
}
