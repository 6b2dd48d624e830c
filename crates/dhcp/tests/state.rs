//! Every way to a lease, without network or clock.
#![allow(clippy::unwrap_used)]

mod bench;

use std::net::Ipv4Addr;
use std::time::Duration;

use bench::*;
use coracle_dhcp::LeaseError;
use coracle_dhcp::message::{Kind, Message, Op, code};
use coracle_dhcp::state::{Change, State, Step};

#[test]
fn a_search_by_the_book() {
    let mut bench = Bench::new(None);
    assert_eq!(bench.state(), State::Init);
    assert_eq!(bench.wait(), 0.0);
    let discover = bench.wakes();
    assert_eq!(bench.state(), State::Selecting);
    assert_eq!(kind(&discover), Kind::Discover);
    assert_eq!(
        (discover.to, discover.from),
        (Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED)
    );
    let said = &discover.message;
    assert_eq!(
        (said.op, said.chaddr, said.broadcast),
        (Op::Request, MAC, true)
    );
    assert_eq!(
        (said.xid, said.secs, said.ciaddr),
        (1, 0, Ipv4Addr::UNSPECIFIED)
    );
    assert_eq!(
        said.options.get(code::CLIENT_ID).unwrap(),
        [1, 2, 0, 0, 1, 2, 3]
    );
    assert_eq!(said.options.short(code::MESSAGE_SIZE), Some(1500));
    assert_eq!(said.options.get(code::HOST_NAME).unwrap(), b"node");
    assert_eq!(said.options.get(code::REQUESTED_ADDRESS), None);
    assert_eq!(
        said.options.get(code::PARAMETERS).unwrap(),
        [1, 121, 3, 6, 12, 15, 26, 51, 58, 59, 119]
    );

    let again = bench.wakes();
    assert_eq!((again.message.xid, again.message.secs), (1, 1));
    bench.now += Duration::from_millis(1500);
    let request = bench.hears(&reply(&again, Kind::Offer)).send.unwrap();
    assert_eq!(bench.state(), State::Requesting);
    assert_eq!(kind(&request), Kind::Request);
    assert_eq!(
        (request.to, request.from),
        (Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED)
    );
    let said = &request.message;
    assert_eq!((said.xid, said.secs, said.broadcast), (1, 1, true));
    assert_eq!(said.ciaddr, Ipv4Addr::UNSPECIFIED);
    assert_eq!(said.options.address(code::REQUESTED_ADDRESS), Some(ADDRESS));
    assert_eq!(said.options.address(code::SERVER), Some(SERVER));

    let asked = bench.now;
    bench.now += Duration::from_millis(300);
    assert_eq!(bench.machine.lease(), None);
    let step = bench.hears(&reply(&request, Kind::Ack));
    let Some(Change::Bound(lease)) = step.change else {
        panic!("{step:?}");
    };
    assert_eq!((lease.address, lease.server), (ADDRESS, SERVER));
    assert_eq!(bench.state(), State::Bound);
    assert_eq!(bench.machine.lease(), Some(&lease));
    // Counted from the request.
    assert_eq!(
        bench.machine.deadline(),
        asked + Duration::from_secs(LEASE as u64 / 2)
    );
}

#[test]
fn a_search_is_repeated_at_longer_and_longer_waits() {
    for (jitter, expected) in [
        (0, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 64.0]),
        (1000, [1.1, 2.1, 5.0, 9.0, 17.0, 33.0, 65.0, 65.0]),
        (-1000, [0.9, 1.9, 3.0, 7.0, 15.0, 31.0, 63.0, 63.0]),
        (i16::MAX, [1.1, 2.1, 5.0, 9.0, 17.0, 33.0, 65.0, 65.0]),
    ] {
        let mut bench = Bench::new(None);
        bench.jitter = jitter;
        for (sent, wait) in (1..).zip(expected) {
            let discover = bench.wakes();
            assert_eq!((kind(&discover), discover.message.xid), (Kind::Discover, 1));
            assert_eq!(bench.machine.unanswered(), sent);
            if jitter != i16::MAX {
                assert_eq!(bench.wait(), wait, "{jitter}");
            }
        }
    }
}

