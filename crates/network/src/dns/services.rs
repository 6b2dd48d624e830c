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

use hickory_proto::rr::Name;

use super::ports::{Asked, Ports};
use super::records::{Answer, Asker, Behind, DOMAIN, Records, undomained};

/// A container and its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Those that were asked for.
    pub ports: Ports,
    /// The container's own name, which [`Records::lookup`] knows for whoever asked; without the final dot.
    pub target: String,
    /// What it answers: the container's addresses of both families.
    pub addresses: Vec<IpAddr>,
}

/// All ports of all containers, with the `start`th first and around. They are made as they are taken.
pub(super) fn each(services: &[Service], start: usize) -> impl Iterator<Item = (&Service, u16)> {
    let total = services.iter().map(|s| s.ports.count()).sum();
    let from = |mut skip: usize| {
        services.iter().flat_map(move |service| {
            let here = skip.min(service.ports.count());
            skip -= here;
            let ports = service.ports.numbers(here);
            ports.map(move |port| (service, port))
        })
    };
    from(start).chain(from(0)).take(total)
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
                Answer::Services(self.listed(&asker, &found, network, Ports::clone))
            }
            None => self.ports_behind(&asker, &lower),
        }
    }

    /// What a name in lower case that begins with a port says, and any other that is not known.
    pub(super) fn ports_behind(&self, asker: &Asker<'_>, lower: &str) -> Answer {
        if DOMAIN.strip_prefix('.') == Some(lower) {
            return Answer::Services(Vec::new());
        }
        let Some((asked, whose)) = Asked::split(undomained(lower)) else {
            return Self::unknown(lower);
        };
        let Some((found, network)) = self.find(asker, whose) else {
            // `_ldap._tcp.localhost`: where there is a port before it, a single label may be others' to answer.
            return match whose.starts_with("tasks.") {
                true => Answer::NoSuchName,
                false => Self::unknown(lower),
            };
        };
        // Those that are not well count for what is a name, so that it does not come and go with them.
        if !found.iter().any(|f| asked.is_for(&f.container.ports)) {
            return Answer::NoSuchName;
        }
        Answer::Services(self.listed(asker, &found, network, |p| p.only(&asked)))
    }

    fn listed(
        &self,
        asker: &Asker<'_>,
        found: &[Behind<'_>],
        network: Option<&str>,
        wanted: impl Fn(&Ports) -> Ports,
    ) -> Vec<Service> {
        let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
        for one in found.iter().filter(|f| f.listed) {
            let ports = wanted(&one.container.ports);
            // By an alias on several networks it is found once for each.
            if ports.count() == 0 || !seen.insert(&one.container.id) {
                continue;
            }
            let (target, addresses) = self.target(asker, one, network);
            all.push(Service {
                ports,
                target,
                addresses,
            });
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
        let named = format!("{}{on}{DOMAIN}", c.name);
        let by_id = format!("{}{on}{DOMAIN}", c.short_id());
        let alone = |name: &str| {
            let whole = self.find(asker, undomained(&name.to_ascii_lowercase()));
            let alone = whole.is_some_and(|(f, _)| f.len() == 1 && f[0].container.id == c.id);
            alone
                && dns_name(name).is_some()
                && self.gateways(asker, &name.to_ascii_lowercase()).is_none()
        };
        let target = if alone(&named) { named } else { by_id };
        let addresses = match self.addresses(asker, &target) {
            Answer::Addresses(addresses) => addresses,
            _ => one.addresses(),
        };
        (target, addresses)
    }
}

/// A name without the final dot as messages have it; none if it cannot be written in one (RFC 1035, 2.3.1): containers' names
/// may be longer, and have labels that begin with `-`.
pub(super) fn dns_name(name: &str) -> Option<Name> {
    Name::from_ascii(format!("{name}.")).ok()
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
            ports: Ports::read(ports),
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
            internal: false,
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
                let shown =
                    |(s, port): (&Service, u16)| format!("{port} {} {:?}", s.target, s.addresses);
                Some(each(&all, 0).map(shown).collect())
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
            assert_eq!(all(whole), [one, metrics, udp, two], "{whole}");
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
            "_80._tcp.nobody.coracle.internal",
            "_80._tcp.tasks.nobody",
            "_80._tcp.coracle.internal",
            "_tcp.coracle.internal",
            "nobody",
        ] {
            assert_eq!(told(&records, GATEWAY, none), None, "{none}");
        }
        // Others' names are others' to answer; our own have no addresses.
        let address = |name: &str| records.lookup(GATEWAY, name);
        for others in [
            "_xmpp-server._tcp.example.org",
            "_ldap._tcp.localhost",
            "_80._tcp.nobody",
            "_80._tcp",
        ] {
            let services = records.services(GATEWAY, others);
            assert_eq!(services, Answer::Forward, "{others}");
            assert_eq!(address(others), Answer::Forward, "{others}");
        }
        // The domain itself is a name.
        let domain = "Coracle.Internal";
        assert_eq!(told(&records, GATEWAY, domain), Some(vec![]));
        assert_eq!(address(domain), Answer::Addresses(vec![]));
        assert_eq!(address("_80._tcp.coracle.internal"), Answer::NoSuchName);
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
        let dashed = on_a(8, "web.-1", Some("dashed"), &["80"]);
        let records = records(vec![both, apart, alias, asker, long, host, dashed]);
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
        let dashed = vec![by_id("08", "", "10.0.0.8")];
        assert_eq!(told(&records, GATEWAY, "dashed"), Some(dashed));
        // Of an address too, the name that can be written.
        for (host, name) in [
            (2, "web-1"),
            (6, "060606060606"),
            (7, "host"),
            (8, "080808080808"),
        ] {
            let pointer = records.reverse(GATEWAY, Ipv4Addr::new(10, 0, 0, host).into());
            let expected = Answer::Pointer(format!("{name}.coracle.internal"));
            assert_eq!(pointer, expected);
        }
        assert_eq!(told(&records, GATEWAY, "solo"), None);
    }

    #[test]
    fn wide_ranges_are_not_gone_through() {
        let wide = ["1-65535/tcp", "1-65535/udp"];
        let many = (2..7).map(|n| on_a(n, &format!("web-{n}"), Some("web"), &wide));
        let records = records(many.collect());
        let Answer::Services(all) = records.services(GATEWAY, "web") else {
            unreachable!("web is a service")
        };
        assert_eq!(all.len(), 5);
        let total = 5 * 2 * 65_535;
        assert_eq!(each(&all, 0).count(), total);
        // Around the end, over a container's, and from any start each of them once.
        let from = |start, count| {
            let taken = each(&all, start).take(count);
            taken
                .map(|(s, port)| (s.target.as_str(), port))
                .collect::<Vec<_>>()
        };
        let (first, last) = ("web-2.coracle.internal", "web-6.coracle.internal");
        assert_eq!(from(total - 1, 2), [(last, 65_535), (first, 1)]);
        let second = "web-3.coracle.internal";
        assert_eq!(from(2 * 65_535 - 1, 2), [(first, 65_535), (second, 1)]);
        assert_eq!(each(&all, 99_999).count(), total);
        let tcp = told(&records, GATEWAY, "_443._tcp.web").unwrap_or_default();
        assert_eq!(tcp.len(), 5);
    }
}
