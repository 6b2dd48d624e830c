//! Certificates of this machine's own making.

use super::ClusterError;
use coracle_cluster::MachineId;
use coracle_cluster::member::config::PeerTls;
use coracle_cluster::pki::{Authority, Directory, Identity, Item, Kind, PEER_NAME};
use std::net::IpAddr;
use std::sync::Arc;

/// This machine's certificate of a CA whose key is here, made if there is none for these addresses.
pub(super) fn certify(
    keys: &Directory,
    machine: &MachineId,
    addresses: &[IpAddr],
    authority: &Authority,
    kind: Kind,
) -> Result<Arc<Identity>, ClusterError> {
    if let Some(known) = Identity::open(keys, kind, machine)? {
        let named = known.seen().addresses;
        if addresses.iter().all(|address| named.contains(address)) {
            return Ok(known);
        }
    }
    let asked = Identity::ask(keys, kind, machine)?;
    let certificate = match kind {
        Kind::Machine => authority.machine(&asked.pem, machine, addresses)?,
        Kind::Peer => authority.peer(&asked.pem, machine, addresses)?,
    };
    let (pin, ca) = (authority.pin(), authority.certificate_pem());
    Ok(Identity::install(
        keys,
        kind,
        machine,
        &pin,
        ca,
        &certificate,
    )?)
}

/// Where etcd finds the certificates for its peers, or will find them.
pub(super) fn peer_tls(keys: &Directory) -> PeerTls {
    PeerTls {
        ca: keys.path(Item::CaCertificate),
        certificate: keys.path(Item::PeerCertificate),
        key: keys.path(Item::PeerKey),
        allowed_name: Some(PEER_NAME.to_owned()),
    }
}
