//! Our own API: machines and where units are, under `/v1`. All but the list is asked of the machine that leads.

use crate::App;
use crate::containers::body;
use crate::error::{ApiError, Result};
use axum::Json;
use axum::extract::{Path, State};
use coracle_fleet::presence::Seen;
use coracle_fleet::{Explained, MachineView, Mark, Rebound};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub async fn list(State(app): State<App>) -> Result<Json<Value>> {
    let units = app.fleet.list();
    let all = app.fleet.machines().await?;
    let row = |seen: &Seen| {
        let own = units
            .iter()
            .filter(|u| u.machine == seen.machine.id && u.container.is_some())
            .count();
        let mut row = json!(seen.machine);
        row["state"] = json!(if seen.alive { "alive" } else { "gone" });
        row["cordoned"] = json!(seen.marks.cordoned);
        row["draining"] = json!(seen.marks.draining);
        row["units"] = json!(own);
        row
    };
    Ok(Json(all.iter().map(row).collect()))
}

pub async fn get(State(app): State<App>, Path(name): Path<String>) -> Result<Json<MachineView>> {
    Ok(Json(app.fleet.machine_named(&name)?))
}

async fn mark(app: &App, name: &str, mark: &Mark) -> Result<Json<MachineView>> {
    Ok(Json(app.fleet.mark(name, mark).await?))
}

pub async fn cordon(State(app): State<App>, Path(name): Path<String>) -> Result<Json<MachineView>> {
    mark(&app, &name, &Mark::Cordon).await
}

pub async fn uncordon(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<MachineView>> {
    mark(&app, &name, &Mark::Uncordon).await
}

pub async fn undrain(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<MachineView>> {
    mark(&app, &name, &Mark::Undrain).await
}

pub async fn drain(State(app): State<App>, Path(name): Path<String>) -> Result<Json<MachineView>> {
    mark(&app, &name, &Mark::Drain).await
}

/// The body has a value for each label that is set, and null for each that is taken away; others stay as they are.
pub async fn labels(
    State(app): State<App>,
    Path(name): Path<String>,
    bytes: bytes::Bytes,
) -> Result<Json<MachineView>> {
    let asked: BTreeMap<String, Option<String>> = body(&bytes)?;
    if asked.is_empty() {
        return Err(ApiError::invalid(
            "no label is named; give an object with a text for each that is to be set, and null for each that is to go",
        ));
    }
    mark(&app, &name, &Mark::Labels(asked)).await
}

pub async fn explain(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Explained>> {
    Ok(Json(app.fleet.explain(&name)?))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Rebind {
    machine: String,
}

pub async fn rebind(
    State(app): State<App>,
    Path(name): Path<String>,
    bytes: bytes::Bytes,
) -> Result<Json<Rebound>> {
    let asked: Rebind = body(&bytes)?;
    if asked.machine.is_empty() {
        return Err(ApiError::invalid(
            "no machine is named; give {\"machine\": \"its id or host name\"}",
        ));
    }
    Ok(Json(app.fleet.rebind(&name, &asked.machine).await?))
}
