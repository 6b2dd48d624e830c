//! `GET /containers/json`.

use crate::App;
use crate::error::{ApiError, Result};
use crate::filters::Filters;
use crate::query::Query;
use crate::version::ApiVersion;
use axum::Json;
use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use coracle_engine::record::{Phase, Record};
use coracle_engine::{ContainerId, Engine, Snapshot};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::HashMap;

const STATES: &[&str] = &[
    "created",
    "restarting",
    "running",
    "removing",
    "paused",
    "exited",
    "dead",
];
const HEALTHS: &[&str] = &["none", "starting", "healthy", "unhealthy"];
const FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "label!",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

/// A container in the list.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Row {
    Slim(Slim),
    Whole(Value),
}

/// What a table for people has, and nothing else: our own parameter, for lists of hundreds.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Slim {
    id: ContainerId,
    names: [String; 1],
    image: String,
    command: String,
    created: i64,
    ports: Value,
    status: String,
}

pub async fn list(
    State(app): State<App>,
    query: Query,
    version: ApiVersion,
) -> Result<Json<Vec<Row>>> {
    let filters = Filters::read(query.text("filters"), FILTERS)?;
    for (key, known) in [("status", STATES), ("health", HEALTHS)] {
        if let Some(value) = filters
            .of(key)
            .iter()
            .find(|v| !known.contains(&v.as_str()))
        {
            return Err(ApiError::invalid(format!(
                "invalid filter '{key}={value}'; use one of {}",
                known.join(", ")
            )));
        }
    }
    if let Some(value) = filters
        .of("exited")
        .iter()
        .find(|v| v.parse::<i32>().is_err())
    {
        return Err(ApiError::invalid(format!(
            "invalid filter 'exited={value}'; write an exit code"
        )));
    }
    let limit: Option<i64> = query.number("limit")?;
    let asked = limit.filter(|l| *l > 0);
    // A filter on the state shows containers in that state, running or not.
    let all = query.flag("all")
        || asked.is_some()
        || !filters.of("status").is_empty()
        || !filters.of("exited").is_empty();
    let before = moment_of(&app.engine, &filters, "before")?;
    let since = moment_of(&app.engine, &filters, "since")?;
    let mut images = Names::default();
    let mut found = Vec::new();
    let slimmed = query.flag("slim");
    for snapshot in app.engine.snapshots() {
        let record = &snapshot.record;
        let shown = all || matches!(record.state.phase, Phase::Running | Phase::Restarting);
        if shown
            && before.is_none_or(|t| record.created < t)
            && since.is_none_or(|t| record.created > t)
            && fits(&app.engine, &snapshot, &filters)
        {
            found.push(if slimmed {
                Row::Slim(slim(&app.engine, &snapshot, &mut images))
            } else {
                Row::Whole(row(
                    &app.engine,
                    &snapshot,
                    &mut images,
                    query.flag("size"),
                    version,
                ))
            });
        }
        if asked.is_some_and(|l| i64::try_from(found.len()).unwrap_or(i64::MAX) >= l) {
            break;
        }
    }
    Ok(Json(found))
}

fn moment_of(engine: &Engine, filters: &Filters, key: &str) -> Result<Option<DateTime<Utc>>> {
    let of = filters.of(key).first();
    of.map(|name| Ok(engine.get(name)?.record.created))
        .transpose()
}

/// Whether a moment is before `until`: RFC 3339, seconds since 1970, or an age such as `24h`.
pub fn before(moment: DateTime<Utc>, until: &str) -> bool {
    let age = coracle_image::duration::nanoseconds(until).filter(|_| until != "0");
    if let Some(age) = age {
        return Utc::now() - moment >= TimeDelta::nanoseconds(age);
    }
    if let Ok(seconds) = until.parse::<i64>() {
        return moment.timestamp() < seconds;
    }
    DateTime::parse_from_rfc3339(until).is_ok_and(|t| moment < t)
}

fn fits(engine: &Engine, snapshot: &Snapshot, filters: &Filters) -> bool {
    let record = &snapshot.record;
    let image = |wanted: &str| {
        record.config.image == wanted
            || record.image_id.starts_with(wanted)
            || record
                .image_id
                .strip_prefix("sha256:")
                .is_some_and(|id| id.starts_with(wanted))
            || engine
                .images()
                .get(wanted)
                .is_ok_and(|i| i.id.to_string() == record.image_id)
    };
    let network = |wanted: &str| {
        let endpoints = &record.state.endpoints;
        record.host_config.network_mode == wanted
            || record.networking.endpoints_config.contains_key(wanted)
            || endpoints
                .iter()
                .any(|e| e.network.as_str().starts_with(wanted) || e.network_name == wanted)
    };
    let volume = |wanted: &str| {
        record
            .mounts
            .iter()
            .any(|m| m.name.as_deref() == Some(wanted) || m.target == std::path::Path::new(wanted))
    };
    let published = |wanted: &str| {
        let wanted = wanted.split('/').next().unwrap_or(wanted);
        record
            .state
            .published()
            .any(|p| p.host_port.to_string() == wanted || p.container_port.to_string() == wanted)
    };
    let exposed = |wanted: &str| {
        record
            .config
            .exposed_ports
            .keys()
            .any(|p| p == wanted || p.split('/').next() == Some(wanted))
    };
    let health = snapshot.health.as_ref().map_or("none", |h| h.status);
    filters.name(&record.name)
        && filters.any("id", |id| record.id.as_str().starts_with(id))
        && filters.any("status", |s| status_word(record) == s)
        && filters.any("exited", |c| {
            record.state.phase == Phase::Exited && record.state.exit_code.to_string() == c
        })
        && filters.any("health", |h| h == health)
        // No container is a task of a swarm, and only Windows isolates otherwise.
        && filters.any("is-task", |t| matches!(t, "false" | "0"))
        && filters.any("isolation", str::is_empty)
        && filters.any("ancestor", image)
        && filters.any("network", network)
        && filters.any("volume", volume)
        && filters.any("publish", published)
        && filters.any("expose", exposed)
        && filters.labels(&record.config.labels)
}

