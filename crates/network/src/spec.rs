//! A network's request, filled in from texts: one subnet, gateway and range of each family.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::error::NetworkError;
use crate::model::NetworkSpec;

fn read<T: FromStr>(what: &'static str, text: &str) -> Result<T, NetworkError> {
    text.parse().map_err(|_| NetworkError::Unreadable {
        what,
        text: text.into(),
    })
}

fn set<T>(slot: &mut Option<T>, value: T, what: &'static str) -> Result<(), NetworkError> {
    if slot.replace(value).is_some() {
        return Err(NetworkError::Second(what));
    }
    Ok(())
}

impl NetworkSpec {
    /// Takes the subnet of one family, such as `10.9.0.0/24` or `fd00:9::/64`.
    ///
    /// # Errors
    /// For a text that is none, and for a second subnet of the same family.
    pub fn add_subnet(&mut self, text: &str) -> Result<(), NetworkError> {
        match read("subnet", text)? {
            IpNet::V4(net) => set(&mut self.subnet, net, "subnet"),
            IpNet::V6(net) => set(&mut self.subnet6, net, "subnet"),
        }
    }

    /// Takes the bridge's own address of one family.
    ///
    /// # Errors
    /// As [`Self::add_subnet`].
    pub fn add_gateway(&mut self, text: &str) -> Result<(), NetworkError> {
        match read("gateway", text)? {
            IpAddr::V4(ip) => set(&mut self.gateway, ip, "gateway"),
            IpAddr::V6(ip) => set(&mut self.gateway6, ip, "gateway"),
        }
    }

    /// Takes the part of a subnet that addresses are chosen from.
    ///
    /// # Errors
    /// As [`Self::add_subnet`].
    pub fn add_range(&mut self, text: &str) -> Result<(), NetworkError> {
        match read("range of addresses", text)? {
            IpNet::V4(net) => set(&mut self.ip_range, net, "range"),
            IpNet::V6(net) => set(&mut self.ip_range6, net, "range"),
        }
    }

    /// Takes an address that no container is to get; `name` says what it is for.
    ///
    /// # Errors
    /// For a text that is no address, and for a name that has one already.
    pub fn reserve(&mut self, name: &str, text: &str) -> Result<(), NetworkError> {
        let ip = read("auxiliary address", text)?;
        if self.reserved.insert(name.to_owned(), ip).is_some() {
            return Err(NetworkError::ReservedTwice(name.into()));
        }
        Ok(())
    }

    /// Whether something of IPv6 is asked for by an address.
    pub fn names_ipv6(&self) -> bool {
        self.subnet6.is_some()
            || self.gateway6.is_some()
            || self.ip_range6.is_some()
            || self.reserved.values().any(IpAddr::is_ipv6)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_of_each_family() {
        let mut spec = NetworkSpec::default();
        spec.add_subnet("10.9.0.0/24").unwrap();
        assert!(!spec.names_ipv6());
        spec.add_subnet("fd00:9::/64").unwrap();
        spec.add_gateway("fd00:9::fe").unwrap();
        spec.add_range("fd00:9::100/120").unwrap();
        spec.reserve("router", "fd00:9::3").unwrap();
        assert!(spec.names_ipv6() && spec.gateway.is_none());
        let refused = |r: Result<(), NetworkError>| r.unwrap_err().to_string();
        let second = refused(spec.add_subnet("fd00:8::/64"));
        assert!(second.contains("more than one subnet"), "{second}");
        assert!(refused(spec.add_subnet("fd00:8::")).contains("fd00:8::"));
        assert!(refused(spec.add_gateway("x")).contains("invalid gateway"));
        assert!(refused(spec.reserve("router", "10.9.0.9")).contains("router"));
    }
}
