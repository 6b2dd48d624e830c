//! The image, as `scripts/os` makes it, in a machine with UEFI firmware: it boots from its disk to a container of its configuration, and
//! goes back by itself from a release whose daemon never serves.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "os/hardening.rs"]
mod hardening;
#[path = "os/http.rs"]
mod http;
#[path = "os/machine.rs"]
mod machine;
#[path = "os/registry.rs"]
mod registry;

use machine::{Machine, configuration, image, release};
use registry::Registry;
use serde_json::Value;
use std::{fs, path::Path};

#[test]
fn it_boots_to_a_container_and_comes_back_from_a_release_that_does_not_serve() {
    let registry = Registry::start();
    registry.push_programs("steady:1", &["steady", "door", "look"]);
    let base = image();

    // A release whose command is no daemon: it ends at once.
    let extra = tempfile::tempdir().unwrap();
    let program = extra.path().join("usr/bin/coracle");
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    fs::copy(common::programs().with_file_name("coracle-pid1"), &program).unwrap();
    let broken = release("0.9.0", Some(extra.path()));
    registry.push_update(&broken, "coracle/os:0.9.0");

    let work = tempfile::tempdir().unwrap();
    let disk = work.path().join("disk");
    machine::disk(&base, &disk, &configuration(&registry.seen_from_machine()));
    let machine = Machine::start(&disk);
    machine.until_answers("A ");
    let status = machine.until_os(|_| true);
    let version = status["version"].as_str().unwrap().to_owned();
    assert_eq!(
        (&status["slot"], &status["slots"][0]["proven"]),
        (&Value::from("a"), &Value::from(true)),
        "{status}"
    );
    let report = machine.get("/v1/os/boot-report");
    let phases: Vec<_> = report["phases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        phases,
        [
            "mounts",
            "sysctls",
            "devices",
            "state",
            "configuration",
            "etc",
            "network",
            "daemon",
            "units"
        ],
        "{report}"
    );
    assert_eq!(machine.get("/info")["Name"], "first");
    let before = machine.containers();
    let image = format!("{}/steady:1", registry.seen_from_machine());
    hardening::check(&machine, &image);

    let name = format!("{}/coracle/os", registry.seen_from_machine());
    machine.post(&format!("/images/create?fromImage={name}&tag=0.9.0"));
    let said = machine.post(&format!("/v1/os/update?image={name}:0.9.0&restart=true"));
    assert!(
        said.contains("slot b holds release 0.9.0") && said.contains("restarting"),
        "{said}"
    );

    // It starts from b, whose daemon ends again and again, and is back in a.
    let status = machine.until_os(|s| s["last_update"]["outcome"] == "failed");
    assert_eq!(
        (&status["slot"], &status["version"]),
        (&Value::from("a"), &Value::from(version)),
        "{status}"
    );
    let reason = status["last_update"]["reason"].as_str().unwrap();
    assert!(
        reason.contains("the daemon ends again and again"),
        "{status}"
    );
    machine.until_answers("A ");
    assert_eq!(machine.containers(), before);
    machine.power_off();
    assert_state_is_clean(&disk, work.path());
}

/// The state was unmounted in order: its file system needs nothing.
fn assert_state_is_clean(disk: &Path, work: &Path) {
    let state = work.join("state");
    machine::partition(disk, "coracle-state", &state);
    let checked = std::process::Command::new("e2fsck")
        .arg("-fn")
        .arg(&state)
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
    let told = std::process::Command::new("dumpe2fs")
        .arg("-h")
        .arg(&state)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(!told.contains("needs_recovery"), "{told}");
}
