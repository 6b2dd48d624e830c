//! Named volumes: a directory each, `volumes/<name>/_data`, with `volume.json` beside it; the data of those with options is
//! elsewhere ([`place`]).

mod place;

use crate::error::{EngineError, Result};
use crate::id::{is_valid_name, random_hex};
use crate::record::sync;
use chrono::{DateTime, Utc};
use coracle_image::remove_tree;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use place::Place;

const VERSION: u32 = 1;
/// The record while it is written.
const TEMPORARY: &str = ".volume.json.new";
/// Directories beside a volume's data begin so while it is filled.
pub(crate) const FILLING: &str = ".filling-";

/// A volume as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Format version.
    pub version: u32,
    /// Name.
    pub name: String,
    /// When it was made.
    pub created: DateTime<Utc>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it was made without a name, for one container.
    #[serde(default)]
    pub anonymous: bool,
    /// Options of the driver.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// Whether an empty volume may still be filled from an image; false once a container has used it.
    #[serde(default)]
    pub fresh: bool,
}

/// The volumes of one state directory.
#[derive(Debug)]
pub struct Volumes {
    dir: PathBuf,
    /// Where volumes with a file system of their own are mounted.
    mounts: PathBuf,
    /// Held while one is mounted or unmounted, which may take as long as another machine does not answer.
    mounting: Mutex<()>,
    /// Guards making and removing, so that neither is seen half done.
    all: Mutex<BTreeMap<String, Volume>>,
}

