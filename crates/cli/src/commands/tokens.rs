//! `coracle cluster token`: tokens are made, listed and revoked.

use crate::client::{Client, escape};
use crate::error::{CliError, Result, each};
use crate::format::{Table, out, row, words};
use chrono::{DateTime, SecondsFormat, Utc};
use coracle_cluster::token;
use hyper::Method;
use serde_json::{Map, Value, json};

/// `coracle cluster token`
#[derive(Debug, clap::Args)]
pub struct Token {
    #[command(subcommand)]
    what: Option<Made>,
    /// How long it is good: 30m, 24h
    #[arg(long, default_value = "24h", value_name = "TIME")]
    ttl: String,
    /// How many machines may join with it
    #[arg(long, default_value_t = 1, value_name = "N")]
    uses: u32,
    /// The token alone
    #[arg(short, long)]
    quiet: bool,
}

/// What is done with tokens that were made.
#[derive(Debug, clap::Subcommand)]
enum Made {
    /// List the tokens that there are, with those that ran out in the last week; asked of a voter
    #[command(
        visible_alias = "ls",
        after_help = "A token that was used up or revoked is not there any more.\n\nExample:\n  coracle cluster token list"
    )]
    List {
        /// table, json, or a template
        #[arg(long)]
        format: Option<String>,
        /// Ids only
        #[arg(short, long)]
        quiet: bool,
    },
    /// Revoke tokens: nobody joins with them any more; asked of a voter
    #[command(
        visible_alias = "rm",
        after_help = "A machine that has joined with one stays a member, and is still told so if the answer was lost on its way. Once it is removed \
                      (`coracle machine remove`) a token that was revoked does not bring it back.\n\nExample:\n  coracle cluster token revoke 9f86d081"
    )]
    Revoke {
        /// Ids, beginnings of ids that no other token has, or whole tokens
        #[arg(required = true, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
        tokens: Vec<String>,
    },
}

pub async fn token(client: &Client, args: &Token) -> Result<()> {
    match &args.what {
        None => make(client, &args.ttl, args.uses, args.quiet).await,
        Some(Made::List { format, quiet }) => list(client, format.as_deref(), *quiet).await,
        Some(Made::Revoke { tokens }) => {
            each(tokens, async |token| revoke(client, &token).await).await
        }
    }
}

async fn make(client: &Client, ttl: &str, uses: u32, quiet: bool) -> Result<()> {
    let seconds = coracle_image::duration::nanoseconds(ttl)
        .map(|n| n / 1_000_000_000)
        .filter(|n| *n > 0)
        .ok_or_else(|| {
            CliError::Usage(format!(
                "--ttl {ttl} is no time; write for example 30m or 24h"
            ))
        })?;
    let body = json!({ "ttl": seconds, "uses": uses });
    let made = client
        .json(Method::POST, "/v1/cluster/token", Some(&body))
        .await?;
    let text = |key: &str| made[key].as_str().unwrap_or_default().to_owned();
    let token = text("token");
    if quiet {
        return out(&format!("{token}\n"));
    }
    out(&format!(
        "On the machine that is to join:\n\n  coracle join {} --token {token}\n\nIt is good for {ttl}, for {uses} machine{}; keep it to yourself.\n",
        text("address"),
        if uses == 1 { "" } else { "s" },
    ))
}

async fn list(client: &Client, format: Option<&str>, quiet: bool) -> Result<()> {
    let found = client.get("/v1/cluster/tokens").await?;
    let tokens = found["tokens"].as_array().into_iter().flatten();
    if quiet {
        let ids = tokens.filter_map(|token| token["id"].as_str());
        return out(&ids.map(|id| format!("{id}\n")).collect::<String>());
    }
    let columns = vec![
        ("TOKEN ID", "ID"),
        ("MADE BY", "MadeBy"),
        ("MADE", "Made"),
        ("RUNS OUT", "RunsOut"),
        ("MACHINES", "Machines"),
    ];
    let rows = tokens.map(shown).collect();
    Table { columns, rows }.print(format)
}

fn shown(token: &Value) -> Map<String, Value> {
    let time = |key: &str| {
        let seconds = token[key].as_i64();
        let time = seconds.and_then(|s| DateTime::<Utc>::from_timestamp(s, 0));
        // Of one that is good for ages.
        time.unwrap_or(DateTime::<Utc>::MAX_UTC)
    };
    let (made, end) = (time("issued"), time("expires"));
    let expired = token["expired"] == true;
    let runs_out = match expired {
        true => format!("ran out {}", words::ago(end)),
        false => {
            let left = (end - Utc::now()).num_seconds().max(0);
            format!("in {}", coracle_api::human(left))
        }
    };
    let stamp = |time: DateTime<Utc>| json!(time.to_rfc3339_opts(SecondsFormat::Secs, true));
    row([
        ("ID", token["id"].clone()),
        ("MadeBy", token["who"].clone()),
        ("Made", json!(words::ago(made))),
        ("MadeAt", stamp(made)),
        ("RunsOut", json!(runs_out)),
        ("RunsOutAt", stamp(end)),
        ("Expired", json!(expired)),
        // One that ran out lets nobody in.
        (
            "Machines",
            match expired {
                true => json!(0),
                false => token["uses"].clone(),
            },
        ),
    ])
}

async fn revoke(client: &Client, text: &str) -> Result<()> {
    // The secret stays here.
    let id = match text.trim_start().starts_with("coracle_") {
        true => {
            text.parse::<token::Token>()
                .map_err(|e| CliError::Usage(e.to_string()))?
                .id
        }
        false => text.to_owned(),
    };
    let path = format!("/v1/cluster/tokens/{}", escape(&id));
    let revoked = client.json(Method::DELETE, &path, None).await?;
    out(&format!("{}\n", revoked["id"].as_str().unwrap_or(&id)))
}
