//! Verbs about updates by themselves: the channel, turns, releases that were stopped.

use super::status::{text, when};
use crate::client::{Client, query};
use crate::error::Result;
use crate::format::out;
use hyper::Method;

/// `coracle os channel`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  coracle os channel\n  coracle os channel beta\n  coracle os channel --reset"
)]
pub struct Channel {
    /// Channel: a tag of the repository
    #[arg(conflicts_with = "reset")]
    name: Option<String>,
    /// Leave it to the configuration again
    #[arg(long)]
    reset: bool,
}

/// `coracle os rollout`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  coracle os rollout\n  coracle os rollout at-once 2\n  coracle os rollout unlock web3       # it will not come back\n  coracle os rollout resume 0.2.0      # it was not the release's fault"
)]
pub struct Rollout {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Say how many machines may be away for a restart at the same time
    AtOnce {
        /// How many
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
    },
    /// Take a machine's turn away: one that does not come back, so that the others go on
    Unlock {
        /// Host name or id, or the beginning of one
        machine: String,
    },
    /// Have a release tried again that failed on a machine
    Resume {
        /// Release
        release: semver::Version,
    },
}

pub async fn channel(client: &Client, args: &Channel) -> Result<()> {
    let known = match (&args.name, args.reset) {
        (None, false) => client.get("/v1/os").await?,
        (name, _) => {
            let name = name.iter().map(|name| ("name", name.clone()));
            let asked = query(&name.collect::<Vec<_>>());
            let path = format!("/v1/os/channel{asked}");
            client.json(Method::POST, &path, None).await?
        }
    };
    out(&format!("{}\n", text(&known, "channel")))
}

pub async fn rollout(client: &Client, args: &Rollout) -> Result<()> {
    let post = async |verb: &str, key: &str, value: String| {
        let asked = query(&[(key, value)]);
        let path = format!("/v1/os/rollout/{verb}{asked}");
        client.json(Method::POST, &path, None).await
    };
    match &args.verb {
        None => show(client).await,
        Some(Verb::AtOnce { count }) => {
            post("at-once", "count", count.to_string()).await?;
            out(&format!("up to {count} at once\n"))
        }
        Some(Verb::Unlock { machine }) => {
            let done = post("unlock", "machine", machine.clone()).await?;
            out(&format!(
                "{} has no turn any more\n",
                text(&done, "machine")
            ))
        }
        Some(Verb::Resume { release }) => {
            post("resume", "release", release.to_string()).await?;
            out(&format!("release {release} is tried again\n"))
        }
    }
}

async fn show(client: &Client) -> Result<()> {
    let kept = client.get("/v1/os/rollout").await?;
    let turns = &kept["turns"];
    out(&format!("At once:  {}\n", turns["at_once"]))?;
    for turn in turns["holders"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|t| t.1)
    {
        let since = when(turn["since"].as_i64().unwrap_or_default());
        let (name, to) = (text(turn, "name"), text(turn, "to"));
        out(&format!("Turn:     {name}, to {to}, since {since}\n"))?;
    }
    for release in kept["releases"].as_array().into_iter().flatten() {
        let (version, verdict) = (release[0].as_str().unwrap_or("-"), &release[1]);
        let standing = match text(verdict, "standing") {
            "good" => "good",
            "failed" => "failed, and stopped",
            _ => "to be tried again",
        };
        let reason = match verdict["reason"].as_str() {
            Some(reason) => format!(": {reason}"),
            None => String::new(),
        };
        let at = when(verdict["at"].as_i64().unwrap_or_default());
        let machine = text(verdict, "machine");
        out(&format!(
            "Release:  {version}, {standing} ({machine}, {at}){reason}\n"
        ))?;
    }
    Ok(())
}
