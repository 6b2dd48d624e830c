//! What the overlay adds to the firewall's one table: pure text.

use std::fmt::{Display, Write as _};

use ipnet::Ipv4Net;

use super::{LINK, OverlayKind, Peer};

/// What the rules are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rules {
    /// The kind.
    pub kind: OverlayKind,
    /// The default network's bridge.
    pub bridge: String,
    /// This machine's subnet.
    pub subnet: Ipv4Net,
    /// Those that packets are taken from.
    pub peers: Vec<Peer>,
}

fn set<T: Display>(name: &str, of: &str, elements: impl Iterator<Item = T>) -> String {
    let all: Vec<_> = elements.map(|e| e.to_string()).collect();
    // The language has no empty list.
    let elements = if all.is_empty() {
        String::new()
    } else {
        format!(" elements = {{ {} }}", all.join(", "))
    };
    format!("  set {name} {{ {of};{elements} }}\n")
}

impl Rules {
    /// Sets and chains. `bridges` are all of this machine: from those nobody is a member, whatever address it gives itself, and
    /// nobody sends to members' overlay by them, since it would have this machine's address there.
    ///
    /// What the machine translates for `services` goes to members too, whoever asks, with the machine's own address in the end; and so
    /// do the answers come back.
    pub fn chains(&self, bridges: &[&str], services: bool) -> String {
        let Self { bridge, subnet, .. } = self;
        let OverlayKind::Vxlan { port, .. } = self.kind;
        let mut out = set(
            "overlay_members",
            "type ipv4_addr",
            self.peers.iter().map(|p| p.underlay),
        );
        out += &set(
            "overlay_subnets",
            "type ipv4_addr; flags interval",
            self.peers.iter().map(|p| p.subnet),
        );
        let from = bridges.iter().map(|b| format!("\"{b}\""));
        let from: Vec<_> = from.chain([format!("\"{LINK}\"")]).collect();
        let from = from.join(", ");
        let translated = if services {
            format!(
                "    iifname \"{LINK}\" ct status dnat ct direction reply accept\n    \
                 oifname \"{LINK}\" ct status dnat ip daddr @overlay_subnets accept\n"
            )
        } else {
            String::new()
        };
        let _ = write!(
            out,
            r#"  chain overlay_input {{
    type filter hook input priority -10; policy accept;
    iifname {{ {from} }} meta l4proto {{ tcp, udp }} th dport {port} drop
    udp dport {port} ip saddr @overlay_members accept
    udp dport {port} drop
    iifname "{LINK}" ct state established,related accept
    iifname "{LINK}" icmp type echo-request accept
    iifname "{LINK}" drop
  }}
  chain overlay_forward {{
    type filter hook forward priority -10; policy accept;
    iifname {{ {from} }} meta l4proto {{ tcp, udp }} th dport {port} ip daddr @overlay_members drop
    iifname "{LINK}" meta nfproto != ipv4 drop
    iifname "{LINK}" ip saddr != @overlay_subnets drop
{translated}    iifname "{LINK}" oifname != "{bridge}" drop
    oifname "{LINK}" iifname != "{bridge}" drop
    oifname "{LINK}" ip saddr != {subnet} drop
  }}
"#
        );
        out
    }

    /// Lines of the forward chain, before those of the networks.
    pub fn forward(&self) -> String {
        let bridge = &self.bridge;
        format!(
            "    iifname \"{LINK}\" oifname \"{bridge}\" accept\n    iifname \"{bridge}\" oifname \"{LINK}\" accept\n"
        )
    }

    /// The UDP port that members send to.
    pub fn port(&self) -> u16 {
        let OverlayKind::Vxlan { port, .. } = self.kind;
        port
    }
}
