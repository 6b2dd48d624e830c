//! `coracle.network`: the machine's own network. IPv4.
use crate::address::{ipv4, refuse_ipv6};
use crate::fields::{At, Fields, Keys};
use crate::model::{Interface, Network, Selector};
use crate::problem::{Problems, quoted};
use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

const KEYS: Keys = Keys {
    known: &["dns", "interfaces"],
    refused: &[],
};
const INTERFACE: Keys = Keys {
    known: &["name", "mac", "dhcp", "address", "gateway", "mtu", "dns"],
    refused: &[
        (
            "addresses",
            "an interface has one address here; write address",
        ),
        ("dhcp4", "write dhcp"),
        ("dhcp6 gateway6", "IPv6 is not done here; remove it"),
        ("gateway4", "write gateway"),
        ("nameservers", "write dns, a list of addresses"),
    ],
};

/// Bytes of a name without its end (IFNAMSIZ of Linux).
const NAME_MAX: usize = 15;
/// Bytes: what each machine has to take (RFC 791).
const MTU_MIN: u16 = 576;

pub(crate) fn read(at: &At<'_>, out: &mut Problems) -> Network {
    let Some(fields) = at.fields(&KEYS, out) else {
        return Network::default();
    };
    let dns = servers(&fields, out);
    let list = fields.get("interfaces").map(|at| at.items(out));
    let mut seen: BTreeMap<Selector, usize> = BTreeMap::new();
    let mut interfaces = Vec::new();
    for at in list.unwrap_or_default() {
        let Some(found) = interface(&at, out) else {
            continue;
        };
        match seen.get(&found.which) {
            Some(line) => at.fail(out, format!("the interface is on line {line} already, and only that is read; make one of both")),
            None => {
                seen.insert(found.which.clone(), at.node.mark.line);
                interfaces.push(found);
            }
        }
    }
    Network { dns, interfaces }
}

fn servers(fields: &Fields<'_>, out: &mut Problems) -> Vec<Ipv4Addr> {
    let list = fields.get("dns").map(|at| at.items(out));
    let list = list.unwrap_or_default();
    list.iter().filter_map(|at| at.read(out, server)).collect()
}

/// A server may be on the machine itself.
fn server(text: &str) -> Result<Ipv4Addr, String> {
    match text.parse::<Ipv4Addr>() {
        Ok(ip) if ip.is_loopback() => Ok(ip),
        _ => ipv4(text),
    }
}

fn interface(at: &At<'_>, out: &mut Problems) -> Option<Interface> {
    let fields = at.fields(&INTERFACE, out)?;
    let (name, mac) = (fields.get("name"), fields.get("mac"));
    let which = match (name, mac) {
        (Some(at), None) => at.read(out, interface_name).map(Selector::Name),
        (None, Some(at)) => at.read(out, hardware).map(Selector::Mac),
        (Some(_), Some(mac)) => {
            mac.fail(
                out,
                "is beside a name, which may be another interface's; write one of both",
            );
            None
        }
        (None, None) => {
            at.fail(
                out,
                "says of no interface; write name, for example eth0, or mac",
            );
            None
        }
    };
    let address = fields.get("address").and_then(|at| at.read(out, address));
    let gateway = fields
        .get("gateway")
        .and_then(|at| gateway(at, address, &fields, out));
    let mtu = fields.get("mtu").and_then(|at| at.read(out, mtu));
    let dns = servers(&fields, out);
    // An address that cannot be read must not leave the machine without one.
    let dhcp = fields.truth("dhcp", address.is_none(), out);
    let which = which?;
    Some(Interface {
        which,
        dhcp,
        address,
        gateway,
        mtu,
        dns,
    })
}

fn interface_name(text: &str) -> Result<String, String> {
    let foreign = |c: char| c.is_whitespace() || c.is_control() || "/:*?%".contains(c);
    let good = !matches!(text, "" | "." | ".." | "lo" | "all" | "default");
    match good && text.len() <= NAME_MAX && !text.contains(foreign) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{} is no interface; write for example eth0, or say which with mac",
            quoted(text)
        )),
    }
}

/// A hardware address of one interface, in lower case with colons.
fn hardware(text: &str) -> Result<String, String> {
    let bad = || {
        format!(
            "{} is no hardware address; write for example 52:54:00:12:34:56",
            quoted(text)
        )
    };
    let mut bytes = Vec::new();
    for part in text.split([':', '-']) {
        let hex = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        let byte = u8::from_str_radix(part, 16).ok().filter(|_| hex);
        bytes.push(byte.ok_or_else(bad)?);
    }
    // The lowest bit of the first byte is for groups.
    let own = bytes.len() == 6 && bytes[0] & 1 == 0 && bytes.iter().any(|b| *b != 0);
    let parts: Vec<_> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    own.then(|| parts.join(":")).ok_or_else(bad)
}

fn address(text: &str) -> Result<Ipv4Net, String> {
    refuse_ipv6(text)?;
    let Some((ip, length)) = text.split_once('/') else {
        let ip = ipv4(text)?;
        return Err(format!(
            "{ip} says nothing of its subnet; write for example {ip}/24"
        ));
    };
    let ip = ipv4(ip)?;
    let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    let net = length
        .parse()
        .ok()
        .filter(|n| digits && *n > 0)
        .and_then(|n| Ipv4Net::new(ip, n).ok());
    let net = net.ok_or_else(|| {
        format!(
            "{} has no length from 1 to 32 after its slash; write for example {ip}/24",
            quoted(text)
        )
    })?;
    // Subnets of two or one have all their addresses (RFC 3021).
    if net.prefix_len() < 31 && (ip == net.network() || ip == net.broadcast()) {
        return Err(format!(
            "{ip} is not a machine's in {}, but the first or last one of the subnet; write another",
            net.trunc()
        ));
    }
    Ok(net)
}

/// The way out has to be reached directly.
fn gateway(
    at: &At<'_>,
    address: Option<Ipv4Net>,
    fields: &Fields<'_>,
    out: &mut Problems,
) -> Option<Ipv4Addr> {
    let gateway = at.read(out, ipv4)?;
    let wrong = match address {
        // What is wrong with the address is told already.
        None if fields.get("address").is_some() => return None,
        None => "is without an address beside it; write address, or remove it, since DHCP tells the gateway".to_owned(),
        Some(net) if !net.contains(&gateway) => format!("{gateway} is not within {}; write a gateway of that subnet", net.trunc()),
        Some(net) if net.addr() == gateway => format!("{gateway} is the interface's own address; write that of the gateway"),
        Some(_) => return Some(gateway),
    };
    at.fail(out, wrong);
    None
}

fn mtu(text: &str) -> Result<u16, String> {
    let found = text.parse::<u16>().ok().filter(|mtu| *mtu >= MTU_MIN);
    found.ok_or_else(|| {
        format!(
            "{} is no size of packets; write bytes from {MTU_MIN} to 65535, for example 1500",
            quoted(text)
        )
    })
}
