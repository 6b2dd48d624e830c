//! The machine's id: 32 hexadecimal digits in `STATE_DIR/machine-id`, made once.
//!
//! It names the machine in the store, and this daemon's part of the control group tree, so that several daemons on one
//! machine do not touch each other's.

use crate::error::{EngineError, Result};
use crate::id::random_hex;
use std::fs;
use std::io::{Error, ErrorKind, Write};
use std::path::Path;

fn is_id(text: &str) -> bool {
    text.len() == 32
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Reads the id, or makes it.
///
/// # Errors
/// [`EngineError::File`], also for a file that holds something else.
pub fn id(state_dir: &Path) -> Result<String> {
    let path = state_dir.join("machine-id");
    match fs::read_to_string(&path) {
        Ok(text) if is_id(text.trim()) => return Ok(text.trim().to_owned()),
        Ok(_) => {
            let why = Error::new(ErrorKind::InvalidData, "it must hold 32 hexadecimal digits");
            return Err(EngineError::file("reading", path)(why));
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(EngineError::file("reading", path)(e)),
    }
    let id = random_hex()?[..32].to_owned();
    let temporary = state_dir.join(".machine-id.new");
    let write = || {
        let mut file = fs::File::create(&temporary)?;
        writeln!(file, "{id}")?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(EngineError::file("writing", path))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_id_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = id(dir.path()).unwrap();
        assert!(is_id(&first));
        assert_eq!(id(dir.path()).unwrap(), first);
        fs::write(dir.path().join("machine-id"), "x").unwrap();
        assert!(
            id(dir.path())
                .unwrap_err()
                .to_string()
                .contains("machine-id")
        );
    }
}
