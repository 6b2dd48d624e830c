//! `coracle machine`, `unit explain` and `volume rebind`, on one real machine; a second one is there by its keys in the store.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Daemon, errors, signal, text, until};
use coracle_store::{
    DeleteRangeRequest, EmbeddedStore, Options, PutRequest, Store as _, StoreExt as _,
};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;

const OTHER: &str = "ffffffffffffffffffffffffffffffff";

/// Does something with the store of a daemon that does not run.
fn in_store(state_dir: &Path, act: impl AsyncFnOnce(EmbeddedStore)) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = EmbeddedStore::open(&state_dir.join("store"), Options::default());
        act(store.unwrap()).await;
    });
}

/// A machine whose key has no lease, and so stays.
async fn add_machine(store: EmbeddedStore) {
    let machine = json!({
        "version": 1, "id": OTHER, "hostname": "other", "cpus": 2, "memory": 1_u64 << 30,
        "kernel": "6.1", "coracle": "0.1.0", "since": "2026-01-01T00:00:00Z",
    });
    let key = format!("/coracle/v1/machines/{OTHER}");
    store.put_json(&key, &machine).await.unwrap();
    let alive = PutRequest::new(format!("/coracle/v1/alive/{OTHER}"), "now");
    store.put(alive).await.unwrap();
}

#[test]
fn verbs_of_machines() {
    let mut d = Daemon::unstarted();
    let config = d.dir.path().join("coracle.toml");
    fs::write(&config, "[machine]\nlabels = { rack = \"a\" }\n").unwrap();
    d.up_with(&config);
    let id = fs::read_to_string(d.state_dir().join("machine-id")).unwrap();
    let id = id.trim();

    let list = d.ok(["machine", "list"]);
    assert!(list.contains("LABELS") && list.contains("rack=a"), "{list}");
    let show = d.ok(["machine", "show", &id[..6]]);
    for words in [id, "State:   alive", "Labels:  rack=a"] {
        assert!(show.contains(words), "{words}: {show}");
    }
    let said = d.ok(["machine", "label", id, "disk=ssd", "rack-"]);
    assert!(said.ends_with(": disk=ssd"), "{said}");
    let json: Value =
        serde_json::from_str(&d.ok(["machine", "show", "--format", "json", id])).unwrap();
    assert_eq!(json["labels"], json!({ "disk": "ssd" }));
    d.refused(&["machine", "label", id, "disk"], "KEY=VALUE");
    d.refused(&["machine", "label", id, "a b=c"], "it has a space in it");
    d.refused(
        &["machine", "cordon", "nobody"],
        "no machine \"nobody\" is known",
    );
    d.refused(&["machine", "drain", id], "it is the only one");
    d.refused(
        &["volume", "rebind", "nothing", id],
        "no unit uses a volume nothing",
    );
    d.refused(&["unit", "explain", "nothing"], "no such unit");

    let text_of = "[Service]\nExecStart=/bin/sleep 1000\n[X-Fleet]\nMachineMetadata=rack=a\n";
    let file = d.unit("verbs-a.service", text_of);
    d.refused(&["unit", "start", &file], "verbs-a.service waits");
    let why = d.ok(["unit", "explain", "verbs-a"]);
    assert!(
        why.contains("MachineMetadata asks for rack=a, and it has no rack"),
        "{why}"
    );
    d.ok(["machine", "label", id, "rack=a"]);
    until("its label is there again", || {
        d.ok(["unit", "explain", "verbs-a"])
            .contains("active (running)")
    });

    let said = d.ok(["machine", "cordon", id]);
    assert!(said.ends_with("gets no more units"), "{said}");
    assert!(d.ok(["machine", "ls"]).contains("cordoned"));
    d.terminate();
    in_store(&d.state_dir(), add_machine);
    // What was said outlives the daemon.
    d.up_with(&config);
    let list = d.ok(["machine", "list"]);
    assert!(
        list.contains("cordoned") && list.contains("other"),
        "{list}"
    );
    assert!(list.contains("disk=ssd, rack=a"), "{list}");
    d.ok(["machine", "uncordon", id]);

    drains(&d, id);
    // Nobody would answer for what the other machine was asked.
    d.terminate();
    in_store(&d.state_dir(), async |store| {
        for key in ["machines", "alive"].map(|family| format!("/coracle/v1/{family}/{OTHER}")) {
            store
                .delete_range(DeleteRangeRequest::key(key))
                .await
                .unwrap();
        }
    });
    d.up_with(&config);
    d.ok(["unit", "destroy", "verbs-a"]);
}

/// The other machine never answers, so what moves goes on moving.
fn drains(d: &Daemon, id: &str) {
    let output = d.command().args(["machine", "drain", id]).output().unwrap();
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(1), "{}{said}", text(&output));
    for words in ["verbs-a.service: ", "MachineMetadata", "ends the drain"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let show = d.ok(["machine", "show", id]);
    assert!(
        show.contains("State:   draining") && show.contains("1 stuck"),
        "{show}"
    );
    d.ok(["machine", "label", "other", "rack=a"]);
    // Interrupted, the drain goes on.
    let mut child = d
        .command()
        .args(["machine", "drain", id])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "verbs-a.service moves\n");
    signal(child.id(), "INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(errors(&output).contains("goes on"), "{}", errors(&output));
    let said = d.ok(["machine", "drain", "--no-wait", id]);
    assert!(said.contains("1 moving"), "{said}");
    d.ok(["machine", "uncordon", id]);
    // One that has nothing is done at once.
    d.ok(["machine", "cordon", "other"]);
    let show = d.ok(["machine", "show", id]);
    assert!(show.contains("State:   alive"), "{show}");
}
