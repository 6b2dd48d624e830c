//! Images.

use super::filters;
use super::list::text;
use crate::client::{Client, JsonLines, check_line, query, stream};
use crate::error::{CliError, Result, each};
use crate::format::words::{ago, cut, short, size};
use crate::format::{Table, out, row};
use crate::terminal::is_terminal;
use chrono::DateTime;
use hyper::Method;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// `coracle images`
#[derive(Debug, Default, clap::Args)]
#[command(after_help = "Example:\n  coracle images --format '{{.Repository}}:{{.Tag}} {{.Size}}'")]
pub struct Images {
    /// For docker's sake; every image is shown
    #[arg(short, long)]
    pub all: bool,
    /// Digests too
    #[arg(long)]
    pub digests: bool,
    /// Narrow the list: key=value
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// table, json, or a template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Whole ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Only this repository
    pub name: Option<String>,
}

/// `coracle import`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  tar -C root -c . | coracle import --change 'CMD [\"/bin/sh\"]' - localhost/base"
)]
pub struct Import {
    /// Instruction as in a Dockerfile
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,
    /// Remark for the history
    #[arg(short, long, default_value = "")]
    pub message: String,
    /// Platform of the image
    #[arg(long, default_value = "")]
    pub platform: String,
    /// Archive, or its address (http, https); - for stdin
    pub file: String,
    /// Name of the image
    pub name: Option<String>,
}

/// `coracle load`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  coracle load -i app.tar")]
pub struct Load {
    /// Archive; stdin if absent
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<String>,
    /// Say nothing on the way
    #[arg(short, long)]
    pub quiet: bool,
}

/// `coracle save`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  coracle save -o app.tar app:1")]
pub struct Save {
    /// File; stdout if absent
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<String>,
    /// Images
    #[arg(required = true)]
    pub images: Vec<String>,
}

/// `coracle rmi`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  coracle rmi app:1")]
pub struct Rmi {
    /// Even if stopped containers use it
    #[arg(short, long)]
    pub force: bool,
    /// Images
    #[arg(required = true)]
    pub images: Vec<String>,
}

pub async fn images(client: &Client, args: &Images) -> Result<()> {
    let mut narrowed = args.filter.clone();
    narrowed.extend(args.name.as_ref().map(|n| format!("reference={n}")));
    let found = client
        .get(&format!(
            "/images/json{}",
            query(&[("filters", filters(&narrowed)?)])
        ))
        .await?;
    let mut rows = Vec::new();
    for image in found.as_array().into_iter().flatten() {
        let id = text(image, "Id");
        let id = if args.no_trunc { id } else { short(&id) };
        let created = image["Created"]
            .as_i64()
            .and_then(|s| DateTime::from_timestamp(s, 0))
            .unwrap_or_default();
        let digests: BTreeMap<&str, &str> = image["RepoDigests"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|d| d.as_str()?.split_once('@'))
            .collect();
        let mut names: Vec<(String, String)> = image["RepoTags"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|t| t.as_str()?.rsplit_once(':'))
            .map(|(n, t)| (n.to_owned(), t.to_owned()))
            .collect();
        if names.is_empty() {
            let name = digests.keys().next().map_or("<none>", |n| n);
            names.push((name.to_owned(), "<none>".into()));
        }
        for (name, tag) in names {
            rows.push(row([
                (
                    "Digest",
                    json!(digests.get(name.as_str()).copied().unwrap_or("<none>")),
                ),
                ("Repository", json!(name)),
                ("Tag", json!(tag)),
                ("ID", json!(id)),
                ("CreatedSince", json!(ago(created))),
                (
                    "CreatedAt",
                    json!(created.format("%Y-%m-%d %H:%M:%S %z UTC").to_string()),
                ),
                ("Size", json!(size(image["Size"].as_f64().unwrap_or(0.0)))),
            ]));
        }
    }
    if args.quiet {
        let mut ids: Vec<String> = rows
            .iter()
            .filter_map(|r| r["ID"].as_str().map(str::to_owned))
            .collect();
        ids.dedup();
        return out(&ids.iter().map(|i| format!("{i}\n")).collect::<String>());
    }
    let mut columns = vec![
        ("REPOSITORY", "Repository"),
        ("TAG", "Tag"),
        ("IMAGE ID", "ID"),
        ("CREATED", "CreatedSince"),
        ("SIZE", "Size"),
    ];
    if args.digests {
        columns.insert(2, ("DIGEST", "Digest"));
    }
    Table { columns, rows }.print(args.format.as_deref())
}

