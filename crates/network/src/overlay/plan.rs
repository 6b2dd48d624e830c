//! What the kernel should have of the overlay, and the way there from what it has: pure.
//!
//! Worked example: there are entries of peer `b`; the new list has `b` with another address, and `c`, whose subnet is that of a
//! network of this machine. `c` becomes a problem in words. Of `b` the route stays, its neighbour and forwarding entries
//! are others: the steps add the new forwarding entry, replace the neighbour and take the old forwarding entry away last.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{OverlaySpec, Peer, mac_of, overlap};

/// One thing that the kernel has. In the order in which they are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Entry {
    /// Frames for this MAC go to that machine.
    Forward { mac: [u8; 6], to: Ipv4Addr },
    /// The next hop `ip` has this MAC.
    Neighbour { ip: Ipv4Addr, mac: [u8; 6] },
    /// Nothing is here unless a longer prefix says so.
    Unreachable(Ipv4Net),
    /// A peer's subnet.
    Route {
        subnet: Ipv4Net,
        via: Ipv4Addr,
        source: Ipv4Addr,
    },
}

/// What a spec comes to on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The peers that can be reached.
    pub peers: Vec<Peer>,
    /// Why others cannot.
    pub problems: Vec<String>,
    /// All entries.
    pub entries: BTreeSet<Entry>,
}

/// The next hop of a subnet: its first address, which usually is the bridge's. Only this machine's own table of neighbours looks
/// at it.
fn via(subnet: Ipv4Net) -> Ipv4Addr {
    subnet.hosts().next().unwrap_or(subnet.addr())
}

/// Reads a spec on a machine whose default network has the address `gateway`, and whose other networks are `local`, with their
/// names.
pub(super) fn wanted(spec: &OverlaySpec, gateway: Ipv4Addr, local: &[(Ipv4Net, String)]) -> Wanted {
    let mut wanted = Wanted::default();
    // So that who comes first does not depend on who asks.
    let mut peers = spec.peers.clone();
    peers.sort();
    for mut peer in peers {
        peer.subnet = peer.subnet.trunc();
        match refusal(spec, &wanted.peers, local, &peer) {
            None => wanted.peers.push(peer),
            Some(why) => wanted.problems.push(format!(
                "machine {} ({}, {}) is not reached: {why}",
                peer.machine, peer.underlay, peer.subnet
            )),
        }
    }
    for peer in &wanted.peers {
        let (mac, ip) = (mac_of(peer.underlay), via(peer.subnet));
        wanted.entries.extend([
            Entry::Forward {
                mac,
                to: peer.underlay,
            },
            Entry::Neighbour { ip, mac },
            Entry::Route {
                subnet: peer.subnet,
                via: ip,
                source: gateway,
            },
        ]);
    }
    let ranges = spec.ranges.iter().map(|r| Entry::Unreachable(r.trunc()));
    wanted.entries.extend(ranges);
    wanted
}

/// Why a peer cannot be had beside the others.
fn refusal(
    spec: &OverlaySpec,
    others: &[Peer],
    local: &[(Ipv4Net, String)],
    peer: &Peer,
) -> Option<String> {
    let subnet = peer.subnet;
    if peer.underlay == spec.own {
        return Some(
            "its address is this machine's own; one of both must advertise another".into(),
        );
    }
    if overlap(subnet, spec.subnet) {
        return Some(format!(
            "its subnet overlaps this machine's, {}; one of both must leave and join again",
            spec.subnet
        ));
    }
    if let Some(other) = others.iter().find(|o| o.underlay == peer.underlay) {
        return Some(format!("machine {} has the same address", other.machine));
    }
    if let Some(other) = others.iter().find(|o| overlap(o.subnet, subnet)) {
        return Some(format!(
            "its subnet overlaps {} of machine {}; one of both must leave and join again",
            other.subnet, other.machine
        ));
    }
    let underlays = [spec.own, peer.underlay];
    let mut underlays = underlays
        .into_iter()
        .chain(spec.peers.iter().map(|p| p.underlay));
    if let Some(inside) = underlays.find(|u| subnet.contains(u)) {
        // What carries the packets would be sent into itself.
        return Some(format!(
            "its subnet contains {inside}, an address of the machines themselves"
        ));
    }
    let network = local.iter().find(|(net, _)| overlap(*net, subnet));
    network.map(|(net, name)| {
        format!("its subnet overlaps {net} of network {name} of this machine; make that network anew with another subnet")
    })
}

/// A change of what the kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// What is not there yet.
    Add(Entry),
    /// In the place of the one for the same next hop.
    Replace(Entry),
    /// What is not wanted any more.
    Remove(Entry),
}

