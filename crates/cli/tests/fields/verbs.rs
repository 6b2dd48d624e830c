//! Parameters of what is done to containers, and processes beside theirs.

use crate::common::{Daemon, until};
use crate::http::{Begun, ask, get, hijacked, send};
use crate::{create, exec, inspect, ok, remove, script, start, unframed};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

const LISTENS: &str = "trap 'echo USR1' USR1; trap 'exit 3' INT; trap 'exit 4' TERM; echo on; while :; do sleep 0.1; done";

fn listening(d: &Daemon, with: &Value) -> String {
    let id = create(d, &script(LISTENS, with));
    start(d, &id);
    until("it listens", || d.ok(["logs", &id]).contains("on"));
    id
}

#[test]
fn containers_are_ended_as_asked() {
    let d = Daemon::start();
    let post = |id: &str, rest: &str| {
        ok(
            &d,
            "POST",
            &format!("/containers/{id}/{rest}"),
            &Value::Null,
        )
    };
    let code = |id: &str| inspect(&d, id)["State"]["ExitCode"].clone();
    let id = listening(&d, &json!({}));
    post(&id, "kill?signal=USR1");
    until("it was heard", || d.ok(["logs", &id]).contains("USR1"));
    post(&id, "stop?signal=INT");
    assert_eq!(code(&id), 3);
    let deaf = script(
        "trap '' TERM INT; echo on; while :; do sleep 0.1; done",
        &json!({}),
    );
    let id = create(&d, &deaf);
    start(&d, &id);
    until("it listens", || d.ok(["logs", &id]).contains("on"));
    post(&id, "stop?t=0");
    assert_eq!(code(&id), 137);
    // Restarted by a signal, and killed where it does not listen.
    for rest in ["restart?signal=INT&t=0", "restart?t=0"] {
        start_if_needed(&d, &id);
        let before = inspect(&d, &id)["State"]["Pid"].clone();
        post(&id, rest);
        let now = inspect(&d, &id);
        assert!(now["State"]["Running"] == true && now["State"]["Pid"] != before);
    }
    post(&id, "rename?name=other");
    assert_eq!(inspect(&d, "other")["Id"], *id);
    let named = ok(
        &d,
        "POST",
        "/containers/create?name=named",
        &script("true", &json!({})),
    )
    .json();
    assert_eq!(inspect(&d, "named")["Id"], named["Id"]);
    assert_eq!(
        ask(
            &d,
            "POST",
            "/containers/create?platform=linux/s390x",
            &script("true", &json!({}))
        )
        .status,
        404
    );
    let host = format!(
        "linux/{}",
        get(&d, "/version").json()["Arch"].as_str().unwrap()
    );
    let path = format!("/containers/create?platform={host}");
    assert_eq!(
        ask(&d, "POST", &path, &script("true", &json!({}))).status,
        201
    );
    assert_eq!(
        ask(&d, "DELETE", "/containers/other", &Value::Null).status,
        409
    );
    ok(&d, "DELETE", "/containers/other?force=1", &Value::Null);
}

fn start_if_needed(d: &Daemon, id: &str) {
    if inspect(d, id)["State"]["Running"] == false {
        start(d, id);
    }
}

#[test]
fn waits_and_removals_are_as_asked() {
    let d = Daemon::start();
    let id = create(&d, &script("exit 5", &json!({})));
    // Who waits is known to the daemon once the answer's head is there.
    let wait = |condition: &str| {
        let path = format!("/containers/{id}/wait?condition={condition}");
        Begun::post(&d, &path)
    };
    let next = wait("next-exit");
    start(&d, &id);
    assert_eq!(next.rest().json()["StatusCode"], 5);
    assert_eq!(wait("not-running").rest().json()["StatusCode"], 5);
    let removed = wait("removed");
    remove(&d, &id);
    assert_eq!(removed.rest().json()["StatusCode"], 5);
    // Volumes without a name go along where that is asked.
    for (rest, left) in [("", 1), ("?v=1", 1)] {
        let id = create(&d, &script("true", &json!({ "Volumes": { "/v": {} } })));
        ok(
            &d,
            "DELETE",
            &format!("/containers/{id}{rest}"),
            &Value::Null,
        );
        assert_eq!(d.ok(["volume", "ls", "-q"]).lines().count(), left);
    }
}

/// Makes a process, starts it with its stdio, and gives what it wrote; with a terminal as it is.
fn beside(d: &Daemon, id: &str, text: &str, with: &Value, asked: &Value, input: &[u8]) -> Vec<u8> {
    let mut body = json!({ "Cmd": ["sh", "-c", text], "AttachStdout": true, "AttachStderr": true });
    body.as_object_mut()
        .unwrap()
        .extend(with.as_object().unwrap().clone());
    let made = ok(d, "POST", &format!("/containers/{id}/exec"), &body).json();
    let of = made["Id"].as_str().unwrap();
    hijacked(d, &format!("/exec/{of}/start"), asked, input)
}

