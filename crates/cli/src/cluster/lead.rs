//! Requests about units go to the machine that leads, whichever machine is asked.
//!
//! Whoever leads may be gone, or the store: then a request waits, for half a minute at most, and is then refused with the cause. What may be asked twice is
//! asked again when the machine that led was lost with it; what was not sent is asked of the next one. Who only looks does not wait for the store for
//! long: what this machine has itself is shown, and that it is a part is said by the header [`PARTIAL`].

use super::Cluster;
use axum::Json;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use coracle_api::machines::PASSED;
use coracle_api::{PARTIAL, REQUEST};
use coracle_cluster::door::DoorError;
use coracle_engine::full_error;
use coracle_fleet::Fleet;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Header of a request that came to the leader from another machine, with its id.
pub(super) const LED: HeaderName = HeaderName::from_static("coracle-led");
/// How long a leader and the store are waited for, as when the former leader has just died.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How long who only looks waits for a store that does not answer.
const GLANCE: Duration = Duration::from_secs(5);
/// Between two looks for one.
pub(super) const LOOK: Duration = Duration::from_millis(200);
/// How long the store may take to say who leads, when that is only to be told.
const MOMENT: Duration = Duration::from_secs(1);
/// Longest body of a request about units, in bytes.
const LONGEST: usize = 16 << 20;

/// Whether a request is the leader's to answer.
fn is_leaders(path: &str) -> bool {
    let path = path.strip_prefix('/').unwrap_or(path);
    let first = |name: &str| path == name || path.starts_with(&format!("{name}/"));
    // What follows a unit's output or has it reload is where the unit is; it is found there by the leader.
    first("v1/units")
        || first("fleet/v1")
        || first("v1/machines")
        || first("v1/services")
        || (first("v1/volumes") && path.ends_with("/rebind"))
}

/// A request that can be made anew.
struct Asked {
    parts: Parts,
    body: Bytes,
}

impl Asked {
    async fn read(request: Request) -> Result<Self, Response> {
        let (parts, body) = request.into_parts();
        match to_bytes(body, LONGEST).await {
            Ok(body) => Ok(Self { parts, body }),
            Err(error) => {
                let message = json!({ "message": format!("the request cannot be read: {error}") });
                Err((StatusCode::BAD_REQUEST, Json(message)).into_response())
            }
        }
    }

    fn again(&self) -> Request {
        Request::from_parts(self.parts.clone(), Body::from(self.body.clone()))
    }

    fn looks(&self) -> bool {
        matches!(self.parts.method, Method::GET | Method::HEAD)
    }

    /// Whether asking twice does no more than asking once.
    fn repeatable(&self) -> bool {
        let path = self.parts.uri.path();
        let verb = path.rsplit('/').next().unwrap_or(path);
        match self.parts.method {
            Method::GET | Method::HEAD | Method::PUT => true,
            Method::DELETE => self.removes_machine(),
            // These are known by their ids.
            Method::POST if matches!(verb, "start" | "deploy" | "rollback") => {
                self.parts.headers.contains_key(REQUEST)
            }
            Method::POST => matches!(
                verb,
                "stop" | "cordon" | "uncordon" | "drain" | "undrain" | "rebind"
            ),
            _ => false,
        }
    }

    fn removes_machine(&self) -> bool {
        self.parts.method == Method::DELETE && self.parts.uri.path().starts_with("/v1/machines/")
    }

    /// Whether this machine can answer for itself.
    fn has_part(&self) -> bool {
        let path = self.parts.uri.path();
        let rest = path.strip_prefix("/v1/units");
        let rest = rest.map(|rest| rest.trim_matches('/'));
        self.looks() && rest.is_some_and(|rest| !rest.contains('/'))
    }
}

