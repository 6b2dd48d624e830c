//! Docker's definition of its API, read from the reference tables: endpoints, what may be sent to them, what they answer.
#![allow(clippy::unwrap_used, dead_code)]

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The versions that are exact.
pub const VERSIONS: [&str; 3] = ["1.44", "1.47", "1.51"];

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The definition of one version.
pub struct Definition {
    pub version: String,
    root: Value,
}

/// A method and a path, as `GET /containers/json`.
pub struct Endpoint<'a> {
    pub name: String,
    operation: &'a Value,
    shared: &'a Value,
}

/// Brackets that close at the indentation of their key: Go's reader takes them so, the specification of YAML does not.
fn indented(text: &str) -> String {
    let closes = |line: &str| matches!(line.trim(), "}" | "]" | "}," | "],");
    let line = |line: &str| match closes(line) {
        true => format!("  {line}\n"),
        false => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

fn plain(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(b)) => json!(b),
        Yaml::Value(Scalar::Integer(n)) => json!(n),
        Yaml::Value(Scalar::FloatingPoint(f)) => json!(f.into_inner()),
        Yaml::Value(Scalar::String(s)) => json!(s),
        Yaml::Sequence(all) => all.iter().map(plain).collect(),
        Yaml::Mapping(all) => {
            let pair = |(key, value)| match plain(key) {
                Value::String(key) => (key, plain(value)),
                other => (other.to_string(), plain(value)),
            };
            Value::Object(all.iter().map(pair).collect())
        }
        other => panic!("the definition has {other:?}"),
    }
}

impl Definition {
    /// Reads it; the folder of reference tables is beside the repository or where `CORACLE_REFERENCE` says.
    pub fn read(version: &str) -> Self {
        let beside = || repository().join("../shared/reference");
        let root = std::env::var_os("CORACLE_REFERENCE").map_or_else(beside, PathBuf::from);
        let path = root.join(format!("docker-api/v{version}.yaml"));
        let text = fs::read_to_string(&path)
            .unwrap_or_else(|e| panic!("{}: {e}; set CORACLE_REFERENCE", path.display()));
        let all = Yaml::load_from_str(&indented(&text)).unwrap();
        Self {
            version: version.to_owned(),
            root: plain(&all[0]),
        }
    }

    pub fn endpoints(&self) -> Vec<Endpoint<'_>> {
        let mut found = Vec::new();
        for (path, methods) in self.root["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                if method != "parameters" {
                    found.push(Endpoint {
                        name: format!("{} {path}", method.to_uppercase()),
                        operation,
                        shared: methods,
                    });
                }
            }
        }
        assert!(found.len() > 100, "{}", found.len());
        found
    }

    pub fn endpoint(&self, name: &str) -> Endpoint<'_> {
        let found = self.endpoints().into_iter().find(|e| e.name == name);
        found.unwrap_or_else(|| panic!("{name} is not in {}", self.version))
    }

    /// A named schema.
    pub fn schema(&self, name: &str) -> Value {
        self.flat(&json!({ "$ref": format!("#/definitions/{name}") }))
    }

    /// A schema with what it refers to and what it is made of put in place, one level deep.
    pub fn flat(&self, schema: &Value) -> Value {
        let mut own = schema.as_object().cloned().unwrap_or_default();
        let mut parts = Vec::new();
        if let Some(name) = own.remove("$ref") {
            let name = name.as_str().unwrap();
            let path = name.strip_prefix('#').unwrap();
            let target = self.root.pointer(path);
            parts.push(
                target
                    .unwrap_or_else(|| panic!("{name} is not there"))
                    .clone(),
            );
        }
        if let Some(Value::Array(all)) = own.remove("allOf") {
            parts.extend(all);
        }
        let mut whole = Map::new();
        for part in parts {
            merge(&mut whole, self.flat(&part));
        }
        merge(&mut whole, Value::Object(own));
        Value::Object(whole)
    }

    /// What may be sent to an endpoint, by where it stands: `query all`, `header X-Registry-Auth`, `body HostConfig.Memory`;
    /// `filter label` for what the description of a parameter `filters` lists. Elements of lists are `[]`, of maps `{}`.
    pub fn accepted(&self, endpoint: &Endpoint<'_>) -> BTreeMap<String, Value> {
        let mut found = BTreeMap::new();
        for parameter in endpoint.parameters() {
            let name = parameter["name"].as_str().unwrap();
            match parameter["in"].as_str().unwrap() {
                "path" => {}
                "body" => {
                    let before = found.len();
                    self.below(&parameter["schema"], "body ", &mut found);
                    if found.len() == before {
                        found.insert("body".into(), self.flat(&parameter["schema"]));
                    }
                }
                place => {
                    found.insert(format!("{place} {name}"), parameter.clone());
                    if name == "filters" {
                        let text = parameter["description"].as_str().unwrap_or_default();
                        for filter in filters(text) {
                            found.insert(format!("filter {filter}"), json!({ "type": "string" }));
                        }
                    }
                }
            }
        }
        found
    }

    fn below(&self, schema: &Value, at: &str, found: &mut BTreeMap<String, Value>) {
        let schema = self.flat(schema);
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let place = format!("{at}{name}");
            found.insert(place.clone(), self.flat(property));
            self.below(property, &format!("{place}."), found);
        }
        let inner = at.trim_end_matches('.');
        if schema["items"].is_object() {
            self.below(&schema["items"], &format!("{inner}[]."), found);
        }
        if schema["additionalProperties"].is_object() {
            self.below(
                &schema["additionalProperties"],
                &format!("{inner}{{}}."),
                found,
            );
        }
    }
}

/// Later words count; properties and what is required add up.
fn merge(whole: &mut Map<String, Value>, part: Value) {
    let Value::Object(part) = part else { return };
    for (key, value) in part {
        match (whole.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) if key == "properties" => {
                old.extend(new);
            }
            (Some(Value::Array(old)), Value::Array(new)) if key == "required" => old.extend(new),
            (_, value) => {
                whole.insert(key, value);
            }
        }
    }
}

/// Filters of a description: its outermost list, a line each, and `label!` where a line of `label` has it.
fn filters(description: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in description.lines() {
        let Some(rest) = line.strip_prefix("- `") else {
            continue;
        };
        let end = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_');
        let name = rest.split(end).next().unwrap();
        found.insert(name.to_owned());
        if line.contains(&format!("{name}!=")) {
            found.insert(format!("{name}!"));
        }
    }
    found
}

impl<'a> Endpoint<'a> {
    fn parameters(&self) -> impl Iterator<Item = &'a Value> {
        let of = |v: &'a Value| v["parameters"].as_array().into_iter().flatten();
        of(self.shared).chain(of(self.operation))
    }

    /// The schema of an answer.
    pub fn answer(&self, status: u16) -> Option<&'a Value> {
        let schema = &self.operation["responses"].get(status.to_string())?["schema"];
        schema.is_object().then_some(schema)
    }

    /// Whether a status is among its answers.
    pub fn answers(&self, status: u16) -> bool {
        self.operation["responses"]
            .get(status.to_string())
            .is_some()
    }
}
