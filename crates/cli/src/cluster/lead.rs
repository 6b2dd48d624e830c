//! Requests about units go to the machine that leads, whichever machine is asked.

use super::Cluster;
use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use coracle_api::machines::PASSED;
use coracle_fleet::Fleet;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Header of a request that came to the leader from another machine, with its id.
pub(super) const LED: HeaderName = HeaderName::from_static("coracle-led");
/// How long a leader is waited for, as when the former one has just died.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks for one.
pub(super) const LOOK: Duration = Duration::from_millis(200);

/// Whether a request is the leader's to answer.
fn is_leaders(path: &str) -> bool {
    let path = path.strip_prefix('/').unwrap_or(path);
    let first = |name: &str| path == name || path.starts_with(&format!("{name}/"));
    // What follows a unit's output or has it reload is where the unit is; it is found there by the leader.
    first("v1/units")
        || first("fleet/v1")
        || first("v1/machines")
        || (first("v1/volumes") && path.ends_with("/rebind"))
}

/// See the module.
pub async fn led(
    State((cluster, fleet)): State<(Arc<Cluster>, Fleet)>,
    mut request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let is_passed = headers.contains_key(PASSED) || headers.contains_key(LED);
    let machine = headers.contains_key(coracle_api::machines::MACHINE);
    if is_passed || machine || !cluster.is_founded() || !is_leaders(request.uri().path()) {
        return next.run(request).await;
    }
    let end = Instant::now() + PATIENCE;
    loop {
        if fleet.leads() {
            return next.run(request).await;
        }
        match fleet.leader().await {
            Ok(Some(machine)) if machine != cluster.machine.as_str() => {
                if let Ok(own) = cluster.machine.as_str().parse() {
                    request.headers_mut().insert(LED, own);
                }
                return match cluster.send(&machine, request).await {
                    Ok(answer) => answer,
                    Err(error) => unavailable(&format!(
                        "the machine that leads, {}, cannot be asked: {error}; what runs runs on, ask again",
                        cluster.called(&machine)
                    )),
                };
            }
            _ if Instant::now() < end => tokio::time::sleep(LOOK).await,
            Ok(_) => {
                return unavailable(
                    "no machine leads now, so units cannot be looked at or changed; what runs runs on, ask again",
                );
            }
            Err(error) => {
                return unavailable(&format!(
                    "the cluster's store cannot be asked: {}; what runs runs on, ask again",
                    coracle_engine::full_error(&error)
                ));
            }
        }
    }
}

fn unavailable(message: &str) -> Response<Body> {
    let body = Json(json!({ "message": message }));
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

impl Cluster {
    /// A machine's host name, if it is known.
    pub(super) fn called(&self, machine: &str) -> String {
        let neighbours = self.neighbours.borrow();
        let found = neighbours.get(machine).map(|n| n.hostname.clone());
        found.unwrap_or_else(|| machine.to_owned())
    }
}
