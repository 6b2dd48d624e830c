//! `coracle os install` in a machine with UEFI firmware: refusals, power that goes while it writes, and a machine that starts from the new
//! disk, alone and beside the one that it was copied from.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "os/http.rs"]
mod http;
#[path = "os/machine.rs"]
mod machine;
#[path = "os/registry.rs"]
mod registry;

use machine::{Machine, configuration, image};
use registry::Registry;
use serde_json::json;
use std::{fs::File, path::Path, process::Command};

/// What becomes of it, as lines of JSON.
fn install(machine: &Machine, query: &str, body: &str) -> String {
    let (status, said) = machine.post_with(&format!("/v1/os/install?{query}"), body);
    assert_eq!(status, 200, "{said}");
    said
}

fn refused(machine: &Machine, query: &str, body: &str, words: &str) {
    let said = install(machine, query, body);
    assert!(
        said.contains("\"error\"") && said.contains(words),
        "{query}: {said}"
    );
}

/// The files of its EFI partition; none where that is no file system yet.
fn files(disk: &Path) -> String {
    let (start, _) = machine::extent(disk, "coracle-efi");
    let told = Command::new("mdir")
        .args(["-/", "-b", "-i"])
        .arg(format!("{}@@{start}", disk.display()))
        .output()
        .unwrap();
    String::from_utf8_lossy(&told.stdout).into_owned()
}

#[test]
fn a_machine_writes_its_system_onto_another_disk() {
    let registry = Registry::start();
    registry.push_programs("steady:1", &["steady", "door"]);
    let work = tempfile::tempdir().unwrap();
    let first = work.path().join("first");
    let host = registry.seen_from_machine();
    machine::disk(&image(), &first, &configuration(&host, None));
    let (second, small) = (work.path().join("second"), work.path().join("small"));
    File::create(&second).unwrap().set_len(4 << 30).unwrap();
    File::create(&small).unwrap().set_len(1 << 30).unwrap();
    let disks = [first.as_path(), &second, &small];
    let machine = Machine::start_with(&first, &disks, &[]);
    machine.until_answers("A ");
    machine.until_os(|_| true);

    for (disk, words) in [
        ("/dev/vda", "this machine runs from /dev/vda"),
        ("/dev/vda2", "name the whole disk, /dev/vda"),
        ("/dev/vdc", "has 1024 MiB, and 3586 MiB are needed"),
        ("/dev/vdd", "/dev/vdd is no disk"),
        ("/dev/null", "/dev/null is no disk"),
    ] {
        refused(&machine, &format!("disk={disk}&erase=true"), "", words);
    }
    let wrong = json!({ "configuration": "#cloud-config\nhostnme: x\n" }).to_string();
    refused(&machine, "disk=/dev/vdb", &wrong, "line 2");
    assert!(!has_table(&second), "nothing was to be written");

    // The power goes in the midst of it: the disk starts nothing.
    machine.post_until("/v1/os/install?disk=/dev/vdb", " MiB");
    machine.cut_power();
    assert!(has_table(&second));
    starts_nothing(&second);

    let machine = Machine::start_with(&first, &disks, &[]);
    machine.until_answers("A ");
    machine.until_os(|_| true);
    // Nor does it when the boot loader's file system is half written.
    let path = "/v1/os/install?disk=/dev/vdb&erase=true";
    machine.post_until(path, "kernel image and configuration");
    machine.cut_power();
    let left = files(&second).to_uppercase();
    assert!(
        !left.contains("BOOTX64.EFI") && !left.contains(".CONF"),
        "{left}"
    );
    starts_nothing(&second);
    let machine = Machine::start_with(&first, &disks, &[]);
    machine.until_answers("A ");
    machine.until_os(|_| true);
    let named = configuration(&host, None).replace("hostname: first", "hostname: second");
    let named = json!({ "configuration": named }).to_string();
    refused(
        &machine,
        "disk=/dev/vdb",
        &named,
        "not empty (it has vdb1, vdb2, vdb3, vdb4): --erase",
    );
    let said = install(&machine, "disk=/dev/vdb&erase=true", &named);
    assert!(
        said.contains("can be started from") && said.contains("done"),
        "{said}"
    );
    // A container has its EFI partition.
    let volume = json!({ "Name": "efi", "DriverOpts": { "type": "vfat", "device": "/dev/vdb1" } });
    let (status, body) = machine.post_with("/volumes/create", &volume.to_string());
    assert_eq!(status, 201, "{body}");
    let asked = json!({
        "Image": format!("{host}/steady:1"), "Cmd": ["/bin/steady", "B", "9000"],
        "HostConfig": { "Binds": ["efi:/efi"] },
    });
    let (status, body) = machine.post_with("/containers/create?name=user", &asked.to_string());
    assert_eq!(status, 201, "{body}");
    let (status, body) = machine.post_with("/containers/user/start", "");
    assert_eq!(status, 204, "{body}");
    refused(
        &machine,
        "disk=/dev/vdb&erase=true",
        &named,
        "/dev/vdb is in use",
    );
    machine.power_off();

    // Alone, and with the disk that it was copied from before it.
    for disks in [&[second.as_path()][..], &[&first, &second]] {
        let machine = Machine::start_with(&second, disks, &[]);
        machine.until_answers("A ");
        let status = machine.until_os(|s| s["slots"][0]["proven"] == true);
        assert_eq!(status["slot"], "a", "{status}");
        assert_eq!(status["slots"].as_array().unwrap().len(), 1, "{status}");
        assert_eq!(machine.get("/info")["Name"], "second");
        machine.power_off();
    }
}

/// The firmware goes on to what it has itself.
fn starts_nothing(disk: &Path) {
    let machine = Machine::start_with(disk, &[disk], &[]);
    machine.until_said("EFI Internal Shell");
    machine.cut_power();
}

fn has_table(disk: &Path) -> bool {
    let told = Command::new("sfdisk")
        .arg("--json")
        .arg(disk)
        .output()
        .unwrap();
    told.status.success()
}
