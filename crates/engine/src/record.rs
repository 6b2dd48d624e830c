//! What is kept on disk of a container: `containers/<id>/container.json`, replaced as a whole.
//!
//! The file is written to a temporary name, synced, and renamed, so that a power cut leaves the old record or the new
//! one. A directory without a record is a creation that was cut short and is removed at start.
//!
//! What only a next daemon needs, and nobody after a power cut (a start on its way, a run that the machine does not begin
//! again), is not worth waiting for the disk: it is written beside, to `container.now.json`, unsynced. Each writing has a
//! number; the higher one that can be read counts.

use crate::error::{EngineError, Result};
use crate::id::ContainerId;
use crate::model::{ContainerConfig, CreateRequest, HostConfig, NetworkingConfig};
use chrono::{DateTime, Utc};
use coracle_network::{Endpoint, PortMapping};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Version written, and the highest read.
pub const VERSION: u32 = 1;
/// Name of the record in the container's directory.
pub const FILE: &str = "container.json";
/// Name of what is true until the power goes.
const NOW: &str = "container.now.json";

/// A container: what was asked, and where it stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Format version.
    pub version: u32,
    /// Full id.
    pub id: ContainerId,
    /// Name without a slash.
    pub name: String,
    /// When it was created.
    pub created: DateTime<Utc>,
    /// Image id, `sha256:…`.
    pub image_id: String,
    /// As asked, with the image's defaults filled in.
    pub config: ContainerConfig,
    /// As asked.
    pub host_config: HostConfig,
    /// As asked.
    pub networking: NetworkingConfig,
    /// Mounts resolved at creation.
    pub mounts: Vec<ResolvedMount>,
    /// Where it stands.
    pub state: State,
    /// Number of this writing.
    #[serde(default)]
    pub serial: u64,
    /// It is a step of a build: the build takes what it wrote and removes it, and a next daemon ends it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub step: bool,
}

/// A mount with its source found or made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedMount {
    /// `bind`, `volume` or `tmpfs`.
    pub kind: String,
    /// Volume name, if it is one.
    pub name: Option<String>,
    /// Whether the volume was made for this container without a name.
    #[serde(default)]
    pub anonymous: bool,
    /// Host directory or file; empty for tmpfs.
    pub source: PathBuf,
    /// Path in the container.
    pub target: PathBuf,
    /// Mount options as the OCI runtime takes them (`ro`, `rprivate`, `size=…`).
    pub options: Vec<String>,
    /// Whether it can be written.
    pub writable: bool,
    /// Bind propagation.
    #[serde(default)]
    pub propagation: String,
}

impl ResolvedMount {
    /// Whether it has a mount option.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|o| o == option)
    }

    /// Forbids writing; `deep` to what is mounted below its source too.
    pub(crate) fn make_read_only(&mut self, deep: bool) {
        self.writable = false;
        self.options.retain(|o| o != "rw");
        self.options.push("ro".into());
        if deep && self.has("rbind") {
            self.options.push("rro".into());
        }
    }
}

/// Life's phase. `paused` is a property of `Running`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Never started.
    Created,
    /// Running.
    Running,
    /// Waiting for its next start by the restart policy.
    Restarting,
    /// Ended.
    Exited,
    /// Being removed; finished at the next start if interrupted.
    Removing,
    /// Could not be removed.
    Dead,
}

impl Phase {
    /// As Docker's API names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Removing => "removing",
            Self::Dead => "dead",
        }
    }
}

