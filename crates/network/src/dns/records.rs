//! The pure lookup.
//!
//! Worked example: `web-1` is on networks A and B, `db` on B only. `db` asks for `web-1` and gets
//! the address on B; a container on A that asks for `db` gets "no such name". `db.B`, with the network's name, says the same.
//! An alias is known on its own network only, a link to the container alone that has it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ports::Ports;
use super::services::{Service, dns_name};

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
    /// Whether its containers have no way out.
    pub internal: bool,
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
    /// Where it says to listen.
    pub ports: Ports,
    /// Where it is.
    pub places: Vec<Place>,
}

impl Container {
    /// A name that is its own, and that can always be written.
    pub(super) fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }
}

/// What the resolver says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A known name and its addresses of both families (perhaps none).
    Addresses(Vec<IpAddr>),
    /// A known name and the ports behind it (perhaps none).
    Services(Vec<Service>),
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
    pub(super) containers: Vec<Container>,
    /// How many of these run here; they come first.
    pub(super) local: usize,
    networks: Vec<NetworkView>,
    /// Addresses of services, by their names in lower case.
    services: BTreeMap<String, Ipv4Addr>,
    /// Id of the network whose containers reach every service's address.
    default: String,
}

pub(super) const DOMAIN: &str = ".coracle.internal";

/// A name without our domain.
pub(super) fn undomained(lower: &str) -> &str {
    lower.strip_suffix(DOMAIN).unwrap_or(lower)
}

/// Who asks.
pub(super) struct Asker<'a> {
    /// Its container, if it is one.
    container: Option<&'a Container>,
    /// The networks that it is on.
    view: Vec<&'a str>,
}

/// A container behind a name, as the asker sees it.
pub(super) struct Behind<'a> {
    pub(super) container: &'a Container,
    ip: Ipv4Addr,
    ip6: Option<Ipv6Addr>,
    /// Not so for an instance that is not well, if it was asked for by its service's name.
    pub(super) listed: bool,
}

impl Behind<'_> {
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        both(self.ip, self.ip6).collect()
    }
}

impl Records {
    /// Builds the snapshot.
    pub fn new(containers: Vec<Container>, networks: Vec<NetworkView>) -> Self {
        let mut records = Self {
            names: BTreeMap::new(),
            local: containers.len(),
            containers,
            networks,
            services: BTreeMap::new(),
            default: String::new(),
        };
        records.index(0);
        records
    }

    /// Adds the addresses that services have on this machine, by name. `network` is the default network's id.
    #[must_use]
    pub fn with_services(
        mut self,
        services: impl IntoIterator<Item = (String, Ipv4Addr)>,
        network: &str,
    ) -> Self {
        let lower = |(name, ip): (String, Ipv4Addr)| (name.to_ascii_lowercase(), ip);
        self.services = services.into_iter().map(lower).collect();
        network.clone_into(&mut self.default);
        self
    }

    /// The address of the service of this name, if that is what the name means here and the asker reaches it: from the default network always, from
    /// another one where an instance is on that. An internal network has no way to it.
    fn service(&self, asker: &Asker<'_>, short: &str) -> Option<Ipv4Addr> {
        let ip = *self.services.get(short)?;
        if self.linked(asker, short).is_some() {
            return None;
        }
        let views: Vec<&NetworkView> = self
            .networks
            .iter()
            .filter(|n| asker.view.contains(&n.id.as_str()))
            .collect();
        let open = views.iter().filter(|n| !n.internal);
        let open: Vec<&str> = open.map(|n| n.id.as_str()).collect();
        let named = self.names.get(short).map(Vec::as_slice).unwrap_or_default();
        let mut here = named.iter().map(|(index, _)| &self.containers[*index]);
        let is_its = |c: &Container| {
            let service = c.service.as_ref();
            service.is_some_and(|s| s.eq_ignore_ascii_case(short))
        };
        let seen = |c: &&Container, by: &[&str]| {
            let mut places = c.places.iter();
            places.any(|p| by.contains(&p.network.as_str()))
        };
        let foreign = named
            .iter()
            .filter(|(index, _)| *index < self.local)
            .map(|(index, _)| &self.containers[*index])
            .any(|c| !is_its(c) && seen(&c, &asker.view));
        let reached =
            open.contains(&self.default.as_str()) || here.any(|c| is_its(c) && seen(&c, &open));
        (reached && !foreign).then_some(ip)
    }

