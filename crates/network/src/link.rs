//! Bridges and veth pairs over netlink.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use coracle_sys::netlink::{Netlink, NetlinkError, Request};
use coracle_sys::netns;
use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::NetworkError;
use crate::model::{Endpoint, Network};

const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

fn failed(what: impl Into<String>) -> impl FnOnce(NetlinkError) -> NetworkError {
    let what = what.into();
    move |source| NetworkError::Netlink { what, source }
}

fn up(mut message: LinkMessage) -> LinkMessage {
    message.header.flags |= LinkFlags::Up;
    message.header.change_mask |= LinkFlags::Up;
    message
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn address(index: u32, net: Ipv4Net) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = net.prefix_len();
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(IpAddr::V4(net.addr())),
        AddressAttribute::Address(IpAddr::V4(net.addr())),
        AddressAttribute::Broadcast(net.broadcast()),
    ];
    Request::route(RouteNetlinkMessage::NewAddress(message), NEW)
}

fn default_route(index: u32, gateway: Ipv4Addr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Gateway(RouteAddress::Inet(gateway)),
        RouteAttribute::Oif(index),
    ];
    Request::route(RouteNetlinkMessage::NewRoute(message), NEW)
}

/// Index and name of every link.
pub(crate) fn links(netlink: &mut Netlink) -> Result<Vec<(u32, String)>, NetworkError> {
    let found = netlink
        .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
        .map_err(failed("list links"))?;
    Ok(found
        .into_iter()
        .filter_map(|m| match m {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        })
        .filter_map(|link| {
            link.attributes.iter().find_map(|a| match a {
                LinkAttribute::IfName(name) => Some((link.header.index, name.clone())),
                _ => None,
            })
        })
        .collect())
}

/// Every subnet that an address or route of this namespace covers already.
pub(crate) fn used_subnets(netlink: &mut Netlink) -> Result<Vec<Ipv4Net>, NetworkError> {
    let mut used = Vec::new();
    let mut ask = RouteMessage::default();
    ask.header.address_family = AddressFamily::Inet;
    for message in netlink
        .dump(RouteNetlinkMessage::GetRoute(ask))
        .map_err(failed("list routes"))?
    {
        let RouteNetlinkMessage::NewRoute(route) = message else {
            continue;
        };
        for attribute in &route.attributes {
            if let RouteAttribute::Destination(RouteAddress::Inet(ip)) = attribute {
                used.extend(Ipv4Net::new(*ip, route.header.destination_prefix_length));
            }
        }
    }
    Ok(used)
}

fn index_of(netlink: &mut Netlink, name: &str) -> Result<Option<u32>, NetworkError> {
    Ok(links(netlink)?
        .into_iter()
        .find(|l| l.1 == name)
        .map(|l| l.0))
}

fn mac_of(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x02, 0xc0, a, b, c, d]
}

/// The MAC of an endpoint that asked for none: locally administered, from its address, so that a
/// neighbour's cache stays right when an address is used again.
pub(crate) fn endpoint_mac(ip: Ipv4Addr) -> [u8; 6] {
    mac_of(ip)
}

/// Makes the bridge, or repairs what is missing of it. Returns its index.
pub(crate) fn ensure_bridge(netlink: &mut Netlink, network: &Network) -> Result<u32, NetworkError> {
    let name = &network.bridge;
    let mut message = up(named(name));
    message
        .attributes
        .push(LinkAttribute::Address(mac_of(network.gateway).to_vec()));
    message
        .attributes
        .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(
            InfoKind::Bridge,
        )]));
    let create = Request::route(RouteNetlinkMessage::NewLink(message), NEW);
    match netlink.batch(&[create]) {
        Err(e) if e.exists() => {
            let again = Request::route(RouteNetlinkMessage::SetLink(up(named(name))), 0);
            netlink
                .batch(&[again])
                .map_err(failed(format!("bring up bridge {name}")))?;
        }
        other => other.map_err(failed(format!("create bridge {name}")))?,
    }
    let index = index_of(netlink, name)?.ok_or_else(|| NetworkError::NotFound(name.clone()))?;
    let net = Ipv4Net::new_assert(network.gateway, network.subnet.prefix_len());
    match netlink.batch(&[address(index, net)]) {
        Err(e) if e.exists() => {}
        other => other.map_err(failed(format!("give {net} to bridge {name}")))?,
    }
    Ok(index)
}

