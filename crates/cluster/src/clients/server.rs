//! What a machine shows to workstations: a certificate of a CA of its own, made anew in time and when the machine's addresses change.
//!
//! | file in `STATE_DIR/api` | what |
//! | --- | --- |
//! | `ca.key`, `ca.pem` | the CA, made once, without an end; its certificate is what workstations have |
//! | `server.key`, `server.pem` | what is shown, for 30 days |
//! | `fingerprint` | the hash of the CA's key, `sha256:…`, for people to compare |
//! | `clients.json` | who may come in, as the store had it last |

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;

use super::SHA256;
use crate::pki::{Due, Fingerprint, PkiError, Seen, chain, private_directory, put};

const LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// For clocks that are slow.
const SKEW: Duration = Duration::from_secs(3600);
/// Addresses that a certificate is for at most; a machine with more has bridges of many networks.
const ADDRESSES: usize = 64;

struct Current {
    certified: Arc<CertifiedKey>,
    seen: Seen,
}

/// See the module. Behind an `Arc` it is what rustls asks for certificates.
pub struct Server {
    dir: PathBuf,
    ca: CertificateDer<'static>,
    ca_pem: String,
    pin: Fingerprint,
    issuer: Issuer<'static, KeyPair>,
    /// The CA counts from then on.
    earliest: SystemTime,
    current: RwLock<Option<Current>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Server").field(&self.pin).finish()
    }
}

fn text(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(PkiError::io("reading", path, e)),
    }
}

fn damaged(path: &Path, what: &'static str) -> impl Fn(String) -> PkiError {
    let path = path.to_owned();
    move |why| PkiError::Unusable {
        path: path.clone(),
        what,
        why,
    }
}

/// The key in a file, made if it is not there.
fn key(path: &Path) -> Result<KeyPair, PkiError> {
    match text(path)? {
        Some(pem) => {
            KeyPair::from_pem(&pem).map_err(|e| damaged(path, "key in PEM")(e.to_string()))
        }
        None => new_key(path),
    }
}

fn new_key(path: &Path) -> Result<KeyPair, PkiError> {
    let key = KeyPair::generate().map_err(PkiError::make("a key"))?;
    put(path, key.serialize_pem().as_bytes(), 0o600)?;
    Ok(key)
}

impl Server {
    /// What is in `dir`, which is made with a CA if there is none. There is no certificate to show before [`Self::look`].
    ///
    /// # Errors
    /// `Unusable` for files that are none of ours, `Io`, `Make`.
    pub fn open(dir: &Path, hostname: &str) -> Result<Self, PkiError> {
        private_directory(dir)?;
        let ca_key = key(&dir.join("ca.key"))?;
        let pin = Fingerprint::of(&ca_key.subject_public_key_info());
        let path = dir.join("ca.pem");
        let ca_pem = match text(&path)? {
            Some(pem) => pem,
            // Killed between the two, it makes the certificate of the key that is there.
            None => {
                let pem = authority(&ca_key, &pin, hostname)?;
                put(&path, pem.as_bytes(), 0o644)?;
                pem
            }
        };
        let bad = damaged(&path, "certificate of this machine's own CA");
        let ca = chain(&ca_pem)
            .map_err(|e| bad(e.to_string()))?
            .swap_remove(0);
        let seen = Seen::read(&ca).map_err(|e| bad(e.to_string()))?;
        if !seen.key.is(&pin) {
            return Err(bad("it is not of the key in ca.key".to_owned()));
        }
        let issuer = Issuer::from_ca_cert_der(&ca, ca_key).map_err(|e| bad(e.to_string()))?;
        let (told, line) = (dir.join("fingerprint"), format!("{SHA256}{pin}\n"));
        if text(&told)?.as_ref() != Some(&line) {
            put(&told, line.as_bytes(), 0o644)?;
        }
        let server = Self {
            dir: dir.to_owned(),
            ca,
            ca_pem,
            pin,
            issuer,
            earliest: seen.not_before,
            current: RwLock::default(),
        };
        server.load()?;
        Ok(server)
    }

    /// The CA's certificate in PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The hash of the CA's key, as people compare it.
    pub fn fingerprint(&self) -> String {
        format!("{SHA256}{}", self.pin)
    }

    /// Takes the certificate of before into use, if there is one; another is made for one that cannot be used.
    fn load(&self) -> Result<(), PkiError> {
        let Some(pem) = text(&self.dir.join("server.pem"))? else {
            return Ok(());
        };
        let used = chain(&pem).and_then(|mut chain| self.take(chain.swap_remove(0)));
        if let Err(error) = used {
            tracing::warn!(%error, "the certificate for workstations is made anew");
        }
        Ok(())
    }

