//! The ports behind names (SRV, RFC 2782).
//!
//! Worked example: `web` has the healthy instances `web-1` and `web-2`, which expose 80/tcp and 9090/tcp. SRV of `web` and of
//! `tasks.web` are four records, those of `_80._tcp.web` and `_http._tcp.web` two. `_81._tcp.web` is no name. While
//! nobody is well, `web` and `_80._tcp.web` are names with nothing behind them. What is no service has its ports listed too.
//!
//! Each record's target is the instance's own name, or its short id where that name would not lead to it alone: another
//! container may have it as an alias.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::ports::{Asked, Port};
use super::records::{Answer, Asker, Behind, DOMAIN, Records, undomained};

/// A port of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The port.
    pub port: u16,
    /// The container's own name, which [`Records::lookup`] knows for whoever asked; without the final dot.
    pub target: String,
    /// What it answers: the container's addresses of both families.
    pub addresses: Vec<IpAddr>,
}

impl Records {
    /// Looks the ports behind `name` (without the final dot) up for the client at `asker`.
    pub fn services(&self, asker: Ipv4Addr, name: &str) -> Answer {
        let (asker, lower) = (self.asker(asker), name.to_ascii_lowercase());
        if self.gateways(&asker, &lower).is_some() {
            return Answer::Services(Vec::new());
        }
        match self.find(&asker, undomained(&lower)) {
            Some((found, network)) => {
                Answer::Services(self.listed(&asker, &found, network, |_| true))
            }
            None => self.ports_behind(&asker, &lower),
        }
    }

    /// What a name in lower case that begins with a port says, and any other that is not known.
    pub(super) fn ports_behind(&self, asker: &Asker<'_>, lower: &str) -> Answer {
        let Some((asked, whose)) = Asked::split(lower) else {
            return Self::unknown(lower);
        };
        let Some((found, network)) = self.find(asker, undomained(whose)) else {
            return Self::unknown(whose);
        };
        // Those that are not well count for what is a name, so that it does not come and go with them.
        let mut all = found.iter().flat_map(|f| &f.container.ports);
        if !all.any(|p| asked.is_for(p)) {
            return Answer::NoSuchName;
        }
        Answer::Services(self.listed(asker, &found, network, |p| asked.is_for(p)))
    }

    fn listed(
        &self,
        asker: &Asker<'_>,
        found: &[Behind<'_>],
        network: Option<&str>,
        wanted: impl Fn(&Port) -> bool,
    ) -> Vec<Service> {
        let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
        for one in found.iter().filter(|f| f.listed) {
            let mut ports: Vec<_> = one.container.ports.iter().filter(|p| wanted(p)).collect();
            // By an alias on several networks it is found once for each.
            if ports.is_empty() || !seen.insert(&one.container.id) {
                continue;
            }
            ports.sort();
            ports.dedup();
            let (target, addresses) = self.target(asker, one, network);
            all.extend(ports.into_iter().map(|port| Service {
                port: port.number,
                target: target.clone(),
                addresses: addresses.clone(),
            }));
        }
        all
    }

    /// A name that leads the asker to this container alone, and the addresses that it answers.
    fn target(
        &self,
        asker: &Asker<'_>,
        one: &Behind<'_>,
        network: Option<&str>,
    ) -> (String, Vec<IpAddr>) {
        let c = one.container;
        let on = network.map(|n| format!(".{n}")).unwrap_or_default();
        let short = c.id.get(..12).unwrap_or(&c.id);
        let named = format!("{}{on}{DOMAIN}", c.name);
        let by_id = format!("{short}{on}{DOMAIN}");
        let alone = |name: &str| {
            let whole = self.find(asker, undomained(&name.to_ascii_lowercase()));
            let alone = whole.is_some_and(|(f, _)| f.len() == 1 && f[0].container.id == c.id);
            alone && is_dns(name) && self.gateways(asker, &name.to_ascii_lowercase()).is_none()
        };
        let target = if alone(&named) { named } else { by_id };
        let addresses = match self.addresses(asker, &target) {
            Answer::Addresses(addresses) => addresses,
            _ => one.addresses(),
        };
        (target, addresses)
    }
}

/// Whether a name can be written in a message (RFC 1035, 2.3.4); containers' names may be longer.
fn is_dns(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(|l| (1..=63).contains(&l.len()))
}

#[cfg(test)]
mod tests {
    use super::super::records::{Container, NetworkView, Place};
    use super::*;

