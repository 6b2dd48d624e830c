//! A container's life, by request.

use crate::App;
use crate::error::{ApiError, Result};
use crate::filters::Filters;
use crate::query::Query;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use coracle_engine::Engine;
use coracle_engine::events::Event;
use coracle_engine::model::CreateRequest;
use coracle_engine::record::Phase;
use coracle_engine::remove::RemoveOptions;
use coracle_engine::stop::Until;
use serde_json::{Value, json};

const NO_CONTENT: StatusCode = StatusCode::NO_CONTENT;

/// Reads a JSON body; an empty one is the type's default.
pub fn body<T: serde::de::DeserializeOwned + Default>(bytes: &[u8]) -> Result<T> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    serde_json::from_slice(bytes)
        .map_err(|e| ApiError::invalid(format!("the request's body cannot be read: {e}")))
}

pub async fn create(State(app): State<App>, query: Query, bytes: bytes::Bytes) -> Result {
    let request: CreateRequest = body(&bytes)?;
    let platform = query.text("platform");
    if platform.is_some() && app.engine.images().get(&request.config.image).is_ok() {
        crate::platform::check_platform(&app.engine, &request.config.image, platform)?;
    }
    let created = app
        .engine
        .create(query.text("name"), request)
        .await
        .map_err(|error| {
            // Docker's clients pull when they read these words.
            match error {
                coracle_engine::EngineError::Image(e)
                    if e.kind() == coracle_image::ErrorKind::NotFound =>
                {
                    ApiError::not_found(coracle_engine::full_error(&e))
                }
                // They would pull the image for anything else that is not there, too.
                other => match ApiError::from(other) {
                    error if error.status() == StatusCode::NOT_FOUND => {
                        ApiError::invalid(error.message().to_owned())
                    }
                    error => error,
                },
            }
        })?;
    let answer = json!({ "Id": created.id, "Warnings": created.warnings });
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// Header with an id of the request that its client made up. A start that is asked again with it, because the daemon went
/// away with the question, is not done twice.
pub const REQUEST: &str = "coracle-request";

/// The client's id of a request.
pub fn request_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(REQUEST)?.to_str().ok()?;
    (1..=64).contains(&id.len()).then_some(id)
}

pub async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    bytes: bytes::Bytes,
) -> Result<Json<Value>> {
    app.engine.update(&id, body(&bytes)?).await?;
    Ok(Json(json!({ "Warnings": [] })))
}

pub async fn start(State(app): State<App>, Path(id): Path<String>, headers: HeaderMap) -> Result {
    app.engine.start_once(&id, request_id(&headers)).await?;
    Ok(NO_CONTENT.into_response())
}

pub async fn stop(State(app): State<App>, Path(id): Path<String>, query: Query) -> Result {
    app.engine
        .stop(&id, query.text("signal"), query.timeout("t")?)
        .await?;
    Ok(NO_CONTENT.into_response())
}

pub async fn restart(State(app): State<App>, Path(id): Path<String>, query: Query) -> Result {
    app.engine
        .restart(&id, query.text("signal"), query.timeout("t")?)
        .await?;
    Ok(NO_CONTENT.into_response())
}

pub async fn kill(State(app): State<App>, Path(id): Path<String>, query: Query) -> Result {
    app.engine
        .kill(&id, query.text("signal").unwrap_or("KILL"))
        .await?;
    Ok(NO_CONTENT.into_response())
}

pub async fn pause(State(app): State<App>, Path(id): Path<String>) -> Result {
    app.engine.pause(&id).await?;
    Ok(NO_CONTENT.into_response())
}

pub async fn unpause(State(app): State<App>, Path(id): Path<String>) -> Result {
    app.engine.unpause(&id).await?;
    Ok(NO_CONTENT.into_response())
}

pub async fn rename(State(app): State<App>, Path(id): Path<String>, query: Query) -> Result {
    let name = query
        .text("name")
        .ok_or_else(|| ApiError::invalid("New name cannot be empty"))?;
    app.engine.rename(&id, name).await?;
    Ok(NO_CONTENT.into_response())
}

pub async fn remove(State(app): State<App>, Path(id): Path<String>, query: Query) -> Result {
    if query.flag("link") {
        return Err(ApiError::invalid(
            "legacy links are not supported; remove the container itself",
        ));
    }
    let options = RemoveOptions {
        force: query.flag("force"),
        volumes: query.flag("v"),
    };
    app.engine.remove(&id, options).await?;
    Ok(NO_CONTENT.into_response())
}

/// A wait's condition.
pub fn until(condition: Option<&str>) -> Result<Until> {
    match condition {
        None | Some("not-running") => Ok(Until::NotRunning),
        Some("next-exit") => Ok(Until::NextExit),
        Some("removed") => Ok(Until::Removed),
        Some(other) => Err(ApiError::invalid(format!("invalid condition: \"{other}\""))),
    }
}

