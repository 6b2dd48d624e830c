//! `Binds`, `Mounts`, `Tmpfs`, `VolumesFrom`.

use crate::common::Daemon;
use crate::http::send;
use crate::{create, inspect, ok, remove, run, script, start};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

#[test]
fn mounts_are_made_as_asked() {
    let d = Daemon::start();
    let host = d.dir.path().join("host");
    fs::create_dir_all(host.join("sub")).unwrap();
    fs::write(host.join("f"), "host\n").unwrap();
    let source = host.to_str().unwrap();
    let missing = d.dir.path().join("made");
    let one = |mount: Value| json!({ "HostConfig": { "Mounts": [mount] } });
    let volume = |options: Value| json!({ "Type": "volume", "Source": "data", "Target": "/data", "VolumeOptions": options });
    let tmpfs =
        |options: Value| one(json!({ "Type": "tmpfs", "Target": "/t", "TmpfsOptions": options }));
    for (with, text, says) in [
        (
            json!({ "HostConfig": { "Binds": [format!("{source}:/h:ro")] } }),
            "cat /h/f; touch /h/x 2>/dev/null || echo no",
            "host\nno\n",
        ),
        (
            one(json!({ "Type": "bind", "Source": source, "Target": "/h" })),
            "cat /h/f; touch /h/x && echo yes",
            "host\nyes\n",
        ),
        (
            one(json!({ "Type": "bind", "Source": source, "Target": "/h", "ReadOnly": true })),
            "touch /h/x 2>/dev/null || echo no",
            "no\n",
        ),
        (
            one(
                json!({ "Type": "bind", "Source": missing, "Target": "/h", "BindOptions": { "CreateMountpoint": true } }),
            ),
            "ls /h",
            "",
        ),
        (
            one(
                json!({ "Type": "bind", "Source": source, "Target": "/h", "Consistency": "cached" }),
            ),
            "cat /h/f",
            "host\n",
        ),
        // What was made in a volume stays there; an image's files come first, unless that is not wanted.
        (
            one(volume(json!({ "NoCopy": true }))),
            "ls /data; mkdir -p /data/in; echo deep > /data/in/f",
            "",
        ),
        (
            one(volume(json!({ "Subpath": "in" }))),
            "cat /data/f",
            "deep\n",
        ),
        (
            one(volume(json!({ "DriverConfig": { "Name": "local" } }))),
            "cat /data/in/f",
            "deep\n",
        ),
        (
            one(json!({ "Type": "volume", "Source": "full", "Target": "/data" })),
            "ls /data",
            "from-image\n",
        ),
        (
            tmpfs(json!({ "SizeBytes": 1 << 20 })),
            "busybox df -k /t | tail -n 1 | busybox awk '{print $2}'",
            "1024\n",
        ),
        (tmpfs(json!({ "Mode": 0o750 })), "stat -c %a /t", "750\n"),
        (
            tmpfs(json!({ "Options": [["uid", "33"], ["exec"]] })),
            "stat -c %u /t; grep -c noexec.*x /proc/mounts >/dev/null; grep ' /t ' /proc/mounts | grep -c noexec",
            "33\n0\n",
        ),
        (
            json!({ "HostConfig": { "Tmpfs": { "/t": "size=2m" } } }),
            "busybox df -k /t | tail -n 1 | busybox awk '{print $2}'",
            "2048\n",
        ),
        (
            json!({ "HostConfig": { "VolumeDriver": "local", "Binds": ["other:/o"] } }),
            "grep -c ' /o ' /proc/mounts",
            "1\n",
        ),
    ] {
        assert_eq!(run(&d, &script(text, &with)), says, "{with}");
    }
    assert!(missing.is_dir());
    let labels = one(
        json!({ "Type": "volume", "Source": "named", "Target": "/n", "VolumeOptions": { "Labels": { "a": "b" } } }),
    );
    let donor = create(&d, &script("true", &labels));
    let said = ok(&d, "GET", "/volumes/named", &Value::Null).json();
    assert_eq!(said["Labels"], json!({ "a": "b" }));
    assert_eq!(
        inspect(&d, &donor)["HostConfig"]["Mounts"][0]["VolumeOptions"]["Labels"],
        json!({ "a": "b" })
    );
    let from = json!({ "HostConfig": { "VolumesFrom": [donor] } });
    assert_eq!(
        run(&d, &script("grep -c ' /n ' /proc/mounts", &from)),
        "1\n"
    );
}

