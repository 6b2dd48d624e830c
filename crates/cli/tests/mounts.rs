//! Volumes of other containers, parts of volumes, and volumes whose data is elsewhere.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Daemon, errors};
use std::fs;
use std::process::Command;

#[test]
fn volumes_of_other_containers() {
    let d = Daemon::start();
    let dir = d.dir.path().join("host");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("f"), "host\n").unwrap();
    let bind = format!("{}:/host", dir.display());
    d.ok([
        "create",
        "--name",
        "donor",
        "-v",
        &bind,
        "-v",
        "vol:/vol",
        "-v",
        "/anonymous",
        "--tmpfs",
        "/t",
        "bb",
        "true",
    ]);
    // Also of one that never ran, by docker's command and ours.
    d.ok([
        "run",
        "--rm",
        "--volumes-from",
        "donor",
        "bb",
        "sh",
        "-c",
        "echo a > /vol/a; echo b > /anonymous/b; cat /host/f",
    ]);
    let said = d.docker_ok([
        "run",
        "--rm",
        "--volumes-from",
        "donor:ro",
        "bb",
        "sh",
        "-c",
        "cat /vol/a /anonymous/b; touch /vol/x || echo read-only",
    ]);
    assert_eq!(said, "a\nb\nread-only");
    // What it says itself counts more, and removal leaves what another has.
    d.ok([
        "run",
        "--name",
        "own",
        "-v",
        "other:/vol",
        "--volumes-from",
        "donor",
        "bb",
        "sh",
        "-c",
        "ls /vol; ls /anonymous",
    ]);
    assert_eq!(d.ok(["logs", "own"]), "b");
    d.ok(["rm", "-v", "own"]);
    assert_eq!(
        d.ok([
            "run",
            "--rm",
            "--volumes-from",
            "donor",
            "bb",
            "cat",
            "/anonymous/b"
        ]),
        "b"
    );
    for (from, words) in [
        ("nobody", "No such container"),
        ("donor:sideways", "sideways"),
    ] {
        let refused = d.coracle(["run", "--rm", "--volumes-from", from, "bb", "true"]);
        assert!(errors(&refused).contains(words), "{}", errors(&refused));
    }
}

#[test]
fn a_creation_that_fails_leaves_no_volume_behind() {
    let d = Daemon::start();
    let create = [
        "create",
        "-v",
        "kept:/k",
        "--mount",
        "type=volume,dst=/a",
        "--mount",
    ];
    let bad = ["type=volume,src=.bad,dst=/x", "bb", "true"];
    d.refused(&[&create[..], &bad].concat(), ".bad");
    assert_eq!(d.ok(["volume", "ls", "-q"]), "kept");
}

#[test]
fn a_directory_of_a_volume() {
    let d = Daemon::start();
    d.ok([
        "run",
        "--rm",
        "-v",
        "vol:/v",
        "bb",
        "sh",
        "-c",
        "mkdir -p /v/in/deep && echo part > /v/in/deep/f && ln -s /etc /v/out",
    ]);
    let mount = "type=volume,src=vol,dst=/x,volume-subpath=in/deep";
    assert_eq!(
        d.ok(["run", "--rm", "--mount", mount, "bb", "cat", "/x/f"]),
        "part"
    );
    // A link in the volume leads nowhere else.
    let data = d.state_dir().join("volumes/vol");
    assert!(data.exists(), "{}", data.display());
    for sub in ["../..", "out", "nope", "/etc"] {
        let mount = format!("type=volume,src=vol,dst=/x,volume-subpath={sub}");
        let refused = d.coracle(["run", "--rm", "--mount", &mount, "bb", "ls", "/x"]);
        let listed = common::text(&refused);
        assert!(
            !refused.status.success() || !listed.contains("passwd"),
            "{sub}: {listed}"
        );
    }
    // Nothing of the image is copied where that is not wanted.
    d.ok([
        "run",
        "--rm",
        "--mount",
        "type=volume,src=bare,dst=/data,volume-nocopy",
        "bb",
        "true",
    ]);
    assert_eq!(d.ok(["run", "--rm", "-v", "bare:/b", "bb", "ls", "/b"]), "");
    d.ok(["run", "--rm", "-v", "filled:/data", "bb", "true"]);
    assert_eq!(
        d.ok(["run", "--rm", "-v", "filled:/b", "bb", "ls", "/b"]),
        "from-image"
    );
}

/// A file system of its own, unmounted when this is dropped.
struct Mounted(std::path::PathBuf);

