//! Machines that are there.

use super::Result;
use super::page::page;
use crate::App;
use crate::query::Query;
use axum::Json;
use axum::extract::State;
use coracle_fleet::Machine;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};

/// fleet's `Machine`.
#[derive(Debug, Serialize)]
struct Entry {
    id: String,
    #[serde(rename = "primaryIP", skip_serializing_if = "Option::is_none")]
    primary_ip: Option<String>,
    metadata: BTreeMap<String, String>,
}

/// fleet's `MachinePage`.
#[derive(Debug, Serialize)]
pub struct MachinePage {
    machines: Vec<Entry>,
    #[serde(rename = "nextPageToken", skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

pub async fn list(State(app): State<App>, query: Query) -> Result<Json<MachinePage>> {
    let all = app.fleet.machines().await?.into_iter();
    let alive = all.filter(|seen| seen.alive).map(|seen| seen.machine);
    let (machines, next) = page(
        alive.collect(),
        |m| m.id.clone(),
        &query.given("nextPageToken"),
    )?;
    let entry = |machine: Machine| Entry {
        primary_ip: primary_ip(&app, &machine),
        id: machine.id,
        metadata: machine.labels,
    };
    let machines = machines.into_iter().map(entry).collect();
    Ok(Json(MachinePage { machines, next }))
}

/// Where a machine is reached: at its door; this one, where that is not known, at the address that it has towards the world by now.
fn primary_ip(app: &App, machine: &Machine) -> Option<String> {
    match machine.door.rsplit_once(':') {
        Some((address, _)) => Some(address.trim_matches(['[', ']']).to_owned()),
        None if machine.id == app.fleet.machine().id => Some(own_address()?.to_string()),
        None => None,
    }
}

/// This machine's address towards the world: the source address of the default route, if there is one.
pub fn own_address() -> Option<IpAddr> {
    // Nothing is sent: connecting chooses the route, and with it the address. The other end is one for documents (RFC 5737).
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(("192.0.2.1", 9)).ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_unspecified()).then_some(own)
}