impl Volumes {
    /// Reads the volumes below `state_dir`; what has to be mounted is mounted below `run_dir`. Data without a readable record is
    /// kept, with a record made for it: data is never dropped. What has neither was never made to its end, and goes.
    ///
    /// # Errors
    /// [`EngineError::File`] when the directory cannot be read, [`EngineError::Version`] for a newer format.
    pub fn open(state_dir: &Path, run_dir: &Path) -> Result<Self> {
        let dir = state_dir.join("volumes");
        fs::create_dir_all(&dir).map_err(EngineError::file("making", &dir))?;
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(&dir).map_err(EngineError::file("reading", &dir))? {
            let entry = entry.map_err(EngineError::file("reading", &dir))?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if name.starts_with(".removed-") {
                let _ = remove_tree(&entry.path());
                continue;
            }
            let parts = fs::read_dir(entry.path()).into_iter().flatten().flatten();
            for part in parts.filter(|p| p.file_name().to_string_lossy().starts_with(FILLING)) {
                let _ = remove_tree(&part.path());
            }
            let path = entry.path().join("volume.json");
            let read = fs::read(&path)
                .ok()
                .and_then(|b| serde_json::from_slice::<Volume>(&b).ok());
            let volume = match read {
                Some(volume) if volume.version > VERSION => {
                    return Err(EngineError::Version {
                        path,
                        found: volume.version,
                        known: VERSION,
                    });
                }
                Some(volume) => volume,
                None if clear_if_never_made(&entry.path()) => continue,
                None if entry.path().join("_data").is_dir() => Volume {
                    version: VERSION,
                    name: name.clone(),
                    created: Utc::now(),
                    labels: BTreeMap::new(),
                    anonymous: false,
                    options: BTreeMap::new(),
                    fresh: false,
                },
                None => continue,
            };
            all.insert(name, volume);
        }
        Ok(Self {
            dir,
            mounts: run_dir.join("volumes"),
            mounting: Mutex::default(),
            all: Mutex::new(all),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Volume>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a volume's data is.
    pub fn data(&self, name: &str) -> PathBuf {
        match self.place(name) {
            Ok(Place::Bind(path)) => path,
            Ok(Place::Mount(_)) => self.mounts.join(name),
            _ => self.own(name),
        }
    }

    fn own(&self, name: &str) -> PathBuf {
        self.dir.join(name).join("_data")
    }

    fn place(&self, name: &str) -> Result<Place> {
        place::read(&self.get(name)?.options)
    }

    /// The bytes of it that the disk of the state directory holds, to be counted: nothing where the data is elsewhere.
    pub fn counted(&self, name: &str) -> Option<PathBuf> {
        matches!(self.place(name), Ok(Place::Own)).then(|| self.own(name))
    }

    /// Has a volume's data be where [`Self::data`] says: mounts what has to be. Blocking.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::File`] with what the kernel says of a mount, [`EngineError::Invalid`] if a bound
    /// directory is not there.
    pub fn make_ready(&self, name: &str) -> Result<()> {
        match self.place(name)? {
            Place::Own => Ok(()),
            Place::Bind(path) if path.exists() => Ok(()),
            Place::Bind(path) => Err(EngineError::Invalid(format!(
                "the directory {} of volume {name} does not exist; make it first",
                path.display()
            ))),
            Place::Mount(mount) => {
                let _one = self.mounting.lock().unwrap_or_else(PoisonError::into_inner);
                mount.put(&self.mounts.join(name))
            }
        }
    }

    /// Unmounts every volume that was mounted, as far as nobody uses it.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] naming the first that is in use; the rest has been tried.
    pub fn unmount_all(&self) -> Result<()> {
        let _one = self.mounting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut first = Ok(());
        for entry in fs::read_dir(&self.mounts).into_iter().flatten().flatten() {
            let gone = place::take_away(&entry.path());
            first = first.and(gone);
        }
        // Empty, unless something stayed.
        let _ = fs::remove_dir(&self.mounts);
        first
    }

    fn save(&self, volume: &Volume) -> Result<()> {
        let dir = self.dir.join(&volume.name);
        let path = dir.join("volume.json");
        let temporary = dir.join(TEMPORARY);
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(volume)?)?;
            file.sync_data()?;
            fs::rename(&temporary, &path)?;
            sync(&dir)?;
            sync(&self.dir)
        };
        write().map_err(EngineError::file("writing", &path))
    }

    /// The volume of that name, made if it is not there; `None` makes an anonymous one.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for a name that cannot be one and options that cannot be honoured, [`EngineError::File`] when it
    /// cannot be made.
    pub fn ensure(
        &self,
        name: Option<&str>,
        labels: &BTreeMap<String, String>,
        options: &BTreeMap<String, String>,
    ) -> Result<(Volume, bool)> {
        let place = place::read(options)?;
        let anonymous = name.is_none();
        let name = match name {
            Some(name) => name.to_owned(),
            None => random_hex()?,
        };
        if !is_valid_name(&name) {
            return Err(EngineError::Invalid(format!(
                "\"{name}\" includes invalid characters for a local volume name, only \
                 \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use \
                 absolute path"
            )));
        }
        let mut all = self.lock();
        if let Some(volume) = all.get(&name) {
            return Ok((volume.clone(), false));
        }
        // A release that knows no options shall not find an empty directory where data is meant.
        let data = match place {
            Place::Own => self.own(&name),
            _ => self.dir.join(&name),
        };
        fs::create_dir_all(&data).map_err(EngineError::file("making", &data))?;
        let volume = Volume {
            version: VERSION,
            name: name.clone(),
            created: Utc::now(),
            labels: labels.clone(),
            anonymous,
            options: options.clone(),
            // What is elsewhere is somebody's already: it is not filled from images.
            fresh: place == Place::Own,
        };
        self.save(&volume).inspect_err(|_| {
            clear_if_never_made(&self.dir.join(&name));
        })?;
        all.insert(name, volume.clone());
        Ok((volume, true))
    }

    /// Says that a container has used it: it is filled from an image only once.
    ///
    /// # Errors
    /// [`EngineError::File`] when the record cannot be written.
    pub fn used(&self, name: &str) -> Result<()> {
        let mut all = self.lock();
        let Some(volume) = all.get_mut(name).filter(|v| v.fresh) else {
            return Ok(());
        };
        let used = Volume {
            fresh: false,
            ..volume.clone()
        };
        self.save(&used)?;
        *volume = used;
        Ok(())
    }

    /// Every volume, by name.
    pub fn list(&self) -> Vec<Volume> {
        self.lock().values().cloned().collect()
    }

    /// One volume.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub fn get(&self, name: &str) -> Result<Volume> {
        self.lock()
            .get(name)
            .cloned()
            .ok_or_else(|| EngineError::not_found("volume", name))
    }

