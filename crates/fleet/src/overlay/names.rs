//! `STATE_DIR/cluster/names.json`: what runs on other machines, as it was known last. A daemon that comes up while the store is away goes by it.

use super::picture::NETWORK;
use crate::discovery::Announced;
use crate::model::VERSION;
use coracle_network::dns::{Ports, Remote};
use coracle_network::overlay::Peer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

const FILE: &str = "names.json";

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Names {
    version: u32,
    /// By what follows `/discovery/` in the key.
    instances: BTreeMap<String, Announced>,
}

impl Names {
    pub fn new(instances: BTreeMap<String, Announced>) -> Self {
        Self {
            version: VERSION,
            instances,
        }
    }

    /// Those that are on these machines.
    pub fn remote(&self, peers: &[Peer]) -> Vec<Remote> {
        let of = |(key, said): (&String, &Announced)| remote(key, said, peers);
        self.instances.iter().filter_map(of).collect()
    }

    /// Whole or not at all. A power cut may take it: the store has it.
    pub fn save(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)?;
        let new = dir.join("names.json.new");
        std::fs::write(&new, serde_json::to_vec(self)?)?;
        std::fs::rename(new, dir.join(FILE))
    }
}

/// What is there; nothing where there is nothing.
pub(super) fn load(dir: &Path) -> io::Result<Names> {
    match std::fs::read(dir.join(FILE)) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Names::default()),
        Err(error) => Err(error),
    }
}

/// An instance on one of these machines. Any machine may write such a key: an address is believed of the machine that has its subnet.
pub(super) fn remote(key: &str, said: &Announced, peers: &[Peer]) -> Option<Remote> {
    let (service, name) = key.split_once('/')?;
    // A global unit has the name on every machine.
    let suffix = crate::discovery::suffix(&said.machine);
    let name = name.strip_suffix(&suffix).unwrap_or(name);
    let peer = peers.iter().find(|p| p.machine == said.machine)?;
    let ip = *said.networks.get(NETWORK)?;
    peer.subnet.contains(&ip).then(|| Remote {
        machine: said.machine.clone(),
        service: service.to_owned(),
        name: name.to_owned(),
        container: said.container.clone(),
        ip,
        ports: Ports::read(&said.ports),
        healthy: true,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).unwrap(), Names::default());
        let said = Announced {
            version: VERSION,
            address: None,
            address6: None,
            networks: [(NETWORK.to_owned(), "10.212.0.5".parse().unwrap())].into(),
            ports: Vec::new(),
            unit: None,
            machine: "b".into(),
            container: "0".repeat(64),
            health: "running".into(),
        };
        let names = Names::new([("web/web-1".to_owned(), said)].into());
        names.save(dir.path()).unwrap();
        let read = load(dir.path()).unwrap();
        assert_eq!(read, names);
        let peer = |subnet: &str| Peer {
            machine: "b".into(),
            underlay: "192.0.2.2".parse().unwrap(),
            subnet: subnet.parse().unwrap(),
        };
        assert_eq!(read.remote(&[peer("10.212.0.0/22")])[0].name, "web-1");
        assert!(read.remote(&[peer("10.212.4.0/22")]).is_empty());
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(load(dir.path()).is_err());
    }
}
