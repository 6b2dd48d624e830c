//! The overlay's link and entries over netlink.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;

use coracle_sys::netlink::{Netlink, NetlinkError, Request};
use coracle_sys::netns;
use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::plan::{Entry, Step};
use super::{LINK, OverlayKind, OverlaySpec, mac_of};
use crate::error::NetworkError;
use crate::link::{self, NEW, failed, named, no_link_local, up};
use crate::v6;

/// Who made a route: tells ours from all others, also after a restart. Free in `/etc/iproute2/rt_protos`.
pub(crate) const PROTOCOL: RouteProtocol = RouteProtocol::Other(173);
/// The metric of what is unreachable unless something else says where it is: the last that there is.
const LAST: u32 = u32::MAX;

fn links(netlink: &mut Netlink) -> Result<Vec<LinkMessage>, NetworkError> {
    let all = netlink
        .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
        .map_err(failed("list links"))?;
    let link = |m| match m {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    };
    Ok(all.into_iter().filter_map(link).collect())
}

fn mtu_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

fn is_named(link: &LinkMessage, name: &str) -> bool {
    let name = LinkAttribute::IfName(name.to_owned());
    link.attributes.contains(&name)
}

/// Largest packet of the link that has the address `own`, in bytes.
pub(super) fn underlay_mtu(netlink: &mut Netlink, own: Ipv4Addr) -> Result<u32, NetworkError> {
    let mut ask = AddressMessage::default();
    ask.header.family = AddressFamily::Inet;
    let all = netlink
        .dump(RouteNetlinkMessage::GetAddress(ask))
        .map_err(failed("list addresses"))?;
    let index = all.into_iter().find_map(|m| match m {
        RouteNetlinkMessage::NewAddress(a)
            if a.attributes
                .contains(&AddressAttribute::Local(IpAddr::V4(own))) =>
        {
            Some(a.header.index)
        }
        _ => None,
    });
    let index = index.ok_or(NetworkError::NoUnderlay(own))?;
    let links = links(netlink)?;
    let found = links.iter().find(|l| l.header.index == index);
    found.and_then(mtu_of).ok_or(NetworkError::NoUnderlay(own))
}

/// Index and packet size of the overlay's link.
pub(super) fn found(netlink: &mut Netlink) -> Result<Option<(u32, Option<u32>)>, NetworkError> {
    let links = links(netlink)?;
    let found = links.iter().find(|l| is_named(l, LINK));
    Ok(found.map(|l| (l.header.index, mtu_of(l))))
}

fn vxlan(spec: &OverlaySpec) -> [InfoVxlan; 4] {
    let OverlayKind::Vxlan { vni, port } = spec.kind;
    [
        InfoVxlan::Id(vni),
        InfoVxlan::Local(spec.own),
        InfoVxlan::Port(port),
        InfoVxlan::Learning(false),
    ]
}

/// Whether a link is the one that `spec` means: what cannot be changed while it is there.
fn is_right(link: &LinkMessage, spec: &OverlaySpec) -> bool {
    let infos = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let mut infos = infos.into_iter().flatten();
    infos.any(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(there)) => vxlan(spec).iter().all(|w| there.contains(w)),
        _ => false,
    })
}

/// Makes the link, or repairs what is wrong of it. Returns its index.
pub(super) fn ensure_link(
    netlink: &mut Netlink,
    spec: &OverlaySpec,
    mtu: u32,
) -> Result<u32, NetworkError> {
    let links = links(netlink)?;
    let there = links.iter().find(|l| is_named(l, LINK));
    let mac = LinkAttribute::Address(mac_of(spec.own).to_vec());
    if let Some(link) = there.filter(|l| is_right(l, spec)) {
        let is_up = link.header.flags.contains(LinkFlags::Up);
        let right = mtu_of(link) == Some(mtu) && link.attributes.contains(&mac) && is_up;
        if !right {
            let mut message = up(LinkMessage::default());
            message.header.index = link.header.index;
            message.attributes = vec![mac, LinkAttribute::Mtu(mtu)];
            let set = Request::route(RouteNetlinkMessage::SetLink(message), 0);
            netlink
                .batch(&[set])
                .map_err(failed(format!("set up {LINK}")))?;
        }
        return Ok(link.header.index);
    }
    if there.is_some() {
        link::remove(netlink, &[LINK.to_owned()])?;
    }
    let mut message = named(LINK);
    message.attributes.extend([
        mac,
        LinkAttribute::Mtu(mtu),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(vxlan(spec).to_vec())),
        ]),
    ]);
    let create = Request::route(RouteNetlinkMessage::NewLink(message), NEW);
    netlink
        .batch(&[create])
        .map_err(failed(format!("create {LINK} ({})", spec.kind)))?;
    // It has no address of its own, of neither family: it is not a neighbour to anybody.
    let mut raise = up(named(LINK));
    if v6::in_kernel() {
        raise = no_link_local(raise);
    }
    let raise = Request::route(RouteNetlinkMessage::SetLink(raise), 0);
    netlink
        .batch(&[raise])
        .map_err(failed(format!("bring up {LINK}")))?;
    let made = found(netlink)?.ok_or_else(|| NetworkError::NotFound(LINK.into()))?;
    Ok(made.0)
}