    fn take(&self, leaf: CertificateDer<'static>) -> Result<(), PkiError> {
        let path = self.dir.join("server.key");
        let key = key(&path)?;
        let seen = Seen::read(&leaf)?;
        if !seen
            .key
            .is(&Fingerprint::of(&key.subject_public_key_info()))
        {
            return Err(damaged(&path, "key of server.pem")(
                "they are no pair".to_owned(),
            ));
        }
        let bad = damaged(&path, "key that can be used");
        let der = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| bad(e.to_owned()))?;
        let signing = rustls::crypto::ring::sign::any_ecdsa_type(&der);
        let signing = signing.map_err(|e| bad(e.to_string()))?;
        let certified = Arc::new(CertifiedKey::new(vec![leaf, self.ca.clone()], signing));
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Some(Current { certified, seen });
        Ok(())
    }

    /// Until when the certificate in use counts, if there is one.
    #[cfg(test)]
    fn until(&self) -> Option<SystemTime> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|current| current.seen.not_after)
    }

    /// Makes another certificate if a third or less of its time is left at `now`, if it does not count yet, or if it is not for all of these names
    /// and addresses. New connections have it; those that are open go on. Answers whether one was made.
    ///
    /// # Errors
    /// `Make`, `Io`; the former certificate stays in use.
    pub fn look(
        &self,
        now: SystemTime,
        names: &[String],
        addresses: &[IpAddr],
    ) -> Result<bool, PkiError> {
        let addresses: Vec<IpAddr> = addresses.iter().copied().take(ADDRESSES).collect();
        {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(Current { seen, .. }) = current.as_ref() {
                let due = Due::of(self.earliest, seen.not_before, seen.not_after);
                let counts = !due.wait(now, 0).is_zero();
                let names = names.iter().all(|name| seen.names.contains(name));
                let addresses = addresses.iter().all(|ip| seen.addresses.contains(ip));
                if counts && names && addresses {
                    return Ok(false);
                }
            }
        }
        let making = PkiError::make("a certificate for workstations");
        let path = self.dir.join("server.key");
        let key = match key(&path) {
            // Nobody knows the machine by this one.
            Err(PkiError::Unusable { .. }) => new_key(&path)?,
            key => key?,
        };
        let mut params = CertificateParams::default();
        params.not_before = OffsetDateTime::from(now - SKEW);
        params.not_after = OffsetDateTime::from(now + LIFE);
        params.distinguished_name = Default::default();
        let common = names.first().map_or("coracle", String::as_str);
        params.distinguished_name.push(DnType::CommonName, common);
        for name in names {
            let name = name.as_str().try_into().map_err(&making)?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        let addresses = addresses.into_iter().map(SanType::IpAddress);
        params.subject_alt_names.extend(addresses);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let made = params.signed_by(&key, &self.issuer).map_err(making)?;
        // In use before it is kept: a disk that is full must not keep anybody out.
        self.take(made.der().clone())?;
        put(&self.dir.join("server.pem"), made.pem().as_bytes(), 0o644)?;
        Ok(true)
    }
}

fn authority(key: &KeyPair, pin: &Fingerprint, hostname: &str) -> Result<String, PkiError> {
    let mut params = CertificateParams::default();
    // The key is what counts, and the clock may be wrong when it is made: no beginning, and no end (RFC 5280, 4.1.2.5).
    params.not_before = OffsetDateTime::UNIX_EPOCH;
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    params.distinguished_name = Default::default();
    // Two machines' CAs have two names, so that a verifier never tries the one's key on what the other signed.
    let name = format!("Coracle machine {hostname} {}", &pin.to_string()[..16]);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let made = params.self_signed(key);
    Ok(made.map_err(PkiError::make("this machine's own CA"))?.pem())
}

impl ResolvesServerCert for Server {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|current| current.certified.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn it_is_made_anew_in_time_and_for_other_addresses() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let open = || Server::open(&dir.path().join("api"), "web").unwrap();
        let server = open();
        let names = ["web".to_owned(), "localhost".to_owned()];
        let one = [IpAddr::from([192, 0, 2, 1])];
        assert_eq!(server.until(), None);
        assert!(server.look(now, &names, &one).unwrap());
        assert!(!server.look(now + 19 * DAY, &names, &one).unwrap());
        let before = server.until().unwrap();
        assert!(server.look(now + 21 * DAY, &names, &one).unwrap());
        assert!(server.until().unwrap() >= before + 20 * DAY);
        // A clock that went back: what is ahead of it is of no use.
        assert!(server.look(now, &names, &one).unwrap());
        // An address more is another certificate, one less is none.
        let two = [one[0], IpAddr::from([192, 0, 2, 2])];
        assert!(server.look(now, &names, &two).unwrap());
        assert!(!server.look(now, &names, &one).unwrap());
        // The next daemon has the same, of the same CA.
        let again = open();
        assert_eq!(again.fingerprint(), server.fingerprint());
        assert!(!again.look(now, &names, &two).unwrap());
        let told = fs::read_to_string(dir.path().join("api/fingerprint")).unwrap();
        assert_eq!(told.trim(), server.fingerprint());
        for (file, mode) in [("ca.key", 0o600), ("server.key", 0o600), ("ca.pem", 0o644)] {
            let found = fs::metadata(dir.path().join("api").join(file)).unwrap();
            assert_eq!(found.permissions().mode() & 0o777, mode, "{file}");
        }
        // A power cut may leave the keys alone.
        for file in ["ca.pem", "server.pem"] {
            fs::remove_file(dir.path().join("api").join(file)).unwrap();
        }
        let anew = open();
        assert_eq!(anew.fingerprint(), server.fingerprint());
        assert!(anew.look(now, &names, &one).unwrap());
    }
}
