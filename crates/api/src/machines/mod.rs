//! Any machine answers: requests for another machine are passed to its door, and the answer is streamed back.
//!
//! A request says by the header [`MACHINE`] (or the parameter `machine`) whom it is for: an id, a host name, or the beginning of either, if
//! only one machine fits. Without it, a request about a container that is not here is passed on if a unit of that name runs elsewhere; the
//! path then gets the container's id. What follows a process made elsewhere (`/exec/{id}/…`) goes to the machine that made it.
//!
//! A request is passed on once: it then bears the header [`PASSED`], and whoever gets it answers.
//!
//! Worked example, on machine `a`, where a unit `web.container` runs on `b`:
//!
//! ```text
//! POST /v1.44/containers/web/exec          not here; the unit's container on b is 4f3a…
//!   -> b: POST /containers/4f3a…/exec      coracle-passed: a, coracle-api-version: 1.44
//!   <- 201 {"Id": "9c1e…"}                 remembered: 9c1e… is on b
//! POST /v1.44/exec/9c1e…/start             Upgrade: tcp
//!   -> b: POST /exec/9c1e…/start           <- 101; from now on bytes both ways, each end on its own
//! ```

mod alone;
mod pass;
mod paths;
mod peers;

use std::collections::VecDeque;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;

pub use alone::Alone;
pub(crate) use alone::told;
pub use pass::over;
pub use peers::PeersElsewhere;

use crate::error::{ApiError, Result};

/// Header of a request for another machine, and of the answer that came from there, which has its id.
pub const MACHINE: &str = "coracle-machine";
/// Header of a request that came from another machine, with its id. It is passed on no further.
pub const PASSED: &str = "coracle-passed";
/// Header with the version of Docker's API that such a request is of.
pub(crate) const VERSION: &str = "coracle-api-version";
/// Processes of other machines that are remembered.
const PROCESSES: usize = 4096;

/// A machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// 32 hexadecimal digits.
    pub id: String,
    /// Host name; empty where it has said none.
    pub hostname: String,
    /// Whether it has said lately that it lives.
    pub alive: bool,
    /// When it said so last, as far as that is known.
    pub last_seen: Option<DateTime<Utc>>,
}

impl Known {
    /// As people call it: `web-2 (4f3a9c01d2e3)`.
    fn named(&self) -> String {
        let short = self.id.get(..12).unwrap_or(&self.id);
        match self.hostname.is_empty() {
            true => short.to_owned(),
            false => format!("{} ({short})", self.hostname),
        }
    }
}

/// Why a machine could not be asked.
pub type SendError = Box<dyn Error + Send + Sync>;

/// How other machines are reached.
pub trait Elsewhere: Send + Sync + 'static {
    /// This machine's id.
    fn own(&self) -> String;

    /// All machines of the cluster that are known, this one among them.
    fn known(&self) -> Vec<Known>;

    /// Sends a request to the door of the machine with this id. Of its URI only path and query count. The answer's body comes as it is sent; if
    /// the request asks for an upgrade and the answer is 101, [`hyper::upgrade::on`] of the answer gives the connection. Dropping
    /// the future, the body or the connection ends the exchange.
    fn send<'a>(
        &'a self,
        machine: &'a str,
        request: axum::http::Request<Body>,
    ) -> BoxFuture<'a, std::result::Result<Response, SendError>>;
}

/// Where a unit's container is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Place {
    /// The machine's id.
    pub machine: String,
    /// The container's id, if it has one.
    pub container: Option<String>,
}

/// Knows where units run.
pub trait Where: Send + Sync + 'static {
    /// Where the unit or the unit's container of that name runs, or the container with that id.
    fn place_of<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Option<Place>>;
}

/// Whether a container is on this machine.
pub trait Near: Send + Sync + 'static {
    /// By name, id or beginning of an id.
    fn has(&self, container: &str) -> bool;
}

impl Near for coracle_engine::Engine {
    fn has(&self, container: &str) -> bool {
        // What fits several is this machine's to say.
        !matches!(
            self.get(container),
            Err(coracle_engine::EngineError::NotFound { .. })
        )
    }
}

/// The machines around, as requests are passed to them. Cheap to clone.
#[derive(Clone)]
pub struct Machines(Arc<Inner>);

struct Inner {
    elsewhere: Arc<dyn Elsewhere>,
    places: Arc<dyn Where>,
    /// Processes that were made elsewhere, and where; the newest last.
    processes: Mutex<VecDeque<(String, String)>>,
}

/// Whom a request is for.
enum Whom {
    /// This machine.
    Us,
    /// Another one, perhaps with another path than it came with.
    Them(Known, Option<Uri>),
}

impl Machines {
    /// Those that `elsewhere` reaches; `places` tells who runs what.
    pub fn new(elsewhere: Arc<dyn Elsewhere>, places: Arc<dyn Where>) -> Self {
        Self(Arc::new(Inner {
            elsewhere,
            places,
            processes: Mutex::default(),
        }))
    }

    /// Has requests for other machines passed on before any of these routes is looked at.
    pub fn before(&self, router: Router, near: Arc<dyn Near>) -> Router {
        let state = (self.clone(), near);
        router.layer(from_fn_with_state(state, passed))
    }

