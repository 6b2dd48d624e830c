//! Updates of the image in a machine with UEFI firmware: a good one and the way back, a slot that is damaged, power that goes while a slot is
//! written. They take longer than `make test` has time for: `make test-os` runs them.
#![allow(clippy::unwrap_used)]

mod common;
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
use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

/// What is made once: the disk, and an update to 0.2.0.
static MADE: LazyLock<(PathBuf, PathBuf)> = LazyLock::new(|| (image(), release("0.2.0", None)));

/// Emulated machines have a processor each, and there are few.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A machine whose containers answer, that lets the client in and has the update's image; its disk, and the image's name.
fn prepare(work: &Path, client: &Client) -> (Machine, PathBuf, String) {
    let registry = Registry::start();
    registry.push_programs("steady:1", &["steady", "door"]);
    registry.push_update(&MADE.1, "coracle/os:0.2.0");
    let disk = work.join("disk");
    let host = registry.seen_from_machine();
    let text = configuration(&host, Some(&client.public()));
    machine::disk(&MADE.0, &disk, &text);
    let machine = Machine::start(&disk);
    machine.until_answers("A ");
    // The door is another container than the one that has answered.
    machine.until_os(|_| true);
    client.until_in(&machine);
    machine.post(&format!(
        "/images/create?fromImage={host}/coracle/os&tag=0.2.0"
    ));
    (machine, disk, format!("{host}/coracle/os:0.2.0"))
}

fn is_good(status: &Value) -> bool {
    status["last_update"]["outcome"] == "good"
}

#[test]
fn a_good_update_is_proven_and_the_way_back_is_one_command() {
    let _alone = alone();
    let work = tempfile::tempdir().unwrap();
    let client = Client::new();
    let (machine, _disk, image) = prepare(work.path(), &client);
    let said = machine.post(&format!("/v1/os/update?image={image}&restart=true"));
    assert!(said.contains("restarting"), "{said}");
    let status = machine.until_os(is_good);
    assert_eq!(
        (&status["slot"], &status["version"]),
        (&Value::from("b"), &Value::from("0.2.0")),
        "{status}"
    );
    assert_eq!(status["slots"][1]["proven"], true, "{status}");
    machine.until_answers("A ");
    client.until_in(&machine);
    let release = client.ok(&machine, "cat /usr/lib/os-release");
    assert!(release.contains("VERSION_ID=0.2.0"), "{release}");
    // The same again is no update.
    let said = machine.post(&format!("/v1/os/update?image={image}"));
    assert!(said.contains("is what runs here already"), "{said}");
    machine.post("/v1/os/rollback?restart=true");
    let status = machine.until_os(|s| s["slot"] == "a");
    assert_eq!(status["last_update"]["outcome"], "rolled_back", "{status}");
    machine.until_answers("A ");
    client.until_in(&machine);
    let release = client.ok(&machine, "cat /usr/lib/os-release");
    assert!(!release.contains("VERSION_ID=0.2.0"), "{release}");
    machine.power_off();
}

#[test]
fn a_slot_whose_tree_is_damaged_is_left_for_the_other_one() {
    let _alone = alone();
    let work = tempfile::tempdir().unwrap();
    let client = Client::new();
    let (machine, disk, image) = prepare(work.path(), &client);
    machine.post(&format!("/v1/os/update?image={image}&restart=true"));
    machine.until_os(is_good);
    machine.power_off();
    // The root of the tree, right behind the data: the slot cannot be told any more. It is proven, so nothing counts its tries.
    let (start, _) = machine::extent(&disk, "coracle-b");
    let blocks = machine::blocks("0.2.0");
    let file = File::options().write(true).open(&disk).unwrap();
    file.write_all_at(b"damaged", start + blocks * 4096)
        .unwrap();
    // Nobody has a key any more.
    let text = std::fs::read_to_string(disk.with_extension("yaml")).unwrap();
    let text = text.replace(&client.public(), "").replace("  - \n", "");
    machine::configure(&disk, &text);
    let machine = Machine::start(&disk);
    let status = machine.until_os(|_| true);
    assert_eq!(status["slot"], "a", "{status}");
    assert_eq!(status["slots"][1]["tries_left"], 0, "{status}");
    machine.until_answers("A ");
    machine.until("ssh is still there", || {
        let running = machine.containers();
        (!running.iter().any(|name| name.contains("ssh"))).then_some(())
    });
    assert!(!client.run(&machine, "true").status.success());
    machine.power_off();
}

#[test]
fn power_that_goes_while_a_slot_is_written_leaves_the_other_one() {
    let _alone = alone();
    let work = tempfile::tempdir().unwrap();
    let client = Client::new();
    let (machine, disk, image) = prepare(work.path(), &client);
    let path = format!("/v1/os/update?image={image}");
    machine.post_until(&path, " MiB");
    machine.cut_power();
    let machine = Machine::start(&disk);
    let status = machine.until_os(|s| s["last_update"]["outcome"] == "failed");
    assert_eq!(status["slot"], "a", "{status}");
    assert_eq!(status["slots"].as_array().unwrap().len(), 1, "{status}");
    let reason = status["last_update"]["reason"].as_str().unwrap();
    assert!(
        reason.contains("restarted while it was written"),
        "{status}"
    );
    machine.until_answers("A ");
    // And then it works.
    let said = machine.post(&format!("{path}&restart=true"));
    assert!(said.contains("restarting"), "{said}");
    let status = machine.until_os(is_good);
    assert_eq!(status["slot"], "b", "{status}");
    machine.power_off();
}
