//! A socket that writes requests down, and how bodies are compared.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// A request as it came; the path without docker's version.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub body: Value,
}

/// A socket that writes down what it is asked and gives the answers that a daemon would give to a container that ends with 3.
pub struct Recorder {
    pub dir: TempDir,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Recorder {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Both of a daemon's sockets, so that each command finds its own.
        let listener = UnixListener::bind(dir.path().join("coracle.sock")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        // It ends with the test's process; a connection more or less is no matter.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = seen.clone();
                std::thread::spawn(move || while answer(&stream, &seen).is_some() {});
            }
        });
        Self { dir, asked }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("coracle.sock")
    }

    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    pub fn coracle(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
        command.arg("--run-dir").arg(self.dir.path()).args(args);
        self.run(command, args)
    }

    pub fn docker(&self, args: &[&str]) -> Output {
        let mut command = Command::new("docker");
        command
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .args(args);
        self.run(command, args)
    }

    fn run(&self, mut command: Command, args: &[&str]) -> Output {
        let output = command
            .env("DOCKER_CONFIG", self.dir.path().join("config"))
            .env("CORACLE_TEST", "from outside")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|e| panic!("{args:?} cannot be run: {e}; install the Debian package docker.io with scripts/deps test"));
        assert!(
            !String::from_utf8_lossy(&output.stderr).contains("panicked"),
            "{args:?}"
        );
        output
    }

    /// The bodies that a command posts to `/containers/create` and the like, reduced.
    pub fn bodies(&self, output: &Output, who: &str, args: &[&str]) -> Vec<(String, Value)> {
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{who} {args:?}: {errors}");
        // Docker also begins to wait when it leaves a container in the background, and then does not.
        let posted = self
            .take()
            .into_iter()
            .filter(|a| a.method == "POST" && !a.path.contains("/wait"));
        posted
            .map(|a| (a.path, reduced(a.body).unwrap_or_default()))
            .collect()
    }
}

/// Reads one request, writes it down and answers; nothing at the end of the connection.
fn answer(stream: &UnixStream, seen: &Mutex<Vec<Asked>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|n| *n > 0)?;
        let (name, value) = header.trim().split_once(':').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "transfer-encoding" => chunked = value.contains("chunked"),
            "" => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    while chunked {
        let mut size = String::new();
        reader.read_line(&mut size).ok()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        let mut piece = vec![0; size + 2];
        reader.read_exact(&mut piece).ok()?;
        body.extend_from_slice(&piece[..size]);
        chunked = size > 0;
    }
    let plain = match path.strip_prefix("/v1.") {
        Some(rest) => rest[rest.find('/')?..].to_owned(),
        None => path,
    };
    let asked = Asked {
        method,
        path: plain,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let head = asked.method == "HEAD";
    let text = response(&asked.method, asked.path.split('?').next()?, head);
    if !asked.path.starts_with("/_ping") {
        seen.lock().unwrap().push(asked);
    }
    let mut out = stream;
    out.write_all(&text).ok()?;
    if text.starts_with(b"HTTP/1.1 101") {
        return None;
    }
    Some(())
}

fn response(method: &str, path: &str, head: bool) -> Vec<u8> {
    let (status, body) = match (method, path) {
        (_, "/_ping") => (200, "OK".to_owned()),
        (_, "/containers/create") => (201, json!({ "Id": "c0ffee", "Warnings": [] }).to_string()),
        (_, p) if p.ends_with("/attach") => {
            let mut text = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n".to_vec();
            text.extend(b"\x01\0\0\0\0\0\0\x03out\x02\0\0\0\0\0\0\x03err");
            return text;
        }
        (_, p) if p.ends_with("/update") => (200, json!({ "Warnings": [] }).to_string()),
        (_, p) if p.ends_with("/wait") => (200, json!({ "StatusCode": 3 }).to_string()),
        ("GET", "/containers/json") => (200, "[]".into()),
        ("GET", "/containers/none/json") => (
            404,
            json!({ "message": "No such container: none" }).to_string(),
        ),
        ("POST", "/containers/none/stop") => (
            404,
            json!({ "message": "No such container: none" }).to_string(),
        ),
        (_, "/networks/create") => (201, json!({ "Id": "beef", "Warning": "" }).to_string()),
        (_, "/volumes/create") => (201, json!({ "Name": "data" }).to_string()),
        (_, "/auth") => (200, json!({ "Status": "Login Succeeded" }).to_string()),
        _ => (204, String::new()),
    };
    // Version 1.41 is what Debian's docker speaks.
    let mut text = format!(
        "HTTP/1.1 {status} X\r\nApi-Version: 1.41\r\nOstype: linux\r\nContent-Type: application/json\r\n"
    );
    if status != 204 {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    if !head {
        text.push_str(&body);
    }
    text.into_bytes()
}

/// A value without what says nothing.
fn reduced(value: Value) -> Option<Value> {
    match value {
        Value::Null | Value::Bool(false) => None,
        Value::String(s) if s.is_empty() => None,
        Value::Number(n) if n.as_f64() == Some(0.0) => None,
        // Lists keep their empty members: they have places. Of an object in one, what says nothing still goes.
        Value::Array(list) if list.iter().all(|v| v.as_f64() == Some(0.0)) => None,
        Value::Array(list) => Some(Value::Array(
            list.into_iter()
                .map(|v| {
                    if v.is_object() {
                        reduced(v).unwrap_or_default()
                    } else {
                        v
                    }
                })
                .collect(),
        )),
        Value::Object(map) => {
            let kept = map.into_iter().filter_map(|(key, value)| {
                // Names that people choose mean something even with nothing behind them.
                let named = matches!(
                    key.as_str(),
                    "Volumes" | "ExposedPorts" | "Tmpfs" | "EndpointsConfig" | "Labels" | "Sysctls"
                );
                let value = match value {
                    // Docker gives no order to these.
                    Value::Array(mut list) if matches!(key.as_str(), "Env" | "Binds") => {
                        list.sort_by_key(ToString::to_string);
                        (!list.is_empty()).then_some(json!(list))
                    }
                    // Newer clients write the prefix, older ones do not; both are understood.
                    Value::Array(list) if matches!(key.as_str(), "CapAdd" | "CapDrop") => {
                        let plain =
                            |v: Value| json!(v.as_str().unwrap().trim_start_matches("CAP_"));
                        let list: Vec<Value> = list.into_iter().map(plain).collect();
                        (!list.is_empty()).then_some(json!(list))
                    }
                    Value::Object(inner) if named => {
                        let inner: serde_json::Map<_, _> = inner
                            .into_iter()
                            .filter(|(k, v)| {
                                // Modes are no networks; nothing is asked of them.
                                let mode = matches!(k.as_str(), "default" | "host" | "none");
                                !(key == "EndpointsConfig" && mode && reduced(v.clone()).is_none())
                            })
                            .map(|(k, v)| (k, reduced(v).unwrap_or(json!(true))))
                            .collect();
                        (!inner.is_empty()).then_some(Value::Object(inner))
                    }
                    other => reduced(other),
                }?;
                let default = match key.as_str() {
                    "MemorySwappiness" => value == json!(-1),
                    // Only older clients send it; names are unique in any case.
                    "CheckDuplicate" => true,
                    "Driver" => matches!(value.as_str(), Some("default" | "local")),
                    "NetworkMode" => value == json!("default"),
                    "RestartPolicy" => value == json!({ "Name": "no" }),
                    _ => false,
                };
                (!default).then_some((key, value))
            });
            let kept: serde_json::Map<_, _> = kept.collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        other => Some(other),
    }
}