#[test]
fn an_unanswered_request_becomes_a_search() {
    let mut bench = Bench::new(None);
    let discover = bench.wakes();
    let mut request = bench.hears(&reply(&discover, Kind::Offer)).send.unwrap();
    for wait in [1.0, 2.0, 4.0] {
        assert_eq!(bench.wait(), wait);
        let again = bench.wakes();
        assert_eq!(again, request);
        request = again;
    }
    assert_eq!(bench.wait(), 8.0);
    let fresh = bench.wakes();
    assert_eq!(
        (kind(&fresh), bench.state()),
        (Kind::Discover, State::Selecting)
    );
    assert_ne!(fresh.message.xid, discover.message.xid);
    assert_eq!(fresh.message.secs, 15);
    // What comes late is not about the new search.
    assert_eq!(bench.hears(&reply(&request, Kind::Ack)), Step::default());
    assert!(bench.hears(&reply(&fresh, Kind::Offer)).send.is_some());
}

#[test]
fn the_first_offer_is_taken() {
    let mut bench = Bench::new(None);
    let discover = bench.wakes();
    let request = bench.hears(&reply(&discover, Kind::Offer)).send.unwrap();
    let other = |kind| with(reply(&discover, kind), code::SERVER, &OTHER.octets());
    for kind in [Kind::Offer, Kind::Ack, Kind::Nak] {
        assert_eq!(bench.hears(&other(kind)), Step::default());
        assert_eq!(bench.state(), State::Requesting);
    }
    let step = bench.hears(&reply(&request, Kind::Ack));
    assert!(matches!(step.change, Some(Change::Bound(_))));
}

#[test]
fn what_is_not_for_us_is_ignored() {
    let mut bench = Bench::new(None);
    let discover = bench.wakes();
    let good = reply(&discover, Kind::Offer);
    let other = |change: fn(&mut Message)| {
        let mut message = good.clone();
        change(&mut message);
        message
    };
    for wrong in [
        other(|m| m.xid += 1),
        other(|m| m.chaddr[5] += 1),
        other(|m| m.op = Op::Request),
        other(|m| m.options.set(code::CLIENT_ID, [1, 2, 0, 0, 1, 2, 4])),
        other(|m| m.options.set(code::MESSAGE_TYPE, [9])),
        other(|m| m.options.set(code::MESSAGE_TYPE, [])),
        other(|m| m.options.set(code::MESSAGE_TYPE, [Kind::Ack as u8])),
        other(|m| m.options.set(code::MESSAGE_TYPE, [Kind::Nak as u8])),
    ] {
        assert_eq!(bench.hears(&wrong), Step::default(), "{wrong:?}");
        assert_eq!(bench.state(), State::Selecting);
    }
    let own = with(good, code::CLIENT_ID, &[1, 2, 0, 0, 1, 2, 3]);
    assert!(bench.hears(&own).send.is_some());
}

/// A server that offers what cannot be used leaves room for another.
#[test]
fn offers_that_are_none_are_refused() {
    let mut bench = Bench::new(None);
    let discover = bench.wakes();
    let good = reply(&discover, Kind::Offer);
    let refused = |step: Step| {
        assert_eq!((step.send, step.change), (None, None));
        step.refused.unwrap()
    };
    let timeless = with(good.clone(), code::LEASE_TIME, &[]);
    assert_eq!(refused(bench.hears(&timeless)), LeaseError::Time);
    let anonymous = with(good.clone(), code::SERVER, &[]);
    assert_eq!(refused(bench.hears(&anonymous)), LeaseError::Server);
    let mut nowhere = good.clone();
    nowhere.yiaddr = Ipv4Addr::UNSPECIFIED;
    assert!(matches!(
        refused(bench.hears(&nowhere)),
        LeaseError::Address(_)
    ));
    let request = bench.hears(&good).send.unwrap();

    // Likewise a grant; one that does not name its server is taken for the chosen one's.
    let timeless = with(reply(&request, Kind::Ack), code::LEASE_TIME, &[]);
    assert_eq!(refused(bench.hears(&timeless)), LeaseError::Time);
    assert_eq!(bench.state(), State::Requesting);
    let anonymous = with(reply(&request, Kind::Ack), code::SERVER, &[]);
    assert!(bench.hears(&anonymous).change.is_some());
    assert_eq!(bench.machine.lease().unwrap().server, SERVER);
}

