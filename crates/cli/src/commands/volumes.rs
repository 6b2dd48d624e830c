//! Volumes.

use super::filters;
use super::prune::{PruneAll, What, prune};
use crate::client::{Client, escape, query};
use crate::error::{Result, each};
use crate::format::{Table, inspected, out, row};
use crate::run_args::pairs;
use hyper::Method;
use serde_json::{Value, json};

/// `coracle volume`
#[derive(Debug, clap::Subcommand)]
pub enum Volume {
    /// List volumes
    #[command(
        visible_alias = "list",
        after_help = "Example:\n  coracle volume ls --filter dangling=true"
    )]
    Ls {
        /// Narrow the list
        #[arg(short, long)]
        filter: Vec<String>,
        /// table, json, or a template
        #[arg(long)]
        format: Option<String>,
        /// Names only
        #[arg(short, long)]
        quiet: bool,
    },
    /// Make a volume
    #[command(after_help = "Example:\n  coracle volume create data")]
    Create {
        /// Driver; only local
        #[arg(short, long, default_value = "local")]
        driver: String,
        /// Option of the driver: key=value
        #[arg(short, long, value_name = "KEY=VALUE")]
        opt: Vec<String>,
        /// Label: key=value
        #[arg(long)]
        label: Vec<String>,
        /// Name
        name: Option<String>,
    },
    /// Show a volume
    #[command(after_help = "Example:\n  coracle volume inspect data")]
    Inspect {
        /// table, json, or a template
        #[arg(short, long)]
        format: Option<String>,
        /// Names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove volumes with their data
    #[command(
        visible_alias = "remove",
        after_help = "Example:\n  coracle volume rm data"
    )]
    Rm {
        /// Missing ones are no error
        #[arg(short, long)]
        force: bool,
        /// Names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Say that the data of a units' volume is on another machine now; its units move there
    #[command(
        after_help = "Nothing is copied: what the units find there is what was brought there, and if that is nothing, an empty volume.\n\nExample:\n  coracle volume rebind data web-2"
    )]
    Rebind {
        /// Name of the volume
        name: String,
        /// Id, host name, or the beginning of either
        #[arg(value_name = "MACHINE")]
        to: String,
    },
    /// Remove volumes that no container uses
    #[command(after_help = "Example:\n  coracle volume prune")]
    Prune(PruneAll),
}

pub async fn volume(client: &Client, command: &Volume) -> Result<()> {
    match command {
        Volume::Ls {
            filter,
            format,
            quiet,
        } => {
            let found = client
                .get(&format!(
                    "/volumes{}",
                    query(&[("filters", filters(filter)?)])
                ))
                .await?;
            let list = found["Volumes"].as_array().cloned().unwrap_or_default();
            if *quiet {
                return out(&list
                    .iter()
                    .map(|v| format!("{}\n", v["Name"].as_str().unwrap_or_default()))
                    .collect::<String>());
            }
            let rows = list.iter().map(|v| {
                row([
                    ("Driver", v["Driver"].clone()),
                    ("Name", v["Name"].clone()),
                    ("Mountpoint", v["Mountpoint"].clone()),
                    ("Scope", v["Scope"].clone()),
                    ("Labels", v["Labels"].clone()),
                ])
            });
            Table {
                columns: vec![("DRIVER", "Driver"), ("VOLUME NAME", "Name")],
                rows: rows.collect(),
            }
            .print(format.as_deref())
        }
        Volume::Create {
            driver,
            opt,
            label,
            name,
        } => {
            let body = json!({
                "Name": name.clone().unwrap_or_default(), "Labels": pairs(label), "Driver": driver, "DriverOpts": pairs(opt),
            });
            let made = client
                .json(Method::POST, "/volumes/create", Some(&body))
                .await?;
            out(&format!("{}\n", made["Name"].as_str().unwrap_or_default()))
        }
        Volume::Inspect { format, names } => {
            let mut found: Vec<Value> = Vec::new();
            for name in names {
                found.push(client.get(&format!("/volumes/{}", escape(name))).await?);
            }
            inspected(&found, format.as_deref())
        }
        Volume::Rm { force, names } => {
            let asked = query(&[("force", if *force { "1" } else { "" }.to_owned())]);
            each(names, async |name| {
                client
                    .ask(
                        Method::DELETE,
                        &format!("/volumes/{}{asked}", escape(&name)),
                        None,
                    )
                    .await?;
                out(&format!("{name}\n"))
            })
            .await
        }
        Volume::Rebind { name, to } => rebind(client, name, to).await,
        Volume::Prune(args) => prune(client, What::Volumes { all: args.all }, &args.some).await,
    }
}

async fn rebind(client: &Client, name: &str, to: &str) -> Result<()> {
    let path = format!("/v1/volumes/{}/rebind", escape(name));
    let body = json!({ "machine": to });
    let done = client.json(Method::POST, &path, Some(&body)).await?;
    let text = |key: &str| done[key].as_str().unwrap_or_default();
    let before = match done["before"].as_str() {
        Some(before) if before != text("hostname") => format!(", not on {before} any more"),
        _ => String::new(),
    };
    out(&format!(
        "the data of volume {} is on {}{before}\n",
        text("volume"),
        text("hostname")
    ))
}
