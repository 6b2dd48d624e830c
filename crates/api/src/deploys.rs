//! Our own API: deploys of services, under `/v1/services`.

use crate::App;
use crate::containers::{body, request_id};
use crate::error::Result;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use coracle_fleet::FleetError;
use coracle_fleet::rollout::{Asked, DeployRecord, History};
use serde::Deserialize;
use serde_json::{Value, json};

fn asked(bytes: &bytes::Bytes, headers: &HeaderMap) -> Result<Asked> {
    let mut asked: Asked = body(bytes)?;
    asked.request = request_id(headers).map(str::to_owned);
    Ok(asked)
}

pub async fn deploy(
    State(app): State<App>,
    Path(name): Path<String>,
    headers: HeaderMap,
    bytes: bytes::Bytes,
) -> Result {
    match app.fleet.deploy(&name, asked(&bytes, &headers)?).await {
        Ok(planned) => Ok(Json(planned).into_response()),
        Err(FleetError::Refused(problems)) => {
            let answer = json!({ "message": problems.to_string(), "diagnostics": problems.0 });
            Ok((StatusCode::BAD_REQUEST, Json(answer)).into_response())
        }
        Err(error) => Err(error.into()),
    }
}

pub async fn rollback(
    State(app): State<App>,
    Path(name): Path<String>,
    headers: HeaderMap,
    bytes: bytes::Bytes,
) -> Result<Response> {
    let planned = app.fleet.rollback(&name, asked(&bytes, &headers)?).await?;
    Ok(Json(planned).into_response())
}

/// `GET /v1/services/{name}`: its last deploy.
pub async fn get(State(app): State<App>, Path(name): Path<String>) -> Result<Json<DeployRecord>> {
    Ok(Json(app.fleet.deploy_of(&name)?))
}

pub async fn history(State(app): State<App>, Path(name): Path<String>) -> Result<Json<History>> {
    Ok(Json(app.fleet.history(&name).await?))
}

pub async fn revision(
    State(app): State<App>,
    Path((name, number)): Path<(String, u64)>,
) -> Result<Json<Value>> {
    let text = app.fleet.revision_text(&name, number).await?;
    Ok(Json(json!({ "text": text.text, "dropins": text.dropins })))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Who {
    who: String,
}

fn who(bytes: &bytes::Bytes) -> Result<String> {
    let asked: Who = body(bytes)?;
    Ok(asked.who)
}

pub async fn pause(
    State(app): State<App>,
    Path(name): Path<String>,
    bytes: bytes::Bytes,
) -> Result<Json<DeployRecord>> {
    Ok(Json(app.fleet.pause(&name, &who(&bytes)?).await?))
}

pub async fn resume(
    State(app): State<App>,
    Path(name): Path<String>,
    bytes: bytes::Bytes,
) -> Result<Json<DeployRecord>> {
    Ok(Json(app.fleet.resume(&name, &who(&bytes)?).await?))
}

pub async fn abort(
    State(app): State<App>,
    Path(name): Path<String>,
    bytes: bytes::Bytes,
) -> Result<Json<DeployRecord>> {
    Ok(Json(app.fleet.abort(&name, &who(&bytes)?).await?))
}