/// Docker's word for the state.
pub fn status_word(record: &Record) -> &'static str {
    if record.state.paused {
        "paused"
    } else {
        record.state.phase.as_str()
    }
}

/// Which name an image is shown by: the one it was asked by, or its id once that name belongs to another image.
#[derive(Default)]
struct Names(HashMap<String, String>);

impl Names {
    fn of(&mut self, engine: &Engine, record: &Record) -> String {
        let asked = &record.config.image;
        let now = self.0.entry(asked.clone()).or_insert_with(|| {
            engine
                .images()
                .get(asked)
                .map(|i| i.id.to_string())
                .unwrap_or_default()
        });
        if *now == record.image_id || now.is_empty() {
            asked.clone()
        } else {
            record.image_id.clone()
        }
    }
}

pub fn command(record: &Record) -> String {
    let args = [&record.config.entrypoint, &record.config.cmd];
    let args = args.into_iter().flatten().flat_map(|a| &a.0);
    // Arguments with blanks in quotes, but not the program.
    let args = args.enumerate().map(|(n, arg)| match arg.contains(' ') {
        true if n > 0 => format!("'{arg}'"),
        _ => arg.clone(),
    });
    args.collect::<Vec<_>>().join(" ")
}

fn slim(engine: &Engine, snapshot: &Snapshot, images: &mut Names) -> Slim {
    let record = &snapshot.record;
    Slim {
        id: record.id.clone(),
        names: [format!("/{}", record.name)],
        image: images.of(engine, record),
        command: command(record),
        created: record.created.timestamp(),
        ports: ports(record),
        status: status(snapshot),
    }
}

fn row(
    engine: &Engine,
    snapshot: &Snapshot,
    images: &mut Names,
    size: bool,
    version: ApiVersion,
) -> Value {
    let record = &snapshot.record;
    let mut row = json!({
        "Id": record.id,
        "Names": [format!("/{}", record.name)],
        "Image": images.of(engine, record),
        "ImageID": record.image_id,
        "Command": command(record),
        "Created": record.created.timestamp(),
        "Ports": ports(record),
        "Labels": record.config.labels,
        "State": status_word(record),
        "Status": status(snapshot),
        "HostConfig": { "NetworkMode": record.host_config.network_mode },
        "NetworkSettings": { "Networks": crate::inspect::networks(engine, record, version) },
        "Mounts": crate::inspect::mounts(record),
    });
    let annotations = &record.host_config.annotations;
    if version.from(46) && !annotations.is_empty() {
        row["HostConfig"]["Annotations"] = json!(annotations);
    }
    if size {
        let (writable, root) = crate::inspect::sizes(engine, record);
        row["SizeRw"] = json!(writable);
        row["SizeRootFs"] = json!(root);
    }
    row
}

fn ports(record: &Record) -> Value {
    let mut list: Vec<Value> = Vec::new();
    for port in record.state.published() {
        list.push(json!({
            "IP": port.host_ip,
            "PrivatePort": port.container_port,
            "PublicPort": port.host_port,
            "Type": port.protocol.to_string(),
        }));
    }
    if record.state.phase == Phase::Running {
        for exposed in record.config.exposed_ports.keys() {
            let (number, protocol) = exposed.split_once('/').unwrap_or((exposed, "tcp"));
            let Ok(number) = number.parse::<u16>() else {
                continue;
            };
            if !record
                .state
                .published()
                .any(|p| p.container_port == number && p.protocol.to_string() == protocol)
            {
                list.push(json!({ "PrivatePort": number, "Type": protocol }));
            }
        }
    }
    Value::Array(list)
}

/// Docker's sentence about the state: `Up 5 minutes (healthy)`, `Exited (1) 2 hours ago`.
pub fn status(snapshot: &Snapshot) -> String {
    let state = &snapshot.record.state;
    let since = |t: Option<DateTime<Utc>>| {
        let seconds = t.map_or(0, |t| (Utc::now() - t).num_seconds().max(0));
        human(seconds)
    };
    match state.phase {
        Phase::Created => "Created".into(),
        Phase::Removing => "Removal In Progress".into(),
        Phase::Dead => "Dead".into(),
        Phase::Restarting => format!(
            "Restarting ({}) {} ago",
            state.exit_code,
            since(state.finished_at)
        ),
        Phase::Exited => format!(
            "Exited ({}) {} ago",
            state.exit_code,
            since(state.finished_at)
        ),
        Phase::Running => {
            let up = since(state.started_at);
            match &snapshot.health {
                _ if state.paused => format!("Up {up} (Paused)"),
                Some(h) if h.status == "starting" => format!("Up {up} (health: starting)"),
                Some(h) => format!("Up {up} ({})", h.status),
                None => format!("Up {up}"),
            }
        }
    }
}

/// A length of time in Docker's words.
pub fn human(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        0 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        120..3600 => format!("{minutes} minutes"),
        3600..5400 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 14 => format!("{} days", hours / 24),
        _ if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (600, "10 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (3 * 86400, "3 days"),
            (21 * 86400, "3 weeks"),
            (90 * 86400, "3 months"),
        ] {
            assert_eq!(human(seconds), words);
        }
    }
}
