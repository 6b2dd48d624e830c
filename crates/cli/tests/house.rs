//! The house stands: dependencies run down the floors only, and `unsafe` stays in its two rooms.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The floors of ARCHITECTURE.md. A crate may depend on crates of lower floors.
const FLOORS: &[(&str, u8)] = &[
    ("coracle", 6),
    ("coracle-api", 5),
    ("coracle-fleet", 4),
    ("coracle-build", 4),
    ("coracle-cluster", 4),
    ("coracle-engine", 3),
    ("coracle-gateway", 3),
    ("coracle-pid1", 3),
    ("coracle-cloud-config", 2),
    ("coracle-image", 2),
    ("coracle-network", 2),
    ("coracle-os", 2),
    ("coracle-planner", 2),
    ("coracle-shim", 2),
    ("coracle-store", 2),
    ("coracle-shim-protocol", 1),
    ("coracle-dhcp", 1),
    ("coracle-dockerfile", 1),
    ("coracle-etcd-proto", 1),
    ("coracle-sys", 1),
    ("coracle-unit", 1),
    ("election", 1),
    ("guestbook", 1),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap()
        .to_owned()
}

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

#[test]
fn dependencies_run_down_the_floors() {
    let floors: BTreeMap<_, _> = FLOORS.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        let Some(floor) = floors.get(name) else {
            wrong.push(format!(
                "{name} has no floor: give it one in ARCHITECTURE.md and here"
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let on = dependency["name"].as_str().unwrap();
            if floors.get(on).is_some_and(|below| below >= floor) {
                wrong.push(format!(
                    "{name} (floor {floor}) depends on {on} (floor {})",
                    floors[on]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_forbidden_outside_its_rooms() {
    let mut wrong = Vec::new();
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        let manifest = std::fs::read_to_string(package["manifest_path"].as_str().unwrap()).unwrap();
        // The workspace's lints forbid unsafe code; a crate that does not take them over may have it.
        let forbids = manifest.contains("[lints]\nworkspace = true");
        let may = matches!(name, "coracle-sys" | "coracle-shim");
        if forbids == may {
            wrong.push(format!(
                "{name}: the workspace lints are {}",
                if may { "on" } else { "off" }
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let workspace = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(workspace.contains("unsafe_code = \"forbid\""));
}