pub async fn import(client: &Client, args: &Import) -> Result<()> {
    let address = ["http://", "https://"]
        .iter()
        .any(|scheme| args.file.starts_with(scheme));
    let mut pairs = vec![
        ("fromSrc", if address { &args.file } else { "-" }.to_owned()),
        ("repo", args.name.clone().unwrap_or_default()),
        ("message", args.message.clone()),
        ("platform", args.platform.clone()),
    ];
    pairs.extend(args.change.iter().map(|c| ("changes", c.clone())));
    let body = if address {
        crate::client::empty()
    } else if args.file == "-" {
        stream(tokio::io::stdin())
    } else {
        stream(open(&args.file).await?)
    };
    let answer = client
        .send(
            Method::POST,
            &format!("/images/create{}", query(&pairs)),
            body,
            &[],
        )
        .await?;
    let mut lines = JsonLines::new(crate::client::check(answer).await?);
    while let Some(line) = lines.next().await? {
        out(&format!("{}\n", text(&line, "status")))?;
    }
    Ok(())
}

async fn open(path: &str) -> Result<tokio::fs::File> {
    tokio::fs::File::open(path)
        .await
        .map_err(|source| CliError::File {
            action: "opening",
            path: path.into(),
            source,
        })
}

pub async fn load(client: &Client, args: &Load) -> Result<()> {
    let body = match &args.input {
        Some(path) => stream(open(path).await?),
        None if is_terminal(std::io::stdin()) => {
            return Err(CliError::Usage(
                "requested load from stdin, but stdin is empty; give -i FILE".into(),
            ));
        }
        None => stream(tokio::io::stdin()),
    };
    let answer = client.send(Method::POST, "/images/load", body, &[]).await?;
    let mut lines = JsonLines::new(crate::client::check(answer).await?);
    while let Some(line) = lines.next().await? {
        check_line(&line)?;
        out(&text(&line, "stream"))?;
    }
    Ok(())
}

pub async fn save(client: &Client, args: &Save) -> Result<()> {
    if args.output.is_none() && is_terminal(std::io::stdout()) {
        return Err(CliError::Usage(
            "cowardly refusing to save to a terminal; use the -o flag or redirect".into(),
        ));
    }
    let pairs: Vec<(&str, String)> = args.images.iter().map(|i| ("names", i.clone())).collect();
    let asked = format!("/images/get{}", query(&pairs));
    let answer = client.ask(Method::GET, &asked, None).await?;
    super::copy::download_to(answer, args.output.as_deref().map(Path::new)).await
}

pub async fn rmi(client: &Client, args: &Rmi) -> Result<()> {
    let asked = query(&[("force", if args.force { "1" } else { "" }.to_owned())]);
    each(&args.images, async |name| {
        let removed = client
            .json(Method::DELETE, &format!("/images/{name}{asked}"), None)
            .await?;
        for line in removed.as_array().into_iter().flatten() {
            for (what, name) in line.as_object().into_iter().flatten() {
                out(&format!("{what}: {}\n", name.as_str().unwrap_or_default()))?;
            }
        }
        Ok(())
    })
    .await
}

pub async fn tag(client: &Client, from: &str, to: &str) -> Result<()> {
    let reference =
        coracle_image::Reference::parse(to).map_err(|e| CliError::Usage(e.to_string()))?;
    let (name, tag) = (
        reference.name(),
        reference.tag().unwrap_or("latest").to_owned(),
    );
    client
        .post(
            &format!(
                "/images/{from}/tag{}",
                query(&[("repo", name), ("tag", tag)])
            ),
            None,
        )
        .await
}

pub async fn history(client: &Client, name: &str, format: Option<&str>, whole: bool) -> Result<()> {
    let found = client.get(&format!("/images/{name}/history")).await?;
    let rows = found.as_array().into_iter().flatten().map(|h| {
        let created = h["Created"]
            .as_i64()
            .and_then(|s| DateTime::from_timestamp(s, 0))
            .unwrap_or_default();
        let id = text(h, "Id");
        let by = text(h, "CreatedBy");
        row([
            (
                "ID",
                json!(if whole || id.starts_with('<') {
                    id
                } else {
                    short(&id)
                }),
            ),
            ("CreatedSince", json!(ago(created))),
            ("CreatedBy", json!(if whole { by } else { cut(&by, 45) })),
            ("Size", json!(size(h["Size"].as_f64().unwrap_or(0.0)))),
            ("Comment", h["Comment"].clone()),
        ])
    });
    let columns = vec![
        ("IMAGE", "ID"),
        ("CREATED", "CreatedSince"),
        ("CREATED BY", "CreatedBy"),
        ("SIZE", "Size"),
        ("COMMENT", "Comment"),
    ];
    Table {
        columns,
        rows: rows.collect(),
    }
    .print(format)
}
