//! The image, as `scripts/os` makes it, in a machine with UEFI firmware: it boots from its disk to a container of its configuration, lets in
//! who has a key, and goes back by itself from a release whose daemon never serves.
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
#[path = "os/ssh.rs"]
mod ssh;

use machine::{Machine, configuration, image, release};
use registry::Registry;
use serde_json::Value;
use ssh::Client;
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
    let client = Client::new();
    let host = registry.seen_from_machine();
    let configuration = configuration(&host, Some(&client.public()));
    machine::disk(&base, &disk, &configuration);
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
    logs_in(&client, &machine);
    let before = machine.containers();
    let image = format!("{}/steady:1", registry.seen_from_machine());
    hardening::check(&machine, &image);

    let name = format!("{host}/coracle/os");
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
    // By the same key of the machine, or the client would not go on.
    client.until_in(&machine);
    assert_eq!(client.ok(&machine, "cat copied"), "copied");
    machine.power_off();
    assert_state_is_clean(&disk, work.path());
}

/// By a key of the configuration to a shell that has the machine's commands; by nothing else.
fn logs_in(client: &Client, machine: &Machine) {
    client.until_in(machine);
    let told = format!("its host key is {}", client.fingerprint());
    machine.until("its console does not tell its host key", || {
        machine.said().contains(&told).then_some(())
    });
    let listed = client.ok(machine, "coracle ps --format '{{.Names}}'");
    assert!(
        listed.lines().any(|l| l == "coracle-ssh") && listed.contains("web"),
        "{listed}"
    );
    let version = client.ok(machine, "docker version");
    assert!(version.contains("Server"), "{version}");
    let over = client
        .docker(machine)
        .args(["ps", "--format", "{{.Names}}"])
        .output()
        .unwrap();
    assert_eq!(common::text(&over), listed.trim(), "{over:?}");
    let file = client.path("file");
    fs::write(&file, "copied").unwrap();
    let back = client.copied(machine, &file);
    assert_eq!(fs::read_to_string(back).unwrap(), "copied");
    // What runs is the slot's, and who logs in cannot change it.
    let done = client.run(machine, "touch /usr/bin/more /etc/more");
    let errors = common::errors(&done);
    assert_eq!(errors.matches("Read-only").count(), 2, "{errors}");

    // There are no passwords to try.
    let refused = client.refused(machine);
    assert!(refused.contains("denied (publickey)."), "{refused}");
    let forwarded = client.forwarded(machine, "127.0.0.1:22");
    assert!(!forwarded.status.success() && forwarded.stdout.is_empty());
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
