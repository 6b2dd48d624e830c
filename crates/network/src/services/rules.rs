//! What services add to the firewall's one table, and the way from what it has of them to what it should: pure text.
//!
//! Worked example: an instance of `web` is ready no more. Its chains get other rules and no element changes:
//!
//! ```text
//! flush chain inet coracle service/web/tcp/80
//! add rule inet coracle service/web/tcp/80 meta l4proto tcp dnat ip to 10.212.0.2:8080
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Service, ServicePort};
use crate::firewall::Published;
use crate::model::Protocol;
use crate::overlay::LINK;

/// Where on this machine's networks, or on which other's, an address is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    /// Bridge of the default network.
    pub bridge: String,
    /// Its subnet.
    pub subnet: Ipv4Net,
    /// The bridge's own address.
    pub gateway: Ipv4Addr,
    /// Other networks: bridge, subnet, and whether it is internal.
    pub others: Vec<(String, Ipv4Net, bool)>,
    /// Subnets of other machines; none if this one has no overlay.
    pub peers: Option<Vec<Ipv4Net>>,
}

impl Places {
    fn other(&self, ip: Ipv4Addr) -> Option<&(String, Ipv4Net, bool)> {
        self.others.iter().find(|o| o.1.contains(&ip))
    }

    /// Whether the machine, the default network's containers and clients of published ports are to reach it.
    fn is_near(&self, ip: Ipv4Addr) -> bool {
        let elsewhere = |peers: &Vec<Ipv4Net>| peers.iter().any(|p| p.contains(&ip));
        self.subnet.contains(&ip)
            || self.other(ip).is_some_and(|o| !o.2)
            || self.peers.as_ref().is_some_and(elsewhere)
    }
}

/// A way that packets of UDP take: what was asked, an address of the machine if it is none, and who answers. Both ports are 0 where each port
/// leads to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    pub asked: Option<Ipv4Addr>,
    pub port: u16,
    pub backend: Ipv4Addr,
    pub target: u16,
}

/// What the table has of services one by one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rendered {
    /// Rules by chain.
    chains: BTreeMap<String, Vec<String>>,
    /// Chain by map and key.
    elements: BTreeMap<(&'static str, String), String>,
    /// Ways of UDP.
    pub(super) ways: BTreeSet<Way>,
}

/// All that the table is to have of services.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// Where services' addresses are from.
    range: Ipv4Net,
    places: Places,
    pub(super) rendered: Rendered,
}

/// A name as a part of a chain's: what is no letter, digit, `-` or `.` is written as `_` and its number.
pub(super) fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-.".contains(&byte) {
            out.push(byte.into());
        } else {
            let _ = write!(out, "_{byte:02x}");
        }
    }
    out
}

/// What a chain is for: a port that leads to one of the instances', or all of them as they are.
#[derive(Clone, Copy)]
enum Lead {
    Port(Protocol, u16),
    All,
}

/// The rules that send a new connection to one of `backends`.
fn choice(lead: Lead, backends: &[Ipv4Addr]) -> Vec<String> {
    let Some(first) = backends.first() else {
        let tcp = "meta l4proto tcp reject with tcp reset".to_owned();
        return match lead {
            Lead::Port(Protocol::Tcp, _) => vec![tcp],
            Lead::Port(Protocol::Udp, _) => {
                vec!["meta l4proto udp reject with icmpx type port-unreachable".to_owned()]
            }
            Lead::All => vec![tcp, "reject with icmpx type port-unreachable".to_owned()],
        };
    };
    let to = |what: String| match lead {
        Lead::Port(protocol, target) => {
            format!("meta l4proto {protocol} dnat ip to {what}:{target}")
        }
        Lead::All => format!("dnat ip to {what}"),
    };
    let mut rules = Vec::new();
    if backends.len() > 1 {
        let each = backends.iter().enumerate();
        let each: Vec<_> = each.map(|(n, ip)| format!("{n} : {ip}")).collect();
        let (count, each) = (backends.len(), each.join(", "));
        rules.push(to(format!("numgen random mod {count} map {{ {each} }}")));
    }
    // All that there is to choose from if it is one. Else for a packet that is in the chain in the moment when other rules take their
    // place: the map's elements are gone for it already, and without this it would be refused.
    rules.push(to(first.to_string()));
    rules
}

impl Rendered {
    /// Of services that have the published ports `held`.
    pub fn new(services: &[Service], held: &BTreeMap<Published, String>, places: &Places) -> Self {
        let mut out = Self::default();
        for service in services {
            for port in &service.ports {
                out.port(service, port, held, places);
            }
            if let Some(ip) = service.address.filter(|_| service.every_port) {
                out.all(service, ip, places);
            }
        }
        out.known(services, held);
        out
    }

