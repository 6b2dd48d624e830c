//! The nouns: networks, endpoints, port mappings.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// A network's id: 64 lowercase hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetworkId(pub(crate) String);

impl NetworkId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a network is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A Linux bridge with addresses of its own.
    Bridge,
    /// The machine's own namespace.
    Host,
    /// Loopback only.
    None,
}

/// A network as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The id.
    pub id: NetworkId,
    /// The name, unique on the machine.
    pub name: String,
    /// The kind.
    pub driver: Driver,
    /// All addresses; `0.0.0.0/0` for host and none.
    pub subnet: Ipv4Net,
    /// The bridge's own address.
    pub gateway: Ipv4Addr,
    /// Where addresses are chosen from; the subnet if absent.
    #[serde(default)]
    pub ip_range: Option<Ipv4Net>,
    /// No way in or out but to siblings.
    #[serde(default)]
    pub internal: bool,
    /// Reserved; always absent in this release.
    #[serde(default)]
    pub ipv6: Option<String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Driver options, kept as given.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Seconds since 1970.
    pub created: u64,
    /// The bridge link's name; empty for host and none.
    pub bridge: String,
    /// Names are served at the gateway.
    #[serde(default)]
    pub dns: bool,
}

/// What a new network should be.
#[derive(Debug, Clone, Default)]
pub struct NetworkSpec {
    /// The name.
    pub name: String,
    /// Chosen from the pool if absent.
    pub subnet: Option<Ipv4Net>,
    /// The first address of the subnet if absent.
    pub gateway: Option<Ipv4Addr>,
    /// Part of the subnet to choose from.
    pub ip_range: Option<Ipv4Net>,
    /// No way in or out.
    pub internal: bool,
    /// Refused in this release.
    pub ipv6: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
}

/// Settings of [`crate::Networks::open`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Subnets of /24 are taken from here for networks that name none, and one of /22 for the default network.
    pub default_pool: Ipv4Net,
}

impl Default for Options {
    /// `10.210.0.0/16`: away from docker's 172.17/16 and podman's 10.88/16.
    fn default() -> Self {
        Self {
            default_pool: Ipv4Net::new_assert(Ipv4Addr::new(10, 210, 0, 0), 16),
        }
    }
}

/// What a container asks of one network.
#[derive(Debug, Clone, Default)]
pub struct EndpointRequest {
    /// Container id, 64 hexadecimal digits.
    pub container_id: String,
    /// Container name, for messages.
    pub container_name: String,
    /// Network name, id or id prefix.
    pub network: String,
    /// A fixed address.
    pub ip: Option<Ipv4Addr>,
    /// A fixed MAC.
    pub mac: Option<[u8; 6]>,
    /// Further names on this network.
    pub aliases: Vec<String>,
}

/// A container's place on a bridge network, decided before anything exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Container id.
    pub container_id: String,
    /// Container name.
    pub container_name: String,
    /// Network id.
    pub network: NetworkId,
    /// Network name.
    pub network_name: String,
    /// Address.
    pub ip: Ipv4Addr,
    /// Prefix length in bits.
    pub prefix: u8,
    /// Gateway.
    pub gateway: Ipv4Addr,
    /// No default route is set on an internal network.
    pub internal: bool,
    /// MAC.
    pub mac: [u8; 6],
    /// Bridge link.
    pub bridge: String,
    /// Host end of the veth pair.
    pub host_link: String,
    /// Further names on this network.
    #[serde(default)]
    pub aliases: Vec<String>,
}

/// What a running container has, as told at daemon start.
#[derive(Debug, Clone)]
pub struct RestoredEndpoint {
    /// As reserved earlier.
    pub endpoint: Endpoint,
    /// Its published ports, as resolved earlier (given once, with the first endpoint).
    pub ports: Vec<PortMapping>,
}

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Host address; `0.0.0.0` for all.
    pub host_ip: Ipv4Addr,
    /// Host port; 0 chooses one.
    pub host_port: u16,
    /// Port inside the container.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
}
