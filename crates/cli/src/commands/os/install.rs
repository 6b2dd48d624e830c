//! `coracle os install`: the system that runs, onto another disk.

use crate::client::{Client, JsonLines, check_line, query};
use crate::commands::copy::file_error;
use crate::error::Result;
use crate::format::out;
use hyper::Method;
use serde_json::json;
use std::path::PathBuf;

/// `coracle os install`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The disk's state is empty, and its slot is the release that runs. Until the last moment the disk starts nothing.\n\nExamples:\n  coracle os install /dev/nvme0n1\n  coracle os install /dev/sda --erase --config web2.yaml"
)]
pub struct Install {
    /// Device of the whole disk
    disk: PathBuf,
    /// The new machine's cloud-config document; without it the one that this machine goes by
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write over what is on the disk
    #[arg(long)]
    erase: bool,
}

pub async fn install(client: &Client, args: &Install) -> Result<()> {
    let asked = query(&[
        ("disk", args.disk.to_string_lossy().into_owned()),
        ("erase", args.erase.to_string()),
    ]);
    let body = match &args.config {
        Some(file) => {
            let text = std::fs::read_to_string(file).map_err(file_error("reading", file))?;
            Some(json!({ "configuration": text }))
        }
        None => None,
    };
    let path = format!("/v1/os/install{asked}");
    let answer = client.ask(Method::POST, &path, body.as_ref()).await?;
    let mut lines = JsonLines::new(answer);
    while let Some(line) = lines.next().await? {
        check_line(&line)?;
        if let Some(status) = line["status"].as_str() {
            out(&format!("{status}\n"))?;
        }
    }
    Ok(())
}
