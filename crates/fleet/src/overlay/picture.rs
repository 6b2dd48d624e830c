//! What the store says of the other machines, and what follows for this one: whom it reaches, and which names it answers. Pure.

use super::claims::{Claims, overlap, rest};
use super::names::{Names, remote};
use crate::discovery::Announced;
use crate::model::keys;
use crate::presence::LEASE;
use coracle_network::dns::Remote;
use coracle_network::overlay::{OverlayKind, Peer};
use coracle_store::{Event, EventKind, KeyValue};
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// How long a machine without a lease stays in the network: its daemon may be on its way back, and its containers run on.
pub(super) const GRACE: Duration = Duration::from_secs(2 * LEASE as u64);
/// The network that reaches other machines.
pub(super) const NETWORK: &str = "bridge";

/// Which keys are told of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Told {
    Subnets,
    Alive,
    Names,
}

fn announced(kv: &KeyValue) -> Option<(String, Announced)> {
    let said = serde_json::from_slice(&kv.value).ok()?;
    Some((rest(kv, keys::DISCOVERY)?, said))
}

/// All that is known.
#[derive(Debug, Default)]
pub(super) struct Picture {
    pub claims: Claims,
    alive: BTreeSet<String>,
    /// Machines that were there, and since when they are not.
    left: BTreeMap<String, Instant>,
    /// By what follows `/discovery/` in the key.
    instances: BTreeMap<String, Announced>,
}

/// What follows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    pub peers: Vec<Peer>,
    pub ranges: Vec<Ipv4Net>,
    /// Of these peers alone.
    pub remote: Vec<Remote>,
    /// Why others are not among them, in words.
    pub problems: Vec<String>,
}

/// Who looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own<'a> {
    pub machine: &'a str,
    pub subnet: Ipv4Net,
    pub underlay: Ipv4Addr,
    pub pool: Ipv4Net,
}

impl Picture {
    /// Of a daemon that starts: `known` are the machines that the one before it reached.
    pub fn new(known: impl IntoIterator<Item = String>, now: Instant) -> Self {
        Self {
            left: known.into_iter().map(|machine| (machine, now)).collect(),
            ..Self::default()
        }
    }

    /// All that there is, of each of the three.
    pub fn read(
        &mut self,
        subnets: &[KeyValue],
        alive: &[KeyValue],
        names: &[KeyValue],
        now: Instant,
    ) {
        self.claims = Claims::read(subnets);
        let alive = alive.iter().filter_map(|kv| rest(kv, keys::ALIVE));
        self.all_alive(alive.collect(), now);
        self.instances = names.iter().filter_map(announced).collect();
    }

    /// What has changed; whether anything has.
    pub fn learn(&mut self, told: Told, events: &[Event], now: Instant) -> bool {
        for event in events {
            let (kv, put) = (&event.kv, event.kind == EventKind::Put);
            let prefix = match told {
                Told::Subnets => keys::SUBNETS,
                Told::Alive => keys::ALIVE,
                Told::Names => keys::DISCOVERY,
            };
            let Some(key) = rest(kv, prefix) else {
                continue;
            };
            match told {
                Told::Subnets if put => self.claims.put(key, kv),
                Told::Subnets => self.claims.remove(&key),
                Told::Alive if put => self.came(key),
                Told::Alive => self.went(&key, now),
                // What cannot be read says nothing, as what is gone.
                Told::Names => match announced(kv).filter(|_| put) {
                    Some((key, said)) => drop(self.instances.insert(key, said)),
                    None => drop(self.instances.remove(&key)),
                },
            }
        }
        !events.is_empty()
    }

    /// Just these are there.
    fn all_alive(&mut self, alive: BTreeSet<String>, now: Instant) {
        for gone in std::mem::take(&mut self.alive).difference(&alive) {
            self.left.insert(gone.clone(), now);
        }
        self.left.retain(|machine, _| !alive.contains(machine));
        self.alive = alive;
    }

    fn came(&mut self, machine: String) {
        self.left.remove(&machine);
        self.alive.insert(machine);
    }

    fn went(&mut self, machine: &str, now: Instant) {
        if self.alive.remove(machine) {
            self.left.insert(machine.to_owned(), now);
        }
    }

    fn is_there(&self, machine: &str, now: Instant) -> bool {
        let left = self.left.get(machine);
        self.alive.contains(machine) || left.is_some_and(|left| now < *left + GRACE)
    }

