//! One command on both servers, and what of its output must be the same.

use std::net::SocketAddr;
use std::process::Stdio;

use coracle_gateway::Role;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use crate::common::{self, PATIENCE};

/// Debian's etcd and ours, both empty in the beginning.
pub struct Both {
    etcd: common::Etcd,
    ours: common::Ours,
    /// Leases by number: the real one's and ours, in hexadecimal.
    leases: Vec<[String; 2]>,
}

impl Both {
    pub async fn new() -> Self {
        Self {
            etcd: common::etcd().await,
            ours: common::ours(Role::Operator).await,
            leases: Vec::new(),
        }
    }

    pub fn addresses(&self) -> [SocketAddr; 2] {
        [self.etcd.address, self.ours.address]
    }

    /// The words for one side: `{0}` is the first lease.
    fn words(&self, side: usize, words: &[&str]) -> Vec<String> {
        let word = |word: &&str| {
            let mut word = (*word).to_owned();
            for (at, lease) in self.leases.iter().enumerate() {
                word = word.replace(&format!("{{{at}}}"), &lease[side]);
            }
            word
        };
        words.iter().map(word).collect()
    }

    /// Runs on both, without asking that they agree: success and raw output of each.
    pub async fn raw(&self, words: &[&str], input: &str) -> [(bool, String); 2] {
        let run = async |side: usize| {
            let words = self.words(side, words);
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            let input = self.words(side, &[input]).remove(0);
            common::etcdctl_fed(self.addresses()[side], &words, &input).await
        };
        let (etcd, ours) = tokio::join!(run(0), run(1));
        [etcd, ours]
    }

    async fn agree(&self, words: &[&str], input: &str) -> (bool, String) {
        let [etcd, ours] = self.raw(words, input).await;
        let [theirs, mine] = self.addresses();
        let etcd = (etcd.0, comparable(&etcd.1, theirs));
        let ours = (ours.0, comparable(&ours.1, mine));
        assert_eq!(etcd, ours, "etcdctl {words:?}: etcd left, ours right");
        ours
    }

    /// The same words go well on both and print the same; that.
    pub async fn same(&self, words: &[&str]) -> String {
        self.same_fed(words, "").await
    }

    /// The same with an input.
    pub async fn same_fed(&self, words: &[&str], input: &str) -> String {
        let (well, text) = self.agree(words, input).await;
        assert!(well, "etcdctl {words:?}: {text}");
        text
    }

    /// The same words fail on both and print the same; that.
    pub async fn same_error(&self, words: &[&str]) -> String {
        let (well, text) = self.agree(words, "").await;
        assert!(!well, "etcdctl {words:?} should fail: {text}");
        text
    }

    /// Grants a lease on both; `{n}` in words is the n-th from now on.
    pub async fn grant(&mut self, seconds: u32) {
        let seconds = seconds.to_string();
        let granted = self.raw(&["lease", "grant", &seconds], "").await;
        let lease = granted.map(|(well, text)| {
            assert!(well, "{text}");
            let expected = format!(" granted with TTL({seconds}s)\n");
            let id = text.strip_prefix("lease ").unwrap();
            let id = id
                .strip_suffix(&expected)
                .unwrap_or_else(|| panic!("{text}"));
            id.to_owned()
        });
        self.leases.push(lease);
    }

    /// Starts a command that does not end by itself, on both.
    pub fn start(&self, words: &[&str]) -> [Running; 2] {
        [0, 1].map(|side| {
            let words = self.words(side, words);
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            Running::start(self.addresses()[side], &words)
        })
    }
}

/// A command under way; killed when dropped.
pub struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl Running {
    pub fn start(address: SocketAddr, words: &[&str]) -> Self {
        let mut command = common::etcdctl_command(address, words);
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            child,
            lines,
            address,
        }
    }

    /// The next lines that it prints.
    pub async fn lines(&mut self, count: usize) -> String {
        let mut text = String::new();
        for _ in 0..count {
            let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
            let line = line.unwrap_or_else(|_| panic!("no more lines after {text:?}"));
            let line = line.unwrap();
            text += &line.unwrap_or_else(|| panic!("ended after {text:?}"));
            text.push('\n');
        }
        comparable(&text, self.address)
    }

    /// Asks it to end as a terminal does, and waits until it has.
    pub async fn interrupt(mut self) -> bool {
        let id = self.child.id().unwrap().to_string();
        let asked = std::process::Command::new("kill")
            .args(["-INT", &id])
            .status();
        assert!(asked.unwrap().success());
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.unwrap().unwrap().success()
    }

    /// Waits for it to end by itself; what else it printed.
    pub async fn end(mut self) -> String {
        let mut text = String::new();
        let rest = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                text += &line;
                text.push('\n');
            }
            self.child.wait().await.unwrap()
        };
        let ended = tokio::time::timeout(PATIENCE, rest).await;
        assert!(ended.unwrap().success());
        comparable(&text, self.address)
    }
}

/// An output without what is one server's own: its address, cluster and member ids, the raft term, lease ids (12 digits
/// and more), and in a line of the log its time and where it comes from.
fn comparable(text: &str, address: SocketAddr) -> String {
    let text = text.replace(&address.to_string(), "<address>");
    text.lines().map(|text| line(text) + "\n").collect()
}

fn line(text: &str) -> String {
    if let Ok(Value::Object(log)) = serde_json::from_str(text)
        && log.contains_key("level")
    {
        return format!("{} {:?}", log["msg"], log.get("error"));
    }
    if let Ok(mut value @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str(text) {
        without_ids(&mut value);
        return value.to_string();
    }
    for own in ["\"ClusterID\" :", "\"MemberID\" :", "\"RaftTerm\" :"] {
        if text.starts_with(own) {
            return own.to_owned();
        }
    }
    without_runs(text)
}

fn without_ids(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for own in ["cluster_id", "member_id", "raft_term"] {
                fields.remove(own);
            }
            fields.values_mut().for_each(without_ids);
        }
        Value::Array(values) => values.iter_mut().for_each(without_ids),
        Value::Number(number) if number.to_string().len() >= 12 => *value = "<id>".into(),
        _ => {}
    }
}

/// Long numbers, decimal or hexadecimal, are ids.
fn without_runs(text: &str) -> String {
    let mut out = String::new();
    let mut run = String::new();
    let flush = |run: &mut String, out: &mut String| {
        let is_id = run.len() >= 12 && run.bytes().all(|b| b.is_ascii_hexdigit());
        out.push_str(if is_id { "<id>" } else { run });
        run.clear();
    };
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            run.push(c);
        } else {
            flush(&mut run, &mut out);
            out.push(c);
        }
    }
    flush(&mut run, &mut out);
    out
}
