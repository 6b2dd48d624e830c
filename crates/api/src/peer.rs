//! Images for other machines of the cluster: what [`coracle_image::peers`] asks, answered. Whoever mounts these routes lets members in
//! only: private images are among what is served.

use crate::error::{ApiError, Result};
use crate::query::Query;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use coracle_image::peers::{Content, Held, Here, VERSION};
use coracle_image::{Digest, ErrorKind, ImageError, ImageStore, Reference};
use tokio_util::io::ReaderStream;

/// Digests that one question may have.
const MOST: usize = 1000;
/// Bytes of a piece.
const PIECE: usize = 256 << 10;

/// `GET /v1/images?reference=NAME`, `GET /v1/content?digests=HEX,…`, and GET and HEAD of `/v1/content/sha256:HEX` with ranges that begin
/// somewhere and go to the end. Errors are `{"message": …}` with 400 for what cannot be read, and 404 for what is not here.
pub fn routes(images: ImageStore) -> Router {
    Router::new()
        .route("/v1/images", get(held))
        .route("/v1/content", get(here))
        .route("/v1/content/{digest}", get(content))
        .with_state(images)
}

/// Waits on the disk elsewhere than the requests do.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ImageError::Interrupted.into())
}

async fn held(State(images): State<ImageStore>, query: Query) -> Result<Json<Held>> {
    let name = query
        .text("reference")
        .ok_or_else(|| ApiError::invalid("parameter reference is missing: the image's name"))?;
    let reference = Reference::parse_normalized(name)?;
    let found = blocking(move || images.held(&reference)).await?;
    Ok(Json(found?))
}

async fn here(State(images): State<ImageStore>, query: Query) -> Result<Json<Here>> {
    let text = query.text("digests").unwrap_or_default();
    let digests: std::result::Result<Vec<Digest>, _> = text
        .split(',')
        .take(MOST + 1)
        .map(Digest::from_hex)
        .collect();
    let digests = digests.map_err(|e| ApiError::invalid(format!("parameter digests: {e}")))?;
    if digests.len() > MOST {
        return Err(ApiError::invalid(format!(
            "parameter digests has more than {MOST} of them; ask twice"
        )));
    }
    let here = blocking(move || images.here(&digests)).await?;
    Ok(Json(Here {
        version: VERSION,
        here,
    }))
}

async fn content(
    State(images): State<ImageStore>,
    Path(digest): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result {
    let digest: Digest = digest
        .parse()
        .map_err(|e| ApiError::invalid(coracle_engine::full_error(&e)))?;
    let from = headers
        .get(header::RANGE)
        .and_then(|r| begins(r.to_str().ok()?));
    if method == Method::HEAD {
        let length = blocking(move || images.content_length(&digest)).await??;
        return answer(Body::empty(), length, None);
    }
    let opened = blocking(move || images.open_content(&digest, from.unwrap_or(0))).await?;
    let Content { bytes, length } = opened.map_err(|error| match error.kind() {
        ErrorKind::NotFound => ApiError::not_found(format!("{digest} is not here")),
        _ => error.into(),
    })?;
    if let (Some(from), Some(length)) = (from, length)
        && from > length
    {
        return Err(ApiError::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            format!("{digest} has {length} bytes, and {from} of them were to be left out"),
        ));
    }
    let body = Body::from_stream(ReaderStream::with_capacity(bytes, PIECE));
    answer(body, length, from)
}

/// The answer with a body of all bytes from `from` on.
fn answer(body: Body, length: Option<u64>, from: Option<u64>) -> Result {
    let mut answer = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ACCEPT_RANGES, "bytes");
    if let Some(from) = from {
        let whole = length.map_or_else(|| "*".to_owned(), |l| l.to_string());
        let last = length.map_or_else(String::new, |l| l.saturating_sub(1).to_string());
        answer = answer.status(StatusCode::PARTIAL_CONTENT).header(
            header::CONTENT_RANGE,
            format!("bytes {from}-{last}/{whole}"),
        );
    }
    if let Some(length) = length {
        let left = length.saturating_sub(from.unwrap_or(0));
        answer = answer.header(header::CONTENT_LENGTH, left);
    }
    let made = answer
        .body(body)
        .map_err(|e| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    Ok(made.into_response())
}

/// Where a range begins that goes to the end; others are not honoured, as RFC 9110 allows.
fn begins(range: &str) -> Option<u64> {
    let from = range.strip_prefix("bytes=")?.strip_suffix('-')?;
    from.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn ranges() {
        assert_eq!(super::begins("bytes=0-"), Some(0));
        assert_eq!(super::begins("bytes=17-"), Some(17));
        for other in ["bytes=-5", "bytes=1-2", "bytes=1-2,5-", "lines=1-", ""] {
            assert_eq!(super::begins(other), None, "{other}");
        }
    }
}
