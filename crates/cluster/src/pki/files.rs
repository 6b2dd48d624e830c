//! Keys and certificates on disk.
//!
//! Each file is written beside its place, synced, renamed and its directory synced, so that it is there whole or not at all.
//! A key is written once, before anything that was made with it, and is never replaced while it is in use: whatever moment
//! the power goes, there is no certificate without its key.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::PkiError;

/// The format that this release writes, and the newest that it reads.
const FORMAT: u64 = 1;

/// What a cluster's directory holds of keys and certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// The CA's certificate, on every machine.
    CaCertificate,
    /// The CA's key, on voters only.
    CaKey,
    /// The machine's certificate and the CA's after it.
    MachineCertificate,
    /// The machine's key.
    MachineKey,
    /// The certificate for etcd's peers, on voters only.
    PeerCertificate,
    /// Its key.
    PeerKey,
    /// The version of the format.
    Format,
}

impl Item {
    const ALL: [Self; 7] = [
        // In the order of removing: what says that this machine is a member goes first.
        Self::MachineCertificate,
        Self::PeerCertificate,
        Self::CaKey,
        Self::CaCertificate,
        Self::MachineKey,
        Self::PeerKey,
        Self::Format,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::CaCertificate => "ca.pem",
            Self::CaKey => "ca.key",
            Self::MachineCertificate => "machine.pem",
            Self::MachineKey => "machine.key",
            Self::PeerCertificate => "peer.pem",
            Self::PeerKey => "peer.key",
            Self::Format => "format.json",
        }
    }

    fn mode(self) -> u32 {
        match self {
            Self::CaKey | Self::MachineKey | Self::PeerKey => 0o600,
            _ => 0o644,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Format {
    version: u64,
}

/// `STATE_DIR/cluster`, of which only the files of [`Item`] are touched here.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Makes it if it is not there (mode 0700), and clears away what a write that was cut short left.
    ///
    /// # Errors
    /// `UnknownFormat` for a newer release's; `Damaged`, `Io`.
    pub fn open(path: &Path) -> Result<Self, PkiError> {
        private_directory(path)?;
        let dir = Self(path.to_owned());
        for item in Item::ALL {
            dir.gone(&dir.beside(item))?;
        }
        match dir.read(Item::Format)? {
            Some(text) => dir.known(&text)?,
            None => {
                let text = format!("{{\"version\":{FORMAT}}}\n");
                dir.write(Item::Format, text.as_bytes())?;
            }
        }
        Ok(dir)
    }

    fn known(&self, text: &[u8]) -> Result<(), PkiError> {
        let path = self.path(Item::Format);
        let format: Format = serde_json::from_slice(text).map_err(|e| PkiError::Damaged {
            path: path.clone(),
            what: "format version",
            source: Some(e.into()),
        })?;
        if format.version > FORMAT {
            return Err(PkiError::UnknownFormat {
                path,
                found: format.version,
                known: FORMAT,
            });
        }
        Ok(())
    }

    /// Where a file is, for programs that read it themselves.
    pub fn path(&self, item: Item) -> PathBuf {
        self.0.join(item.name())
    }

    fn beside(&self, item: Item) -> PathBuf {
        beside(&self.path(item))
    }

    fn sync(&self) -> Result<(), PkiError> {
        sync_directory(&self.0)
    }

    fn gone(&self, path: &Path) -> Result<(), PkiError> {
        match fs::remove_file(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(PkiError::io("removing", path, e)),
            _ => Ok(()),
        }
    }

    /// A file's bytes; None where it is not there.
    pub(crate) fn read(&self, item: Item) -> Result<Option<Vec<u8>>, PkiError> {
        let path = self.path(item);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(PkiError::io("reading", &path, e)),
        }
    }

    /// As [`Self::read`], as text.
    pub(crate) fn text(&self, item: Item, what: &'static str) -> Result<Option<String>, PkiError> {
        let Some(bytes) = self.read(item)? else {
            return Ok(None);
        };
        let text = String::from_utf8(bytes).map_err(|e| PkiError::Damaged {
            path: self.path(item),
            what,
            source: Some(e.into()),
        })?;
        Ok(Some(text))
    }

    /// Puts a file in place; when this is answered it outlives the power.
    pub(crate) fn write(&self, item: Item, bytes: &[u8]) -> Result<(), PkiError> {
        put(&self.path(item), bytes, item.mode())
    }

    /// Removes a file, if it is there.
    pub(crate) fn remove(&self, item: Item) -> Result<(), PkiError> {
        self.gone(&self.path(item))?;
        self.sync()
    }

    /// Removes all keys and certificates: this machine is in no cluster then. Safe to be cut short and done again.
    ///
    /// # Errors
    /// `Io`.
    pub fn clear(&self) -> Result<(), PkiError> {
        Item::ALL.into_iter().try_for_each(|item| self.remove(item))
    }
}

/// Where a file is written before it is put in place.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}

/// Puts a file with that mode in place, whole or not at all; when this is answered it outlives the power.
pub(crate) fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    let beside = beside(path);
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&beside)?;
        // The mode above is only of a file that is made, and less what the umask takes.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    written().map_err(|e| PkiError::io("writing", path, e))?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Makes a directory of mode 0700, if it is not there, to be there after a power cut.
///
/// # Errors
/// `Io`.
pub(crate) fn private_directory(path: &Path) -> Result<(), PkiError> {
    let failed = |source| PkiError::io("making", path, source);
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(path).map_err(failed)?;
    // One that was there may have been made by others.
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Has the directory's entries outlive the power.
fn sync_directory(path: &Path) -> Result<(), PkiError> {
    let synced = File::open(path).and_then(|dir| dir.sync_all());
    synced.map_err(|e| PkiError::io("syncing", path, e))
}
