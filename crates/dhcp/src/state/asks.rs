//! The client's messages (RFC 2131, table 5).

use std::net::Ipv4Addr;

use super::{Identity, Outgoing};
use crate::message::{Kind, Message, code};

/// Settings asked for, the more important first. Classless routes come before routers (RFC 3442).
const PARAMETERS: [u8; 11] = [
    code::SUBNET_MASK,
    code::CLASSLESS_ROUTES,
    code::ROUTER,
    code::DNS,
    code::HOST_NAME,
    code::DOMAIN_NAME,
    code::MTU,
    code::LEASE_TIME,
    code::T1,
    code::T2,
    code::DOMAIN_SEARCH,
];

/// Largest message taken, in bytes with the headers of IP and UDP.
pub(crate) const MESSAGE_MAX: u16 = 1500;

/// Option 61 of an interface: the type of its hardware, 1 for Ethernet, and its address (RFC 2132, 9.14).
pub(super) fn client_id(mac: [u8; 6]) -> [u8; 7] {
    let [a, b, c, d, e, f] = mac;
    [1, a, b, c, d, e, f]
}

/// A search, with the address that would be liked.
pub(super) fn discover(who: &Identity, xid: u32, secs: u16, wanted: Option<Ipv4Addr>) -> Outgoing {
    let mut message = message(who, xid, secs, Kind::Discover);
    if let Some(address) = wanted {
        message
            .options
            .set(code::REQUESTED_ADDRESS, address.octets());
    }
    broadcast(message)
}

/// Takes what `server` offered.
pub(super) fn request(
    who: &Identity,
    xid: u32,
    secs: u16,
    address: Ipv4Addr,
    server: Ipv4Addr,
) -> Outgoing {
    let mut message = message(who, xid, secs, Kind::Request);
    message
        .options
        .set(code::REQUESTED_ADDRESS, address.octets());
    message.options.set(code::SERVER, server.octets());
    broadcast(message)
}

/// Asks for a remembered address.
pub(super) fn reboot(who: &Identity, xid: u32, secs: u16, address: Ipv4Addr) -> Outgoing {
    let mut message = message(who, xid, secs, Kind::Request);
    message
        .options
        .set(code::REQUESTED_ADDRESS, address.octets());
    broadcast(message)
}

/// Asks `to` for more time with `address`, which is in place: answers come to it.
pub(super) fn prolong(
    who: &Identity,
    xid: u32,
    secs: u16,
    address: Ipv4Addr,
    to: Ipv4Addr,
) -> Outgoing {
    let mut message = message(who, xid, secs, Kind::Request);
    message.ciaddr = address;
    Outgoing {
        message,
        to,
        from: address,
    }
}

fn broadcast(mut message: Message) -> Outgoing {
    message.broadcast = true;
    Outgoing {
        message,
        to: Ipv4Addr::BROADCAST,
        from: Ipv4Addr::UNSPECIFIED,
    }
}

fn message(who: &Identity, xid: u32, secs: u16, kind: Kind) -> Message {
    let mut message = Message::request(xid, who.mac);
    message.secs = secs;
    let options = &mut message.options;
    options.set(code::MESSAGE_TYPE, [kind as u8]);
    options.set(code::CLIENT_ID, client_id(who.mac));
    options.set(code::MESSAGE_SIZE, MESSAGE_MAX.to_be_bytes());
    options.set(code::PARAMETERS, PARAMETERS);
    if let Some(name) = &who.hostname {
        options.set(code::HOST_NAME, name.as_bytes());
    }
    message
}
