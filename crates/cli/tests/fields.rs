//! What docs/docker-api.md calls honoured has its effect: every field is sent as it is, and what it does is looked at, in the
//! container, in its control groups and in what the daemon says of it.
#![allow(clippy::unwrap_used)]

mod common;
mod http;

#[path = "fields/config.rs"]
mod config;
#[path = "fields/host.rs"]
mod host;
#[path = "fields/images.rs"]
mod images;
#[path = "fields/limits.rs"]
mod limits;
#[path = "fields/lists.rs"]
mod lists;
#[path = "fields/mounts.rs"]
mod mounts;
#[path = "fields/networks.rs"]
mod networks;
#[path = "fields/verbs.rs"]
mod verbs;

use common::Daemon;
use http::{Answer, ask, get};
use serde_json::{Value, json};

/// Asks, and wants a success.
fn ok(d: &Daemon, method: &str, path: &str, body: &Value) -> Answer {
    let answer = ask(d, method, path, body);
    assert!(
        answer.status < 300,
        "{method} {path} {body}: {} {}\n{}",
        answer.status,
        answer.text(),
        d.log()
    );
    answer
}

/// A value for a query.
fn quoted(text: &str) -> String {
    let one = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(one).collect()
}

/// The body of a container that runs a script of the shell.
fn script(text: &str, with: &Value) -> Value {
    let mut body = json!({ "Image": "bb", "Cmd": ["sh", "-c", text] });
    let map = body.as_object_mut().unwrap();
    map.extend(with.as_object().unwrap().clone());
    body
}

/// Makes a container and gives its id.
fn create(d: &Daemon, body: &Value) -> String {
    let made = ok(d, "POST", "/containers/create", body).json();
    made["Id"].as_str().unwrap().to_owned()
}

fn start(d: &Daemon, id: &str) {
    ok(d, "POST", &format!("/containers/{id}/start"), &Value::Null);
}

fn inspect(d: &Daemon, id: &str) -> Value {
    ok(d, "GET", &format!("/containers/{id}/json"), &Value::Null).json()
}

fn remove(d: &Daemon, id: &str) {
    let path = format!("/containers/{id}?force=1&v=1");
    ok(d, "DELETE", &path, &Value::Null);
}

/// What a stream in Docker's frames carries.
fn unframed(mut bytes: &[u8]) -> String {
    let mut text = Vec::new();
    while let [_, 0, 0, 0, a, b, c, d, rest @ ..] = bytes {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        text.extend_from_slice(&rest[..length]);
        bytes = &rest[length..];
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// What a container has written, once it has ended.
fn output(d: &Daemon, id: &str) -> String {
    ok(d, "POST", &format!("/containers/{id}/wait"), &Value::Null);
    let tty = inspect(d, id)["Config"]["Tty"] == true;
    let logs = get(d, &format!("/containers/{id}/logs?stdout=1&stderr=1"));
    if tty {
        logs.text().replace('\r', "")
    } else {
        unframed(&logs.body)
    }
}

/// Runs a container to its end and gives what it wrote.
fn run(d: &Daemon, body: &Value) -> String {
    let id = create(d, body);
    start(d, &id);
    let text = output(d, &id);
    remove(d, &id);
    text
}

/// Runs something beside a container's program and gives what it wrote.
fn exec(d: &Daemon, id: &str, text: &str) -> String {
    d.ok(["exec", id, "sh", "-c", text])
}
