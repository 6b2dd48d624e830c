//! What is wrong, on every endpoint of Docker's definition: types, missing fields, large bodies, slow and half-closed streams. The
//! answer is an error that says why, never a 500 without one, a hang or a daemon that is gone; and nothing is left of it.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Daemon, until};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest wait for an answer's head. Nothing that is wrong needs so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// One endpoint of the definition.
#[derive(Debug, Default)]
struct Endpoint {
    method: String,
    path: String,
    /// Names of its parameters in the query.
    query: Vec<String>,
    /// Whether it has a body.
    body: bool,
}

fn definition() -> String {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference");
    let root = std::env::var_os("CORACLE_REFERENCE").map_or_else(beside, PathBuf::from);
    let path = root.join("docker-api/v1.51.yaml");
    fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{}: {e}; set CORACLE_REFERENCE", path.display()))
}

/// Endpoints with their parameters. The file is regular enough to be read by its indentation.
fn endpoints(text: &str) -> Vec<Endpoint> {
    let mut found: Vec<Endpoint> = Vec::new();
    let (mut path, mut name) = (String::new(), String::new());
    for line in text.lines().skip_while(|l| *l != "paths:") {
        let blanks = line.len() - line.trim_start().len();
        let word = line.trim().trim_end_matches(':').trim_matches('"');
        if blanks == 2 && word.starts_with('/') {
            path = word.to_owned();
        }
        if blanks == 4 && ["get", "post", "put", "delete", "head"].contains(&word) {
            found.push(Endpoint {
                method: word.to_uppercase(),
                path: path.clone(),
                ..Endpoint::default()
            });
        }
        if let Some(value) = line.trim().strip_prefix("- name:") {
            name = value.trim().trim_matches('"').to_owned();
        }
        let Some(last) = found.last_mut() else {
            continue;
        };
        match line.trim() {
            "in: \"query\"" | "in: query" => last.query.push(name.clone()),
            "in: \"body\"" | "in: body" => last.body = true,
            _ => {}
        }
    }
    assert!(found.len() > 100 && found.iter().filter(|e| e.body).count() > 20);
    found
}

/// Every property of every definition.
fn properties(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut inside = false;
    for line in text
        .lines()
        .skip_while(|l| *l != "definitions:")
        .take_while(|l| *l != "paths:")
    {
        let blanks = line.len() - line.trim_start().len();
        let word = line.trim();
        if word == "properties:" {
            inside = true;
            continue;
        }
        let name = word.strip_suffix(':').filter(|n| {
            let plain = n.starts_with(char::is_uppercase) && n.chars().all(char::is_alphanumeric);
            inside && blanks >= 6 && plain
        });
        found.extend(name.map(str::to_owned));
    }
    assert!(found.len() > 300, "{}", found.len());
    found
}

/// An answer's status and the beginning of its body; the client then leaves.
fn ask(d: &Daemon, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String) {
    let mut socket = UnixStream::connect(d.run_dir().join("docker.sock")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).unwrap();
    // A refusal may come before all of it is taken.
    let _ = socket.write_all(body);
    answer(&mut socket, &format!("{method} {path}"))
}

fn answer(socket: &mut UnixStream, what: &str) -> (u16, String) {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    let head = loop {
        let got = socket
            .read(&mut piece)
            .unwrap_or_else(|e| panic!("{what}: no answer: {e}"));
        bytes.extend_from_slice(&piece[..got]);
        let text = String::from_utf8_lossy(&bytes);
        if let Some(at) = text.find("\r\n\r\n") {
            break text[..at].to_ascii_lowercase();
        }
        assert!(got > 0, "{what}: the connection ended: {text}");
    };
    let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
    let end = head.len() + 4;
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "));
    let length: usize = length.and_then(|l| l.trim().parse().ok()).unwrap_or(0);
    // What HEAD says of a length is another answer's.
    let length = if what.starts_with("HEAD") { 0 } else { length };
    while bytes.len() < end + length.min(4096) {
        match socket.read(&mut piece) {
            Ok(n) if n > 0 => bytes.extend_from_slice(&piece[..n]),
            _ => break,
        }
    }
    (status, String::from_utf8_lossy(&bytes[end..]).into_owned())
}

/// What may be said of something wrong.
fn good(what: &str, (status, body): (u16, String)) {
    let message = body.contains("\"message\":\"") && !body.contains("\"message\":\"\"");
    let fine = match status {
        101 | 200..=399 => true,
        // HEAD has no body.
        400..=499 | 501 | 503 => message || what.starts_with("HEAD"),
        // The cause is not in the request: a registry that cannot be reached, as nobody can be from here.
        500 => body.contains("no answer from https://"),
        _ => false,
    };
    assert!(fine, "{what}: {status} {body}");
}

