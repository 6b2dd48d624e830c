//! The configuration's units: handed to the daemon when they are new or changed, so that what was deployed since is not undone by a
//! restart.

use super::{
    children::Children,
    daemon::{self, program},
    etc::replace,
};
use crate::console::{Level, failed, say};
use coracle_cloud_config::{CloudConfig, CloudUnit, Command};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fs, io, path::Path, thread, time::Duration};

/// Digests of what was applied, by unit.
const APPLIED: &str = "/var/lib/coracle-os/units.json";
const PLACE: &str = "/run/coracle-os/units";

/// Pause before what could not be applied is tried again; twice as long each time, up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// Applies the units again and again until all are: a registry may be away when the machine comes up.
pub fn keep_applying(config: CloudConfig, children: Children) {
    let mut pause = PAUSE.0;
    let applying = thread::Builder::new().name("units".to_owned());
    let started = applying.spawn(move || {
        loop {
            thread::sleep(pause);
            if daemon::is_ending() {
                return;
            }
            if apply(&config, &children).is_ok() {
                say(Level::Notice, "all units of the configuration are applied");
                return;
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    });
    if let Err(error) = started {
        failed("units that could not be applied", &error);
    }
}

/// Applies the units.
///
/// # Errors
/// That one could not be; the others are tried all the same.
pub fn apply(config: &CloudConfig, children: &Children) -> io::Result<()> {
    let text = fs::read_to_string(APPLIED).unwrap_or_default();
    let mut applied: BTreeMap<String, String> = serde_json::from_str(&text).unwrap_or_default();
    fs::create_dir_all(PLACE)?;
    let mut wrong = Vec::new();
    for unit in &config.units {
        let (name, digest) = (unit.name.as_str(), digest(unit));
        if applied.get(name) == Some(&digest) {
            continue;
        }
        let known = applied.contains_key(name);
        match one(unit, known, children) {
            Ok(()) => {
                say(Level::Info, &format!("unit {name}"));
                applied.insert(name.to_owned(), digest);
                let text = serde_json::to_vec(&applied)?;
                replace(Path::new(APPLIED), &text, 0o600)?;
            }
            Err(error) => {
                failed(name, &error);
                wrong.push(name);
            }
        }
    }
    match wrong.as_slice() {
        [] => Ok(()),
        wrong => Err(io::Error::other(format!(
            "not applied: {}",
            wrong.join(", ")
        ))),
    }
}

fn digest(unit: &CloudUnit) -> String {
    let text = serde_json::to_vec(unit).unwrap_or_default();
    Sha256::digest(text)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn one(unit: &CloudUnit, known: bool, children: &Children) -> io::Result<()> {
    let coracle = |verb: &str, argument: &str| {
        let mut command = program("/usr/bin/coracle");
        children.run(command.args(["unit", verb]).arg(argument))
    };
    let name = unit.name.as_str();
    let Some(content) = unit.content.as_ref().filter(|_| !unit.mask) else {
        // Whether there is one to be stopped does not matter: it must not run.
        coracle("stop", name).ok();
        return Ok(());
    };
    let path = Path::new(PLACE).join(name);
    fs::write(&path, content)?;
    // Beside the file, where the command looks for them.
    let beside = Path::new(PLACE).join(format!("{name}.d"));
    fs::remove_dir_all(&beside).ok();
    for file in &unit.drop_ins {
        fs::create_dir_all(&beside)?;
        fs::write(beside.join(&file.name), &file.content)?;
    }
    let starts = unit.enable || matches!(unit.command, Some(Command::Start));
    let path = path.to_string_lossy();
    if starts && !known {
        return coracle("start", &path);
    }
    coracle("submit", &path)?;
    match unit.command {
        Some(Command::Stop) => coracle("stop", name),
        // It runs by the text that it was started with.
        _ if starts => coracle("restart", name),
        _ => Ok(()),
    }
}
