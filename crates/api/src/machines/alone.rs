//! A machine in no cluster, and where the units are that a machine knows of.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use coracle_fleet::{Fleet, Machine, UnitView};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};

use super::{Elsewhere, Known, Machines, Place, SendError, Where};
use crate::App;

/// Digits of an id that are taken for one; docker shows as many.
const ID: usize = 12;

/// The only machine there is.
pub struct Alone(Machine);

impl Elsewhere for Alone {
    fn own(&self) -> String {
        self.0.id.clone()
    }

    fn known(&self) -> Vec<Known> {
        vec![Known {
            id: self.0.id.clone(),
            hostname: self.0.hostname.clone(),
            alive: true,
            last_seen: None,
        }]
    }

    fn send<'a>(
        &'a self,
        _: &'a str,
        _: axum::http::Request<Body>,
    ) -> BoxFuture<'a, Result<Response, SendError>> {
        ready(Err("this machine is in no cluster".into())).boxed()
    }
}

impl Machines {
    /// Of a machine in no cluster.
    pub fn alone(fleet: &Fleet) -> Self {
        Self::new(
            Arc::new(Alone(fleet.machine().clone())),
            Arc::new(fleet.clone()),
        )
    }
}

/// `GET /v1/places/{name}`: where a unit's container is, as far as this machine knows; `null` if it knows of none. Machines ask it of the
/// one that leads.
pub async fn told(State(app): State<App>, Path(name): Path<String>) -> Json<Option<Place>> {
    Json(place(&app.fleet.list(), &name))
}

impl Where for Fleet {
    /// As far as this machine knows by itself: of all units while it leads, otherwise of those that it has.
    fn place_of<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Option<Place>> {
        ready(place(&self.list(), name)).boxed()
    }
}

/// A whole unit's name before a name without its kind, that before the name of the unit's container, and that before an id.
fn place(units: &[UnitView], name: &str) -> Option<Place> {
    let stem = |u: &UnitView| {
        let kind = u.name.rsplit_once('.');
        kind.map_or_else(|| u.name.clone(), |(stem, _)| stem.to_owned())
    };
    let is_id = name.len() >= ID && name.bytes().all(|b| b.is_ascii_hexdigit());
    let of_id = |u: &UnitView| is_id && u.container.as_ref().is_some_and(|c| c.starts_with(name));
    let ways: [&dyn Fn(&UnitView) -> bool; 4] = [
        &|u| u.name == name,
        &|u| stem(u) == name && u.container.is_some(),
        &|u| coracle_fleet::translate::plain(&stem(u)) == name && u.container.is_some(),
        &of_id,
    ];
    let found = ways
        .iter()
        .find_map(|fits| units.iter().find(|u| fits(u)))?;
    Some(Place {
        machine: found.machine.clone(),
        container: found.container.clone(),
    })
}