/// The path with things that are there, or with one that is not.
fn filled(path: &str, there: bool) -> String {
    let name = if !there {
        "nope"
    } else if path.starts_with("/images") {
        "bb"
    } else if path.starts_with("/networks") {
        "back"
    } else if path.starts_with("/volumes") {
        "data"
    } else {
        "cc"
    };
    path.replace("{id}", name).replace("{name}", name)
}

/// Those that would take away what the others need, or wait for what does not come.
fn harmless(endpoint: &Endpoint) -> bool {
    let verb = endpoint.path.rsplit('/').next().unwrap_or("");
    endpoint.method != "DELETE"
        && !matches!(
            verb,
            "stop" | "kill" | "restart" | "rename" | "prune" | "pause" | "wait" | "push" | "update"
        )
}

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.ok(["run", "-d", "--name", "cc", "bb", "sleep", "100000"]);
    d.ok(["network", "create", "back"]);
    d.ok(["volume", "create", "data"]);
    d
}

fn descriptors(d: &Daemon) -> usize {
    fs::read_dir(format!("/proc/{}/fd", d.pid()))
        .unwrap()
        .count()
}

/// All is as it was.
fn nothing_is_left(d: &Daemon, before: usize) {
    assert_eq!(d.ok(["ps", "-q"]).lines().count(), 1);
    assert!(!d.log().contains("panicked"), "{}", d.log());
    // Connections end when the kernel has told of their clients' end.
    until("descriptors are given back", || {
        descriptors(d) <= before + 8
    });
}

#[test]
fn parameters() {
    let d = daemon();
    let all = endpoints(&definition());
    let before = descriptors(&d);
    let long = "x".repeat(40_000);
    let values = [
        "",
        "x",
        "-1",
        "99999999999999999999999",
        "%7B",
        "%5B%5D",
        "%00",
        "%ff",
        "1.5",
        "%7B%22a%22:7%7D",
        &long,
    ];
    let mut count = 0;
    for endpoint in all
        .iter()
        .filter(|e| e.path != "/session" && e.path != "/grpc")
    {
        for name in &endpoint.query {
            for value in values {
                let path = filled(&endpoint.path, harmless(endpoint));
                let path = format!("{path}?{name}={value}");
                let what = format!("{} {}", endpoint.method, &path[..path.len().min(200)]);
                // Where a body is needed, an empty one is as wrong.
                good(&what, ask(&d, &endpoint.method, &path, "", b""));
                count += 1;
            }
        }
    }
    assert!(count > 1500, "{count}");
    nothing_is_left(&d, before);
}

#[test]
fn bodies() {
    let d = daemon();
    let text = definition();
    let all = endpoints(&text);
    let before = descriptors(&d);
    let json = "Content-Type: application/json\r\n";
    let deep = "[".repeat(100_000);
    let mut wrong: Vec<Vec<u8>> = [
        "", "{", "[]", "7", "\"x\"", "null", "{\"a\":", "\u{0}", "{}{}",
    ]
    .map(|t| t.as_bytes().to_vec())
    .to_vec();
    wrong.push(deep.into_bytes());
    wrong.push(vec![0xff; 1000]);
    for endpoint in all.iter().filter(|e| e.body) {
        for body in &wrong {
            let path = filled(&endpoint.path, harmless(endpoint));
            let what = format!(
                "{} {path} {:?}",
                endpoint.method,
                String::from_utf8_lossy(&body[..body.len().min(20)])
            );
            good(&what, ask(&d, &endpoint.method, &path, json, body));
        }
    }
    // Every name of the definition with every wrong type, where containers, processes, networks and volumes are made.
    let kinds = [
        "{\"a\":[1]}",
        "[[]]",
        "\"x\"",
        "1e99",
        "-1",
        "true",
        "null",
        "[{\"a\":1}]",
    ];
    let mut made: BTreeMap<u16, usize> = BTreeMap::new();
    for name in properties(&text) {
        for kind in kinds {
            for (path, body) in [
                (
                    "/containers/create",
                    format!("{{\"Image\":\"bb\",\"{name}\":{kind}}}"),
                ),
                (
                    "/containers/create",
                    format!("{{\"Image\":\"bb\",\"HostConfig\":{{\"{name}\":{kind}}}}}"),
                ),
                (
                    "/containers/create",
                    format!(
                        "{{\"Image\":\"bb\",\"NetworkingConfig\":{{\"EndpointsConfig\":{{\"bridge\":{{\"{name}\":{kind}}}}}}}}}"
                    ),
                ),
                (
                    "/containers/cc/exec",
                    format!("{{\"Cmd\":[\"true\"],\"{name}\":{kind}}}"),
                ),
                (
                    "/volumes/create",
                    format!("{{\"Name\":\"data\",\"{name}\":{kind}}}"),
                ),
                (
                    "/networks/create",
                    format!("{{\"Name\":\"back\",\"{name}\":{kind}}}"),
                ),
                ("/containers/cc/update", format!("{{\"{name}\":{kind}}}")),
                ("/commit?container=nope", format!("{{\"{name}\":{kind}}}")),
            ] {
                let what = format!("POST {path} {body}");
                let answer = ask(&d, "POST", path, json, body.as_bytes());
                *made.entry(answer.0).or_default() += 1;
                good(&what, answer);
            }
        }
        let ids = d.ok(["ps", "-aq", "--filter", "status=created"]);
        if !ids.is_empty() {
            let mut rm = d.command();
            assert!(
                rm.arg("rm")
                    .args(ids.lines())
                    .output()
                    .unwrap()
                    .status
                    .success()
            );
        }
    }
    assert!(made[&400] > 5000 && made[&201] > 1000, "{made:?}");
    nothing_is_left(&d, before);
}

