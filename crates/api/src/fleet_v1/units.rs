//! Units: what they say, what they were asked to be, and what they are.

use super::options::options;
use super::page::page;
use super::state::Stage;
use super::{Refused, Result};
use crate::App;
use crate::query::Query;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use coracle_engine::full_error;
use coracle_fleet::{Active, Fleet, FleetError, UnitText, UnitView};
use coracle_unit::UnitName;
use coracle_unit::options::{UnitOption, file, options as options_of};
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};

/// fleet's `Unit`.
#[derive(Debug, Serialize)]
pub struct Entry {
    name: String,
    options: Vec<UnitOption>,
    #[serde(rename = "desiredState")]
    desired: Stage,
    #[serde(rename = "currentState")]
    current: Stage,
    #[serde(rename = "machineID", skip_serializing_if = "String::is_empty")]
    machine: String,
}

/// fleet's `UnitPage`.
#[derive(Debug, Serialize)]
pub struct UnitPage {
    units: Vec<Entry>,
    #[serde(rename = "nextPageToken", skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// What a PUT says. Null is absent; what fleet takes from nobody is not looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    name: Option<String>,
    options: Option<Vec<UnitOption>>,
    #[serde(rename = "desiredState")]
    desired: Option<String>,
}

fn entry(fleet: &Fleet, view: UnitView, text: &UnitText) -> Entry {
    let current = Stage::of(fleet, &view);
    Entry {
        options: options(&view.name, text),
        desired: Stage::desired(&view),
        current,
        machine: match current {
            Stage::Inactive => String::new(),
            _ => view.machine,
        },
        name: view.name,
    }
}

pub async fn list(State(app): State<App>, query: Query) -> Result<Json<UnitPage>> {
    let asked = query.given("nextPageToken");
    let (views, next) = page(app.fleet.list(), |v| v.name.clone(), &asked)?;
    let read = async |view: UnitView| match app.fleet.get(&view.name).await {
        Ok((view, text)) => Ok(Some(entry(&app.fleet, view, &text))),
        // It went meanwhile.
        Err(FleetError::NotFound(_)) => Ok(None),
        Err(error) => Err(Refused::from(error)),
    };
    let units = try_join_all(views.into_iter().map(read)).await?;
    let units = units.into_iter().flatten().collect();
    Ok(Json(UnitPage { units, next }))
}

pub async fn get(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Entry>> {
    let (view, text) = found(&app.fleet, &name)
        .await?
        .ok_or_else(Refused::no_unit)?;
    Ok(Json(entry(&app.fleet, view, &text)))
}

/// The unit of just this name.
async fn found(fleet: &Fleet, name: &str) -> Result<Option<(UnitView, UnitText)>> {
    match fleet.get(name).await {
        Ok((view, text)) => Ok(Some((view, text)).filter(|(view, _)| view.name == name)),
        Err(FleetError::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes a unit, gives it another text, or says what it is to be.
pub async fn set(
    State(app): State<App>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode> {
    is_json(&headers)?;
    let asked: Asked = serde_json::from_slice(&body)
        .map_err(|e| Refused::invalid(format!("unable to decode body: {e}")))?;
    let unit = UnitName::new(&name).map_err(|e| Refused::invalid(e.to_string()))?;
    if let Some(other) = asked.name.filter(|n| !n.is_empty() && *n != name) {
        return Err(Refused::invalid(format!(
            "name in URL {name:?} differs from unit name in request body {other:?}"
        )));
    }
    let desired = asked.desired.filter(|d| !d.is_empty());
    let desired = desired.map(|text| stage(&text)).transpose()?;
    if unit.is_template() && desired.is_some_and(|d| d != Stage::Inactive) {
        return Err(Refused::invalid(format!(
            "cannot activate template {name:?}; create an instance of it, such as {}",
            unit.instantiate("1")
                .map_or_else(|_| String::new(), |n| n.to_string())
        )));
    }
    let present = found(&app.fleet, &name).await?;
    let text = match (asked.options.unwrap_or_default(), &present) {
        (list, None) if list.is_empty() => {
            return Err(Refused::new(
                StatusCode::CONFLICT,
                "unit does not exist and options field empty",
            ));
        }
        (list, _) if list.is_empty() => None,
        (list, present) => {
            let made = file(&name, &list).map_err(|e| Refused::invalid(full_error(&e)))?;
            let same = |(_, text): &(UnitView, UnitText)| options(&name, text) == options_of(&made);
            (!present.as_ref().is_some_and(same)).then(|| made.to_text())
        }
    };
    let Some(text) = text else {
        let desired = desired.ok_or_else(|| {
            let message = "must provide DesiredState to update existing unit";
            Refused::new(StatusCode::CONFLICT, message)
        })?;
        bring(&app.fleet, &name, desired).await?;
        return Ok(StatusCode::NO_CONTENT);
    };
    app.fleet.submit(&name, &text, Vec::new()).await?;
    let runs = present.is_some_and(|(view, _)| {
        let up = matches!(view.active, Active::Activating | Active::Active);
        up && Stage::desired(&view) == Stage::Launched
    });
    match desired {
        // It is asked to run, and what runs is the former text.
        Some(Stage::Launched) if runs => drop(app.fleet.restart(&name, false).await?),
        Some(desired) => bring(&app.fleet, &name, desired).await?,
        None => {}
    }
    Ok(StatusCode::CREATED)
}

fn is_json(headers: &HeaderMap) -> Result<()> {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let kind = kinds.next().and_then(|v| v.to_str().ok()).unwrap_or("");
    let plain = kind.split(';').next().unwrap_or(kind).trim();
    if plain == "application/json" && kinds.next().is_none() {
        return Ok(());
    }
    Err(Refused::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "the only acceptable Content-Type is application/json, given once",
    ))
}

fn stage(text: &str) -> Result<Stage> {
    Stage::named(text).ok_or_else(|| {
        Refused::invalid(format!(
            "desiredState {text:?} is none; write inactive, loaded or launched"
        ))
    })
}

/// Has a unit brought to a state, without waiting for it.
async fn bring(fleet: &Fleet, name: &str, desired: Stage) -> Result<()> {
    match desired {
        Stage::Inactive => fleet.unload(name, false).await?,
        Stage::Loaded => fleet.load(name, false).await?,
        Stage::Launched => fleet.start(name, false).await?,
    };
    Ok(())
}

/// Stops a unit and forgets it. That goes on even if the client does not wait for it.
pub async fn destroy(State(app): State<App>, Path(name): Path<String>) -> Result<StatusCode> {
    found(&app.fleet, &name)
        .await?
        .ok_or_else(Refused::no_unit)?;
    let fleet = app.fleet.clone();
    let gone = tokio::spawn(async move { fleet.destroy(&name).await });
    match gone.await {
        Ok(gone) => gone?,
        Err(error) => {
            let message = format!("the unit may not be destroyed wholly, ask again: {error}");
            return Err(Refused::new(StatusCode::INTERNAL_SERVER_ERROR, message));
        }
    }
    Ok(StatusCode::NO_CONTENT)
}
