//! The configuration's units: handed to the daemon when they are new or changed, so that what was deployed since is not undone by a
//! restart.

use super::{
    children::Children,
    daemon::{self, program},
};
use crate::console::{Level, failed, say};
use coracle_cloud_config::{CloudConfig, CloudUnit, Command};
use coracle_os::{files::replace, machine::Machine, root::hex};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fs, io, path::Path, thread, time::Duration};

/// Digests of what was applied, by unit.
const APPLIED: &str = "/var/lib/coracle-os/units.json";
const PLACE: &str = "/run/coracle-os/units";

/// Pause before what could not be applied is tried again; twice as long each time, up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// Digests of units that were applied, by name.
pub type Applied = BTreeMap<String, String>;

/// Applies the units again and again until all are: a registry may be away when the machine comes up.
pub fn keep_applying(config: CloudConfig, children: Children, mut applied: Applied) {
    let mut pause = PAUSE.0;
    let applying = thread::Builder::new().name("units".to_owned());
    let started = applying.spawn(move || {
        loop {
            thread::sleep(pause);
            if daemon::is_ending() {
                return;
            }
            if apply(&config, &children, &mut applied).is_ok() {
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
pub fn apply(config: &CloudConfig, children: &Children, applied: &mut Applied) -> io::Result<()> {
    fs::create_dir_all(PLACE)?;
    let (mut wrong, mut unwritten) = (Vec::new(), false);
    for name in left_over(applied, &config.units) {
        let mut destroy = program("/usr/bin/coracle");
        match children.run(destroy.args(["unit", "destroy", &name])) {
            Ok(()) => {
                applied.remove(&name);
                unwritten = write(applied).is_err();
            }
            Err(error) => {
                failed(&name, &error);
                wrong.push(name);
            }
        }
    }
    let boot = Machine::boot();
    for unit in &config.units {
        let (name, digest) = (unit.name.as_str(), digest(unit, &boot));
        if applied.get(name) == Some(&digest) {
            continue;
        }
        let known = applied.contains_key(name);
        match one(unit, known, children) {
            Ok(()) => {
                say(Level::Info, &format!("unit {name}"));
                applied.insert(name.to_owned(), digest);
                unwritten = write(applied).is_err();
            }
            Err(error) => {
                failed(name, &error);
                wrong.push(name.to_owned());
            }
        }
    }
    if unwritten && let Err(error) = write(applied) {
        // Then they are applied again in the next boot, and not before.
        failed(APPLIED, &error);
    }
    match wrong.as_slice() {
        [] => Ok(()),
        wrong => Err(io::Error::other(format!(
            "not applied: {}",
            wrong.join(", ")
        ))),
    }
}

/// What was applied before.
pub fn applied() -> Applied {
    let text = fs::read_to_string(APPLIED).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

fn write(applied: &Applied) -> io::Result<()> {
    let text = serde_json::to_vec(applied)?;
    replace(Path::new(APPLIED), &text, 0o600)
}

/// What is written before the digest of a unit that is gone with the next boot.
const RUNTIME: &str = "runtime:";

/// A unit's digest. Of one that is gone with the next boot it is another in each.
fn digest(unit: &CloudUnit, boot: &str) -> String {
    let text = serde_json::to_vec(unit).unwrap_or_default();
    let digest = hex(&Sha256::digest(text));
    match unit.runtime {
        true => format!("{RUNTIME}{boot}:{digest}"),
        false => digest,
    }
}

/// Units of a former boot that were to be gone with it, and that the configuration has no more.
fn left_over(applied: &Applied, units: &[CloudUnit]) -> Vec<String> {
    let over = applied.iter().filter(|(name, digest)| {
        digest.starts_with(RUNTIME) && !units.iter().any(|unit| unit.name.as_str() == *name)
    });
    over.map(|(name, _)| name.clone()).collect()
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn unit(name: &str, runtime: bool) -> CloudUnit {
        CloudUnit {
            name: name.to_owned().try_into().unwrap(),
            content: Some("[Container]\nImage=a\n".to_owned()),
            drop_ins: Vec::new(),
            enable: false,
            runtime,
            command: None,
            mask: false,
        }
    }

    #[test]
    fn a_unit_of_this_boot_is_new_in_the_next_one_and_gone_if_it_is_no_more() {
        let (stays, goes) = (unit("a.container", false), unit("b.container", true));
        assert_eq!(digest(&stays, "1"), digest(&stays, "2"));
        assert_ne!(digest(&goes, "1"), digest(&goes, "2"));
        let applied = [&stays, &goes].map(|u| (u.name.to_string(), digest(u, "1")));
        let applied = BTreeMap::from(applied);
        assert_eq!(left_over(&applied, &[stays.clone(), goes]), [""; 0]);
        assert_eq!(left_over(&applied, &[stays]), ["b.container"]);
        assert_eq!(left_over(&applied, &[]), ["b.container"]);
    }
}