/// The headers go out at once: clients start the container only when they have them.
pub async fn wait(State(app): State<App>, Path(id): Path<String>, query: Query) -> Result {
    let waiter = app.engine.waiter(&id, until(query.text("condition"))?)?;
    let answer = async move {
        let answer = match waiter.await {
            // The error of a failed start went to whoever started it.
            Ok(waited) => json!({ "StatusCode": waited.code }),
            Err(error) => {
                json!({ "StatusCode": -1, "Error": { "Message": coracle_engine::full_error(&error) } })
            }
        };
        Ok::<_, std::convert::Infallible>(format!("{answer}\n"))
    };
    let stream = Body::from_stream(futures_util::stream::once(answer));
    Ok(([(header::CONTENT_TYPE, "application/json")], stream).into_response())
}

/// Rows and columns of a resize.
pub fn rows_and_columns(query: &Query) -> Result<(u16, u16)> {
    Ok((
        query.number("h")?.unwrap_or(0),
        query.number("w")?.unwrap_or(0),
    ))
}

pub async fn resize(State(app): State<App>, Path(id): Path<String>, query: Query) -> Result {
    let (rows, columns) = rows_and_columns(&query)?;
    app.engine.resize(&id, None, rows, columns).await?;
    Ok(StatusCode::OK.into_response())
}

pub async fn prune(State(app): State<App>, query: Query) -> Result<Json<Value>> {
    let filters = Filters::read(query.text("filters"), &["until", "label", "label!"])?;
    let (mut removed, mut bytes) = (Vec::new(), 0);
    for snapshot in app.engine.list() {
        let record = &snapshot.record;
        let idle = matches!(
            record.state.phase,
            Phase::Created | Phase::Exited | Phase::Dead
        );
        let old = filters.any("until", |until| crate::list::before(record.created, until));
        if idle && old && filters.labels(&record.config.labels) {
            let (engine, of) = (app.engine.clone(), record.clone());
            let measured = move || crate::inspect::sizes(&engine, &of).0;
            let size = tokio::task::spawn_blocking(measured).await;
            // One that was started meanwhile stays.
            if app
                .engine
                .remove(record.id.as_str(), RemoveOptions::default())
                .await
                .is_ok()
            {
                removed.push(record.id.to_string());
                bytes += size.unwrap_or(0);
            }
        }
    }
    tell_prune(&app.engine, "container", bytes);
    Ok(Json(
        json!({ "ContainersDeleted": removed, "SpaceReclaimed": bytes }),
    ))
}

/// Says how much room a prune has made, in bytes.
pub fn tell_prune(engine: &Engine, kind: &str, bytes: u64) {
    let attributes = [("reclaimed".to_owned(), bytes.to_string())].into();
    engine.publish(Event::now(kind, "prune", "", attributes));
}

/// What `ps` of the machine says of the container's processes.
pub async fn top(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Query,
) -> Result<Json<Value>> {
    let pids = app.engine.pids(&id)?;
    let arguments = query.text("ps_args").unwrap_or("-ef").to_owned();
    if arguments.contains('\0') {
        return Err(ApiError::invalid("parameter ps_args has a NUL byte"));
    }
    let ps = async |more: Option<String>| {
        let words = arguments.split_whitespace().map(str::to_owned).chain(more);
        let output = tokio::process::Command::new("ps").args(words).output();
        output.await.map_err(|e| {
            ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("ps cannot be run ({e}); install the Debian package procps"),
            )
        })
    };
    let list: Vec<String> = pids.iter().map(ToString::to_string).collect();
    let mut output = ps(Some(format!("-q{}", list.join(",")))).await?;
    if !output.status.success() {
        // Some of its options do not go with a list of processes.
        output = ps(None).await?;
    }
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(ApiError::invalid(format!("ps {arguments}: {}", why.trim())));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines();
    let titles: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let at = titles.iter().position(|t| *t == "PID").ok_or_else(|| {
        ApiError::invalid(format!(
            "ps {arguments} shows no column PID, by which a container's processes are found"
        ))
    })?;
    let rows: Vec<Vec<String>> = lines
        .map(|line| columns(line, titles.len()))
        .filter(|row| {
            row.get(at)
                .and_then(|p| p.parse().ok())
                .is_some_and(|p| pids.contains(&p))
        })
        .collect();
    Ok(Json(json!({ "Titles": titles, "Processes": rows })))
}

/// The last column is a command, with spaces in it.
fn columns(line: &str, count: usize) -> Vec<String> {
    let mut rest = line.trim_start();
    let mut row = Vec::new();
    while row.len() + 1 < count {
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        row.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
    }
    row.push(rest.trim_end().to_owned());
    row
}

/// A JSON answer that comes in lines.
pub fn json_stream(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_keeps_its_spaces() {
        assert_eq!(columns("root  1  sh -c  x ", 3), ["root", "1", "sh -c  x"]);
    }
}
