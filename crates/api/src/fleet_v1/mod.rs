//! fleet's API, version 1, below `/fleet/v1`: units, where they stand, and machines, in fleet's words.
//!
//! | path | method | answer |
//! | --- | --- | --- |
//! | `/units` | GET | a page of units |
//! | `/units/{name}` | GET, PUT, DELETE | one unit; 201 or 204; 204 |
//! | `/state` | GET | a page of states, of one machine or one unit by `machineID` and `unitName` |
//! | `/state/{name}` | GET | one unit's state |
//! | `/machines` | GET | a page of machines that are there |
//! | `/discovery` | GET | this table for programs |
//!
//! Errors are `{"error":{"code":…,"message":…}}`. A page has 100 entries at most; its `nextPageToken` names the last of them,
//! so that what comes and goes meanwhile makes no other entry be missed or told twice. docs/fleet.md says what differs from
//! fleet.

mod discovery;
mod machines;
mod options;
mod page;
mod state;
mod units;

use crate::App;
use crate::error::ApiError;
use axum::extract::Request;
use axum::http::{StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use coracle_fleet::FleetError;
use serde_json::{Value, json};

pub use machines::own_address;
pub use options::{hash, options};

/// Longest text of an error that is none of ours.
const LONGEST: usize = 4096;

/// Every route, without `/fleet/v1`.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/units", get(units::list))
        .route(
            "/units/{name}",
            get(units::get).put(units::set).delete(units::destroy),
        )
        .route("/state", get(state::list))
        .route("/state/{name}", get(state::get))
        .route("/machines", get(machines::list))
        .route("/discovery", get(discovery::document))
        .fallback(no_such_page)
        .method_not_allowed_fallback(no_such_method)
        .layer(axum::middleware::from_fn(told))
}

/// Marks an error that has fleet's form.
#[derive(Clone, Copy)]
struct InForm;

/// Gives errors fleet's form that were made before a handler of ours was asked.
async fn told(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let error = status.is_client_error() || status.is_server_error();
    if !error || response.extensions().get::<InForm>().is_some() {
        return response;
    }
    let body = axum::body::to_bytes(response.into_body(), LONGEST).await;
    let text = body.map_or_else(
        |_| String::new(),
        |b| String::from_utf8_lossy(&b).into_owned(),
    );
    let known: Value = serde_json::from_str(&text).unwrap_or_default();
    let message = known["message"].as_str().map_or(text, str::to_owned);
    Refused::new(status, message).into_response()
}

/// An answer that is an error.
#[derive(Debug)]
struct Refused {
    status: StatusCode,
    message: String,
}

type Result<T> = std::result::Result<T, Refused>;

impl Refused {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    fn no_unit() -> Self {
        Self::new(StatusCode::NOT_FOUND, "unit does not exist")
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let error = json!({ "code": self.status.as_u16(), "message": self.message });
        let mut response = (self.status, Json(json!({ "error": error }))).into_response();
        response.extensions_mut().insert(InForm);
        response
    }
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::new(error.status(), error.message())
    }
}

impl From<FleetError> for Refused {
    fn from(error: FleetError) -> Self {
        match error {
            FleetError::NotFound(_) => Self::no_unit(),
            error => ApiError::from(error).into(),
        }
    }
}

async fn no_such_page(uri: Uri) -> Refused {
    let message = format!("fleet's API has no {}; /discovery lists it", uri.path());
    Refused::new(StatusCode::NOT_FOUND, message)
}

async fn no_such_method() -> Refused {
    let message = "this method is not supported here; /discovery lists what is";
    Refused::new(StatusCode::METHOD_NOT_ALLOWED, message)
}
