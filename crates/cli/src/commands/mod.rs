//! The verbs, one file a group.

pub mod build;
pub mod clients;
pub mod cluster;
pub mod containers;
pub mod copy;
pub mod deploys;
pub mod drain;
pub mod everywhere;
pub mod explain;
pub mod files;
pub mod fleetctl;
pub mod images;
mod instances;
pub mod list;
pub mod login;
pub mod machines;
pub mod networks;
pub mod os;
pub mod prune;
pub mod recover;
pub mod registries;
pub mod run;
pub mod stats;
pub mod store;
pub mod system;
mod tokens;
pub mod units;
pub mod update;
pub mod usage;
pub mod volumes;

use crate::error::{CliError, Result};
use serde_json::json;
use std::collections::BTreeMap;

/// `--filter key=value`, as the API takes them.
pub fn filters(list: &[String]) -> Result<String> {
    let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for filter in list {
        let (key, value) = filter.split_once('=').ok_or_else(|| {
            CliError::Usage(format!("invalid filter \"{filter}\": write key=value"))
        })?;
        all.entry(key).or_default().push(value);
    }
    Ok(if all.is_empty() {
        String::new()
    } else {
        json!(all).to_string()
    })
}

/// Asks before something is lost; `--force` answers yes.
pub fn confirmed(force: bool, warning: &str) -> Result<bool> {
    if force {
        return Ok(true);
    }
    print!("WARNING! This will remove {warning}.\nAre you sure you want to continue? [y/N] ");
    std::io::Write::flush(&mut std::io::stdout())?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
