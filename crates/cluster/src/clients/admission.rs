//! Who is let in, asked while TLS is agreed upon.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DistinguishedName, Error};
use tokio::sync::watch;

use super::{CLIENT_DOMAIN, Clients};
use crate::pki::Seen;
use crate::tls13::signatures_of_tls13;

/// What machines' and peers' names end with.
const INTERNAL: &str = ".coracle.internal";

/// Verifies a client's certificate by the list. That it has the key is proven by its signature of the handshake.
#[derive(Debug)]
pub(super) struct Admission {
    clients: watch::Receiver<Clients>,
    provider: Arc<CryptoProvider>,
}

impl Admission {
    pub(super) fn new(clients: watch::Receiver<Clients>, provider: Arc<CryptoProvider>) -> Self {
        Self { clients, provider }
    }
}

/// Whether somebody with that certificate may come in at `now`, and if not, why. Pure.
///
/// What TLS tells the client of it: `InvalidPurpose` is "unsupported certificate", `UnknownIssuer` "unknown CA", `Expired` and `NotValidYet`
/// "certificate expired", `ApplicationVerificationFailure` "access denied".
pub(super) fn judge(
    clients: &Clients,
    certificate: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<(), CertificateError> {
    let seen = Seen::read(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let expected = format!("{}{CLIENT_DOMAIN}", seen.common_name);
    if seen
        .names
        .iter()
        .any(|n| n.ends_with(INTERNAL) && *n != expected)
    {
        // A machine's, or its etcd's.
        return Err(CertificateError::InvalidPurpose);
    }
    if !seen.names.contains(&expected) {
        return Err(CertificateError::UnknownIssuer);
    }
    if !seen.is_clients {
        return Err(CertificateError::InvalidPurpose);
    }
    let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs());
    if now < seen.not_before {
        return Err(CertificateError::NotValidYet);
    }
    if now >= seen.not_after {
        return Err(CertificateError::Expired);
    }
    let allowed = clients.get(&seen.key);
    let allowed = allowed.ok_or(CertificateError::ApplicationVerificationFailure)?;
    match allowed.until {
        Some(until) if until <= now => Err(CertificateError::Expired),
        _ => Ok(()),
    }
}

impl ClientCertVerifier for Admission {
    /// None are named: a client is to show what it has.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        judge(&self.clients.borrow(), certificate, now)?;
        Ok(ClientCertVerified::assertion())
    }

    signatures_of_tls13!();
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::MachineId;
    use crate::clients::{Client, Pair};
    use crate::pki::{Authority, Directory, Fingerprint, Identity, Kind, chain};

    const HOUR: Duration = Duration::from_secs(3600);

    fn der(pem: &str) -> CertificateDer<'static> {
        chain(pem).unwrap().swap_remove(0)
    }

    fn of(key: Fingerprint, until: u64) -> Clients {
        let client = Client::new(key, "", 0, until, "");
        Clients::of(&BTreeMap::from([("ann".to_owned(), client)]), &[])
    }

    fn at(time: SystemTime) -> UnixTime {
        UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap())
    }

    #[test]
    fn by_the_list_and_by_time() {
        let now = SystemTime::now();
        let pair = Pair::make("ann", now, now + 10 * HOUR).unwrap();
        let certificate = der(&pair.certificate);
        let far = at(now).as_secs() + 360_000;
        let known = of(pair.fingerprint, far);
        let judge = |clients: &Clients, time| judge(clients, &certificate, at(time));
        assert_eq!(judge(&known, now), Ok(()));
        assert_eq!(
            judge(&known, now - 2 * HOUR),
            Err(CertificateError::NotValidYet)
        );
        assert_eq!(
            judge(&known, now + 11 * HOUR),
            Err(CertificateError::Expired)
        );
        // The entry ends before the certificate does.
        let short = of(pair.fingerprint, at(now).as_secs() + 60);
        assert_eq!(judge(&short, now), Ok(()));
        assert_eq!(judge(&short, now + HOUR), Err(CertificateError::Expired));
        let denied = Err(CertificateError::ApplicationVerificationFailure);
        assert_eq!(judge(&Clients::default(), now), denied);
        assert_eq!(judge(&of(Fingerprint([7; 32]), far), now), denied);
        // The configuration's has no end of its own.
        let pinned = Clients::of(&BTreeMap::new(), &[(pair.fingerprint, "ann".to_owned())]);
        assert_eq!(judge(&pinned, now + 9 * HOUR), Ok(()));
        assert_eq!(
            judge(&pinned, now + 11 * HOUR),
            Err(CertificateError::Expired)
        );
    }

    #[test]
    fn machines_are_no_clients_even_if_they_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Directory::open(dir.path()).unwrap();
        let authority = Authority::found(&keys).unwrap();
        let machine: MachineId = "0123456789abcdef0123456789abcdef".parse().unwrap();
        for kind in [Kind::Machine, Kind::Peer] {
            let asked = Identity::ask(&keys, kind, &machine).unwrap();
            let pem = match kind {
                Kind::Machine => authority.machine(&asked.pem, &machine, &[]),
                Kind::Peer => authority.peer(&asked.pem, &machine, &[]),
            };
            let far = at(SystemTime::now()).as_secs() + 3600;
            let refused = judge(&of(asked.key, far), &der(&pem.unwrap()), UnixTime::now());
            assert_eq!(refused, Err(CertificateError::InvalidPurpose), "{kind:?}");
        }
        let known = Clients::default();
        let ca = judge(&known, authority.certificate(), UnixTime::now());
        assert_eq!(ca, Err(CertificateError::UnknownIssuer));
        let noise = judge(
            &known,
            &CertificateDer::from(vec![1, 2, 3]),
            UnixTime::now(),
        );
        assert_eq!(noise, Err(CertificateError::BadEncoding));
    }
}
