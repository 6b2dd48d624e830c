//! The CA: made once, its key on voters.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use super::certificate::chain;
use super::{DOOR_NAME, Directory, Fingerprint, Item, MACHINE_DOMAIN, PEER_NAME, PkiError, Seen};
use crate::MachineId;

/// How long the CA's own certificate counts.
const YEARS_20: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// How long the certificates that are issued count.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// From now on. Default 30 days.
    pub machine: Duration,
    /// And before now, for clocks that are slow. Default 1 hour.
    pub skew: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            machine: Duration::from_secs(30 * 24 * 3600),
            skew: Duration::from_secs(3600),
        }
    }
}

/// The CA of a cluster, where its key is.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    pin: Fingerprint,
    lifetimes: Lifetimes,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the key.
        f.debug_tuple("Authority").field(&self.pin).finish()
    }
}

impl Authority {
    /// The CA whose key is in `dir`; made if there is none. What was cut short is made whole.
    ///
    /// # Errors
    /// `NotFounder` where this machine has the certificate of another's CA, `Mismatch`, `Damaged`, `Io`.
    pub fn found(dir: &Directory) -> Result<Self, PkiError> {
        if let Some(known) = Self::open(dir)? {
            return Ok(known);
        }
        let key = match dir.text(Item::CaKey, "key in PEM")? {
            Some(pem) => read_key(dir, Item::CaKey, &pem)?,
            None if dir.read(Item::CaCertificate)?.is_some() => {
                return Err(PkiError::NotFounder {
                    path: dir.path(Item::CaCertificate),
                });
            }
            None => {
                let key = KeyPair::generate().map_err(PkiError::make("the CA's key"))?;
                dir.write(Item::CaKey, key.serialize_pem().as_bytes())?;
                key
            }
        };
        let certificate = params(&key)
            .self_signed(&key)
            .map_err(PkiError::make("the CA's certificate"))?;
        dir.write(Item::CaCertificate, certificate.pem().as_bytes())?;
        Self::of(dir, key, certificate.pem())
    }

    /// The CA whose key and certificate are in `dir`; None where one of them is not.
    ///
    /// # Errors
    /// `Mismatch`, `Damaged`, `Io`.
    pub fn open(dir: &Directory) -> Result<Option<Self>, PkiError> {
        let key = dir.text(Item::CaKey, "key in PEM")?;
        let certificate = dir.text(Item::CaCertificate, "certificate in PEM")?;
        let (Some(key), Some(certificate)) = (key, certificate) else {
            return Ok(None);
        };
        Self::of(dir, read_key(dir, Item::CaKey, &key)?, certificate).map(Some)
    }

    /// Keeps the CA's key that a voter gave to this machine, which has the certificate already and becomes a voter too.
    ///
    /// # Errors
    /// `Foreign` for what is no key, `Unfit` for another CA's, `Damaged`, `Io`.
    pub fn adopt(dir: &Directory, key_pem: &str) -> Result<Self, PkiError> {
        let unfit = |why: &str| PkiError::Unfit {
            why: why.to_owned(),
        };
        let key = KeyPair::from_pem(key_pem).map_err(|e| PkiError::Foreign {
            what: "key in PEM",
            source: Some(e.into()),
        })?;
        let certificate = dir.text(Item::CaCertificate, "certificate in PEM")?;
        let certificate = certificate.ok_or_else(|| unfit("this machine is in no cluster"))?;
        let adopted = Self::of(dir, key, certificate);
        let adopted = adopted.map_err(|e| match e {
            PkiError::Mismatch { .. } => unfit("the key is another cluster's"),
            other => other,
        })?;
        dir.write(Item::CaKey, key_pem.as_bytes())?;
        Ok(adopted)
    }

    /// Removes the CA's key, and what is for etcd's peers, from a machine that is a voter no more.
    ///
    /// # Errors
    /// `Io`.
    pub fn forget(dir: &Directory) -> Result<(), PkiError> {
        dir.remove(Item::CaKey)?;
        dir.remove(Item::PeerCertificate)?;
        dir.remove(Item::PeerKey)
    }

