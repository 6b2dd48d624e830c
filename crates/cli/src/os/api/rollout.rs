//! What is asked of updates by themselves.

use super::{There, aside, there};
use crate::os::error::OsError;
use axum::{
    Json, Router,
    extract::{Query, State},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

pub fn routes() -> Router<There> {
    Router::new()
        .route("/v1/os/check", post(check))
        .route("/v1/os/channel", post(channel))
        .route("/v1/os/rollout", get(shown))
        .route("/v1/os/rollout/at-once", post(at_once))
        .route("/v1/os/rollout/unlock", post(unlock))
        .route("/v1/os/rollout/resume", post(resume))
}

async fn check(State(os): State<There>) -> Result<Json<Value>, OsError> {
    Ok(Json(json!(there(os)?.look_now().await?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Channel {
    /// Nothing leaves it to the configuration.
    name: Option<String>,
}

async fn channel(
    State(os): State<There>,
    Query(asked): Query<Channel>,
) -> Result<Json<Value>, OsError> {
    let os = there(os)?;
    aside(move || {
        os.set_channel(asked.name.as_deref())?;
        Ok(Json(json!({ "channel": os.channel() })))
    })
    .await
}

async fn shown(State(os): State<There>) -> Result<Json<Value>, OsError> {
    Ok(Json(json!(there(os)?.rollout().await?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AtOnce {
    count: u32,
}

async fn at_once(
    State(os): State<There>,
    Query(asked): Query<AtOnce>,
) -> Result<Json<Value>, OsError> {
    there(os)?.set_at_once(asked.count).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unlock {
    machine: String,
}

async fn unlock(
    State(os): State<There>,
    Query(asked): Query<Unlock>,
) -> Result<Json<Value>, OsError> {
    let name = there(os)?.unlock(&asked.machine).await?;
    Ok(Json(json!({ "machine": name })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resume {
    release: semver::Version,
}

async fn resume(
    State(os): State<There>,
    Query(asked): Query<Resume>,
) -> Result<Json<Value>, OsError> {
    there(os)?.resume(&asked.release).await?;
    Ok(Json(json!({})))
}
