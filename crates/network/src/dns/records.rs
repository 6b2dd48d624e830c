//! The pure lookup.
//!
//! Worked example: `web-1` is on networks A and B, `db` on B only. `db` asks for `web-1` and gets
//! the address on B; a container on A that asks for `db` gets "no such name". `db.B`, with the network's name, says the same.
//! An alias is known on its own network only, a link to the container alone that has it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network as the resolver needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkView {
    /// Network id.
    pub id: String,
    /// Network name.
    pub name: String,
    /// The machine's address on it.
    pub gateway: Ipv4Addr,
    /// Its IPv6 address there, if the network has IPv6.
    pub gateway6: Option<Ipv6Addr>,
}

/// A container's place on a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Network id.
    pub network: String,
    /// Its address there.
    pub ip: Ipv4Addr,
    /// Its IPv6 address there, if the network has IPv6.
    pub ip6: Option<Ipv6Addr>,
    /// Further names there.
    pub aliases: Vec<String>,
}

impl Place {
    fn all(&self) -> impl Iterator<Item = IpAddr> {
        both(self.ip, self.ip6)
    }
}

fn both(ip: Ipv4Addr, ip6: Option<Ipv6Addr>) -> impl Iterator<Item = IpAddr> {
    std::iter::once(ip.into()).chain(ip6.map(IpAddr::V6))
}

/// A running container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Container {
    /// Id, 64 hexadecimal digits; the first 12 are a name too.
    pub id: String,
    /// Name.
    pub name: String,
    /// Further names, wherever it is.
    pub aliases: Vec<String>,
    /// Who answers it what is not ours; the machine's resolvers if nobody.
    pub upstream: Vec<IpAddr>,
    /// Names of its own for other containers: name and id.
    pub links: Vec<(String, String)>,
    /// The service it is an instance of.
    pub service: Option<String>,
    /// Only healthy instances are listed for a service.
    pub healthy: bool,
    /// Where it is.
    pub places: Vec<Place>,
}

/// What the resolver says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A known name and its addresses of both families (perhaps none).
    Addresses(Vec<IpAddr>),
    /// The name behind an address.
    Pointer(String),
    /// No such name.
    NoSuchName,
    /// Not ours: ask the machine's resolvers.
    Forward,
}

/// A snapshot of all names.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// Whose a name is, and on which network alone, if it is an alias.
    names: BTreeMap<String, Vec<(usize, Option<String>)>>,
    containers: Vec<Container>,
    networks: Vec<NetworkView>,
}

const DOMAIN: &str = ".coracle.internal";

impl Records {
    /// Builds the snapshot.
    pub fn new(containers: Vec<Container>, networks: Vec<NetworkView>) -> Self {
        let mut names: BTreeMap<String, Vec<(usize, Option<String>)>> = BTreeMap::new();
        for (index, c) in containers.iter().enumerate() {
            let short = c.id.get(..12).unwrap_or(&c.id).to_owned();
            let mut own: Vec<_> = [c.name.clone(), short]
                .into_iter()
                .chain(c.aliases.clone())
                .collect();
            if let Some(service) = &c.service {
                own.extend([service.clone(), format!("tasks.{service}")]);
            }
            own.iter_mut().for_each(|n| n.make_ascii_lowercase());
            own.sort();
            own.dedup();
            let aliases = c
                .places
                .iter()
                .flat_map(|p| p.aliases.iter().map(move |a| (a, p)));
            for (alias, place) in aliases {
                let alias = alias.to_ascii_lowercase();
                if !own.contains(&alias) {
                    let on = Some(place.network.clone());
                    names.entry(alias).or_default().push((index, on));
                }
            }
            own.into_iter()
                .for_each(|n| names.entry(n).or_default().push((index, None)));
        }
        Self {
            names,
            containers,
            networks,
        }
    }

    fn asking(&self, asker: Ipv4Addr) -> Option<&Container> {
        let mut all = self.containers.iter();
        all.find(|c| c.places.iter().any(|p| p.ip == asker))
    }

