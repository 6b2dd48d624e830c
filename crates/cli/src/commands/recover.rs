//! `coracle cluster snapshot`, `snapshots` and `recover`: copies of the cluster's store, and beginning anew with one.

use super::cluster::until;
use crate::client::{Client, query};
use crate::error::{CliError, Result};
use crate::format::{out, words};
use chrono::{DateTime, Utc};
use hyper::Method;
use serde_json::{Value, json};
use std::path::PathBuf;

/// `coracle cluster recover`
#[derive(Debug, clap::Args)]
pub struct Recover {
    /// A copy of the store, of `coracle cluster snapshot` or `etcdctl snapshot save` [default: what is newest on this machine]
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Do it without asking
    #[arg(short, long)]
    pub yes: bool,
}

fn ago(value: &Value) -> String {
    let time = value
        .as_i64()
        .and_then(|s| DateTime::<Utc>::from_timestamp(s, 0));
    time.map_or_else(|| "at an unknown time".to_owned(), words::ago)
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or("-")
}

/// What `coracle cluster status` says of the store.
pub fn standing(found: &Value) -> String {
    let mut said = String::new();
    match found["etcd"]["state"].as_str() {
        Some("missing" | "resting") => {
            said += &format!(
                "\nThis machine's etcd does not run: {}\n",
                text(&found["etcd"], "why")
            );
        }
        Some("starting") => said += "\nThis machine's etcd starts.\n",
        _ => {}
    }
    if found["recovering"] == true {
        said += "\nA recovery of the store is not finished; if that stays so, say `coracle cluster recover` again.\n";
    } else if found["answers"] == false && found["store"] == "etcd" && found["caution"].is_null() {
        said += "\nThe cluster's store does not answer: what runs runs on, changes wait. If too many of those who have it are lost for good, `coracle cluster recover` makes it anew on a machine that has a copy.\n";
    }
    if found["snapshot"].is_object() {
        let taken = &found["snapshot"];
        said += &format!(
            "\nNewest copy of the store here: revision {}, taken {}\n",
            taken["revision"],
            ago(&taken["taken"])
        );
    }
    said
}

pub async fn snapshot(client: &Client) -> Result<()> {
    let taken = client
        .json(Method::POST, "/v1/cluster/snapshots", None)
        .await?;
    out(&format!("{}\n", text(&taken, "path")))
}

pub async fn snapshots(client: &Client, format: Option<&str>) -> Result<()> {
    let found = client.get("/v1/cluster/snapshots").await?;
    match format {
        Some("json") => return out(&format!("{:#}\n", found["snapshots"])),
        None | Some("table") => {}
        Some(other) => {
            return Err(CliError::Usage(format!(
                "--format {other} is not known here: write table or json"
            )));
        }
    }
    let mut table = format!("{:<20} {:<24} {:<10} PATH\n", "REVISION", "TAKEN", "SIZE");
    for taken in found["snapshots"].as_array().into_iter().flatten() {
        table += &format!(
            "{:<20} {:<24} {:<10} {}\n",
            taken["revision"].to_string(),
            ago(&taken["taken"]),
            words::size(taken["bytes"].as_f64().unwrap_or(0.0)),
            text(taken, "path"),
        );
    }
    out(&table)
}

/// What is to be known before it is said yes.
fn told(plan: &Value) -> String {
    let names = |key: &str| -> Vec<&str> {
        let all = plan[key].as_array().into_iter().flatten();
        all.filter_map(Value::as_str).collect()
    };
    let what = match plan["source"].as_str() {
        Some("own") => "this machine's own etcd",
        _ => "the copy",
    };
    let mut told = format!(
        "The store is made anew here from {what} {}: revision {}, last written {}.\nWhat was written after that is given up. Revisions go on 1000000000 further, and who watches is told that what was before is compacted.\n",
        text(plan, "path"),
        plan["revision"],
        ago(&plan["written"]),
    );
    let (voters, others) = (names("voters"), names("others"));
    if plan["new_ca"] == true {
        told += "This machine has no key of the cluster's CA, so it begins a new one.\n";
        let all: Vec<&str> = voters.into_iter().chain(others).collect();
        if !all.is_empty() {
            told += &format!(
                "All other machines are out and have to come in again, by `coracle leave --force` and `coracle join` there: {}.\n",
                all.join(", ")
            );
        }
        return told;
    }
    if !voters.is_empty() {
        told += &format!(
            "These lose their vote, and come back without it if they come back: {}. Be sure that they do not run now where this machine does not see them.\n",
            voters.join(", ")
        );
    }
    if !others.is_empty() {
        told += &format!(
            "These find the new store by themselves: {}.\n",
            others.join(", ")
        );
    }
    told
}

pub async fn recover(client: &Client, args: &Recover) -> Result<()> {
    let from = args.from.as_ref().map(std::path::absolute).transpose()?;
    let path = from.as_ref().map(|path| path.display().to_string());
    let query = query(
        &path
            .map(|path| ("from", path))
            .into_iter()
            .collect::<Vec<_>>(),
    );
    let plan = client.get(&format!("/v1/cluster/recover{query}")).await?;
    out(&told(&plan))?;
    if !args.yes && !asked()? {
        return Err(CliError::Usage(
            "nothing was done; say yes, or --yes, to do it".into(),
        ));
    }
    let body = json!({ "from": from });
    let done = client
        .json(Method::POST, "/v1/cluster/recover", Some(&body))
        .await?;
    let is_done = |found: &Value| found["recovering"] == false && found["answers"] == true;
    until(client, "/v1/cluster/status", "recovered the store", is_done).await?;
    out(&format!(
        "The store is there again, at revision {}; this machine is the only one that has it.\n",
        done["revision"]
    ))
}

fn asked() -> Result<bool> {
    print!("Go on? [y/N] ");
    std::io::Write::flush(&mut std::io::stdout())?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
