//! The pure lookup.
//!
//! Worked example: `web-1` is on networks A and B, `db` on B only. `db` asks for `web-1` and gets
//! the address on B; a container on A that asks for `db` gets "no such name".

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// A network as the resolver needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkView {
    /// Network id.
    pub id: String,
    /// The machine's address on it.
    pub gateway: Ipv4Addr,
}

/// A running container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Container {
    /// Id, 64 hexadecimal digits; the first 12 are a name too.
    pub id: String,
    /// Name.
    pub name: String,
    /// Further names.
    pub aliases: Vec<String>,
    /// The service it is an instance of.
    pub service: Option<String>,
    /// Only healthy instances are listed for a service.
    pub healthy: bool,
    /// Network id and address.
    pub addresses: Vec<(String, Ipv4Addr)>,
}

/// What the resolver says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A known name and its addresses (perhaps none).
    Addresses(Vec<Ipv4Addr>),
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
    names: BTreeMap<String, Vec<usize>>,
    containers: Vec<Container>,
    networks: Vec<NetworkView>,
}

const DOMAIN: &str = ".coracle.internal";

impl Records {
    /// Builds the snapshot.
    pub fn new(containers: Vec<Container>, networks: Vec<NetworkView>) -> Self {
        let mut names: BTreeMap<String, Vec<usize>> = BTreeMap::new();
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
            own.into_iter()
                .for_each(|n| names.entry(n).or_default().push(index));
        }
        Self {
            names,
            containers,
            networks,
        }
    }

    /// The networks `asker` is on: by its own address, or the machine itself by a gateway.
    fn view(&self, asker: Ipv4Addr) -> Vec<&str> {
        let of = self
            .containers
            .iter()
            .find(|c| c.addresses.iter().any(|a| a.1 == asker));
        match of {
            Some(c) => c.addresses.iter().map(|a| a.0.as_str()).collect(),
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
            let gateways = self
                .networks
                .iter()
                .filter(|n| view.contains(&n.id.as_str()))
                .map(|n| n.gateway);
            return Answer::Addresses(gateways.take(1).collect());
        }
        let known = self.names.get(short).map(Vec::as_slice).unwrap_or_default();
        let mut visible = false;
        let mut found = Vec::new();
        for c in known.iter().map(|i| &self.containers[*i]) {
            let shared = c.addresses.iter().find(|a| view.contains(&a.0.as_str()));
            let as_service = c.service.as_ref().is_some_and(|s| {
                s.eq_ignore_ascii_case(short.strip_prefix("tasks.").unwrap_or(short))
            });
            if let Some((_, ip)) = shared {
                visible = true;
                if c.healthy || !as_service {
                    found.push(*ip);
                }
            }
        }
        match visible {
            true => Answer::Addresses(found),
            false if lower != short || !short.contains('.') || short.starts_with("tasks.") => {
                Answer::NoSuchName
            }
            false => Answer::Forward,
        }
    }

    /// The name of the container at `ip`, if the asker shares a network with it.
    pub fn reverse(&self, asker: Ipv4Addr, ip: Ipv4Addr) -> Answer {
        let view = self.view(asker);
        let here = |c: &&Container| {
            c.addresses
                .iter()
                .any(|a| a.1 == ip && view.contains(&a.0.as_str()))
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
        let make = |name: &str,
                    service: Option<&str>,
                    healthy,
                    addresses: Vec<(String, Ipv4Addr)>| Container {
            id: "ab".repeat(32),
            name: name.into(),
            service: service.map(Into::into),
            healthy,
            addresses,
            ..Container::default()
        };
        let records = Records::new(
            vec![
                make(
                    "web-1",
                    Some("web"),
                    true,
                    vec![("A".into(), ip(0, 2)), ("B".into(), ip(1, 2))],
                ),
                make("web-2", Some("web"), false, vec![("B".into(), ip(1, 3))]),
                make("db", None, false, vec![("B".into(), ip(1, 4))]),
                make("solo", None, true, vec![("A".into(), ip(0, 5))]),
            ],
            vec![NetworkView {
                id: "A".into(),
                gateway: ip(0, 1),
            }],
        );
        let one = |i| Answer::Addresses(vec![i]);
        assert_eq!(records.lookup(ip(1, 4), "WEB-1"), one(ip(1, 2)));
        assert_eq!(
            records.lookup(ip(0, 5), "web-1.coracle.internal"),
            one(ip(0, 2))
        );
        assert_eq!(records.lookup(ip(1, 4), "tasks.web"), one(ip(1, 2)));
        assert_eq!(records.lookup(ip(1, 4), "db"), one(ip(1, 4)));
        assert_eq!(records.lookup(ip(0, 5), "db"), Answer::NoSuchName);
        assert_eq!(records.lookup(ip(0, 5), "example.org"), Answer::Forward);
        assert_eq!(
            records.lookup(ip(0, 5), "host.docker.internal"),
            one(ip(0, 1))
        );
        assert_eq!(
            records.reverse(ip(1, 4), ip(1, 3)),
            Answer::Pointer("web-2.coracle.internal".into())
        );
    }
}
