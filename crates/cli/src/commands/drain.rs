//! `coracle machine drain`: begins it, and says how far it is until it is done or nothing moves any more.

use super::machines::{ask, called, path};
use crate::client::Client;
use crate::error::{CliError, Result};
use crate::format::out;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often is asked how far it is.
const LOOK: Duration = Duration::from_millis(300);
/// How long a leader is waited for that takes over.
const PATIENCE: Duration = Duration::from_secs(30);

pub async fn drain(client: &Client, name: &str, wait: bool) -> Result<()> {
    let machine = ask(client, name, "drain").await?;
    let name = called(&machine).to_owned();
    if !wait {
        let left = left(&machine["drain"]);
        return out(&format!(
            "{name} is being drained: {left}; `coracle machine show {name}` says how far it is\n"
        ));
    }
    let id = machine["id"].as_str().unwrap_or_default().to_owned();
    tokio::select! {
        done = follow(client, &id, machine) => done,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("the drain of {name} goes on; `coracle machine uncordon {name}` ends it");
            Err(CliError::Exit(130))
        }
    }
}

async fn follow(client: &Client, id: &str, mut machine: Value) -> Result<()> {
    let name = called(&machine).to_owned();
    let mut before = Steps::default();
    loop {
        let drain = &machine["drain"];
        if drain.is_null() {
            return Err(CliError::Usage(format!(
                "the drain of {name} was ended by somebody else (`coracle machine uncordon`)"
            )));
        }
        let now = steps(drain);
        let news = told(&before, &now);
        if !news.is_empty() {
            out(&news)?;
        }
        before = now;
        if drain["finished"] == true {
            let done = names(drain, "done");
            if !done.is_empty() {
                out(&format!(
                    "{} ended well and stay, with their output\n",
                    done.join(", ")
                ))?;
            }
            return out(&format!("{name} is drained\n"));
        }
        let moves = ["moving", "next", "global"];
        if moves.iter().all(|key| names(drain, key).is_empty()) {
            eprintln!("{name} still has what cannot move as things are:");
            for line in stuck(drain) {
                eprintln!("{line}");
            }
            eprintln!(
                "they move as soon as they can; `coracle machine uncordon {name}` ends the drain"
            );
            return Err(CliError::Exit(1));
        }
        tokio::time::sleep(LOOK).await;
        machine = look(client, id).await?;
    }
}

/// The machine as the leader sees it, once there is one.
async fn look(client: &Client, id: &str) -> Result<Value> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match client.get(&path(id, "")).await {
            Err(CliError::Daemon { status: 503, .. }) if Instant::now() < give_up => {
                tokio::time::sleep(LOOK).await;
            }
            answer => return answer,
        }
    }
}

fn names<'a>(drain: &'a Value, key: &str) -> Vec<&'a str> {
    let list = drain[key].as_array().into_iter().flatten();
    list.filter_map(|one| one.as_str().or_else(|| one["unit"].as_str()))
        .collect()
}

/// `2 units to move, 1 moving, 1 stuck`
pub fn left(drain: &Value) -> String {
    let count = |key: &str| names(drain, key).len();
    let next = count("next") + count("global");
    let parts: Vec<String> = [
        (next, "to move"),
        (count("moving"), "moving"),
        (count("stuck"), "stuck"),
    ]
    .iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect();
    match parts.is_empty() {
        true => "nothing is left to move".into(),
        false => parts.join(", "),
    }
}

/// What cannot move, with its reason, a line each.
pub fn stuck(drain: &Value) -> Vec<String> {
    let all = drain["stuck"].as_array().into_iter().flatten();
    let text = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
    all.map(|one| format!("    {}: {}", text(one, "unit"), text(one, "reason")))
        .collect()
}

/// Each unit's step.
type Steps = BTreeMap<String, &'static str>;

fn steps(drain: &Value) -> Steps {
    let keys = ["next", "global", "moving", "stuck"];
    let of = |key: &'static str| {
        let names = names(drain, key).into_iter();
        names.map(move |name| (name.to_owned(), key))
    };
    keys.into_iter().flat_map(of).collect()
}

/// What has changed, a line each.
fn told(before: &Steps, now: &Steps) -> String {
    let mut lines = String::new();
    for unit in before.keys().filter(|unit| !now.contains_key(*unit)) {
        lines += &format!("{unit} has left\n");
    }
    for (unit, step) in now
        .iter()
        .filter(|(unit, step)| before.get(*unit) != Some(*step))
    {
        match *step {
            "moving" => lines += &format!("{unit} moves\n"),
            "stuck" => lines += &format!("{unit} cannot move\n"),
            // They have their turn.
            _ => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_said_of_a_drain() {
        let first = json!({ "next": ["a", "b"], "moving": [], "stuck": [], "global": ["g"] });
        let then = json!({
            "next": [], "moving": ["b"], "global": ["g"],
            "stuck": [{ "unit": "c", "reason": "no machine fits" }],
        });
        assert_eq!(left(&first), "3 to move");
        assert_eq!(left(&then), "1 to move, 1 moving, 1 stuck");
        assert_eq!(left(&json!({})), "nothing is left to move");
        assert_eq!(
            told(&steps(&first), &steps(&then)),
            "a has left\nb moves\nc cannot move\n"
        );
        assert_eq!(told(&steps(&then), &steps(&then)), "");
        assert_eq!(stuck(&then), ["    c: no machine fits"]);
    }
}
