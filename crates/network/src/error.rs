//! What can go wrong, with the thing, the cause and the way out.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use coracle_sys::netlink::NetlinkError;
use coracle_sys::netns::NetnsError;
use ipnet::{IpNet, Ipv4Net};

use crate::model::Protocol;

/// Why a network operation failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say it; the fields are the names in them.
pub enum NetworkError {
    #[error("network {0} not found")]
    NotFound(String),
    #[error("network id prefix {0} fits several networks; give more of it")]
    Ambiguous(String),
    #[error("network with name {0} already exists")]
    NameTaken(String),
    #[error("network name {0:?} is not valid: [a-zA-Z0-9][a-zA-Z0-9_.-]* is")]
    BadName(String),
    #[error("operation is not permitted on predefined {0} network")]
    Predefined(String),
    #[error("network {network} has active endpoints ({}); stop or disconnect them first", .containers.join(", "))]
    InUse {
        network: String,
        containers: Vec<String>,
    },
    #[error("container {container} is connected to network {network} already")]
    AlreadyConnected { container: String, network: String },
    #[error("container {container} is not connected to network {network}")]
    NotConnected { container: String, network: String },
    #[error(
        "network {network} has no IPv6, so its containers have no address such as {ip}; leave it out, or make the network with --ipv6"
    )]
    NoIpv6 { network: String, ip: IpAddr },
    #[error(
        "this machine's kernel has no IPv6 (see ipv6.disable in /proc/cmdline), which network {0} asks for; leave IPv6 out"
    )]
    NoKernelIpv6(String),
    #[error(
        "network {network} names the IPv6 subnet, gateway or range {what} without asking for IPv6; add --ipv6 (EnableIPv6), or leave it out"
    )]
    Ipv6NotAsked { network: String, what: String },
    #[error("invalid {what} \"{text}\"")]
    Unreadable { what: &'static str, text: String },
    #[error(
        "more than one {0} of one family is not supported by this release; leave it out, or make another network"
    )]
    Second(&'static str),
    #[error("auxiliary address {0} is given twice; give each a name of its own")]
    ReservedTwice(String),
    #[error(
        "subnet {0} is no range for a network's addresses; choose one such as 10.9.0.0/24 or fd00:9::/64"
    )]
    BadSubnet(IpNet),
    #[error(
        "port {port}/{protocol} cannot be published on {ip}: the container has no IPv6 address; let it join a network that was made with --ipv6, or publish on an IPv4 address"
    )]
    NoIpv6Backend {
        ip: IpAddr,
        port: u16,
        protocol: Protocol,
    },
    #[error("container {0} is on no network, so its ports cannot be published")]
    NoNetwork(String),
    #[error("subnet {subnet} of network {network} overlaps {other}; choose another subnet")]
    Overlap {
        network: String,
        subnet: IpNet,
        other: String,
    },
    #[error("address {ip} does not lie inside {subnet}")]
    OutsideSubnet { ip: IpAddr, subnet: IpNet },
    #[error("address {ip} on network {network} is taken by {by}")]
    AddressTaken {
        ip: IpAddr,
        network: String,
        by: String,
    },
    #[error("network {0} has no free address left; remove containers or make a larger network")]
    Exhausted(String),
    #[error("no free subnet is left in {0}; give one with --subnet")]
    NoSubnet(IpNet),
    #[error("Bind for {}/{protocol} failed: port is already allocated", std::net::SocketAddr::new(*.ip, *.port))]
    PortInUse {
        ip: IpAddr,
        port: u16,
        protocol: Protocol,
    },
    #[error("cannot bind port {port}/{protocol} on {ip}")]
    Bind {
        ip: IpAddr,
        port: u16,
        protocol: Protocol,
        #[source]
        source: io::Error,
    },
    #[error("service {service}: {why}")]
    BadService { service: String, why: String },
    #[error(
        "services have their addresses from {range}, which overlaps {other}; remove that, or give services another range on every machine"
    )]
    ServiceRange { range: Ipv4Net, other: String },
    #[error(
        "port {port}/{protocol} of service {service} is not open on this machine: {by} has it on {ip}; end that, or publish another port"
    )]
    ServicePort {
        service: String,
        ip: IpAddr,
        port: u16,
        protocol: Protocol,
        by: String,
    },
    #[error(
        "port {port}/{protocol} of service {service} cannot be published on {ip}: services have IPv4 addresses alone in this release; publish on an IPv4 address, or on none for all of those"
    )]
    ServiceIpv6 {
        service: String,
        ip: IpAddr,
        port: u16,
        protocol: Protocol,
    },
    #[error("network option {key}={value}: {why}")]
    Option {
        key: String,
        value: String,
        why: &'static str,
    },
    #[error(
        "a link with name {0} exists already on this machine; choose another com.docker.network.bridge.name"
    )]
    LinkTaken(String),
    #[error(
        "no subnet for another machine is left in {0}; free one by removing a machine that is gone, or give the cluster a larger range"
    )]
    NoMachineSubnet(Ipv4Net),
    #[error(
        "this machine's subnet in the cluster is {wanted}, but its default network has {has}; it is given that subnet when it is empty: remove its containers first"
    )]
    OverlaySubnet { wanted: Ipv4Net, has: Ipv4Net },
    #[error(
        "the default network is part of the cluster's, as {0}, and other machines know it by that; leave the cluster first"
    )]
    OverlaySet(Ipv4Net),
    #[error(
        "vxlan has no network {vni} on port {port}; give a number below 16777216 and a port that is not 0"
    )]
    BadOverlay { vni: u32, port: u16 },
    #[error(
        "no link of this machine has the address {0}, which other machines are to reach it at; advertise one that it has, or wait until it does"
    )]
    NoUnderlay(Ipv4Addr),
    #[error("cannot {what}")]
    Netlink {
        what: String,
        #[source]
        source: NetlinkError,
    },
    #[error("the container's network namespace")]
    Netns(#[from] NetnsError),
    #[error("cannot write {path} (is /proc/sys read-only?)")]
    Sysctl {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot run {0} (Debian package {1})")]
    Spawn(&'static str, &'static str, #[source] io::Error),
    #[error("nft refused the rules: {0}")]
    Nft(String),
    #[error("state file {path}")]
    State {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("state file {path} is damaged; remove it to forget that network")]
    Damaged {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "state file {path} has format version {version}, this release reads version 1; use a newer release"
    )]
    Version { path: PathBuf, version: u64 },
}
