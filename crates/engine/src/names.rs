//! Names: what the DNS server at each bridge's address knows, and that it runs.

use crate::container::Container;
use crate::engine::Engine;
use crate::record::{Phase, Record};
use coracle_network::dns::{self, Container as Named, NetworkView, Place, Ports, Records};
use coracle_network::{Driver, Endpoint, Network};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use tokio::sync::watch;

/// A container with this label is an instance of that service: `web` and `tasks.web` list it.
pub const SERVICE_LABEL: &str = "coracle.service";

/// A healthy instance of a service.
#[derive(Debug, Clone)]
pub struct Instance {
    /// The service.
    pub service: String,
    /// The container's name.
    pub name: String,
    /// The container's id.
    pub container: String,
    /// The container's labels.
    pub labels: BTreeMap<String, String>,
    /// Whether a health check says that it is well; else it is so by running.
    pub tested: bool,
    /// Its networks and addresses there.
    pub endpoints: Vec<Endpoint>,
    /// Ports that it says to listen on: `80/tcp`.
    pub ports: Vec<String>,
}

impl Engine {
    /// Builds the records anew from what runs now, and tells those who wait for it.
    pub(crate) fn names_changed(&self) {
        self.name_anew();
        self.0.named.send_modify(|n| *n += 1);
    }

    /// As [`Self::names_changed`] when what runs here is as before.
    pub(crate) fn name_anew(&self) {
        // Whoever looks last is to be the last who writes.
        let _one = self.0.naming.lock().unwrap_or_else(PoisonError::into_inner);
        let mut named = Vec::new();
        for container in self.containers() {
            let links = self.links(&container);
            container.read(|r| {
                // Known before its first instruction, which may ask for its own name.
                if r.state.phase != Phase::Running && !r.state.starting {
                    return;
                }
                named.push(Named {
                    id: r.id.to_string(),
                    name: r.name.clone(),
                    aliases: vec![r.config.hostname.clone()],
                    links: links.clone(),
                    upstream: r
                        .host_config
                        .dns
                        .iter()
                        .filter_map(|d| d.parse().ok())
                        .collect(),
                    service: r.config.labels.get(SERVICE_LABEL).cloned(),
                    healthy: r.state.phase == Phase::Running && container.serves(r),
                    ports: Ports::read(r.config.exposed_ports.keys()),
                    places: r.state.endpoints.iter().map(place).collect(),
                });
            });
        }
        let all = self.0.networks.list();
        let default = all.iter().find(|n| n.name == "bridge");
        let default = default.map(|n| n.id.as_str().to_owned());
        let bridges = all.into_iter().filter(|n| n.driver == Driver::Bridge);
        let views = bridges
            .map(|n| NetworkView {
                id: n.id.as_str().to_owned(),
                name: n.name,
                gateway: n.gateway,
                gateway6: n.gateway6,
                internal: n.internal,
            })
            .collect();
        let default = default.unwrap_or_default();
        let remote = self.0.remote.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.traffic.instances(&named, &remote);
        let records = Records::new(named, views);
        let records = records.with_remote(remote.iter(), &default);
        let services = self.0.traffic.addresses();
        self.0
            .zone
            .replace(records.with_services(services, &default));
    }

    /// Ticks whenever names, and so [`Self::instances`], may have changed.
    pub fn names(&self) -> watch::Receiver<u64> {
        self.0.named.subscribe()
    }

    /// The healthy instances of services: what `tasks.<service>` answers, with more words.
    pub fn instances(&self) -> Vec<Instance> {
        let instance = |container: Arc<Container>| {
            container.read(|r| {
                let service = r.config.labels.get(SERVICE_LABEL)?.clone();
                if r.state.phase != Phase::Running || !container.serves(r) {
                    return None;
                }
                Some(Instance {
                    service,
                    name: r.name.clone(),
                    container: r.id.to_string(),
                    labels: r.config.labels.clone(),
                    tested: r.is_tested(),
                    endpoints: r.state.endpoints.clone(),
                    ports: r.config.exposed_ports.keys().cloned().collect(),
                })
            })
        };
        self.containers().into_iter().filter_map(instance).collect()
    }

    /// The names that a container has for others (`--link`), and whose they are.
    fn links(&self, container: &Container) -> Vec<(String, String)> {
        let asked: Vec<String> = container.read(|r| {
            let networks = r.networking.endpoints_config.values().flatten();
            let of_networks = networks.flat_map(|e| e.links.clone());
            r.host_config
                .links
                .iter()
                .cloned()
                .chain(of_networks)
                .collect()
        });
        let one = |text: &String| {
            let (target, alias) = link(text);
            Some((alias.to_owned(), self.find(target).ok()?.id.to_string()))
        };
        asked.iter().filter_map(one).collect()
    }

    /// Serves names on every network that has none served yet, and stops on those that are gone.
    pub(crate) async fn serve_names(&self) {
        let mut serving = self.0.dns.lock().await;
        let networks = self.0.networks.list();
        serving.retain(|id, task| {
            let keep = networks.iter().any(|n| n.id.as_str() == id);
            if !keep {
                task.abort();
            }
            keep
        });
        for network in networks {
            let id = network.id.as_str().to_owned();
            if network.driver != Driver::Bridge || !network.dns || serving.contains_key(&id) {
                continue;
            }
            match self.serve_network(&network).await {
                Ok(task) => {
                    serving.insert(id, task);
                }
                Err(error) => tracing::error!(
                    network = network.name, address = %network.gateway, %error,
                    "names are not served: port 53 cannot be had"
                ),
            }
        }
    }

