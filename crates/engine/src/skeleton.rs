//! The lowest layer of every container: the places that the runtime mounts on.
//!
//! Images need not have them. Made once for all containers, they are neither made nor removed with each, and a container's own
//! layer holds nothing that it did not write itself. `/.dockerenv` is there because programs find out by it that they are in a
//! container.

use crate::error::{EngineError, Result};
use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const DIRECTORIES: &[&str] = &["", "dev", "etc", "proc", "sys"];
const FILES: &[&str] = &[".dockerenv", "etc/hostname", "etc/hosts", "etc/resolv.conf"];

/// The layer's directory.
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("skeleton")
}

/// Makes what is missing of it.
///
/// # Errors
/// [`EngineError::File`].
pub fn make(state_dir: &Path) -> Result<()> {
    let root = directory(state_dir);
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
    for name in DIRECTORIES {
        let path = root.join(name);
        fs::create_dir_all(&path)
            .and_then(|()| mode(&path, 0o755))
            .map_err(EngineError::file("making", &path))?;
    }
    for name in FILES {
        let path = root.join(name);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        options
            .open(&path)
            .and_then(|_| mode(&path, 0o644))
            .map_err(EngineError::file("making", &path))?;
    }
    Ok(())
}