#[test]
fn processes_beside_are_as_asked() {
    let d = Daemon::start();
    let id = create(&d, &script("sleep 1000", &json!({})));
    start(&d, &id);
    for (fields, text, says) in [
        (json!({ "Env": ["A=b"] }), "echo $A", "b\n"),
        (json!({ "User": "web" }), "id -u", "33\n"),
        (json!({ "WorkingDir": "/data" }), "busybox pwd", "/data\n"),
        (
            json!({ "Privileged": true }),
            "grep CapEff /proc/self/status | grep -c a80425fb",
            "0\n",
        ),
        (
            json!({ "Privileged": false }),
            "grep CapEff /proc/self/status | grep -c a80425fb",
            "1\n",
        ),
        (
            json!({ "AttachStderr": false }),
            "echo out; echo err >&2",
            "out\n",
        ),
        (
            json!({ "AttachStdout": false }),
            "echo out; echo err >&2",
            "err\n",
        ),
    ] {
        let said = unframed(&beside(&d, &id, text, &fields, &json!({}), b""));
        assert_eq!(said, says, "{fields}");
    }
    let open = json!({ "AttachStdin": true });
    assert_eq!(
        unframed(&beside(&d, &id, "cat", &open, &json!({}), b"through")),
        "through"
    );
    // With a terminal; its size may be said when it is made and when it starts.
    let terminal = |with: Value, asked: Value| {
        let mut fields = json!({ "Tty": true });
        fields
            .as_object_mut()
            .unwrap()
            .extend(with.as_object().unwrap().clone());
        let said = beside(&d, &id, "busybox stty size", &fields, &asked, b"");
        String::from_utf8(said).unwrap()
    };
    assert_eq!(
        terminal(
            json!({ "ConsoleSize": [40, 132] }),
            json!({ "Tty": true, "ConsoleSize": [40, 132] })
        ),
        "40 132\r\n"
    );
    assert_eq!(
        terminal(json!({}), json!({ "Tty": true, "ConsoleSize": [41, 133] })),
        "41 133\r\n"
    );
    // Left by its keys: the connection ends, the process goes on.
    let keys = json!({ "Tty": true, "AttachStdin": true, "DetachKeys": "x" });
    beside(&d, &id, "sleep 1234", &keys, &json!({ "Tty": true }), b"x");
    assert!(d.ok(["top", &id]).contains("sleep 1234"));
    // Left alone from the start.
    let alone = json!({ "Cmd": ["sh", "-c", "touch /alone"] });
    let made = ok(&d, "POST", &format!("/containers/{id}/exec"), &alone).json();
    let path = format!("/exec/{}/start", made["Id"].as_str().unwrap());
    ok(&d, "POST", &path, &json!({ "Detach": true }));
    until("it has run", || {
        d.coracle(["exec", &id, "test", "-e", "/alone"])
            .status
            .success()
    });
}

#[test]
fn attached_as_asked() {
    let d = Daemon::start();
    let text = "echo out; echo err >&2; cat";
    let id = create(
        &d,
        &script(text, &json!({ "OpenStdin": true, "StdinOnce": true })),
    );
    start(&d, &id);
    until("it has said so", || {
        let logs = get(&d, &format!("/containers/{id}/logs?stdout=1&stderr=1"));
        unframed(&logs.body).len() == 8
    });
    let attach = |query: &str, input: &[u8]| {
        unframed(&hijacked(
            &d,
            &format!("/containers/{id}/attach?{query}"),
            &Value::Null,
            input,
        ))
    };
    assert_eq!(attach("logs=1&stdout=1", b""), "out\n");
    assert_eq!(attach("logs=1&stderr=1", b""), "err\n");
    // What is sent comes back, and its end ends it.
    assert_eq!(attach("stream=1&stdin=1&stdout=1", b"through"), "through");
    until("it has ended", || {
        inspect(&d, &id)["State"]["Running"] == false
    });
    let body = script("sleep 1000", &json!({ "Tty": true, "OpenStdin": true }));
    let id = create(&d, &body);
    start(&d, &id);
    hijacked(
        &d,
        &format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&detachKeys=x"),
        &Value::Null,
        b"x",
    );
    assert_eq!(inspect(&d, &id)["State"]["Running"], true);
}

