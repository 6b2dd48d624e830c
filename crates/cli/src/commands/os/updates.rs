//! Verbs about the machine's slots: what runs, updates, the way back.

use crate::client::{Client, JsonLines, check_line, query};
use crate::commands::registries::{Told, pull_image};
use crate::error::Result;
use crate::format::out;
use hyper::Method;

/// `coracle os update`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  coracle os update                                # looks at the channel now, and goes on as the configuration has it\n  coracle os update 10.0.0.1:5000/coracle/os:0.2.0 --restart    # this one, at once, without waiting for a turn or a window\n  coracle load -i coracle-os.tar && coracle os update coracle-os:0.2.0 --no-pull"
)]
pub struct Update {
    /// Image that holds the update [default: what is in the channel]
    image: Option<String>,
    /// Take the image that is here, and ask no registry
    #[arg(long, requires = "image")]
    no_pull: bool,
    /// Take a release below the floor, or the one that runs
    #[arg(long, requires = "image")]
    allow_downgrade: bool,
    /// Restart into it once it is written
    #[arg(long, requires = "image")]
    restart: bool,
}

/// `coracle os rollback`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  coracle os rollback --restart")]
pub struct Rollback {
    /// Restart into it at once
    #[arg(long)]
    restart: bool,
}

pub async fn update(client: &Client, args: &Update) -> Result<()> {
    let Some(image) = &args.image else {
        let progress = client.json(Method::POST, "/v1/os/check", None).await?;
        return out(&format!("{}\n", super::status::progress(&progress)));
    };
    if !args.no_pull {
        pull_image(client, image, "", Told::Stdout).await?;
    }
    let asked = query(&[
        ("image", image.clone()),
        ("allow_downgrade", args.allow_downgrade.to_string()),
        ("restart", args.restart.to_string()),
    ]);
    let path = format!("/v1/os/update{asked}");
    let answer = client.ask(Method::POST, &path, None).await?;
    let mut lines = JsonLines::new(answer);
    while let Some(line) = lines.next().await? {
        check_line(&line)?;
        if let Some(status) = line["status"].as_str() {
            out(&format!("{status}\n"))?;
        }
    }
    Ok(())
}

pub async fn rollback(client: &Client, args: &Rollback) -> Result<()> {
    let asked = query(&[("restart", args.restart.to_string())]);
    let path = format!("/v1/os/rollback{asked}");
    let entry = client.json(Method::POST, &path, None).await?;
    let title = entry["title"].as_str().unwrap_or_default();
    let slot = entry["slot"].as_str().unwrap_or_default();
    let when = if args.restart {
        "now"
    } else {
        "with the next restart"
    };
    out(&format!("slot {slot}, {title}, is started {when}\n"))
}
