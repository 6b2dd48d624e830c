//! Which of two stores counts, after one was made of what was left of the other.
//!
//! Each [`super::recover`] begins an *epoch*: a number higher than that of the store that was lost, and the machine that has the
//! new one. Machines ask each other for it (`GET /v1/cluster/epoch` at the door), and who learns of a higher one goes over to it:
//!
//! ```text
//! a b c vote, d does not; a and b are lost for good, as it seems
//! c    recover             epoch 1, the only member of a new etcd
//! d    store gone, asks    c says "epoch 1, at c": its store is c's from now on
//! a b  come back           before their etcd starts, and while it runs, they ask: c and d say "epoch 1, at c"
//!                          their old etcd ends, its data is put aside, they are machines without a vote
//! ```
//! The epoch stands in the store too ([`KEY`]), so that who comes later, or goes on without having asked, knows in which one it is.
//! To know of it is not to have gone over: what a machine's own etcd is part of says its name ([`MemberConfig::cluster`]).
//! If two machines made the store anew at the same time, the higher id counts.
//!
//! A machine believes that only with a proof: a certificate of the cluster's CA for a name that says number and machine. The CA's
//! key is on voters only, who are trusted with everything anyway; so no other machine can take the cluster over by a claim.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::config::MemberConfig;
use super::record::{cluster_of, epoch_of};
use super::recover::restored;
use super::{MemberError, files};
use crate::MachineId;
use crate::pki::{Authority, PkiError, vouched};

const FORMAT: u64 = 1;
/// Where it stands in the store.
pub const KEY: &str = "/coracle/v1/epoch";

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// Format of this value, 1.
    pub version: u64,
    /// Higher than that of the store before; a cluster begins with 0, of which there is no file.
    pub number: u64,
    /// Who made the store of this epoch.
    pub machine: MachineId,
    /// `ADDRESS:PORT` of its door then.
    pub address: String,
    /// The certificate for [`Self::name`], in PEM.
    pub proof: String,
}

/// A recovery that is on its way; its file goes when the new store says who has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovering {
    /// Format of this file, 1.
    pub version: u64,
    /// What it will be.
    pub number: u64,
    /// This machine had no CA's key, and makes itself a CA of its own.
    pub new_ca: bool,
    /// It has made it.
    #[serde(default)]
    pub ca_made: bool,
}

impl Epoch {
    /// Proved by that CA.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub fn new(
        authority: &Authority,
        number: u64,
        machine: MachineId,
        address: String,
    ) -> Result<Self, PkiError> {
        Ok(Self {
            proof: authority.vouch(&name(number, &machine))?,
            version: FORMAT,
            number,
            machine,
            address,
        })
    }

    /// Whether it counts, and not the one that is known.
    pub fn beats(&self, known: Option<&Self>) -> bool {
        known.is_none_or(|known| (self.number, &self.machine) > (known.number, &known.machine))
    }

    /// Whether its store took the place of the one that an etcd run by that configuration is part of. That etcd counts no more then,
    /// also where this epoch is known already.
    pub fn ends(&self, config: &MemberConfig) -> bool {
        (self.number, self.machine.as_str()) > epoch_of(&config.cluster)
    }

    /// Whether it is proved by the CA with that certificate.
    ///
    /// # Errors
    /// `Unfit` where it is not, `Foreign` for what is no certificate.
    pub fn verify(&self, ca: &CertificateDer<'static>) -> Result<(), PkiError> {
        vouched(ca, &name(self.number, &self.machine), &self.proof)
    }

    /// What this machine knows of, by the file below `dir` (`STATE_DIR/cluster`); None while the cluster's first store counts.
    ///
    /// # Errors
    /// `File`, `Format`, `UnknownFormat`.
    pub fn load(dir: &Path) -> Result<Option<Self>, MemberError> {
        files::read(&epoch_path(dir), FORMAT)
    }

    /// Writes it, to be there after a power cut.
    ///
    /// # Errors
    /// `File`.
    pub fn save(&self, dir: &Path) -> Result<(), MemberError> {
        files::write(&epoch_path(dir), self)
    }
}

impl Recovering {
    /// Of that number.
    pub fn new(number: u64, new_ca: bool) -> Self {
        Self {
            version: FORMAT,
            number,
            new_ca,
            ca_made: false,
        }
    }

