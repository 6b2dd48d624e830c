//! Our own API: units and machines, under `/v1`.

use crate::App;
use crate::containers::{body, request_id};
use crate::error::{ApiError, Result};
use crate::query::Query;
use crate::streams::{log_answer, log_query, shown};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use coracle_engine::full_error;
use coracle_fleet::{Dropin, FleetError, UnitView};
use serde::Deserialize;
use serde_json::{Value, json};

/// Header of an answer that is not whole, with the reason: the rest is on machines or in a store that cannot be asked.
pub const PARTIAL: &str = "coracle-partial";

impl From<FleetError> for ApiError {
    fn from(error: FleetError) -> Self {
        let status = match &error {
            FleetError::NotFound(_)
            | FleetError::NoRevision { .. }
            | FleetError::NoMachine { .. }
            | FleetError::NoVolume(_) => StatusCode::NOT_FOUND,
            FleetError::Name(_)
            | FleetError::Refused(_)
            | FleetError::Unsupported { .. }
            | FleetError::Template(..)
            | FleetError::AmbiguousMachine { .. }
            | FleetError::Label { .. }
            | FleetError::Translate(_)
            | FleetError::Order(_) => StatusCode::BAD_REQUEST,
            FleetError::Failed { .. } | FleetError::Waits { .. } | FleetError::Senseless { .. } => {
                StatusCode::CONFLICT
            }
            FleetError::Silent { .. } | FleetError::NotDestroyed { .. } => {
                StatusCode::GATEWAY_TIMEOUT
            }
            FleetError::Leaving | FleetError::NotLeader | FleetError::Back(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            FleetError::Engine(_) => match error {
                FleetError::Engine(engine) => return engine.into(),
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, full_error(&error))
    }
}

pub async fn list(State(app): State<App>) -> Json<Vec<UnitView>> {
    Json(app.fleet.list())
}

pub async fn get(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Value>> {
    let (view, text) = app.fleet.get(&name).await?;
    let mut answer = json!(view);
    answer["text"] = json!(text.text);
    answer["dropins"] = json!(text.dropins);
    Ok(Json(answer))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Submit {
    text: String,
    dropins: Vec<Dropin>,
}

pub async fn submit(
    State(app): State<App>,
    Path(name): Path<String>,
    bytes: bytes::Bytes,
) -> Result {
    let asked: Submit = body(&bytes)?;
    match app.fleet.submit(&name, &asked.text, asked.dropins).await {
        Ok(view) => Ok(Json(view).into_response()),
        Err(FleetError::Refused(problems)) => {
            let answer = json!({ "message": problems.to_string(), "diagnostics": problems.0 });
            Ok((StatusCode::BAD_REQUEST, Json(answer)).into_response())
        }
        Err(error) => Err(error.into()),
    }
}

pub async fn destroy(State(app): State<App>, Path(name): Path<String>) -> Result<StatusCode> {
    app.fleet.destroy(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn start(
    State(app): State<App>,
    Path(name): Path<String>,
    query: Query,
    headers: HeaderMap,
) -> Result<Json<UnitView>> {
    let block = query.flag_or("block", true);
    let started = app
        .fleet
        .start_once(&name, block, request_id(&headers))
        .await?;
    Ok(Json(started))
}

pub async fn stop(
    State(app): State<App>,
    Path(name): Path<String>,
    query: Query,
) -> Result<Json<UnitView>> {
    Ok(Json(
        app.fleet.stop(&name, query.flag_or("block", true)).await?,
    ))
}

pub async fn restart(
    State(app): State<App>,
    Path(name): Path<String>,
    query: Query,
) -> Result<Json<UnitView>> {
    Ok(Json(
        app.fleet
            .restart(&name, query.flag_or("block", true))
            .await?,
    ))
}

pub async fn reload(State(app): State<App>, Path(name): Path<String>) -> Result<Json<UnitView>> {
    Ok(Json(app.fleet.reload(&name).await?))
}

pub async fn logs(
    State(app): State<App>,
    Path(name): Path<String>,
    query: Query,
) -> Result<Response> {
    let mut asked = log_query(&query)?;
    if !asked.stdout && !asked.stderr {
        (asked.stdout, asked.stderr) = (true, true);
    }
    let lines = app.fleet.logs(&name, asked)?;
    Ok(log_answer(lines, false, shown(&query)))
}