    fn of(dir: &Directory, key: KeyPair, pem: String) -> Result<Self, PkiError> {
        let damaged = |source: Box<dyn std::error::Error + Send + Sync>| PkiError::Damaged {
            path: dir.path(Item::CaCertificate),
            what: "certificate in PEM",
            source: Some(source),
        };
        let certificate = chain(&pem).map_err(|e| damaged(e.into()))?.swap_remove(0);
        let pin = Seen::read(&certificate).map_err(|e| damaged(e.into()))?.key;
        if Fingerprint::of(&key.subject_public_key_info()) != pin {
            return Err(PkiError::Mismatch {
                key: dir.path(Item::CaKey),
                certificate: dir.path(Item::CaCertificate),
            });
        }
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&certificate, key).map_err(|e| damaged(e.into()))?,
            certificate,
            pem,
            pin,
            lifetimes: Lifetimes::default(),
        })
    }

    /// With other lifetimes of what is issued.
    pub fn with_lifetimes(mut self, lifetimes: Lifetimes) -> Self {
        self.lifetimes = lifetimes;
        self
    }

    /// The hash of the CA's key, which tokens carry.
    pub fn pin(&self) -> Fingerprint {
        self.pin
    }

    /// The CA's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The same in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// The CA's key in PEM, for a machine that becomes a voter.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate for a machine, as client and as server, in PEM. Of the request only the key is taken.
    ///
    /// # Errors
    /// `Foreign` for what is no request, or is not signed by its key.
    pub fn machine(
        &self,
        request: &str,
        machine: &MachineId,
        addresses: &[IpAddr],
    ) -> Result<String, PkiError> {
        let names = [format!("{machine}{MACHINE_DOMAIN}"), DOOR_NAME.to_owned()];
        self.issue(request, machine.as_str(), &names, addresses)
    }

    /// A certificate for a machine's etcd as a peer, in PEM; see [`PEER_NAME`].
    ///
    /// # Errors
    /// As [`Self::machine`].
    pub fn peer(
        &self,
        request: &str,
        machine: &MachineId,
        addresses: &[IpAddr],
    ) -> Result<String, PkiError> {
        let names = [format!("{machine}.{PEER_NAME}")];
        self.issue(request, PEER_NAME, &names, addresses)
    }

    /// A certificate for that name, in PEM, of a key that nobody has: that this CA says what the name says. It counts as long as
    /// the CA's own.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn vouch(&self, name: &str) -> Result<String, PkiError> {
        let making = PkiError::make("a certificate");
        let key = KeyPair::generate().map_err(&making)?;
        let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(&making)?;
        let now = SystemTime::now();
        params.not_before = OffsetDateTime::from(now - self.lifetimes.skew);
        params.not_after = OffsetDateTime::from(now + YEARS_20);
        params.distinguished_name = Default::default();
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        let issued = params.signed_by(&key, &self.issuer);
        Ok(issued.map_err(making)?.pem())
    }

    fn issue(
        &self,
        request: &str,
        common_name: &str,
        names: &[String],
        addresses: &[IpAddr],
    ) -> Result<String, PkiError> {
        let making = PkiError::make("a certificate");
        let request = read_request(request)?;
        let mut params = CertificateParams::default();
        let now = SystemTime::now();
        params.not_before = OffsetDateTime::from(now - self.lifetimes.skew);
        params.not_after = OffsetDateTime::from(now + self.lifetimes.machine);
        params.distinguished_name = Default::default();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        for name in names {
            let name = name.as_str().try_into().map_err(&making)?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        let addresses = addresses.iter().map(|ip| SanType::IpAddress(*ip));
        params.subject_alt_names.extend(addresses);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let issued = params.signed_by(&request.public_key, &self.issuer);
        Ok(issued.map_err(making)?.pem())
    }
}

/// The fingerprint of the key that a request for a certificate was made with and signed by.
///
/// # Errors
/// `Foreign` for what is no request, or is not signed by its key.
pub(crate) fn requested_key(request: &str) -> Result<Fingerprint, PkiError> {
    let key = read_request(request)?.public_key;
    Ok(Fingerprint::of(&key.subject_public_key_info()))
}

fn read_request(request: &str) -> Result<CertificateSigningRequestParams, PkiError> {
    CertificateSigningRequestParams::from_pem(request).map_err(|e| PkiError::Foreign {
        what: "request for a certificate in PEM",
        source: Some(e.into()),
    })
}

fn params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = SystemTime::now();
    params.not_before = OffsetDateTime::from(now - Lifetimes::default().skew);
    params.not_after = OffsetDateTime::from(now + YEARS_20);
    params.distinguished_name = Default::default();
    // Two clusters' CAs have two names, so that a verifier never tries the one's key on what the other signed.
    let pin = Fingerprint::of(&key.subject_public_key_info()).to_string();
    let name = format!("Coracle cluster {}", &pin[..16]);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub(crate) fn read_key(dir: &Directory, item: Item, pem: &str) -> Result<KeyPair, PkiError> {
    KeyPair::from_pem(pem).map_err(|e| PkiError::Damaged {
        path: dir.path(item),
        what: "key in PEM",
        source: Some(e.into()),
    })
}
