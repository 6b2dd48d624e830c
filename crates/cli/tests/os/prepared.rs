//! A machine that runs and has an update.
#![allow(dead_code, reason = "not every test needs all of it")]

use crate::machine::{self, Machine, configuration, image, release};
use crate::registry::Registry;
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

/// A machine, its disk, and the name of the update's image, which it has.
pub struct Prepared {
    pub machine: Machine,
    pub disk: PathBuf,
    pub image: String,
    pub registry: Registry,
}

/// What is made once: the disk, and an update to 0.2.0.
static MADE: LazyLock<(PathBuf, PathBuf)> = LazyLock::new(|| (image(), release("0.2.0", None)));

/// Emulated machines have a processor each, and there are few.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A machine whose containers answer and that has the update's image.
pub fn prepare(work: &Path) -> Prepared {
    prepare_for(work, None)
}

/// One that lets a key in by SSH.
pub fn prepare_for(work: &Path, key: Option<&str>) -> Prepared {
    let registry = Registry::start();
    registry.push_programs("steady:1", &["steady", "door", "look"]);
    registry.push_update(&MADE.1, "coracle/os:0.2.0");
    let disk = work.join("disk");
    let host = registry.seen_from_machine();
    machine::disk(&MADE.0, &disk, &configuration(&host, key));
    let machine = Machine::start(&disk);
    machine.until_answers("A ");
    // The door is another container than the one that has answered.
    machine.until_os(|_| true);
    machine.post(&format!(
        "/images/create?fromImage={host}/coracle/os&tag=0.2.0"
    ));
    Prepared {
        machine,
        disk,
        image: format!("{host}/coracle/os:0.2.0"),
        registry,
    }
}

pub fn is_good(status: &Value) -> bool {
    status["last_update"]["outcome"] == "good"
}
