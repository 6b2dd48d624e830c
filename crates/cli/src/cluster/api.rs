//! What our own socket has about the cluster.

use super::Cluster;
use super::admit::ClusterError;
use super::snapshots::shown;
use super::status::{brief, status};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use coracle_cluster::join::Voter;
use coracle_engine::full_error;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long a token is good if nothing is said.
const TTL: u64 = 24 * 3600;

/// `/v1/cluster/…` and the removal of machines.
pub fn routes(cluster: Arc<Cluster>) -> Router {
    Router::new()
        .route("/v1/cluster", get(brief))
        .route("/v1/cluster/status", get(status))
        .route("/v1/cluster/token", post(token))
        .route("/v1/cluster/enter", post(enter))
        .route("/v1/cluster/leave", post(leave))
        .route("/v1/cluster/snapshots", get(snapshots).post(snapshot))
        .route("/v1/cluster/recover", get(plan).post(recover))
        .route("/v1/cluster/etcd", get(etcd))
        .route("/v1/cluster/voters", get(voters))
        .route("/v1/machines/{name}", delete(remove))
        .with_state(cluster)
}

impl IntoResponse for ClusterError {
    fn into_response(self) -> Response {
        let code = match &self {
            Self::NotEmpty { .. }
            | Self::Member
            | Self::NoMember
            | Self::CannotLeave(_)
            | Self::CannotRecover(_)
            | Self::CannotCopy(_) => StatusCode::CONFLICT,
            Self::NoVoter { .. } => StatusCode::MISDIRECTED_REQUEST,
            Self::Token(_) | Self::NoAddress => StatusCode::BAD_REQUEST,
            Self::Join(_) => StatusCode::BAD_GATEWAY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let message = json!({ "message": full_error(&self) });
        (code, Json(message)).into_response()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenOf {
    /// Seconds.
    ttl: Option<u64>,
    uses: Option<u32>,
}

async fn token(
    State(cluster): State<Arc<Cluster>>,
    Json(asked): Json<TokenOf>,
) -> Result<Json<Value>, ClusterError> {
    let ttl = Duration::from_secs(asked.ttl.unwrap_or(TTL));
    let token = cluster
        .token(ttl, asked.uses.unwrap_or(1), "operator")
        .await?;
    Ok(Json(json!({
        "token": token.to_string(),
        "address": cluster.advertise.to_string(),
        "ttl": ttl.as_secs(),
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Enter {
    address: String,
    token: String,
    #[serde(default)]
    discard: bool,
}

async fn enter(
    State(cluster): State<Arc<Cluster>>,
    Json(asked): Json<Enter>,
) -> Result<StatusCode, ClusterError> {
    // A client that leaves must not leave it half done.
    let task = tokio::spawn(async move {
        cluster
            .join(&asked.address, &asked.token, asked.discard)
            .await
    });
    task.await
        .map_err(|e| ClusterError::File(std::io::Error::other(e)))??;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Leave {
    #[serde(default)]
    force: bool,
}

async fn leave(
    State(cluster): State<Arc<Cluster>>,
    Json(asked): Json<Leave>,
) -> Result<StatusCode, ClusterError> {
    let task = tokio::spawn(async move { cluster.leave(asked.force).await });
    task.await
        .map_err(|e| ClusterError::File(std::io::Error::other(e)))??;
    Ok(StatusCode::NO_CONTENT)
}

async fn snapshots(State(cluster): State<Arc<Cluster>>) -> Json<Value> {
    let list: Vec<Value> = cluster.copies().iter().map(shown).collect();
    Json(json!({ "snapshots": list }))
}

async fn snapshot(State(cluster): State<Arc<Cluster>>) -> Result<Json<Value>, ClusterError> {
    Ok(Json(shown(&cluster.take_copy().await?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recover {
    from: Option<PathBuf>,
}

async fn plan(
    State(cluster): State<Arc<Cluster>>,
    Query(asked): Query<Recover>,
) -> Result<Json<Value>, ClusterError> {
    let plan = cluster.plan(asked.from.as_deref()).await?;
    Ok(Json(cluster.shown_plan(&plan)))
}

async fn recover(
    State(cluster): State<Arc<Cluster>>,
    Json(asked): Json<Recover>,
) -> Result<Json<Value>, ClusterError> {
    let task = tokio::spawn(async move { cluster.recover(asked.from.as_deref()).await });
    let done = task.await;
    Ok(Json(done.map_err(|e| {
        ClusterError::File(std::io::Error::other(e))
    })??))
}

async fn remove(
    State(cluster): State<Arc<Cluster>>,
    Path(machine): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, ClusterError> {
    let id = cluster.find(&machine)?;
    // Others may take off the one that leads, which is where they are sent with it.
    if id == cluster.machine && !headers.contains_key(super::lead::LED) {
        return Err(ClusterError::CannotLeave(
            "a machine leaves by `coracle leave`, asked of itself".into(),
        ));
    }
    // A client that leaves must not leave it half done.
    let task = tokio::spawn(async move {
        cluster.hand_over(&id).await?;
        cluster.strike(&id).await
    });
    task.await
        .map_err(|e| ClusterError::File(std::io::Error::other(e)))??;
    Ok(StatusCode::NO_CONTENT)
}

impl Cluster {
    /// A machine by its id, host name, or the only beginning of an id.
    fn find(&self, text: &str) -> Result<coracle_cluster::MachineId, ClusterError> {
        let neighbours = self.neighbours.borrow();
        let fits: Vec<&String> = neighbours
            .iter()
            .filter(|(id, n)| n.hostname == text || id.starts_with(text))
            .map(|(id, _)| id)
            .collect();
        let none = || {
            let known: Vec<&str> = neighbours.values().map(|n| n.hostname.as_str()).collect();
            ClusterError::CannotLeave(format!(
                "no one machine \"{text}\" is known; there are {}",
                known.join(", ")
            ))
        };
        match fits.as_slice() {
            [one] => one.parse().map_err(|_| none()),
            _ => Err(none()),
        }
    }
}

/// How this machine's etcd stands.
async fn etcd(State(cluster): State<Arc<Cluster>>) -> Response {
    match cluster.own_health().await {
        Ok(health) => Json(health).into_response(),
        Err(message) => {
            let message = Json(json!({ "message": message }));
            (StatusCode::SERVICE_UNAVAILABLE, message).into_response()
        }
    }
}

/// Who has the store, as far as is known here.
async fn voters(State(cluster): State<Arc<Cluster>>) -> Json<Vec<Voter>> {
    Json(cluster.voters.borrow().clone())
}
