//! docs/docker-api.md is what the daemon does.
#![allow(clippy::unwrap_used)]

mod common;

use common::Daemon;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// One line of the table.
struct Row {
    endpoint: String,
    answer: String,
    test: String,
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(repository().join("docs/docker-api.md")).unwrap();
    let lines = text.lines().filter(|l| l.starts_with("| `"));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let [endpoint, answer, test] = cells[..] else {
                panic!("three cells: {line}")
            };
            Row {
                endpoint: endpoint.trim_matches('`').to_owned(),
                answer: answer.to_owned(),
                test: test.to_owned(),
            }
        })
        .collect()
}

/// Method and path of every endpoint of a definition. The files are regular enough to be read by their indentation.
fn defined(version: &str) -> BTreeSet<String> {
    let beside = || repository().join("../shared/reference");
    let root = std::env::var_os("CORACLE_REFERENCE").map_or_else(beside, PathBuf::from);
    let path = root.join(format!("docker-api/v{version}.yaml"));
    let text = fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{}: {e}; set CORACLE_REFERENCE", path.display()));
    let mut found = BTreeSet::new();
    let mut path = String::new();
    for line in text.lines().skip_while(|l| *l != "paths:") {
        let blanks = line.len() - line.trim_start().len();
        let word = line.trim().trim_end_matches(':').trim_matches('"');
        if blanks == 2 && word.starts_with('/') {
            path = word.to_owned();
        }
        let methods = ["get", "post", "put", "delete", "head"];
        if blanks == 4 && methods.contains(&word) {
            found.insert(format!("{} {path}", word.to_uppercase()));
        }
    }
    assert!(found.len() > 100, "{}", found.len());
    found
}

#[test]
fn the_table_has_what_the_definition_has() {
    let rows = rows();
    let known: BTreeSet<String> = rows.iter().map(|r| r.endpoint.clone()).collect();
    assert_eq!(known.len(), rows.len(), "an endpoint stands there twice");
    for version in ["1.44", "1.47", "1.51"] {
        let missing: Vec<String> = defined(version).difference(&known).cloned().collect();
        assert!(missing.is_empty(), "{version}: {missing:?}");
    }
    let latest = defined("1.51");
    let made_up: Vec<&String> = known.difference(&latest).collect();
    assert!(made_up.is_empty(), "{made_up:?}");
    for row in rows {
        let good = row.answer == "honoured" || row.answer.starts_with("refused: ");
        assert!(good, "{}: {}", row.endpoint, row.answer);
        let mut named = row.test.split('`').filter(|t| !t.trim().is_empty());
        let (file, test) = (named.next().unwrap(), named.next().unwrap());
        let text = fs::read_to_string(repository().join(file)).unwrap();
        assert!(
            text.contains(&format!("fn {test}()")),
            "{}: {}",
            row.endpoint,
            row.test
        );
    }
}

/// Status and body of an answer.
fn ask(d: &Daemon, method: &str, path: &str) -> (u16, String) {
    let mut socket = UnixStream::connect(d.run_dir().join("docker.sock")).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, b)| b);
    (status, body.to_owned())
}

#[test]
fn what_is_refused_says_so() {
    let d = Daemon::bare();
    for row in rows() {
        let Some(refused) = row.answer.strip_prefix("refused: ") else {
            continue;
        };
        let (status, words) = refused.split_once(", ").unwrap();
        let (method, path) = row.endpoint.split_once(' ').unwrap();
        let path = path.replace("{id}", "x").replace("{name}", "x");
        for prefix in ["", "/v1.51", "/v1.40"] {
            let (got, body) = ask(&d, method, &format!("{prefix}{path}"));
            assert_eq!(got.to_string(), status, "{prefix}{}: {body}", row.endpoint);
            let message = format!("{{\"message\":\"{words}");
            assert!(body.contains(&message), "{prefix}{}: {body}", row.endpoint);
        }
    }
    // What is honoured is never a page that is not there.
    for row in rows().iter().filter(|r| r.answer == "honoured") {
        let (method, path) = row.endpoint.split_once(' ').unwrap();
        if matches!(path, "/events") || method == "HEAD" {
            // One does not end, the other has no body to look at.
            continue;
        }
        let path = path.replace("{id}", "x").replace("{name}", "x");
        let (status, body) = ask(&d, method, &path);
        let served = status != 405 && !body.contains("page not found") && status != 501;
        assert!(served, "{}: {status} {body}", row.endpoint);
    }
}
