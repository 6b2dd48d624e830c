//! The network between machines: the default networks of a cluster's machines, reached from each other by address.
//!
//! Each machine has a subnet of its own for its default network, and keeps it. [`Networks::set_overlay`](crate::Networks::set_overlay)
//! is told the own one and those of the other members, as often as something changes, and makes of the kernel what it says: what is
//! right already is not touched, what is missing is added, what belongs to no member any more is withdrawn.
//!
//! Worked example: machine `a` has the address 192.0.2.1 and the subnet 10.210.0.0/22, machine `b` 192.0.2.2 and 10.212.0.0/22. Of
//! `b`, machine `a` has four things:
//!
//! | what | says |
//! | --- | --- |
//! | route | `10.212.0.0/22 via 10.212.0.1 dev cor-overlay onlink src 10.210.0.1` |
//! | neighbour | 10.212.0.1 has the MAC `02:c1:c0:00:02:02`, which is made of 192.0.2.2, so that nobody has to be told it |
//! | forwarding entry | frames for that MAC go to 192.0.2.2 |
//! | firewall | 192.0.2.2 is a member, 10.212.0.0/22 are members' containers |
//!
//! Container 10.210.0.5 asks 10.212.0.9: bridge → route → `cor-overlay` → UDP to 192.0.2.2 → its `cor-overlay` → its bridge. Nothing
//! is translated on the way, so 10.212.0.9 sees 10.210.0.5. When `b` is lost, whoever notices leaves it out of the peers: its route
//! goes, and because its subnet still is one of [`OverlaySpec::ranges`], packets for it are refused at once ("no route to host")
//! and never sent out in the open by the default route.
//!
//! **Who is believed.** Packets of the overlay are taken from members' addresses only, and from no bridge of this machine; what
//! arrives must come from a member's subnet and go to the default network; no container may send to a member's overlay port, since
//! it would have a member's address there, nor to the TCP port of that number, which is the door between machines. The machine itself is not reached by the overlay, but for answers and echo
//! requests. [vxlan is not encrypted](OverlayKind::caution): who can send packets with a member's address is taken for that member.
//!
//! **Only the default network** is spanned, and of that IPv4. Networks that people make stay on their machine.
//!
//! **Packet size.** Bridge, veth ends and overlay carry 50 bytes less than the link that has the machine's own address: what vxlan
//! puts before a packet. Containers that run are changed by [`Networks::fit`](crate::Networks::fit). Members whose links differ should all be told the smallest
//! ([`OverlaySpec::mtu`]): TCP finds the smaller of two sizes by itself, UDP does not. Where the way between two machines carries
//! less than their links (a VPN, a tunnel), give `mtu` as well: outer packets may be fragmented on the way, so traffic
//! still passes, but slowly, and some providers drop fragments.
//!
//! **Ports.** 4789 is vxlan's registered port and docker swarm's, 8472 Linux's own and flannel's. Two owners of one port on one
//! machine take each other's packets, so ours is [`DEFAULT_PORT`], UDP: the number of the door between machines, which is TCP. One
//! number to open in a firewall.

mod apply;
mod kernel;
mod plan;
mod rules;

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::error::NetworkError;

pub use ipnet::Ipv4Net;

pub(crate) use apply::Overlay;
pub(crate) use kernel::PROTOCOL;
pub(crate) use rules::Rules;

/// The overlay's link.
pub const LINK: &str = "cor-overlay";
/// UDP port of vxlan unless another is agreed on.
pub const DEFAULT_PORT: u16 = 7373;
/// Network number of vxlan unless another is agreed on.
pub const DEFAULT_VNI: u32 = 7373;
/// Where machines' subnets are taken from unless the cluster has another range: 256 of them, away from the 10.210.0.0/16 that
/// networks made by people are from.
pub const DEFAULT_POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 212, 0, 0), 14);
/// Prefix length of a machine's subnet in bits: as many places as a bridge of Linux has ports.
pub const MACHINE_PREFIX: u8 = 22;

/// How packets get from machine to machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
#[non_exhaustive]
pub enum OverlayKind {
    /// Frames in UDP (RFC 7348), not encrypted.
    Vxlan {
        /// Network number, 24 bits, the same on all machines.
        vni: u32,
        /// UDP port, the same on all machines.
        port: u16,
    },
}

impl Default for OverlayKind {
    fn default() -> Self {
        Self::Vxlan {
            vni: DEFAULT_VNI,
            port: DEFAULT_PORT,
        }
    }
}

impl OverlayKind {
    /// Bytes that it puts before a packet over IPv4.
    pub fn overhead(&self) -> u32 {
        match self {
            // Outer IPv4 20, UDP 8, vxlan 8, inner Ethernet 14.
            Self::Vxlan { .. } => 50,
        }
    }

    /// What a person is to know about it.
    pub fn caution(&self) -> Option<&'static str> {
        match self {
            Self::Vxlan { .. } => Some(
                "vxlan is not encrypted: whoever reads the network between the machines reads what containers send each other, \
                 and whoever can forge a member's address can send to them; keep that network private, or use TLS between services",
            ),
        }
    }
}

impl fmt::Display for OverlayKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vxlan { vni, port } => write!(f, "vxlan {vni} on port {port}/udp"),
        }
    }
}

/// Another member.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Peer {
    /// The machine's id, 32 hexadecimal digits.
    pub machine: String,
    /// The address that it is reached at by other machines.
    pub underlay: Ipv4Addr,
    /// The subnet of its default network.
    pub subnet: Ipv4Net,
}

