//! Whose drain it is: a file says that this machine has asked for its own, for its turn. It is there before the drain and until that is ended, so that no
//! kill in between leaves a machine drained, and no operator's drain is ended.

use super::write_down;
use std::{io, path::Path};

/// There as long as the drain is ours.
pub const FILE: &str = "/var/lib/coracle-os/drained";

/// Says that it is ours.
///
/// # Errors
/// Those of writing.
pub fn note() -> io::Result<()> {
    write_down(FILE, "for an update")
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
