//! `export`, `diff` and `commit`.

use super::copy::{download_to, usage};
use crate::client::{Client, escape, query};
use crate::error::Result;
use crate::format::out;
use crate::terminal::is_terminal;
use clap::Args;
use coracle_engine::full_error;
use hyper::Method;
use std::path::PathBuf;

/// `coracle export`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coracle export web | coracle import - web-flat")]
pub struct Export {
    /// File instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Container
    pub name: String,
}

/// `coracle commit`
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coracle commit -c 'CMD [\"nginx\"]' -m 'with modules' web shop/web:2"
)]
pub struct Commit {
    /// Who made it
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub author: String,
    /// Instruction as in a Dockerfile
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,
    /// Remark
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub message: String,
    /// Freeze the container meanwhile
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set)]
    pub pause: bool,
    /// Container
    pub container: String,
    /// Name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub image: Option<String>,
}

pub async fn export(client: &Client, args: &Export) -> Result<()> {
    if args.output.is_none() && is_terminal(std::io::stdout()) {
        return Err(usage(
            "cowardly refusing to save to a terminal; use the -o flag or redirect",
        ));
    }
    let asked = format!("/containers/{}/export", escape(&args.name));
    let answer = client.ask(Method::GET, &asked, None).await?;
    download_to(answer, args.output.as_deref()).await
}

pub async fn commit(client: &Client, args: &Commit) -> Result<()> {
    let reference = match args.image.as_deref() {
        Some(text) => Some(
            coracle_image::Reference::parse_normalized(text).map_err(|e| usage(full_error(&e)))?,
        ),
        None => None,
    };
    let mut pairs = vec![
        ("container", args.container.clone()),
        ("author", args.author.clone()),
        ("comment", args.message.clone()),
        ("pause", if args.pause { "1" } else { "0" }.into()),
    ];
    if let Some(reference) = &reference {
        pairs.push(("repo", reference.familiar_name()));
        pairs.push(("tag", reference.tag().unwrap_or_default().to_owned()));
    }
    pairs.extend(args.change.iter().map(|c| ("changes", c.clone())));
    let asked = format!("/commit{}", query(&pairs));
    let made = client.json(Method::POST, &asked, None).await?;
    out(&format!("{}\n", made["Id"].as_str().unwrap_or_default()))
}

pub async fn diff(client: &Client, name: &str) -> Result<()> {
    let found = client
        .get(&format!("/containers/{}/changes", escape(name)))
        .await?;
    let mut text = String::new();
    for change in found.as_array().into_iter().flatten() {
        let letter = match change["Kind"].as_u64() {
            Some(1) => 'A',
            Some(2) => 'D',
            _ => 'C',
        };
        text.push_str(&format!(
            "{letter} {}\n",
            change["Path"].as_str().unwrap_or_default()
        ));
    }
    out(&text)
}