/// See the module.
pub async fn led(
    State((cluster, fleet)): State<(Arc<Cluster>, Fleet)>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let is_passed = headers.contains_key(PASSED) || headers.contains_key(LED);
    let machine = headers.contains_key(coracle_api::machines::MACHINE);
    if is_passed || machine || !cluster.is_founded() || !is_leaders(request.uri().path()) {
        return next.run(request).await;
    }
    let asked = match Asked::read(request).await {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    let (mut begun, mut lost) = (Instant::now(), false);
    loop {
        let waits = |patience| begun.elapsed() < patience;
        let trouble = match one_try(&cluster, &fleet, &asked, &next).await {
            // The one that led was itself taken off, and cut off with its answer.
            Ok(answer)
                if lost && asked.removes_machine() && answer.status() == StatusCode::NOT_FOUND =>
            {
                return StatusCode::NO_CONTENT.into_response();
            }
            Ok(answer) => return answer,
            Err(trouble) => trouble,
        };
        match trouble {
            Trouble::Removed => {
                return part(&asked, &next, REMOVED).await;
            }
            // It was asked, however long that took.
            Trouble::Lost if asked.repeatable() => (begun, lost) = (Instant::now(), true),
            Trouble::Lost => {
                return unavailable(
                    "the machine that leads was lost while it was asked, and may have done it; what runs runs on, look and ask again",
                );
            }
            Trouble::Busy(_) | Trouble::Nobody(_) if waits(PATIENCE) => {}
            Trouble::Store(why) if asked.looks() && !waits(GLANCE) => {
                return part(&asked, &next, &why).await;
            }
            Trouble::Store(_) if waits(PATIENCE) => {}
            Trouble::Busy(answer) => return answer,
            Trouble::Nobody(why) | Trouble::Store(why) => {
                return unavailable(&format!("{why}; what runs runs on, ask again"));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            // It is not to wait for those that wait.
            () = cluster.stop.cancelled() => {
                return unavailable("this machine's daemon leaves; ask again when it is back");
            }
        }
    }
}

const REMOVED: &str = "this machine was removed from the cluster; `coracle leave` makes it a machine of its own, and then it may join again";

/// Why a request has no answer.
enum Trouble {
    /// This machine is no part of the cluster any more.
    Removed,
    /// The store does not answer.
    Store(String),
    /// Nobody leads, or who leads is not reached; nothing was asked.
    Nobody(String),
    /// It may have been done.
    Lost,
    /// Who was asked does not lead any more.
    Busy(Response),
}

async fn one_try(
    cluster: &Cluster,
    fleet: &Fleet,
    asked: &Asked,
    next: &Next,
) -> Result<Response, Trouble> {
    let leads = fleet.leads();
    if leads && asked.looks() {
        return Ok(next.clone().run(asked.again()).await);
    }
    let answer = match fleet.leader().await {
        _ if fleet.is_removed() => return Err(Trouble::Removed),
        Err(error) => return Err(Trouble::Store(unreached(&full_error(&error)))),
        Ok(Some(machine)) if machine != cluster.machine.as_str() => {
            cluster.forward(&machine, asked).await?
        }
        Ok(_) if leads => next.clone().run(asked.again()).await,
        Ok(_) => {
            return Err(Trouble::Nobody(
                "no machine leads now, so units cannot be looked at or changed".to_owned(),
            ));
        }
    };
    match answer.status() {
        // One that leads still has its reasons: everything goes down, say.
        StatusCode::SERVICE_UNAVAILABLE if asked.repeatable() && !fleet.leads() => {
            Err(Trouble::Busy(answer))
        }
        _ => Ok(answer),
    }
}

fn unreached(why: &str) -> String {
    format!("the cluster's store cannot be asked: {why}")
}

/// What this machine has itself, if that is an answer, with the reason why there is no more.
async fn part(asked: &Asked, next: &Next, why: &str) -> Response {
    if asked.has_part() {
        let mut answer = next.clone().run(asked.again()).await;
        let said = format!("only what this machine has is shown: {why}");
        if answer.status().is_success()
            && let Ok(said) = HeaderValue::from_str(&said.replace('\n', " "))
        {
            answer.headers_mut().insert(PARTIAL, said);
            return answer;
        }
    }
    unavailable(&format!("{why}; what runs runs on"))
}

fn unavailable(message: &str) -> Response<Body> {
    let body = Json(json!({ "message": message }));
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

impl Cluster {
    async fn forward(&self, machine: &str, asked: &Asked) -> Result<Response, Trouble> {
        let mut request = asked.again();
        if let Ok(own) = self.machine.as_str().parse() {
            request.headers_mut().insert(LED, own);
        }
        self.send(machine, request)
            .await
            .map_err(|error| match error.downcast_ref::<DoorError>() {
                Some(DoorError::Broken { .. }) => Trouble::Lost,
                _ => Trouble::Nobody(format!(
                    "the machine that leads, {}, cannot be asked: {}",
                    self.called(machine),
                    full_error(&*error)
                )),
            })
    }

    /// What keeps units from being changed just now, in words.
    pub(super) async fn trouble(&self) -> Option<String> {
        let inside = self.inside.get()?;
        if *self.alone.borrow() {
            return None;
        }
        if inside.fleet.is_removed() {
            return Some(REMOVED.to_owned());
        }
        let voters = self.voters.borrow().clone();
        let voters: Vec<String> = voters
            .iter()
            .map(|v| self.called(v.machine.as_str()))
            .collect();
        match tokio::time::timeout(MOMENT, inside.fleet.leader()).await {
            Ok(Ok(Some(_))) => None,
            Ok(Ok(None)) => Some("no machine leads just now".to_owned()),
            Ok(Err(_)) | Err(_) => Some(format!(
                "the cluster's store does not answer (it is on {}); what runs runs on",
                voters.join(", ")
            )),
        }
    }

    /// A machine's host name, if it is known.
    pub(super) fn called(&self, machine: &str) -> String {
        let neighbours = self.neighbours.borrow();
        let found = neighbours.get(machine).map(|n| n.hostname.clone());
        found.unwrap_or_else(|| machine.to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn asked(method: Method, path: &str, known: bool) -> Asked {
        let mut request = Request::builder().method(method).uri(path);
        if known {
            request = request.header(REQUEST, "1");
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        Asked {
            parts,
            body: Bytes::new(),
        }
    }

    #[test]
    fn what_is_asked_again_and_what_is_known_here() {
        for (method, path, again, part) in [
            (Method::GET, "/v1/units", true, true),
            (Method::GET, "/v1/units/web.container", true, true),
            (Method::GET, "/v1/units/web/explain", true, false),
            (Method::GET, "/v1/machines", true, false),
            (Method::PUT, "/v1/units/web.container", true, false),
            (Method::POST, "/v1/units/web/stop?block=true", true, false),
            (Method::POST, "/v1/units/web/start", false, false),
            (Method::POST, "/v1/units/web/restart", false, false),
            (Method::POST, "/v1/services/web/deploy", false, false),
            (Method::GET, "/v1/services/web", true, false),
            (Method::POST, "/v1/machines/m1/drain", true, false),
            (Method::DELETE, "/v1/units/web", false, false),
        ] {
            let asked = asked(method.clone(), path, false);
            assert_eq!(asked.repeatable(), again, "{method} {path}");
            assert_eq!(asked.has_part(), part, "{method} {path}");
        }
        for path in ["/v1/units/web/start", "/v1/services/web/rollback"] {
            assert!(asked(Method::POST, path, true).repeatable(), "{path}");
        }
    }
}
