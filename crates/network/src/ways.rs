//! Which of a container's networks its traffic to elsewhere takes, for each family: pure.
//!
//! Worked example: `back` is internal, `front` has IPv4 only, `six` has both. IPv4 goes by `front`, which comes first of the
//! two that lead anywhere, IPv6 by `six`. With a priority of 1 for `six` both go there. Published ports end where the
//! default route begins, so that an answer leaves the way that the question came.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::{Address6, Endpoint};

/// The endpoints of a container that its outside traffic takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ways<'a> {
    /// For IPv4.
    pub v4: Option<&'a Endpoint>,
    /// For IPv6.
    pub v6: Option<&'a Endpoint>,
}

/// Chooses among the endpoints of one container, given in the order that they were asked for.
pub(crate) fn ways<'a>(
    endpoints: impl DoubleEndedIterator<Item = &'a Endpoint> + Clone,
) -> Ways<'a> {
    // The last of equals is the greatest to `max_by_key`; the first is meant.
    let best =
        |all: &mut dyn Iterator<Item = &'a Endpoint>| all.max_by_key(|e| (!e.internal, e.priority));
    Ways {
        v4: best(&mut endpoints.clone().rev()),
        v6: best(&mut endpoints.rev().filter(|e| e.v6.is_some())),
    }
}

impl Ways<'_> {
    /// Gateway of the default route; an internal network gives none.
    pub fn gateway4(&self) -> Option<Ipv4Addr> {
        self.v4.filter(|e| !e.internal).map(|e| e.gateway)
    }

    /// As [`Self::gateway4`], of IPv6.
    pub fn gateway6(&self) -> Option<Ipv6Addr> {
        let of = |v6: Address6| v6.gateway;
        self.v6.filter(|e| !e.internal).and_then(|e| e.v6).map(of)
    }

    /// Where published ports end.
    pub fn backends(&self) -> Backends {
        Backends {
            v4: self.v4.map(|e| e.ip),
            v6: self.v6.and_then(|e| e.v6).map(|v6| v6.ip),
        }
    }
}

/// The addresses of a container that its published ports end at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Backends {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

impl Backends {
    /// The one of the same family as `host`.
    pub fn of(&self, host: IpAddr) -> Option<IpAddr> {
        match host {
            IpAddr::V4(_) => self.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::NetworkId;

    fn endpoint(n: u8, internal: bool, v6: bool, priority: i64) -> Endpoint {
        Endpoint {
            container_id: "c".into(),
            container_name: "c".into(),
            network: NetworkId(n.to_string()),
            network_name: n.to_string(),
            ip: Ipv4Addr::new(10, 9, n, 2),
            prefix: 24,
            gateway: Ipv4Addr::new(10, 9, n, 1),
            internal,
            mac: [0; 6],
            bridge: String::new(),
            host_link: String::new(),
            aliases: Vec::new(),
            v6: v6.then(|| Address6 {
                ip: Ipv6Addr::new(0xfd00, n.into(), 0, 0, 0, 0, 0, 2),
                prefix: 64,
                gateway: Ipv6Addr::new(0xfd00, n.into(), 0, 0, 0, 0, 0, 1),
            }),
            link_local: Vec::new(),
            priority,
        }
    }

    fn chosen(all: &[Endpoint]) -> (Option<&str>, Option<&str>) {
        let ways = ways(all.iter());
        let name = |e: Option<&'_ Endpoint>| e.map(|e| e.network_name.clone());
        let find = |n: Option<String>| {
            n.map(|n| all.iter().find(|e| e.network_name == n).unwrap())
                .map(|e| e.network_name.as_str())
        };
        (find(name(ways.v4)), find(name(ways.v6)))
    }

    #[test]
    fn the_first_that_leads_out_or_the_highest_priority() {
        let (internal, four, both) = (
            endpoint(1, true, true, 9),
            endpoint(2, false, false, 0),
            endpoint(3, false, true, 0),
        );
        let all = [internal.clone(), four.clone(), both.clone()];
        assert_eq!(chosen(&all), (Some("2"), Some("3")));
        assert_eq!(
            chosen(&[both.clone(), four.clone()]),
            (Some("3"), Some("3"))
        );
        let high = endpoint(4, false, true, 1);
        assert_eq!(chosen(&[four, both, high]), (Some("4"), Some("4")));
        let only = [internal];
        assert_eq!(chosen(&only), (Some("1"), Some("1")));
        let ways = ways(only.iter());
        assert_eq!((ways.gateway4(), ways.gateway6()), (None, None));
        assert_eq!(ways.backends().v4, Some(Ipv4Addr::new(10, 9, 1, 2)));
        assert_eq!(chosen(&[]), (None, None));
    }
}
