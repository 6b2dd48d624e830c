//! curl against both servers, and what of the answers must be the same.

use std::net::SocketAddr;
use std::process::Stdio;

use coracle_gateway::Role;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::common::{self, PATIENCE};

/// Debian's etcd and ours, both empty in the beginning.
pub struct Both {
    pub etcd: common::Etcd,
    pub ours: common::Ours,
}

fn curl(address: SocketAddr, method: &str, path: &str, body: &str) -> Command {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--no-buffer", "--noproxy", "*", "-X", method])
        .args(["--write-out", "\n%{http_code}"])
        .args(["--data-binary", body])
        .arg(format!("http://{address}{path}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Code and body of one request.
pub async fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut command = curl(address, method, path, body);
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("no answer from {path}"));
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let (body, code) = text.rsplit_once('\n').unwrap();
    (code.parse().unwrap(), body.to_owned())
}

/// Without what is one server's own; the names of the fields stay.
pub fn comparable(text: &str) -> Value {
    fn bare(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for own in ["cluster_id", "member_id", "raft_term", "ID", "lease"] {
                    if let Some(value) = fields.get_mut(own) {
                        *value = "<id>".into();
                    }
                }
                fields.values_mut().for_each(bare);
            }
            Value::Array(values) => values.iter_mut().for_each(bare),
            _ => {}
        }
    }
    let mut value = serde_json::from_str(text).unwrap_or_else(|_| text.trim_end().into());
    bare(&mut value);
    value
}

impl Both {
    pub async fn new() -> Self {
        Self {
            etcd: common::etcd().await,
            ours: common::ours(Role::Operator).await,
        }
    }

    pub fn addresses(&self) -> [SocketAddr; 2] {
        [self.etcd.address, self.ours.address]
    }

    pub async fn raw(&self, method: &str, path: &str, body: &str) -> [(u16, String); 2] {
        let [etcd, ours] = self.addresses();
        let (etcd, ours) =
            tokio::join!(ask(etcd, method, path, body), ask(ours, method, path, body));
        [etcd, ours]
    }

    /// Both answer the same to a text; code and body.
    pub async fn same_text(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let [etcd, ours] = self.raw(method, path, body).await;
        let ours = (ours.0, comparable(&ours.1));
        let etcd = (etcd.0, comparable(&etcd.1));
        assert_eq!(etcd, ours, "{method} {path} {body}: etcd left, ours right");
        ours
    }

    /// Both refuse a request for how things stand; the text. The code of 3.4 is 412, of later ones and ours 400.
    pub async fn same_precondition(&self, path: &str, body: Value) -> String {
        let [etcd, ours] = self.raw("POST", path, &body.to_string()).await;
        assert_eq!((etcd.0, ours.0), (412, 400), "{path} {body}: {ours:?}");
        let (etcd, ours) = (comparable(&etcd.1), comparable(&ours.1));
        assert_eq!(etcd, ours, "{path} {body}: etcd left, ours right");
        ours["message"].as_str().unwrap().to_owned()
    }

    /// Both answer the same to a request, and that it is done; the body.
    pub async fn same(&self, path: &str, body: Value) -> Value {
        let (code, answer) = self.same_text("POST", path, &body.to_string()).await;
        assert_eq!(code, 200, "{path} {body}: {answer}");
        answer
    }

    /// Both refuse a request in the same way; the code and the text.
    pub async fn same_error(&self, path: &str, body: Value) -> (u16, String) {
        let (code, answer) = self.same_text("POST", path, &body.to_string()).await;
        assert!(code >= 400, "{path} {body}: {answer}");
        (code, answer["message"].as_str().unwrap().to_owned())
    }

    /// A request that answers with many lines, on both.
    pub fn start(&self, path: &str, body: Value) -> [Stream; 2] {
        self.addresses()
            .map(|address| Stream::start(address, path, &body))
    }
}

/// A request under way, whose answers are lines; curl is killed when it is dropped.
pub struct Stream {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Stream {
    pub fn start(address: SocketAddr, path: &str, body: &Value) -> Self {
        let mut child = curl(address, "POST", path, &body.to_string())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            lines,
            _child: child,
        }
    }

    /// The next line.
    pub async fn line(&mut self) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.expect("another line").unwrap();
        comparable(&line.expect("the stream goes on"))
    }
}