/// Where a container stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Phase.
    pub phase: Phase,
    /// Host process id of init while running.
    pub pid: u32,
    /// Process id of the shim while running.
    #[serde(default)]
    pub shim_pid: u32,
    /// Frozen.
    #[serde(default)]
    pub paused: bool,
    /// Exit code of the last run.
    pub exit_code: i32,
    /// Whether the last run was ended by the OOM killer.
    pub oom_killed: bool,
    /// Why the last start failed, or the shim ended the last run.
    pub error: String,
    /// Whether the last run was ended by its shim: it was exclusive and might run no longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub watchdog: bool,
    /// Start of the present or last run.
    pub started_at: Option<DateTime<Utc>>,
    /// End of the last run.
    pub finished_at: Option<DateTime<Utc>>,
    /// Restarts by policy since the last start by hand.
    pub restart_count: u32,
    /// Whether a person (or unit) stopped it; `unless-stopped` then leaves it.
    pub stopped_by_hand: bool,
    /// It was asked to end and has not ended yet: it is in no service, and a daemon that comes up finishes the stop.
    #[serde(default)]
    pub stopping: bool,
    /// Its test found it well the last time: a daemon that comes up goes by that until the next test.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub healthy: bool,
    /// Addresses of the present run.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// Ports of the present run that are published on IPv4 addresses.
    #[serde(default)]
    pub ports: Vec<PortMapping>,
    /// Those on IPv6 addresses, apart from the others since releases before IPv6 read only these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports6: Vec<PortMapping>,
    /// A start is on its way that has not come to a run yet.
    #[serde(default)]
    pub starting: bool,
    /// The client's own id of the request that started the present or last run, if it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_by: Option<String>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            phase: Phase::Created,
            pid: 0,
            shim_pid: 0,
            paused: false,
            exit_code: 0,
            oom_killed: false,
            error: String::new(),
            watchdog: false,
            started_at: None,
            finished_at: None,
            healthy: false,
            restart_count: 0,
            stopped_by_hand: false,
            stopping: false,
            endpoints: Vec::new(),
            ports: Vec::new(),
            ports6: Vec::new(),
            starting: false,
            started_by: None,
        }
    }
}

impl State {
    /// Ports of the present run, of both families.
    pub fn published(&self) -> impl Iterator<Item = &PortMapping> {
        self.ports.iter().chain(&self.ports6)
    }

    /// Keeps what is published now.
    pub fn set_published(&mut self, ports: Vec<PortMapping>) {
        (self.ports6, self.ports) = ports.into_iter().partition(|p| p.host_ip.is_ipv6());
    }

    /// Nothing of the network is the container's any more.
    pub fn clear_network(&mut self) {
        self.endpoints.clear();
        self.set_published(Vec::new());
    }
}

