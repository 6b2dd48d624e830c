//! How this machine's etcd is run: `STATE_DIR/cluster/etcd/member.json`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::find::Program;
use super::{MemberError, files};
use crate::MachineId;

const FORMAT: u64 = 1;

/// Revisions of history that etcd keeps; it looks every five minutes.
const KEEP: u64 = 10_000;

/// Changes that etcd gathers before it writes them to its database (its log has them at once). etcd 3.4 copies what it has gathered for
/// each read and each sign of life, so that with its own default (10,000) reads beside many writes take four times as long.
const UNWRITTEN: u64 = 200;

/// Whether the member is one of a new cluster's first, or comes to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Initial {
    /// Its first member.
    New,
    /// Was added to one that runs.
    Existing,
}

/// Certificates for etcd's peers, in PEM files that it reads at each connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerTls {
    /// Who vouches for the others.
    pub ca: PathBuf,
    /// This machine's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The common name that the others' certificates must have; without one any of the CA's will do.
    pub allowed_name: Option<String>,
}

/// This machine's etcd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberConfig {
    /// Format of this file, 1.
    pub version: u64,
    /// The machine, by which the member is named.
    pub name: MachineId,
    /// Where etcd keeps what it has.
    pub data_dir: PathBuf,
    /// The address that the other machines reach this one at.
    pub advertise: IpAddr,
    /// The port for peers.
    pub peer_port: u16,
    /// The port for clients, on loopback.
    pub client_port: u16,
    /// Every member's name and URL for peers when this one begins, its own too.
    pub initial_cluster: Vec<(String, String)>,
    /// Whether the cluster is there already then.
    pub initial: Initial,
    /// A name for the cluster, so that members of another do not talk to it by mistake.
    pub cluster: String,
    /// Certificates for peers. Without, peers are not encrypted: only for tests.
    pub tls: Option<PeerTls>,
    /// The program.
    pub program: Program,
    /// etcd's id for the member that this is, once it is known: a machine that was taken out and comes back is another one.
    #[serde(default)]
    pub member: Option<u64>,
}

/// Where the etcd of a machine with that door is reached by its peers, with certificates.
pub fn peer_url_beside(door: SocketAddr) -> String {
    let port = door.port().saturating_add(1);
    format!("https://{}", SocketAddr::new(door.ip(), port))
}

/// Where clients of the machine itself reach an etcd beside that door.
pub fn client_url_beside(door: SocketAddr) -> String {
    format!("http://127.0.0.1:{}", door.port().saturating_add(2))
}

impl MemberConfig {
    /// The first member of a cluster of its own, below `dir` (`STATE_DIR/cluster`). Its ports follow the door's.
    pub fn first(
        dir: &Path,
        name: MachineId,
        advertise: IpAddr,
        door: u16,
        tls: Option<PeerTls>,
    ) -> Self {
        let mut config = Self {
            version: FORMAT,
            cluster: format!("coracle-{name}"),
            name,
            data_dir: dir.join("etcd/data"),
            advertise,
            peer_port: door.saturating_add(1),
            client_port: door.saturating_add(2),
            initial_cluster: Vec::new(),
            initial: Initial::New,
            tls,
            program: Program::Host { path: None },
            member: None,
        };
        config.initial_cluster = vec![(config.name.to_string(), config.peer_url())];
        config
    }

    /// Where the file is below `dir` (`STATE_DIR/cluster`).
    pub fn path(dir: &Path) -> PathBuf {
        dir.join("etcd/member.json")
    }

    /// Reads it; None where this machine has no etcd.
    ///
    /// # Errors
    /// `File`, `Format`, `UnknownFormat`.
    pub fn load(dir: &Path) -> Result<Option<Self>, MemberError> {
        files::read(&Self::path(dir), FORMAT)
    }

    /// Writes it, to be there after a power cut.
    ///
    /// # Errors
    /// `File`.
    pub fn save(&self, dir: &Path) -> Result<(), MemberError> {
        files::write(&Self::path(dir), self)
    }

