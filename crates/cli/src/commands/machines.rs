//! Machines.

use crate::args::MachineCommand;
use crate::client::{Client, escape};
use crate::error::{CliError, Result};
use crate::format::template::Template;
use crate::format::words::{ago, binary};
use crate::format::{Table, out, row};
use chrono::DateTime;
use hyper::Method;
use serde_json::{Map, Value, json};

pub async fn machine(client: &Client, command: &MachineCommand) -> Result<()> {
    match command {
        MachineCommand::List { format } => list(client, format.as_deref()).await,
        MachineCommand::Show { format, name } => show(client, name, format.as_deref()).await,
        MachineCommand::Label { name, labels } => {
            let body = changes(labels)?;
            let path = path(name, "/labels");
            let machine = client.json(Method::PUT, &path, Some(&body)).await?;
            out(&format!("{}: {}\n", called(&machine), labels_of(&machine)))
        }
        MachineCommand::Cordon { name } => {
            let machine = ask(client, name, "cordon").await?;
            out(&format!("{} gets no more units\n", called(&machine)))
        }
        MachineCommand::Uncordon { name } => {
            let machine = ask(client, name, "uncordon").await?;
            out(&format!("{} gets units again\n", called(&machine)))
        }
        MachineCommand::Remove { name } => {
            client.json(Method::DELETE, &path(name, ""), None).await?;
            out(&format!("{name} is off the list, and its door is shut\n"))
        }
        MachineCommand::Drain { no_wait, name } => {
            super::drain::drain(client, name, !no_wait).await
        }
    }
}

/// Where a machine is asked after.
pub fn path(name: &str, rest: &str) -> String {
    format!("/v1/machines/{}{rest}", escape(name))
}

pub async fn ask(client: &Client, name: &str, verb: &str) -> Result<Value> {
    let path = path(name, &format!("/{verb}"));
    client.json(Method::POST, &path, None).await
}

/// The host name.
pub fn called(machine: &Value) -> &str {
    machine["hostname"].as_str().unwrap_or_default()
}

/// What the API wants of labels: a text for each that is set, null for each that is taken away.
fn changes(labels: &[String]) -> Result<Value> {
    let mut body = Map::new();
    for label in labels {
        let (key, value) = match (label.split_once('='), label.strip_suffix('-')) {
            (Some((key, value)), _) => (key, json!(value)),
            (None, Some(key)) if !key.is_empty() => (key, Value::Null),
            _ => {
                return Err(CliError::Usage(format!(
                    "label \"{label}\" cannot be read: write KEY=VALUE, or KEY- to take one away"
                )));
            }
        };
        if body.insert(key.to_owned(), value).is_some() {
            return Err(CliError::Usage(format!("label {key} is given twice")));
        }
    }
    Ok(Value::Object(body))
}

/// `disk=ssd, rack=a`
fn labels_of(machine: &Value) -> String {
    let all = machine["labels"].as_object().into_iter().flatten();
    let all: Vec<String> = all
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    match all.is_empty() {
        true => "no labels".into(),
        false => all.join(", "),
    }
}

/// One that is there and gets nothing new says so.
fn state(machine: &Value) -> &str {
    match machine["state"].as_str().unwrap_or_default() {
        "alive" if machine["draining"] == true => "draining",
        "alive" if machine["cordoned"] == true => "cordoned",
        state => state,
    }
}

async fn list(client: &Client, format: Option<&str>) -> Result<()> {
    let found = client.get("/v1/machines").await?;
    let rows = found.as_array().into_iter().flatten().map(|m| {
        let id = m["id"].as_str().unwrap_or_default();
        let since = m["since"]
            .as_str()
            .and_then(|t| DateTime::parse_from_rfc3339(t).ok());
        let labels = m["labels"].as_object().is_some_and(|l| !l.is_empty());
        row([
            ("ID", json!(id.get(..8).unwrap_or(id))),
            ("Hostname", m["hostname"].clone()),
            ("State", json!(state(m))),
            ("CPUs", m["cpus"].clone()),
            ("Memory", json!(binary(m["memory"].as_f64().unwrap_or(0.0)))),
            ("Units", m["units"].clone()),
            ("Version", m["coracle"].clone()),
            ("Kernel", m["kernel"].clone()),
            (
                "Since",
                json!(since.map(|t| ago(t.to_utc())).unwrap_or_default()),
            ),
            (
                "Labels",
                json!(if labels { labels_of(m) } else { String::new() }),
            ),
        ])
    });
    let columns = vec![
        ("MACHINE", "ID"),
        ("HOSTNAME", "Hostname"),
        ("STATE", "State"),
        ("CPUS", "CPUs"),
        ("MEMORY", "Memory"),
        ("UNITS", "Units"),
        ("VERSION", "Version"),
        ("UP SINCE", "Since"),
        ("LABELS", "Labels"),
    ];
    Table {
        columns,
        rows: rows.collect(),
    }
    .print(format)
}

async fn show(client: &Client, name: &str, format: Option<&str>) -> Result<()> {
    let machine = client.get(&path(name, "")).await?;
    match format {
        None | Some("table") => {}
        Some("json") => {
            return out(&format!("{}\n", serde_json::to_string_pretty(&machine)?));
        }
        Some(text) => {
            return out(&format!("{}\n", Template::parse(text)?.render(&machine)?));
        }
    }
    let text = |key: &str| machine[key].as_str().unwrap_or_default();
    let mut lines = vec![
        format!("{} - {}", called(&machine), text("id")),
        format!("  State:   {}", state(&machine)),
        format!("  Since:   {}", text("since")),
        format!(
            "  Size:    {} CPUs, {}",
            machine["cpus"],
            binary(machine["memory"].as_f64().unwrap_or(0.0))
        ),
        format!(
            "  Release: Coracle {}, kernel {}",
            text("coracle"),
            text("kernel")
        ),
        format!("  Labels:  {}", labels_of(&machine)),
    ];
    if !text("door").is_empty() {
        lines.push(format!("  Door:    {}", text("door")));
    }
    for unit in machine["placed"].as_array().into_iter().flatten() {
        let text = |key: &str| unit[key].as_str().unwrap_or_default();
        lines.push(format!(
            "  Unit:    {}, {} ({})",
            text("unit"),
            text("active"),
            text("sub")
        ));
    }
    if !machine["drain"].is_null() {
        let left = super::drain::left(&machine["drain"]);
        lines.push(format!("  Drain:   {left}"));
        lines.extend(super::drain::stuck(&machine["drain"]));
    }
    out(&format!("{}\n", lines.join("\n")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn labels_on_the_command_line() {
        let read = |labels: &[&str]| {
            let labels: Vec<String> = labels.iter().map(ToString::to_string).collect();
            changes(&labels).map_err(|e| e.to_string())
        };
        assert_eq!(
            read(&["disk=ssd", "rack-", "a=b=c-"]).unwrap(),
            json!({ "disk": "ssd", "rack": null, "a": "b=c-" })
        );
        for wrong in [&["rack"][..], &["-"], &["a=b", "a-"]] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
