//! Whose drain it is: a file says that this machine has asked for its own, for its turn. It is there before the drain and until that is ended, so that no
//! kill in between leaves a machine drained, and no operator's drain is ended.

use coracle_os::files::replace;
use std::{io, path::Path};

/// There as long as the drain is ours.
pub const FILE: &str = "/var/lib/coracle-os/drained";

/// Says that it is ours.
///
/// # Errors
/// Those of writing.
pub fn note() -> io::Result<()> {
    replace(Path::new(FILE), b"for an update\n", 0o644)
}

/// Whether it is.
pub fn is_ours() -> bool {
    Path::new(FILE).exists()
}

/// Says that it has ended.
///
/// # Errors
/// Those of removing the file.
pub fn forget() -> io::Result<()> {
    match std::fs::remove_file(FILE) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
