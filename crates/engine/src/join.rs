//! Networks: made, removed, joined and left while containers run.

use crate::container::Container;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::model::EndpointConfig;
use crate::ports::endpoint_request;
use crate::record::{Phase, Record};
use coracle_network::{Driver, Endpoint, EndpointRequest, Network, NetworkSpec, Networks};
use std::os::fd::AsFd;

impl Engine {
    /// Makes a bridge network and serves names on it.
    ///
    /// # Errors
    /// As `Networks::create`.
    pub async fn create_network(&self, spec: NetworkSpec) -> Result<Network> {
        let networks = self.0.networks.clone();
        let network = tokio::task::spawn_blocking(move || networks.create(spec)).await??;
        self.names_changed();
        self.serve_names().await;
        self.open_doors().await;
        self.tell_network(&network, "create", None);
        Ok(network)
    }

    /// Removes a network that no container, running or not, is to join.
    ///
    /// # Errors
    /// As `Networks::remove`; [`EngineError::Conflict`] naming containers that run on it.
    pub async fn remove_network(&self, key: &str) -> Result<Network> {
        let network = self.0.networks.get(key)?;
        let (networks, id) = (self.0.networks.clone(), network.id.to_string());
        tokio::task::spawn_blocking(move || networks.remove(&id)).await??;
        self.stop_names(&network).await;
        self.close_door(&network).await;
        self.names_changed();
        self.tell_network(&network, "destroy", None);
        Ok(network)
    }

    /// Says that a container has come to its networks, or left them.
    pub(crate) fn tell_links(&self, record: &Record, action: &str) {
        for endpoint in &record.state.endpoints {
            if let Ok(network) = self.0.networks.get(endpoint.network.as_str()) {
                self.tell_network(&network, action, Some(record.id.as_str()));
            }
        }
    }

    fn tell_network(&self, network: &Network, action: &str, container: Option<&str>) {
        let mut attributes = std::collections::BTreeMap::from([
            ("name".to_owned(), network.name.clone()),
            ("type".to_owned(), "bridge".to_owned()),
        ]);
        if let Some(id) = container {
            attributes.insert("container".into(), id.into());
        }
        let event = crate::events::Event::now("network", action, network.id.as_str(), attributes);
        self.publish(event);
    }

    /// Lets a container join a network, at once if it runs.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] if it is on it already or on the host's network.
    pub async fn connect(&self, key: &str, network: &str, config: EndpointConfig) -> Result<()> {
        crate::model::check::endpoint(&config)?;
        let network = self.0.networks.get(network)?;
        for text in &config.links {
            self.find(crate::names::link(text).0)?;
        }
        let container = self.find(key)?;
        let _op = container.op.lock().await;
        let record = container.record();
        let mode = record.host_config.network_mode.as_str();
        if network.driver != Driver::Bridge
            || matches!(mode, "host")
            || mode.starts_with("container:")
        {
            return Err(EngineError::Conflict(format!(
                "container {} with network mode {mode} cannot be connected to network {}",
                record.name, network.name
            )));
        }
        let configs = &record.networking.endpoints_config;
        if mode == "none" && configs.contains_key("none") {
            return Err(EngineError::Conflict(format!(
                "container {} cannot be connected to network {}: it is on none; disconnect that first",
                record.name, network.name
            )));
        }
        if configs.contains_key(&network.name) || configs.contains_key(network.id.as_str()) {
            return Err(EngineError::Conflict(format!(
                "endpoint with name {} already exists in network {}",
                record.name, network.name
            )));
        }
        let request = match record.state.phase {
            Phase::Running => Some(endpoint_request(&record, network.id.as_str(), &config)?),
            _ => None,
        };
        let (networks, joining) = (self.0.networks.clone(), container.clone());
        let name = network.name.clone();
        tokio::task::spawn_blocking(move || {
            let write = |endpoint: Option<Endpoint>| {
                joining.change(|r| {
                    r.networking.endpoints_config.insert(name, Some(config));
                    r.state.endpoints.extend(endpoint);
                })
            };
            match request {
                Some(request) => plug_in(&networks, record.state.pid, &request, |e| write(Some(e))),
                None => write(None),
            }
        })
        .await??;
        self.point_to_names(&container);
        self.names_changed();
        self.tell_network(&network, "connect", Some(container.id.as_str()));
        Ok(())
    }

