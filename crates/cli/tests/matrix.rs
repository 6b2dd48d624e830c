//! docs/docker-api.md is what the daemon does: it has all that Docker's definition has, and what it calls refused or ignored is so.
//! What it calls honoured names the test that shows it.
#![allow(clippy::unwrap_used)]

mod common;
mod definition;
mod http;

use common::Daemon;
use definition::{Definition, VERSIONS, repository};
use http::ask;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// One line of a table.
struct Row {
    /// `GET /containers/json`.
    endpoint: String,
    /// `query all`, `body HostConfig.Memory`; empty for the endpoint itself.
    field: String,
    answer: String,
    test: String,
}

impl Row {
    fn name(&self) -> String {
        format!("{} {}", self.endpoint, self.field)
            .trim()
            .to_owned()
    }

    /// Status and words of a refusal.
    fn refused(&self) -> Option<(u16, &str)> {
        let (status, words) = self.answer.strip_prefix("refused: ")?.split_once(", ")?;
        Some((status.parse().unwrap(), words))
    }
}

fn all_rows() -> Vec<Row> {
    let text = fs::read_to_string(repository().join("docs/docker-api.md")).unwrap();
    let mut section = String::new();
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(endpoint) = line.strip_prefix("### ") {
            section = endpoint.to_owned();
        }
        if !line.starts_with("| `") {
            continue;
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [first, answer, test] = cells[..] else {
            panic!("three cells: {line}")
        };
        let first = first.trim_matches('`').to_owned();
        let (endpoint, field) = if section.is_empty() {
            (first, String::new())
        } else {
            (section.clone(), first)
        };
        found.push(Row {
            endpoint,
            field,
            answer: answer.to_owned(),
            test: test.to_owned(),
        });
    }
    found
}

/// Rows of endpoints.
fn rows() -> Vec<Row> {
    let mut all = all_rows();
    all.retain(|r| r.field.is_empty());
    all
}

/// Rows of fields.
fn fields() -> Vec<Row> {
    let mut all = all_rows();
    all.retain(|r| !r.field.is_empty());
    all
}

#[test]
fn the_tables_have_what_the_definitions_have() {
    let all = all_rows();
    let known: BTreeSet<String> = all.iter().map(Row::name).collect();
    let mut twice = BTreeSet::new();
    for row in &all {
        assert!(twice.insert(row.name()), "twice: {}", row.name());
    }
    let refused: BTreeSet<String> = rows()
        .into_iter()
        .filter(|r| r.refused().is_some())
        .map(|r| r.endpoint)
        .collect();
    let mut defined = BTreeSet::new();
    let mut missing = BTreeSet::new();
    for version in VERSIONS {
        let definition = Definition::read(version);
        for endpoint in definition.endpoints() {
            defined.insert(endpoint.name.clone());
            for field in definition.accepted(&endpoint).into_keys() {
                let name = format!("{} {field}", endpoint.name);
                if !refused.contains(&endpoint.name) && !known.contains(&name) {
                    missing.insert(format!("{version}: {name}"));
                }
                defined.insert(name);
            }
            if !known.contains(&endpoint.name) {
                missing.insert(format!("{version}: {}", endpoint.name));
            }
        }
    }
    assert!(missing.is_empty(), "not in the tables: {missing:#?}");
    let made_up: Vec<&String> = known.difference(&defined).collect();
    assert!(made_up.is_empty(), "in no definition: {made_up:#?}");
}