/// Clients that do not ask for an upgrade get output as an ordinary answer.
#[test]
fn output_without_an_upgrade() {
    let d = Daemon::start();
    let id = create(
        &d,
        &script("echo out; echo err >&2; exec sleep 1000", &json!({})),
    );
    let attached = |what: &str| Begun::post(&d, &format!("/containers/{id}/attach?{what}"));
    let before = attached("stream=1&stdout=1");
    start(&d, &id);
    until("it has said so", || {
        let logs = get(&d, &format!("/containers/{id}/logs?stdout=1&stderr=1"));
        unframed(&logs.body).len() == 8
    });
    let past = attached("logs=1&stderr=1").rest();
    assert_eq!((past.status, unframed(&past.body).as_str()), (200, "err\n"));

    let exec = |text: &str, stdin: bool| {
        let asked = json!({
            "Cmd": ["/bin/sh", "-c", text], "AttachStdout": true, "AttachStderr": true, "AttachStdin": stdin,
        });
        let made = ask(&d, "POST", &format!("/containers/{id}/exec"), &asked).json();
        let made = made["Id"].as_str().unwrap().to_owned();
        let path = format!("/exec/{made}/start");
        (ask(&d, "POST", &path, &json!({})), made)
    };
    let (said, made) = exec("echo there >&2; exit 3", false);
    assert_eq!(
        (said.status, unframed(&said.body).as_str()),
        (200, "there\n")
    );
    assert_eq!(
        said.header("content-type"),
        Some("application/vnd.docker.raw-stream")
    );
    assert_eq!(get(&d, &format!("/exec/{made}/json")).json()["ExitCode"], 3);
    // More than fits into any buffer on its way.
    let (long, _) = exec("head -c 3000000 /dev/zero", false);
    assert_eq!(unframed(&long.body).len(), 3_000_000);
    // There would be no way for input.
    let (refused, _) = exec("cat", true);
    assert_eq!(refused.status, 400);
    assert!(
        refused.message().contains("Upgrade: tcp"),
        "{}",
        refused.message()
    );

    ok(&d, "POST", &format!("/containers/{id}/kill"), &Value::Null);
    let all = before.rest();
    assert_eq!((all.status, unframed(&all.body).as_str()), (200, "out\n"));
}

#[test]
fn statistics_as_asked() {
    let d = Daemon::start();
    let id = create(&d, &script("sleep 1000", &json!({})));
    start(&d, &id);
    let stats = |query: &str| get(&d, &format!("/containers/{id}/stats?{query}"));
    let two = stats("stream=0").json();
    assert!(
        two["precpu_stats"]["system_cpu_usage"].as_u64().unwrap() > 0,
        "{two}"
    );
    let one = stats("stream=0&one-shot=1").json();
    assert_eq!(one["precpu_stats"]["system_cpu_usage"], 0);
    // A stream ends with its container.
    let all = Begun::get(&d, &format!("/containers/{id}/stats?stream=1"));
    remove(&d, &id);
    let lines = all.rest().lines();
    let its = lines.iter().all(|l| l["id"] == *id);
    assert!(!lines.is_empty() && its, "{lines:?}");
}

#[test]
fn archives_go_in_as_asked() {
    let d = Daemon::start();
    let id = create(&d, &script("sleep 1000", &json!({})));
    start(&d, &id);
    let dir = d.dir.path().join("in");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("f"), "new").unwrap();
    std::os::unix::fs::chown(dir.join("f"), Some(33), Some(33)).unwrap();
    let tar = Command::new("tar")
        .arg("-C")
        .arg(&dir)
        .args(["-c", "--numeric-owner", "f"])
        .output()
        .unwrap()
        .stdout;
    let put = |query: &str| {
        let path = format!("/containers/{id}/archive?{query}");
        send(&d, "PUT", &path, &["Content-Type: application/x-tar"], &tar).status
    };
    exec(&d, &id, "mkdir -p /one /two /three/f");
    assert_eq!(put("path=/one"), 200);
    assert_eq!(exec(&d, &id, "cat /one/f"), "new");
    assert_eq!(put("path=/two&copyUIDGID=1"), 200);
    // A file does not take a directory's place where that is not wanted.
    assert_ne!(put("path=/three&noOverwriteDirNonDir=1"), 200);
    assert_eq!(exec(&d, &id, "test -d /three/f && echo still"), "still");
    assert_ne!(put("path=/nope"), 200);
    let stat = send(
        &d,
        "HEAD",
        &format!("/containers/{id}/archive?path=/one/f"),
        &[],
        b"",
    );
    assert!(stat.status == 200 && stat.header("x-docker-container-path-stat").is_some());
    let out = get(&d, &format!("/containers/{id}/archive?path=/one/f"));
    assert!(out.status == 200 && out.text().contains("new"));
}