/// What there is of the overlay: entries of its link, if that is there, and routes of ours.
pub(super) fn present(
    netlink: &mut Netlink,
    link: Option<u32>,
) -> Result<BTreeSet<Entry>, NetworkError> {
    let mut all = BTreeSet::new();
    let families = [AddressFamily::Bridge, AddressFamily::Inet];
    for family in families.into_iter().filter(|_| link.is_some()) {
        let mut ask = NeighbourMessage::default();
        ask.header.family = family;
        let found = netlink
            .dump(RouteNetlinkMessage::GetNeighbour(ask))
            .map_err(failed("list neighbours"))?;
        all.extend(found.iter().filter_map(|m| match m {
            RouteNetlinkMessage::NewNeighbour(n) if Some(n.header.ifindex) == link => {
                read_neighbour(n)
            }
            _ => None,
        }));
    }
    let mut ask = RouteMessage::default();
    ask.header.address_family = AddressFamily::Inet;
    let routes = netlink
        .dump(RouteNetlinkMessage::GetRoute(ask))
        .map_err(failed("list routes"))?;
    all.extend(routes.iter().filter_map(|m| match m {
        RouteNetlinkMessage::NewRoute(r) if r.header.protocol == PROTOCOL => read_route(r),
        _ => None,
    }));
    Ok(all)
}

fn read_neighbour(n: &NeighbourMessage) -> Option<Entry> {
    let (mut mac, mut to) = (None, None);
    for attribute in &n.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(a) => mac = <[u8; 6]>::try_from(a.as_slice()).ok(),
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => to = Some(*ip),
            NeighbourAttribute::Destination(NeighbourAddress::Other(ip)) => {
                to = <[u8; 4]>::try_from(ip.as_slice()).ok().map(Ipv4Addr::from);
            }
            _ => {}
        }
    }
    let (mac, to) = (mac?, to?);
    if n.header.family == AddressFamily::Bridge {
        return Some(Entry::Forward { mac, to });
    }
    // Others are the kernel's own (multicast) and go by themselves.
    (n.header.state == NeighbourState::Permanent).then_some(Entry::Neighbour { ip: to, mac })
}

fn read_route(r: &RouteMessage) -> Option<Entry> {
    let (mut to, mut via, mut source) = (None, None, None);
    for attribute in &r.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => to = Some(*ip),
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => via = Some(*ip),
            RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => source = Some(*ip),
            _ => {}
        }
    }
    let subnet = Ipv4Net::new(to?, r.header.destination_prefix_length).ok()?;
    if r.header.kind == RouteType::Unreachable {
        return Some(Entry::Unreachable(subnet));
    }
    Some(Entry::Route {
        subnet,
        via: via?,
        source: source?,
    })
}

fn route(to: Ipv4Net, kind: RouteType) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = PROTOCOL;
    message.header.scope = RouteScope::Universe;
    message.header.kind = kind;
    message.header.destination_prefix_length = to.prefix_len();
    let to = RouteAttribute::Destination(RouteAddress::Inet(to.network()));
    message.attributes = vec![to];
    message
}

enum Message {
    Neighbour(NeighbourMessage),
    Route(RouteMessage),
}