/// What the network between machines should be, seen from one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlaySpec {
    /// The kind.
    #[serde(flatten)]
    pub kind: OverlayKind,
    /// The address of this machine that others reach it at. Some link here has it.
    pub own: Ipv4Addr,
    /// This machine's subnet: that of its default network, see [`crate::Networks::renumber_default`].
    pub subnet: Ipv4Net,
    /// The members that are there, without this one. A machine that is lost is left out.
    pub peers: Vec<Peer>,
    /// All that belongs to the cluster: its pool, and each subnet that some machine keeps, lost ones included. What is there and
    /// belongs to no peer is refused, and networks are made elsewhere. Perhaps none.
    #[serde(default)]
    pub ranges: Vec<Ipv4Net>,
    /// Largest packet between machines in bytes, outer headers included; that of the link with `own` if absent or larger.
    #[serde(default)]
    pub mtu: Option<u32>,
}

impl OverlaySpec {
    /// What belongs to the cluster and not to this machine.
    pub(crate) fn others(&self) -> impl Iterator<Item = Ipv4Net> {
        let all = self.peers.iter().map(|p| p.subnet);
        let all = all.chain(self.ranges.iter().copied());
        all.map(|net| net.trunc()).filter(|net| *net != self.subnet)
    }
}

/// The network between machines as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OverlayStatus {
    /// The kind.
    #[serde(flatten)]
    pub kind: OverlayKind,
    /// Its link.
    pub link: &'static str,
    /// The address that others reach this machine at.
    pub own: Ipv4Addr,
    /// This machine's subnet.
    pub subnet: Ipv4Net,
    /// Largest packet of containers in bytes; none while the link is not there.
    pub mtu: Option<u32>,
    /// The other members.
    pub peers: Vec<PeerStatus>,
    /// What is not as it should be, in words for a person.
    pub problems: Vec<String>,
    /// What a person is to know about the kind.
    pub caution: Option<&'static str>,
}

/// A member as it is seen from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerStatus {
    /// The member.
    #[serde(flatten)]
    pub peer: Peer,
    /// Whether the kernel sends what is for its subnet there. Says nothing of whether it answers.
    pub routed: bool,
}

/// Which subnet a machine gets: the one that it had before (`preferred`, whatever its size and place) if nobody else has a part of
/// it, else the first of `pool` that overlaps nothing of `taken`, of [`MACHINE_PREFIX`] bits or the whole pool if that is
/// smaller. Pure.
///
/// `taken` is every subnet that some other machine has, and for a machine that comes also what is in use there
/// ([`crate::Networks::taken_subnets`]).
///
/// The first machine of a cluster prefers what its default network has, so its containers keep their addresses. A machine that
/// joins prefers what it had in this cluster, if anything.
///
/// # Errors
/// [`NetworkError::NoMachineSubnet`] if none is left.
pub fn choose_subnet(
    pool: Ipv4Net,
    taken: &[Ipv4Net],
    preferred: Option<Ipv4Net>,
) -> Result<Ipv4Net, NetworkError> {
    let free = |s: &Ipv4Net| !taken.iter().any(|t| overlap(*t, *s));
    if let Some(kept) = preferred.map(|p| p.trunc()).filter(free) {
        return Ok(kept);
    }
    let length = pool.prefix_len().max(MACHINE_PREFIX);
    let mut all = pool.trunc().subnets(length).into_iter().flatten();
    all.find(free).ok_or(NetworkError::NoMachineSubnet(pool))
}

fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// The MAC of a machine's end of the overlay: locally administered, of its underlay address.
fn mac_of(underlay: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = underlay.octets();
    [0x02, 0xc1, a, b, c, d]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_are_kept_and_never_shared() {
        let pool = net("10.212.0.0/14");
        let first = net("10.210.0.0/22");
        let choose = |taken: &[&str], preferred: Option<&str>| {
            let taken: Vec<_> = taken.iter().map(|t| net(t)).collect();
            choose_subnet(pool, &taken, preferred.map(net)).map(|s| s.to_string())
        };
        // The first keeps what it has, wherever that is.
        assert_eq!(
            choose(&[], Some("10.210.0.0/22")).unwrap(),
            first.to_string()
        );
        // The second had the same before it joined.
        let second = choose(&["10.210.0.0/22"], Some("10.210.0.0/22")).unwrap();
        assert_eq!(second, "10.212.0.0/22");
        // A part of one is taken as well.
        let third = choose(&["10.212.0.0/22", "10.212.5.0/24"], None).unwrap();
        assert_eq!(third, "10.212.8.0/22");
        assert_eq!(
            choose(&["10.212.0.0/22"], Some("10.212.4.7/22")).unwrap(),
            "10.212.4.0/22"
        );
        let full = choose(&["10.0.0.0/8"], None).unwrap_err().to_string();
        assert!(full.contains("10.212.0.0/14"), "{full}");
        let small = choose_subnet(net("10.9.0.0/28"), &[], None).unwrap();
        assert_eq!(small, net("10.9.0.0/28"));
        assert_eq!(pool.subnets(MACHINE_PREFIX).unwrap().count(), 256);
        assert_eq!(DEFAULT_POOL, pool);
    }

    /// What is on the disk is read by the next release.
    #[test]
    fn a_spec_as_it_is_stored() {
        let text = r#"{"kind":"vxlan","vni":7373,"port":7373,"own":"192.0.2.1","subnet":"10.210.0.0/22","peers":[{"machine":"bb","underlay":"192.0.2.2","subnet":"10.212.0.0/22"}],"ranges":["10.212.0.0/14"],"mtu":null}"#;
        let spec: OverlaySpec = serde_json::from_str(text).unwrap();
        assert_eq!(spec.kind, OverlayKind::default());
        assert_eq!(serde_json::to_string(&spec).unwrap(), text);
        assert_eq!(spec.kind.to_string(), "vxlan 7373 on port 7373/udp");
    }
}
