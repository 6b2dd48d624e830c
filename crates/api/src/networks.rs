//! Networks.

use crate::App;
use crate::containers::body;
use crate::error::{ApiError, Result};
use crate::filters::Filters;
use crate::query::Query;
use crate::version::ApiVersion;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use chrono::DateTime;
use coracle_engine::Engine;
use coracle_engine::model::EndpointConfig;
use coracle_network::overlay::OverlayStatus;
use coracle_network::{Driver, Network, NetworkSpec};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

fn driver(network: &Network) -> &'static str {
    match network.driver {
        Driver::Bridge => "bridge",
        Driver::Host => "host",
        Driver::None => "null",
    }
}

fn answer(engine: &Engine, network: &Network, with_containers: bool, version: ApiVersion) -> Value {
    let mut containers = Map::new();
    if with_containers {
        for e in engine
            .networks()
            .endpoints()
            .iter()
            .filter(|e| e.network == network.id)
        {
            let mac = e.mac.map(|b| format!("{b:02x}")).join(":");
            containers.insert(
                e.container_id.clone(),
                json!({
                    "Name": e.container_name,
                    "EndpointID": e.container_id,
                    "MacAddress": mac,
                    "IPv4Address": format!("{}/{}", e.ip, e.prefix),
                    "IPv6Address": e.v6.map_or_else(String::new, |v6| format!("{}/{}", v6.ip, v6.prefix)),
                }),
            );
        }
    }
    let created = i64::try_from(network.created)
        .ok()
        .and_then(|s| DateTime::from_timestamp(s, 0));
    let mut answer = json!({
        "Name": network.name,
        "Id": network.id,
        "Created": crate::inspect::moment(created),
        "Scope": "local",
        "Driver": driver(network),
        "EnableIPv6": network.v6().is_some(),
        "IPAM": { "Driver": "default", "Options": null, "Config": ipam(network) },
        "Internal": network.internal,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers,
        "Options": network.options,
        "Labels": network.labels,
    });
    if version.from(47) {
        answer["EnableIPv4"] = json!(true);
    }
    answer
}

/// Docker's `IPAMConfig`s, one for each family.
fn ipam(network: &Network) -> Vec<Value> {
    if network.driver != Driver::Bridge {
        return Vec::new();
    }
    let one = |subnet: Value, gateway: Value, range: Option<Value>, v6: bool| {
        let mut config = json!({ "Subnet": subnet, "Gateway": gateway });
        if let Some(range) = range {
            config["IPRange"] = range;
        }
        let reserved = network.reserved.iter().filter(|(_, ip)| ip.is_ipv6() == v6);
        let reserved: BTreeMap<_, _> = reserved.collect();
        if !reserved.is_empty() {
            config["AuxiliaryAddresses"] = json!(reserved);
        }
        config
    };
    let range = network.ip_range.map(|r| json!(r));
    let mut configs = vec![one(
        json!(network.subnet),
        json!(network.gateway),
        range,
        false,
    )];
    if let Some((subnet, gateway)) = network.v6() {
        let range = network.ip_range6.map(|r| json!(r));
        configs.push(one(json!(subnet), json!(gateway), range, true));
    }
    configs
}

fn predefined(network: &Network) -> bool {
    matches!(network.name.as_str(), "bridge" | "host" | "none")
}

const FILTERS: &[&str] = &[
    "dangling", "driver", "id", "label", "label!", "name", "scope", "type",
];

pub async fn list(
    State(app): State<App>,
    query: Query,
    version: ApiVersion,
) -> Result<Json<Value>> {
    let filters = Filters::read(query.text("filters"), FILTERS)?;
    let endpoints = app.engine.networks().endpoints();
    let fits = |n: &Network| {
        let used = endpoints.iter().any(|e| e.network == n.id);
        filters.name(&n.name)
            && filters.any("id", |w| n.id.as_str().starts_with(w))
            && filters.any("driver", |w| driver(n) == w)
            && filters.any("scope", |w| w == "local")
            && filters.any("type", |w| (w == "builtin") == predefined(n))
            && filters
                .switch("dangling")
                .is_none_or(|d| d != (used || predefined(n)))
            && filters.labels(&n.labels)
    };
    let all = app.engine.networks().list();
    Ok(Json(
        all.iter()
            .filter(|n| fits(n))
            .map(|n| answer(&app.engine, n, false, version))
            .collect(),
    ))
}

pub async fn inspect(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Query,
    version: ApiVersion,
) -> Result<Json<Value>> {
    let network = find(&app.engine, &id)?;
    // Every network is of this machine.
    if query.text("scope").is_some_and(|s| s != "local") {
        return Err(ApiError::not_found(format!("network {id} not found")));
    }
    Ok(Json(answer(&app.engine, &network, true, version)))
}

