//! `coracle cluster`, `coracle join`, `coracle leave`: machines become one place.

use super::recover::{Recover, recover, snapshot, snapshots, standing};
use super::tokens::{Token, token};
use crate::client::Client;
use crate::error::{CliError, Result};
use crate::format::out;
use hyper::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// `coracle cluster`
#[derive(Debug, clap::Subcommand)]
pub enum Cluster {
    /// Make a token with which another machine may join; the first one begins the cluster
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples:\n  coracle cluster token --ttl 1h\n  coracle cluster token list"
    )]
    Token(Token),
    /// Which machines there are, and which of them have the store
    #[command(after_help = "Example:\n  coracle cluster status")]
    Status {
        /// table or json
        #[arg(long)]
        format: Option<String>,
    },
    /// Take a copy of the cluster's store now, on a machine that has it
    #[command(after_help = "Example:\n  coracle cluster snapshot")]
    Snapshot,
    /// List the copies of the cluster's store that this machine has
    #[command(after_help = "Example:\n  coracle cluster snapshots")]
    Snapshots {
        /// table or json
        #[arg(long)]
        format: Option<String>,
    },
    /// Make the cluster's store anew on this machine, when most of those who had it are lost for good
    #[command(
        after_help = "Example:\n  coracle cluster recover\n  coracle cluster recover --from /backup/store.db --yes"
    )]
    Recover(Recover),
}

/// `coracle join`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  coracle join 192.0.2.7 --token coracle_1_…")]
pub struct Join {
    /// A machine of the cluster: its address, with the port of its door if that is not 7373
    pub address: String,
    /// What `coracle cluster token` gave there
    #[arg(long, env = "CORACLE_TOKEN", value_name = "TOKEN")]
    pub token: String,
    /// Destroy the units and containers of this machine, and what apps keep in its store; volumes and images stay
    #[arg(long)]
    pub discard: bool,
}

/// `coracle leave`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Copies of the cluster's store that are here stay, put aside where no recovery looks; it is said where.\n\nExample:\n  coracle leave"
)]
pub struct Leave {
    /// Even if no other machine can be told, or none can take over the store that this one has, which is lost then with all units
    #[arg(long)]
    pub force: bool,
}

/// How long a daemon may take to begin anew.
const ANEW: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

pub async fn cluster(client: &Client, command: &Cluster) -> Result<()> {
    match command {
        Cluster::Token(args) => token(client, args).await,
        Cluster::Status { format } => status(client, format.as_deref()).await,
        Cluster::Snapshot => snapshot(client).await,
        Cluster::Snapshots { format } => snapshots(client, format.as_deref()).await,
        Cluster::Recover(args) => recover(client, args).await,
    }
}

async fn status(client: &Client, format: Option<&str>) -> Result<()> {
    let found = client.get("/v1/cluster/status").await?;
    match format {
        Some("json") => return out(&format!("{found:#}\n")),
        None | Some("table") => {}
        Some(other) => {
            return Err(CliError::Usage(format!(
                "--format {other} is not known here: write table or json"
            )));
        }
    }
    if found["founded"] != true {
        return out(
            "This machine is alone. `coracle cluster token` begins a cluster, `coracle join` joins one.\n",
        );
    }
    let mut text = format!(
        "{:<34} {:<20} {:<24} {:<6} STORE\n",
        "MACHINE", "HOST", "DOOR", "STATE"
    );
    for machine in found["machines"].as_array().into_iter().flatten() {
        let field = |key: &str| machine[key].as_str().unwrap_or("-").to_owned();
        let own = machine["id"] == found["machine"];
        text += &format!(
            "{:<34} {:<20} {:<24} {:<6} {}\n",
            format!("{}{}", field("id"), if own { " *" } else { "" }),
            field("hostname"),
            field("door"),
            if machine["alive"] == true {
                "alive"
            } else {
                "gone"
            },
            has(machine, machine["id"] == found["leader"]),
        );
    }
    text += &standing(&found);
    if let Some(voting) = found["voting"].as_str().filter(|text| !text.is_empty()) {
        text += &format!("\nVoters: {voting}.\n");
    }
    for said in ["caution", "trouble", "moved"] {
        if let Some(said) = found[said].as_str() {
            text += &format!("\n{said}\n");
        }
    }
    out(&text)
}

