//! Messages over the wire.
#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;

use coracle_dhcp::message::{DecodeError, Kind, Message, Op, code};
use proptest::prelude::*;

const MAC: [u8; 6] = [2, 0, 0, 1, 2, 3];

/// A header of a reply and its cookie.
fn header() -> Vec<u8> {
    let mut message = Message::request(7, MAC);
    message.op = Op::Reply;
    message.encode()[..240].to_vec()
}

#[test]
fn a_request_byte_by_byte() {
    let mut message = Message::request(0x0102_0304, MAC);
    message.secs = 0x0506;
    message.broadcast = true;
    message.ciaddr = Ipv4Addr::new(192, 0, 2, 7);
    message.options.set(code::CLIENT_ID, [1]);
    message.options.set(code::DNS, []);
    message
        .options
        .set(code::MESSAGE_TYPE, [Kind::Discover as u8]);
    let bytes = message.encode();
    assert_eq!(bytes.len(), 300);
    assert_eq!(
        bytes[..20],
        [
            1, 1, 6, 0, 1, 2, 3, 4, 5, 6, 0x80, 0, 192, 0, 2, 7, 0, 0, 0, 0
        ]
    );
    assert_eq!(bytes[28..34], MAC);
    assert!(bytes[34..236].iter().all(|b| *b == 0));
    assert_eq!(
        bytes[236..250],
        [99, 130, 83, 99, 53, 1, 1, 6, 0, 61, 1, 1, 255, 0]
    );
    assert_eq!(message.kind(), Some(Kind::Discover));
    assert_eq!(Message::decode(&bytes).unwrap(), message);
}

#[test]
fn what_is_no_message() {
    let good = header();
    assert!(Message::decode(&good).is_ok());
    assert_eq!(Message::decode(&good[..239]), Err(DecodeError::Short));
    for (at, value, error) in [
        (0, 3, DecodeError::Op(3)),
        (1, 32, DecodeError::Hardware(32, 6)),
        (2, 16, DecodeError::Hardware(1, 16)),
        (236, 0, DecodeError::Cookie),
    ] {
        let mut bytes = good.clone();
        bytes[at] = value;
        assert_eq!(Message::decode(&bytes), Err(error));
    }
    for options in [&[51][..], &[51, 4], &[51, 4, 0, 0, 0], &[0, 0, 53, 1]] {
        let bytes = [&good, options].concat();
        assert_eq!(Message::decode(&bytes), Err(DecodeError::Short));
    }
}

/// Options go on in `file` and then in `sname`, where the first field says so, and parts make one value in that order.
#[test]
fn options_in_all_places() {
    for (overload, dns) in [
        (0, "1.1.1.1 "),
        (1, "1.1.1.1 2.2.2.2 "),
        (2, "1.1.1.1 3.3.3.3 "),
        (3, "1.1.1.1 2.2.2.2 3.3.3.3 "),
    ] {
        let mut bytes = header();
        bytes[44..51].copy_from_slice(&[6, 4, 3, 3, 3, 3, 255]);
        // A second overload there means nothing.
        bytes[108..118].copy_from_slice(&[52, 1, 3, 6, 4, 2, 2, 2, 2, 255]);
        bytes.extend([6, 2, 1, 1, 0, 52, 1, overload, 6, 2, 1, 1, 255, 15, 9]);
        let options = Message::decode(&bytes).unwrap().options;
        let list: String = options
            .addresses(code::DNS)
            .iter()
            .map(|address| format!("{address} "))
            .collect();
        assert_eq!(list, dns, "overload {overload}");
        assert_eq!(options.get(code::OVERLOAD), None);
        assert_eq!(options.get(code::DOMAIN_NAME), None);
    }
}

/// Longer values count with their first bytes, shorter ones not at all.
#[test]
fn values_of_other_lengths() {
    let mut options = Message::request(1, MAC).options;
    for code in 1..=3 {
        options.set(code, [0, 0, 2, 1, 9]);
    }
    assert_eq!(options.byte(1), Some(0));
    assert_eq!(options.short(1), Some(0));
    assert_eq!(options.long(1), Some(0x0201));
    assert_eq!(options.address(1), Some(Ipv4Addr::new(0, 0, 2, 1)));
    assert_eq!(options.addresses(1), [Ipv4Addr::new(0, 0, 2, 1)]);
    options.set(1, [1]);
    assert_eq!((options.short(1), options.long(1)), (None, None));
    options.set(1, []);
    assert_eq!(options.byte(1), None);
    assert_eq!(options.byte(9), None);
    for packing in [0, 52, 255] {
        options.set(packing, [1]);
        assert_eq!(options.get(packing), None);
    }
}

fn message() -> impl Strategy<Value = Message> {
    let options = proptest::collection::btree_map(
        (1u8..255).prop_filter("how options are packed", |code| *code != code::OVERLOAD),
        proptest::collection::vec(any::<u8>(), 0..600),
        0..12,
    );
    let numbers = (any::<u32>(), any::<u16>(), any::<[bool; 2]>());
    (numbers, any::<[u32; 4]>(), any::<[u8; 6]>(), options).prop_map(
        |((xid, secs, [reply, broadcast]), addresses, mac, options)| {
            let mut message = Message::request(xid, mac);
            if reply {
                message.op = Op::Reply;
            }
            message.secs = secs;
            message.broadcast = broadcast;
            [
                message.ciaddr,
                message.yiaddr,
                message.siaddr,
                message.giaddr,
            ] = addresses.map(Ipv4Addr::from);
            for (code, value) in options {
                message.options.set(code, value);
            }
            message
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(message in message()) {
        prop_assert_eq!(Message::decode(&message.encode()).unwrap(), message);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
        let _ = Message::decode(&bytes);
    }

    /// Options at random behind a good header; whatever is read makes a lease or none, and is written as it was.
    #[test]
    fn any_options_are_read_or_refused(
        options in proptest::collection::vec(any::<u8>(), 0..400),
        places in proptest::collection::vec(any::<u8>(), 192),
        overload in 0u8..4,
    ) {
        let mut bytes = header();
        bytes[44..236].copy_from_slice(&places);
        bytes[16..20].copy_from_slice(&[192, 0, 2, 7]);
        bytes.extend([52, 1, overload, 51, 4, 0, 0, 1, 0, 54, 4, 192, 0, 2, 1]);
        bytes.extend(options);
        if let Ok(message) = Message::decode(&bytes) {
            let _ = coracle_dhcp::Lease::granted(&message, None);
            prop_assert_eq!(Message::decode(&message.encode()).unwrap(), message);
        }
    }

    /// The parts of a lease that have an encoding of their own.
    #[test]
    fn any_values_are_read_or_refused(
        search in proptest::collection::vec(prop_oneof![0u8..6, Just(0xc0), any::<u8>()], 0..80),
        routes in proptest::collection::vec(prop_oneof![0u8..40, any::<u8>()], 0..80),
    ) {
        let mut message = Message::request(1, MAC);
        message.yiaddr = Ipv4Addr::new(192, 0, 2, 7);
        message.options.set(code::LEASE_TIME, [0, 0, 1, 0]);
        message.options.set(code::SERVER, [192, 0, 2, 1]);
        message.options.set(code::DOMAIN_SEARCH, search);
        message.options.set(code::CLASSLESS_ROUTES, routes);
        let lease = coracle_dhcp::Lease::granted(&message, None).unwrap();
        prop_assert!(lease.routes.iter().all(|route| route.prefix_len <= 32));
    }
}