    /// Where peers reach it.
    pub fn peer_url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!(
            "{scheme}://{}",
            SocketAddr::new(self.advertise, self.peer_port)
        )
    }

    /// The same member on a machine whose door is there now.
    #[must_use]
    pub fn at(&self, door: SocketAddr) -> Self {
        Self {
            advertise: door.ip(),
            peer_port: door.port().saturating_add(1),
            client_port: door.port().saturating_add(2),
            ..self.clone()
        }
    }

    /// Whether it was one of its cluster once: its log is there. The directory and its database are made before an etcd that comes to
    /// others knows whether these let it in.
    pub fn has_begun(&self) -> bool {
        let log = std::fs::read_dir(self.data_dir.join("member/wal"));
        let is_log = |entry: std::fs::DirEntry| {
            let path = entry.path();
            path.extension().is_some_and(|extension| extension == "wal")
        };
        log.into_iter().flatten().flatten().any(is_log)
    }

    /// Where clients of this machine reach it.
    pub fn client_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// What `etcd` and `etcdctl snapshot restore` are both told.
    pub fn identity(&self) -> Vec<String> {
        let cluster: Vec<_> = self
            .initial_cluster
            .iter()
            .map(|(name, url)| format!("{name}={url}"))
            .collect();
        vec![
            format!("--name={}", self.name),
            format!("--data-dir={}", self.data_dir.display()),
            format!("--initial-advertise-peer-urls={}", self.peer_url()),
            format!("--initial-cluster={}", cluster.join(",")),
            format!("--initial-cluster-token={}", self.cluster),
        ]
    }

    /// What `etcd` is told.
    pub fn arguments(&self) -> Vec<String> {
        let state = match self.initial {
            Initial::New => "new",
            Initial::Existing => "existing",
        };
        let mut arguments = self.identity();
        arguments.extend([
            format!("--initial-cluster-state={state}"),
            format!("--listen-peer-urls={}", self.peer_url()),
            format!("--listen-client-urls={}", self.client_url()),
            format!("--advertise-client-urls={}", self.client_url()),
            "--auto-compaction-mode=revision".to_owned(),
            format!("--auto-compaction-retention={KEEP}"),
            format!("--backend-batch-limit={UNWRITTEN}"),
            // Who comes back from beyond a cut asks before it raises the term: it would depose a leader that serves.
            "--pre-vote".to_owned(),
            "--logger=zap".to_owned(),
            "--log-outputs=stderr".to_owned(),
        ]);
        if let Some(tls) = &self.tls {
            arguments.extend([
                "--peer-client-cert-auth".to_owned(),
                format!("--peer-trusted-ca-file={}", tls.ca.display()),
                format!("--peer-cert-file={}", tls.certificate.display()),
                format!("--peer-key-file={}", tls.key.display()),
            ]);
            if let Some(name) = &tls.allowed_name {
                arguments.push(format!("--peer-cert-allowed-cn={name}"));
            }
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(dir: &Path) -> MemberConfig {
        let name = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let tls = PeerTls {
            ca: "/c/ca.pem".into(),
            certificate: "/c/peer.pem".into(),
            key: "/c/peer.key".into(),
            allowed_name: Some("peer.coracle.internal".into()),
        };
        MemberConfig::first(dir, name, "fd00::1".parse().unwrap(), 7373, Some(tls))
    }

    #[test]
    fn it_comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(MemberConfig::load(dir.path()).unwrap(), None);
        let config = config(dir.path());
        config.save(dir.path()).unwrap();
        assert_eq!(MemberConfig::load(dir.path()).unwrap(), Some(config));
        let path = MemberConfig::path(dir.path());
        std::fs::write(&path, "{\"version\": 7}").unwrap();
        let newer = MemberConfig::load(dir.path()).unwrap_err();
        assert!(matches!(newer, MemberError::UnknownFormat { found: 7, .. }));
        std::fs::write(&path, "{").unwrap();
        let broken = MemberConfig::load(dir.path()).unwrap_err();
        assert!(matches!(broken, MemberError::Format { .. }));
    }

    #[test]
    fn it_moves_with_its_door() {
        let before = config(Path::new("/s/cluster"));
        let moved = before.at("192.0.2.9:99".parse().unwrap());
        assert_eq!(moved.peer_url(), "https://192.0.2.9:100");
        assert_eq!(moved.client_url(), "http://127.0.0.1:101");
        assert_eq!(moved.at("[fd00::1]:7373".parse().unwrap()), before);
    }

    #[test]
    fn it_has_begun_when_there_is_a_log() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        assert!(!config.has_begun());
        let member = config.data_dir.join("member");
        std::fs::create_dir_all(member.join("snap")).unwrap();
        std::fs::write(member.join("snap/db"), "").unwrap();
        assert!(!config.has_begun(), "the others have not let it in yet");
        std::fs::create_dir_all(member.join("wal")).unwrap();
        assert!(!config.has_begun());
        std::fs::write(member.join("wal/0-0.wal"), "").unwrap();
        assert!(config.has_begun());
    }

    #[test]
    fn peers_show_certificates_and_clients_are_on_loopback() {
        let arguments = config(Path::new("/s/cluster")).arguments();
        for wanted in [
            "--data-dir=/s/cluster/etcd/data",
            "--initial-cluster=0123456789abcdef0123456789abcdef=https://[fd00::1]:7374",
            "--listen-peer-urls=https://[fd00::1]:7374",
            "--listen-client-urls=http://127.0.0.1:7375",
            "--peer-client-cert-auth",
            "--peer-cert-allowed-cn=peer.coracle.internal",
            "--initial-cluster-state=new",
            "--pre-vote",
        ] {
            assert!(
                arguments.iter().any(|a| a == wanted),
                "{wanted}: {arguments:?}"
            );
        }
    }
}
