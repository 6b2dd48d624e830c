//! The three files of a container that name things: `hosts`, `hostname`, `resolv.conf`.

use crate::error::{EngineError, Result};
use crate::model::HostConfig;
use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// What goes into them.
#[derive(Debug, Default)]
pub struct Facts<'a> {
    /// Host name of the container.
    pub hostname: &'a str,
    /// NIS domain, if any.
    pub domainname: &'a str,
    /// Its first address.
    pub ip: Option<Ipv4Addr>,
    /// Its first IPv6 address.
    pub ip6: Option<Ipv6Addr>,
    /// The network's gateway, which also answers DNS.
    pub gateway: Option<Ipv4Addr>,
    /// The network's IPv6 gateway.
    pub gateway6: Option<Ipv6Addr>,
    /// Whether names of other containers are looked up: then the gateway is asked for all, and knows whom to ask further.
    pub own_names: bool,
    /// The host's own resolv.conf, for containers on the host's network.
    pub host_resolv_conf: &'a str,
    /// The host's own hosts file, likewise.
    pub host_hosts: Option<&'a str>,
}

/// Writes all three.
///
/// # Errors
/// [`EngineError::Invalid`] for an extra host without an address, [`EngineError::File`] naming the file.
pub fn write(dir: &Path, host: &HostConfig, facts: &Facts<'_>) -> Result<()> {
    let put = |name: &str, text: String| {
        let path = dir.join(name);
        fs::write(&path, text).map_err(EngineError::file("writing", &path))
    };
    put("hostname", format!("{}\n", facts.hostname))?;
    put("hosts", hosts(host, facts)?)?;
    put("resolv.conf", resolv_conf(host, facts))
}

/// Reads `name:address`; no address is `host-gateway`.
///
/// # Errors
/// [`EngineError::Invalid`] quoting it.
pub fn extra_host(entry: &str) -> Result<(&str, Option<IpAddr>)> {
    let parts = entry.split_once(':').or_else(|| entry.split_once('='));
    let (name, address) = parts.ok_or_else(|| {
        EngineError::Invalid(format!(
            "bad format for add-host: \"{entry}\"; write NAME:ADDRESS or NAME:host-gateway"
        ))
    })?;
    if address == "host-gateway" {
        return Ok((name, None));
    }
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse().map_err(|_| {
        EngineError::Invalid(format!(
            "invalid IP address in add-host: \"{address}\" (of {name})"
        ))
    })?;
    Ok((name, Some(address)))
}

fn hosts(host: &HostConfig, facts: &Facts<'_>) -> Result<String> {
    let mut text = facts.host_hosts.map_or_else(
        || {
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
             ff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
                .to_owned()
        },
        ToOwned::to_owned,
    );
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for entry in &host.extra_hosts {
        let (name, address) = extra_host(entry)?;
        let gateway = || facts.gateway.unwrap_or(Ipv4Addr::LOCALHOST).into();
        let addresses: Vec<IpAddr> = match address {
            Some(address) => vec![address],
            None => std::iter::once(gateway())
                .chain(facts.gateway6.map(IpAddr::V6))
                .collect(),
        };
        for address in addresses {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{address}\t{name}");
        }
    }
    let own = facts
        .ip
        .map(IpAddr::V4)
        .into_iter()
        .chain(facts.ip6.map(IpAddr::V6));
    for ip in own.filter(|_| facts.host_hosts.is_none()) {
        let whole = match facts.domainname {
            "" => facts.hostname.to_owned(),
            domain => format!("{}.{domain}", facts.hostname),
        };
        // The first part alone is a name of it too.
        let _ = match whole.split_once('.') {
            Some((first, _)) => writeln!(text, "{ip}\t{whole} {first}"),
            None => writeln!(text, "{ip}\t{whole}"),
        };
    }
    Ok(text)
}

fn resolv_conf(host: &HostConfig, facts: &Facts<'_>) -> String {
    let lines = |key: &'static str| {
        facts
            .host_resolv_conf
            .lines()
            .filter_map(move |l| l.trim().strip_prefix(key))
            .flat_map(str::split_whitespace)
            .map(ToOwned::to_owned)
            .collect::<Vec<_>>()
    };
    let or = |asked: &[String], else_: Vec<String>| {
        if asked.is_empty() {
            else_
        } else {
            asked.to_vec()
        }
    };
    let gateway = facts.gateway.map(|gateway| vec![gateway.to_string()]);
    let servers = match gateway {
        Some(gateway) if facts.own_names => gateway,
        gateway => or(&host.dns, gateway.unwrap_or_else(|| lines("nameserver"))),
    };
    let search = or(&host.dns_search, lines("search"));
    let default_options = if facts.gateway.is_some() {
        vec!["ndots:0".to_owned()]
    } else {
        lines("options")
    };
    let options = or(&host.dns_options, default_options);
    let mut text = String::new();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    // `--dns-search .` asks for none.
    if !search.is_empty() && search != ["."] {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn bridge() -> Facts<'static> {
        Facts {
            hostname: "web",
            ip: Some(Ipv4Addr::new(10, 210, 0, 2)),
            gateway: Some(Ipv4Addr::new(10, 210, 0, 1)),
            host_resolv_conf: "nameserver 127.0.0.53\nsearch example.org\noptions edns0\n",
            ..Facts::default()
        }
    }

    #[test]
    fn on_a_bridge() {
        let host = HostConfig {
            extra_hosts: vec![
                "db:10.0.0.9".into(),
                "me:host-gateway".into(),
                "six:::1".into(),
            ],
            ..HostConfig::default()
        };
        let text = hosts(&host, &bridge()).unwrap();
        for line in [
            "10.210.0.2\tweb",
            "10.0.0.9\tdb",
            "10.210.0.1\tme",
            "::1\tsix",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        assert_eq!(
            resolv_conf(&host, &bridge()),
            "nameserver 10.210.0.1\nsearch example.org\noptions ndots:0\n"
        );
    }

    #[test]
    fn on_a_bridge_with_ipv6() {
        let host = HostConfig {
            extra_hosts: vec!["me:host-gateway".into(), "six:[fd00::6]".into()],
            dns: vec!["2001:db8::53".into()],
            ..HostConfig::default()
        };
        let facts = Facts {
            ip6: Some("fd00:9::2".parse().unwrap()),
            gateway6: Some("fd00:9::1".parse().unwrap()),
            domainname: "example.org",
            ..bridge()
        };
        let text = hosts(&host, &facts).unwrap();
        for line in [
            "10.210.0.2\tweb.example.org web",
            "fd00:9::2\tweb.example.org web",
            "10.210.0.1\tme",
            "fd00:9::1\tme",
            "fd00::6\tsix",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        assert!(resolv_conf(&host, &facts).starts_with("nameserver 2001:db8::53\n"));
    }

    #[test]
    fn on_the_hosts_network() {
        let facts = Facts {
            gateway: None,
            ip: None,
            ..bridge()
        };
        assert_eq!(
            resolv_conf(&HostConfig::default(), &facts),
            "nameserver 127.0.0.53\nsearch example.org\noptions edns0\n"
        );
    }

    #[test]
    fn an_address_that_is_none_is_named() {
        let host = HostConfig {
            extra_hosts: vec!["db:nowhere".into()],
            ..HostConfig::default()
        };
        assert!(
            hosts(&host, &bridge())
                .unwrap_err()
                .to_string()
                .contains("nowhere")
        );
    }
}
