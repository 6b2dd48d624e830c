//! Parameters of images: builds, commits, what comes and what goes.

use crate::common::Daemon;
use crate::common::registry::Registry;
use crate::http::{Answer, ask, get, send};
use crate::{create, ok, output, quoted, run, script, start};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// An archive of files.
fn tar(d: &Daemon, files: &[(&str, &str)]) -> Vec<u8> {
    let dir = tempfile::tempdir_in(d.dir.path()).unwrap();
    for (name, content) in files {
        fs::write(dir.path().join(name), content).unwrap();
    }
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(dir.path()).args(["-c", "."]);
    tar.output().unwrap().stdout
}

fn build(d: &Daemon, query: &str, files: &[(&str, &str)]) -> Answer {
    let head = ["Content-Type: application/x-tar"];
    send(d, "POST", &format!("/build?{query}"), &head, &tar(d, files))
}

/// Builds, and wants to read these words.
fn says(d: &Daemon, query: &str, dockerfile: &str, words: &str) {
    let answer = build(d, query, &[("Dockerfile", dockerfile)]);
    let text = answer.text();
    assert!(text.contains(words), "{query}: {words:?} is not in {text}");
}

#[test]
fn builds_are_as_asked() {
    let d = Daemon::start();
    let json = |value: Value| quoted(&value.to_string());
    says(
        &d,
        "t=one&t=two:2",
        "FROM bb\n",
        "Successfully tagged two:2",
    );
    assert_eq!(
        get(&d, "/images/one/json").json()["Id"],
        get(&d, "/images/two:2/json").json()["Id"]
    );
    let other = build(
        &d,
        "dockerfile=other",
        &[
            ("Dockerfile", "FROM nope\n"),
            ("other", "FROM bb\nRUN echo other one\n"),
        ],
    );
    assert!(other.text().contains("other one"), "{}", other.text());
    let arguments = json(json!({ "A": "b" }));
    says(
        &d,
        &format!("buildargs={arguments}"),
        "FROM bb\nARG A\nRUN echo $A$A\n",
        "bb\\n",
    );
    says(
        &d,
        &format!("t=labelled&labels={}", json(json!({ "l": "m" }))),
        "FROM bb\n",
        "Successfully",
    );
    assert_eq!(
        get(&d, "/images/labelled/json").json()["Config"]["Labels"]["l"],
        "m"
    );
    says(
        &d,
        "target=first",
        "FROM bb AS first\nRUN echo one\nFROM bb\nRUN false\n",
        "Successfully built",
    );
    let step = "FROM bb\nRUN echo again\n";
    says(&d, "", step, "again");
    says(&d, "", step, "Using cache");
    let fresh = build(&d, "nocache=1", &[("Dockerfile", step)]);
    assert!(!fresh.text().contains("Using cache"), "{}", fresh.text());
    let quiet = build(&d, "q=1", &[("Dockerfile", step)]);
    assert!(
        !quiet.text().contains("Step") && quiet.text().contains("sha256:"),
        "{}",
        quiet.text()
    );
    says(&d, "pull=1", "FROM 127.0.0.1:5000/none:1\n", "error");
    says(
        &d,
        "networkmode=none&nocache=1",
        "FROM bb\nRUN echo only $(ls /sys/class/net)\n",
        "only lo",
    );
    says(
        &d,
        "extrahosts=other:1.2.3.4&nocache=1",
        "FROM bb\nRUN grep other /etc/hosts\n",
        "1.2.3.4",
    );
    says(
        &d,
        "shmsize=1048576&nocache=1",
        "FROM bb\nRUN grep /dev/shm /proc/mounts\n",
        "size=1024k",
    );
    says(&d, "version=2", "FROM bb\n", "BuildKit is not served");
    // Limits are those of its steps.
    let of = "FROM bb\nRUN cat /sys/fs/cgroup/*/cpu.shares /sys/fs/cgroup/*/cpu.cfs_quota_us /sys/fs/cgroup/*/cpu.cfs_period_us \
        /sys/fs/cgroup/*/memory.limit_in_bytes /sys/fs/cgroup/*/memory.memsw.limit_in_bytes /sys/fs/cgroup/*/cpuset.cpus; \
        cat /sys/fs/cgroup/cpuset/cpuset.mems | while read m; do echo mems $m; done\n";
    let limited = build(
        &d,
        "nocache=1&memory=67108864&memswap=134217728&cpushares=512&cpuquota=20000&cpuperiod=50000&cpusetcpus=0&cpusetmems=0",
        &[("Dockerfile", of)],
    );
    for words in [
        "512\\n",
        "20000\\n",
        "50000\\n",
        "67108864\\n",
        "134217728\\n",
        "mems 0",
    ] {
        assert!(
            limited.text().contains(words),
            "{words} is not in {}",
            limited.text()
        );
    }
    says(&d, "platform=linux/s390x", "FROM bb\n", "error");
    // A context from the web, and one that is a Dockerfile alone, are asked of in build/copies.rs.
    let nothing = build(&d, "remote=git://x/y.git", &[]);
    assert_eq!(nothing.status, 400);
    let config = "X-Registry-Config: e30";
    let head = ["Content-Type: application/x-tar", config];
    let with = send(
        &d,
        "POST",
        "/build",
        &head,
        &tar(&d, &[("Dockerfile", step)]),
    );
    assert!(
        with.text().contains("Successfully built"),
        "{}",
        with.text()
    );
    let wrong = ["X-Registry-Config: !!"];
    assert_eq!(send(&d, "POST", "/build", &wrong, b"").status, 400);
}