/// What is mounted below a bind's source, and what is mounted there later.
#[test]
fn what_is_mounted_below() {
    let d = Daemon::start();
    let host = d.dir.path().join("host");
    fs::create_dir_all(host.join("sub")).unwrap();
    fs::create_dir_all(host.join("late")).unwrap();
    let mount =
        |args: &[&str]| assert!(Command::new("mount").args(args).status().unwrap().success());
    let at = |name: &str| host.join(name).to_str().unwrap().to_owned();
    // A mount of its own, so that what is done here concerns nobody else.
    mount(&["-t", "tmpfs", "x", &at("")]);
    mount(&["--make-shared", &at("")]);
    fs::create_dir_all(host.join("sub")).unwrap();
    fs::create_dir_all(host.join("late")).unwrap();
    mount(&["-t", "tmpfs", "x", &at("sub")]);
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let with = |read_only: bool, options: Value| {
            json!({ "HostConfig": { "Mounts": [{ "Type": "bind", "Source": host, "Target": "/h", "ReadOnly": read_only,
                "BindOptions": options }] } })
        };
        let text = "touch /h/x 2>/dev/null && echo top; touch /h/sub/x 2>/dev/null && echo sub; grep -c ' /h' /proc/mounts";
        for (read_only, options, says) in [
            (false, json!({}), "top\nsub\n2\n"),
            (false, json!({ "NonRecursive": true }), "top\nsub\n1\n"),
            // A read-only mount is so with all that is below it, unless that is not wanted.
            (true, json!({}), "2\n"),
            (true, json!({ "ReadOnlyForceRecursive": true }), "2\n"),
            (true, json!({ "ReadOnlyNonRecursive": true }), "sub\n2\n"),
            // What is shared lies over the runtime's own.
            (true, json!({ "Propagation": "rshared" }), "4\n"),
            (
                true,
                json!({ "Propagation": "rshared", "ReadOnlyNonRecursive": true }),
                "sub\n4\n",
            ),
        ] {
            let with = with(read_only, options);
            assert_eq!(run(&d, &script(text, &with)), says, "{with}");
        }
        // So is one of another container, and a volume that is a directory of the host.
        let donor = create(&d, &script("true", &with(false, json!({}))));
        let from = json!({ "HostConfig": { "VolumesFrom": [format!("{donor}:ro")] } });
        assert_eq!(run(&d, &script(text, &from)), "2\n");
        let device = json!({ "type": "none", "o": "bind", "device": host });
        let volume = json!({ "HostConfig": { "Mounts": [{ "Type": "volume", "Source": "bound", "Target": "/h", "ReadOnly": true,
            "VolumeOptions": { "DriverConfig": { "Name": "local", "Options": device } } }] } });
        assert_eq!(run(&d, &script(text, &volume)), "2\n");
        // What is copied into a container that does not run meets the same.
        let tree = d.dir.path().join("tree");
        fs::create_dir_all(tree.join("h/sub")).unwrap();
        fs::write(tree.join("h/sub/copied"), "x").unwrap();
        let mut tar = Command::new("tar");
        let archive = tar.arg("-cC").arg(&tree).arg("h/sub/copied");
        let archive = archive.output().unwrap().stdout;
        for with in [with(true, json!({})), from, volume] {
            let id = create(&d, &script("true", &with));
            let path = format!("/containers/{id}/archive?path=/");
            let answer = send(
                &d,
                "PUT",
                &path,
                &["Content-Type: application/x-tar"],
                &archive,
            );
            assert_eq!(answer.status, 403, "{with}: {}", answer.text());
            assert!(!host.join("sub/copied").exists(), "{with}");
            remove(&d, &id);
        }
        for (propagation, seen) in [("rslave", "1"), ("rprivate", "0")] {
            let with = with(false, json!({ "Propagation": propagation }));
            let id = create(&d, &script("sleep 1000", &with));
            start(&d, &id);
            mount(&["-t", "tmpfs", "x", &at("late")]);
            let found = d.coracle([
                "exec",
                &id,
                "sh",
                "-c",
                "grep -c ' /h/late ' /proc/mounts; true",
            ]);
            assert!(
                Command::new("umount")
                    .arg(at("late"))
                    .status()
                    .unwrap()
                    .success()
            );
            assert_eq!(crate::common::text(&found), seen, "{propagation}");
            remove(&d, &id);
        }
    }));
    let _ = Command::new("umount").arg("-R").arg(&host).status();
    done.unwrap();
}
