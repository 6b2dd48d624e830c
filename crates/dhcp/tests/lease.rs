//! What a message grants, and what it is in a file.
#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;
use std::time::Duration;

use coracle_dhcp::message::{Message, Options, code};
use coracle_dhcp::{Lease, LeaseError};

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

fn ack(more: &[(u8, &[u8])]) -> Message {
    let mut message = Message::request(1, [2, 0, 0, 0, 0, 1]);
    message.yiaddr = Ipv4Addr::new(192, 0, 2, 7);
    message.options.set(code::SUBNET_MASK, [255, 255, 255, 128]);
    message.options.set(code::LEASE_TIME, 800u32.to_be_bytes());
    message.options.set(code::SERVER, SERVER.octets());
    for (code, value) in more {
        message.options.set(*code, *value);
    }
    message
}

fn granted(more: &[(u8, &[u8])]) -> Result<Lease, LeaseError> {
    Lease::granted(&ack(more), None)
}

fn without(code: u8) -> Message {
    let mut message = ack(&[]);
    let before = std::mem::take(&mut message.options);
    let mut options = Options::default();
    for kept in (1..255).filter(|kept| *kept != code) {
        if let Some(value) = before.get(kept) {
            options.set(kept, value);
        }
    }
    message.options = options;
    message
}

#[test]
fn settings() {
    let lease = granted(&[
        (code::ROUTER, &[192, 0, 2, 1, 0, 0, 0, 0, 192, 0, 2, 2]),
        (code::DNS, &[192, 0, 2, 53, 127, 0, 0, 1, 224, 0, 0, 1]),
        (code::DOMAIN_NAME, b"lab.example\0"),
        (code::DOMAIN_SEARCH, b"\x03lab\x07example\x00\x01a\xc0\x04"),
        (code::HOST_NAME, b"node"),
        (code::MTU, &[5, 120]),
    ])
    .unwrap();
    assert_eq!(lease.prefix_len, 25);
    assert_eq!(lease.routers, [SERVER, Ipv4Addr::new(192, 0, 2, 2)]);
    assert_eq!(lease.dns, [Ipv4Addr::new(192, 0, 2, 53)]);
    assert_eq!(lease.domain.as_deref(), Some("lab.example"));
    assert_eq!(lease.search, ["lab.example", "a.example"]);
    assert_eq!(lease.hostname.as_deref(), Some("node"));
    assert_eq!(lease.mtu, Some(1400));
    assert_eq!(lease.server, SERVER);
    assert!(lease.routes.is_empty());
}

/// What cannot be read is as if it were not there.
#[test]
fn settings_that_are_none() {
    let lease = granted(&[
        (code::ROUTER, &[192, 0, 2]),
        (code::CLASSLESS_ROUTES, &[33]),
        (code::DOMAIN_NAME, b"a;b"),
        (code::DOMAIN_SEARCH, b"\x09a"),
        (code::HOST_NAME, b"-"),
        (code::MTU, &[0, 67]),
    ])
    .unwrap();
    assert_eq!(lease, granted(&[]).unwrap());
}

#[test]
fn classless_routes_replace_routers() {
    let lease = granted(&[
        (code::ROUTER, &[192, 0, 2, 1]),
        (code::CLASSLESS_ROUTES, &[8, 10, 192, 0, 2, 3]),
    ])
    .unwrap();
    assert!(lease.routers.is_empty());
    assert_eq!(lease.routes[0].destination, Ipv4Addr::new(10, 0, 0, 0));
    assert_eq!(lease.routes[0].gateway, Some(Ipv4Addr::new(192, 0, 2, 3)));
}

#[test]
fn times() {
    for (all, t1, t2, expected) in [
        (800, None, None, [400, 700]),
        (800, Some(2), Some(4), [2, 4]),
        (800, Some(2), None, [2, 700]),
        (800, None, Some(4), [4, 4]),
        (800, Some(5), Some(4), [4, 4]),
        (800, Some(0), Some(0), [400, 700]),
        (800, Some(800), Some(900), [400, 700]),
        (7, None, None, [3, 7]),
        (1, None, None, [1, 1]),
    ] {
        let mut message = ack(&[(code::LEASE_TIME, &u32::to_be_bytes(all))]);
        for (code, value) in [(code::T1, t1), (code::T2, t2)] {
            if let Some(value) = value {
                message.options.set(code, u32::to_be_bytes(value));
            }
        }
        let lease = Lease::granted(&message, None).unwrap();
        let found = [lease.t1.as_secs(), lease.t2.as_secs()];
        assert_eq!(found, expected, "{all} {t1:?} {t2:?}");
        assert_eq!(lease.lease_time, Duration::from_secs(all.into()));
    }
    let forever = granted(&[(code::LEASE_TIME, &[255; 4]), (code::T1, &[0, 0, 0, 9])]).unwrap();
    assert_eq!(forever.lease_time, Duration::MAX);
    assert_eq!((forever.t1, forever.t2), (Duration::MAX, Duration::MAX));
}

#[test]
fn masks() {
    for (mask, expected) in [
        ([255, 255, 255, 255], Some(32)),
        ([255, 255, 240, 0], Some(20)),
        ([128, 0, 0, 0], Some(1)),
        ([0, 0, 0, 0], None),
        ([255, 0, 255, 0], None),
        ([0, 255, 255, 255], None),
    ] {
        let found = granted(&[(code::SUBNET_MASK, &mask)]);
        assert_eq!(found.map(|lease| lease.prefix_len).ok(), expected);
    }
    for (address, expected) in [
        ([10, 9, 8, 7], 8),
        ([172, 16, 0, 1], 16),
        ([192, 0, 2, 1], 24),
    ] {
        let mut message = without(code::SUBNET_MASK);
        message.yiaddr = address.into();
        assert_eq!(Lease::granted(&message, None).unwrap().prefix_len, expected);
    }
}

#[test]
fn what_grants_nothing() {
    for address in [
        [0, 0, 0, 0],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [255, 255, 255, 255],
    ] {
        let mut message = ack(&[]);
        message.yiaddr = address.into();
        let error = Err(LeaseError::Address(address.into()));
        assert_eq!(Lease::granted(&message, None), error);
    }
    let timeless = Lease::granted(&without(code::LEASE_TIME), None);
    assert_eq!(timeless, Err(LeaseError::Time));
    assert_eq!(
        granted(&[(code::LEASE_TIME, &[0; 4])]),
        Err(LeaseError::Time)
    );
    let anonymous = without(code::SERVER);
    assert_eq!(Lease::granted(&anonymous, None), Err(LeaseError::Server));
    assert_eq!(
        Lease::granted(&anonymous, Some(SERVER)).unwrap().server,
        SERVER
    );
}

#[test]
fn in_a_file() {
    let forever: &[u8] = &[255; 4];
    for time in [&[0, 0, 1, 0], forever] {
        let lease = granted(&[
            (code::LEASE_TIME, time),
            (code::CLASSLESS_ROUTES, &[0, 192, 0, 2, 3]),
        ])
        .unwrap();
        let text = serde_json::to_string(&lease).unwrap();
        assert_eq!(serde_json::from_str::<Lease>(&text).unwrap(), lease);
    }
    let value = serde_json::to_value(granted(&[]).unwrap()).unwrap();
    assert_eq!(value["lease_time"], 800);
    assert_eq!(value["address"], "192.0.2.7");
}