/// What a machine has of the store.
fn has(machine: &Value, leads: bool) -> String {
    let mut words = Vec::new();
    if let Some(part) = machine["store"].as_str() {
        words.push(part.to_owned());
        match (&machine["etcdError"], &machine["inStep"]) {
            (Value::String(error), _) => words.push(format!("its etcd cannot be asked: {error}")),
            (_, Value::Bool(true)) if part == "learner" => words.push("in step".to_owned()),
            (_, Value::Bool(false)) => words.push("behind".to_owned()),
            _ => {}
        }
    } else if machine["alive"] == true && machine["canVote"] == false {
        words.push("no etcd".to_owned());
    }
    if leads {
        words.push("leads".to_owned());
    }
    words.join(", ")
}

/// Waits until the daemon is what it is to be.
pub(super) async fn until(
    client: &Client,
    path: &str,
    what: &str,
    is: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let end = tokio::time::Instant::now() + ANEW;
    loop {
        let found = client.get(path).await;
        match found {
            Ok(found) if is(&found) => return Ok(found),
            Ok(_) | Err(_) if tokio::time::Instant::now() < end => {
                tokio::time::sleep(LOOK).await;
            }
            Ok(_) => {
                return Err(CliError::Usage(format!(
                    "the daemon has not {what} within {} s; its log says why",
                    ANEW.as_secs()
                )));
            }
            Err(error) => return Err(error),
        }
    }
}

pub async fn join(client: &Client, args: &Join) -> Result<()> {
    let body = json!({ "address": args.address, "token": args.token, "discard": args.discard });
    let gone = client
        .json(Method::POST, "/v1/cluster/enter", Some(&body))
        .await?;
    let is_in = |found: &Value| {
        let own = &found["machine"];
        let mut all = found["machines"].as_array().into_iter().flatten();
        found["store"] == "etcd" && all.any(|m| m["id"] == *own && m["alive"] == true)
    };
    let found = until(client, "/v1/cluster", "joined", is_in).await?;
    let machines = found["machines"].as_array().map_or(0, Vec::len);
    out(&format!(
        "This machine is in the cluster, as one of {machines}.\n{}{}",
        lost(&gone),
        aside(&gone)
    ))
}

/// What joining has taken from the machine, in words.
fn lost(gone: &Value) -> String {
    let named = [
        ("units", "unit", "units"),
        ("containers", "container", "containers"),
        ("keys", "key of apps", "keys of apps"),
    ];
    let part = |(key, one, several): &(&str, &str, &str)| match gone[key].as_u64() {
        None | Some(0) => None,
        Some(1) => Some(format!("1 {one}")),
        Some(many) => Some(format!("{many} {several}")),
    };
    let parts: Vec<String> = named.iter().filter_map(part).collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!(
            "What it had is gone: {}; volumes and images are still here.\n",
            parts.join(", ")
        ),
    }
}

/// Where copies of a former cluster's store are now, in words.
fn aside(done: &Value) -> String {
    done["aside"].as_str().map_or_else(String::new, |path| {
        format!(
            "Copies of the store of the cluster where it was before are in {path}, secrets included; remove them when they are of no use any more.\n"
        )
    })
}

pub async fn leave(client: &Client, args: &Leave) -> Result<()> {
    let body = json!({ "force": args.force });
    let done = client
        .json(Method::POST, "/v1/cluster/leave", Some(&body))
        .await?;
    until(client, "/v1/cluster", "left", |found| {
        found["founded"] == false
    })
    .await?;
    out(&format!("This machine is alone again.\n{}", aside(&done)))
}