    /// Whether the new etcd is in the old one's place on that machine, which goes on with it then; before, the recovery is to be said
    /// again, and nothing of it counts. `dir` is `STATE_DIR/cluster`.
    pub fn is_in_place(&self, dir: &Path, machine: &MachineId) -> bool {
        restored(dir) == Some(cluster_of(machine, self.number))
    }

    /// What is on its way on this machine.
    ///
    /// # Errors
    /// `File`, `Format`, `UnknownFormat`.
    pub fn load(dir: &Path) -> Result<Option<Self>, MemberError> {
        files::read(&recovering_path(dir), FORMAT)
    }

    /// Writes it, to be there after a power cut.
    ///
    /// # Errors
    /// `File`.
    pub fn save(&self, dir: &Path) -> Result<(), MemberError> {
        files::write(&recovering_path(dir), self)
    }

    /// It is done, or was given up.
    ///
    /// # Errors
    /// `File`.
    pub fn remove(dir: &Path) -> Result<(), MemberError> {
        files::remove(&recovering_path(dir))?;
        files::sync_dir(dir)
    }
}

/// Forgets both: this machine leaves its cluster.
///
/// # Errors
/// `File`.
pub fn forget(dir: &Path) -> Result<(), MemberError> {
    files::remove(&recovering_path(dir))?;
    files::remove(&epoch_path(dir))
}

fn name(number: u64, machine: &MachineId) -> String {
    format!("epoch-{number}.{machine}.recovered.coracle.internal")
}

fn epoch_path(dir: &Path) -> PathBuf {
    dir.join("epoch.json")
}

fn recovering_path(dir: &Path) -> PathBuf {
    dir.join("recovering.json")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pki::Directory;

    const C: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn only_the_clusters_ca_proves_it() {
        let (ours, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let found = |dir: &Path| Authority::found(&Directory::open(dir).unwrap()).unwrap();
        let (ours, others) = (found(ours.path()), found(others.path()));
        let machine: MachineId = C.parse().unwrap();
        let epoch = Epoch::new(&ours, 3, machine, "192.0.2.3:7373".into()).unwrap();
        epoch.verify(ours.certificate()).unwrap();
        assert!(epoch.verify(others.certificate()).is_err());
        assert!(epoch.beats(None) && !epoch.beats(Some(&epoch)));
        let later = Epoch {
            number: 4,
            machine: "0".repeat(32).parse().unwrap(),
            ..epoch.clone()
        };
        assert!(later.beats(Some(&epoch)) && !epoch.beats(Some(&later)));
        let other = |change: fn(&mut Epoch)| {
            let mut epoch = epoch.clone();
            change(&mut epoch);
            epoch.verify(ours.certificate())
        };
        assert!(other(|e| e.number = 4).is_err());
        assert!(other(|e| e.machine = "f".repeat(32).parse().unwrap()).is_err());
        assert!(other(|e| e.proof = "nothing".into()).is_err());
    }

    #[test]
    fn it_ends_what_was_before_it() {
        let (dir, machine) = (
            tempfile::tempdir().unwrap(),
            C.parse::<MachineId>().unwrap(),
        );
        let authority = Authority::found(&Directory::open(dir.path()).unwrap()).unwrap();
        let epoch = Epoch::new(&authority, 2, machine.clone(), "192.0.2.3:7373".into()).unwrap();
        let first =
            MemberConfig::first(dir.path(), machine.clone(), [192, 0, 2, 3].into(), 1, None);
        let of = |machine: &MachineId, number| MemberConfig {
            cluster: cluster_of(machine, number),
            ..first.clone()
        };
        let (lower, higher): (MachineId, MachineId) = (
            "0".repeat(32).parse().unwrap(),
            "f".repeat(32).parse().unwrap(),
        );
        assert!(epoch.ends(&first) && epoch.ends(&of(&higher, 1)) && epoch.ends(&of(&lower, 2)));
        assert!(!epoch.ends(&of(&machine, 2)) && !epoch.ends(&of(&higher, 2)));
        assert!(!epoch.ends(&of(&lower, 3)));
    }

    #[test]
    fn files_come_back_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Epoch::load(dir.path()).unwrap(), None);
        let recovering = Recovering::new(1, true);
        recovering.save(dir.path()).unwrap();
        assert_eq!(Recovering::load(dir.path()).unwrap(), Some(recovering));
        Recovering::remove(dir.path()).unwrap();
        Recovering::remove(dir.path()).unwrap();
        assert_eq!(Recovering::load(dir.path()).unwrap(), None);
        forget(dir.path()).unwrap();
    }
}
