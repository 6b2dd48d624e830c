//! The side of the cluster.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use coracle_store::{Store, full};
use serde_json::Value;
use tokio::sync::watch;

use super::{
    CertificateAnswer, CertificateRequest, JoinAnswer, JoinRequest, LARGEST, Newcomer, Refusal,
    VERSION, Voter, VoterAnswer, Why,
};
use crate::door::{Peer, keepers_only, members_only};
use crate::members::{self, Standing};
use crate::pki::{Authority, PkiError, requested_key};
use crate::token::{Redeem, RedeemError, Secret, redeem};

/// What the cluster does for a newcomer that is a member already: answers what it is told besides, or why not now. It may be called
/// again for the same newcomer.
pub type Admit = Arc<
    dyn Fn(Newcomer) -> Pin<Box<dyn Future<Output = Result<Value, String>> + Send>> + Send + Sync,
>;

/// Receives newcomers. Cheap to clone.
#[derive(Clone)]
pub struct Reception {
    /// The cluster's store.
    pub store: Arc<dyn Store>,
    /// The CA, while this machine is a voter.
    pub authority: watch::Receiver<Option<Arc<Authority>>>,
    /// The cluster's name.
    pub cluster: String,
    /// Who has the store.
    pub voters: watch::Receiver<Vec<Voter>>,
    /// What is done for newcomers.
    pub admit: Admit,
}

impl Reception {
    /// The three paths.
    pub fn router(self) -> Router {
        let members = Router::new().route("/v1/cluster/renew", post(renew));
        let voters = Router::new().route("/v1/cluster/voter", post(voter));
        Router::new()
            .route("/v1/cluster/join", post(join))
            .merge(members_only(members))
            .merge(keepers_only(voters))
            .layer(DefaultBodyLimit::max(LARGEST))
            .with_state(self)
    }

    fn authority(&self) -> Result<Arc<Authority>, No> {
        let authority = self.authority.borrow().clone();
        authority.ok_or_else(|| {
            let message = "this machine is no voter, which have the cluster's CA: ask one of them";
            let mut no = No::new(StatusCode::MISDIRECTED_REQUEST, Why::NotHere, message);
            no.1.voters = self.voters.borrow().clone();
            no
        })
    }

    /// The machine that asks, if the key is the one that it joined with.
    async fn member(&self, peer: &Peer, request: &str) -> Result<crate::MachineId, No> {
        let not_now = |why: String| No::new(StatusCode::SERVICE_UNAVAILABLE, Why::NotNow, why);
        let machine = peer.machine.clone();
        // The layer before lets nobody else in.
        let machine = machine.ok_or_else(|| not_now("who asks is not known".to_owned()))?;
        let key = requested_key(request)?;
        let known = members::get(&*self.store, &machine).await;
        let known = known.map_err(|e| not_now(full(&e)))?;
        match known {
            Some((member, _)) if member.key.is(&key) => Ok(machine),
            Some(_) => Err(No::new(
                StatusCode::FORBIDDEN,
                Why::OtherKey,
                format!("machine {machine} joined with another key than this request's"),
            )),
            None => Err(No::new(
                StatusCode::UNAUTHORIZED,
                Why::Other,
                format!("machine {machine} is not a member any more"),
            )),
        }
    }
}

/// A refusal on its way.
struct No(StatusCode, Refusal);

