//! What runs, what could, and what became of updates.

use crate::client::Client;
use crate::error::Result;
use crate::format::out;
use serde_json::Value;

pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("-")
}

pub async fn status(client: &Client) -> Result<()> {
    let status = client.get("/v1/os").await?;
    let (version, slot) = (text(&status, "version"), text(&status, "slot"));
    out(&format!("Release:  {version}, from slot {slot}\n"))?;
    out(&format!("Floor:    {}\n", text(&status, "floor")))?;
    out(&format!("etcd:     {}\n", text(&status, "etcd")))?;
    for entry in status["slots"].as_array().into_iter().flatten() {
        let standing = match (entry["proven"].as_bool(), entry["tries_left"].as_u64()) {
            (Some(true), _) => "proven".to_owned(),
            (_, Some(0)) => "failed".to_owned(),
            (_, left) => format!("on trial, {} tries left", left.unwrap_or(0)),
        };
        let running = match entry["running"].as_bool() {
            Some(true) => ", running",
            _ => "",
        };
        let (slot, title) = (text(entry, "slot"), text(entry, "title"));
        out(&format!("Slot {slot}:   {title}: {standing}{running}\n"))?;
    }
    if !status["last_update"].is_null() {
        out(&format!("Update:   {}\n", line(&status["last_update"])))?;
    }
    out(&format!("Channel:  {}\n", text(&status, "channel")))?;
    out(&format!("Next:     {}\n", progress(&status["updates"])))
}

/// How far updates by themselves are.
pub fn progress(updates: &Value) -> String {
    let state = match updates["state"].as_str() {
        Some("") | None => "the release that runs is looked at first",
        Some(state) => state,
    };
    match (updates["checked_at"].as_i64(), updates["found"].as_str()) {
        (Some(at), Some(found)) => {
            format!("{state} (the channel has {found}, looked at {})", when(at))
        }
        _ => state.to_owned(),
    }
}

/// A time in seconds since 1970.
pub fn when(seconds: i64) -> String {
    let at = chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// One update in a line.
fn line(update: &Value) -> String {
    let (from, to, slot) = (
        text(update, "from"),
        text(update, "to"),
        text(update, "slot"),
    );
    let outcome = text(update, "outcome").replace('_', " ");
    let reason = match update["reason"].as_str() {
        Some(reason) => format!(": {reason}"),
        None => String::new(),
    };
    format!("{from} to {to} in slot {slot}, {outcome}{reason}")
}

pub async fn history(client: &Client) -> Result<()> {
    let updates = client.get("/v1/os/history").await?;
    for update in updates.as_array().into_iter().flatten() {
        let at = when(update["at"].as_i64().unwrap_or_default());
        out(&format!("{at}  {}\n", line(update)))?;
    }
    Ok(())
}

pub async fn boot_report(client: &Client) -> Result<()> {
    let report = client.get("/v1/os/boot-report").await?;
    out("PHASE           BEGAN      TOOK\n")?;
    for phase in report["phases"].as_array().into_iter().flatten() {
        let seconds = |key: &str| phase[key].as_f64().unwrap_or_default() / 1000.0;
        let error = match phase["error"].as_str() {
            Some(error) => format!("  {error}"),
            None => String::new(),
        };
        let (begin, took) = (seconds("begin_ms"), seconds("took_ms"));
        let name = text(phase, "name");
        out(&format!("{name:<14} {begin:>6.2}s  {took:>7.3}s{error}\n"))?;
    }
    if report["complete"] != Value::Bool(true) {
        out("the boot is not over yet\n")?;
    }
    Ok(())
}
