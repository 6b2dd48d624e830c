//! What our own socket has about the cluster.

use super::error::ClusterError;
use super::snapshots::shown;
use super::status::{brief, status};
use super::{Cluster, clients, tokens};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Json, Router};
use coracle_api::machines::{Known, resolve};
use coracle_cluster::MachineId;
use coracle_cluster::door::Peer;
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
        .route("/v1/cluster/tokens", get(tokens::all))
        .route("/v1/cluster/tokens/{id}", delete(tokens::end))
        .route("/v1/cluster/enter", post(enter))
        .route("/v1/cluster/leave", post(leave))
        .route("/v1/cluster/snapshots", get(snapshots).post(snapshot))
        .route("/v1/cluster/recover", get(plan).post(recover))
        .route("/v1/cluster/etcd", get(etcd))
        .route("/v1/cluster/voters", get(voters))
        .route("/v1/machines/{name}", delete(remove))
        .route("/v1/clients", get(clients::all).post(clients::add))
        .route("/v1/clients/{name}", delete(clients::end))
        .route("/v1/machine-cas", get(clients::authorities))
        .with_state(cluster)
}

/// What this machine's door has of that for the others: machines are taken off, one by its own word, others by what an operator
/// asks of the socket of some machine; how its etcd stands and who has the store is told. All else is asked of a machine itself.
pub(super) fn door_routes(cluster: Arc<Cluster>) -> Router {
    Router::new()
        .route("/v1/cluster/etcd", get(etcd))
        .route("/v1/cluster/voters", get(voters).post(told))
        .route("/v1/machines/{name}", delete(remove_from_there))
        .with_state(cluster)
}

impl IntoResponse for ClusterError {
    fn into_response(self) -> Response {
        let code = match &self {
            Self::NotEmpty { .. }
            | Self::Pool { .. }
            | Self::Member
            | Self::NoMember
            | Self::CannotLeave(_)
            | Self::CannotRecover(_)
            | Self::ClientTaken(_)
            | Self::CannotCopy(_) => StatusCode::CONFLICT,
            Self::Unknown(_) => StatusCode::NOT_FOUND,
            Self::NoLeader(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoVoter { .. } => StatusCode::MISDIRECTED_REQUEST,
            Self::Token(_)
            | Self::NoAddress
            | Self::Address(_)
            | Self::Useless
            | Self::BadClient(_) => StatusCode::BAD_REQUEST,
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

/// Who asks, as tokens and clients keep it.
pub(super) fn operator() -> String {
    let name = rustix::system::uname();
    format!("operator on {}", name.nodename().to_string_lossy())
}

async fn token(
    State(cluster): State<Arc<Cluster>>,
    Json(asked): Json<TokenOf>,
) -> Result<Json<Value>, ClusterError> {
    let ttl = Duration::from_secs(asked.ttl.unwrap_or(TTL));
    let who = operator();
    let token = cluster.token(ttl, asked.uses.unwrap_or(1), &who).await?;
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
) -> Result<Json<Value>, ClusterError> {
    // A client that leaves must not leave it half done.
    let task = tokio::spawn(async move {
        cluster
            .join(&asked.address, &asked.token, asked.discard)
            .await
    });
    let gone = task
        .await
        .map_err(|e| ClusterError::File(std::io::Error::other(e)))??;
    Ok(Json(json!({
        "units": gone.units, "containers": gone.containers, "keys": gone.keys, "aside": gone.aside,
    })))
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
) -> Result<Json<Value>, ClusterError> {
    let task = tokio::spawn(async move { cluster.leave(asked.force).await });
    let aside = task
        .await
        .map_err(|e| ClusterError::File(std::io::Error::other(e)))??;
    Ok(Json(json!({ "aside": aside })))
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
) -> Result<StatusCode, ClusterError> {
    let own = cluster.machine.clone();
    cluster.remove(&machine, &own).await
}

/// As another machine asks it.
async fn remove_from_there(
    State(cluster): State<Arc<Cluster>>,
    Extension(peer): Extension<Peer>,
    Path(machine): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, ClusterError> {
    let Some(asks) = peer.machine else {
        // The door lets nobody else in.
        return Err(ClusterError::NoMember);
    };
    if headers.contains_key(super::lead::LED) {
        return cluster.remove(&machine, &asks).await;
    }
    if machine != asks.as_str() {
        return Err(ClusterError::CannotLeave(
            "a machine takes off itself alone; `coracle machine remove` does it with others".into(),
        ));
    }
    cluster.strike(&asks).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Cluster {
    /// Takes a machine off the list, as was asked on the machine `asked`. In the place of one that has the store comes another first.
    async fn remove(
        self: &Arc<Self>,
        name: &str,
        asked: &MachineId,
    ) -> Result<StatusCode, ClusterError> {
        let id = self.find(name)?;
        if id == *asked {
            return Err(ClusterError::CannotLeave(
                "a machine leaves by `coracle leave`, asked of itself".into(),
            ));
        }
        let cluster = self.clone();
        // A client that leaves must not leave it half done.
        let task = tokio::spawn(async move {
            cluster.hand_over(&id, false).await?;
            cluster.strike(&id).await
        });
        task.await
            .map_err(|e| ClusterError::File(std::io::Error::other(e)))??;
        Ok(StatusCode::NO_CONTENT)
    }

    /// A member, or one of which something is left, by its id, host name, or the beginning of either. A member that says nothing of
    /// itself is found by its id.
    fn find(&self, text: &str) -> Result<MachineId, ClusterError> {
        let mut known = self.neighbours();
        for (id, _) in self.members.borrow().iter() {
            if !known.iter().any(|k| k.id == id.as_str()) {
                known.push(Known {
                    id: id.to_string(),
                    hostname: String::new(),
                    alive: false,
                    last_seen: None,
                });
            }
        }
        let found = resolve(text, &known).map_err(ClusterError::Unknown)?;
        let id = found.id.parse::<MachineId>();
        id.map_err(|e| ClusterError::Unknown(e.to_string()))
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
    Json(cluster.named())
}

/// Another machine says who has the store.
async fn told(State(cluster): State<Arc<Cluster>>, Json(voters): Json<Vec<Voter>>) -> Json<Value> {
    cluster.is_told(voters);
    Json(Value::Null)
}
