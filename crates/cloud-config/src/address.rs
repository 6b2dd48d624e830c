//! Names and addresses of machines.
use crate::problem::quoted;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Characters of a label of a name (RFC 1123, 2.1).
const LABEL_MAX: usize = 63;
/// Characters of a whole name (RFC 1035, 2.3.4, as text).
const NAME_MAX: usize = 253;

/// The name of a machine.
pub(crate) fn host_name(text: &str) -> Result<String, String> {
    let bad = |why: &str| Err(format!("{} {why}", quoted(text)));
    if text.is_empty() {
        return bad("is no name; write for example web1 or web1.example.com");
    }
    if text.len() > NAME_MAX {
        return bad(&format!(
            "is longer than {NAME_MAX} characters; write a shorter one"
        ));
    }
    for label in text.split('.') {
        if label.is_empty() {
            return bad("has an empty part; parts of a name have one dot between them");
        }
        if label.len() > LABEL_MAX {
            return bad(&format!(
                "has a part of more than {LABEL_MAX} characters; write a shorter one"
            ));
        }
        let foreign = |c: &char| !c.is_ascii_alphanumeric() && *c != '-';
        if let Some(c) = label.chars().find(foreign) {
            return bad(&format!(
                "has a {c:?}; names are made of letters, digits, dashes and dots"
            ));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return bad("has a part that begins or ends with a dash; remove the dash");
        }
    }
    Ok(text.to_owned())
}

/// A name or an IPv4 address.
pub(crate) fn host(text: &str) -> Result<String, String> {
    if text.parse::<Ipv4Addr>().is_ok() {
        return Ok(text.to_owned());
    }
    let last = text.rsplit('.').next().unwrap_or_default();
    if !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!(
            "{} is neither a name nor an IPv4 address",
            quoted(text)
        ));
    }
    host_name(text)
}

/// `HOST` or `HOST:PORT`.
pub(crate) fn host_port(text: &str) -> Result<String, String> {
    refuse_url(text)?;
    refuse_ipv6(text)?;
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (text, None),
    };
    host(name)?;
    match port.map(str::parse::<u16>) {
        None | Some(Ok(1..)) => Ok(text.to_owned()),
        Some(_) => Err(format!(
            "{} has no port from 1 to 65535 after its colon",
            quoted(text)
        )),
    }
}

/// An IPv4 address that a machine can have.
pub(crate) fn ipv4(text: &str) -> Result<Ipv4Addr, String> {
    refuse_ipv6(text)?;
    if text.starts_with('$') {
        return Err(format!(
            "{} was not replaced, since this machine's address is not known; write the address itself",
            quoted(text)
        ));
    }
    let found = text.parse::<Ipv4Addr>().ok().filter(|ip| {
        !(ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_loopback())
    });
    found.ok_or_else(|| {
        format!(
            "{} is no IPv4 address of a machine; write for example 10.0.0.2",
            quoted(text)
        )
    })
}

/// An IPv4 address, or one with a port.
pub(crate) fn advertised(text: &str) -> Result<String, String> {
    refuse_ipv6(text)?;
    let (address, port) = match text.rsplit_once(':') {
        Some((address, port)) => (address, Some(port)),
        None => (text, None),
    };
    ipv4(address)?;
    match port.map(str::parse::<u16>) {
        None | Some(Ok(1..)) => Ok(text.to_owned()),
        Some(_) => Err(format!(
            "{} has no port from 1 to 65535 after its colon",
            quoted(text)
        )),
    }
}

pub(crate) fn refuse_ipv6(text: &str) -> Result<(), String> {
    let bare = text.split('/').next().unwrap_or_default();
    let v6 = bare.parse().is_ok_and(|ip: IpAddr| ip.is_ipv6())
        || bare.parse().is_ok_and(|at: SocketAddr| at.is_ipv6())
        || bare.starts_with('[');
    match v6 {
        true => Err(format!(
            "{} is of IPv6, which is not done here; write an IPv4 address",
            quoted(text)
        )),
        false => Ok(()),
    }
}

/// Addresses are without a scheme.
pub(crate) fn refuse_url(text: &str) -> Result<(), String> {
    match text.split_once("://") {
        Some((scheme, rest)) => Err(format!(
            "{} is a URL; write {} without {scheme}://",
            quoted(text),
            rest.trim_end_matches('/')
                .chars()
                .take(60)
                .filter(|c| !c.is_control())
                .collect::<String>()
        )),
        None => Ok(()),
    }
}