    /// The networks `asker` is on: by its own address, or the machine itself by a gateway.
    fn view(&self, asker: Ipv4Addr) -> Vec<&str> {
        match self.asking(asker) {
            Some(c) => c.places.iter().map(|p| p.network.as_str()).collect(),
            None => self
                .networks
                .iter()
                .filter(|n| n.gateway == asker)
                .map(|n| n.id.as_str())
                .collect(),
        }
    }

    /// Looks `name` (without the final dot) up for the client at `asker`.
    pub fn lookup(&self, asker: Ipv4Addr, name: &str) -> Answer {
        let lower = name.to_ascii_lowercase();
        let short = lower.strip_suffix(DOMAIN).unwrap_or(&lower);
        let view = self.view(asker);
        if short == "host" && lower != short || lower == "host.docker.internal" {
            let mut here = self.networks.iter();
            let first = here.find(|n| view.contains(&n.id.as_str()));
            let gateways = first.into_iter().flat_map(|n| both(n.gateway, n.gateway6));
            return Answer::Addresses(gateways.collect());
        }
        if let Some(linked) = self.linked(asker, short, &view) {
            return Answer::Addresses(linked);
        }
        let found = self.known(short, &view).or_else(|| {
            // With the name of one of its networks behind it.
            let (name, network) = short.rsplit_once('.')?;
            let mut here = self.networks.iter();
            let on = here.find(|n| n.name.eq_ignore_ascii_case(network))?;
            view.contains(&on.id.as_str())
                .then(|| self.known(name, &[on.id.as_str()]))?
        });
        match found {
            Some(addresses) => Answer::Addresses(addresses),
            None if lower != short || !short.contains('.') || short.starts_with("tasks.") => {
                Answer::NoSuchName
            }
            None => Answer::Forward,
        }
    }

    /// Who answers the client at `asker` what is not ours, if it has resolvers of its own.
    pub fn upstream(&self, asker: Ipv4Addr) -> &[IpAddr] {
        self.asking(asker).map_or(&[], |c| &c.upstream)
    }

    /// The addresses of whom the asker has a link of this name to.
    fn linked(&self, asker: Ipv4Addr, name: &str, view: &[&str]) -> Option<Vec<IpAddr>> {
        let links = &self.asking(asker)?.links;
        let (_, id) = links.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
        let target = self.containers.iter().find(|c| c.id == *id)?;
        let mut shared = target.places.iter();
        let place = shared.find(|p| view.contains(&p.network.as_str()))?;
        Some(place.all().collect())
    }

    /// The addresses behind a name, on the networks of `view`; none if the name is not known there.
    fn known(&self, name: &str, view: &[&str]) -> Option<Vec<IpAddr>> {
        let known = self.names.get(name).map(Vec::as_slice).unwrap_or_default();
        let mut visible = false;
        let mut found = Vec::new();
        for (index, only) in known {
            let c = &self.containers[*index];
            let here = |p: &&Place| {
                view.contains(&p.network.as_str())
                    && only.as_ref().is_none_or(|only| *only == p.network)
            };
            let mut shared = c.places.iter().filter(here).peekable();
            let as_service = c.service.as_ref().is_some_and(|s| {
                s.eq_ignore_ascii_case(name.strip_prefix("tasks.").unwrap_or(name))
            });
            if let Some(first) = shared.peek() {
                visible = true;
                if c.healthy || !as_service {
                    found.push(first.ip.into());
                    // The first network that both are on may have IPv4 only.
                    found.extend(shared.find_map(|p| p.ip6).map(IpAddr::V6));
                }
            }
        }
        visible.then_some(found)
    }