#[test]
fn every_row_names_its_test() {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for row in all_rows() {
        let reason = row.answer.strip_prefix("ignored: ");
        let good = row.answer == "honoured"
            || row.refused().is_some()
            || (reason.is_some_and(|r| !r.is_empty()) && !row.field.is_empty());
        assert!(good, "{}: {}", row.name(), row.answer);
        let mut named = row.test.split('`').filter(|t| !t.trim().is_empty());
        let (file, test) = (named.next().unwrap(), named.next().unwrap());
        let text = files.entry(file.to_owned()).or_insert_with(|| {
            fs::read_to_string(repository().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
        });
        let found = text.contains(&format!("fn {test}()"));
        assert!(found, "{}: {}", row.name(), row.test);
    }
}

#[test]
fn what_is_refused_says_so() {
    let d = Daemon::bare();
    for row in rows() {
        let Some((status, words)) = row.refused() else {
            continue;
        };
        let (method, path) = row.endpoint.split_once(' ').unwrap();
        let path = path.replace("{id}", "x").replace("{name}", "x");
        for prefix in ["", "/v1.51", "/v1.40"] {
            let answer = ask(&d, method, &format!("{prefix}{path}"), &Value::Null);
            let said = format!("{prefix}{}: {}", row.endpoint, answer.text());
            assert!(
                answer.status == status && answer.message().starts_with(words),
                "{said}"
            );
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
        let answer = ask(&d, method, &path, &Value::Null);
        let (status, body) = (answer.status, answer.text());
        let served = status != 405 && !body.contains("page not found") && status != 501;
        assert!(served, "{}: {status} {body}", row.endpoint);
    }
}

/// A value that says something.
fn sample(definition: &Definition, schema: &Value) -> Value {
    let schema = definition.flat(schema);
    if let Some(words) = schema["enum"].as_array() {
        let says = |v: &&Value| !matches!(v.as_str(), Some("" | "default" | "local" | "no"));
        return words.iter().find(says).cloned().unwrap_or_default();
    }
    match schema["type"].as_str().unwrap_or("string") {
        "boolean" => json!(true),
        "integer" | "number" => json!(7),
        "array" => json!([sample(definition, &schema["items"])]),
        "object" => {
            let properties = schema["properties"].as_object();
            let one = |(name, inner): (&String, &Value)| (name.clone(), sample(definition, inner));
            let mut map: Map<String, Value> = properties.into_iter().flatten().map(one).collect();
            if map.is_empty() {
                map.insert("a".into(), json!("b"));
            }
            Value::Object(map)
        }
        _ => json!("x"),
    }
}

/// Puts a value where a field of a body stands: `HostConfig.Mounts[].Source`.
fn put(body: &mut Value, path: &str, value: Value) {
    let (step, rest) = path.split_once('.').unwrap_or((path, ""));
    let name = step
        .trim_end_matches("{}[]")
        .trim_end_matches("[]")
        .trim_end_matches("{}");
    let mut at = &mut body[name];
    for mark in step[name.len()..].split_inclusive([']', '}']) {
        if mark == "[]" {
            if !at.is_array() {
                *at = json!([{}]);
            }
            at = &mut at[0];
        } else {
            let first = at.as_object().and_then(|o| o.keys().next().cloned());
            at = &mut at[first.unwrap_or_else(|| "bridge".into())];
        }
    }
    if rest.is_empty() {
        *at = value;
    } else {
        if at.is_null() {
            *at = json!({});
        }
        put(at, rest, value);
    }
}

/// Path and body of a request that is good but for what is put into it.
fn request(endpoint: &str, field: &str) -> (String, Value) {
    let (_, path) = endpoint.split_once(' ').unwrap();
    let body = match endpoint {
        "POST /containers/create" if field.contains("Mounts[]") => json!({
            "Image": "bb", "Cmd": ["true"],
            "HostConfig": { "Mounts": [{ "Type": "volume", "Source": "data", "Target": "/data" }] },
        }),
        "POST /containers/create" => json!({ "Image": "bb", "Cmd": ["true"] }),
        "POST /containers/{id}/exec" => json!({ "Cmd": ["true"] }),
        "POST /networks/{id}/connect" => json!({ "Container": "cc" }),
        "POST /networks/create" | "POST /volumes/create" => json!({ "Name": "fresh" }),
        "POST /auth" => {
            json!({ "username": "me", "password": "p", "serveraddress": "127.0.0.1:5000" })
        }
        "POST /exec/{id}/start" => json!({ "Detach": true }),
        _ => Value::Null,
    };
    let id = if path.starts_with("/networks") {
        "back"
    } else {
        "cc"
    };
    let name = if path.starts_with("/volumes") {
        "data"
    } else {
        "bb"
    };
    let mut path = path.replace("{id}", id).replace("{name}", name);
    if path == "/commit" {
        path += "?container=cc";
    }
    (path, body)
}

/// Sends every field whose answer begins so, with a value of its type.
fn each(d: &Daemon, kind: &str, mut look: impl FnMut(&Row, http::Answer)) {
    let definitions: Vec<Definition> = VERSIONS.iter().map(|v| Definition::read(v)).collect();
    for row in fields() {
        if !row.answer.starts_with(kind) {
            continue;
        }
        let found = definitions.iter().rev().find_map(|definition| {
            let endpoint = definition
                .endpoints()
                .into_iter()
                .find(|e| e.name == row.endpoint)?;
            let schema = definition.accepted(&endpoint).remove(&row.field)?;
            Some((definition, schema))
        });
        let (definition, schema) = found.unwrap_or_else(|| panic!("{}", row.name()));
        let value = sample(definition, &schema);
        let (method, _) = row.endpoint.split_once(' ').unwrap();
        let (place, name) = row.field.split_once(' ').unwrap();
        let (mut path, mut body) = request(&row.endpoint, name);
        let mut headers = vec!["Content-Type: application/json".to_owned()];
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        let mark = if path.contains('?') { '&' } else { '?' };
        match place {
            "query" => path += &format!("{mark}{name}={}", text.replace('"', "%22")),
            "filter" => path += &format!("{mark}filters=%7B%22{name}%22:%5B%22x%22%5D%7D"),
            "header" => headers.push(format!("{name}: {text}")),
            _ => {
                if body.is_null() {
                    body = json!({});
                }
                put(&mut body, name, value);
            }
        }
        if row.endpoint == "POST /exec/{id}/start" {
            let made = ask(
                d,
                "POST",
                "/containers/cc/exec",
                &json!({ "Cmd": ["true"] }),
            );
            path = format!("/exec/{}/start", made.json()["Id"].as_str().unwrap());
        }
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let answer = http::send(d, method, &path, &headers, body.as_bytes());
        look(&row, answer);
    }
}

fn prepared() -> Daemon {
    let d = Daemon::start();
    d.ok(["run", "-d", "--name", "cc", "bb", "sleep", "100000"]);
    d.ok(["network", "create", "back"]);
    d.ok(["volume", "create", "data"]);
    d
}

#[test]
fn fields_that_are_refused_say_so() {
    let d = prepared();
    let mut wrong = Vec::new();
    each(&d, "refused", |row, answer| {
        let (status, words) = row.refused().unwrap();
        if answer.status != status || !answer.message().starts_with(words) {
            wrong.push(format!(
                "{}: {} {}",
                row.name(),
                answer.status,
                answer.text()
            ));
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn fields_that_are_ignored_do_no_harm() {
    let d = prepared();
    let registry = common::registry::Registry::start(&d, 5000);
    let mut wrong = Vec::new();
    each(&d, "ignored", |row, answer| {
        // A build without a context and an image that is in use are refused for that.
        let elsewhere = match row.endpoint.as_str() {
            "POST /build" => answer.status == 200,
            "DELETE /images/{name}" => answer.status == 409,
            "POST /images/load" => answer.status == 200,
            _ => false,
        };
        if row.endpoint == "POST /containers/{id}/start" && answer.status == 304 {
            return;
        }
        if row.endpoint == "POST /networks/{id}/connect" {
            ask(
                &d,
                "POST",
                "/networks/back/disconnect",
                &json!({ "Container": "cc" }),
            );
        }
        if row.endpoint == "POST /networks/create" {
            ask(&d, "DELETE", "/networks/fresh", &Value::Null);
        }
        if answer.status >= 300 && !elsewhere {
            wrong.push(format!(
                "{}: {} {}",
                row.name(),
                answer.status,
                answer.text()
            ));
        }
    });
    drop(registry);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
