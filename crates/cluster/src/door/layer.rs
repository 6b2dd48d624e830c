//! Paths that are for members, or for voters.

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Peer;
use crate::members::Standing;

/// `router` for members only; others are answered 401 and `{"message": …}`.
pub fn members_only<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router.layer(from_fn(|request, next| {
        at_least(Standing::Machine, request, next)
    }))
}

/// `router` for machines that have the store, voters and learners; members that are none are answered 403, others 401.
pub fn keepers_only<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router.layer(from_fn(|request, next| {
        at_least(Standing::Learner, request, next)
    }))
}

async fn at_least(standing: Standing, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>();
    match peer.and_then(|peer| peer.standing) {
        Some(known) if known >= standing => next.run(request).await,
        Some(_) => refusal(StatusCode::FORBIDDEN, "this is for voters of the cluster"),
        None => refusal(StatusCode::UNAUTHORIZED, &stranger(peer)),
    }
}

/// Why somebody is not let in.
pub(crate) fn stranger(peer: Option<&Peer>) -> String {
    match peer.and_then(|peer| peer.shown.as_ref()) {
        Some(machine) => format!(
            "machine {machine} is not a member of this cluster: it was removed, or joined a moment ago; a removed machine joins again with a new token"
        ),
        None => "this is for members of the cluster, and no certificate was shown".to_owned(),
    }
}

fn refusal(code: StatusCode, message: &str) -> Response {
    (code, axum::Json(json!({ "message": message }))).into_response()
}
