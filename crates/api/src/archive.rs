//! Files of containers: `cp`, `export`, `diff`.

use crate::App;
use crate::error::{ApiError, Result};
use crate::query::Query;
use crate::transfer::reader;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use chrono::SecondsFormat;
use coracle_engine::archive::{CopyOptions, PathStat};
use coracle_image::Produced;
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;

/// Base64 of what is at the path, as JSON.
const STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

fn path(query: &Query) -> Result<String> {
    let path = query.text("path").filter(|p| !p.is_empty());
    path.map(str::to_owned)
        .ok_or_else(|| ApiError::invalid("parameter path is missing: where in the container"))
}

fn stat_header(stat: &PathStat) -> HeaderValue {
    let text = json!({
        "name": stat.name,
        "size": stat.size,
        "mode": stat.mode,
        "mtime": stat.mtime.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        "linkTarget": stat.link_target,
    });
    let encoded = base64::engine::general_purpose::STANDARD.encode(text.to_string());
    // Base64 is ASCII.
    HeaderValue::from_str(&encoded).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn tar(archive: Produced) -> Response {
    let body = Body::from_stream(ReaderStream::with_capacity(archive, 256 << 10));
    ([(header::CONTENT_TYPE, "application/x-tar")], body).into_response()
}

/// `HEAD …/archive`.
pub async fn stat(State(app): State<App>, Path(id): Path<String>, query: Query) -> Result {
    let found = app.engine.path_stat(&id, &path(&query)?).await?;
    Ok(([(STAT, stat_header(&found))], ()).into_response())
}

/// `GET …/archive`.
pub async fn get(State(app): State<App>, Path(id): Path<String>, query: Query) -> Result {
    let (found, archive) = app.engine.archive(&id, &path(&query)?).await?;
    let mut answer = tar(archive);
    answer.headers_mut().insert(STAT, stat_header(&found));
    Ok(answer)
}

/// `PUT …/archive`.
pub async fn put(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Query,
    request: Request,
) -> Result<StatusCode> {
    let options = CopyOptions {
        keep_kinds: query.flag("noOverwriteDirNonDir"),
        own: query.flag("copyUIDGID"),
    };
    let path = path(&query)?;
    let archive = reader(request);
    app.engine.copy_in(&id, &path, options, archive).await?;
    Ok(StatusCode::OK)
}

/// `GET …/export`.
pub async fn export(State(app): State<App>, Path(id): Path<String>) -> Result {
    Ok(tar(app.engine.export(&id).await?))
}

/// `GET …/changes`.
pub async fn changes(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Value>> {
    let found = app.engine.changes(&id).await?;
    let list: Vec<Value> = found
        .iter()
        .map(|c| json!({ "Path": c.path, "Kind": c.kind as u8 }))
        .collect();
    Ok(Json(if list.is_empty() {
        Value::Null
    } else {
        json!(list)
    }))
}
