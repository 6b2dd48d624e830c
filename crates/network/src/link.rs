//! Bridges and veth pairs over netlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use coracle_sys::netlink::{Netlink, NetlinkError, Request};
use coracle_sys::netns;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::NetworkError;
use crate::firewall::LOOPBACK_STAND_INS;
use crate::model::{Endpoint, Network};
use crate::v6;
use crate::ways::Ways;

/// The routing table of a machine's own addresses (RT_TABLE_LOCAL of linux/rtnetlink.h).
const TABLE_LOCAL: u8 = 255;
pub(crate) const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

pub(crate) fn failed(what: impl Into<String>) -> impl FnOnce(NetlinkError) -> NetworkError {
    let what = what.into();
    move |source| NetworkError::Netlink { what, source }
}

pub(crate) fn up(mut message: LinkMessage) -> LinkMessage {
    message.header.flags |= LinkFlags::Up;
    message.header.change_mask |= LinkFlags::Up;
    message
}

pub(crate) fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn address(index: u32, net: impl Into<IpNet>) -> AddressMessage {
    let net = net.into();
    let mut message = AddressMessage::default();
    message.header.prefix_len = net.prefix_len();
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(net.addr()),
        AddressAttribute::Address(net.addr()),
    ];
    message.header.family = match net {
        IpNet::V4(net) => {
            let broadcast = AddressAttribute::Broadcast(net.broadcast());
            message.attributes.push(broadcast);
            AddressFamily::Inet
        }
        IpNet::V6(_) => {
            // Nobody else has it, so nobody is asked: it can be used at once.
            message.header.flags = AddressHeaderFlags::Nodad;
            AddressFamily::Inet6
        }
    };
    message
}

fn add(address: AddressMessage) -> Request {
    Request::route(RouteNetlinkMessage::NewAddress(address), NEW)
}

/// An address that holds on one link alone.
fn link_local(index: u32, ip: IpAddr) -> Request {
    let bits = if ip.is_ipv4() { 16 } else { 64 };
    let mut message = address(index, IpNet::new_assert(ip, bits));
    message.header.scope = AddressScope::Link;
    add(message)
}

fn default_route(gateway: impl Into<IpAddr>, replace: bool) -> Request {
    route_by(gateway.into(), None, replace)
}

/// A route by `gateway`, of everything unless `to` says of what.
fn route_by(gateway: IpAddr, to: Option<Ipv4Net>, replace: bool) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = match gateway {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    // The kernel finds the link by the gateway's address.
    message.attributes = vec![RouteAttribute::Gateway(gateway.into())];
    if let Some(to) = to {
        message.header.destination_prefix_length = to.prefix_len();
        let to = RouteAddress::Inet(to.network());
        message.attributes.push(RouteAttribute::Destination(to));
    }
    let flags = if replace {
        NLM_F_CREATE | NLM_F_REPLACE
    } else {
        NEW
    };
    Request::route(RouteNetlinkMessage::NewRoute(message), flags)
}

/// Routes to set: of each family the default route's gateway, and whether it takes another's place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Routes {
    v4: Option<(Ipv4Addr, bool)>,
    v6: Option<(Ipv6Addr, bool)>,
    /// Services' addresses and a gateway, where that is not the default route's.
    pub services: Option<(Ipv4Net, Ipv4Addr)>,
}

impl Routes {
    /// What is to be set when a container's networks change.
    pub fn between(before: &Ways<'_>, after: &Ways<'_>) -> Self {
        fn change<T: PartialEq>(before: Option<T>, after: Option<T>) -> Option<(T, bool)> {
            (before != after).then_some(())?;
            after.map(|gateway| (gateway, before.is_some()))
        }
        Self {
            v4: change(before.gateway4(), after.gateway4()),
            v6: change(before.gateway6(), after.gateway6()),
            services: None,
        }
    }

    fn requests(&self) -> impl Iterator<Item = Request> {
        let v4 = self
            .v4
            .map(|(gateway, replace)| default_route(gateway, replace));
        let v6 = self
            .v6
            .map(|(gateway, replace)| default_route(gateway, replace));
        let services = self
            .services
            .map(|(range, gateway)| route_by(gateway.into(), Some(range), true));
        v4.into_iter().chain(v6).chain(services)
    }
}

/// Sets default routes in the namespace `inside`.
pub(crate) fn set_routes(inside: BorrowedFd<'_>, routes: &Routes) -> Result<(), NetworkError> {
    let requests: Vec<_> = routes.requests().collect();
    if requests.is_empty() {
        return Ok(());
    }
    let mut ns =
        netns::run_in(inside, Netlink::route)?.map_err(failed("open netlink in the container"))?;
    ns.batch(&requests)
        .map_err(failed("set the container's default route"))
}