impl No {
    fn new(code: StatusCode, why: Why, message: impl Into<String>) -> Self {
        let refusal = Refusal {
            message: message.into(),
            why,
            voters: Vec::new(),
        };
        Self(code, refusal)
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl From<RedeemError> for No {
    fn from(error: RedeemError) -> Self {
        let (code, why) = match &error {
            RedeemError::Unknown => (StatusCode::FORBIDDEN, Why::TokenUnknown),
            RedeemError::Expired => (StatusCode::FORBIDDEN, Why::TokenExpired),
            RedeemError::OtherKey(_) => (StatusCode::CONFLICT, Why::OtherKey),
            RedeemError::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, Why::NotNow),
        };
        Self::new(code, why, full(&error))
    }
}

impl From<PkiError> for No {
    fn from(error: PkiError) -> Self {
        let (code, why) = match &error {
            PkiError::Foreign { .. } => (StatusCode::BAD_REQUEST, Why::Malformed),
            _ => (StatusCode::SERVICE_UNAVAILABLE, Why::NotNow),
        };
        Self::new(code, why, full(&error))
    }
}

impl From<JsonRejection> for No {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), Why::Malformed, rejection.body_text())
    }
}

fn version(found: u32) -> Result<(), No> {
    if found == VERSION {
        return Ok(());
    }
    let message =
        format!("a request of version {found}; this release answers version {VERSION} only");
    Err(No::new(StatusCode::BAD_REQUEST, Why::Malformed, message))
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

async fn join(
    State(here): State<Reception>,
    request: Result<Json<JoinRequest>, JsonRejection>,
) -> Result<Json<JoinAnswer>, No> {
    let Json(request) = request?;
    version(request.version)?;
    let authority = here.authority()?;
    let machine = request.newcomer.machine.clone();
    let unknown = |_| RedeemError::Unknown;
    let shown = Redeem {
        id: request.token,
        secret: Secret::from_hex(&request.secret).map_err(unknown)?,
        machine: machine.clone(),
        key: requested_key(&request.request)?,
    };
    redeem(&*here.store, &shown, now()).await?;
    let extra = (here.admit)(request.newcomer).await;
    let extra = extra.map_err(|why| No::new(StatusCode::SERVICE_UNAVAILABLE, Why::NotNow, why))?;
    let certificate = authority.machine(&request.request, &machine, &request.addresses)?;
    tracing::info!(%machine, token = shown.id, "a machine joined");
    let voters = here.voters.borrow().clone();
    Ok(Json(JoinAnswer {
        version: VERSION,
        certificate,
        ca: authority.certificate_pem().to_owned(),
        cluster: here.cluster.clone(),
        voters,
        extra,
    }))
}

async fn renew(
    State(here): State<Reception>,
    Extension(peer): Extension<Peer>,
    request: Result<Json<CertificateRequest>, JsonRejection>,
) -> Result<Json<CertificateAnswer>, No> {
    let Json(request) = request?;
    version(request.version)?;
    let authority = here.authority()?;
    let machine = here.member(&peer, &request.request).await?;
    let certificate = authority.machine(&request.request, &machine, &request.addresses)?;
    Ok(Json(CertificateAnswer {
        version: VERSION,
        certificate,
    }))
}

async fn voter(
    State(here): State<Reception>,
    Extension(peer): Extension<Peer>,
    request: Result<Json<CertificateRequest>, JsonRejection>,
) -> Result<Json<VoterAnswer>, No> {
    let Json(request) = request?;
    version(request.version)?;
    let authority = here.authority()?;
    let unknown = || {
        No::new(
            StatusCode::UNAUTHORIZED,
            Why::Other,
            "who asks is not known",
        )
    };
    let machine = peer.machine.ok_or_else(unknown)?;
    // The list in memory may be old; the CA's key is not given away by that.
    let known = members::get(&*here.store, &machine).await;
    let known =
        known.map_err(|e| No::new(StatusCode::SERVICE_UNAVAILABLE, Why::NotNow, full(&e)))?;
    if known.is_none_or(|(member, _)| member.standing() < Standing::Learner) {
        let message = format!("machine {machine} is no voter any more, nor about to be one");
        return Err(No::new(StatusCode::FORBIDDEN, Why::Other, message));
    }
    let certificate = authority.peer(&request.request, &machine, &request.addresses)?;
    tracing::info!(%machine, "a voter is given the CA's key");
    Ok(Json(VoterAnswer {
        version: VERSION,
        certificate,
        ca_key: authority.key_pem(),
    }))
}