#[test]
fn what_builds_keep_is_pruned_as_asked() {
    let d = Daemon::start();
    let step = "FROM bb\nRUN busybox dd if=/dev/zero of=/big bs=1M count=2\n";
    let prune = |query: &str| ok(&d, "POST", &format!("/build/prune?{query}"), &Value::Null).json();
    let freed = |query: &str| prune(query)["SpaceReclaimed"].as_u64().unwrap();
    let make = || {
        says(&d, "t=kept", step, "Successfully");
        ok(&d, "DELETE", "/images/kept", &Value::Null);
    };
    make();
    let until = quoted(&json!({ "until": ["1000h"] }).to_string());
    assert_eq!(freed(&format!("all=1&filters={until}")), 0);
    for keep in ["keep-storage", "reserved-space", "max-used-space"] {
        assert_eq!(freed(&format!("all=1&{keep}=100000000")), 0, "{keep}");
    }
    assert!(freed("all=1") > 0);
    make();
    assert!(freed("all=1&keep-storage=1") > 0);
}

#[test]
fn commits_are_as_asked() {
    let d = Daemon::start();
    let id = create(&d, &script("echo made > /made", &json!({})));
    start(&d, &id);
    output(&d, &id);
    let config = json!({
        "User": "web", "ExposedPorts": { "80/tcp": {} }, "Env": ["A=b"], "Cmd": ["cat", "/made"], "Volumes": { "/v": {} },
        "WorkingDir": "/w", "Labels": { "l": "m" }, "StopSignal": "INT", "OnBuild": ["RUN true"],
        "Healthcheck": { "Test": ["CMD", "true"], "Interval": 7, "Timeout": 8, "Retries": 9, "StartPeriod": 10, "StartInterval": 11 },
        "Shell": ["/bin/sh", "-ec"], "Entrypoint": ["busybox"],
    });
    let change = quoted("ENV C=d");
    let path = format!(
        "/commit?container={id}&repo=made&tag=1&author=me&comment=said&pause=0&changes={change}"
    );
    ok(&d, "POST", &path, &config);
    let image = get(&d, "/images/made:1/json").json();
    assert_eq!(
        (image["Author"].as_str(), image["Comment"].as_str()),
        (Some("me"), Some("said"))
    );
    for (key, value) in config.as_object().unwrap() {
        if key != "Env" {
            assert_eq!(image["Config"][key], *value, "{key}");
        }
    }
    let env = image["Config"]["Env"].as_array().unwrap();
    assert!(
        env.contains(&json!("A=b")) && env.contains(&json!("C=d")),
        "{env:?}"
    );
    assert_eq!(run(&d, &json!({ "Image": "made:1" })), "made\n");
}

