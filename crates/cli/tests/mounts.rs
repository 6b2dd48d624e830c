//! Volumes of other containers, and parts of volumes.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Daemon, errors};
use std::fs;

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