#[test]
fn streams() {
    let d = daemon();
    let all = endpoints(&definition());
    let before = descriptors(&d);
    for endpoint in &all {
        let path = filled(&endpoint.path, harmless(endpoint));
        let what = format!("{} {path}", endpoint.method);
        for (length, sent) in [("1000000", "{\"Image\":"), ("5", "{}")] {
            // A body that stops in its middle, with its half of the connection.
            let mut socket = UnixStream::connect(d.run_dir().join("docker.sock")).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let head =
                format!("{what} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{sent}");
            socket.write_all(head.as_bytes()).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            // An answer, or an end: no waiting.
            let mut piece = [0; 512];
            let _some = socket
                .read(&mut piece)
                .unwrap_or_else(|e| panic!("{what}: it hangs: {e}"));
            // And one whose client is gone at once.
            let mut socket = UnixStream::connect(d.run_dir().join("docker.sock")).unwrap();
            socket.write_all(head.as_bytes()).unwrap();
        }
    }
    // What is no request at all.
    for junk in [
        &b"\0\0\0\0"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let mut socket = UnixStream::connect(d.run_dir().join("docker.sock")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(junk).unwrap();
        let _ = socket.shutdown(Shutdown::Write);
        let mut piece = [0; 512];
        let _some = socket
            .read(&mut piece)
            .unwrap_or_else(|e| panic!("{junk:?}: it hangs: {e}"));
    }
    // A head that comes byte by byte, beside one that is answered meanwhile.
    let mut slow = UnixStream::connect(d.run_dir().join("docker.sock")).unwrap();
    for byte in b"GET /_ping HTTP/1.1\r\nHost: x\r\n" {
        slow.write_all(&[*byte]).unwrap();
    }
    assert_eq!(ask(&d, "GET", "/_ping", "", b"").0, 200);
    slow.write_all(b"\r\n").unwrap();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(answer(&mut slow, "slow").0, 200);
    // Clients that leave in the middle of what has no end.
    for path in [
        "/events",
        "/containers/cc/logs?follow=1&stdout=1",
        "/containers/cc/stats",
    ] {
        let mut socket = UnixStream::connect(d.run_dir().join("docker.sock")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
            .unwrap();
        assert_eq!(answer(&mut socket, path).0, 200);
    }
    for _ in 0..20 {
        let mut socket = UnixStream::connect(d.run_dir().join("docker.sock")).unwrap();
        socket.write_all(b"POST /containers/cc/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n").unwrap();
        let mut piece = [0; 64];
        assert!(socket.read(&mut piece).unwrap() > 0);
    }
    // A body without an end is not kept in memory: it is refused once it is too long.
    let mut socket = UnixStream::connect(d.run_dir().join("docker.sock")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
        .write_all(
            b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 209715200\r\n\r\n",
        )
        .unwrap();
    let piece = vec![b' '; 1 << 20];
    let mut sent = 0;
    while sent < 200 && socket.write_all(&piece).is_ok() {
        sent += 1;
    }
    good("POST a large body", answer(&mut socket, "a large body"));
    nothing_is_left(&d, before);
}
