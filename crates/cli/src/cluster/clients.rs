//! Clients on workstations: added, seen, and struck off. Voters alone write the list.

use super::Cluster;
use super::admit::now;
use super::error::ClusterError;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use coracle_cluster::clients::{self, Change, Client, SHA256, check_name, read_pin};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Those of the store, by name, and those of this machine's configuration.
pub(super) async fn all(State(cluster): State<Arc<Cluster>>) -> Result<Json<Value>, ClusterError> {
    let now = now();
    let stored = clients::list(&*cluster.store()).await?;
    let stored = stored.iter().map(|(name, client)| {
        json!({
            "name": name,
            "key": format!("{SHA256}{}", client.key),
            "serial": client.serial,
            "added": client.added,
            "until": client.until,
            "who": client.who,
            "expired": now >= client.until,
            "configured": false,
        })
    });
    let configured = cluster.options.pinned.iter().map(|(key, name)| {
        json!({
            "name": name,
            "key": format!("{SHA256}{key}"),
            "who": "this machine's configuration",
            "expired": false,
            "configured": true,
        })
    });
    let all: Vec<Value> = stored.chain(configured).collect();
    Ok(Json(json!({ "clients": all })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct New {
    name: String,
    /// `sha256:…`
    key: String,
    #[serde(default)]
    serial: String,
    /// Seconds since 1970.
    until: u64,
}

/// Adds one whose key was made elsewhere; nobody but its workstation ever has that.
pub(super) async fn add(
    State(cluster): State<Arc<Cluster>>,
    Json(asked): Json<New>,
) -> Result<StatusCode, ClusterError> {
    let New {
        name,
        key,
        serial,
        until,
    } = asked;
    check_name(&name).map_err(ClusterError::BadClient)?;
    let (key, _) = read_pin(&key).map_err(|e| ClusterError::BadClient(e.to_string()))?;
    if until <= now() {
        return Err(ClusterError::BadClient(
            "a client is added for a second at least; if that is meant, compare the clocks of both machines".to_owned(),
        ));
    }
    cluster.writes_clients()?;
    let store = cluster.store();
    let known = clients::list(&*store).await?;
    if let Some((other, _)) = known
        .iter()
        .find(|(other, c)| c.key.is(&key) && **other != name)
    {
        return Err(ClusterError::ClientTaken(format!(
            "{other} has this key already; each client has a key of its own, or revoke that one first"
        )));
    }
    let who = super::api::operator();
    let client = Client::new(key, &serial, now(), until, &who);
    match clients::add(&*store, &name, &client).await? {
        Change::Done => {}
        Change::NameTaken => {
            return Err(ClusterError::ClientTaken(format!(
                "there is a client {name} already; give another name, or `coracle client revoke {name}` first"
            )));
        }
    }
    tracing::info!(client = name, "a client was added");
    Ok(StatusCode::CREATED)
}

/// Strikes one off: every machine cuts its connections.
pub(super) async fn end(
    State(cluster): State<Arc<Cluster>>,
    Path(name): Path<String>,
) -> Result<StatusCode, ClusterError> {
    cluster.writes_clients()?;
    let store = cluster.store();
    let listed = clients::list(&*store).await?;
    let key = listed.get(&name).map(|client| client.key);
    let revoked = clients::revoke(&*store, &name).await?;
    if revoked {
        tracing::info!(client = name, "a client was revoked");
    }
    let mut pinned = cluster.options.pinned.iter();
    let configured = pinned.any(|(pin, known)| *known == name || key.is_some_and(|k| k == *pin));
    match (revoked, configured) {
        (true, false) => Ok(StatusCode::NO_CONTENT),
        (_, true) => {
            let listed = match revoked {
                true => "is taken off the list, and still let in here: it is",
                false => "is",
            };
            Err(ClusterError::ClientTaken(format!(
                "{name} {listed} named by this machine's configuration; take it out there (api_clients in coracle.toml, coracle.clients in the cloud-config) and restart the daemon"
            )))
        }
        (false, false) => Err(ClusterError::Unknown(format!(
            "there is no client \"{name}\"; `coracle client ls` lists those that there are"
        ))),
    }
}

/// The CAs by which workstations know the machines that serve their API.
pub(super) async fn authorities(
    State(cluster): State<Arc<Cluster>>,
) -> Result<Json<Value>, ClusterError> {
    let inside = cluster.inside.get().ok_or(ClusterError::NoMember)?;
    let machines = inside.fleet.machines().await;
    let machines = machines.map_err(ClusterError::Machines)?;
    let all = machines.iter().map(|seen| &seen.machine);
    let all: Vec<Value> = all
        .filter(|machine| !machine.api_ca.is_empty())
        .map(|m| json!({ "machine": m.id, "hostname": m.hostname, "ca": m.api_ca }))
        .collect();
    Ok(Json(json!({ "authorities": all })))
}

impl Cluster {
    /// Whether this machine may write the list: one that is alone may, in a cluster a voter.
    fn writes_clients(&self) -> Result<(), ClusterError> {
        match self.is_founded() {
            true => self.as_voter().map(drop),
            false => Ok(()),
        }
    }
}
