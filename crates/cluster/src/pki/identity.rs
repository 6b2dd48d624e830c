//! A machine's certificate in use: shown on connections, exchanged while they go on.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{RootCertStore, SignatureScheme};

use super::authority::read_key;
use super::certificate::chain;
use super::{Directory, Due, Fingerprint, Item, MACHINE_DOMAIN, PEER_NAME, PkiError, Seen};
use crate::MachineId;

/// Which of a machine's certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The machine's own, for the door.
    Machine,
    /// Its etcd's, for the other voters' etcd.
    Peer,
}

impl Kind {
    fn key(self) -> Item {
        match self {
            Self::Machine => Item::MachineKey,
            Self::Peer => Item::PeerKey,
        }
    }

    fn certificate(self) -> Item {
        match self {
            Self::Machine => Item::MachineCertificate,
            Self::Peer => Item::PeerCertificate,
        }
    }

    /// The name that a certificate of this kind must be for.
    fn name(self, machine: &MachineId) -> String {
        match self {
            Self::Machine => format!("{machine}{MACHINE_DOMAIN}"),
            Self::Peer => format!("{machine}.{PEER_NAME}"),
        }
    }
}

/// A request for a certificate.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The request, in PEM (PKCS #10), signed by the key.
    pub pem: String,
    /// The key's hash.
    pub key: Fingerprint,
}

struct Current {
    certified: Arc<CertifiedKey>,
    seen: Seen,
}

/// A machine's key and its newest certificate. Behind an `Arc` it is what rustls asks for certificates.
pub struct Identity {
    machine: MachineId,
    kind: Kind,
    dir: Directory,
    ca: CertificateDer<'static>,
    /// The CA counts from then on.
    earliest: SystemTime,
    pin: Fingerprint,
    key: Arc<dyn SigningKey>,
    current: RwLock<Current>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({}, {:?})", self.machine, self.kind)
    }
}

