//! The route of the services' range over netlink.

use std::net::Ipv4Addr;

use coracle_sys::netlink::{Netlink, Request};
use ipnet::Ipv4Net;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::NetworkError;
use crate::link::{NEW, failed};

/// Who made a route: tells ours from all others, also after a restart. Free in `/etc/iproute2/rt_protos`.
pub(crate) const PROTOCOL: RouteProtocol = RouteProtocol::Other(174);
/// The metric of what is unreachable unless something else says where it is: the last that there is.
const LAST: u32 = u32::MAX;

fn route(range: Ipv4Net, kind: RouteType, scope: RouteScope) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = PROTOCOL;
    message.header.scope = scope;
    message.header.kind = kind;
    message.header.destination_prefix_length = range.prefix_len();
    let to = RouteAttribute::Destination(RouteAddress::Inet(range.network()));
    message.attributes = vec![to];
    message
}

/// The routes that should be: by the bridge, with its address, and behind that nowhere.
fn wanted(range: Ipv4Net, bridge: u32, gateway: Ipv4Addr) -> [RouteMessage; 2] {
    let mut by_bridge = route(range, RouteType::Unicast, RouteScope::Link);
    by_bridge.attributes.extend([
        RouteAttribute::Oif(bridge),
        RouteAttribute::PrefSource(gateway.into()),
    ]);
    let mut nowhere = route(range, RouteType::Unreachable, RouteScope::Universe);
    nowhere.attributes.push(RouteAttribute::Priority(LAST));
    [by_bridge, nowhere]
}

/// Whether the kernel's `there` is what `wanted` asks for; it says more of each.
fn is(there: &RouteMessage, wanted: &RouteMessage) -> bool {
    let (a, b) = (&there.header, &wanted.header);
    a.kind == b.kind
        && a.destination_prefix_length == b.destination_prefix_length
        && wanted
            .attributes
            .iter()
            .all(|w| there.attributes.contains(w))
}

fn present(netlink: &mut Netlink) -> Result<Vec<RouteMessage>, NetworkError> {
    let mut ask = RouteMessage::default();
    ask.header.address_family = AddressFamily::Inet;
    let all = netlink
        .dump(RouteNetlinkMessage::GetRoute(ask))
        .map_err(failed("list routes"))?;
    let ours = |m| match m {
        RouteNetlinkMessage::NewRoute(r) if r.header.protocol == PROTOCOL => Some(r),
        _ => None,
    };
    Ok(all.into_iter().filter_map(ours).collect())
}

fn remove(netlink: &mut Netlink, routes: &[RouteMessage]) -> Result<(), NetworkError> {
    let requests: Vec<_> = routes
        .iter()
        .map(|r| Request::route(RouteNetlinkMessage::DelRoute(r.clone()), 0))
        .collect();
    let what = || failed("remove the route of services' addresses");
    for result in netlink.each(&requests).map_err(what())? {
        match result {
            Err(e) if e.missing() => {}
            other => other.map_err(what())?,
        }
    }
    Ok(())
}

/// Sets the routes of the range if they are not there, and removes others of ours; true if something had to be done.
pub(super) fn ensure(
    netlink: &mut Netlink,
    range: Ipv4Net,
    bridge: u32,
    gateway: Ipv4Addr,
) -> Result<bool, NetworkError> {
    let wanted = wanted(range, bridge, gateway);
    let there = present(netlink)?;
    let others = there.iter().filter(|t| !wanted.iter().any(|w| is(t, w)));
    let others: Vec<_> = others.cloned().collect();
    remove(netlink, &others)?;
    let missing = wanted.iter().filter(|w| !there.iter().any(|t| is(t, w)));
    let requests: Vec<_> = missing
        .map(|r| Request::route(RouteNetlinkMessage::NewRoute(r.clone()), NEW))
        .collect();
    netlink.batch(&requests).map_err(failed(format!(
        "set the route {range} of services' addresses"
    )))?;
    Ok(!requests.is_empty() || !others.is_empty())
}

/// Removes all of it that there is.
pub(super) fn clear(netlink: &mut Netlink) -> Result<(), NetworkError> {
    let there = present(netlink)?;
    remove(netlink, &there)
}