    fn place(network: &str, host: u8, aliases: &[&str]) -> Place {
        let part = if network == "A" { 0 } else { 1 };
        Place {
            network: network.into(),
            ip: Ipv4Addr::new(10, 0, part, host),
            ip6: None,
            aliases: aliases.iter().map(|a| (*a).to_owned()).collect(),
        }
    }

    /// A container on network A, its id of the host's number.
    fn on_a(host: u8, name: &str, service: Option<&str>, ports: &[&str]) -> Container {
        Container {
            id: format!("{host:02x}").repeat(32),
            name: name.into(),
            service: service.map(Into::into),
            healthy: true,
            ports: ports.iter().flat_map(|p| Port::read(p)).collect(),
            places: vec![place("A", host, &[])],
            ..Container::default()
        }
    }

    fn records(containers: Vec<Container>) -> Records {
        let view = |id: &str, name: &str| NetworkView {
            id: id.into(),
            name: name.into(),
            gateway: place(id, 1, &[]).ip,
            gateway6: None,
        };
        Records::new(containers, vec![view("A", "front"), view("B", "back")])
    }

    /// What the machine is told on network A: `port target address`.
    fn told(records: &Records, asker: Ipv4Addr, name: &str) -> Option<Vec<String>> {
        match records.services(asker, name) {
            Answer::Services(all) => {
                // Every target leads to what was said of it.
                for one in &all {
                    let direct = records.lookup(asker, &one.target);
                    assert_eq!(direct, Answer::Addresses(one.addresses.clone()), "{one:?}");
                }
                let shown = |s: Service| format!("{} {} {:?}", s.port, s.target, s.addresses);
                Some(all.into_iter().map(shown).collect())
            }
            Answer::NoSuchName => None,
            other => unreachable!("{name}: {other:?}"),
        }
    }

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    #[test]
    fn each_healthy_instance_and_port_is_listed() {
        let sick = Container {
            healthy: false,
            ..on_a(4, "web-3", Some("web"), &["80/tcp", "99/tcp"])
        };
        let records = records(vec![
            on_a(2, "web-1", Some("web"), &["9090/tcp", "80/tcp", "53/udp"]),
            on_a(3, "web-2", Some("web"), &["80"]),
            sick,
            on_a(5, "db", None, &["5432/tcp"]),
            on_a(6, "mute", None, &[]),
        ]);
        let all = |name: &str| told(&records, GATEWAY, name).unwrap_or_default();
        let one = "80 web-1.coracle.internal [10.0.0.2]";
        let two = "80 web-2.coracle.internal [10.0.0.3]";
        let metrics = "9090 web-1.coracle.internal [10.0.0.2]";
        let udp = "53 web-1.coracle.internal [10.0.0.2]";
        for whole in [
            "web",
            "tasks.web",
            "WEB.coracle.internal",
            "tasks.web.coracle.internal",
        ] {
            assert_eq!(all(whole), [udp, one, metrics, two], "{whole}");
        }
        for http in [
            "_80._tcp.web",
            "_http._tcp.tasks.web.coracle.internal",
            "_HTTP._TCP.Web",
        ] {
            assert_eq!(all(http), [one, two], "{http}");
        }
        assert_eq!(all("_9090._tcp.web"), [metrics]);
        assert_eq!(all("_domain._udp.web"), [udp]);
        assert_eq!(all("_tcp.web"), [one, metrics, two]);
        // What is no service is asked in the same way.
        let db = ["5432 db.coracle.internal [10.0.0.5]"];
        assert_eq!(all("db"), db);
        assert_eq!(all("_postgresql._tcp.db"), db);
        // An instance that is not well is listed by its own name only, and its ports are names.
        assert_eq!(
            all("_80._tcp.web-3"),
            ["80 web-3.coracle.internal [10.0.0.4]"]
        );
        assert_eq!(told(&records, GATEWAY, "_99._tcp.web"), Some(vec![]));
        assert_eq!(told(&records, GATEWAY, "mute"), Some(vec![]));
        assert_eq!(
            told(&records, GATEWAY, "host.coracle.internal"),
            Some(vec![])
        );
        for none in [
            "_81._tcp.web",
            "_80._udp.web",
            "_udp.db",
            "_nobody._tcp.web",
            "_80._tcp.nobody",
            "nobody",
        ] {
            assert_eq!(told(&records, GATEWAY, none), None, "{none}");
        }
        // Others' names are others' to answer; our own have no addresses.
        let forward = records.services(GATEWAY, "_xmpp-server._tcp.example.org");
        assert_eq!(forward, Answer::Forward);
        let address = |name: &str| records.lookup(GATEWAY, name);
        assert_eq!(address("_80._tcp.web"), Answer::Addresses(vec![]));
        assert_eq!(address("_81._tcp.web"), Answer::NoSuchName);
        assert_eq!(address("_sip._udp.example.org"), Answer::Forward);
    }