impl Identity {
    /// A request for a certificate with the key in `dir`, which is made if it is not there. The same key every time, so that who
    /// asks again is known again.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    pub fn ask(dir: &Directory, kind: Kind, machine: &MachineId) -> Result<Asked, PkiError> {
        let key = match dir.text(kind.key(), "key in PEM")? {
            Some(pem) => read_key(dir, kind.key(), &pem)?,
            None => {
                let key = KeyPair::generate().map_err(PkiError::make("a key"))?;
                dir.write(kind.key(), key.serialize_pem().as_bytes())?;
                key
            }
        };
        let making = PkiError::make("a request for a certificate");
        let params = CertificateParams::new(vec![kind.name(machine)]).map_err(&making)?;
        let request = params.serialize_request(&key).map_err(&making)?;
        Ok(Asked {
            pem: request.pem().map_err(making)?,
            key: Fingerprint::of(&key.subject_public_key_info()),
        })
    }

    /// Keeps what a cluster answered to the first request: its CA's certificate and ours. The CA must be the one that `pin` is of.
    ///
    /// # Errors
    /// `Foreign` for what are no certificates, `Unfit` for those that are not for us or of another CA; `Mismatch`, `Io`.
    pub fn install(
        dir: &Directory,
        kind: Kind,
        machine: &MachineId,
        pin: &Fingerprint,
        ca: &str,
        certificate: &str,
    ) -> Result<Arc<Self>, PkiError> {
        let ca_certificate = chain(ca)?.swap_remove(0);
        if !Seen::read(&ca_certificate)?.key.is(pin) {
            return Err(PkiError::Unfit {
                why: "its CA is not the one that is expected".to_owned(),
            });
        }
        let leaf = chain(certificate)?.swap_remove(0);
        fits(kind, machine, &ca_certificate, &leaf)?;
        let key = load_key(dir, kind)?;
        if fingerprint(&*key) != Some(Seen::read(&leaf)?.key) {
            return Err(PkiError::Unfit {
                why: "it is for another key".to_owned(),
            });
        }
        if let Some(known) = dir.text(Item::CaCertificate, "certificate in PEM")? {
            let known = chain(&known)?.swap_remove(0);
            let other = !Seen::read(&known)?.key.is(pin);
            if other && dir.read(Item::CaKey)?.is_some() {
                return Err(PkiError::Unfit {
                    why: "this machine has a cluster of its own; it has to leave that first"
                        .to_owned(),
                });
            }
        }
        dir.write(Item::CaCertificate, ca.as_bytes())?;
        dir.write(kind.certificate(), certificate.as_bytes())?;
        let opened = Self::open(dir, kind, machine)?;
        opened.ok_or_else(|| PkiError::Unfit {
            why: "its files are gone already".to_owned(),
        })
    }

    /// What is in `dir`; None where this machine has no certificate of that kind yet. One that has run out is read as well.
    ///
    /// # Errors
    /// `Damaged`, `Mismatch`, `Unfit` for another machine's, `Io`.
    pub fn open(
        dir: &Directory,
        kind: Kind,
        machine: &MachineId,
    ) -> Result<Option<Arc<Self>>, PkiError> {
        let what = "certificate in PEM";
        let certificate = dir.text(kind.certificate(), what)?;
        let ca = dir.text(Item::CaCertificate, what)?;
        let (Some(certificate), Some(ca)) = (certificate, ca) else {
            return Ok(None);
        };
        let read = |item: Item, pem: &str| {
            let read = chain(pem).and_then(|mut chain| {
                let first = chain.swap_remove(0);
                Ok((Seen::read(&first)?, first))
            });
            read.map_err(|e| PkiError::Damaged {
                path: dir.path(item),
                what,
                source: Some(e.into()),
            })
        };
        let (ca_seen, ca) = read(Item::CaCertificate, &ca)?;
        let (seen, leaf) = read(kind.certificate(), &certificate)?;
        if kind == Kind::Machine && seen.machine.as_ref() != Some(machine) {
            return Err(PkiError::Unfit {
                why: format!("it names {:?}, this machine is {machine}", seen.common_name),
            });
        }
        let key = load_key(dir, kind)?;
        if fingerprint(&*key) != Some(seen.key) {
            return Err(PkiError::Mismatch {
                key: dir.path(kind.key()),
                certificate: dir.path(kind.certificate()),
            });
        }
        let certified = CertifiedKey::new(vec![leaf, ca.clone()], key.clone());
        Ok(Some(Arc::new(Self {
            machine: machine.clone(),
            kind,
            dir: dir.clone(),
            ca,
            earliest: ca_seen.not_before,
            pin: ca_seen.key,
            key,
            current: RwLock::new(Current {
                certified: Arc::new(certified),
                seen,
            }),
        })))
    }

    /// Takes a new certificate into use: written first, then shown on new connections.
    ///
    /// # Errors
    /// `Foreign` for what is no certificate, `Unfit` for one of another CA, key or machine, or that counts no longer than the one
    /// in use; `Io`.
    pub fn replace(&self, certificate: &str) -> Result<(), PkiError> {
        let unfit = |why: &str| PkiError::Unfit {
            why: why.to_owned(),
        };
        let leaf = chain(certificate)?.swap_remove(0);
        fits(self.kind, &self.machine, &self.ca, &leaf)?;
        let seen = Seen::read(&leaf)?;
        if fingerprint(&*self.key) != Some(seen.key) {
            return Err(unfit("it is for another key"));
        }
        let current = self.seen();
        // One that does not count yet was issued by a clock that was fast, and is no loss.
        let counts = current.not_before <= SystemTime::now();
        if counts && seen.not_after < current.not_after {
            return Err(unfit("it runs out before the one in use"));
        }
        self.dir
            .write(self.kind.certificate(), certificate.as_bytes())?;
        let chain = vec![leaf, self.ca.clone()];
        let certified = Arc::new(CertifiedKey::new(chain, self.key.clone()));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Current { certified, seen };
        Ok(())
    }

    /// A request for the next certificate, with the same key.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn request(&self) -> Result<Asked, PkiError> {
        Self::ask(&self.dir, self.kind, &self.machine)
    }

    /// The machine that this is.
    pub fn machine(&self) -> &MachineId {
        &self.machine
    }

    /// The hash of the CA's key.
    pub fn pin(&self) -> Fingerprint {
        self.pin
    }

    /// The CA's certificate.
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// The CA as the only root.
    pub(crate) fn roots(&self) -> Result<Arc<RootCertStore>, PkiError> {
        roots(&self.ca)
    }

    /// What the certificate in use says.
    pub fn seen(&self) -> Seen {
        self.current().seen.clone()
    }

    /// When it is to be renewed, and when it runs out.
    pub fn due(&self) -> Due {
        let seen = self.seen();
        Due::of(self.earliest, seen.not_before, seen.not_after)
    }

    /// Whether it has run out: then no voter lets this machine in to renew it, and it takes a token again.
    pub fn is_expired(&self) -> bool {
        self.seen().not_after <= SystemTime::now()
    }

    /// The files that etcd is given: certificate, key and CA.
    pub fn files(&self) -> [PathBuf; 3] {
        [
            self.kind.certificate(),
            self.kind.key(),
            Item::CaCertificate,
        ]
        .map(|item| self.dir.path(item))
    }

    fn current(&self) -> std::sync::RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current().certified.clone())
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current().certified.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

