//! Where the reference tables are.
#![allow(clippy::unwrap_used, dead_code)]

use serde_json::Value;
use std::path::PathBuf;

pub const BUILDKIT: &str = "buildkit-dockerfile/json";
pub const PARSER: &str = "buildkit-dockerfile/frontend/dockerfile/parser";

pub fn reference(path: &str) -> PathBuf {
    let default = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference");
    let root = std::env::var_os("CORACLE_REFERENCE").map_or(default, PathBuf::from);
    let file = root.join(path);
    assert!(
        file.exists(),
        "{} is missing; set CORACLE_REFERENCE",
        file.display()
    );
    file
}

pub fn read(path: &str) -> String {
    std::fs::read_to_string(reference(path)).unwrap()
}

/// A folder's Dockerfiles, by the names of their own folders.
pub fn dockerfiles(folder: &str) -> Vec<(PathBuf, String)> {
    let entries = std::fs::read_dir(reference(&format!("{PARSER}/{folder}"))).unwrap();
    let mut all: Vec<(PathBuf, String)> = entries
        .map(|e| e.unwrap().path())
        .map(|dir| {
            let text = std::fs::read_to_string(dir.join("Dockerfile")).unwrap();
            (dir, text)
        })
        .collect();
    all.sort();
    all
}

/// All tables of a function under one name.
pub fn tables(path: &str, func: &str, name: &str) -> Vec<Value> {
    let tables: Vec<Value> = serde_json::from_str(&read(path)).unwrap();
    let of = |t: &&Value| t["func"].as_str().unwrap_or_default() == func && t["name"] == name;
    let found: Vec<Value> = tables
        .iter()
        .filter(of)
        .map(|t| t["cases"].clone())
        .collect();
    assert!(!found.is_empty(), "{path} has no {func} {name}");
    found
}

/// The rows of a function's only table; `least` of them at least.
pub fn rows(path: &str, func: &str, name: &str, least: usize) -> Vec<Value> {
    let [table] = &tables(path, func, name)[..] else {
        panic!("{path} has more than one {func} {name}");
    };
    let rows = table.as_array().unwrap().clone();
    assert!(rows.len() >= least, "{path} {func} {name}: {}", rows.len());
    rows
}

pub fn s<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

pub fn strings(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}