    /// The name of the container at `ip`, if the asker shares a network with it.
    pub fn reverse(&self, asker: Ipv4Addr, ip: IpAddr) -> Answer {
        let view = self.view(asker);
        let here = |c: &&Container| {
            let mut shared = c
                .places
                .iter()
                .filter(|p| view.contains(&p.network.as_str()));
            shared.any(|p| p.all().any(|a| a == ip))
        };
        self.containers
            .iter()
            .find(here)
            .map_or(Answer::Forward, |c| {
                Answer::Pointer(format!("{}{DOMAIN}", c.name))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_depend_on_who_asks() {
        let ip = |n, h| Ipv4Addr::new(10, 0, n, h);
        let ip6 = |n, h| Ipv6Addr::new(0xfd00, n, 0, 0, 0, 0, 0, h);
        // On network B, of index 1, there is IPv6.
        let place = |n: u8, h: u8| Place {
            network: if n == 0 { "A" } else { "B" }.into(),
            ip: ip(n, h),
            ip6: (n == 1).then(|| ip6(1, h.into())),
            aliases: Vec::new(),
        };
        let called = |place: Place, alias: &str| Place {
            aliases: vec![alias.into()],
            ..place
        };
        let make = |name: &str, service: Option<&str>, healthy, places: Vec<Place>| Container {
            id: "ab".repeat(32),
            name: name.into(),
            service: service.map(Into::into),
            healthy,
            places,
            ..Container::default()
        };
        let records = Records::new(
            vec![
                make(
                    "web-1",
                    Some("web"),
                    true,
                    vec![called(place(0, 2), "shop"), place(1, 2)],
                ),
                make("web-2", Some("web"), false, vec![place(1, 3)]),
                make("db", None, false, vec![place(1, 4)]),
                Container {
                    id: "cd".repeat(32),
                    links: vec![("mine".into(), "ab".repeat(32))],
                    ..make("solo", None, true, vec![place(0, 5)])
                },
            ],
            vec![NetworkView {
                id: "A".into(),
                name: "front".into(),
                gateway: ip(0, 1),
                gateway6: Some(ip6(0, 1)),
            }],
        );
        let one = |i: Ipv4Addr| Answer::Addresses(vec![i.into()]);
        let two = |h: u8| Answer::Addresses(vec![ip(1, h).into(), ip6(1, h.into()).into()]);
        assert_eq!(records.lookup(ip(1, 4), "WEB-1"), two(2));
        assert_eq!(
            records.lookup(ip(0, 5), "web-1.coracle.internal"),
            one(ip(0, 2))
        );
        assert_eq!(records.lookup(ip(1, 4), "tasks.web"), two(2));
        assert_eq!(records.lookup(ip(1, 4), "db"), two(4));
        assert_eq!(records.lookup(ip(0, 5), "db"), Answer::NoSuchName);
        assert_eq!(records.lookup(ip(0, 5), "example.org"), Answer::Forward);
        assert_eq!(
            records.lookup(ip(0, 5), "host.docker.internal"),
            Answer::Addresses(vec![ip(0, 1).into(), ip6(0, 1).into()])
        );
        // An alias is known where it was given, a link to who has it.
        assert_eq!(records.lookup(ip(0, 5), "Shop"), one(ip(0, 2)));
        assert_eq!(records.lookup(ip(1, 4), "shop"), Answer::NoSuchName);
        assert_eq!(records.lookup(ip(0, 5), "mine"), one(ip(0, 2)));
        assert_eq!(records.lookup(ip(0, 2), "mine"), Answer::NoSuchName);
        assert_eq!(records.lookup(ip(0, 5), "web-1.front"), one(ip(0, 2)));
        assert_eq!(records.lookup(ip(0, 5), "shop.front"), one(ip(0, 2)));
        assert_eq!(records.lookup(ip(1, 4), "solo.front"), Answer::Forward);
        let pointer = || Answer::Pointer("web-2.coracle.internal".into());
        assert_eq!(records.reverse(ip(1, 4), ip(1, 3).into()), pointer());
        assert_eq!(records.reverse(ip(1, 4), ip6(1, 3).into()), pointer());
        assert_eq!(records.reverse(ip(0, 5), ip6(1, 3).into()), Answer::Forward);
    }
}
