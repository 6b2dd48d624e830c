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
    #[error("{}", coracle_os::history::PATH)]
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
    #[error("writing {0}")]
    Write(String, #[source] io::Error),
    #[error(
        "no repository is named that updates come from: write coreos.update.server into the cloud-config, or name an image"
    )]
    NoChannel,
    #[error("\"{0}\" is no channel: a channel is a tag, such as stable")]
    Channel(String),
    #[error(transparent)]
    Reference(#[from] coracle_image::ReferenceError),
    #[error(transparent)]
    Wait(#[from] coracle_os::turns::Wait),
    #[error("the store does not answer")]
    Silent,
    #[error(transparent)]
    Store(#[from] coracle_store::StoreError),
    #[error("{0} of the store has format {1}, which came with a later release")]
    Newer(String, u32),
    #[error("{0} of the store")]
    Record(String, #[source] serde_json::Error),
    #[error(transparent)]
    Ask(#[from] crate::error::CliError),
    #[error(
        "waits for {0}: the store has no majority without this machine as long as they are not in step"
    )]
    StoreWouldStop(String),
    #[error("the window closed before the restart")]
    Closed,
    #[error(
        "the drain of this machine was ended by somebody else; the update is tried again later"
    )]
    Undrained,
    #[error("the turn of this machine was taken away; the update is tried again later")]
    TurnTaken,
    #[error("these units do not move away, so the machine does not restart: {}", .0.join(", "))]
    Drain(Vec<String>),
    #[error("of the machines that have a turn: {0}")]
    NoTurn(String),
    #[error("the rollout of release {0} is not stopped; `coracle os rollout` shows what is")]
    NotStopped(semver::Version),
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
            | Self::Same(_)
            | Self::NoChannel
            | Self::Wait(_)
            | Self::NotStopped(_) => StatusCode::CONFLICT,
            Self::Body(_)
            | Self::Configuration(_)
            | Self::Release(_)
            | Self::NoUpdate(..)
            | Self::Read(..)
            | Self::Etcd { .. }
            | Self::Channel(_)
            | Self::Reference(_) => StatusCode::BAD_REQUEST,
            Self::Image(coracle_image::ImageError::NotFound { .. }) | Self::NoTurn(_) => {
                StatusCode::NOT_FOUND
            }
            Self::Silent
            | Self::Store(coracle_store::StoreError::Unreachable { .. })
            | Self::StoreWouldStop(_) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let message = json!({ "message": coracle_engine::full_error(&self) });
        (code, Json(message)).into_response()
    }
}
