//! An update: checked, written into the other slot while the machine runs, started from by the next restart.

use super::{Os, error::OsError};
use coracle_engine::{Snapshot, record::Phase};
use coracle_fleet::UNIT_LABEL;
use coracle_os::{
    SSH_LABEL,
    entries::Standing,
    history::{Before, Outcome, Update},
    machine::{KEYS, Machine},
    release::{Release, SMALL, keys},
};
use coracle_store::RangeRequest;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

/// Files of an update.
const RELEASE: &str = "release.json";
const SIGNATURE: &str = "release.json.minisig";
const ROOT: &str = "root.img";
const KERNEL: &str = "coracle.efi";
/// Bytes of the root between two words about them.
const STEP: u64 = 16 << 20;
/// How long the store may take to count as reached.
pub const STORE: Duration = Duration::from_secs(5);

/// How an update is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowed {
    /// A release below the floor.
    pub downgrade: bool,
    /// Nobody asks but the channel.
    pub by_itself: bool,
    /// How often operators have said that the release is to be tried again.
    pub resumes: u64,
}

/// Hears how it goes, a line each.
pub type Tell = Arc<dyn Fn(String) + Send + Sync>;

impl Os {
    /// Writes the update that an image here holds; its highest layer with a release counts. Nothing restarts.
    ///
    /// # Errors
    /// [`OsError`]. The other slot cannot be started then, if it was begun.
    pub async fn update_from_image(
        self: &Arc<Self>,
        name: &str,
        allowed: Allowed,
        before: Before,
        tell: Tell,
    ) -> Result<Release, OsError> {
        let directory = self.directory(name)?;
        let os = self.clone();
        let done =
            tokio::task::spawn_blocking(move || os.write(&directory, allowed, before, &tell));
        done.await.map_err(|_| OsError::Interrupted)?
    }

    /// The files of the update that an image here holds.
    fn directory(&self, name: &str) -> Result<PathBuf, OsError> {
        let image = self.engine.images().get(name)?;
        let layers = self.engine.images().layer_dirs(&image.id)?;
        let found = layers.iter().rev().find(|l| l.join(RELEASE).is_file());
        found
            .cloned()
            .ok_or_else(|| OsError::NoUpdate(name.to_owned(), RELEASE))
    }

    /// The release that an image here holds, if a pinned key has signed it.
    ///
    /// # Errors
    /// [`OsError`].
    pub fn peek(&self, name: &str) -> Result<Release, OsError> {
        signed(&self.directory(name)?)
    }

    fn write(
        &self,
        directory: &Path,
        allowed: Allowed,
        before: Before,
        tell: &Tell,
    ) -> Result<Release, OsError> {
        let _alone = self.busy.try_acquire().map_err(|_| OsError::Busy)?;
        let own = self.machine.entries()?.remove(&self.machine.slot);
        if own.is_some_and(|own| own.standing != Standing::Proven) {
            return Err(OsError::OnTrial);
        }
        let release = signed(directory)?;
        self.fits(&release, allowed)?;
        let (root, kernel) = (open(directory, ROOT)?, open(directory, KERNEL)?);
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let slot = self.machine.slot.other();
        self.change(|history| {
            history.begin(Update {
                from: self.machine.about.version.clone(),
                to: release.version.clone(),
                slot: slot.letter(),
                at: at.unwrap_or_default().as_secs(),
                boot: Machine::boot(),
                outcome: Outcome::Writing,
                reason: None,
                cut_short: false,
                missed: None,
                former_too: false,
                by_itself: allowed.by_itself,
                resumes: allowed.resumes,
                before,
            });
        })?;
        tell(format!(
            "writing release {} into slot {slot}",
            release.version
        ));
        let mut told = 0;
        let size = release.root.size;
        let written = self.machine.install(&release, root, kernel, |done| {
            if done >= told + STEP || done == size {
                told = done;
                tell(format!("{} of {} MiB", done >> 20, size >> 20));
            }
        });
        if written.is_err()
            && let Err(error) = self.machine.forget_other()
        {
            let error = coracle_engine::full_error(&error);
            tracing::error!(
                error,
                "the entry of a slot that is not whole is still there"
            );
        }
        let outcome = match &written {
            Ok(_) => (Outcome::Written, None),
            Err(error) => (Outcome::Failed, Some(coracle_sys::full(error))),
        };
        self.change(|history| {
            if let Some(update) = history.under_way() {
                (update.outcome, update.reason) = outcome;
            }
        })?;
        written?;
        tell(format!(
            "slot {slot} holds release {}, and is started from next",
            release.version
        ));
        Ok(release)
    }

