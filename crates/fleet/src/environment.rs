//! The environment that a unit gives its processes.

use crate::translate::TranslateError;
use coracle_unit::Unit;
use coracle_unit::service::EnvironmentFile;
use std::collections::BTreeMap;
use std::path::Path;

type Result<T> = std::result::Result<T, TranslateError>;

pub(crate) fn read(unit: &Unit, key: &'static str, path: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| TranslateError::File {
        unit: unit.name.to_string(),
        key,
        path: path.to_owned(),
        source,
    })
}

/// Files first, then what stands in the unit itself, which wins.
pub(crate) fn environment(
    unit: &Unit,
    files: &[EnvironmentFile],
    own: &BTreeMap<String, String>,
) -> Result<Vec<String>> {
    let mut all = BTreeMap::new();
    for file in files {
        if file.optional && !Path::new(&file.path).exists() {
            continue;
        }
        for line in read(unit, "EnvironmentFile", &file.path)?.lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some((name, value)) = line.split_once('=') {
                let value = value.trim();
                let quoted =
                    |q: char| value.len() > 1 && value.starts_with(q) && value.ends_with(q);
                let value = if quoted('"') || quoted('\'') {
                    &value[1..value.len() - 1]
                } else {
                    value
                };
                all.insert(name.trim().to_owned(), value.to_owned());
            }
        }
    }
    all.extend(own.clone());
    Ok(all
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect())
}