    /// What is for somebody for sure and was not translated all the same: it came while the table was loaded anew, when the maps are empty
    /// for a moment, and is to come again.
    fn known(&mut self, services: &[Service], held: &BTreeMap<Published, String>) {
        let whole = services.iter().filter(|s| s.every_port);
        let addresses = whole.filter_map(|s| s.address);
        let addresses = addresses.map(|ip| format!("ip daddr {ip} drop"));
        self.chains.insert(KNOWN.into(), addresses.collect());
        let ports = held.keys().filter_map(|(protocol, ip, port)| {
            let to = match ip {
                std::net::IpAddr::V4(ip) if ip.is_unspecified() => String::new(),
                std::net::IpAddr::V4(ip) => format!("ip daddr {ip} "),
                std::net::IpAddr::V6(_) => return None,
            };
            Some(format!("{to}{protocol} dport {port} drop"))
        });
        self.chains.insert(HELD.into(), ports.collect());
    }

    /// An address that stands for its instances.
    fn all(&mut self, service: &Service, ip: Ipv4Addr, places: &Places) {
        let name = format!("service/{}", escaped(&service.name));
        let ready = service.backends.iter().filter(|b| b.ready);
        let ready: Vec<_> = ready.map(|b| b.address).collect();
        let those = |here: &dyn Fn(Ipv4Addr) -> bool| -> Vec<Ipv4Addr> {
            ready.iter().copied().filter(|ip| here(*ip)).collect()
        };
        let by = |bridge: &str| ("services_all_from", format!("\"{bridge}\" . {ip}"));
        let asked = [(Some(ip), 0)];
        self.elements.insert(by(&places.bridge), name.clone());
        self.elements
            .insert(("services_all", ip.to_string()), name.clone());
        for (bridge, subnet, _) in &places.others {
            if service.backends.iter().any(|b| subnet.contains(&b.address)) {
                let chain = format!("{name}/{bridge}");
                self.elements.insert(by(bridge), chain.clone());
                let there = those(&|ip| subnet.contains(&ip));
                self.ways(Protocol::Udp, &asked, &there, 0);
                self.chains.insert(chain, choice(Lead::All, &there));
            }
        }
        let near = those(&|ip| places.is_near(ip));
        self.ways(Protocol::Udp, &asked, &near, 0);
        self.chains.insert(name, choice(Lead::All, &near));
    }

    fn port(
        &mut self,
        service: &Service,
        port: &ServicePort,
        held: &BTreeMap<Published, String>,
        places: &Places,
    ) {
        let (protocol, number, target) = (port.protocol, port.port, port.target);
        let name = format!("service/{}/{protocol}/{number}", escaped(&service.name));
        let ready = service.backends.iter().filter(|b| b.ready);
        let ready: Vec<_> = ready.map(|b| b.address).collect();
        let near: Vec<_> = ready
            .iter()
            .copied()
            .filter(|ip| places.is_near(*ip))
            .collect();
        let host_ip = |key: &Published| match key.1 {
            std::net::IpAddr::V4(ip) if !ip.is_unspecified() => Some(ip),
            _ => None,
        };
        let mut asked: Vec<(Option<Ipv4Addr>, u16)> = Vec::new();
        let keys = port.keys();
        let mine = keys.iter().filter(|k| held.get(k) == Some(&service.name));
        for key in mine {
            let ip = host_ip(key);
            asked.push((ip, key.2));
            let element = match ip {
                Some(ip) => ("service_ports", format!("{ip} . {protocol} . {}", key.2)),
                None => ("service_ports_any", format!("{protocol} . {}", key.2)),
            };
            self.elements.insert(element, name.clone());
        }
        if let Some(ip) = service.address {
            asked.push((Some(ip), number));
            let key = format!("{ip} . {protocol} . {number}");
            let by = |bridge: &str| ("services_from", format!("\"{bridge}\" . {key}"));
            self.elements.insert(by(&places.bridge), name.clone());
            for (bridge, subnet, _) in &places.others {
                // Also while none is ready: it is refused either way, but the element need not come and go.
                if service.backends.iter().any(|b| subnet.contains(&b.address)) {
                    let chain = format!("{name}/{bridge}");
                    self.elements.insert(by(bridge), chain.clone());
                    let there: Vec<_> = ready
                        .iter()
                        .copied()
                        .filter(|ip| subnet.contains(ip))
                        .collect();
                    self.ways(protocol, &asked[asked.len() - 1..], &there, target);
                    self.chains
                        .insert(chain, choice(Lead::Port(protocol, target), &there));
                }
            }
            self.elements.insert(("services", key), name.clone());
        }
        if asked.is_empty() {
            return;
        }
        self.ways(protocol, &asked, &near, target);
        self.chains
            .insert(name, choice(Lead::Port(protocol, target), &near));
    }