    /// Takes a container off a network.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] if it is not on it.
    pub async fn disconnect(&self, key: &str, network: &str) -> Result<()> {
        let network = self.0.networks.get(network)?;
        let container = self.find(key)?;
        let _op = container.op.lock().await;
        let known = container.read(|r| {
            let configs = &r.networking.endpoints_config;
            configs.contains_key(&network.name) || configs.contains_key(network.id.as_str())
        });
        if !known {
            return Err(EngineError::Conflict(format!(
                "container {} is not connected to network {}",
                container.id, network.name
            )));
        }
        // `none` is a network by name only.
        if container.phase() == Phase::Running && network.driver == Driver::Bridge {
            let (networks, id, of) = (
                self.0.networks.clone(),
                container.id.to_string(),
                network.id.to_string(),
            );
            let pid = container.read(|r| r.state.pid);
            let published = tokio::task::spawn_blocking(move || -> Result<_> {
                // One that is about to end needs no routes any more.
                let netns = coracle_sys::netns::of_pid(pid).ok();
                networks.disconnect(&id, &of, netns.as_ref().map(AsFd::as_fd))?;
                Ok(networks.published(&id))
            })
            .await??;
            container.happened(false, |r| r.state.set_published(published));
        }
        container.change(|r| {
            r.networking.endpoints_config.remove(&network.name);
            r.networking.endpoints_config.remove(network.id.as_str());
            r.state.endpoints.retain(|e| e.network != network.id);
        })?;
        self.point_to_names(&container);
        self.names_changed();
        self.tell_network(&network, "disconnect", Some(container.id.as_str()));
        Ok(())
    }

    /// Names are asked of the first network's gateway: once that is another, the files of a running container say so. They are
    /// written in place, as they are mounted one by one.
    fn point_to_names(&self, container: &Container) {
        let record = container.record();
        if record.state.phase != Phase::Running {
            return;
        }
        let endpoints = &record.state.endpoints;
        let known = std::fs::read_to_string(container.dir.join("resolv.conf")).unwrap_or_default();
        let asks = |e: &Endpoint| known.contains(&format!("nameserver {}\n", e.gateway));
        if endpoints.iter().any(asks) {
            return;
        }
        if let Err(error) = self.write_files(container, &record, endpoints) {
            let error = coracle_sys::full(&error);
            tracing::warn!(container = %container.id, error, "it does not know whom to ask for names");
        }
    }
}

/// Gives the container of a process an interface of a network, and has that written down. If either fails, nothing of it is left.
fn plug_in(
    networks: &Networks,
    pid: u32,
    request: &EndpointRequest,
    write: impl FnOnce(Endpoint) -> Result<()>,
) -> Result<()> {
    let netns = coracle_sys::netns::of_pid(pid).map_err(coracle_network::NetworkError::from)?;
    let endpoint = networks.reserve(request)?;
    let joined = networks.join(netns.as_fd(), &endpoint);
    let (id, network) = (endpoint.container_id.clone(), endpoint.network.clone());
    joined
        .map_err(EngineError::from)
        .and_then(|()| write(endpoint))
        .inspect_err(|_| {
            // With the interface goes a default route that led there: the one before is set again.
            if let Err(error) = networks.disconnect(&id, network.as_str(), Some(netns.as_fd())) {
                let error = coracle_sys::full(&error);
                tracing::warn!(
                    container = id,
                    error,
                    "a network that it could not join is not left altogether"
                );
            }
        })
}
