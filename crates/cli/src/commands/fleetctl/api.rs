//! fleet's API as its client sees it.

use crate::client::{Client, escape, query};
use crate::error::{CliError, Result};
use coracle_unit::options::UnitOption;
use hyper::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// fleet's `Unit`.
#[derive(Debug, Clone, Deserialize)]
pub struct Unit {
    pub name: String,
    #[serde(default)]
    pub options: Vec<UnitOption>,
    #[serde(rename = "desiredState", default)]
    pub desired: String,
    #[serde(rename = "currentState", default)]
    pub current: String,
    #[serde(rename = "machineID", default)]
    pub machine: String,
}

impl Unit {
    /// The values of a key, in order.
    fn values(&self, section: &str, name: &str) -> impl DoubleEndedIterator<Item = &str> {
        let all = self.options.iter();
        all.filter(move |o| o.section == section && o.name == name)
            .map(|o| o.value.trim())
    }

    /// Whether it runs on every machine that fits.
    pub fn is_global(&self) -> bool {
        let last = self.values("X-Fleet", "Global").next_back();
        last.is_some_and(|v| coracle_unit::value::parse_bool(v).unwrap_or(false))
    }

    /// `Description=`.
    pub fn description(&self) -> &str {
        self.values("Unit", "Description").next().unwrap_or("")
    }
}

/// fleet's `UnitState`.
#[derive(Debug, Clone, Deserialize)]
pub struct UnitState {
    pub name: String,
    #[serde(default)]
    pub hash: String,
    #[serde(rename = "machineID", default)]
    pub machine: String,
    #[serde(rename = "systemdLoadState", default)]
    pub load: String,
    #[serde(rename = "systemdActiveState", default)]
    pub active: String,
    #[serde(rename = "systemdSubState", default)]
    pub sub: String,
}

/// fleet's `Machine`.
#[derive(Debug, Clone, Deserialize)]
pub struct Machine {
    pub id: String,
    #[serde(rename = "primaryIP", default)]
    pub ip: String,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// All entries of a list, page by page.
async fn all<T: DeserializeOwned>(client: &Client, path: &str, field: &str) -> Result<Vec<T>> {
    let mut entries = Vec::new();
    let mut token = String::new();
    loop {
        let asked = query(&[("nextPageToken", token)]);
        let mut page = client.get(&format!("/fleet/v1/{path}{asked}")).await?;
        let some: Vec<T> = serde_json::from_value(page[field].take())?;
        entries.extend(some);
        match page["nextPageToken"].as_str() {
            Some(next) => token = next.to_owned(),
            None => return Ok(entries),
        }
    }
}

pub async fn units(client: &Client) -> Result<Vec<Unit>> {
    all(client, "units", "units").await
}

pub async fn states(client: &Client) -> Result<Vec<UnitState>> {
    all(client, "state", "states").await
}

pub async fn machines(client: &Client) -> Result<Vec<Machine>> {
    all(client, "machines", "machines").await
}

async fn maybe<T: DeserializeOwned>(client: &Client, path: &str) -> Result<Option<T>> {
    match client.get(path).await {
        Ok(found) => Ok(Some(serde_json::from_value(found)?)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

pub async fn unit(client: &Client, name: &str) -> Result<Option<Unit>> {
    maybe(client, &format!("/fleet/v1/units/{}", escape(name))).await
}

pub async fn state(client: &Client, name: &str) -> Result<Option<UnitState>> {
    maybe(client, &format!("/fleet/v1/state/{}", escape(name))).await
}

/// One unit as our own API has it, with its text as it was submitted.
pub async fn own(client: &Client, name: &str) -> Result<Option<Value>> {
    maybe(client, &format!("/v1/units/{}", escape(name))).await
}

/// Says what a unit is to be.
pub async fn bring(client: &Client, name: &str, state: &str) -> Result<()> {
    let path = format!("/fleet/v1/units/{}", escape(name));
    let body = json!({ "desiredState": state });
    client.json(Method::PUT, &path, Some(&body)).await.map(drop)
}

/// Stops a unit and forgets it. Whether there was one.
pub async fn destroy(client: &Client, name: &str, block: bool) -> Result<bool> {
    let path = format!("/fleet/v1/units/{}?block={block}", escape(name));
    match client.ask(Method::DELETE, &path, None).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Machines by id, as they are shown.
pub struct Legend(BTreeMap<String, Machine>);

impl Legend {
    pub async fn read(client: &Client) -> Result<Self> {
        let all = machines(client).await?.into_iter();
        Ok(Self(all.map(|m| (m.id.clone(), m)).collect()))
    }

    /// A machine's id, and its address where that is known.
    pub fn of(&self, id: &str, full: bool) -> String {
        match self
            .0
            .get(id)
            .map(|m| m.ip.as_str())
            .filter(|ip| !ip.is_empty())
        {
            Some(ip) => format!("{}/{ip}", id_legend(id, full)),
            None => id_legend(id, full),
        }
    }
}

/// A machine's id, or how it begins.
pub fn id_legend(id: &str, full: bool) -> String {
    match (full, id.get(..8)) {
        (false, Some(short)) => format!("{short}..."),
        (false, None) => format!("{id}..."),
        (true, _) => id.to_owned(),
    }
}

/// A refusal in fleetctl's words, with what was being done.
pub fn while_doing(what: &str, error: CliError) -> CliError {
    match error {
        CliError::Daemon { message, .. } => CliError::Usage(format!("{what}: {message}")),
        CliError::Usage(message) => CliError::Usage(format!("{what}: {message}")),
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legends() {
        let id = "595989bb2f3140f0a1b2c3d4e5f60718";
        assert_eq!(id_legend(id, false), "595989bb...");
        assert_eq!(id_legend(id, true), id);
        assert_eq!(id_legend("5959", false), "5959...");
        let machine = |ip: &str| Machine {
            id: id.into(),
            ip: ip.into(),
            metadata: BTreeMap::new(),
        };
        let with = Legend([(id.to_owned(), machine("5.6.7.8"))].into());
        assert_eq!(with.of(id, false), "595989bb.../5.6.7.8");
        let without = Legend([(id.to_owned(), machine(""))].into());
        assert_eq!(without.of(id, true), id);
    }

    #[test]
    fn global_by_the_last_value() {
        let unit = |values: &[&str]| Unit {
            name: "a.service".into(),
            options: values
                .iter()
                .map(|v| UnitOption {
                    section: "X-Fleet".into(),
                    name: "Global".into(),
                    value: (*v).to_owned(),
                })
                .collect(),
            desired: String::new(),
            current: String::new(),
            machine: String::new(),
        };
        for (values, global) in [
            (&["true"][..], true),
            (&["false", "yes"], true),
            (&["true", "no"], false),
            (&[], false),
        ] {
            assert_eq!(unit(values).is_global(), global, "{values:?}");
        }
    }
}
