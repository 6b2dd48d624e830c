//! What the next release writes, this one reads: its files may say more than this release knows, under the same version.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Daemon, alive, errors, until};
use coracle_store::{EmbeddedStore, Options, StoreExt};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Every file of JSON below a directory that carries a format version.
fn versioned(dir: &Path) -> Vec<(PathBuf, Value)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && !path.ends_with("layers") {
            found.extend(versioned(&path));
        } else if kind.is_file()
            && let Ok(value) = serde_json::from_slice::<Value>(&std::fs::read(&path).unwrap())
            && value.get("version").is_some()
        {
            found.push((path, value));
        }
    }
    found
}

/// Adds what only the next release knows to every object in a value.
fn extend(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(extend);
            // Maps of people's own names, such as labels, hold texts only and are as they are.
            if map.values().any(|v| !v.is_string()) {
                map.insert("of_the_next_release".into(), json!({ "more": [1, "two"] }));
            }
        }
        Value::Array(all) => all.iter_mut().for_each(extend),
        _ => {}
    }
}

/// The files' top level, which is what carries the version.
fn extend_top(value: &mut Value) {
    if let Value::Object(map) = value {
        map.insert("of_the_next_release".into(), json!({ "more": [1, "two"] }));
    }
}

#[test]
fn what_the_next_release_writes_is_read() {
    let mut d = Daemon::start();
    d.ok(["network", "create", "back"]);
    d.ok(["volume", "create", "data"]);
    d.ok([
        "run",
        "-d",
        "--name",
        "runs",
        "--network",
        "back",
        "-v",
        "data:/data",
        "-p",
        "8001:80",
        "bb",
        "sleep",
        "1000",
    ]);
    d.ok(["create", "--name", "rests", "bb"]);
    let unit = d.unit("some.service", "[Service]\nExecStart=/bin/sleep 1000\n");
    d.ok(["unit", "start", &unit]);
    let pid: u32 = d.field("runs", ".State.Pid").parse().unwrap();
    let seen = |d: &Daemon| {
        [
            d.ok(["ps", "-a", "--format", "{{.Names}} {{.State}} {{.Ports}}"]),
            d.ok(["volume", "ls", "-q"]),
            d.ok(["network", "ls", "--format", "{{.Name}} {{.ID}}"]),
            d.ok(["images", "-a", "-q", "--no-trunc"]),
            d.ok(["unit", "list", "--format", "{{.Unit}} {{.Active}}"]),
            d.ok(["machine", "list", "--format", "{{.ID}}"]),
        ]
    };
    let before = seen(&d);
    d.terminate();

    let files = versioned(&d.state_dir());
    let of = |part: &str| {
        files
            .iter()
            .filter(|(p, _)| p.to_string_lossy().contains(part))
            .count()
    };
    for part in ["/containers/", "/volumes/", "/networks/", "/images"] {
        assert!(
            of(part) > 0,
            "no file with a version is in {part}: {files:#?}"
        );
    }
    for (path, value) in &files {
        let mut value = value.clone();
        extend_top(&mut value);
        std::fs::write(path, serde_json::to_vec(&value).unwrap()).unwrap();
    }
    let keys = 5;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = EmbeddedStore::open(&d.state_dir().join("store"), Options::default()).unwrap();
        let all = store.list("/coracle/v1/").await.unwrap().kvs;
        assert!(all.len() >= keys, "{all:?}");
        for kv in all {
            let Ok(mut value) = serde_json::from_slice::<Value>(&kv.value) else {
                continue;
            };
            extend(&mut value);
            let key = String::from_utf8(kv.key.to_vec()).unwrap();
            store.put_json(&key, &value).await.unwrap();
        }
    });
    d.up();
    until("all is as it was", || seen(&d) == before);
    assert!(alive(pid));
    assert_eq!(d.ok(["exec", "runs", "echo", "well"]), "well");

    // A format that is newer is refused by name, and what it holds is left alone.
    let rests = d.field("rests", ".Id");
    d.terminate();
    let record = d
        .state_dir()
        .join("containers")
        .join(&rests)
        .join("container.json");
    let text = std::fs::read_to_string(&record).unwrap();
    let mut newer: Value = serde_json::from_str(&text).unwrap();
    newer["version"] = json!(2);
    std::fs::write(&record, newer.to_string()).unwrap();
    let output = d
        .inside(env!("CARGO_BIN_EXE_coracle"))
        .args(["daemon", "--config", "/dev/null", "--state-dir"])
        .arg(d.state_dir())
        .arg("--run-dir")
        .arg(d.run_dir())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = errors(&output);
    for word in [rests.as_str(), "version 2", "newer release"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(alive(pid));
    std::fs::write(&record, text).unwrap();
    d.up();
    until("all is as it was", || seen(&d) == before);
}
