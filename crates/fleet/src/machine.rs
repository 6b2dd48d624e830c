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