    fn ways(
        &mut self,
        protocol: Protocol,
        asked: &[(Option<Ipv4Addr>, u16)],
        backends: &[Ipv4Addr],
        target: u16,
    ) {
        if protocol != Protocol::Udp {
            return;
        }
        for (asked, port) in asked {
            self.ways.extend(backends.iter().map(|backend| Way {
                asked: *asked,
                port: *port,
                backend: *backend,
                target,
            }));
        }
    }

    /// The text that makes of the loaded table, which has `before`, one that has this; empty if that is the same.
    pub fn change(&self, before: &Self) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            out.push_str(&text);
            out.push('\n');
        };
        for (chain, rules) in &self.chains {
            match before.chains.get(chain) {
                Some(there) if there == rules => continue,
                Some(_) => line(format!("flush chain inet coracle {chain}")),
                None => line(format!("add chain inet coracle {chain}")),
            }
            for rule in rules {
                line(format!("add rule inet coracle {chain} {rule}"));
            }
        }
        for ((map, key), chain) in &before.elements {
            if self.elements.get(&(*map, key.clone())) != Some(chain) {
                line(format!("delete element inet coracle {map} {{ {key} }}"));
            }
        }
        for ((map, key), chain) in &self.elements {
            if before.elements.get(&(*map, key.clone())) != Some(chain) {
                line(format!(
                    "add element inet coracle {map} {{ {key} : goto {chain} }}"
                ));
            }
        }
        for chain in before.chains.keys() {
            if !self.chains.contains_key(chain) {
                line(format!("flush chain inet coracle {chain}"));
                line(format!("delete chain inet coracle {chain}"));
            }
        }
        out
    }
}

/// Addresses that stand for their instances, and published ports: rules of their own, which need no map.
const KNOWN: &str = "service_known";
const HELD: &str = "service_held";

/// Maps of the table.
const MAPS: &str = "  map services { type ipv4_addr . inet_proto . inet_service : verdict; }
  map services_from { type ifname . ipv4_addr . inet_proto . inet_service : verdict; }
  map services_all { type ipv4_addr : verdict; }
  map services_all_from { type ifname . ipv4_addr : verdict; }
  map service_ports { type ipv4_addr . inet_proto . inet_service : verdict; }
  map service_ports_any { type inet_proto . inet_service : verdict; }
";

/// Parts of the table, each empty where there are no services.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// Maps and chains.
    pub chains: String,
    /// Lines of the chain `prerouting`.
    pub prerouting: String,
    /// Lines of the chain `output`.
    pub output: String,
    /// Lines of the chain `publish`, after containers' ports.
    pub publish: String,
    /// Lines of the chain `postrouting`, before all others.
    pub postrouting: String,
    /// What follows the table.
    pub after: String,
}

impl Rules {
    pub(super) fn new(range: Ipv4Net, places: Places, rendered: Rendered) -> Self {
        Self {
            range,
            places,
            rendered,
        }
    }

    pub fn parts(&self) -> Parts {
        let range = self.range;
        let Places {
            gateway,
            subnet,
            ref bridge,
            ..
        } = self.places;
        // After translations, so what still has such an address is nobody's. What conntrack cannot place is never translated: a
        // reset for a late packet would end a connection that is well.
        let chains = format!(
            r#"{MAPS}  chain {KNOWN} {{
  }}
  chain {HELD} {{
  }}
  chain service_held_in {{
    type filter hook input priority -90; policy accept;
    meta nfproto ipv4 ct state new jump {HELD}
  }}
  chain service_refuse {{
    ct state invalid drop
    meta l4proto tcp reject with tcp reset
    reject with icmpx type port-unreachable
  }}
  chain service_refuse_in {{
    type filter hook prerouting priority -90; policy accept;
    ip daddr {range} iifname "{bridge}" jump {KNOWN}
    ip daddr {range} jump service_refuse
  }}
  chain service_refuse_out {{
    type filter hook output priority -90; policy accept;
    ip daddr {range} jump {KNOWN}
    ip daddr {range} jump service_refuse
  }}
"#
        );
        let key = "ip daddr . meta l4proto . th dport";
        let postrouting = match self.places.peers {
            Some(_) => format!(
                "    oifname \"{LINK}\" ct status dnat ip saddr != {subnet} snat ip to {gateway}\n"
            ),
            None => String::new(),
        };
        Parts {
            chains,
            prerouting: format!(
                "    ip daddr {range} iifname . {key} vmap @services_from\n    \
                 ip daddr {range} iifname . ip daddr vmap @services_all_from\n"
            ),
            output: format!(
                "    ip daddr {range} {key} vmap @services\n    \
                 ip daddr {range} ip daddr vmap @services_all\n"
            ),
            publish: format!(
                "    meta nfproto ipv4 {key} vmap @service_ports\n    \
                 meta nfproto ipv4 meta l4proto . th dport vmap @service_ports_any\n"
            ),
            postrouting,
            after: self.rendered.change(&Rendered::default()),
        }
    }
}

#[cfg(test)]
mod tests;
