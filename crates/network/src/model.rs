//! The nouns: networks, endpoints, port mappings.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
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
    /// All IPv6 addresses; a network without has IPv4 only.
    #[serde(default, rename = "ipv6")]
    pub subnet6: Option<Ipv6Net>,
    /// The bridge's own IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway6: Option<Ipv6Addr>,
    /// Where IPv6 addresses are chosen from; the subnet if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_range6: Option<Ipv6Net>,
    /// Addresses that no container gets, by what they are for (Docker's auxiliary addresses).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reserved: BTreeMap<String, IpAddr>,
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

impl Network {
    /// IPv6 subnet and the bridge's own address in it, if the network has IPv6.
    pub fn v6(&self) -> Option<(Ipv6Net, Ipv6Addr)> {
        self.subnet6.zip(self.gateway6)
    }
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
    /// Its containers have IPv6 addresses too.
    pub ipv6: bool,
    /// Chosen from the machine's own range if absent. Goes with `ipv6` only, as the next two.
    pub subnet6: Option<Ipv6Net>,
    /// The second address of the IPv6 subnet if absent; the first is every router's.
    pub gateway6: Option<Ipv6Addr>,
    /// Part of the IPv6 subnet to choose from.
    pub ip_range6: Option<Ipv6Net>,
    /// Addresses of either subnet that no container gets, by what they are for.
    pub reserved: BTreeMap<String, IpAddr>,
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
    /// Subnets of /64 are taken from here for IPv6 networks that name none. See [`Options::ula_of`].
    pub ula: Ipv6Net,
    /// Services' addresses are from here, see [`crate::services`]: the same range on every machine, and no network's.
    pub services: Ipv4Net,
}

impl Default for Options {
    /// `10.210.0.0/16`: away from docker's 172.17/16 and podman's 10.88/16. IPv6 subnets of no machine in particular.
    fn default() -> Self {
        Self {
            default_pool: Ipv4Net::new_assert(Ipv4Addr::new(10, 210, 0, 0), 16),
            ula: Self::ula_of(""),
            services: crate::services::DEFAULT_RANGE,
        }
    }
}

impl Options {
    /// The range of a machine: `fd`, 40 bits of its random id (hexadecimal digits), /48 (RFC 4193). It stays the same as
    /// long as the id does, and another machine has another one.
    pub fn ula_of(machine_id: &str) -> Ipv6Net {
        let digits = machine_id.chars().filter_map(|c| c.to_digit(16)).take(10);
        let (id, count) = digits.fold((0_u128, 0), |(id, n), d| (id << 4 | u128::from(d), n + 1));
        let id = id << (4 * (10 - count));
        Ipv6Net::new_assert(Ipv6Addr::from(0xfd << 120 | id << 80), 48)
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
    /// A fixed IPv6 address; the network must have IPv6.
    pub ip6: Option<Ipv6Addr>,
    /// The container wants no IPv6 address, whatever the network has.
    pub without_ipv6: bool,
    /// Further addresses that hold on this link alone.
    pub link_local: Vec<IpAddr>,
    /// A fixed MAC.
    pub mac: Option<[u8; 6]>,
    /// Further names on this network.
    pub aliases: Vec<String>,
    /// The network of the highest priority has the default route.
    pub priority: i64,
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
    /// Its IPv6 address, on a network that has IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<Address6>,
    /// Further addresses that hold on this link alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub link_local: Vec<IpAddr>,
    /// The network of the highest priority has the default route; the first of equals.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // The form that serde asks for.
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// The IPv6 part of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address6 {
    /// Address.
    pub ip: Ipv6Addr,
    /// Prefix length in bits.
    pub prefix: u8,
    /// Gateway.
    pub gateway: Ipv6Addr,
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

/// A port to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRequest {
    /// Host address, `0.0.0.0` or `::` for all of one family; if absent, all of every family that the container has.
    pub host_ip: Option<IpAddr>,
    /// Host port; 0 chooses one, the same for both families.
    pub host_port: u16,
    /// The last of a range to choose from; not above `host_port` for that one alone.
    pub host_last: u16,
    /// Port inside the container.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

impl From<PortMapping> for PortRequest {
    fn from(port: PortMapping) -> Self {
        Self {
            host_ip: Some(port.host_ip),
            host_port: port.host_port,
            host_last: port.host_port,
            container_port: port.container_port,
            protocol: port.protocol,
        }
    }
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Host address; `0.0.0.0` or `::` for all of its family.
    pub host_ip: IpAddr,
    /// Host port.
    pub host_port: u16,
    /// Port inside the container.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

impl fmt::Display for PortMapping {
    /// As docker shows it: `0.0.0.0:8080->80/tcp`, `[::]:8080->80/tcp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = std::net::SocketAddr::new(self.host_ip, self.host_port);
        write!(f, "{host}->{}/{}", self.container_port, self.protocol)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_machine_has_a_range_of_its_own() {
        let of = |id| Options::ula_of(id).to_string();
        assert_eq!(
            of("c6c751e0f3aa00112233445566778899"),
            "fdc6:c751:e0f3::/48"
        );
        assert_eq!(of("c6c751e0f3ff"), "fdc6:c751:e0f3::/48");
        assert_eq!(of(""), "fd00::/48");
    }

    /// What a release without IPv6 wrote and reads, byte for byte.
    #[test]
    fn a_network_of_ipv4_alone_is_written_as_ever() {
        let text = r#"{"id":"aa","name":"n","driver":"bridge","subnet":"10.9.0.0/24","gateway":"10.9.0.1","ip_range":null,"internal":false,"ipv6":null,"labels":{},"options":{},"created":1,"bridge":"cor-aa","dns":true}"#;
        let network: Network = serde_json::from_str(text).unwrap();
        assert_eq!(network.v6(), None);
        assert_eq!(serde_json::to_string(&network).unwrap(), text);
    }
}
