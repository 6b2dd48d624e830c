//! This machine's etcd goes along when the machine's address changes, which a daemon finds when it starts.
//!
//! ```text
//! another --advertise ──▶ a certificate for it ──▶ etcd ends ──▶ member.json ──▶ etcd runs there ──▶ the machine's facts say so
//!                                                                      who leads: etcd's list says so ◀──┘
//! ```
//! Killed anywhere on the way, the next daemon goes on: the file is written when nothing runs by the former one. Peers that look for
//! this machine where it was are reached by what its own etcd opens to them, so that a majority is there before the list is
//! right, unless each of two peers looks for the other where it was.

use super::Cluster;
use super::certify::certify;
use super::error::ClusterError;
use coracle_cluster::MachineId;
use coracle_cluster::member::config::MemberConfig;
use coracle_cluster::member::run::stop_all;
use coracle_cluster::pki::{Authority, Directory, Kind};
use coracle_engine::{Engine, full_error};
use std::net::SocketAddr;
use std::path::Path;

/// Has this machine's etcd, if there is one, run where the machine's door is. What cannot be done is said, and tried again by the next
/// daemon: what else runs here is to be looked after.
pub(super) async fn follow_address(
    engine: &Engine,
    dir: &Path,
    keys: &Directory,
    machine: &MachineId,
    door: SocketAddr,
) {
    // Where no address is known now, the former one is the best there is.
    if door.ip().is_unspecified() {
        return;
    }
    if let Err(error) = go_along(engine, dir, keys, machine, door).await {
        tracing::error!(
            error = full_error(&error),
            "this machine's etcd cannot be where the machine is, so the other voters may not find it; the next start of the daemon tries again"
        );
    }
}

async fn go_along(
    engine: &Engine,
    dir: &Path,
    keys: &Directory,
    machine: &MachineId,
    door: SocketAddr,
) -> Result<(), ClusterError> {
    let Some(config) = MemberConfig::load(dir)? else {
        return Ok(());
    };
    // A learner has the CA's key too, for what is its own.
    let authority = Authority::open(keys)?.ok_or(ClusterError::NoCaKey)?;
    certify(keys, machine, &[door.ip()], &authority, Kind::Peer)?;
    let moved = config.at(door);
    if moved == config {
        return Ok(());
    }
    tracing::warn!(
        from = config.peer_url(),
        to = moved.peer_url(),
        "this machine's address has changed, and its etcd goes along"
    );
    stop_all(engine).await?;
    Ok(moved.save(dir)?)
}

impl Cluster {
    /// What is to be said of this machine's address while the store does not answer.
    pub(super) fn moved(&self) -> Option<String> {
        let neighbours = self.neighbours.borrow();
        let known = &neighbours.get(self.machine.as_str())?.door;
        said(&self.door(), known, *self.keeps.borrow())
    }
}

/// Of a machine whose door is there, and was `known` to the others when the store answered last; `has_etcd` if it has the store. Pure.
fn said(door: &str, known: &str, has_etcd: bool) -> Option<String> {
    if door == known || door.is_empty() || known.is_empty() {
        return None;
    }
    Some(match has_etcd {
        true => format!(
            "This machine is at {door} and was at {known}, where the others with the store look for its etcd until most of them answer. Where most \
             of them have moved at once they cannot find each other: give them their former addresses back (--advertise), or go on with what one of \
             them has (`coracle cluster recover`)."
        ),
        false => format!(
            "This machine is at {door} and was at {known}, where those that have the store look for it. Where they have moved as well, they cannot tell \
             it: give it or one of them its former address back (--advertise)."
        ),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn who_moved_while_the_store_is_away_is_told_what_that_means() {
        let (new, old) = ("192.0.2.9:7373", "192.0.2.1:7373");
        assert_eq!(said(old, old, true), None);
        assert_eq!(said("", old, true), None);
        assert_eq!(said(new, "", true), None);
        let voter = said(new, old, true).unwrap();
        assert!(voter.contains("cannot find each other"), "{voter}");
        assert!(voter.contains("recover`"), "{voter}");
        let other = said(new, old, false).unwrap();
        assert!(other.contains("--advertise"), "{other}");
        assert!(!other.contains("recover`"), "{other}");
    }
}
