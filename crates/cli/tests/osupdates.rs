//! Updates of the image in a machine with UEFI firmware: a good one and the way back, a slot that is damaged, power that goes while a slot is
//! written. They take longer than `make test` has time for: `make test-os` runs them.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "os/http.rs"]
mod http;
#[path = "os/machine.rs"]
mod machine;
#[path = "os/prepared.rs"]
mod prepared;
#[path = "os/registry.rs"]
mod registry;
#[path = "os/ssh.rs"]
mod ssh;

use machine::Machine;
use prepared::{Prepared, alone, is_good, prepare, prepare_for};
use serde_json::Value;
use ssh::Client;
use std::{fs::File, os::unix::fs::FileExt};

#[test]
fn a_good_update_is_proven_and_the_way_back_is_one_command() {
    let _alone = alone();
    let work = tempfile::tempdir().unwrap();
    let client = Client::new();
    let Prepared { machine, image, .. } = prepare_for(work.path(), Some(&client.public()));
    client.until_in(&machine);
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
    let Prepared {
        machine,
        disk,
        image,
        registry: _registry,
    } = prepare_for(work.path(), Some(&client.public()));
    client.until_in(&machine);
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

/// A container with all rights can write onto the partition of the slot that runs: not below what is read from it.
#[test]
fn a_block_that_a_container_has_changed_is_not_read_and_the_slot_not_started() {
    let _alone = alone();
    let work = tempfile::tempdir().unwrap();
    let Prepared {
        machine,
        disk,
        image,
        registry: _registry,
    } = prepare(work.path());
    machine.post(&format!("/v1/os/update?image={image}&restart=true"));
    machine.until_os(is_good);
    machine.until_answers("A ");
    let programs = image.replace("coracle/os:0.2.0", "steady:1");
    let at = machine::block_of("/usr/bin/etcd") * 4096 + 100;
    let words = [
        "/bin/look",
        "write",
        "/dev/vda3",
        &at.to_string(),
        "changed",
    ];
    let (code, said) = machine.run_privileged(&programs, &words);
    assert_eq!((code, said.trim()), (0, "written"));
    machine.power_off();
    let machine = Machine::start(&disk);
    let status = machine.until_os(|s| s["slot"] == "a");
    assert_eq!(status["slots"][1]["tries_left"], 0, "{status}");
    let said = machine.said();
    assert!(
        said.contains("/usr/bin/etcd of the root cannot be read"),
        "{said}"
    );
    machine.until_answers("A ");
    machine.power_off();
}

#[test]
fn power_that_goes_while_a_slot_is_written_leaves_the_other_one() {
    let _alone = alone();
    let work = tempfile::tempdir().unwrap();
    let Prepared {
        machine,
        disk,
        image,
        registry: _registry,
    } = prepare(work.path());
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
