//! This machine's facts.

use crate::model::{Machine, VERSION};
use chrono::Utc;
use coracle_unit::SpecifierContext;
use std::collections::BTreeMap;
use std::fs;

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
        door: String::new(),
        can_vote: false,
        api_ca: String::new(),
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

/// Whether a label can be written in a unit's `MachineMetadata=` and on a command line.
///
/// # Errors
/// What is wrong with it.
pub fn check_label(key: &str, value: &str) -> Result<(), &'static str> {
    let plain = |text: &str| text.chars().all(|c| !c.is_control() && !c.is_whitespace());
    match () {
        () if key.is_empty() => Err("its key is empty"),
        () if value.is_empty() => Err("its value is empty"),
        () if !plain(key) || !plain(value) => Err("it has a space in it"),
        () if key.contains(['=', '"', '\'']) => Err("its key has a quote or = in it"),
        () if key.ends_with('-') => Err("its key ends with a dash"),
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for (key, value) in [("rack", "a"), ("disk-type", "ssd=2"), ("a.b/c", "x:y")] {
            assert_eq!(check_label(key, value), Ok(()), "{key}={value}");
        }
        for (key, value) in [
            ("", "a"),
            ("a", ""),
            ("a b", "c"),
            ("a", "b c"),
            ("a=b", "c"),
            ("a-", "b"),
        ] {
            assert!(check_label(key, value).is_err(), "{key}={value}");
        }
    }
}