/// Has what was made, renamed or removed in a directory outlive the power.
pub(crate) fn sync(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

impl Record {
    /// A new record.
    pub fn new(id: ContainerId, name: String, request: CreateRequest, image_id: String) -> Self {
        Self {
            version: VERSION,
            id,
            name,
            created: Utc::now(),
            image_id,
            config: request.config,
            host_config: request.host_config,
            networking: request.networking_config,
            mounts: Vec::new(),
            state: State::default(),
            serial: 0,
            step: false,
        }
    }

    /// Whether there is a test of its health.
    pub fn is_tested(&self) -> bool {
        let test = self.config.healthcheck.as_ref().map(|h| &h.test);
        test.is_some_and(|t| t.first().is_some_and(|first| first != "NONE"))
    }

    /// Whether it is removed when it ends, without anybody asking.
    pub fn goes_by_itself(&self) -> bool {
        self.host_config.auto_remove && !self.step
    }

    /// The image's id.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] if the record's is none.
    pub fn image(&self) -> Result<coracle_image::ImageId> {
        self.image_id
            .parse()
            .map_err(|_| EngineError::Invalid(format!("{} is no image id", self.image_id)))
    }

    /// Writes the record into the container's directory.
    ///
    /// # Errors
    /// [`EngineError::File`] naming the file, a full disk included; the old record is untouched then.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let must_last = self.must_last();
        // A container that goes with its end has one file, and never a synced one.
        let beside = !must_last && !self.host_config.auto_remove;
        let path = dir.join(if beside { NOW } else { FILE });
        let temporary = dir.join(".container.json.new");
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            if must_last {
                file.sync_data()?;
                fs::rename(&temporary, &path)?;
                // One that stays has a lower number.
                let _ = fs::remove_file(dir.join(NOW));
                return sync(dir);
            }
            // Exchanging names is as atomic as replacing one, and filesystems do not write the file out for it.
            if renameat_with(CWD, &temporary, CWD, &path, RenameFlags::EXCHANGE).is_ok() {
                // One that stays is written over next time.
                let _ = fs::remove_file(&temporary);
                return Ok(());
            }
            fs::rename(&temporary, &path)
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&temporary);
            EngineError::File {
                action: "writing",
                path: path.clone(),
                source,
            }
        })
    }

    /// Whether somebody relies on this state after a power cut: not on that of a start which has not been answered, nor on
    /// that of a run which the machine does not begin again, nor of what goes with its process anyway.
    fn must_last(&self) -> bool {
        let again = !matches!(self.host_config.restart_policy.name.as_str(), "" | "no");
        !self.host_config.auto_remove
            && !self.state.starting
            && (again || self.state.phase != Phase::Running)
    }

    /// Reads a record: the latest of its writings.
    ///
    /// # Errors
    /// [`EngineError::File`], [`EngineError::Record`], or [`EngineError::Version`] for a newer format.
    pub fn load(dir: &Path) -> Result<Self> {
        let kept = Self::read(&dir.join(FILE))?;
        match Self::read(&dir.join(NOW)) {
            Ok(now) if now.serial > kept.serial => Ok(now),
            Err(error @ EngineError::Version { .. }) => Err(error),
            // None is there, or the power went while it was written.
            _ => Ok(kept),
        }
    }

    fn read(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let bytes = fs::read(path).map_err(EngineError::file("reading", path))?;
        if bytes.is_empty() {
            // Unsynced when the power went: only of what was to go with its end.
            let missing = std::io::ErrorKind::NotFound.into();
            return Err(EngineError::file("reading", path)(missing));
        }
        let unreadable = |source| EngineError::Record {
            path: path.to_owned(),
            source,
        };
        let Versioned { version } = serde_json::from_slice(&bytes).map_err(unreadable)?;
        if version > VERSION {
            return Err(EngineError::Version {
                path: path.to_owned(),
                found: version,
                known: VERSION,
            });
        }
        serde_json::from_slice(&bytes).map_err(unreadable)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample() -> Record {
        let request = serde_json::from_value(serde_json::json!({ "Image": "x" })).unwrap();
        let id = ContainerId::random().unwrap();
        Record::new(id, "web".into(), request, "sha256:0".into())
    }

    #[test]
    fn what_a_next_release_adds_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut value = serde_json::to_value(sample()).unwrap();
        value["news"] = 1.into();
        value["state"]["news"] = "x".into();
        value["host_config"]["NewLimit"] = 0.into();
        fs::write(dir.path().join(FILE), value.to_string()).unwrap();
        assert_eq!(Record::load(dir.path()).unwrap().name, "web");
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = sample();
        record.version = 2;
        record.save(dir.path()).unwrap();
        let error = Record::load(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("version 2") && error.contains(FILE),
            "{error}"
        );
    }

    #[test]
    fn the_latest_writing_counts_and_a_torn_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let phase = || Record::load(dir).unwrap().state.phase;
        let mut record = sample();
        record.save(dir).unwrap();
        record.serial = 1;
        record.state.phase = Phase::Running;
        record.save(dir).unwrap();
        assert!(dir.join(NOW).exists());
        assert_eq!(phase(), Phase::Running);
        let now = fs::read(dir.join(NOW)).unwrap();
        fs::write(dir.join(NOW), &now[..now.len() / 2]).unwrap();
        assert_eq!(phase(), Phase::Created);
        record.serial = 2;
        record.state.phase = Phase::Exited;
        record.save(dir).unwrap();
        assert!(!dir.join(NOW).exists());
        fs::write(dir.join(NOW), "").unwrap();
        assert_eq!(phase(), Phase::Exited);
        // One that a power cut brought back.
        fs::write(dir.join(NOW), &now).unwrap();
        assert_eq!(phase(), Phase::Exited);
        // Those that the machine begins again are kept for it, those that go with their end are not.
        record.state.phase = Phase::Running;
        record.host_config.restart_policy.name = "always".into();
        assert!(record.must_last());
        record.host_config.auto_remove = true;
        assert!(!record.must_last());
    }
}
