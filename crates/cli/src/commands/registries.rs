//! Images that come from registries and go there: `pull`, `push`, `search`.

use super::filters;
use super::list::text;
use crate::client::{Client, JsonLines, check_line, query};
use crate::error::{CliError, Result};
use crate::format::words::cut;
use crate::format::{Table, out, row};
use crate::terminal::is_terminal;
use base64::Engine as _;
use coracle_image::{Reference, registry_of};
use http_body_util::BodyExt;
use hyper::{Method, header};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// `coracle pull`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  coracle pull 127.0.0.1:5000/app:1")]
pub struct Pull {
    /// Pull all tags of the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// Say only what was pulled
    #[arg(short, long)]
    pub quiet: bool,
    /// Platform, such as linux/arm64
    #[arg(long, default_value = "")]
    pub platform: String,
    /// Image
    pub image: String,
}

/// `coracle push`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  coracle push 127.0.0.1:5000/app:1")]
pub struct Push {
    /// Push all tags of the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// Say only what was pushed
    #[arg(short, long)]
    pub quiet: bool,
    /// Image
    pub image: String,
}

/// `coracle search`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  coracle search --filter is-official=true redis")]
pub struct Search {
    /// Narrow the list: is-official=true, stars=10
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// table, json, or a template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Most results, 1 to 100
    #[arg(long, value_name = "N")]
    pub limit: Option<u32>,
    /// Whole descriptions
    #[arg(long)]
    pub no_trunc: bool,
    /// [REGISTRY/]WORDS
    pub term: String,
}

/// The header with what is known of a registry.
fn credentials(registry: &str) -> Result<Vec<(header::HeaderName, String)>> {
    let known = coracle_image::credentials::docker_credentials(None, registry);
    let known = known.map_err(|e| CliError::Usage(coracle_engine::full_error(&e)))?;
    let header = known.map(|c| {
        let auth = json!({ "username": c.username, "password": c.password, "identitytoken": c.identity_token.unwrap_or_default() });
        let value = base64::engine::general_purpose::URL_SAFE.encode(auth.to_string());
        (header::HeaderName::from_static("x-registry-auth"), value)
    });
    Ok(header.into_iter().collect())
}

/// Pushes and shows how it goes.
pub async fn push(client: &Client, args: &Push) -> Result<()> {
    let reference = Reference::parse_familiar(&args.image)
        .map_err(|e| CliError::Usage(coracle_engine::full_error(&e)))?;
    if args.all_tags && reference.tag().is_some() {
        return Err(CliError::Usage(
            "tag can't be used with --all-tags/-a; leave one of them out".into(),
        ));
    }
    let tag = match (reference.tag(), args.all_tags) {
        (Some(tag), _) => tag.to_owned(),
        (None, true) => String::new(),
        (None, false) => "latest".to_owned(),
    };
    let name = reference.familiar_name();
    let path = format!("/images/{name}/push{}", query(&[("tag", tag)]));
    let headers = credentials(reference.domain())?;
    let body = crate::client::empty();
    let sent = client.send(Method::POST, &path, body, &headers).await?;
    let lines = JsonLines::new(crate::client::check(sent).await?);
    show(
        lines,
        if args.quiet {
            Told::Errors
        } else {
            Told::Stdout
        },
    )
    .await?;
    if args.quiet {
        let tag = reference.tag().unwrap_or("latest");
        out(&format!("{}:{tag}\n", reference.name()))?;
    }
    Ok(())
}

/// Where progress is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// To who asked for it.
    Stdout,
    /// Beside what was asked for.
    Stderr,
    /// Only what goes wrong.
    Errors,
}

/// `coracle pull`: what was pulled is printed at the end.
pub async fn pull(client: &Client, args: &Pull) -> Result<()> {
    let reference = Reference::parse_familiar(&args.image)
        .map_err(|e| CliError::Usage(coracle_engine::full_error(&e)))?;
    let one = reference.tag().is_some() || reference.digest().is_some();
    if args.all_tags && one {
        return Err(CliError::Usage(
            "tag can't be used with --all-tags/-a; leave one of them out".into(),
        ));
    }
    let told = if args.quiet {
        Told::Errors
    } else {
        Told::Stdout
    };
    if args.all_tags {
        bring(client, &reference.name(), &args.platform, told).await?;
        return out(&format!("{}\n", reference.name()));
    }
    if !one && !args.quiet {
        out("Using default tag: latest\n")?;
    }
    pull_image(client, &args.image, &args.platform, told).await?;
    let name = Reference::parse_normalized(&args.image)
        .map_or_else(|_| args.image.clone(), |r| r.to_string());
    out(&format!("{name}\n"))
}

