//! What other engines have and this one does not: answered as an engine that is no swarm member does, or refused by name.

use crate::App;
use crate::error::ApiError;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::{any, get};
use axum::{Json, Router};
use serde_json::{Value, json};

/// Every route of them.
pub fn routes() -> Router<App> {
    let mut router = Router::new();
    for kind in ["nodes", "services", "tasks", "secrets", "configs"] {
        router = router
            .route(&format!("/{kind}"), any(no_manager))
            .route(&format!("/{kind}/{{*rest}}"), any(no_manager));
    }
    router
        .route("/swarm", any(no_manager))
        .route("/swarm/{verb}", any(swarm))
        .route("/plugins", get(plugins))
        .route("/plugins/{*rest}", any(no_plugins))
        .route("/session", any(no_buildkit))
        .route("/grpc", any(no_buildkit))
}

fn refused(what: &str) -> ApiError {
    ApiError::new(StatusCode::NOT_IMPLEMENTED, what)
}

/// As dockerd answers where no swarm was begun.
pub async fn no_manager() -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "This node is not a swarm manager. Coracle runs units instead of services: see `coracle unit`",
    )
}

async fn swarm(Path(verb): Path<String>) -> ApiError {
    match verb.as_str() {
        "init" | "join" => refused(
            "swarm mode is not supported; Coracle runs units instead of services: see `coracle unit`",
        ),
        "leave" => ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "This node is not part of a swarm",
        ),
        _ => no_manager().await,
    }
}

async fn plugins() -> Json<Value> {
    Json(json!([]))
}

async fn no_plugins() -> ApiError {
    refused(
        "plugins are not supported; volumes use the driver local, networks bridge, host and none",
    )
}

async fn no_buildkit() -> ApiError {
    refused("BuildKit is not served by this release; set DOCKER_BUILDKIT=0")
}