impl Mounted {
    /// `how` is `--make-shared` or `--make-private`.
    fn at(path: std::path::PathBuf, how: &str) -> Self {
        fs::create_dir(&path).unwrap();
        let run = |args: &[&str]| {
            let mut command = std::process::Command::new("mount");
            assert!(command.args(args).arg(&path).status().unwrap().success());
        };
        run(&["-t", "tmpfs", "test"]);
        run(&[how]);
        Self(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .args(["-R", "-l"])
            .arg(&self.0)
            .status();
    }
}

#[test]
fn mounts_show_on_both_sides_of_what_is_shared() {
    let d = Daemon::start();
    let shared = Mounted::at(d.dir.path().join("shared"), "--make-shared");
    let _plain = Mounted::at(d.dir.path().join("plain"), "--make-private");
    fs::create_dir(shared.0.join("in")).unwrap();
    fs::create_dir(shared.0.join("out")).unwrap();
    let bind = |dir: &str, mode: &str| format!("{}:/s:{mode}", d.dir.path().join(dir).display());
    d.ok([
        "run",
        "-d",
        "--name",
        "both",
        "--privileged",
        "-v",
        &bind("shared", "rshared"),
        "bb",
        "sleep",
        "1000",
    ]);
    // What it mounts shows here, what is mounted here shows there.
    d.ok(["exec", "both", "mount", "-t", "tmpfs", "x", "/s/out"]);
    d.ok(["exec", "both", "touch", "/s/out/made-inside"]);
    assert!(shared.0.join("out/made-inside").exists());
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "x"])
        .arg(shared.0.join("in"))
        .status();
    assert!(mount.unwrap().success());
    fs::write(shared.0.join("in/made-outside"), "x").unwrap();
    assert_eq!(d.ok(["exec", "both", "ls", "/s/in"]), "made-outside");
    assert_eq!(
        d.ok([
            "inspect",
            "--format",
            "{{(index .Mounts 0).Propagation}}",
            "both"
        ]),
        "rshared"
    );
    d.ok(["rm", "-f", "both"]);
    // Not to be written, and of a user that is not root.
    let said = d.ok([
        "run",
        "--rm",
        "--user",
        "33",
        "-v",
        &bind("shared", "ro,rshared"),
        "bb",
        "sh",
        "-c",
        "ls /s/in; touch /s/f 2>&1 || true",
    ]);
    assert!(
        said.starts_with("made-outside") && said.contains("Read-only"),
        "{said}"
    );
    // What is private on the host cannot be shared, and the host's mount is named.
    let refused = d.coracle(["run", "--rm", "-v", &bind("plain", "shared"), "bb", "true"]);
    let told = errors(&refused);
    assert!(told.contains("but it is not a shared mount"), "{told}");
    assert_eq!(d.ok(["ps", "-aq"]), "");
}

#[test]
fn volumes_whose_data_is_elsewhere() {
    let mut d = Daemon::start();
    let host = d.dir.path().join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("f"), "host\n").unwrap();
    let device = format!("device={}", host.display());
    d.ok([
        "volume",
        "create",
        "-o",
        "type=none",
        "-o",
        "o=bind",
        "-o",
        &device,
        "bound",
    ]);
    assert_eq!(
        d.ok(["run", "--rm", "-v", "bound:/b", "bb", "cat", "/b/f"]),
        "host"
    );
    let found = d.ok([
        "volume",
        "inspect",
        "--format",
        "{{index .Options \"o\"}}",
        "bound",
    ]);
    assert_eq!(found, "bind");
    d.ok(["volume", "rm", "bound"]);
    assert!(host.join("f").exists());

    let make = [
        "volume",
        "create",
        "-o",
        "type=tmpfs",
        "-o",
        "o=size=1m,noexec",
        "-o",
        "device=tmpfs",
        "mem",
    ];
    d.docker_ok(make);
    let at = d.ok(["volume", "inspect", "--format", "{{.Mountpoint}}", "mem"]);
    let write = "echo kept > /m/f; grep ' /m ' /proc/mounts";
    let mount = d.ok(["run", "--rm", "-v", "mem:/m", "bb", "sh", "-c", write]);
    assert!(
        mount.contains("size=1024k") && mount.contains("noexec"),
        "{mount}"
    );
    // It is one for all containers, and stays over a daemon's end.
    d.kill();
    d.up();
    assert_eq!(
        d.ok(["run", "--rm", "-v", "mem:/m", "bb", "cat", "/m/f"]),
        "kept"
    );
    let mounts = || {
        fs::read_to_string("/proc/self/mounts")
            .unwrap()
            .contains(&at)
    };
    assert!(mounts());
    d.ok(["volume", "rm", "mem"]);
    assert!(!mounts() && !std::path::Path::new(&at).exists());

    // What the kernel does not take is said, with what was asked.
    d.ok([
        "volume",
        "create",
        "-o",
        "type=nosuchfs",
        "-o",
        "device=/dev/null",
        "bad",
    ]);
    d.refused(&["run", "--rm", "-v", "bad:/x", "bb", "true"], "/dev/null");
    d.refused(&["volume", "create", "-o", "size=1g", "x"], "size");
    d.refused(&["volume", "create", "-o", "type=tmpfs", "x"], "device");
    d.ok([
        "volume",
        "create",
        "-o",
        "type=none",
        "-o",
        "o=bind",
        "-o",
        "device=/no/such",
        "gone",
    ]);
    d.refused(&["run", "--rm", "-v", "gone:/x", "bb", "true"], "/no/such");
    // A volume of a mount's own options, as compose writes them.
    let mount = format!(
        "type=volume,dst=/c,src=inline,volume-opt=type=none,volume-opt=o=bind,volume-opt={device}"
    );
    assert_eq!(
        d.ok(["run", "--rm", "--mount", &mount, "bb", "cat", "/c/f"]),
        "host"
    );
    // Everything down takes these mounts along.
    d.docker_ok(make);
    d.ok(["run", "--rm", "-v", "mem:/m", "bb", "true"]);
    assert!(mounts());
    d.ok(["system", "down", "-t", "0"]);
    assert!(!mounts());
    let left = Command::new("findmnt").arg(&at).output().unwrap();
    assert!(!left.status.success());
}