/// Pulls one image and shows how it goes: bars on a terminal, lines otherwise.
pub async fn pull_image(client: &Client, image: &str, platform: &str, told: Told) -> Result<()> {
    let whole = Reference::parse_normalized(image).map(|r| r.to_string());
    bring(client, whole.as_deref().unwrap_or(image), platform, told).await
}

async fn bring(client: &Client, image: &str, platform: &str, told: Told) -> Result<()> {
    let asked = query(&[
        ("fromImage", image.to_owned()),
        ("platform", platform.to_owned()),
    ]);
    let headers = match Reference::parse_normalized(image) {
        Ok(reference) => credentials(reference.domain())?,
        // What is wrong with it, the daemon says.
        Err(_) => Vec::new(),
    };
    let path = format!("/images/create{asked}");
    let body = crate::client::empty();
    let sent = client.send(Method::POST, &path, body, &headers).await?;
    let lines = JsonLines::new(crate::client::check(sent).await?);
    show(lines, told).await
}

/// `coracle search`
pub async fn search(client: &Client, args: &Search) -> Result<()> {
    let asked = query(&[
        ("term", args.term.clone()),
        (
            "limit",
            args.limit.map(|n| n.to_string()).unwrap_or_default(),
        ),
        ("filters", filters(&args.filter)?),
    ]);
    let headers = credentials(registry_of(&args.term).0)?;
    let path = format!("/images/search{asked}");
    let body = crate::client::empty();
    let sent = client.send(Method::GET, &path, body, &headers).await?;
    let bytes = crate::client::check(sent).await?.into_body().collect();
    let found: Vec<Value> = serde_json::from_slice(&bytes.await?.to_bytes())?;
    let yes = |value: &Value| if *value == true { "[OK]" } else { "" };
    let rows = found.iter().map(|r| {
        let said = text(r, "description").replace('\n', " ");
        let said = if args.no_trunc { said } else { cut(&said, 45) };
        row([
            ("Name", r["name"].clone()),
            ("Description", json!(said)),
            ("StarCount", json!(r["star_count"].to_string())),
            ("IsOfficial", json!(yes(&r["is_official"]))),
            ("IsAutomated", json!(yes(&r["is_automated"]))),
        ])
    });
    let rows = rows.collect();
    let columns = vec![
        ("NAME", "Name"),
        ("DESCRIPTION", "Description"),
        ("STARS", "StarCount"),
        ("OFFICIAL", "IsOfficial"),
    ];
    Table { columns, rows }.print(args.format.as_deref())
}

/// Shows the lines of a pull or push.
async fn show(mut lines: JsonLines, told: Told) -> Result<()> {
    let bars = is_terminal(std::io::stderr()).then(MultiProgress::new);
    let bars = bars.filter(|_| told != Told::Errors);
    let mut known: BTreeMap<String, ProgressBar> = BTreeMap::new();
    let style =
        ProgressStyle::with_template("{prefix}: {msg:<18} [{bar:30}] {bytes}/{total_bytes}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
    let say = |line: &str| match told {
        Told::Stdout => out(&format!("{line}\n")),
        Told::Stderr => {
            eprintln!("{line}");
            Ok(())
        }
        Told::Errors => Ok(()),
    };
    while let Some(line) = lines.next().await? {
        check_line(&line)?;
        let (id, status) = (text(&line, "id"), text(&line, "status"));
        if status.is_empty() {
            continue;
        }
        let measured = line["progressDetail"]["total"].as_u64().filter(|t| *t > 0);
        match (&bars, id.is_empty() || status.starts_with("Pulling from")) {
            (_, true) if id.is_empty() => say(&status)?,
            (_, true) => say(&format!("{id}: {status}"))?,
            (Some(bars), false) => {
                let bar = known.entry(id.clone()).or_insert_with(|| {
                    let bar = bars.add(ProgressBar::new(1));
                    bar.set_prefix(id.clone());
                    bar
                });
                bar.set_message(status);
                if let Some(total) = measured {
                    bar.set_style(style.clone());
                    bar.set_length(total);
                    bar.set_position(line["progressDetail"]["current"].as_u64().unwrap_or(0));
                }
            }
            // Without a terminal only what is news.
            (None, false) if measured.is_none() => say(&format!("{id}: {status}"))?,
            (None, false) => {}
        }
    }
    for bar in known.values() {
        bar.finish();
    }
    Ok(())
}