    /// Removes a volume and its data, unless containers use it.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Conflict`] naming the containers, [`EngineError::File`].
    pub fn remove(&self, name: &str, users: &[String]) -> Result<()> {
        self.get(name)?;
        if !users.is_empty() {
            return Err(EngineError::Conflict(format!(
                "remove {name}: volume is in use - [{}]; remove these containers first",
                users.join(", ")
            )));
        }
        // What this release cannot read may be a mount's.
        if !matches!(self.place(name), Ok(Place::Own | Place::Bind(_))) {
            let _one = self.mounting.lock().unwrap_or_else(PoisonError::into_inner);
            place::take_away(&self.mounts.join(name))?;
        }
        let mut all = self.lock();
        if !all.contains_key(name) {
            return Err(EngineError::not_found("volume", name));
        }
        let dir = self.dir.join(name);
        let doomed = self.dir.join(format!(".removed-{name}"));
        // A leftover of an interrupted removal is in the way of the rename.
        let _ = remove_tree(&doomed);
        match fs::rename(&dir, &doomed) {
            // Somebody has taken it away by hand.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            moved => moved.map_err(EngineError::file("removing", &dir))?,
        }
        all.remove(name);
        drop(all);
        sync(&self.dir).map_err(EngineError::file("writing", &self.dir))?;
        remove_tree(&doomed).map_err(EngineError::file("removing", &doomed))
    }
}

/// Takes a volume's directory away if neither record nor data has come into it; whether it did.
fn clear_if_never_made(dir: &Path) -> bool {
    if dir.join("volume.json").exists() {
        return false;
    }
    let _ = fs::remove_file(dir.join(TEMPORARY));
    // Only what is empty goes.
    let _ = fs::remove_dir(dir.join("_data"));
    fs::remove_dir(dir).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn made_once_kept_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(dir.path(), dir.path()).unwrap();
        let none = BTreeMap::new();
        let (volume, made) = volumes.ensure(Some("data"), &none, &none).unwrap();
        assert!(made && volume.fresh);
        assert!(!volumes.ensure(Some("data"), &none, &none).unwrap().1);
        volumes.used("data").unwrap();
        fs::write(volumes.data("data").join("x"), "y").unwrap();

        let part = dir.path().join(format!("volumes/data/{FILLING}x"));
        fs::create_dir(&part).unwrap();
        let volumes = Volumes::open(dir.path(), dir.path()).unwrap();
        assert!(!part.exists());
        assert!(!volumes.get("data").unwrap().fresh);
        let error = volumes
            .remove("data", &["web".into()])
            .unwrap_err()
            .to_string();
        assert!(error.contains("web"), "{error}");
        volumes.remove("data", &[]).unwrap();
        assert!(volumes.get("data").is_err());
        assert_eq!(fs::read_dir(dir.path().join("volumes")).unwrap().count(), 0);
    }

    #[test]
    fn data_without_a_record_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("volumes/old/_data");
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("x"), "y").unwrap();
        assert_eq!(
            Volumes::open(dir.path(), dir.path()).unwrap().list()[0].name,
            "old"
        );
        assert!(data.join("x").exists());
    }

    #[test]
    fn what_is_half_there_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join("volumes").join(name);
        // The power went before the record was there.
        fs::create_dir_all(at("half/_data")).unwrap();
        fs::write(at("half").join(TEMPORARY), "{").unwrap();
        let volumes = Volumes::open(dir.path(), dir.path()).unwrap();
        assert!(volumes.list().is_empty() && !at("half").exists());
        let none = BTreeMap::new();
        assert!(volumes.ensure(Some("half"), &none, &none).unwrap().1);
        // Taken away by hand.
        fs::remove_dir_all(at("half")).unwrap();
        assert_eq!(volumes.list().len(), 1);
        volumes.remove("half", &[]).unwrap();
        assert!(volumes.ensure(Some("half"), &none, &none).unwrap().1);
        // The record cannot be written.
        fs::create_dir_all(at("full").join(TEMPORARY)).unwrap();
        assert!(volumes.ensure(Some("full"), &none, &none).is_err());
        fs::remove_dir(at("full").join(TEMPORARY)).unwrap();
        assert!(!at("full/_data").exists());
        assert!(volumes.ensure(Some("full"), &none, &none).unwrap().1);
        // Options of a release that knows more.
        let mut record = volumes.get("full").unwrap();
        record.options.insert("news".into(), "x".into());
        fs::write(at("full/volume.json"), serde_json::to_vec(&record).unwrap()).unwrap();
        let volumes = Volumes::open(dir.path(), dir.path()).unwrap();
        volumes.remove("full", &[]).unwrap();
    }

    #[test]
    fn bad_names_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(dir.path(), dir.path()).unwrap();
        for bad in ["../x", "a/b", ".removed-a", ""] {
            assert!(
                volumes
                    .ensure(Some(bad), &BTreeMap::new(), &BTreeMap::new())
                    .is_err(),
                "{bad}"
            );
        }
    }
}