/// Makes the addresses that stand in for `::1` (see [`crate::firewall`]) this machine's own, or no more.
pub(crate) fn loopback_stand_in(netlink: &mut Netlink, present: bool) -> Result<(), NetworkError> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    message.header.table = TABLE_LOCAL;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Local;
    message.header.destination_prefix_length = LOOPBACK_STAND_INS.prefix_len();
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet6(LOOPBACK_STAND_INS.network())),
        // The loopback link has index 1 in every namespace.
        RouteAttribute::Oif(1),
    ];
    let request = if present {
        Request::route(RouteNetlinkMessage::NewRoute(message), NEW)
    } else {
        Request::route(RouteNetlinkMessage::DelRoute(message), 0)
    };
    match netlink.batch(&[request]) {
        Err(e) if (present && e.exists()) || (!present && e.missing()) => Ok(()),
        other => other.map_err(failed(format!("set the local route {LOOPBACK_STAND_INS}"))),
    }
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

/// A subnet that an address or route of this namespace covers already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Covered {
    /// The subnet.
    pub net: IpNet,
    /// Index of the link that it is reached by, if that is one.
    pub link: Option<u32>,
    /// Who made the route.
    pub protocol: RouteProtocol,
}

/// Every subnet of one family that is in use here.
pub(crate) fn used_subnets(netlink: &mut Netlink, v6: bool) -> Result<Vec<Covered>, NetworkError> {
    let mut used = Vec::new();
    let mut ask = RouteMessage::default();
    ask.header.address_family = if v6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    for message in netlink
        .dump(RouteNetlinkMessage::GetRoute(ask))
        .map_err(failed("list routes"))?
    {
        let RouteNetlinkMessage::NewRoute(route) = message else {
            continue;
        };
        let (mut to, mut link) = (None, None);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(ip)) => to = Some(IpAddr::V4(*ip)),
                RouteAttribute::Destination(RouteAddress::Inet6(ip)) => to = Some(IpAddr::V6(*ip)),
                RouteAttribute::Oif(index) => link = Some(*index),
                _ => {}
            }
        }
        let net = to.and_then(|ip| IpNet::new(ip, route.header.destination_prefix_length).ok());
        used.extend(net.map(|net| Covered {
            net,
            link,
            protocol: route.header.protocol,
        }));
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
    if let Some(mtu) = crate::options::of(&network.options).mtu {
        // Said afterwards: a bridge that was only made with it goes back to the usual with its last port.
        let mut message = named(name);
        message.attributes.push(LinkAttribute::Mtu(mtu));
        let set = Request::route(RouteNetlinkMessage::SetLink(message), 0);
        netlink
            .batch(&[set])
            .map_err(failed(format!("give bridge {name} packets of {mtu} bytes")))?;
    }
    let index = index_of(netlink, name)?.ok_or_else(|| NetworkError::NotFound(name.clone()))?;
    let net = Ipv4Net::new_assert(network.gateway, network.subnet.prefix_len());
    match netlink.batch(&[add(address(index, net))]) {
        Err(e) if e.exists() => {}
        other => other.map_err(failed(format!("give {net} to bridge {name}")))?,
    }
    Ok(index)
}

/// Gives a bridge its IPv6 address, if it has it not yet, and `fe80::1`: with the address that it makes up the kernel asks
/// for neighbours only after a second or two, and what is passed on to a first container is lost so long.
pub(crate) fn add_gateway6(
    netlink: &mut Netlink,
    bridge: u32,
    (subnet, gateway): (Ipv6Net, Ipv6Addr),
) -> Result<(), NetworkError> {
    let net = Ipv6Net::new_assert(gateway, subnet.prefix_len());
    let local = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), 64);
    let what = || format!("give {net} and {local} to a bridge");
    let requests = [net, local].map(|net| add(address(bridge, net)));
    for result in netlink.each(&requests).map_err(failed(what()))? {
        match result {
            Err(e) if e.exists() => {}
            other => other.map_err(failed(what()))?,
        }
    }
    Ok(())
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

/// A link that gives itself no address: on a network without IPv6 containers do not reach each other by it either.
pub(crate) fn no_link_local(mut message: LinkMessage) -> LinkMessage {
    let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let of_ipv6 = AfSpecUnspec::Inet6(vec![none]);
    message
        .attributes
        .push(LinkAttribute::AfSpecUnspec(vec![of_ipv6]));
    message
}