fn find(engine: &Engine, id: &str) -> Result<Network> {
    engine.networks().get(id).map_err(|error| match error {
        coracle_network::NetworkError::NotFound(name) => {
            ApiError::not_found(format!("network {name} not found"))
        }
        other => other.into(),
    })
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Create {
    name: String,
    driver: Option<String>,
    internal: bool,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: Option<bool>,
    #[serde(rename = "IPAM")]
    ipam: Option<Ipam>,
    options: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
    ingress: bool,
    config_only: bool,
    config_from: Option<Value>,
    scope: Option<String>,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ipam {
    driver: Option<String>,
    options: Option<BTreeMap<String, String>>,
    config: Option<Vec<IpamConfig>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct IpamConfig {
    subnet: Option<String>,
    gateway: Option<String>,
    #[serde(rename = "IPRange")]
    ip_range: Option<String>,
    auxiliary_addresses: Option<BTreeMap<String, String>>,
}

fn spec(asked: Create) -> Result<NetworkSpec> {
    let unsupported = |what: &str| {
        ApiError::invalid(format!(
            "{what} is not supported by this release; leave it out"
        ))
    };
    if !matches!(
        asked.driver.as_deref(),
        None | Some("" | "bridge" | "default")
    ) {
        return Err(ApiError::invalid(format!(
            "network driver \"{}\" is not supported by this release; use bridge",
            asked.driver.unwrap_or_default()
        )));
    }
    if asked.ingress || asked.config_only {
        return Err(unsupported("an ingress or configuration-only network"));
    }
    let named = |v: &Value| v["Network"].as_str().is_some_and(|n| !n.is_empty());
    if asked.config_from.as_ref().is_some_and(named) {
        return Err(unsupported(
            "ConfigFrom (the configuration of another network)",
        ));
    }
    if !matches!(asked.scope.as_deref(), None | Some("" | "local")) {
        return Err(unsupported("Scope (a network of more than this machine)"));
    }
    if asked.enable_ipv4 == Some(false) {
        return Err(ApiError::invalid(
            "EnableIPv4=false (a network without IPv4) is not supported by this release; leave it out: with EnableIPv6 \
             its containers have addresses of both families",
        ));
    }
    let ipam = asked.ipam.unwrap_or_default();
    if !matches!(ipam.driver.as_deref(), None | Some("" | "default")) {
        return Err(unsupported("an IPAM driver"));
    }
    if ipam.options.is_some_and(|o| !o.is_empty()) {
        return Err(unsupported("IPAM.Options (options of IPAM drivers)"));
    }
    let mut spec = NetworkSpec {
        name: asked.name,
        internal: asked.internal,
        labels: asked.labels.unwrap_or_default(),
        options: asked.options.unwrap_or_default(),
        ..NetworkSpec::default()
    };
    for config in ipam.config.unwrap_or_default() {
        let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
        if let Some(subnet) = given(&config.subnet) {
            spec.add_subnet(&subnet)?;
        }
        if let Some(gateway) = given(&config.gateway) {
            spec.add_gateway(&gateway)?;
        }
        if let Some(range) = given(&config.ip_range) {
            spec.add_range(&range)?;
        }
        for (name, ip) in config.auxiliary_addresses.unwrap_or_default() {
            spec.reserve(&name, &ip)?;
        }
    }
    // An IPv6 subnet asks for IPv6 unless it is said that there is to be none.
    spec.ipv6 = asked.enable_ipv6.unwrap_or_else(|| spec.names_ipv6());
    Ok(spec)
}

pub async fn create(State(app): State<App>, bytes: bytes::Bytes) -> Result {
    let network = app.engine.create_network(spec(body(&bytes)?)?).await?;
    Ok((
        StatusCode::CREATED,
        Json(json!({ "Id": network.id, "Warning": "" })),
    )
        .into_response())
}

pub async fn remove(State(app): State<App>, Path(id): Path<String>) -> Result<StatusCode> {
    find(&app.engine, &id)?;
    app.engine.remove_network(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Connect {
    container: String,
    endpoint_config: Option<EndpointConfig>,
    force: bool,
}

pub async fn connect(
    State(app): State<App>,
    Path(id): Path<String>,
    bytes: bytes::Bytes,
) -> Result<StatusCode> {
    let asked: Connect = body(&bytes)?;
    find(&app.engine, &id)?;
    app.engine
        .connect(
            &asked.container,
            &id,
            asked.endpoint_config.unwrap_or_default(),
        )
        .await?;
    Ok(StatusCode::OK)
}

pub async fn disconnect(
    State(app): State<App>,
    Path(id): Path<String>,
    bytes: bytes::Bytes,
) -> Result<StatusCode> {
    let asked: Connect = body(&bytes)?;
    find(&app.engine, &id)?;
    match app.engine.disconnect(&asked.container, &id).await {
        // Forced, a container that is not there is off it.
        Err(coracle_engine::EngineError::NotFound { .. }) if asked.force => Ok(StatusCode::OK),
        other => Ok(other.map(|()| StatusCode::OK)?),
    }
}

/// The network between machines as this one has it; `null` if it has none.
pub async fn overlay(State(app): State<App>) -> Result<Json<Option<OverlayStatus>>> {
    let asked = tokio::task::spawn_blocking(move || app.engine.networks().overlay());
    let asked = asked.await.map_err(coracle_engine::EngineError::from)?;
    Ok(Json(asked?))
}

pub async fn prune(State(app): State<App>, query: Query) -> Result<Json<Value>> {
    let filters = Filters::read(query.text("filters"), &["until", "label", "label!"])?;
    let wanted: Vec<String> = app
        .engine
        .list()
        .iter()
        .flat_map(|s| {
            s.record
                .networking
                .endpoints_config
                .keys()
                .cloned()
                .collect::<Vec<_>>()
        })
        .collect();
    let mut removed = Vec::new();
    for network in app.engine.networks().list() {
        let created = i64::try_from(network.created)
            .ok()
            .and_then(|s| DateTime::from_timestamp(s, 0))
            .unwrap_or_default();
        let old = filters.any("until", |until| crate::list::before(created, until));
        let free = !predefined(&network)
            && !wanted
                .iter()
                .any(|w| *w == network.name || *w == network.id.as_str());
        if free
            && old
            && filters.labels(&network.labels)
            && app.engine.remove_network(network.id.as_str()).await.is_ok()
        {
            removed.push(network.name);
        }
    }
    crate::containers::tell_prune(&app.engine, "network", 0);
    Ok(Json(json!({ "NetworksDeleted": removed })))
}