    /// When something follows without a change in the store: somebody has been away for long enough.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let ends = self.left.values().map(|left| *left + GRACE);
        ends.filter(|end| now < *end).min()
    }

    pub fn view(&self, own: &Own<'_>, now: Instant) -> View {
        let mut view = View::default();
        // Who wrote first has it, whatever others say later.
        let mut earlier: Vec<(&str, Ipv4Net, Ipv4Addr)> =
            vec![(own.machine, own.subnet, own.underlay)];
        for (machine, record) in self.claims.in_order() {
            if machine == own.machine {
                continue;
            }
            let (subnet, underlay) = (record.subnet, record.underlay);
            let out = |why: String| {
                format!(
                    "machine {machine} ({underlay}, {subnet}) is left out of the network: {why}"
                )
            };
            let between = earlier.iter().find_map(|(other, net, ip)| {
                if overlap(*net, subnet) {
                    return Some(format!("its subnet overlaps {net} of machine {other}"));
                }
                if subnet.contains(ip) {
                    return Some(format!(
                        "its subnet contains {ip}, the address of machine {other}"
                    ));
                }
                let inside = net.contains(&underlay);
                inside.then(|| format!("its address is in {net}, the subnet of machine {other}"))
            });
            if let Some(why) = between {
                view.problems.push(out(why));
                continue;
            }
            earlier.push((machine, subnet, underlay));
            view.ranges.push(subnet);
            if !self.is_there(machine, now) {
                continue;
            }
            let same = view.peers.iter().find(|p| p.underlay == underlay);
            let same = same.map(|p| p.machine.clone());
            let same = if underlay == own.underlay {
                Some(own.machine.to_owned())
            } else {
                same
            };
            if let Some(other) = same {
                view.problems
                    .push(out(format!("machine {other} has the same address")));
            } else if record.kind != Some(OverlayKind::default()) {
                view.problems.push(out(
                    "it is reached in a way that this release does not have".into(),
                ));
            } else {
                view.peers.push(Peer {
                    machine: machine.to_owned(),
                    underlay,
                    subnet,
                });
            }
        }
        match earlier.iter().find(|(_, _, ip)| own.pool.contains(ip)) {
            None => view.ranges.push(own.pool),
            Some((machine, _, ip)) => view.problems.push(format!(
                "{}, where machines' subnets are taken from, contains {ip}, the address of machine {machine}: what is for a machine that is lost may leave this one by its default route",
                own.pool
            )),
        }
        view.ranges.sort();
        view.remote = self.remote(&view.peers);
        view
    }

    fn remote(&self, peers: &[Peer]) -> Vec<Remote> {
        let one = |(key, said): (&String, &Announced)| remote(key, said, peers);
        self.instances.iter().filter_map(one).collect()
    }

    /// What other machines announce of the network that reaches them.
    pub fn names(&self, own: &str) -> Names {
        let reached = self
            .instances
            .iter()
            .filter(|(_, said)| said.machine != own && said.networks.contains_key(NETWORK));
        Names::new(reached.map(|(k, said)| (k.clone(), said.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::claims::tests::{claims, net};
    use super::*;
    use crate::model::VERSION;
    use coracle_network::dns::Ports;

    fn own() -> Own<'static> {
        Own {
            machine: "a",
            subnet: net("10.210.0.0/22"),
            underlay: "192.0.2.1".parse().unwrap(),
            pool: net("10.212.0.0/14"),
        }
    }

    fn picture(all: &[(&str, &str, &str)], now: Instant) -> Picture {
        let mut picture = Picture::new([], now);
        picture.claims = claims(all);
        picture.all_alive(all.iter().map(|(m, ..)| (*m).to_owned()).collect(), now);
        picture
    }

    fn peers(view: &View) -> Vec<String> {
        let said = |p: &Peer| format!("{} {} {}", p.machine, p.underlay, p.subnet);
        view.peers.iter().map(said).collect()
    }

    #[test]
    fn who_is_away_is_withdrawn_after_a_grace_and_keeps_its_subnet() {
        let now = Instant::now();
        let all = [
            ("a", "10.210.0.0/22", "192.0.2.1"),
            ("b", "10.212.0.0/22", "192.0.2.2"),
            ("c", "10.5.0.0/22", "192.0.2.3"),
        ];
        let mut picture = picture(&all, now);
        let both = ["b 192.0.2.2 10.212.0.0/22", "c 192.0.2.3 10.5.0.0/22"];
        let ranges = [
            net("10.5.0.0/22"),
            net("10.212.0.0/14"),
            net("10.212.0.0/22"),
        ];
        let view = picture.view(&own(), now);
        assert_eq!(peers(&view), both);
        assert_eq!(view.ranges, ranges);
        assert_eq!((view.problems.len(), picture.next(now)), (0, None));

        picture.went("b", now);
        assert_eq!(picture.next(now), Some(now + GRACE));
        assert_eq!(peers(&picture.view(&own(), now)), both);
        // A second look at the same absence does not begin it anew.
        picture.all_alive(["a".into(), "c".into()].into(), now + GRACE / 2);
        let later = now + GRACE;
        let view = picture.view(&own(), later);
        assert_eq!(peers(&view), both[1..]);
        assert_eq!(view.ranges, ranges);
        assert_eq!(picture.next(later), None);
        picture.came("b".into());
        assert_eq!(peers(&picture.view(&own(), later)), both);
        // Gone while nothing could be heard.
        picture.all_alive(["a".into()].into(), later);
        assert_eq!(peers(&picture.view(&own(), later)), both);
        assert!(picture.view(&own(), later + GRACE).peers.is_empty());
    }

    #[test]
    fn a_daemon_that_starts_goes_on_from_what_there_was() {
        let now = Instant::now();
        let all = [
            ("b", "10.212.0.0/22", "192.0.2.2"),
            ("c", "10.212.4.0/22", "192.0.2.3"),
        ];
        let mut picture = Picture::new(["b".into()], now);
        picture.claims = claims(&all);
        picture.all_alive(BTreeSet::new(), now);
        let view = picture.view(&own(), now);
        assert_eq!(peers(&view), ["b 192.0.2.2 10.212.0.0/22"]);
        assert!(picture.view(&own(), now + GRACE).peers.is_empty());
    }

    #[test]
    fn who_wrote_first_has_it() {
        let now = Instant::now();
        let cases = [
            (
                "10.212.1.0/24",
                "192.0.2.9",
                "overlaps 10.212.0.0/22 of machine c",
            ),
            (
                "10.210.0.0/16",
                "192.0.2.9",
                "overlaps 10.210.0.0/22 of machine a",
            ),
            (
                "192.0.2.0/24",
                "192.0.3.9",
                "contains 192.0.2.1, the address of machine a",
            ),
            (
                "10.212.4.0/22",
                "10.212.0.9",
                "is in 10.212.0.0/22, the subnet of machine c",
            ),
            (
                "10.212.4.0/22",
                "192.0.2.3",
                "machine c has the same address",
            ),
            (
                "10.212.4.0/22",
                "192.0.2.1",
                "machine a has the same address",
            ),
        ];
        for (subnet, underlay, why) in cases {
            // The id of the one that comes later is smaller.
            let all = [("c", "10.212.0.0/22", "192.0.2.3"), ("b", subnet, underlay)];
            let view = picture(&all, now).view(&own(), now);
            assert_eq!(peers(&view), ["c 192.0.2.3 10.212.0.0/22"], "{why}");
            assert!(view.problems[0].contains(why), "{why}: {:?}", view.problems);
        }
        // A machine that was installed anew at its old address.
        let all = [
            ("b", "10.212.0.0/22", "192.0.2.2"),
            ("c", "10.212.4.0/22", "192.0.2.2"),
        ];
        let mut anew = picture(&all, now);
        anew.went("b", now);
        let later = now + GRACE;
        assert_eq!(
            peers(&anew.view(&own(), later)),
            ["c 192.0.2.2 10.212.4.0/22"]
        );
        // A pool in which machines have their addresses.
        let view = picture(&[("b", "10.5.0.0/22", "10.212.9.9")], now).view(&own(), now);
        assert_eq!(view.ranges, [net("10.5.0.0/22")]);
        assert!(view.problems[0].contains("10.212.0.0/14"));
    }

    #[test]
    fn names_of_machines_that_are_reached() {
        let now = Instant::now();
        let mut picture = picture(&[("b", "10.212.0.0/22", "192.0.2.2")], now);
        let mut say = |key: &str, machine: &str, network: &str, ip: &str| {
            let said = Announced {
                version: VERSION,
                address: None,
                address6: None,
                networks: [(network.to_owned(), ip.parse().unwrap())].into(),
                ports: vec!["80/tcp".into()],
                unit: None,
                machine: machine.into(),
                container: "0".repeat(64),
                health: "healthy".into(),
            };
            picture.instances.insert(key.into(), said);
        };
        say("web/web-2", "b", "bridge", "10.212.0.5");
        say("web/web-1", "a", "bridge", "10.210.0.5");
        say("web/web-3", "b", "bridge", "10.210.0.6");
        say("db/db-1", "b", "backend", "10.212.0.7");
        say("far/far-1", "c", "bridge", "10.212.4.5");
        say("odd", "b", "bridge", "10.212.0.8");
        let view = picture.view(&own(), now);
        let names: Vec<_> = view
            .remote
            .iter()
            .map(|r| (&*r.name, &*r.service))
            .collect();
        assert_eq!(names, [("web-2", "web")]);
        assert_eq!(view.remote[0].ip, Ipv4Addr::new(10, 212, 0, 5));
        assert_eq!(view.remote[0].ports, Ports::read(["80"]));
    }
}