pub(crate) fn roots(ca: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, PkiError> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(|e| PkiError::Foreign {
        what: "certificate of a CA",
        source: Some(e.into()),
    })?;
    Ok(Arc::new(roots))
}

fn fingerprint(key: &dyn SigningKey) -> Option<Fingerprint> {
    key.public_key().map(|spki| Fingerprint::of(&spki))
}

fn load_key(dir: &Directory, kind: Kind) -> Result<Arc<dyn SigningKey>, PkiError> {
    let path = dir.path(kind.key());
    let damaged = |source| PkiError::Damaged {
        path: path.clone(),
        what: "key in PEM",
        source,
    };
    let pem = dir.text(kind.key(), "key in PEM")?;
    let pem = pem.ok_or_else(|| damaged(None))?;
    let key = read_key(dir, kind.key(), &pem)?;
    let der = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| damaged(Some(e.into())))?;
    rustls::crypto::ring::sign::any_ecdsa_type(&der)
        .map_err(|source| PkiError::Key { path, source })
}

/// Whether a certificate is of that CA, counts now, and is for that machine.
fn fits(
    kind: Kind,
    machine: &MachineId,
    ca: &CertificateDer<'static>,
    leaf: &CertificateDer<'static>,
) -> Result<(), PkiError> {
    is_for(ca, leaf, kind.name(machine))?;
    if kind == Kind::Machine && Seen::read(leaf)?.machine.as_ref() != Some(machine) {
        return Err(PkiError::Unfit {
            why: format!("its common name is not {machine}"),
        });
    }
    Ok(())
}

/// Whether that certificate, in PEM, is of that CA and for that name: see [`super::Authority::vouch`].
pub(crate) fn vouched(ca: &CertificateDer<'static>, name: &str, pem: &str) -> Result<(), PkiError> {
    is_for(ca, &chain(pem)?.swap_remove(0), name.to_owned())
}

/// Whether a certificate is of that CA, counts now, and is for that name.
pub(crate) fn is_for(
    ca: &CertificateDer<'static>,
    leaf: &CertificateDer<'static>,
    name: String,
) -> Result<(), PkiError> {
    let unfit = |source: rustls::Error| PkiError::Unfit {
        why: source.to_string(),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(roots(ca)?, provider)
            .build()
            .map_err(|e| PkiError::Foreign {
                what: "certificate of a CA",
                source: Some(e.into()),
            })?;
    let name = ServerName::try_from(name).map_err(|e| PkiError::Unfit { why: e.to_string() })?;
    use rustls::client::danger::ServerCertVerifier as _;
    verifier
        .verify_server_cert(leaf, &[], &name, &[], UnixTime::now())
        .map_err(unfit)?;
    Ok(())
}