/// The steps from what is there to what is wanted.
pub(super) fn steps(present: &BTreeSet<Entry>, wanted: &BTreeSet<Entry>) -> Vec<Step> {
    let next_hop = |e: &Entry| match e {
        Entry::Neighbour { ip, .. } => Some(*ip),
        _ => None,
    };
    let has_next_hop = |all: &BTreeSet<Entry>, ip| all.iter().any(|e| next_hop(e) == Some(ip));
    let (mut first, mut last) = (Vec::new(), Vec::new());
    let gone: Vec<_> = present.difference(wanted).collect();
    for gone in gone.into_iter().rev() {
        match gone {
            // A route cannot be beside the one that takes its place.
            Entry::Route { .. } | Entry::Unreachable(_) => first.push(Step::Remove(*gone)),
            Entry::Neighbour { ip, .. } if has_next_hop(wanted, *ip) => {}
            _ => last.push(Step::Remove(*gone)),
        }
    }
    let new = wanted.difference(present).map(|new| match next_hop(new) {
        Some(ip) if has_next_hop(present, ip) => Step::Replace(*new),
        _ => Step::Add(*new),
    });
    first.extend(new);
    first.extend(last);
    first
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::OverlayKind;
    use super::*;

    fn peer(machine: &str, underlay: &str, subnet: &str) -> Peer {
        Peer {
            machine: machine.into(),
            underlay: underlay.parse().unwrap(),
            subnet: subnet.parse().unwrap(),
        }
    }

    fn spec(peers: Vec<Peer>) -> OverlaySpec {
        OverlaySpec {
            kind: OverlayKind::default(),
            own: Ipv4Addr::new(192, 0, 2, 1),
            subnet: "10.210.0.0/22".parse().unwrap(),
            peers,
            ranges: vec!["10.212.0.0/14".parse().unwrap()],
            mtu: None,
        }
    }

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 210, 0, 1);

    #[test]
    fn a_peer_is_three_entries() {
        let peers = vec![peer("b", "192.0.2.2", "10.212.0.0/22")];
        let all = wanted(&spec(peers), GATEWAY, &[]);
        let (mac, via) = ([2, 0xc1, 192, 0, 2, 2], Ipv4Addr::new(10, 212, 0, 1));
        let expected = [
            Entry::Forward {
                mac,
                to: Ipv4Addr::new(192, 0, 2, 2),
            },
            Entry::Neighbour { ip: via, mac },
            Entry::Unreachable("10.212.0.0/14".parse().unwrap()),
            Entry::Route {
                subnet: "10.212.0.0/22".parse().unwrap(),
                via,
                source: GATEWAY,
            },
        ];
        assert_eq!(all.entries, expected.into());
        assert_eq!(all.problems, Vec::<String>::new());
        assert_eq!(steps(&all.entries, &all.entries), []);
        let built = steps(&BTreeSet::new(), &all.entries);
        assert_eq!(built, expected.map(Step::Add));
        let taken = steps(&all.entries, &BTreeSet::new());
        let order = [expected[3], expected[2], expected[1], expected[0]];
        assert_eq!(taken, order.map(Step::Remove));
    }

    #[test]
    fn a_peer_that_moved() {
        let at = |underlay| {
            let peers = vec![peer("b", underlay, "10.212.0.0/22")];
            wanted(&spec(peers), GATEWAY, &[]).entries
        };
        let steps = steps(&at("192.0.2.2"), &at("192.0.2.9"));
        let forward = |h: u8| Entry::Forward {
            mac: [2, 0xc1, 192, 0, 2, h],
            to: Ipv4Addr::new(192, 0, 2, h),
        };
        let neighbour = Entry::Neighbour {
            ip: Ipv4Addr::new(10, 212, 0, 1),
            mac: [2, 0xc1, 192, 0, 2, 9],
        };
        let expected = [
            Step::Add(forward(9)),
            Step::Replace(neighbour),
            Step::Remove(forward(2)),
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn peers_that_cannot_be_are_named_and_the_others_stay() {
        let local = [("10.213.0.0/24".parse().unwrap(), "mine".to_owned())];
        let good = peer("a", "192.0.2.2", "10.212.0.0/22");
        let cases = [
            (
                peer("b", "192.0.2.1", "10.212.8.0/22"),
                "this machine's own",
            ),
            (peer("b", "192.0.2.3", "10.210.2.0/24"), "10.210.0.0/22"),
            (
                peer("b", "192.0.2.2", "10.212.8.0/22"),
                "machine a has the same address",
            ),
            (
                peer("b", "192.0.2.3", "10.212.1.0/24"),
                "10.212.0.0/22 of machine a",
            ),
            (peer("b", "192.0.2.3", "192.0.2.0/24"), "192.0.2.1"),
            (peer("b", "192.0.2.3", "10.213.0.0/22"), "network mine"),
        ];
        for (bad, why) in cases {
            // Whatever the order that they are given in.
            let all = wanted(&spec(vec![bad, good.clone()]), GATEWAY, &local);
            assert_eq!(all.peers, std::slice::from_ref(&good), "{why}");
            assert!(all.problems[0].contains(why), "{:?}", all.problems);
        }
    }
}
