//! Option 121: routes with prefixes of any length (RFC 3442).

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// One route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The network, with zeros after the prefix; `0.0.0.0` with a prefix of 0 is the default route.
    pub destination: Ipv4Addr,
    /// Bits of the prefix, 0 to 32.
    pub prefix_len: u8,
    /// The router; nothing where the network is on the interface itself. It may itself be reached by an earlier route only.
    pub gateway: Option<Ipv4Addr>,
}

impl Route {
    /// The routes of an option, in its order; nothing if it cannot be read to its end or is empty.
    pub(super) fn list(mut bytes: &[u8]) -> Option<Vec<Route>> {
        let mut routes = Vec::new();
        while let Some((&prefix_len, rest)) = bytes.split_first() {
            if prefix_len > 32 {
                return None;
            }
            // Only the bytes that the prefix reaches into are sent.
            let (significant, rest) = rest.split_at_checked(usize::from(prefix_len.div_ceil(8)))?;
            let (gateway, rest) = rest.split_first_chunk::<4>()?;
            let mut octets = [0; 4];
            octets[..significant.len()].copy_from_slice(significant);
            let mask = u32::MAX
                .checked_shl(32 - u32::from(prefix_len))
                .unwrap_or(0);
            let gateway = Ipv4Addr::from(*gateway);
            routes.push(Route {
                destination: Ipv4Addr::from_bits(u32::from_be_bytes(octets) & mask),
                prefix_len,
                gateway: (!gateway.is_unspecified()).then_some(gateway),
            });
            bytes = rest;
        }
        (!routes.is_empty()).then_some(routes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let list = Route::list(&[
            0, 10, 0, 0, 1, // default
            12, 172, 31, 10, 0, 0, 2, // bits after the prefix
            32, 10, 1, 2, 3, 0, 0, 0, 0, // on the interface
        ])
        .unwrap();
        let text: Vec<_> = list
            .iter()
            .map(|r| format!("{}/{} {:?}", r.destination, r.prefix_len, r.gateway))
            .collect();
        assert_eq!(
            text,
            [
                "0.0.0.0/0 Some(10.0.0.1)",
                "172.16.0.0/12 Some(10.0.0.2)",
                "10.1.2.3/32 None",
            ]
        );
        for broken in [
            &[][..],
            &[33, 1, 2, 3, 4, 5, 1, 2, 3, 4],
            &[24, 10, 0],
            &[0, 1, 2, 3],
            &[0, 10, 0, 0, 1, 8],
        ] {
            assert_eq!(Route::list(broken), None, "{broken:?}");
        }
    }
}
