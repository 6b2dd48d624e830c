//! Removing what nobody uses.

use crate::at;
use crate::common::{Daemon, errors};
use std::fs;
use std::process::Command;

#[test]
fn what_nobody_uses_is_pruned_as_asked() {
    let d = Daemon::start();
    for (name, label) in [("old", "keep=no"), ("kept", "keep=yes")] {
        d.ok([
            "create",
            "--name",
            name,
            "--label",
            label,
            "-v",
            "/anonymous",
            "bb",
            "true",
        ]);
    }
    d.ok(["network", "create", "idle"]);
    d.ok(["volume", "create", "named"]);
    d.ok(["import", &archive(&d)]);
    let both = d.coracle(["system", "prune", "-f", "--volumes", "--filter", "until=1h"]);
    assert!(
        errors(&both).contains("not supported with"),
        "{}",
        errors(&both)
    );
    assert_eq!(
        d.ok(["container", "prune", "-f", "--filter", "until=1h"]),
        "Total reclaimed space: 0B"
    );
    let pruned = d.ok([
        "system",
        "prune",
        "-f",
        "--volumes",
        "--filter",
        "label!=keep=yes",
    ]);
    for title in [
        "Deleted Containers:",
        "Deleted Networks:\nidle",
        "Deleted Images:",
    ] {
        assert!(pruned.contains(title), "{pruned}");
    }
    assert_eq!(d.ok(["ps", "-a", "--format", "{{.Names}}"]), "kept");
    // One with a name and one of a container that is there.
    assert_eq!(d.ok(["volume", "ls", "-q"]).lines().count(), 2);
    d.ok(["rm", "kept"]);
    assert!(d.ok(["volume", "prune", "-f"]).contains("Deleted Volumes"));
    assert_eq!(d.ok(["volume", "ls", "-q"]), "named");
    // Nobody said yes.
    assert!(
        d.ok(["system", "prune", "-a"])
            .contains("WARNING! This will remove")
    );
    assert_eq!(d.ok(["images", "-q"]).lines().count(), 1);
    let file = d.dir.path().join("env");
    fs::write(&file, "# of the file\nFROM_FILE=1\n").unwrap();
    d.ok(["run", "-d", "--name", "web", "bb", "sleep", "1000"]);
    let said = d.ok([
        "exec",
        "--env-file",
        &at(&file),
        "-e",
        "A=b",
        "web",
        "sh",
        "-c",
        "echo $FROM_FILE $A",
    ]);
    assert_eq!(said, "1 b");
}

/// A root filesystem of one file.
fn archive(d: &Daemon) -> String {
    let path = d.dir.path().join("one.tar");
    let made = Command::new("tar")
        .arg("-cf")
        .arg(&path)
        .args(["-C", "/etc", "hostname"])
        .status();
    assert!(made.unwrap().success());
    at(&path)
}
