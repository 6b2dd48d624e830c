//! Errors as Docker's API gives them: a status code and `{"message": …}`.

use axum::Json;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use coracle_engine::{EngineError, full_error};
use coracle_image::ErrorKind;
use coracle_network::NetworkError;
use coracle_sys::cgroup::CgroupError;
use serde_json::json;

/// An answer that is an error.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
}

/// What handlers return.
pub type Result<T = Response> = std::result::Result<T, ApiError>;

impl ApiError {
    /// With a status of one's own.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// The request cannot be read or honoured.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Nothing has that name.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// The status that is answered.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The text for people.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status == StatusCode::NOT_MODIFIED {
            return self.status.into_response();
        }
        (self.status, Json(json!({ "message": self.message }))).into_response()
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        use EngineError as E;
        let status = match &error {
            E::NotFound { .. } | E::NoSuchPath { .. } => StatusCode::NOT_FOUND,
            E::Forbidden(_) => StatusCode::FORBIDDEN,
            E::Ambiguous { .. } | E::Invalid(_) => StatusCode::BAD_REQUEST,
            E::Conflict(_) | E::NotPermitted(_) => StatusCode::CONFLICT,
            E::NotModified => StatusCode::NOT_MODIFIED,
            E::Start { code, message } => return start(*code, message),
            // The kernel takes no such value.
            E::Cgroup(CgroupError::Io {
                action: "write",
                source,
                ..
            }) if matches!(source.raw_os_error(), Some(22 | 34)) => StatusCode::BAD_REQUEST,
            E::Image(error) => image_status(error.kind()),
            E::Network(error) => network_status(error),
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, full_error(&error))
    }
}

impl From<coracle_build::BuildError> for ApiError {
    fn from(error: coracle_build::BuildError) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, full_error(&error))
    }
}

impl From<coracle_image::ImageError> for ApiError {
    fn from(error: coracle_image::ImageError) -> Self {
        Self::new(image_status(error.kind()), full_error(&error))
    }
}

impl From<coracle_image::ReferenceError> for ApiError {
    fn from(error: coracle_image::ReferenceError) -> Self {
        Self::invalid(full_error(&error))
    }
}

impl From<NetworkError> for ApiError {
    fn from(error: NetworkError) -> Self {
        Self::new(network_status(&error), full_error(&error))
    }
}

fn image_status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        // Docker answers so when a registry says no or cannot be reached.
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn network_status(error: &NetworkError) -> StatusCode {
    use NetworkError as N;
    match error {
        N::NotFound(_) => StatusCode::NOT_FOUND,
        N::NameTaken(_) | N::AlreadyConnected { .. } => StatusCode::CONFLICT,
        N::Predefined(_) | N::InUse { .. } | N::NotConnected { .. } => StatusCode::FORBIDDEN,
        N::BadName(_)
        | N::Ambiguous(_)
        | N::NoIpv6 { .. }
        | N::NoKernelIpv6(_)
        | N::Ipv6NotAsked { .. }
        | N::Unreadable { .. }
        | N::Second(_)
        | N::ReservedTwice(_)
        | N::Option { .. }
        | N::LinkTaken(_)
        | N::BadSubnet(_)
        | N::NoIpv6Backend { .. }
        | N::Overlap { .. }
        | N::OutsideSubnet { .. }
        | N::AddressTaken { .. } => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Docker's clients find the exit code, 127 or 126, by these words.
fn start(code: i32, message: &str) -> ApiError {
    let words = match code {
        127 => "executable file not found in $PATH",
        126 => "permission denied",
        _ => return ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message),
    };
    let text = if message.contains(words) {
        message.to_owned()
    } else {
        format!("{message}: {words}")
    };
    ApiError::invalid(text)
}

/// The answer to a path that is none.
pub async fn no_such_page(uri: Uri) -> ApiError {
    ApiError::not_found(format!(
        "{}: page not found, or not served by this release",
        uri.path()
    ))
}
