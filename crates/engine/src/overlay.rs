//! Other machines: the network between them and the names that run there.

use crate::engine::Engine;
use crate::error::Result;
use crate::record::Phase;
use coracle_network::Network;
use coracle_network::dns::Remote;
use coracle_network::overlay::OverlaySpec;
use ipnet::Ipv4Net;
use std::os::fd::AsFd as _;
use std::sync::PoisonError;

impl Engine {
    /// Makes the network between machines what `spec` says, none removes it, and gives containers that run the size of packets
    /// that goes through it.
    ///
    /// # Errors
    /// As `Networks::set_overlay`.
    pub async fn set_overlay(&self, spec: Option<OverlaySpec>) -> Result<()> {
        let networks = self.0.networks.clone();
        tokio::task::spawn_blocking(move || networks.set_overlay(spec)).await??;
        self.fit().await
    }

    /// Repairs the network between machines if something has changed it; true if so.
    ///
    /// # Errors
    /// As `Networks::ensure_overlay`.
    pub async fn ensure_overlay(&self) -> Result<bool> {
        let networks = self.0.networks.clone();
        let changed = tokio::task::spawn_blocking(move || networks.ensure_overlay()).await??;
        if changed {
            self.fit().await?;
        }
        Ok(changed)
    }

    /// Gives what runs on the default network its size of packets.
    async fn fit(&self) -> Result<()> {
        let engine = self.clone();
        let fit = move || {
            for container in engine.containers() {
                let (phase, pid, endpoints) =
                    container.read(|r| (r.state.phase, r.state.pid, r.state.endpoints.clone()));
                let on_default = endpoints.iter().find(|e| e.network_name == "bridge");
                let Some(endpoint) = on_default.filter(|_| phase == Phase::Running) else {
                    continue;
                };
                // One that has ended meanwhile needs nothing.
                let Ok(netns) = coracle_sys::netns::of_pid(pid) else {
                    continue;
                };
                if let Err(error) = engine.0.networks.fit(netns.as_fd(), endpoint) {
                    tracing::warn!(container = %container.id, error = coracle_sys::full(&error), "it keeps its size of packets");
                }
            }
        };
        Ok(tokio::task::spawn_blocking(fit).await?)
    }

    /// Gives the default network, which must be empty, another subnet, and serves names and the store there.
    ///
    /// # Errors
    /// As `Networks::renumber_default`.
    pub async fn renumber_default(&self, subnet: Ipv4Net) -> Result<Network> {
        let before = self.0.networks.get("bridge")?;
        let networks = self.0.networks.clone();
        let network =
            tokio::task::spawn_blocking(move || networks.renumber_default(subnet)).await??;
        if network.gateway != before.gateway {
            self.stop_names(&before).await;
            self.close_door(&before).await;
            self.names_changed();
            self.serve_names().await;
            self.open_doors().await;
        }
        Ok(network)
    }

    /// Names what runs on other machines beside what runs here, in the place of what was named before. Those said to be on this
    /// machine are passed over.
    pub fn set_remote(&self, remote: Vec<Remote>) {
        let mut remote = remote;
        remote.retain(|r| r.machine != self.0.machine_id);
        let same = {
            let mut known = self.0.remote.lock().unwrap_or_else(PoisonError::into_inner);
            let same = *known == remote;
            *known = remote;
            same
        };
        if !same {
            self.name_anew();
        }
        self.elsewhere_is_known();
    }
}
