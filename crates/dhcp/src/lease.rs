//! What a server grants: an address and what goes with it.

mod routes;

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::message::{Message, Options, code};
use crate::names;
pub use routes::Route;

/// An address for a time, and the settings of its network. The caller puts them in place.
///
/// Serialized, times are whole seconds, 4294967295 for ever, as in the messages; who keeps a lease in a file gives the file its
/// version. Of a lease that is read back only the address counts: it is asked for again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The interface's address.
    pub address: Ipv4Addr,
    /// The network's prefix in bits, 1 to 32. A server that tells none means that of the address's class.
    pub prefix_len: u8,
    /// Routers for everything that is not on the network, the preferred one first. Empty where `routes` are told (RFC 3442).
    pub routers: Vec<Ipv4Addr>,
    /// Routes of option 121 (RFC 3442), the default route among them if there is one.
    pub routes: Vec<Route>,
    /// Name servers, the preferred one first.
    pub dns: Vec<Ipv4Addr>,
    /// Domains to look names up in (RFC 3397), in this order. Checked: letters, digits, `-`, `_` and dots.
    pub search: Vec<String>,
    /// The network's domain, checked likewise.
    pub domain: Option<String>,
    /// The machine's name as the server knows it, checked likewise.
    pub hostname: Option<String>,
    /// The largest packet in bytes, 68 at least.
    pub mtu: Option<u16>,
    /// The server.
    pub server: Ipv4Addr,
    /// The time granted, counted from when it was asked for; [`Duration::MAX`] for ever.
    #[serde(with = "seconds")]
    pub lease_time: Duration,
    /// When the server is asked to prolong it: 1 s at least, no later than `t2`.
    #[serde(with = "seconds")]
    pub t1: Duration,
    /// When any server is: no later than `lease_time`.
    #[serde(with = "seconds")]
    pub t2: Duration,
}

/// Why a message grants nothing that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// `yiaddr` is no address of a host.
    #[error("{0} is no address for a host")]
    Address(Ipv4Addr),
    /// Option 1 is no mask.
    #[error("{0} is no subnet mask")]
    Mask(Ipv4Addr),
    /// Option 51 is not there, or 0.
    #[error("it says no time of the lease")]
    Time,
    /// Option 54 is not there.
    #[error("it does not say which server it is from")]
    Server,
}

impl Lease {
    /// The lease that a DHCPACK grants. `server` stands in where the message does not name its own.
    ///
    /// # Errors
    /// Without an address, a mask, a time or a server that can be used. Other options that cannot be read are taken for missing.
    pub fn granted(message: &Message, server: Option<Ipv4Addr>) -> Result<Lease, LeaseError> {
        let options = &message.options;
        let address = message.yiaddr;
        if !is_host(address) {
            return Err(LeaseError::Address(address));
        }
        let named = options.address(code::SERVER).or(server);
        let (lease_time, t1, t2) = times(options).ok_or(LeaseError::Time)?;
        let routes = options.get(code::CLASSLESS_ROUTES).and_then(Route::list);
        let hosts = |code| {
            let mut list = options.addresses(code);
            list.retain(|address| is_host(*address));
            list
        };
        Ok(Lease {
            address,
            prefix_len: prefix_len(address, options)?,
            routers: match routes {
                Some(_) => Vec::new(),
                None => hosts(code::ROUTER),
            },
            routes: routes.unwrap_or_default(),
            dns: hosts(code::DNS),
            search: options
                .get(code::DOMAIN_SEARCH)
                .and_then(names::from_search)
                .unwrap_or_default(),
            domain: options.get(code::DOMAIN_NAME).and_then(names::from_text),
            hostname: options.get(code::HOST_NAME).and_then(names::from_text),
            mtu: options.short(code::MTU).filter(|mtu| *mtu >= 68),
            server: named
                .filter(|server| is_host(*server))
                .ok_or(LeaseError::Server)?,
            lease_time,
            t1,
            t2,
        })
    }
}

/// Whether a host may have `address`: not of this host, the loopback, multicast, reserved or broadcast (RFC 6890).
pub(crate) fn is_host(address: Ipv4Addr) -> bool {
    matches!(address.octets()[0], 1..=126 | 128..=223)
}

fn prefix_len(address: Ipv4Addr, options: &Options) -> Result<u8, LeaseError> {
    let Some(mask) = options.address(code::SUBNET_MASK) else {
        return Ok(match address.octets()[0] {
            0..=127 => 8,
            128..=191 => 16,
            _ => 24,
        });
    };
    let bits = mask.to_bits();
    if bits == 0 || bits.leading_ones() + bits.trailing_zeros() != 32 {
        return Err(LeaseError::Mask(mask));
    }
    Ok(u8::try_from(bits.leading_ones()).unwrap_or(32))
}

/// Time of the lease, T1 and T2. The latter two are taken as told if they come in this order, else by RFC 2131, 4.4.5: after a half and
/// seven eighths of the time.
fn times(options: &Options) -> Option<(Duration, Duration, Duration)> {
    let all = options.long(code::LEASE_TIME).filter(|time| *time > 0)?;
    if all == u32::MAX {
        return Some((Duration::MAX, Duration::MAX, Duration::MAX));
    }
    let within = |code, until| options.long(code).filter(|t| (1..=until).contains(t));
    // A server that forgets the time at once is not to be asked without a pause.
    let t2 = within(code::T2, all).unwrap_or(all - all / 8);
    let t1 = within(code::T1, t2).unwrap_or((all / 2).min(t2).max(1));
    let seconds = |s: u32| Duration::from_secs(s.into());
    Some((seconds(all), seconds(t1), seconds(t2)))
}

/// Times as the messages have them.
mod seconds {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    pub fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(u32::try_from(time.as_secs()).unwrap_or(u32::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Ok(match u32::deserialize(deserializer)? {
            u32::MAX => Duration::MAX,
            seconds => Duration::from_secs(seconds.into()),
        })
    }
}