/// Removes links by name; those that are gone already are no error.
pub(crate) fn remove(netlink: &mut Netlink, names: &[String]) -> Result<(), NetworkError> {
    let requests: Vec<_> = names
        .iter()
        .map(|n| Request::route(RouteNetlinkMessage::DelLink(named(n)), 0))
        .collect();
    for chunk in requests.chunks(32) {
        for result in netlink.each(chunk).map_err(failed("remove links"))? {
            match result {
                Err(e) if e.missing() => {}
                other => other.map_err(failed("remove a link"))?,
            }
        }
    }
    Ok(())
}

/// Builds the links of `endpoints` between this namespace and `netns`, and configures the inside.
pub(crate) fn connect(
    host: &mut Netlink,
    inside: BorrowedFd<'_>,
    endpoints: &[(Endpoint, u32)],
    default: bool,
) -> Result<(), NetworkError> {
    let mut ns =
        netns::run_in(inside, Netlink::route)?.map_err(failed("open netlink in the container"))?;
    let present = if endpoints.is_empty() {
        Vec::new()
    } else {
        links(&mut ns)?
    };
    let first_index = present.iter().map(|l| l.0).max().unwrap_or(1) + 1;
    let mut free = (0..)
        .map(|n| format!("eth{n}"))
        .filter(|n| !present.iter().any(|l| &l.1 == n));
    let mut pairs = Vec::new();
    // The loopback link has index 1 in every namespace.
    let mut lo = LinkMessage::default();
    lo.header.index = 1;
    let mut config = vec![Request::route(RouteNetlinkMessage::SetLink(up(lo)), 0)];
    for (offset, (endpoint, bridge)) in endpoints.iter().enumerate() {
        let index = first_index + offset as u32;
        // A veth end cannot go up before its peer exists, so the inner one is raised afterwards.
        let mut peer = named(&free.next().unwrap_or_default());
        peer.header.index = index;
        peer.attributes
            .push(LinkAttribute::Address(endpoint.mac.to_vec()));
        peer.attributes
            .push(LinkAttribute::NetNsFd(inside.as_raw_fd()));
        let mut message = up(named(&endpoint.host_link));
        message.attributes.push(LinkAttribute::Controller(*bridge));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        pairs.push(Request::route(RouteNetlinkMessage::NewLink(message), NEW));
        // With br_netfilter a container's packet to its own published port is turned round inside
        // the bridge, which drops it unless the port may send back where it received.
        let mut port = named(&endpoint.host_link);
        port.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(
                true,
            )])),
        ]));
        pairs.push(Request::route(RouteNetlinkMessage::NewLink(port), 0));
        let mut raise = LinkMessage::default();
        raise.header.index = index;
        config.push(address(
            index,
            Ipv4Net::new_assert(endpoint.ip, endpoint.prefix),
        ));
        config.push(Request::route(RouteNetlinkMessage::SetLink(up(raise)), 0));
        if offset == 0 && default && !endpoint.internal {
            config.push(default_route(index, endpoint.gateway));
        }
    }
    let built = host
        .batch(&pairs)
        .map_err(failed("create the container's links"))
        .and_then(|()| {
            ns.batch(&config)
                .map_err(failed("configure the container's links"))
        });
    if built.is_err() {
        let names: Vec<_> = endpoints.iter().map(|e| e.0.host_link.clone()).collect();
        let _ = remove(host, &names);
    }
    built
}
