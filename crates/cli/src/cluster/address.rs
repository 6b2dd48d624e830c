//! What people write of a machine's address. Pure.

use super::DOOR_PORT;
use super::admit::ClusterError;
use std::net::{IpAddr, SocketAddr};

/// `HOST:PORT` of what a person writes: an address or a host name, with a port or without.
///
/// # Errors
/// `Address`.
pub(super) fn door_of(text: &str) -> Result<String, ClusterError> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    if let Ok(ip) = bare.unwrap_or(text).parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, DOOR_PORT).to_string());
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address.to_string());
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)),
        None => (text, Some(DOOR_PORT)),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match port {
        Some(port) if !host.is_empty() && host.chars().all(is_name) => Ok(format!("{host}:{port}")),
        _ => Err(ClusterError::Address(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn doors_of_addresses() {
        for (written, door) in [
            ("192.0.2.7", "192.0.2.7:7373"),
            (" 192.0.2.7:99 ", "192.0.2.7:99"),
            ("fd00::7", "[fd00::7]:7373"),
            ("[fd00::7]", "[fd00::7]:7373"),
            ("[fd00::7]:99", "[fd00::7]:99"),
            ("web-1.example", "web-1.example:7373"),
            ("web-1:99", "web-1:99"),
        ] {
            assert_eq!(door_of(written).unwrap(), door);
        }
        for wrong in [
            "",
            ":7373",
            "web:0",
            "web:x",
            "http://web/",
            "a b",
            "web:99:1",
        ] {
            assert!(door_of(wrong).is_err(), "{wrong}");
        }
    }
}
