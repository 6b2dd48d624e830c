//! `/etc/resolv.conf`, from the configuration and from what each interface was told.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    sync::{Mutex, PoisonError},
};

/// glibc reads as many.
const SERVERS: usize = 3;

/// Servers and domains by interface.
type Told = BTreeMap<String, (Vec<Ipv4Addr>, Vec<String>)>;

/// Name servers and domains.
#[derive(Debug)]
pub struct Resolver {
    /// Those of the configuration come first.
    own: Vec<Ipv4Addr>,
    told: Mutex<Told>,
}

impl Resolver {
    /// Knows those of the configuration.
    pub fn new(own: Vec<Ipv4Addr>) -> Self {
        Self {
            own,
            told: Mutex::default(),
        }
    }

    /// Takes what an interface was told, and writes the file.
    pub fn tell(&self, interface: &str, servers: Vec<Ipv4Addr>, search: Vec<String>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.insert(interface.to_owned(), (servers, search));
        let text = text(&self.own, &told);
        // Read by programs at any time: whole or not at all.
        let written = fs::write("/etc/resolv.conf.new", text)
            .and_then(|()| fs::rename("/etc/resolv.conf.new", "/etc/resolv.conf"));
        if let Err(error) = written {
            crate::console::failed("/etc/resolv.conf", &error);
        }
    }
}

fn text(own: &[Ipv4Addr], told: &Told) -> String {
    let mut servers = own.to_vec();
    let mut search = Vec::new();
    for (of, domains) in told.values() {
        for server in of {
            if !servers.contains(server) {
                servers.push(*server);
            }
        }
        for domain in domains {
            if !search.contains(domain) {
                search.push(domain.clone());
            }
        }
    }
    let mut text: String = servers
        .iter()
        .take(SERVERS)
        .map(|s| format!("nameserver {s}\n"))
        .collect();
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configurations_servers_come_first_and_each_once() {
        let ip = |n| Ipv4Addr::new(192, 0, 2, n);
        let told = BTreeMap::from([
            (
                "eth0".to_owned(),
                (vec![ip(1), ip(2)], vec!["a.test".to_owned()]),
            ),
            (
                "eth1".to_owned(),
                (
                    vec![ip(3), ip(4)],
                    vec!["a.test".to_owned(), "b.test".to_owned()],
                ),
            ),
        ]);
        assert_eq!(
            text(&[ip(2)], &told),
            "nameserver 192.0.2.2\nnameserver 192.0.2.1\nnameserver 192.0.2.3\nsearch a.test b.test\n"
        );
        assert_eq!(text(&[], &BTreeMap::new()), "");
    }
}