    #[test]
    fn who_asks_decides_and_targets_are_one_container_each() {
        let both = Container {
            places: vec![place("A", 2, &["x"]), place("B", 2, &["x"])],
            ..on_a(2, "web-1", Some("web"), &["80"])
        };
        let apart = Container {
            places: vec![place("B", 3, &[])],
            ..on_a(3, "web-2", Some("web"), &["80"])
        };
        let alias = Container {
            places: vec![place("A", 4, &["web-1"])],
            ..on_a(4, "other", None, &[])
        };
        let asker = Container {
            places: vec![place("A", 5, &[]), place("B", 5, &[])],
            links: vec![("web-2".into(), "02".repeat(32))],
            ..on_a(5, "asker", None, &[])
        };
        let long = on_a(6, &"long".repeat(20), None, &["80"]);
        let host = on_a(7, "host", None, &["80"]);
        let records = records(vec![both, apart, alias, asker, long, host]);
        // `web-1` is another's name too on network A, and there is no other instance there.
        let by_id = |n: &str, network: &str, address: &str| {
            format!("80 {}{network}.coracle.internal [{address}]", n.repeat(6))
        };
        let first = by_id("02", "", "10.0.0.2");
        assert_eq!(told(&records, GATEWAY, "web"), Some(vec![first.clone()]));
        // On B it is nobody else's.
        let on_b = Ipv4Addr::new(10, 0, 1, 1);
        let expected = [
            "80 web-1.coracle.internal [10.0.1.2]",
            "80 web-2.coracle.internal [10.0.1.3]",
        ];
        assert_eq!(told(&records, on_b, "web").unwrap_or_default(), expected);
        // Who is on both, and calls another container `web-2`.
        let asker = Ipv4Addr::new(10, 0, 0, 5);
        let second = by_id("03", "", "10.0.1.3");
        assert_eq!(
            told(&records, asker, "web"),
            Some(vec![first.clone(), second])
        );
        assert_eq!(told(&records, asker, "x"), Some(vec![first.clone()]));
        assert_eq!(told(&records, asker, "_80._tcp.web-2"), Some(vec![first]));
        // Of one network's name, the addresses there.
        let expected = [
            "80 web-1.back.coracle.internal [10.0.1.2]",
            "80 web-2.back.coracle.internal [10.0.1.3]",
        ];
        assert_eq!(
            told(&records, asker, "_80._tcp.web.back").unwrap_or_default(),
            expected
        );
        // Names that no message can hold, or that are the machine's.
        let long = vec![by_id("06", "", "10.0.0.6")];
        assert_eq!(told(&records, GATEWAY, &"long".repeat(20)), Some(long));
        let host = vec![by_id("07", "", "10.0.0.7")];
        assert_eq!(told(&records, GATEWAY, "host"), Some(host));
        assert_eq!(told(&records, GATEWAY, "solo"), None);
    }
}
