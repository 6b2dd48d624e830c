//! Small files that are there whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::MemberError;

#[derive(serde::Deserialize)]
struct Version {
    version: u64,
}

/// Makes a directory that only root reads, and what is missing above it.
pub(super) fn make_dir(path: &Path) -> Result<(), MemberError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(MemberError::file("making", path))
}

pub(super) fn sync_dir(path: &Path) -> Result<(), MemberError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(MemberError::file("syncing", path))
}

/// Replaces a file: beside it, synced, renamed, and its directory synced.
pub(super) fn write(path: &Path, value: &impl Serialize) -> Result<(), MemberError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    make_dir(dir)?;
    let beside = path.with_extension("tmp");
    let text = serde_json::to_vec_pretty(value).map_err(|source| MemberError::Format {
        path: path.to_owned(),
        source,
    })?;
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&beside, path))
        .map_err(MemberError::file("writing", path))?;
    sync_dir(dir)
}

/// Reads a file with a `version` up to `known`; None where there is none.
pub(super) fn read<T: DeserializeOwned>(path: &Path, known: u64) -> Result<Option<T>, MemberError> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.map_err(MemberError::file("reading", path))?,
    };
    let format = |source| MemberError::Format {
        path: path.to_owned(),
        source,
    };
    let Version { version } = serde_json::from_slice(&text).map_err(format)?;
    if version > known {
        return Err(MemberError::UnknownFormat {
            path: path.to_owned(),
            found: version,
            known,
        });
    }
    serde_json::from_slice(&text).map(Some).map_err(format)
}

/// Removes a directory with all that is in it, if it is there.
pub(super) fn remove_dir(path: &Path) -> Result<(), MemberError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(MemberError::file("removing", path)(error))
        }
        _ => Ok(()),
    }
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), MemberError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(MemberError::file("removing", path)(error))
        }
        _ => Ok(()),
    }
}
