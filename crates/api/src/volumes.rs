//! Volumes.

use crate::App;
use crate::containers::body;
use crate::error::{ApiError, Result};
use crate::filters::Filters;
use crate::inspect::{moment, tree_size};
use crate::query::Query;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use coracle_engine::Engine;
use coracle_engine::events::Event;
use coracle_engine::volumes::Volume;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub fn answer(engine: &Engine, volume: &Volume) -> Value {
    json!({
        "Name": volume.name,
        "Driver": "local",
        "Mountpoint": engine.volumes().data(&volume.name),
        "CreatedAt": moment(Some(volume.created)),
        "Labels": if volume.anonymous {
            json!({ "com.docker.volume.anonymous": "" })
        } else {
            json!(volume.labels)
        },
        "Scope": "local",
        "Options": if volume.options.is_empty() { Value::Null } else { json!(volume.options) },
    })
}

const FILTERS: &[&str] = &["dangling", "driver", "label", "label!", "name"];

pub async fn list(State(app): State<App>, query: Query) -> Result<Json<Value>> {
    let filters = Filters::read(query.text("filters"), FILTERS)?;
    let fits = |v: &Volume| {
        filters.name(&v.name)
            && filters.any("driver", |d| d == "local")
            && filters.labels(&v.labels)
            && filters
                .switch("dangling")
                .is_none_or(|d| d == app.engine.volume_users(&v.name).is_empty())
    };
    let all: Vec<Value> = app
        .engine
        .volumes()
        .list()
        .iter()
        .filter(|v| fits(v))
        .map(|v| answer(&app.engine, v))
        .collect();
    Ok(Json(json!({ "Volumes": all, "Warnings": null })))
}

pub async fn inspect(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Value>> {
    let volume = app.engine.volumes().get(&name).map_err(no_such)?;
    Ok(Json(answer(&app.engine, &volume)))
}

/// In Docker's words.
fn no_such(error: coracle_engine::EngineError) -> ApiError {
    match error {
        coracle_engine::EngineError::NotFound { name, .. } => {
            ApiError::not_found(format!("get {name}: no such volume"))
        }
        other => other.into(),
    }
}

/// Does what waits for the disk where nobody else waits with it.
async fn blocking<T: Send + 'static>(
    engine: &Engine,
    work: impl FnOnce(&Engine) -> coracle_engine::Result<T> + Send + 'static,
) -> coracle_engine::Result<T> {
    let engine = engine.clone();
    tokio::task::spawn_blocking(move || work(&engine)).await?
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Create {
    name: Option<String>,
    driver: Option<String>,
    driver_opts: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
    cluster_volume_spec: Option<Value>,
}

pub async fn create(State(app): State<App>, bytes: bytes::Bytes) -> Result {
    let asked: Create = body(&bytes)?;
    if let Some(driver) = asked.driver.filter(|d| !matches!(d.as_str(), "" | "local")) {
        return Err(ApiError::invalid(format!(
            "volume driver \"{driver}\" is not supported by this release; use local, whose options type, device and o mount \
             what the kernel can"
        )));
    }
    if asked.cluster_volume_spec.is_some_and(|s| !s.is_null()) {
        return Err(ApiError::invalid(
            "ClusterVolumeSpec is not supported: volumes are of this machine; leave it out",
        ));
    }
    let name = asked.name.filter(|n| !n.is_empty());
    let (labels, options) = (
        asked.labels.unwrap_or_default(),
        asked.driver_opts.unwrap_or_default(),
    );
    let (volume, made) = blocking(&app.engine, move |engine| {
        let volumes = engine.volumes();
        volumes.ensure(name.as_deref(), &labels, &options)
    })
    .await?;
    if made {
        let attributes = [("driver".to_owned(), "local".to_owned())].into();
        app.engine
            .publish(Event::now("volume", "create", &volume.name, attributes));
    }
    Ok((StatusCode::CREATED, Json(answer(&app.engine, &volume))).into_response())
}

pub async fn remove(
    State(app): State<App>,
    Path(name): Path<String>,
    query: Query,
) -> Result<StatusCode> {
    let force = query.flag("force");
    let removed = blocking(&app.engine, move |engine| {
        engine.remove_volume(&name, force)
    });
    removed.await.map_err(no_such)?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn prune(State(app): State<App>, query: Query) -> Result<Json<Value>> {
    let filters = Filters::read(query.text("filters"), &["all", "label", "label!"])?;
    let all = filters.switch("all").unwrap_or(false);
    let (removed, bytes) = blocking(&app.engine, move |engine| {
        let (mut removed, mut bytes) = (Vec::new(), 0);
        for volume in engine.volumes().list() {
            // Data that somebody gave a name is not pruned unless that is asked.
            if !(volume.anonymous || all) || !filters.labels(&volume.labels) {
                continue;
            }
            let own = engine.volumes().counted(&volume.name);
            let size = own.map_or(0, |dir| tree_size(&dir));
            if engine.remove_volume(&volume.name, false).is_ok() {
                bytes += size;
                removed.push(volume.name);
            }
        }
        Ok((removed, bytes))
    })
    .await?;
    crate::containers::tell_prune(&app.engine, "volume", bytes);
    Ok(Json(
        json!({ "VolumesDeleted": removed, "SpaceReclaimed": bytes }),
    ))
}
