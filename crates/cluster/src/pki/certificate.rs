//! What a certificate says.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::{MACHINE_DOMAIN, PkiError};
use crate::MachineId;

/// SHA-256 of a public key (its SubjectPublicKeyInfo in DER, RFC 5280); written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Of that SubjectPublicKeyInfo.
    pub fn of(spki: &[u8]) -> Self {
        Self(Sha256::digest(spki).into())
    }

    /// Whether both are the same, in the same time whether or not.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, hex::FromHexError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

impl From<Fingerprint> for String {
    fn from(print: Fingerprint) -> Self {
        print.to_string()
    }
}

/// What is looked at in a certificate that was verified before.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The machine that it is for: its common name, if that is a machine's id and the name below
    /// `machine.coracle.internal` says the same. Certificates for etcd's peers name no machine here.
    pub machine: Option<MachineId>,
    /// Its common name.
    pub common_name: String,
    /// It counts from then on.
    pub not_before: SystemTime,
    /// From then on it counts no more.
    pub not_after: SystemTime,
    /// Its key's.
    pub key: Fingerprint,
    /// The IP addresses that it is for besides its names.
    pub addresses: Vec<IpAddr>,
    /// The DNS names that it is for.
    pub names: Vec<String>,
    /// It says that it is a client's, and neither a server's nor a CA's.
    pub is_clients: bool,
    /// Its serial number, in hexadecimal.
    pub serial: String,
}

/// An address as it stands in a certificate: 4 or 16 bytes.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

impl Seen {
    /// Reads a certificate. Nothing is verified.
    ///
    /// # Errors
    /// `Foreign` where it is none.
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Self, PkiError> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|e| PkiError::Foreign {
                what: "certificate",
                source: Some(e.to_string().into()),
            })?;
        let common_name = parsed.subject().iter_common_name().next();
        let common_name = common_name.and_then(|name| name.as_str().ok());
        let common_name = common_name.unwrap_or_default().to_owned();
        let expected = format!("{common_name}{MACHINE_DOMAIN}");
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.map(|names| names.value.general_names.as_slice());
        let names = names.unwrap_or_default();
        let dns = names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        let dns: Vec<String> = dns.collect();
        let named = dns.contains(&expected);
        let usage = parsed.extended_key_usage().ok().flatten();
        let is_clients = usage.is_some_and(|usage| {
            usage.value.client_auth && !usage.value.server_auth && !usage.value.any
        }) && !parsed.is_ca();
        let addresses = names.iter().filter_map(|name| match name {
            GeneralName::IPAddress(bytes) => address(bytes),
            _ => None,
        });
        let addresses = addresses.collect();
        let time = |time: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(time).unwrap_or(0));
        Ok(Self {
            machine: common_name.parse().ok().filter(|_| named),
            common_name,
            not_before: time(parsed.validity().not_before.timestamp()),
            // The second that stands there is its last.
            not_after: time(parsed.validity().not_after.timestamp().saturating_add(1)),
            key: Fingerprint::of(parsed.public_key().raw),
            addresses,
            names: dns,
            is_clients,
            serial: hex::encode(parsed.raw_serial()),
        })
    }
}

/// The certificates in a PEM text, at least one.
pub(crate) fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let wrong = |source| PkiError::Foreign {
        what: "certificate in PEM",
        source,
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| wrong(Some(e.into())))?;
    if chain.is_empty() {
        return Err(wrong(None));
    }
    Ok(chain)
}
