//! What becomes of a lease that is held, without network or clock.
#![allow(clippy::unwrap_used)]

mod bench;

use std::net::Ipv4Addr;
use std::time::Duration;

use bench::*;
use coracle_dhcp::message::{Kind, code};
use coracle_dhcp::state::{Change, State, Step};

#[test]
fn a_lease_is_renewed_where_it_is_from() {
    let mut bench = Bench::bound();
    assert_eq!(bench.machine.unanswered(), 0);
    let request = bench.wakes();
    assert_eq!(
        (bench.now.as_secs(), bench.state()),
        (2800, State::Renewing)
    );
    assert_eq!((request.to, request.from), (SERVER, ADDRESS));
    let said = &request.message;
    assert_eq!(kind(&request), Kind::Request);
    assert_eq!(
        (said.ciaddr, said.broadcast, said.secs),
        (ADDRESS, false, 0)
    );
    assert_eq!(said.options.get(code::REQUESTED_ADDRESS), None);
    assert_eq!(said.options.get(code::SERVER), None);
    assert!(bench.machine.lease().is_some());

    bench.at(2801);
    let ack = with(
        reply(&request, Kind::Ack),
        code::DOMAIN_NAME,
        b"new.example",
    );
    let Some(Change::Renewed(lease)) = bench.hears(&ack).change else {
        panic!("not renewed");
    };
    assert_eq!(lease.domain.as_deref(), Some("new.example"));
    assert_eq!(bench.state(), State::Bound);
    assert_eq!(bench.machine.deadline().as_secs(), 2800 + 1800);
}

#[test]
fn a_renewal_is_repeated_then_anyone_is_asked_then_the_lease_is_lost() {
    let mut bench = Bench::bound();
    let mut xids = Vec::new();
    // T1 2800, T2 4150, end 4600: once soon, then half of what is left, then no less than a minute.
    for (second, state) in [
        (2800, State::Renewing),
        (2804, State::Renewing),
        (3477, State::Renewing),
        (3813, State::Renewing),
        (3981, State::Renewing),
        (4065, State::Renewing),
        (4125, State::Renewing),
        (4150, State::Rebinding),
        (4154, State::Rebinding),
        (4377, State::Rebinding),
        (4488, State::Rebinding),
        (4548, State::Rebinding),
    ] {
        let request = bench.wakes();
        assert_eq!((bench.now.as_secs(), bench.state()), (second, state));
        let to = match state {
            State::Renewing => SERVER,
            _ => Ipv4Addr::BROADCAST,
        };
        assert_eq!(
            (request.to, request.from, request.message.ciaddr),
            (to, ADDRESS, ADDRESS)
        );
        assert_eq!(u64::from(request.message.secs), second - 2800);
        assert!(!request.message.broadcast && !xids.contains(&request.message.xid));
        xids.push(request.message.xid);
    }
    let step = bench.step();
    assert_eq!((step.change, step.send), (Some(Change::Lost), None));
    assert_eq!((bench.now.as_secs(), bench.state()), (4600, State::Init));
    assert_eq!((bench.machine.lease(), bench.wait()), (None, 0.0));
    let discover = bench.wakes();
    assert_eq!(
        (kind(&discover), discover.message.secs),
        (Kind::Discover, 0)
    );
    assert_eq!(
        discover.message.options.address(code::REQUESTED_ADDRESS),
        Some(ADDRESS)
    );
}

#[test]
fn another_server_may_prolong_a_lease() {
    let mut bench = Bench::bound();
    bench.at(4200);
    let request = bench.wakes();
    assert_eq!(bench.state(), State::Rebinding);
    let ack = with(reply(&request, Kind::Ack), code::SERVER, &OTHER.octets());
    let Some(Change::Renewed(lease)) = bench.hears(&ack).change else {
        panic!("not renewed");
    };
    assert_eq!(lease.server, OTHER);
    assert_eq!(bench.machine.deadline().as_secs(), 4200 + 1800);
    assert_eq!(bench.wakes().to, OTHER);
}

#[test]
fn a_lease_that_is_taken_back_is_lost() {
    for second in [2800, 4200] {
        let mut bench = Bench::bound();
        bench.at(second);
        let request = bench.wakes();
        let step = bench.hears(&reply(&request, Kind::Nak));
        assert_eq!((step.change, step.send), (Some(Change::Lost), None));
        assert_eq!((bench.state(), bench.wait()), (State::Init, 0.0));
        let discover = bench.wakes();
        assert_eq!(kind(&discover), Kind::Discover);
        assert_eq!(discover.message.options.get(code::REQUESTED_ADDRESS), None);
    }
}

#[test]
fn another_address_is_a_lease_of_its_own() {
    let mut bench = Bench::bound();
    let request = bench.wakes();
    let mut ack = reply(&request, Kind::Ack);
    ack.yiaddr = Ipv4Addr::new(192, 0, 2, 8);
    assert!(matches!(bench.hears(&ack).change, Some(Change::Bound(_))));
    assert_eq!(bench.machine.lease().unwrap().address, ack.yiaddr);
}

/// The machine slept through what was due.
#[test]
fn time_that_was_slept_through_counts() {
    let mut bench = Bench::bound();
    bench.at(5000);
    assert_eq!(bench.step().change, Some(Change::Lost));

    let mut bench = Bench::bound();
    bench.wakes();
    bench.at(4300);
    assert_eq!(bench.wakes().to, Ipv4Addr::BROADCAST);
    assert_eq!(bench.state(), State::Rebinding);
    assert_eq!(bench.wait(), 4.0);
}

#[test]
fn what_is_granted_for_ever_is_never_asked_for_again() {
    let mut bench = Bench::new(None);
    let discover = bench.wakes();
    let request = bench.hears(&reply(&discover, Kind::Offer)).send.unwrap();
    let ack = with(reply(&request, Kind::Ack), code::LEASE_TIME, &[255; 4]);
    let ack = with(ack, code::T1, &[0, 0, 0, 2]);
    assert!(bench.hears(&ack).change.is_some());
    assert_eq!(bench.machine.deadline(), Duration::MAX);
    bench.at(10_000_000);
    let chance = bench.chance();
    assert_eq!(bench.machine.wake(bench.now, chance), Step::default());
}

/// The server's own T1 and T2.
#[test]
fn a_servers_times_are_kept() {
    let mut bench = Bench::new(None);
    let discover = bench.wakes();
    let request = bench.hears(&reply(&discover, Kind::Offer)).send.unwrap();
    let ack = with(reply(&request, Kind::Ack), code::T1, &[0, 0, 0, 2]);
    assert!(
        bench
            .hears(&with(ack, code::T2, &[0, 0, 0, 4]))
            .change
            .is_some()
    );
    for (second, state) in [(1002, State::Renewing), (1004, State::Rebinding)] {
        bench.wakes();
        assert_eq!((bench.now.as_secs(), bench.state()), (second, state));
    }
}

/// The shortest of leases is asked for once a second, not more.
#[test]
fn the_shortest_lease() {
    let mut bench = Bench::new(None);
    for round in 0..3 {
        let discover = bench.wakes();
        assert_eq!(bench.now.as_secs(), 1000 + round);
        let request = bench.hears(&reply(&discover, Kind::Offer)).send.unwrap();
        let ack = with(reply(&request, Kind::Ack), code::LEASE_TIME, &[0, 0, 0, 1]);
        assert!(bench.hears(&ack).change.is_some());
        assert_eq!(bench.step().change, Some(Change::Lost));
    }
}