    /// Makes the names of the containers from the `from`th on known.
    pub(super) fn index(&mut self, from: usize) {
        for (index, c) in self.containers.iter().enumerate().skip(from) {
            let mut own: Vec<_> = [c.name.clone(), c.short_id().to_owned()]
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
                    self.names.entry(alias).or_default().push((index, on));
                }
            }
            for name in own {
                self.names.entry(name).or_default().push((index, None));
            }
        }
    }

    /// Who asks, and what it sees: by its own address, or the machine itself by a gateway.
    pub(super) fn asker(&self, address: Ipv4Addr) -> Asker<'_> {
        let mut here = self.containers[..self.local].iter();
        let container = here.find(|c| c.places.iter().any(|p| p.ip == address));
        let view = match container {
            Some(c) => c.places.iter().map(|p| p.network.as_str()).collect(),
            None => self
                .networks
                .iter()
                .filter(|n| n.gateway == address)
                .map(|n| n.id.as_str())
                .collect(),
        };
        Asker { container, view }
    }

    /// Looks the addresses of `name` (without the final dot) up for the client at `asker`.
    pub fn lookup(&self, asker: Ipv4Addr, name: &str) -> Answer {
        self.addresses(&self.asker(asker), name)
    }

    pub(super) fn addresses(&self, asker: &Asker<'_>, name: &str) -> Answer {
        let lower = name.to_ascii_lowercase();
        if let Some(gateways) = self.gateways(asker, &lower) {
            return Answer::Addresses(gateways);
        }
        if let Some(ip) = self.service(asker, undomained(&lower)) {
            return Answer::Addresses(vec![ip.into()]);
        }
        if let Some((found, _)) = self.find(asker, undomained(&lower)) {
            let listed = found.iter().filter(|f| f.listed);
            return Answer::Addresses(listed.flat_map(Behind::addresses).collect());
        }
        match self.ports_behind(asker, &lower) {
            // A port has a name, but no address of its own.
            Answer::Services(_) => Answer::Addresses(Vec::new()),
            other => other,
        }
    }

    /// The machine's own addresses, by the names that docker and we have for it.
    pub(super) fn gateways(&self, asker: &Asker<'_>, lower: &str) -> Option<Vec<IpAddr>> {
        if lower != "host.coracle.internal" && lower != "host.docker.internal" {
            return None;
        }
        let mut here = self.networks.iter();
        let first = here.find(|n| asker.view.contains(&n.id.as_str()));
        let gateways = first.into_iter().flat_map(|n| both(n.gateway, n.gateway6));
        Some(gateways.collect())
    }

    /// What is to be said of a name in lower case that is not known here.
    pub(super) fn unknown(lower: &str) -> Answer {
        let short = undomained(lower);
        if lower != short || !short.contains('.') || short.starts_with("tasks.") {
            Answer::NoSuchName
        } else {
            Answer::Forward
        }
    }

    /// Who answers the client at `asker` what is not ours, if it has resolvers of its own.
    pub fn upstream(&self, asker: Ipv4Addr) -> &[IpAddr] {
        self.asker(asker).container.map_or(&[], |c| &c.upstream)
    }

    /// The containers behind a name without our domain, and the network if the name said one; none if the asker does
    /// not know the name.
    pub(super) fn find<'a>(
        &'a self,
        asker: &Asker<'a>,
        short: &str,
    ) -> Option<(Vec<Behind<'a>>, Option<&'a str>)> {
        if let Some(linked) = self.linked(asker, short) {
            return Some((vec![linked], None));
        }
        if let Some(known) = self.known(short, &asker.view) {
            return Some((known, None));
        }
        // With the name of one of its networks behind it.
        let (name, network) = short.rsplit_once('.')?;
        let mut here = self.networks.iter();
        let on = here.find(|n| n.name.eq_ignore_ascii_case(network))?;
        if !asker.view.contains(&on.id.as_str()) {
            return None;
        }
        let known = self.known(name, &[on.id.as_str()])?;
        Some((known, Some(&on.name)))
    }

    /// Whom the asker has a link of this name to.
    fn linked<'a>(&'a self, asker: &Asker<'a>, name: &str) -> Option<Behind<'a>> {
        let links = &asker.container?.links;
        let (_, id) = links.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
        let container = self.containers.iter().find(|c| c.id == *id)?;
        let mut shared = container.places.iter();
        let place = shared.find(|p| asker.view.contains(&p.network.as_str()))?;
        Some(Behind {
            container,
            ip: place.ip,
            ip6: place.ip6,
            listed: true,
        })
    }

    /// Who is behind a name on the networks of `view`; none if the name is not known there.
    fn known<'a>(&'a self, name: &str, view: &[&str]) -> Option<Vec<Behind<'a>>> {
        let known = self.names.get(name).map(Vec::as_slice).unwrap_or_default();
        let behind = |(index, only): &(usize, Option<String>)| {
            let container = &self.containers[*index];
            let here = |p: &&Place| {
                view.contains(&p.network.as_str())
                    && only.as_ref().is_none_or(|only| *only == p.network)
            };
            let mut shared = container.places.iter().filter(here).peekable();
            let as_service = container.service.as_ref().is_some_and(|s| {
                s.eq_ignore_ascii_case(name.strip_prefix("tasks.").unwrap_or(name))
            });
            let behind = Behind {
                container,
                ip: shared.peek()?.ip,
                // The first network that both are on may have IPv4 only.
                ip6: shared.find_map(|p| p.ip6),
                listed: container.healthy || !as_service,
            };
            Some((behind, *index < self.local, as_service))
        };
        let found: Vec<_> = known.iter().filter_map(behind).collect();
        // What runs here has its names to itself, but for its service's.
        let mut here = found.iter().filter(|(_, here, _)| *here).peekable();
        let (anything, only_service) = (here.peek().is_some(), here.all(|(_, _, s)| *s));
        let meant = |(_, here, as_service): &(Behind<'_>, bool, bool)| {
            *here || !anything || (*as_service && only_service)
        };
        let found = found.into_iter().filter(meant).map(|(behind, ..)| behind);
        let found: Vec<_> = found.collect();
        (!found.is_empty()).then_some(found)
    }

    /// The name of the container at `ip`, if the asker shares a network with it.
    pub fn reverse(&self, asker: Ipv4Addr, ip: IpAddr) -> Answer {
        let view = self.asker(asker).view;
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
                let named = |name: &str| format!("{name}{DOMAIN}");
                // What runs here may have the name of what runs elsewhere.
                let known = self.known(&c.name.to_ascii_lowercase(), &view);
                let its = known.is_some_and(|k| k.iter().any(|b| b.container.id == c.id));
                let own = Some(named(&c.name)).filter(|n| its && dns_name(n).is_some());
                Answer::Pointer(own.unwrap_or_else(|| named(c.short_id())))
            })
    }
}

#[cfg(test)]
mod tests;
