//! This machine: its id and its facts.

use crate::error::{FleetError, Result};
use crate::model::{Machine, VERSION};
use chrono::Utc;
use coracle_unit::SpecifierContext;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

/// The machine's id, made once: 32 hexadecimal digits in `STATE_DIR/machine-id`.
///
/// # Errors
/// [`FleetError::File`].
pub fn id(state_dir: &Path) -> Result<String> {
    let path = state_dir.join("machine-id");
    let failed = |source| FleetError::File {
        path: path.clone(),
        source,
    };
    match fs::read_to_string(&path) {
        Ok(text) if is_id(text.trim()) => return Ok(text.trim().to_owned()),
        Ok(_) => {
            let why = std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                "it must hold 32 hexadecimal digits",
            );
            return Err(failed(why));
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    let id = coracle_engine::id::random_hex().map_err(coracle_engine::EngineError::from)?[..32]
        .to_owned();
    let temporary = state_dir.join(".machine-id.new");
    let write = || {
        let mut file = fs::File::create(&temporary)?;
        writeln!(file, "{id}")?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(failed)?;
    Ok(id)
}

fn is_id(text: &str) -> bool {
    text.len() == 32
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Changes with each boot.
pub fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().replace('-', "")
}

/// What is known of this machine.
pub fn facts(id: &str) -> Machine {
    let uname = rustix::system::uname();
    let cpus = std::thread::available_parallelism()
        .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
    Machine {
        version: VERSION,
        id: id.to_owned(),
        hostname: uname.nodename().to_string_lossy().into_owned(),
        cpus,
        memory: coracle_engine::stats::machine_memory(),
        kernel: uname.release().to_string_lossy().into_owned(),
        coracle: env!("CARGO_PKG_VERSION").to_owned(),
        since: Utc::now(),
        labels: BTreeMap::new(),
    }
}

/// What specifiers of unit files stand for here.
pub fn specifiers(machine: &Machine) -> SpecifierContext {
    let uname = rustix::system::uname();
    let architecture = match uname.machine().to_string_lossy().as_ref() {
        "x86_64" => "x86-64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        other => other.to_owned(),
    };
    SpecifierContext {
        hostname: machine.hostname.clone(),
        machine_id: machine.id.clone(),
        boot_id: boot_id(),
        kernel_release: machine.kernel.clone(),
        architecture,
        ..SpecifierContext::default()
    }
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
        let error = id(dir.path()).unwrap_err().to_string();
        assert!(error.contains("machine-id"), "{error}");
    }
}