    /// Checks what the signature does not say.
    ///
    /// # Errors
    /// [`OsError::Same`], [`OsError::Release`], [`OsError::Etcd`].
    pub fn fits(&self, release: &Release, allowed: Allowed) -> Result<(), OsError> {
        let about = &self.machine.about;
        if release.version == about.version && !allowed.downgrade {
            return Err(OsError::Same(release.version.clone()));
        }
        let floor = self.history()?.floor;
        if let Some(floor) = floor.as_ref().max(Some(&about.floor))
            && !allowed.downgrade
        {
            release.not_below(floor)?;
        }
        let minor = |text: &str| {
            let (major, minor) = text.split_once('.')?;
            Some((major.parse::<u64>().ok()?, minor.parse::<u64>().ok()?))
        };
        match (minor(&about.etcd), minor(&release.etcd)) {
            (Some((a, from)), Some((b, to))) if a == b && from.abs_diff(to) <= 1 => Ok(()),
            _ => Err(OsError::Etcd {
                from: about.etcd.clone(),
                to: release.etcd.clone(),
            }),
        }
    }

    /// What is well now.
    pub async fn before(&self) -> Before {
        let key = RangeRequest::key(&b"/coracle/v1/leader"[..]);
        let reached = tokio::time::timeout(STORE, self.store.range(key)).await;
        let containers = self.engine.snapshots().filter(|c| {
            c.record.state.phase == Phase::Running
                // One that has not been tested yet may yet turn out to be unhealthy.
                && c.health.as_ref().is_none_or(|h| !["unhealthy", "starting"].contains(&h.status))
                && comes_back(c)
        });
        let mut before = Before {
            store: matches!(reached, Ok(Ok(_))),
            ..Before::default()
        };
        for container in containers {
            let name = container.record.name;
            if let Some(unit) = container.record.config.labels.get(UNIT_LABEL) {
                before.units.insert(name.clone(), unit.clone());
            }
            before.containers.insert(name);
        }
        before
    }
}

/// Whether a container is meant to run again when the machine is up: by a unit, or by its restart policy. That of SSH is
/// the release's own, and there if the configuration says so, which may have changed.
fn comes_back(container: &Snapshot) -> bool {
    let labels = &container.record.config.labels;
    let policy = container.record.host_config.restart_policy.name.as_str();
    if labels.contains_key(SSH_LABEL) {
        return false;
    }
    labels.contains_key(UNIT_LABEL) || matches!(policy, "always" | "unless-stopped" | "on-failure")
}

/// What an update says of itself, if a pinned key has signed it.
fn signed(directory: &Path) -> Result<Release, OsError> {
    let small = |name: &'static str| {
        let file = open(directory, name)?;
        let mut bytes = Vec::new();
        file.take(SMALL)
            .read_to_end(&mut bytes)
            .map_err(reading(name))?;
        Ok::<_, OsError>(bytes)
    };
    let (json, signature) = (small(RELEASE)?, small(SIGNATURE)?);
    let signature = String::from_utf8_lossy(&signature);
    Ok(Release::read(&json, &signature, &pinned()?)?)
}

fn open(directory: &Path, name: &'static str) -> Result<File, OsError> {
    // A layer is anybody's before its signature was checked: neither links nor what blocks.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory.join(name), flags, Mode::empty());
    let file = File::from(opened.map_err(|error| match error {
        Errno::NOENT => OsError::NoUpdate("the update".to_owned(), name),
        error => reading(name)(error.into()),
    })?);
    match file.metadata().map_err(reading(name))?.is_file() {
        true => Ok(file),
        false => Err(OsError::NoUpdate("the update".to_owned(), name)),
    }
}

/// An error with what was read of an update.
fn reading(name: &str) -> impl FnOnce(io::Error) -> OsError {
    let what = format!("{name} of the update");
    move |error| OsError::Read(what, error)
}

/// The keys that updates may be signed with: the image's, and those of the configuration.
fn pinned() -> Result<Vec<String>, OsError> {
    let mut all = Vec::new();
    for path in [KEYS, "/etc/coracle/update-keys"] {
        match std::fs::read_to_string(path) {
            Ok(text) => all.extend(keys(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(OsError::Read(path.to_owned(), error)),
        }
    }
    Ok(all)
}
