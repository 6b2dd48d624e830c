//! Interfaces, addresses and routes over netlink.

use coracle_sys::netlink::{Netlink, NetlinkError, Request};
use ipnet::Ipv4Net;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};
use std::{fs, io, net::Ipv4Addr, path::Path};

/// NLM_F_CREATE and NLM_F_REPLACE of linux/netlink.h.
const PUT: u16 = 0x400 | 0x100;

/// An interface of the machine's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Its name, `eth0`.
    pub name: String,
    /// The kernel's number.
    pub index: u32,
    /// The hardware's address.
    pub mac: [u8; 6],
}

/// The interfaces that hardware is behind, by name.
///
/// # Errors
/// Those of reading `/sys/class/net`.
pub fn hardware() -> io::Result<Vec<Link>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/class/net")?.flatten() {
        let path = entry.path();
        // Bridges, veths and the like have no device.
        if !path.join("device").exists() {
            continue;
        }
        if let Some(link) = read(&path, &entry.file_name().to_string_lossy()) {
            found.push(link);
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path, name: &str) -> Option<Link> {
    let index = fs::read_to_string(path.join("ifindex")).ok()?;
    let address = fs::read_to_string(path.join("address")).ok()?;
    let mut mac = [0; 6];
    let mut parts = address.trim().split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    Some(Link {
        name: name.to_owned(),
        index: index.trim().parse().ok()?,
        mac,
    })
}

/// Switches an interface on, with the largest packet in bytes if one is given.
///
/// # Errors
/// The kernel's own.
pub fn switch_on(index: u32, mtu: Option<u16>) -> Result<(), NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    if let Some(mtu) = mtu {
        message.attributes.push(LinkAttribute::Mtu(mtu.into()));
    }
    send(RouteNetlinkMessage::SetLink(message), 0)
}

/// Gives an interface an address.
///
/// # Errors
/// The kernel's own.
pub fn add_address(index: u32, net: Ipv4Net) -> Result<(), NetlinkError> {
    send(RouteNetlinkMessage::NewAddress(address(index, net)), PUT)
}

/// Takes an address away; that it is gone already is fine.
///
/// # Errors
/// The kernel's own.
pub fn remove_address(index: u32, net: Ipv4Net) -> Result<(), NetlinkError> {
    match send(RouteNetlinkMessage::DelAddress(address(index, net)), 0) {
        Err(error) if error.missing() => Ok(()),
        done => done,
    }
}

fn address(index: u32, net: Ipv4Net) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = net.prefix_len();
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(net.addr().into()),
        AddressAttribute::Address(net.addr().into()),
    ];
    if net.prefix_len() < 31 {
        let broadcast = AddressAttribute::Broadcast(net.broadcast());
        message.attributes.push(broadcast);
    }
    message
}

/// Sets a route by a gateway; without one what is meant is on the link itself.
///
/// # Errors
/// The kernel's own.
pub fn add_route(
    index: u32,
    to: Ipv4Net,
    gateway: Option<Ipv4Addr>,
    metric: u32,
) -> Result<(), NetlinkError> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Dhcp;
    message.header.kind = RouteType::Unicast;
    message.header.scope = match gateway {
        Some(_) => RouteScope::Universe,
        None => RouteScope::Link,
    };
    message.header.destination_prefix_length = to.prefix_len();
    message.attributes = vec![RouteAttribute::Oif(index), RouteAttribute::Priority(metric)];
    if to.prefix_len() > 0 {
        let to = RouteAddress::Inet(to.network());
        message.attributes.push(RouteAttribute::Destination(to));
    }
    if let Some(gateway) = gateway {
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet(gateway));
        message.attributes.push(gateway);
    }
    send(RouteNetlinkMessage::NewRoute(message), PUT)
}

fn send(message: RouteNetlinkMessage, flags: u16) -> Result<(), NetlinkError> {
    Netlink::route()?.batch(&[Request::route(message, flags)])
}