/// An endpoint and how it is plugged in.
#[derive(Debug, Clone)]
pub(crate) struct Plug {
    pub endpoint: Endpoint,
    /// Index of the bridge.
    pub bridge: u32,
    /// Largest packet in bytes; the kernel's own if absent.
    pub mtu: Option<u32>,
    /// It reaches nothing that is isolated too.
    pub isolated: bool,
}

/// Builds the links of `endpoints` between this namespace and `netns`, and configures the inside. A `fresh` one has only its loopback
/// yet.
pub(crate) fn connect(
    host: &mut Netlink,
    inside: BorrowedFd<'_>,
    endpoints: &[Plug],
    routes: &Routes,
    fresh: bool,
) -> Result<(), NetworkError> {
    let with_ipv6 = endpoints.iter().any(|p| p.endpoint.v6.is_some());
    let enter = || {
        if with_ipv6 {
            v6::enable_namespace()?;
        }
        Netlink::route().map_err(failed("open netlink in the container"))
    };
    let mut ns = netns::run_in(inside, enter)??;
    let ipv6_known = v6::in_kernel();
    let present = if fresh || endpoints.is_empty() {
        Vec::new()
    } else {
        links(&mut ns)?
    };
    let mut free = (0..)
        .map(|n| format!("eth{n}"))
        .filter(|n| !present.iter().any(|l| &l.1 == n));
    let (mut pairs, mut inner_names) = (Vec::new(), Vec::new());
    // The loopback link has index 1 in every namespace.
    let mut lo = LinkMessage::default();
    lo.header.index = 1;
    let mut config = vec![Request::route(RouteNetlinkMessage::SetLink(up(lo)), 0)];
    for plug in endpoints {
        let endpoint = &plug.endpoint;
        let inner_name = free.next().unwrap_or_default();
        // A veth end cannot go up before its peer exists, so the inner one is raised afterwards.
        let mut peer = named(&inner_name);
        inner_names.push(inner_name);
        let mtu = plug.mtu.map(LinkAttribute::Mtu);
        peer.attributes.extend(mtu.clone());
        peer.attributes
            .push(LinkAttribute::Address(endpoint.mac.to_vec()));
        peer.attributes
            .push(LinkAttribute::NetNsFd(inside.as_raw_fd()));
        let mut message = up(named(&endpoint.host_link));
        message.attributes.extend(mtu);
        message
            .attributes
            .push(LinkAttribute::Controller(plug.bridge));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        pairs.push(Request::route(RouteNetlinkMessage::NewLink(message), NEW));
        // With br_netfilter a container's packet to its own published port is turned round inside
        // the bridge, which drops it unless the port may send back where it received.
        let mut port = named(&endpoint.host_link);
        let mut flags = vec![InfoBridgePort::HairpinMode(true)];
        if plug.isolated {
            flags.push(InfoBridgePort::Isolated(true));
        }
        port.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(flags)),
        ]));
        pairs.push(Request::route(RouteNetlinkMessage::NewLink(port), 0));
    }
    let unplug = |host: &mut Netlink| {
        let names = endpoints.iter().map(|p| p.endpoint.host_link.clone());
        let _ = remove(host, &names.collect::<Vec<_>>());
    };
    if let Err(error) = host.batch(&pairs) {
        unplug(host);
        return Err(failed("create the container's links")(error));
    }
    // Which indexes it has given is known to the kernel alone: it counts on over links that are gone, and where tunnels are
    // known a new namespace has links of theirs (sit0, ip6tnl0) before ours.
    let known = if endpoints.is_empty() {
        Ok(Vec::new())
    } else {
        links(&mut ns)
    };
    let known = known.inspect_err(|_| unplug(host))?;
    for (plug, inner_name) in endpoints.iter().zip(&inner_names) {
        let endpoint = &plug.endpoint;
        let index = known.iter().find(|l| l.1 == *inner_name);
        let index = index.map(|l| l.0).unwrap_or_default();
        let mut raise = LinkMessage::default();
        raise.header.index = index;
        config.push(add(address(
            index,
            Ipv4Net::new_assert(endpoint.ip, endpoint.prefix),
        )));
        if let Some(v6) = endpoint.v6 {
            config.push(add(address(index, Ipv6Net::new_assert(v6.ip, v6.prefix))));
        } else if ipv6_known {
            config.push(Request::route(
                RouteNetlinkMessage::SetLink(no_link_local(raise.clone())),
                0,
            ));
        }
        config.extend(endpoint.link_local.iter().map(|ip| link_local(index, *ip)));
        config.push(Request::route(RouteNetlinkMessage::SetLink(up(raise)), 0));
    }
    config.extend(routes.requests());
    let built = ns
        .batch(&config)
        .map_err(failed("configure the container's links"));
    if built.is_err() {
        unplug(host);
    }
    built
}
