//! What one unit says and how it stands.

use super::api::{self, Legend};
use super::files::text_of;
use super::names::{mangle, names};
use crate::client::{Client, escape, query};
use crate::commands::containers::show;
use crate::error::{CliError, Result};
use crate::format::out;
use crate::format::words::ago;
use chrono::DateTime;
use hyper::Method;

/// Lines of output below a status.
const LINES: u32 = 10;

fn missing(name: &str) -> CliError {
    CliError::Usage(format!("Unit {name} does not exist."))
}

/// The text as it was submitted; drop-ins follow it.
pub async fn cat(client: &Client, word: &str) -> Result<()> {
    let name = mangle(word);
    let found = api::own(client, &name).await?;
    let text = text_of(&found.ok_or_else(|| missing(&name))?);
    let mut all = text.text;
    for dropin in text.dropins {
        if !all.ends_with('\n') {
            all.push('\n');
        }
        all += &format!("\n# {}\n{}", dropin.file, dropin.text);
    }
    out(&all)
}

pub async fn journal(client: &Client, word: &str, lines: u32, follow: bool) -> Result<()> {
    let name = mangle(word);
    api::unit(client, &name)
        .await?
        .ok_or_else(|| missing(&name))?;
    said(client, &name, lines, follow).await
}

/// A unit's last lines of output.
async fn said(client: &Client, name: &str, lines: u32, follow: bool) -> Result<()> {
    let asked = query(&[
        ("tail", lines.to_string()),
        ("follow", if follow { "1".into() } else { String::new() }),
    ]);
    let path = format!("/v1/units/{}/logs{asked}", escape(name));
    show(client.ask(Method::GET, &path, None).await?, false).await
}

/// As systemctl shows it.
pub async fn status(client: &Client, words: &[String]) -> Result<()> {
    let names = names(client, words).await?;
    let legend = Legend::read(client).await?;
    // Nothing is shown of some if others are not there.
    let mut units = Vec::new();
    for name in &names {
        let unit = api::unit(client, name)
            .await?
            .ok_or_else(|| missing(name))?;
        let state = api::state(client, name)
            .await?
            .ok_or_else(|| CliError::Usage(format!("Unit {name} does not appear to be loaded.")))?;
        let own = api::own(client, name).await?.unwrap_or_default();
        units.push((unit, state, own));
    }
    for (number, (unit, state, own)) in units.iter().enumerate() {
        let mut text = String::new();
        if number > 0 {
            text.push('\n');
        }
        text += &unit.name;
        if !unit.description().is_empty() {
            text += &format!(" - {}", unit.description());
        }
        let hash = state.hash.get(..7).unwrap_or(&state.hash);
        text += &format!("\n   Loaded: {} (hash {hash})\n", state.load);
        text += &format!("   Active: {} ({})", state.active, state.sub);
        let since = own["since"].as_str();
        if let Some(since) = since.and_then(|t| DateTime::parse_from_rfc3339(t).ok()) {
            let since = since.to_utc();
            let at = since.format("%a %Y-%m-%d %H:%M:%S UTC");
            text += &format!(" since {at}; {}", ago(since));
        }
        text += &format!("\n  Machine: {}\n", legend.of(&state.machine, false));
        if let Some(reason) = own["reason"].as_str() {
            text += &format!("   Reason: {reason}\n");
        }
        if let Some(container) = own["container"].as_str() {
            text += &format!("Container: {container}\n");
        }
        out(&(text + "\n"))?;
        if unit.name.ends_with(".service") || unit.name.ends_with(".container") {
            said(client, &unit.name, LINES, false).await?;
        }
    }
    Ok(())
}
