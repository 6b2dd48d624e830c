//! Tracked connections, as the kernel has them in the calling thread's network namespace.

use std::net::{IpAddr, SocketAddr};

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::{Netlink, NetlinkError, Request, attributes};

// Of linux/netfilter/nfnetlink_conntrack.h.
const GET: u16 = (1 << 8) | 1;
const DELETE: u16 = (1 << 8) | 2;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const PROTOCOL_STATE: u16 = 4;
const FILTER: u16 = 25;
/// Says of an attribute that it has others in it.
const NESTED: u16 = 1 << 15;
/// What of a tuple must be the same (CTA_FILTER_F_CTA_IP_SRC and CTA_FILTER_F_CTA_PROTO_NUM, which libnetfilter_conntrack has too).
const SAME_SOURCE: u32 = 1 << 0;
const SAME_PROTOCOL: u32 = 1 << 3;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// States of TCP from the first packet's sending until both sides have ended (SYN_SENT to CLOSE_WAIT of
/// linux/netfilter/nf_conntrack_tcp.h).
const OPEN: std::ops::RangeInclusive<u8> = 1..=5;

/// A tracked connection, of TCP or UDP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Where its first packet was sent to.
    pub asked: SocketAddr,
    /// Who answers: somebody else if the destination was translated.
    pub answers: SocketAddr,
    /// Whether it is TCP and there, or about to be: some side may still send.
    pub open: bool,
    /// The kernel's own name of it: family and first packet's attribute.
    name: Vec<u8>,
}

impl Flow {
    /// Whether its destination was translated.
    pub fn translated(&self) -> bool {
        self.asked != self.answers
    }
}

/// Source and destination of a tuple (`CTA_TUPLE_*`) and its protocol's number, if it has ports.
fn tuple(data: &[u8]) -> Option<(SocketAddr, SocketAddr, u8)> {
    let (mut ips, mut ports, mut number) = ([None; 2], [None; 2], None);
    for (kind, value, _) in attributes(data) {
        for (part, value, _) in attributes(value) {
            match (kind, part) {
                (1, 1..=4) => {
                    // 1 and 2 are of IPv4, 3 and 4 of IPv6.
                    let ip = <[u8; 4]>::try_from(value).map(IpAddr::from);
                    let ip = ip.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from));
                    ips[usize::from((part - 1) % 2)] = ip.ok();
                }
                (2, 1) => number = value.first().copied(),
                (2, 2 | 3) => {
                    let port = <[u8; 2]>::try_from(value).map(u16::from_be_bytes);
                    ports[usize::from(part - 2)] = port.ok();
                }
                _ => {}
            }
        }
    }
    let end = |n: usize| Some(SocketAddr::new(ips[n]?, ports[n]?));
    Some((end(0)?, end(1)?, number?))
}

/// The state of TCP within `CTA_PROTOINFO`.
fn tcp_state(data: &[u8]) -> Option<u8> {
    let part = |data, kind| {
        let all: Vec<(u16, &[u8], &[u8])> = attributes(data);
        all.into_iter().find(|a| a.0 == kind).map(|a| a.1)
    };
    part(part(data, 1)?, 1)?.first().copied()
}

fn read(family: &[u8], protocol: u8, entry: &[u8]) -> Option<Flow> {
    let all = attributes(entry);
    let find = |kind| all.iter().find(|a| a.0 == kind);
    let original = find(ORIGINAL)?;
    let (_, asked, number) = tuple(original.1)?;
    let (answers, _, _) = tuple(find(REPLY)?.1)?;
    let state = find(PROTOCOL_STATE).and_then(|a| tcp_state(a.1));
    (number == protocol).then(|| Flow {
        asked,
        answers,
        open: number == TCP && state.is_some_and(|s| OPEN.contains(&s)),
        name: [family, original.2].concat(),
    })
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend((4 + value.len() as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// All of one protocol, of those only that `answers` answers if it is given. The kernel sorts them out: others may be a hundred thousand.
fn flows(v6: bool, protocol: u8, answers: Option<IpAddr>) -> Result<Vec<Flow>, NetlinkError> {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let family = vec![family as u8, 0, 0, 0];
    let source = match answers {
        None => Vec::new(),
        Some(IpAddr::V4(ip)) => attribute(1, &ip.octets()),
        Some(IpAddr::V6(ip)) => attribute(3, &ip.octets()),
    };
    let mut same = SAME_PROTOCOL;
    let mut reply = Vec::new();
    if !source.is_empty() {
        same |= SAME_SOURCE;
        reply.extend(attribute(1 | NESTED, &source));
    }
    reply.extend(attribute(2 | NESTED, &attribute(1, &[protocol])));
    let payload = [
        family.clone(),
        attribute(REPLY | NESTED, &reply),
        attribute(FILTER | NESTED, &attribute(2, &same.to_ne_bytes())),
    ];
    let request = Request {
        kind: GET,
        flags: 0,
        payload: payload.concat(),
    };
    let frames = Netlink::open(NETLINK_NETFILTER)?.dump_frames(&request)?;
    let entries = frames.iter().filter_map(|f| f.payload().get(4..));
    let mut all: Vec<_> = entries.filter_map(|e| read(&family, protocol, e)).collect();
    all.retain(|f| answers.is_none_or(|ip| f.answers.ip() == ip));
    Ok(all)
}

/// Every tracked flow of UDP over IPv4, or over IPv6 if `v6`.
///
/// # Errors
/// When the kernel does not say them.
pub fn udp_flows(v6: bool) -> Result<Vec<Flow>, NetlinkError> {
    flows(v6, UDP, None)
}

/// Every tracked connection of TCP that `answers` answers.
///
/// # Errors
/// When the kernel does not say them.
pub fn tcp_flows(answers: IpAddr) -> Result<Vec<Flow>, NetlinkError> {
    flows(answers.is_ipv6(), TCP, Some(answers))
}

/// Deletes tracked connections: what comes of one later is taken for new. Returns how many were deleted.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn forget_flows<'a>(flows: impl Iterator<Item = &'a Flow>) -> Result<usize, NetlinkError> {
    let request = |flow: &Flow| Request {
        kind: DELETE,
        flags: 0,
        payload: flow.name.clone(),
    };
    let deletes: Vec<_> = flows.map(request).collect();
    if deletes.is_empty() {
        return Ok(0);
    }
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    let mut count = 0;
    for chunk in deletes.chunks(64) {
        // A flow that ended by itself meanwhile is as good as deleted.
        count += netlink.each(chunk)?.iter().filter(|r| r.is_ok()).count();
    }
    Ok(count)
}

/// Deletes the tracked UDP flows that a destination translation sends to one of `backends`, in the
/// calling thread's network namespace, so that later packets of the same client find the new
/// backend. Returns how many were deleted.
///
/// # Errors
/// As [`udp_flows`] and [`forget_flows`].
pub fn forget_udp_flows(backends: &[IpAddr]) -> Result<usize, NetlinkError> {
    let mut count = 0;
    for v6 in [false, true] {
        if backends.iter().any(|b| b.is_ipv6() == v6) {
            let all = udp_flows(v6)?;
            let gone = all.iter().filter(|f| backends.contains(&f.answers.ip()));
            count += forget_flows(gone)?;
        }
    }
    Ok(count)
}
