//! What can go wrong with the system, and how a client is told.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use coracle_os::{install::InstallError, machine::MachineError, release::ReleaseError};
use serde_json::json;
use std::io;

/// Why something about the system was not done.
#[derive(Debug, thiserror::Error)]
pub enum OsError {
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Release(#[from] ReleaseError),
    #[error(transparent)]
    Install(#[from] InstallError),
    #[error("the configuration has mistakes: {0}")]
    Configuration(String),
    #[error("the request's body is none of this request")]
    Body(#[source] serde_json::Error),
    #[error("/var/lib/coracle-os/updates.json")]
    History(#[source] io::Error),
    #[error("an update or an installation is under way already")]
    Busy,
    #[error("the release that runs is on trial still; `coracle os status` shows when it is proven")]
    OnTrial,
    #[error("{0} has no {1}: it is no update of Coracle's image")]
    NoUpdate(String, &'static str),
    #[error("reading {0}")]
    Read(String, #[source] io::Error),
    #[error("release {0} is what runs here already")]
    Same(semver::Version),
    #[error(
        "etcd {from} here and {to} in the update are more than one minor release apart: update to a release in between first"
    )]
    Etcd { from: String, to: String },
    #[error(transparent)]
    Image(#[from] coracle_image::ImageError),
    #[error("restarting the machine")]
    Restart(#[source] io::Error),
    #[error("it was interrupted")]
    Interrupted,
}

impl OsError {
    /// Whether the machine simply runs another system.
    pub fn is_another_system(&self) -> bool {
        matches!(self, Self::Machine(MachineError::NotOurs))
    }
}

impl IntoResponse for OsError {
    fn into_response(self) -> Response {
        let code = match &self {
            Self::Machine(MachineError::NotOurs | MachineError::Empty(_))
            | Self::Busy
            | Self::OnTrial
            | Self::Same(_) => StatusCode::CONFLICT,
            Self::Body(_)
            | Self::Configuration(_)
            | Self::Release(_)
            | Self::NoUpdate(..)
            | Self::Read(..)
            | Self::Etcd { .. } => StatusCode::BAD_REQUEST,
            Self::Image(coracle_image::ImageError::NotFound { .. }) => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let message = json!({ "message": coracle_engine::full_error(&self) });
        (code, Json(message)).into_response()
    }
}
