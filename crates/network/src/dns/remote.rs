//! Instances on other machines, beside those that run here.
//!
//! Worked example: here runs `web-1`, on another machine `web-2`, both of the service `web`. `web` and `tasks.web` answer both
//! addresses to whoever is on the default network, SRV lists both, `web-2` is a name. On another network of this machine only
//! `web-1` is seen: only the default network reaches other machines.
//!
//! What runs here comes first: where a container of this machine is called `web` without being of the service, or `web-2`, the name means that
//! one alone, as it did without other machines.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::ports::Ports;
use super::records::{Container, Place, Records};

/// An instance of a service on another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// The machine's id, 32 hexadecimal digits.
    pub machine: String,
    /// The service.
    pub service: String,
    /// The container's name there.
    pub name: String,
    /// The container's id.
    pub container: String,
    /// Its address on that machine's default network.
    pub ip: Ipv4Addr,
    /// Where it says to listen.
    pub ports: Ports,
    /// Only healthy instances are listed for a service; the others keep its name known.
    pub healthy: bool,
}

impl Records {
    /// Adds what runs elsewhere, seen on `network`, the default network's id. Given once, by whoever made the snapshot.
    #[must_use]
    pub fn with_remote<'a>(
        mut self,
        remote: impl IntoIterator<Item = &'a Remote>,
        network: &str,
    ) -> Self {
        let here: BTreeSet<String> = self.containers.iter().map(|c| c.id.clone()).collect();
        let elsewhere = remote
            .into_iter()
            .filter(|r| !here.contains(&r.container))
            .map(|r| Container {
                id: r.container.clone(),
                name: r.name.clone(),
                service: Some(r.service.clone()),
                healthy: r.healthy,
                ports: r.ports.clone(),
                places: vec![Place {
                    network: network.to_owned(),
                    ip: r.ip,
                    ip6: None,
                    aliases: Vec::new(),
                }],
                ..Container::default()
            });
        self.containers.extend(elsewhere);
        self.index(self.local);
        self
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::records::{Answer, NetworkView};
    use super::super::services::each;
    use super::*;

    fn place(network: &str, ip: &str) -> Place {
        Place {
            network: network.into(),
            ip: ip.parse().unwrap(),
            ip6: None,
            aliases: Vec::new(),
        }
    }

    fn here(id: &str, name: &str, service: Option<&str>, places: Vec<Place>) -> Container {
        Container {
            id: id.repeat(32),
            name: name.into(),
            service: service.map(Into::into),
            healthy: true,
            ports: Ports::read(["80"]),
            places,
            ..Container::default()
        }
    }

    fn there(id: &str, service: &str, name: &str, ip: &str) -> Remote {
        Remote {
            machine: "bb".repeat(16),
            service: service.into(),
            name: name.into(),
            container: id.repeat(32),
            ip: ip.parse().unwrap(),
            ports: Ports::read(["80"]),
            healthy: true,
        }
    }

    fn records(local: Vec<Container>, remote: &[Remote]) -> Records {
        let view = |id: &str, gateway: &str| NetworkView {
            id: id.into(),
            name: id.to_ascii_lowercase(),
            gateway: gateway.parse().unwrap(),
            gateway6: None,
            internal: false,
        };
        let views = vec![view("D", "10.0.0.1"), view("E", "10.0.1.1")];
        Records::new(local, views).with_remote(remote, "D")
    }

    fn asked(records: &Records, asker: &str, name: &str) -> Option<Vec<String>> {
        match records.lookup(asker.parse().unwrap(), name) {
            Answer::Addresses(all) => Some(all.iter().map(ToString::to_string).collect()),
            _ => None,
        }
    }

    fn listed(records: &Records, name: &str) -> Vec<String> {
        match records.services(Ipv4Addr::new(10, 0, 0, 1), name) {
            Answer::Services(all) => each(&all, 0)
                .map(|(s, port)| format!("{port} {} {:?}", s.target, s.addresses))
                .collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn instances_everywhere_on_the_default_network_alone() {
        let local = vec![
            here(
                "01",
                "web-1",
                Some("web"),
                vec![place("D", "10.0.0.2"), place("E", "10.0.1.2")],
            ),
            here("02", "other", None, vec![place("E", "10.0.1.3")]),
        ];
        let sick = Remote {
            healthy: false,
            ..there("05", "slow", "slow-1", "10.9.0.4")
        };
        let remote = [
            there("03", "web", "web-2", "10.9.0.2"),
            there("04", "db", "db-1", "10.9.0.3"),
            sick,
            // Somebody tells us of our own.
            there("01", "web", "web-1", "10.9.0.9"),
        ];
        let records = records(local, &remote);
        let of = |asker: &str, name: &str| asked(&records, asker, name);
        let both = Some(vec!["10.0.0.2".to_owned(), "10.9.0.2".to_owned()]);
        for name in ["web", "tasks.web", "WEB.coracle.internal", "web.d"] {
            assert_eq!(of("10.0.0.1", name), both, "{name}");
            assert_eq!(of("10.0.0.2", name), both, "{name}");
        }
        assert_eq!(of("10.0.1.3", "web"), Some(vec!["10.0.1.2".into()]));
        assert_eq!(
            of("10.0.1.3", "db"),
            None,
            "another network does not reach it"
        );
        assert_eq!(of("10.0.0.2", "db"), Some(vec!["10.9.0.3".into()]));
        assert_eq!(of("10.0.0.2", "web-2"), Some(vec!["10.9.0.2".into()]));
        assert_eq!(
            of("10.0.0.2", "slow"),
            Some(vec![]),
            "known, and nobody is well"
        );
        // Who runs elsewhere asks there.
        assert_eq!(of("10.9.0.2", "web"), None);
        let expected = [
            "80 web-1.coracle.internal [10.0.0.2]",
            "80 web-2.coracle.internal [10.9.0.2]",
        ];
        assert_eq!(listed(&records, "_http._tcp.web"), expected);
        let pointer = records.reverse(
            Ipv4Addr::new(10, 0, 0, 1),
            Ipv4Addr::new(10, 9, 0, 2).into(),
        );
        assert_eq!(pointer, Answer::Pointer("web-2.coracle.internal".into()));
    }

    #[test]
    fn what_runs_here_comes_first() {
        let local = vec![
            here("01", "web", None, vec![place("D", "10.0.0.2")]),
            here("02", "db-1", None, vec![place("D", "10.0.0.3")]),
            here("06", "db-2", Some("db"), vec![place("D", "10.0.0.4")]),
        ];
        let remote = [
            there("03", "web", "web-1", "10.9.0.2"),
            there("04", "db", "db-1", "10.9.0.3"),
        ];
        let records = records(local, &remote);
        let of = |name: &str| asked(&records, "10.0.0.1", name).unwrap_or_default();
        assert_eq!(of("web"), ["10.0.0.2"], "a container of this very name");
        assert_eq!(of("tasks.web"), ["10.9.0.2"]);
        assert_eq!(of("db-1"), ["10.0.0.3"]);
        assert_eq!(of("db"), ["10.0.0.4", "10.9.0.3"]);
        // Where a name means another here, the id leads to the one elsewhere.
        let expected = [
            "80 db-2.coracle.internal [10.0.0.4]",
            "80 040404040404.coracle.internal [10.9.0.3]",
        ];
        assert_eq!(listed(&records, "db"), expected);
        let pointer = records.reverse(
            Ipv4Addr::new(10, 0, 0, 1),
            Ipv4Addr::new(10, 9, 0, 3).into(),
        );
        assert_eq!(
            pointer,
            Answer::Pointer("040404040404.coracle.internal".into())
        );
    }
}