    async fn serve_network(&self, network: &Network) -> std::io::Result<tokio::task::AbortHandle> {
        let (udp, tcp) = self.dns_sockets(network).await?;
        let zone = self.0.zone.clone();
        let own: Vec<IpAddr> = self
            .0
            .networks
            .list()
            .iter()
            .map(|n| n.gateway.into())
            .collect();
        let upstream = upstreams(
            &std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
            &own,
        );
        let name = network.name.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = dns::serve(udp, tcp, zone, upstream).await {
                tracing::error!(network = name, %error, "names are not served any more");
            }
        });
        Ok(task.abort_handle())
    }

    /// The sockets, from the holder if a former daemon left them there, so that questions asked in between wait in them.
    async fn dns_sockets(
        &self,
        network: &Network,
    ) -> std::io::Result<(tokio::net::UdpSocket, tokio::net::TcpListener)> {
        let keys = [
            format!("dns-udp-{}", network.gateway),
            format!("dns-tcp-{}", network.gateway),
        ];
        let run_dir = self.0.options.run_dir.clone();
        let wanted = keys.clone();
        let kept = tokio::task::spawn_blocking(move || {
            let [udp, tcp] = wanted.map(|key| crate::sockets::fetch(&run_dir, &key).ok().flatten());
            udp.zip(tcp)
        })
        .await?;
        if let Some((udp, tcp)) = kept {
            let udp = std::net::UdpSocket::from(udp);
            let tcp = std::net::TcpListener::from(tcp);
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            return Ok((
                tokio::net::UdpSocket::from_std(udp)?,
                tokio::net::TcpListener::from_std(tcp)?,
            ));
        }
        let (udp, tcp) = dns::bind_dns(network.gateway).await?;
        let udp_copy = rustix::io::dup(&udp)?;
        let tcp_copy = rustix::io::dup(&tcp)?;
        let run_dir = self.0.options.run_dir.clone();
        tokio::task::spawn_blocking(move || -> std::io::Result<()> {
            let [udp_key, tcp_key] = keys;
            crate::sockets::deposit(&run_dir, &udp_key, udp_copy)?;
            crate::sockets::deposit(&run_dir, &tcp_key, tcp_copy)
        })
        .await??;
        Ok((udp, tcp))
    }

    pub(crate) async fn stop_names(&self, network: &Network) {
        if let Some(task) = self.0.dns.lock().await.remove(network.id.as_str()) {
            task.abort();
        }
        let run_dir = self.0.options.run_dir.clone();
        let gateway = network.gateway;
        let _ = tokio::task::spawn_blocking(move || {
            for kind in ["udp", "tcp"] {
                let _ = crate::sockets::discard(&run_dir, &format!("dns-{kind}-{gateway}"));
            }
        })
        .await;
    }
}

impl Container {
    /// Whether it may be given to those who ask for its service: it is well, it is not frozen, and nobody has asked it to end.
    fn serves(&self, record: &Record) -> bool {
        let well = match self.health() {
            Some(health) => health.is_good(),
            None => !record.is_tested(),
        };
        let goes = self.stopping.load(Ordering::Acquire) || self.left.load(Ordering::Acquire);
        well && !record.state.paused && !goes
    }
}

/// Takes a container that is about to end out of its service while it lives.
pub(crate) struct Stopping<'a>(&'a Engine, &'a Container);

impl<'a> Stopping<'a> {
    pub(crate) fn begin(engine: &'a Engine, container: &'a Container) -> Self {
        let stopping = Self(engine, container);
        stopping.set(true);
        stopping
    }

    fn set(&self, stopping: bool) {
        let Self(engine, container) = self;
        container.stopping.store(stopping, Ordering::Release);
        // Of no service: its names stay.
        if container.read(|r| r.config.labels.contains_key(SERVICE_LABEL)) {
            engine.names_changed();
        }
    }
}

impl Drop for Stopping<'_> {
    /// It has ended, or whoever asked has given up.
    fn drop(&mut self) {
        if self.1.read(|r| r.state.stopping) {
            self.1.happened(false, |r| r.state.stopping = false);
        }
        self.set(false);
    }
}

fn place(endpoint: &Endpoint) -> Place {
    Place {
        network: endpoint.network.as_str().to_owned(),
        ip: endpoint.ip,
        ip6: endpoint.v6.map(|v6| v6.ip),
        aliases: endpoint.aliases.clone(),
    }
}

/// Reads `target[:alias]`; who gives no alias means the target's own name.
pub(crate) fn link(text: &str) -> (&str, &str) {
    let (target, alias) = text.split_once(':').unwrap_or((text, text));
    // As `inspect` writes it: `/target:/own/alias`.
    let alias = alias.rsplit('/').next().unwrap_or(alias);
    (target.trim_start_matches('/'), alias)
}

/// The host's resolvers, without ourselves.
fn upstreams(resolv_conf: &str, own: &[IpAddr]) -> Arc<[SocketAddr]> {
    resolv_conf
        .lines()
        .filter_map(|l| l.trim().strip_prefix("nameserver"))
        .filter_map(|a| a.trim().parse::<IpAddr>().ok())
        .filter(|a| !own.contains(a))
        .map(|a| SocketAddr::new(a, 53))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn resolvers_but_not_ourselves() {
        let own = ["10.210.0.1".parse().unwrap()];
        let found = upstreams(
            "# x\nnameserver 10.210.0.1\nnameserver 9.9.9.9\nnameserver bad\n",
            &own,
        );
        assert_eq!(&*found, ["9.9.9.9:53".parse().unwrap()]);
    }
}
