//! `home.json`: whom this machine asks when it comes up and the store is not there yet.

use super::Neighbour;
use coracle_cluster::MachineId;
use coracle_cluster::join::Voter;
use coracle_cluster::members::{Listed, Members, Standing};
use coracle_cluster::pki::Fingerprint;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;

const FILE: &str = "home.json";
const VERSION: u32 = 1;

/// What was known last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Home {
    pub version: u32,
    /// The number of the store, which stands in answers' headers.
    #[serde(default)]
    pub store: Option<u64>,
    /// Who has the store.
    pub voters: Vec<Voter>,
    /// All members; whether each is a voter.
    pub members: BTreeMap<MachineId, bool>,
    /// The hashes of their keys, as far as they are known.
    #[serde(default)]
    pub keys: BTreeMap<MachineId, Fingerprint>,
    /// Host names and doors.
    pub machines: BTreeMap<String, (String, String)>,
}

impl Home {
    pub fn load(dir: &Path) -> io::Result<Self> {
        match std::fs::read(dir.join(FILE)) {
            Ok(bytes) => {
                let home: Self = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
                match home.version {
                    ..=VERSION => Ok(home),
                    newer => Err(io::Error::other(format!(
                        "it has format version {newer}, this release reads up to {VERSION}: start the newer release"
                    ))),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// To be there after a power cut.
    pub fn save(&self, dir: &Path) -> io::Result<()> {
        let home = Self {
            version: VERSION,
            ..self.clone()
        };
        let text = serde_json::to_vec_pretty(&home).map_err(io::Error::other)?;
        let (path, new) = (dir.join(FILE), dir.join("home.json.new"));
        let mut file = std::fs::File::create(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&new, &path)?;
        std::fs::File::open(dir)?.sync_all()
    }

    /// With the names of other machines that the fleet keeps beside it.
    pub fn remove(dir: &Path) -> io::Result<()> {
        for file in ["names.json", "services.json", FILE] {
            match std::fs::remove_file(dir.join(file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    pub fn members(&self) -> Members {
        let listed = |(id, voter): (&MachineId, &bool)| {
            let standing = match voter {
                true => Standing::Voter,
                false => Standing::Machine,
            };
            let key = self.keys.get(id).copied();
            (id.clone(), Listed { standing, key })
        };
        self.members.iter().map(listed).collect()
    }

    pub fn neighbours(&self) -> BTreeMap<String, Neighbour> {
        let all = self.machines.iter();
        all.map(|(id, (hostname, door))| {
            let neighbour = Neighbour {
                hostname: hostname.clone(),
                door: door.clone(),
                alive: false,
                can_vote: false,
            };
            (id.clone(), neighbour)
        })
        .collect()
    }
}
