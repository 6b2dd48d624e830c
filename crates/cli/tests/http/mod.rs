//! Requests to the daemon's socket, byte by byte as they are, for tests that look at what no client shows.
#![allow(clippy::unwrap_used, dead_code)]

use crate::common::Daemon;
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// An answer, to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|l| l.split_once(": "));
        let mut found = lines.filter(|(n, _)| n.eq_ignore_ascii_case(name));
        found.next().map(|(_, v)| v)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The body as JSON values, one after the other.
    pub fn lines(&self) -> Vec<Value> {
        let all = serde_json::Deserializer::from_slice(&self.body).into_iter();
        all.map(|v| v.unwrap_or_else(|e| panic!("{e}: {}", self.text())))
            .collect()
    }

    /// What an error says.
    pub fn message(&self) -> String {
        let message = serde_json::from_slice::<Value>(&self.body).unwrap_or_default();
        message["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// Asks with a JSON body.
pub fn ask(d: &Daemon, method: &str, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    send(
        d,
        method,
        path,
        &["Content-Type: application/json"],
        body.as_bytes(),
    )
}

/// Asks without one.
pub fn get(d: &Daemon, path: &str) -> Answer {
    ask(d, "GET", path, &Value::Null)
}

/// Asks and reads the answer to its end.
pub fn send(d: &Daemon, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
    send_to(
        &d.run_dir().join("docker.sock"),
        method,
        path,
        headers,
        body,
    )
}

/// As [`send`], to another of the daemon's sockets.
pub fn send_to(socket: &Path, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
    let mut socket = UnixStream::connect(socket).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    for header in headers {
        head += &format!("{header}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    socket.write_all(head.as_bytes()).unwrap();
    socket.write_all(body).unwrap();
    let mut all = Vec::new();
    // A connection is reset after the answer where the daemon had no use for the body.
    let read = socket.read_to_end(&mut all);
    assert!(read.is_ok() || !all.is_empty(), "{method} {path}: {read:?}");
    parsed(&all, &format!("{method} {path}"))
}

fn parsed(all: &[u8], what: &str) -> Answer {
    let end = all.windows(4).position(|w| w == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("{what}: no answer"));
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let body = all[end + 4..].to_vec();
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        body: if chunked { whole(&body) } else { body },
        head,
    }
}

/// A request whose answer has begun.
pub struct Begun {
    socket: UnixStream,
    head: Vec<u8>,
}

impl Begun {
    pub fn get(d: &Daemon, path: &str) -> Self {
        Self::ask(d, "GET", path)
    }

    pub fn post(d: &Daemon, path: &str) -> Self {
        Self::ask(d, "POST", path)
    }

    fn ask(d: &Daemon, method: &str, path: &str) -> Self {
        let mut socket = UnixStream::connect(d.run_dir().join("docker.sock")).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            let some = socket.read(&mut byte).unwrap();
            assert!(some == 1, "{path}: {}", String::from_utf8_lossy(&head));
            head.push(byte[0]);
        }
        Self { socket, head }
    }

    /// The answer, once it has come to its end.
    pub fn rest(mut self) -> Answer {
        let mut all = self.head;
        self.socket.read_to_end(&mut all).unwrap();
        parsed(&all, "a request")
    }
}

/// Asks for a connection of its own, sends input with its end, and gives what comes until the daemon ends it.
pub fn hijacked(d: &Daemon, path: &str, body: &Value, input: &[u8]) -> Vec<u8> {
    let mut socket = UnixStream::connect(d.run_dir().join("docker.sock")).unwrap();
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).unwrap();
    let mut all = Vec::new();
    let mut byte = [0];
    while !all.ends_with(b"\r\n\r\n") {
        let some = socket.read(&mut byte).unwrap();
        assert!(some == 1, "{path}: {}", String::from_utf8_lossy(&all));
        all.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&all).into_owned();
    assert!(head.starts_with("HTTP/1.1 101"), "{path}: {head}");
    socket.write_all(input).unwrap();
    if !input.is_empty() {
        socket.shutdown(std::net::Shutdown::Write).unwrap();
    }
    let mut all = Vec::new();
    socket.read_to_end(&mut all).unwrap();
    all
}

/// Takes the lengths of the pieces out.
fn whole(mut pieces: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(end) = pieces.windows(2).position(|w| w == b"\r\n") {
        let length = std::str::from_utf8(&pieces[..end]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        let piece = &pieces[end + 2..];
        if length == 0 || piece.len() < length {
            break;
        }
        all.extend_from_slice(&piece[..length]);
        pieces = &piece[length + 2..];
    }
    all
}