#[test]
fn a_refused_request_becomes_a_search_after_a_pause() {
    let mut bench = Bench::new(None);
    for pause in [1.0, 2.0, 4.0, 8.0] {
        let discover = bench.wakes();
        let request = bench.hears(&reply(&discover, Kind::Offer)).send.unwrap();
        assert_eq!(bench.hears(&reply(&request, Kind::Nak)), Step::default());
        assert_eq!((bench.state(), bench.wait()), (State::Init, pause));
        assert_eq!(bench.hears(&reply(&request, Kind::Ack)), Step::default());
    }
    let discover = bench.wakes();
    assert_eq!(discover.message.secs, 0);
    assert_eq!(discover.message.options.get(code::REQUESTED_ADDRESS), None);
    let request = bench.hears(&reply(&discover, Kind::Offer)).send.unwrap();
    assert!(bench.hears(&reply(&request, Kind::Ack)).change.is_some());
    // One that granted is trusted anew.
    bench.at(100_000);
    assert_eq!(bench.step().change, Some(Change::Lost));
    let discover = bench.wakes();
    let request = bench.hears(&reply(&discover, Kind::Offer)).send.unwrap();
    bench.hears(&reply(&request, Kind::Nak));
    assert_eq!(bench.wait(), 1.0);
}

#[test]
fn a_remembered_address_is_asked_for() {
    let mut bench = Bench::new(Some(&lease()));
    let request = bench.wakes();
    assert_eq!(
        (kind(&request), bench.state()),
        (Kind::Request, State::Rebooting)
    );
    assert_eq!(
        (request.to, request.from),
        (Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED)
    );
    let said = &request.message;
    assert_eq!((said.ciaddr, said.broadcast), (Ipv4Addr::UNSPECIFIED, true));
    assert_eq!(said.options.address(code::REQUESTED_ADDRESS), Some(ADDRESS));
    assert_eq!(said.options.get(code::SERVER), None);
    let asked = bench.now;
    bench.now += Duration::from_millis(200);
    // Any server may answer.
    let ack = with(reply(&request, Kind::Ack), code::SERVER, &OTHER.octets());
    let Some(Change::Bound(lease)) = bench.hears(&ack).change else {
        panic!("not bound");
    };
    assert_eq!((lease.address, lease.server), (ADDRESS, OTHER));
    assert_eq!(bench.machine.deadline(), asked + lease.t1);
}

#[test]
fn a_remembered_address_that_is_refused_is_forgotten() {
    let mut bench = Bench::new(Some(&lease()));
    let request = bench.wakes();
    assert_eq!(bench.hears(&reply(&request, Kind::Nak)), Step::default());
    assert_eq!((bench.state(), bench.wait()), (State::Init, 0.0));
    let discover = bench.wakes();
    assert_eq!(kind(&discover), Kind::Discover);
    assert_eq!(discover.message.options.get(code::REQUESTED_ADDRESS), None);
}

#[test]
fn a_remembered_address_that_nobody_knows_is_searched_for() {
    let mut bench = Bench::new(Some(&lease()));
    let request = bench.wakes();
    assert_eq!(bench.wait(), 1.0);
    let again = bench.wakes();
    assert_eq!(again.message.secs, 1);
    assert_eq!(again.message.xid, request.message.xid);
    assert_eq!(bench.wait(), 2.0);
    let discover = bench.wakes();
    assert_eq!(
        (kind(&discover), bench.state()),
        (Kind::Discover, State::Selecting)
    );
    assert_ne!(discover.message.xid, request.message.xid);
    assert_eq!(discover.message.secs, 3);
    assert_eq!(
        discover.message.options.address(code::REQUESTED_ADDRESS),
        Some(ADDRESS)
    );
    assert_eq!(bench.wait(), 1.0);

    let mut nothing = lease();
    nothing.address = Ipv4Addr::UNSPECIFIED;
    assert_eq!(kind(&Bench::new(Some(&nothing)).wakes()), Kind::Discover);
}
