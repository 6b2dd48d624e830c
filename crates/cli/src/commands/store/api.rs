//! Asking the daemon's store over our own socket.

use crate::client::{Client, JsonLines, check, json};
use crate::error::{CliError, Result};
use hyper::{Method, header};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// gRPC's code of a server that is not there at the moment.
const UNAVAILABLE: i64 = 14;

/// Asks for one answer.
pub async fn call<T: DeserializeOwned>(client: &Client, path: &str, body: &Value) -> Result<T> {
    let path = format!("/v3/{path}");
    let answer = client.json(Method::POST, &path, Some(body)).await?;
    Ok(serde_json::from_value(answer)?)
}

/// Answers that come one by one.
pub struct Stream(JsonLines);

/// Asks for a stream of answers.
pub async fn stream(client: &Client, path: &str, body: &Value) -> Result<Stream> {
    let kind = [(header::CONTENT_TYPE, "application/json".to_owned())];
    let path = format!("/v3/{path}");
    let answer = client.send(Method::POST, &path, json(body), &kind).await?;
    Ok(Stream(JsonLines::new(check(answer).await?)))
}

impl Stream {
    /// The next answer, or nothing at the end.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let Some(mut line) = self.0.next().await? else {
            return Ok(None);
        };
        let error = &line["error"];
        if error.is_null() {
            return Ok(Some(serde_json::from_value(line["result"].take())?));
        }
        Err(CliError::Daemon {
            status: match error["grpc_code"].as_i64() {
                Some(UNAVAILABLE) => 503,
                _ => error["http_code"].as_u64().map_or(500, |code| code as u16),
            },
            message: error["message"].as_str().unwrap_or_default().to_owned(),
            diagnostics: Value::Null,
        })
    }
}

/// Whether the daemon has gone, or is on its way out, and the next one may be asked the same.
pub fn is_lost(error: &CliError) -> bool {
    matches!(
        error,
        CliError::Unreachable { .. }
            | CliError::Http(_)
            // A line that was cut.
            | CliError::Json(_)
            | CliError::Daemon { status: 503, .. }
    )
}
