//! `GET /events`: what happened and what happens.

use crate::App;
use crate::containers::json_stream;
use crate::error::Result;
use crate::filters::Filters;
use crate::query::Query;
use axum::body::Body;
use axum::extract::State;
use chrono::{DateTime, Utc};
use coracle_engine::events::Event;
use futures_util::stream::unfold;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use tokio::sync::broadcast::error::RecvError;

const FILTERS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "id",
    "image",
    "label",
    "name",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

pub async fn events(State(app): State<App>, query: Query) -> Result {
    let filters = Filters::read(query.text("filters"), FILTERS)?;
    let (since, until) = (query.moment("since")?, query.moment("until")?);
    let (past, live) = app.engine.subscribe();
    let past: VecDeque<Event> = match since {
        Some(from) => past.into_iter().filter(|e| at(e) >= from).collect(),
        // Asked for a time that is over, what is kept is all there is.
        None if until.is_some_and(|t| t <= Utc::now()) => past.into(),
        None => VecDeque::new(),
    };
    let stream = unfold(
        (past, live, filters),
        move |(mut past, mut live, filters)| async move {
            loop {
                let event = match past.pop_front() {
                    Some(event) => event,
                    None => {
                        let left = until.map(|t| (t - Utc::now()).to_std().unwrap_or_default());
                        let received = match left {
                            Some(left) => tokio::time::timeout(left, live.recv()).await.ok()?,
                            None => live.recv().await,
                        };
                        match received {
                            Ok(event) => event,
                            // A client that is this slow is told nothing less than the truth: it missed some.
                            Err(RecvError::Lagged(n)) => {
                                tracing::warn!(missed = n, "a listener to events was too slow");
                                continue;
                            }
                            Err(RecvError::Closed) => return None,
                        }
                    }
                };
                if until.is_some_and(|t| at(&event) > t) {
                    return None;
                }
                if fits(&event, &filters) {
                    let line = format!("{}\n", answer(&event));
                    return Some((Ok::<_, Infallible>(line), (past, live, filters)));
                }
            }
        },
    );
    Ok(json_stream(Body::from_stream(stream)))
}

fn at(event: &Event) -> DateTime<Utc> {
    DateTime::from_timestamp_nanos(event.time_nano)
}

fn fits(event: &Event, filters: &Filters) -> bool {
    let actor = &event.actor;
    let name = actor.attributes.get("name").map_or("", String::as_str);
    let is = |kind: &'static str| {
        filters.any(kind, |v| {
            event.kind == kind && (actor.id.starts_with(v) || name == v)
        })
    };
    filters.any("type", |t| event.kind == t)
        // `health_status` stands for `health_status: healthy` too.
        && filters.any("event", |e| event.action == e || event.action.split(':').next() == Some(e))
        && filters.any("id", |i| actor.id.starts_with(i))
        && filters.any("name", |n| name == n)
        && filters.any("scope", |s| s == event.scope)
        && filters.any("image", |i| {
            (event.kind == "image" && (actor.id == i || name == i))
                || actor.attributes.get("image").is_some_and(|of| of == i)
        })
        && filters.labels(&actor.attributes)
        && is("container")
        && is("network")
        && is("volume")
        && is("daemon")
        // There are none of these, so nothing happens to them.
        && ["config", "node", "plugin", "secret", "service"].into_iter().all(is)
}

/// With the fields of older versions of the API too.
fn answer(event: &Event) -> Value {
    let mut value = json!(event);
    if matches!(event.kind.as_str(), "container" | "image") {
        value["status"] = json!(event.action);
        value["id"] = json!(event.actor.id);
        if let Some(image) = event.actor.attributes.get("image") {
            value["from"] = json!(image);
        }
    }
    value
}
