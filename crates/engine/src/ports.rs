//! Published ports and fixed addresses, as they are written.

use crate::error::{EngineError, Result};
use crate::model::{ContainerConfig, EndpointConfig, HostConfig, IpamConfig, PortBinding};
use crate::record::Record;
use coracle_network::{EndpointRequest, PortRequest, Protocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

fn fixed<T: FromStr>(
    config: &EndpointConfig,
    family: &str,
    of: fn(&IpamConfig) -> &str,
) -> Result<Option<T>> {
    let asked = config.ipam_config.as_ref().map(of);
    asked
        .filter(|a| !a.is_empty())
        .map(|a| {
            a.parse()
                .map_err(|_| EngineError::Invalid(format!("invalid {family} address: \"{a}\"")))
        })
        .transpose()
}

pub(crate) fn fixed_address(config: &EndpointConfig) -> Result<Option<Ipv4Addr>> {
    fixed(config, "IPv4", |c| &c.ipv4_address)
}

pub(crate) fn fixed_address6(config: &EndpointConfig) -> Result<Option<Ipv6Addr>> {
    fixed(config, "IPv6", |c| &c.ipv6_address)
}

/// Further addresses of the link alone.
pub(crate) fn link_local(config: &EndpointConfig) -> Result<Vec<IpAddr>> {
    let asked = config.ipam_config.iter().flat_map(|c| &c.link_local_ips);
    let one = |text: &String| {
        let local = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        text.parse().ok().filter(local).ok_or_else(|| {
            EngineError::Invalid(format!(
                "invalid link-local address: \"{text}\"; give one of 169.254.0.0/16 or fe80::/64"
            ))
        })
    };
    asked.map(one).collect()
}

/// What a container asks of one of its networks.
pub(crate) fn endpoint_request(
    record: &Record,
    network: &str,
    config: &EndpointConfig,
) -> Result<EndpointRequest> {
    Ok(EndpointRequest {
        container_id: record.id.to_string(),
        container_name: record.name.clone(),
        network: network.to_owned(),
        ip: fixed_address(config)?,
        ip6: fixed_address6(config)?,
        without_ipv6: without_ipv6(record),
        link_local: link_local(config)?,
        mac: fixed_mac(&config.mac_address)?,
        aliases: config.aliases.clone(),
        priority: config.gw_priority,
    })
}

/// Whether the container has IPv6 switched off for itself.
fn without_ipv6(record: &Record) -> bool {
    let off = |of: &str| {
        let key = format!("net.ipv6.conf.{of}.disable_ipv6");
        record
            .host_config
            .sysctls
            .get(&key)
            .is_some_and(|v| v == "1")
    };
    off("all") || off("default")
}

pub(crate) fn fixed_mac(text: &str) -> Result<Option<[u8; 6]>> {
    if text.is_empty() {
        return Ok(None);
    }
    let bytes: Option<Vec<u8>> = text
        .split([':', '-'])
        .map(|b| u8::from_str_radix(b, 16).ok())
        .collect();
    bytes
        .and_then(|b| <[u8; 6]>::try_from(b).ok())
        .map(Some)
        .ok_or_else(|| {
            EngineError::Invalid(format!(
                "invalid MAC address: \"{text}\"; write 02:42:ac:11:00:02"
            ))
        })
}

/// The ports asked for, as the network takes them; 0 lets it choose.
pub(crate) fn ports(config: &ContainerConfig, host: &HostConfig) -> Result<Vec<PortRequest>> {
    let mut wanted = Vec::new();
    for (port, bindings) in &host.port_bindings {
        let (container_port, protocol) = port_of(port)?;
        let bindings = bindings.clone().unwrap_or_default();
        let bindings = if bindings.is_empty() {
            vec![PortBinding::default()]
        } else {
            bindings
        };
        for binding in bindings {
            let ports = host_ports(&binding.host_port)?;
            wanted.push(PortRequest {
                host_ip: host_address(&binding.host_ip)?,
                host_port: ports.0,
                host_last: ports.1,
                container_port,
                protocol,
            });
        }
    }
    if host.publish_all_ports {
        for port in config.exposed_ports.keys() {
            let (container_port, protocol) = port_of(port)?;
            if !wanted
                .iter()
                .any(|w| (w.container_port, w.protocol) == (container_port, protocol))
            {
                wanted.push(PortRequest {
                    host_ip: None,
                    host_port: 0,
                    host_last: 0,
                    container_port,
                    protocol,
                });
            }
        }
    }
    Ok(wanted)
}

/// Reads `80/tcp`.
pub(crate) fn port_of(text: &str) -> Result<(u16, Protocol)> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let bad = |why: &str| EngineError::Invalid(format!("invalid port \"{text}\": {why}"));
    let protocol = match protocol {
        "tcp" | "" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Err(bad("only tcp and udp are published by this release")),
    };
    match number.parse() {
        Ok(number) if number > 0 => Ok((number, protocol)),
        _ => Err(bad("a port is a number from 1 to 65535")),
    }
}

/// Reads an address of the host; none stands for all of every family.
pub(crate) fn host_address(text: &str) -> Result<Option<IpAddr>> {
    if text.is_empty() {
        return Ok(None);
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse().map(Some).map_err(|_| {
        EngineError::Invalid(format!(
            "invalid host address \"{text}\": give an IPv4 or IPv6 address of this machine"
        ))
    })
}

/// Reads a port of the host, or a range to choose from (`8000-8010`); nothing or 0 is any that is free.
pub(crate) fn host_ports(text: &str) -> Result<(u16, u16)> {
    if text.is_empty() {
        return Ok((0, 0));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let ports = first.parse::<u16>().ok().zip(last.parse::<u16>().ok());
    ports
        .filter(|(first, last)| first <= last && (*first > 0 || *last == 0))
        .ok_or_else(|| {
            EngineError::Invalid(format!(
                "invalid host port \"{text}\": give one port from 1 to 65535, a range such as 8000-8010, or 0 for one that is free"
            ))
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ports_are_read_or_refused() {
        assert_eq!(port_of("80").unwrap(), (80, Protocol::Tcp));
        assert_eq!(port_of("53/udp").unwrap(), (53, Protocol::Udp));
        for bad in ["", "0", "70000/tcp", "80/sctp", "x"] {
            assert!(port_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn host_addresses_of_both_families() {
        assert_eq!(host_address("").unwrap(), None);
        for (text, ip) in [("0.0.0.0", "0.0.0.0"), ("::", "::"), ("[::1]", "::1")] {
            assert_eq!(host_address(text).unwrap(), Some(ip.parse().unwrap()));
        }
        for bad in ["[::1", "here", "fe80::1%eth0", "10.0.0"] {
            assert!(host_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_of_a_link() {
        let of = |ip: &str| {
            link_local(&EndpointConfig {
                ipam_config: Some(IpamConfig {
                    link_local_ips: vec![ip.into()],
                    ..IpamConfig::default()
                }),
                ..EndpointConfig::default()
            })
        };
        assert_eq!(of("169.254.8.8").unwrap().len(), 1);
        assert_eq!(of("fe80::8").unwrap().len(), 1);
        for bad in ["10.0.0.1", "fd00::1", "x", ""] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hardware_addresses() {
        assert_eq!(
            fixed_mac("02:42:ac:11:00:02").unwrap(),
            Some([2, 0x42, 0xac, 0x11, 0, 2])
        );
        assert_eq!(fixed_mac("").unwrap(), None);
        assert!(fixed_mac("02:42").is_err());
    }
}