    async fn whom(&self, near: &dyn Near, headers: &HeaderMap, uri: &Uri) -> Result<Whom> {
        let elsewhere = &self.0.elsewhere;
        if let Some(asked) = asked(headers, uri) {
            let known = elsewhere.known();
            // Not 404, by which clients understand that the container or image is not there.
            let machine = resolve(&asked, &known).map_err(ApiError::invalid)?;
            if machine.id == elsewhere.own() {
                return Ok(Whom::Us);
            }
            return Ok(Whom::Them(machine.clone(), paths::without_machine(uri)));
        }
        let Some(named) = paths::named(uri.path()) else {
            return Ok(Whom::Us);
        };
        let known = elsewhere.known();
        // Alone there is nobody to ask, and nothing to look up.
        if known.len() < 2 {
            return Ok(Whom::Us);
        }
        let there = |id: &str| {
            let machine = known.iter().find(|m| m.id == id);
            machine.filter(|_| id != elsewhere.own()).cloned()
        };
        let whom = match named {
            paths::Named::Process(id) => {
                let machine = self.machine_of_process(&id);
                machine.and_then(|m| there(&m)).map(|m| (m, None))
            }
            paths::Named::Container(name) if near.has(&name) => None,
            paths::Named::Container(name) => {
                let place = self.0.places.place_of(&name).await;
                place.and_then(|place| {
                    let uri = paths::with_container(uri, place.container.as_deref()?)?;
                    Some((there(&place.machine)?, Some(uri)))
                })
            }
            paths::Named::Unit(name) => {
                let place = self.0.places.place_of(&name).await;
                place.and_then(|p| there(&p.machine)).map(|m| (m, None))
            }
        };
        Ok(whom.map_or(Whom::Us, |(machine, uri)| Whom::Them(machine, uri)))
    }

    fn machine_of_process(&self, id: &str) -> Option<String> {
        let processes = self.0.processes.lock();
        let processes = processes.unwrap_or_else(PoisonError::into_inner);
        let found = processes.iter().rev().find(|(process, _)| process == id);
        found.map(|(_, machine)| machine.clone())
    }

    fn remember(&self, process: String, machine: &str) {
        let processes = self.0.processes.lock();
        let mut processes = processes.unwrap_or_else(PoisonError::into_inner);
        if processes.len() == PROCESSES {
            processes.pop_front();
        }
        processes.push_back((process, machine.to_owned()));
    }
}

/// Whom a request names.
fn asked(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let header = headers.get(MACHINE).and_then(|v| v.to_str().ok());
    let text = header.map(str::to_owned).or_else(|| paths::machine(uri))?;
    Some(text).filter(|t| !t.is_empty())
}

/// The machine with this id or host name, or the only one whose id or host name begins so. What a machine calls itself does not
/// hide another one from who names that by its id.
///
/// # Errors
/// For a person: which machines there are, or which ones are meant.
pub fn resolve<'a>(text: &str, known: &'a [Known]) -> std::result::Result<&'a Known, String> {
    if let Some(found) = known.iter().find(|m| m.id == text) {
        return Ok(found);
    }
    let called: Vec<_> = known.iter().filter(|m| m.hostname == text).collect();
    let begins = |m: &&Known| m.id.starts_with(text) || m.hostname.starts_with(text);
    let fits = if called.is_empty() {
        known.iter().filter(begins).collect()
    } else {
        called
    };
    let names = |all: &mut dyn Iterator<Item = &Known>| {
        let names: Vec<String> = all.map(Known::named).collect();
        names.join(", ")
    };
    match fits.as_slice() {
        [one] => Ok(one),
        [] => Err(format!(
            "no machine \"{text}\" is known; there are {}",
            names(&mut known.iter())
        )),
        several => Err(format!(
            "machine \"{text}\" is ambiguous: {}; give the id",
            names(&mut several.iter().copied())
        )),
    }
}

/// Has whatever comes answered here, as requests that other machines passed on.
pub fn for_us(router: Router) -> Router {
    router.layer(from_fn(|mut request: Request, next: Next| async move {
        pass::received(&mut request);
        next.run(request).await
    }))
}

async fn passed(
    State((machines, near)): State<(Machines, Arc<dyn Near>)>,
    mut request: Request,
    next: Next,
) -> Response {
    if request.headers().contains_key(PASSED) {
        pass::received(&mut request);
        return next.run(request).await;
    }
    let whom = machines.whom(&*near, request.headers(), request.uri());
    match whom.await {
        Ok(Whom::Us) => {
            request.headers_mut().remove(MACHINE);
            next.run(request).await
        }
        Ok(Whom::Them(machine, uri)) => {
            let passing = machines.pass(&machine, uri, request).await;
            passing.unwrap_or_else(IntoResponse::into_response)
        }
        Err(error) => error.into_response(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn machine(id: &str, hostname: &str) -> Known {
        Known {
            id: id.repeat(8),
            hostname: hostname.into(),
            alive: true,
            last_seen: None,
        }
    }

    #[test]
    fn machines_by_name() {
        let known = [
            machine("4f3a", "web-1"),
            machine("4f7b", "web-2"),
            machine("c0de", "db"),
            machine("beef", "db"),
            machine("d00d", "web"),
        ];
        let found = |text: &str| resolve(text, &known).map(|m| m.id[..4].to_owned());
        assert_eq!(found("web-1").unwrap(), "4f3a");
        assert_eq!(found(&"4f7b".repeat(8)).unwrap(), "4f7b");
        assert_eq!(found("4f3").unwrap(), "4f3a");
        assert_eq!(
            found("web").unwrap(),
            "d00d",
            "a whole name is no beginning"
        );
        let told = |text: &str| found(text).unwrap_err();
        assert!(told("4f").contains("ambiguous"), "{}", told("4f"));
        assert!(told("db").contains("beefbeefbeef"), "{}", told("db"));
        assert!(
            told("mail").contains("web-2 (4f7b4f7b4f7b)"),
            "{}",
            told("mail")
        );
    }
}