#[test]
fn images_come_and_go_as_asked() {
    let d = Daemon::start();
    let _registry = Registry::start(&d, 5000);
    let post = |path: &str| ok(&d, "POST", path, &Value::Null);
    post("/images/bb/tag?repo=127.0.0.1:5000/bb&tag=1");
    assert!(
        post("/images/127.0.0.1:5000/bb/push?tag=1")
            .text()
            .contains("1: digest")
    );
    ok(
        &d,
        "DELETE",
        "/images/127.0.0.1:5000/bb:1?force=1",
        &Value::Null,
    );
    let arch = get(&d, "/version").json()["Arch"]
        .as_str()
        .unwrap()
        .to_owned();
    let pulled = post(&format!(
        "/images/create?fromImage=127.0.0.1:5000/bb&tag=1&platform=linux/{arch}"
    ));
    assert!(
        pulled.text().contains("Downloaded") || pulled.text().contains("up to date"),
        "{}",
        pulled.text()
    );
    // Who cannot be read is told so.
    let bad = ["X-Registry-Auth: !!"];
    for path in [
        "/images/create?fromImage=127.0.0.1:5000/bb&tag=1",
        "/images/127.0.0.1:5000/bb/push?tag=1",
    ] {
        assert_eq!(send(&d, "POST", path, &bad, b"").status, 400);
    }
    // An image is for one platform, and none for another.
    let other = "platform=linux/s390x";
    let json = quoted(&json!({ "os": "linux", "architecture": arch }).to_string());
    for path in [
        "/images/bb/json",
        "/images/bb/history",
        "/images/bb/get",
        "/images/get?names=bb",
    ] {
        let mark = if path.contains('?') { '&' } else { '?' };
        assert_eq!(
            get(&d, &format!("{path}{mark}{other}")).status,
            404,
            "{path}"
        );
        for own in [format!("linux/{arch}"), json.clone()] {
            assert_eq!(
                get(&d, &format!("{path}{mark}platform={own}")).status,
                200,
                "{path}"
            );
        }
    }
    assert_eq!(
        ask(
            &d,
            "POST",
            &format!("/images/127.0.0.1:5000/bb/push?tag=1&{other}"),
            &Value::Null
        )
        .status,
        404
    );
    // From an archive of files, with what is to be said of it.
    let files = tar(&d, &[("f", "content")]);
    let change = quoted("ENV A=b");
    let path = format!(
        "/images/create?fromSrc=-&repo=mine&tag=2&message=said&platform=linux/{arch}&changes={change}"
    );
    let made = send(&d, "POST", &path, &[], &files);
    assert!(made.text().contains("sha256:"), "{}", made.text());
    let image = get(&d, "/images/mine:2/json").json();
    assert_eq!(
        (
            image["Comment"].as_str(),
            image["Config"]["Env"][0].as_str()
        ),
        (Some("said"), Some("A=b"))
    );
    // Several in one archive, and back.
    let saved = get(&d, "/images/get?names=bb&names=mine:2").body;
    ok(&d, "DELETE", "/images/mine:2", &Value::Null);
    let loaded = send(&d, "POST", "/images/load?quiet=1", &[], &saved);
    assert!(loaded.text().contains("mine:2"), "{}", loaded.text());
    // One that is in use goes by force.
    let id = create(&d, &json!({ "Image": "mine:2", "Cmd": ["x"] }));
    let image = get(&d, "/images/mine:2/json").json()["Id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        ask(&d, "DELETE", &format!("/images/{image}"), &Value::Null).status,
        409
    );
    ok(
        &d,
        "DELETE",
        &format!("/images/{image}?force=1"),
        &Value::Null,
    );
    ok(&d, "DELETE", &format!("/containers/{id}"), &Value::Null);
}
