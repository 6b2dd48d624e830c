//! Published ports and fixed addresses, as they are written.

use crate::error::{EngineError, Result};
use crate::model::PortBinding;
use crate::record::Record;
use coracle_network::{PortMapping, Protocol};
use std::net::Ipv4Addr;

pub(crate) fn fixed_address(config: &crate::model::EndpointConfig) -> Result<Option<Ipv4Addr>> {
    let asked = config.ipam_config.as_ref().map(|i| i.ipv4_address.as_str());
    asked
        .filter(|a| !a.is_empty())
        .map(|a| {
            a.parse()
                .map_err(|_| EngineError::Invalid(format!("invalid IPv4 address: \"{a}\"")))
        })
        .transpose()
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
pub(crate) fn ports(record: &Record) -> Result<Vec<PortMapping>> {
    let mut wanted = Vec::new();
    let host = &record.host_config;
    for (port, bindings) in &host.port_bindings {
        let (container_port, protocol) = port_of(port)?;
        let bindings = bindings.clone().unwrap_or_default();
        let bindings = if bindings.is_empty() {
            vec![PortBinding::default()]
        } else {
            bindings
        };
        for binding in bindings {
            wanted.push(PortMapping {
                host_ip: host_address(&binding.host_ip)?,
                host_port: host_port(&binding.host_port)?,
                container_port,
                protocol,
            });
        }
    }
    if host.publish_all_ports {
        for port in record.config.exposed_ports.keys() {
            let (container_port, protocol) = port_of(port)?;
            if !wanted
                .iter()
                .any(|w| (w.container_port, w.protocol) == (container_port, protocol))
            {
                wanted.push(PortMapping {
                    host_ip: Ipv4Addr::UNSPECIFIED,
                    host_port: 0,
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

pub(crate) fn host_address(text: &str) -> Result<Ipv4Addr> {
    if text.is_empty() {
        return Ok(Ipv4Addr::UNSPECIFIED);
    }
    text.parse().map_err(|_| {
        EngineError::Invalid(format!(
            "invalid host address \"{text}\": this release publishes on IPv4 addresses"
        ))
    })
}

pub(crate) fn host_port(text: &str) -> Result<u16> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| {
        EngineError::Invalid(format!(
            "invalid host port \"{text}\": give one port from 1 to 65535, or 0 for one that is free"
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
    fn hardware_addresses() {
        assert_eq!(
            fixed_mac("02:42:ac:11:00:02").unwrap(),
            Some([2, 0x42, 0xac, 0x11, 0, 2])
        );
        assert_eq!(fixed_mac("").unwrap(), None);
        assert!(fixed_mac("02:42").is_err());
    }
}
