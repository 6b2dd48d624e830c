//! A client's key and the certificate that it signs itself.

use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, SanType, SerialNumber,
};
use time::OffsetDateTime;

use super::{CLIENT_DOMAIN, SHA256};
use crate::pki::{Fingerprint, PkiError, Seen, chain};

/// For clocks that are slow.
const SKEW: Duration = Duration::from_secs(3600);

/// A key and its certificate, as files have them.
pub struct Pair {
    /// The certificate in PEM.
    pub certificate: String,
    /// The key in PEM (PKCS #8). A secret.
    pub key: String,
    /// The key's fingerprint, by which it is let in.
    pub fingerprint: Fingerprint,
    /// The certificate's serial number, in hexadecimal.
    pub serial: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the key.
        f.debug_tuple("Pair").field(&self.fingerprint).finish()
    }
}

impl Pair {
    /// A new one (ECDSA P-256) for that name, which counts from an hour before `now` until `until`.
    ///
    /// # Errors
    /// `Make` where the system has no random bytes, or the name cannot stand in a certificate.
    pub fn make(name: &str, now: SystemTime, until: SystemTime) -> Result<Self, PkiError> {
        let making = PkiError::make("a client's certificate");
        let key = KeyPair::generate().map_err(PkiError::make("a client's key"))?;
        let fingerprint = Fingerprint::of(&key.subject_public_key_info());
        let mut params = CertificateParams::default();
        params.not_before = OffsetDateTime::from(now - SKEW);
        params.not_after = OffsetDateTime::from(until);
        params.distinguished_name = Default::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let full = format!("{name}{CLIENT_DOMAIN}");
        let full = full.as_str().try_into().map_err(&making)?;
        params.subject_alt_names = vec![SanType::DnsName(full)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        // Of the key, so that it is nobody else's; positive, as RFC 5280 wants it.
        let mut serial = fingerprint.0[..8].to_vec();
        serial[0] = (serial[0] & 0x7f) | 0x40;
        params.serial_number = Some(SerialNumber::from(serial.clone()));
        let certificate = params.self_signed(&key).map_err(making)?;
        Ok(Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            fingerprint,
            serial: hex::encode(serial),
        })
    }
}

/// Why a text names no key.
#[derive(Debug, thiserror::Error)]
#[error(
    "\"{0}\" is no fingerprint of a key; write {SHA256} and 64 hexadecimal digits, as `coracle client request` prints it"
)]
pub struct PinError(String);

/// A line as `coracle client request` prints it: `sha256:…`, and behind a space what the client is called here.
///
/// # Errors
/// [`PinError`].
pub fn read_pin(line: &str) -> Result<(Fingerprint, String), PinError> {
    let mut words = line.trim().splitn(2, char::is_whitespace);
    let first = words.next().unwrap_or_default();
    let bad = || PinError(first.chars().take(80).collect());
    let digits = first.strip_prefix(SHA256).ok_or_else(bad)?;
    let key = Fingerprint::try_from(digits.to_owned()).map_err(|_| bad())?;
    let name = words.next().map(str::trim).filter(|name| !name.is_empty());
    let name = name.map_or_else(|| format!("key-{}", &digits[..8]), str::to_owned);
    Ok((key, name))
}

/// The fingerprint of the key of a certificate in PEM, its serial number in hexadecimal, and until when it counts.
///
/// # Errors
/// `Foreign` for what is no certificate.
pub fn fingerprint_of(pem: &str) -> Result<(Fingerprint, String, SystemTime), PkiError> {
    let certificate = chain(pem)?.swap_remove(0);
    let seen = Seen::read(&certificate)?;
    Ok((seen.key, seen.serial, seen.not_after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_carried_about() {
        let digits = "ab".repeat(32);
        let (key, name) = read_pin(&format!(" sha256:{digits}  ann's laptop ")).unwrap();
        assert_eq!(
            (key, name.as_str()),
            (Fingerprint([0xab; 32]), "ann's laptop")
        );
        let (_, name) = read_pin(&format!("sha256:{digits}")).unwrap();
        assert_eq!(name, "key-abababab");
        for bad in [
            "",
            &digits,
            "sha256:ab",
            &format!("sha256:{digits}0"),
            "sha256:xy",
        ] {
            assert!(
                read_pin(bad)
                    .unwrap_err()
                    .to_string()
                    .contains("no fingerprint")
            );
        }
    }

    #[test]
    fn a_pair_is_a_clients() {
        let now = SystemTime::now();
        let pair = Pair::make("ann", now, now + Duration::from_secs(60)).unwrap();
        let (key, serial, until) = fingerprint_of(&pair.certificate).unwrap();
        assert_eq!((key, &serial), (pair.fingerprint, &pair.serial));
        assert!(until <= now + Duration::from_secs(61));
        assert!(pair.key.contains("PRIVATE KEY"));
        assert!(!format!("{pair:?}").contains("PRIVATE"));
    }
}