fn message(link: u32, entry: &Entry) -> Message {
    let neighbour = |family, flags, to: Ipv4Addr, mac: [u8; 6]| {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        message.header.ifindex = link;
        message.header.state = NeighbourState::Permanent;
        message.header.flags = flags;
        message.attributes = vec![
            NeighbourAttribute::Destination(to.into()),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        Message::Neighbour(message)
    };
    match *entry {
        // The link's own table, not that of a bridge over it.
        Entry::Forward { mac, to } => {
            neighbour(AddressFamily::Bridge, NeighbourFlags::Own, to, mac)
        }
        Entry::Neighbour { ip, mac } => {
            neighbour(AddressFamily::Inet, NeighbourFlags::empty(), ip, mac)
        }
        Entry::Unreachable(subnet) => {
            let mut message = route(subnet, RouteType::Unreachable);
            message.attributes.push(RouteAttribute::Priority(LAST));
            Message::Route(message)
        }
        Entry::Route {
            subnet,
            via,
            source,
        } => {
            let mut message = route(subnet, RouteType::Unicast);
            // The next hop is no address of this link's subnet: it has none.
            message.header.flags |= RouteFlags::Onlink;
            message.attributes.extend([
                RouteAttribute::Gateway(via.into()),
                RouteAttribute::PrefSource(source.into()),
                RouteAttribute::Oif(link),
            ]);
            Message::Route(message)
        }
    }
}

fn request(link: u32, step: &Step) -> Request {
    let replace = NLM_F_CREATE | NLM_F_REPLACE;
    let (entry, flags) = match step {
        Step::Add(entry) => (entry, Some(NEW)),
        Step::Replace(entry) => (entry, Some(replace)),
        Step::Remove(entry) => (entry, None),
    };
    let (message, flags) = match (message(link, entry), flags) {
        (Message::Neighbour(n), Some(flags)) => (RouteNetlinkMessage::NewNeighbour(n), flags),
        (Message::Neighbour(n), None) => (RouteNetlinkMessage::DelNeighbour(n), 0),
        (Message::Route(r), Some(flags)) => (RouteNetlinkMessage::NewRoute(r), flags),
        (Message::Route(r), None) => (RouteNetlinkMessage::DelRoute(r), 0),
    };
    Request::route(message, flags)
}

/// Does the steps, all that can be done. Returns those that the kernel refused and why.
pub(super) fn run(
    netlink: &mut Netlink,
    link: u32,
    steps: &[Step],
) -> Result<Vec<(Step, NetlinkError)>, NetworkError> {
    let mut refused = Vec::new();
    for chunk in steps.chunks(32) {
        let requests: Vec<_> = chunk.iter().map(|s| request(link, s)).collect();
        let results = netlink.each(&requests).map_err(failed("set routes"))?;
        for (step, result) in chunk.iter().zip(results) {
            match result {
                Ok(()) => {}
                Err(e) if matches!(step, Step::Remove(_)) && e.missing() => {}
                Err(e) => refused.push((*step, e)),
            }
        }
    }
    Ok(refused)
}

fn set_mtu(index: u32, mtu: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::Mtu(mtu));
    Request::route(RouteNetlinkMessage::SetLink(message), 0)
}

/// Gives the bridge and its ports packets of at most `mtu` bytes. What a container's own end has is another matter, see [`resize_inside`]:
/// until that is done the bridge tells it what is too large.
pub(super) fn resize(netlink: &mut Netlink, bridge: u32, mtu: u32) -> Result<(), NetworkError> {
    let links = links(netlink)?;
    let mine = links.iter().filter(|l| {
        let port = LinkAttribute::Controller(bridge);
        l.header.index == bridge || l.attributes.contains(&port)
    });
    let wrong = mine.filter(|l| mtu_of(l) != Some(mtu));
    let requests: Vec<_> = wrong.map(|l| set_mtu(l.header.index, mtu)).collect();
    for chunk in requests.chunks(32) {
        for result in netlink.each(chunk).map_err(failed("set packet sizes"))? {
            match result {
                // A container that ended meanwhile.
                Err(e) if e.missing() => {}
                other => other.map_err(failed("set packet sizes"))?,
            }
        }
    }
    Ok(())
}

/// Gives the link with this MAC in the namespace `inside` packets of at most `mtu` bytes.
pub(super) fn resize_inside(
    inside: BorrowedFd<'_>,
    mac: [u8; 6],
    mtu: u32,
) -> Result<(), NetworkError> {
    let mut ns =
        netns::run_in(inside, Netlink::route)?.map_err(failed("open netlink in the container"))?;
    let mac = LinkAttribute::Address(mac.to_vec());
    let links = links(&mut ns)?;
    let wrong = links
        .iter()
        .filter(|l| l.attributes.contains(&mac) && mtu_of(l) != Some(mtu));
    let requests: Vec<_> = wrong.map(|l| set_mtu(l.header.index, mtu)).collect();
    ns.batch(&requests)
        .map_err(failed("set the container's packet size"))
}
