//! Where units stand that have a machine, in systemd's words.

use super::options::{hash, options};
use super::page::page;
use super::{Refused, Result};
use crate::App;
use crate::query::Query;
use axum::Json;
use axum::extract::{Path, State};
use coracle_fleet::{Active, Desired, Fleet, FleetError, UnitView};
use futures_util::future::try_join_all;
use serde::Serialize;

/// fleet's three states of a unit, wanted or present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Known, and on no machine.
    Inactive,
    /// On a machine, and not run there.
    Loaded,
    /// Run there; this says nothing of how that went.
    Launched,
}

impl Stage {
    /// By its name.
    pub fn named(text: &str) -> Option<Self> {
        match text {
            "inactive" => Some(Self::Inactive),
            "loaded" => Some(Self::Loaded),
            "launched" => Some(Self::Launched),
            _ => None,
        }
    }

    /// What a unit was asked to be.
    pub fn desired(view: &UnitView) -> Self {
        match view.desired {
            Desired::Inactive => Self::Inactive,
            Desired::Loaded => Self::Loaded,
            Desired::Active => Self::Launched,
        }
    }

    /// What it is. `begun` says whether its last start has been taken up; how that went is not asked. `answered` says whether a
    /// failure is an answer to what was asked last.
    fn current(view: &UnitView, begun: bool, answered: bool) -> Self {
        let down = match view.active {
            Active::Inactive => true,
            Active::Failed => answered,
            _ => false,
        };
        match Self::desired(view) {
            _ if view.machine.is_empty() || view.template => Self::Inactive,
            Self::Launched if begun => Self::Launched,
            Self::Launched => Self::Loaded,
            asked if down => asked,
            // It is on its way down.
            _ => Self::Launched,
        }
    }

    /// What a unit of this fleet is.
    pub fn of(fleet: &Fleet, view: &UnitView) -> Self {
        let (begun, answered) = (fleet.has_begun(&view.name), fleet.has_answered(&view.name));
        Self::current(view, begun, answered)
    }
}

/// fleet's `UnitState`.
#[derive(Debug, Serialize)]
pub struct Entry {
    name: String,
    hash: String,
    #[serde(rename = "machineID")]
    machine: String,
    #[serde(rename = "systemdLoadState")]
    load: &'static str,
    #[serde(rename = "systemdActiveState")]
    active: &'static str,
    #[serde(rename = "systemdSubState")]
    sub: String,
}

/// fleet's `UnitStatePage`.
#[derive(Debug, Serialize)]
pub struct StatePage {
    states: Vec<Entry>,
    #[serde(rename = "nextPageToken", skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// The units that have a machine, once for each that they have.
fn placed(app: &App) -> impl Iterator<Item = UnitView> {
    let all = app.fleet.list_everywhere().into_iter();
    all.filter(|view| Stage::of(&app.fleet, view) != Stage::Inactive)
}

pub async fn list(State(app): State<App>, query: Query) -> Result<Json<StatePage>> {
    let (machine, unit) = (query.text("machineID"), query.text("unitName"));
    let asked = placed(&app)
        .filter(|v| machine.is_none_or(|id| v.machine == id))
        .filter(|v| unit.is_none_or(|name| v.name == name));
    let key = |v: &UnitView| format!("{}/{}", v.name, v.machine);
    let (views, next) = page(asked.collect(), key, &query.given("nextPageToken"))?;
    let entries = try_join_all(views.into_iter().map(|view| entry(&app, view))).await?;
    let states = entries.into_iter().flatten().collect();
    Ok(Json(StatePage { states, next }))
}

pub async fn get(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Entry>> {
    let view = placed(&app).find(|v| v.name == name);
    let view = view.ok_or_else(|| {
        let message = "no such state: the unit does not exist, or is on no machine";
        Refused::new(axum::http::StatusCode::NOT_FOUND, message)
    })?;
    let entry = entry(&app, view).await?;
    entry.map(Json).ok_or_else(Refused::no_unit)
}

/// Nothing of a unit that went meanwhile.
async fn entry(app: &App, view: UnitView) -> Result<Option<Entry>> {
    let text = match app.fleet.text_that_runs(&view.name).await {
        Ok(text) => text,
        Err(FleetError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(Some(Entry {
        hash: hash(&options(&view.name, &text)),
        name: view.name,
        machine: view.machine,
        // What cannot be read never becomes a unit.
        load: "loaded",
        active: view.active.as_str(),
        sub: view.sub,
    }))
}
