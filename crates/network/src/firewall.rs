//! The one nftables table of ours, `inet coracle`.
//!
//! The whole table is rendered from memory and loaded in one transaction, so it is either the old
//! one or the new one, never half. Published ports are elements of two maps for each protocol and family: one
//! keyed by host address and port, one by port alone. Publishing adds elements only. What is of IPv6 stands there only
//! while some network has IPv6, and what is of [`services`] only from the first service on.
//!
//! Worked example: `127.0.0.1:8080 -> 10.210.0.2:80` is the element
//! `127.0.0.1 . 8080 : 10.210.0.2 . 80` of `publish_tcp`. A local client's packet is translated in
//! `output`, leaves by the bridge (its `route_localnet` lets 127/8 through) and is masqueraded, as
//! the container could not answer 127.0.0.1. From elsewhere a packet to 127/8 is dropped in
//! `guard`, before any translation.
//!
//! IPv6 has no `route_localnet`: what comes in by a bridge for `::1` is dropped by the kernel, also an answer that was
//! translated back. So `[::1]:8080 -> [fd00:9::2]:80` takes a detour. `loop_out` gives a packet from ::1 to a published
//! port of ::1 two other addresses of this machine, [`LOOPBACK_STAND_INS`], before connections are tracked. That is
//! translated and masqueraded as the above. Of the answer, `loop_in` makes one from ::1 to ::1, after all other rules, and
//! of answers only: no packet of a container's own making ever gets the address ::1. The map's key is the second stand-in.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr};
use std::process::{Command, Stdio};

use ipnet::Ipv6Net;

use crate::error::NetworkError;
use crate::model::{Driver, Network, Protocol};
use crate::overlay::{LINK, Rules};
use crate::services;

/// The port of the machine's server at each bridge's address: etcd's. Nobody but the bridge's containers and the machine itself
/// reaches it, also not by a route of their own to that address.
pub const DOOR_PORT: u16 = 2379;

/// Host side of a published port.
pub(crate) type Published = (Protocol, IpAddr, u16);

/// Published ports and where each goes. Both addresses are of one family.
pub(crate) type Elements = BTreeMap<Published, (IpAddr, u16)>;

/// Addresses that stand in for `::1`, the client's and the port's: of the range that no network may use (RFC 6666), and
/// never seen outside of this machine.
pub(crate) const LOOPBACK_STAND_INS: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0xc0, 0), 126);
const CLIENT: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0xc0, 1);
const PORT: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0xc0, 2);

/// The map of a published port and its key there.
fn element((protocol, ip, port): &Published) -> (String, String) {
    let family = if ip.is_ipv6() { "6" } else { "" };
    if ip.is_unspecified() {
        return (format!("publish{family}_any_{protocol}"), port.to_string());
    }
    let loopback6 = *ip == Ipv6Addr::LOCALHOST;
    let ip = if loopback6 { PORT.into() } else { *ip };
    (
        format!("publish{family}_{protocol}"),
        format!("{ip} . {port}"),
    )
}

/// Whether local clients reach the port at `::1`.
fn on_loopback6((_, ip, _): &Published) -> bool {
    ip.is_ipv6() && (ip.is_unspecified() || ip.is_loopback())
}

fn change(out: &mut String, verb: &str, key: &Published, to: Option<&(IpAddr, u16)>) {
    let (map, element) = element(key);
    let to = to.map_or_else(String::new, |(ip, port)| format!(" : {ip} . {port}"));
    let _ = writeln!(out, "{verb} element inet coracle {map} {{ {element}{to} }}");
    if on_loopback6(key) {
        let (protocol, _, port) = key;
        let _ = writeln!(
            out,
            "{verb} element inet coracle loop_{protocol} {{ {port} }}"
        );
    }
}

/// The text that adds `elements` to the loaded table.
pub(crate) fn add(elements: &Elements) -> String {
    let mut out = String::new();
    elements
        .iter()
        .for_each(|(key, to)| change(&mut out, "add", key, Some(to)));
    out
}

/// The text that takes the elements with these keys out of the loaded table.
pub(crate) fn delete<'a>(keys: impl Iterator<Item = &'a Published>) -> String {
    let mut out = String::new();
    keys.for_each(|key| change(&mut out, "delete", key, None));
    out
}

/// What the table has for IPv6.
#[derive(Default)]
struct Six {
    maps: String,
    guard: String,
    publish: String,
    chains: String,
}

impl Six {
    fn new() -> Self {
        let mut six = Self::default();
        let set = |(from, to)| format!("ip6 saddr set {from} ip6 daddr set {to}");
        for protocol in ["tcp", "udp"] {
            let _ = writeln!(
                six.maps,
                "  map publish6_{protocol} {{ type ipv6_addr . inet_service : ipv6_addr . inet_service; }}\n  \
                 map publish6_any_{protocol} {{ type inet_service : ipv6_addr . inet_service; }}\n  \
                 set loop_{protocol} {{ type inet_service; }}"
            );
            let _ = writeln!(
                six.publish,
                "    meta nfproto ipv6 dnat ip6 to ip6 daddr . {protocol} dport map @publish6_{protocol}\n    \
                 meta nfproto ipv6 dnat ip6 to {protocol} dport map @publish6_any_{protocol}"
            );
        }
        let _ = writeln!(
            six.guard,
            "    iifname != \"lo\" ip6 daddr {{ ::1, {LOOPBACK_STAND_INS} }} drop"
        );
        let out = set((CLIENT, PORT));
        let back = set((Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST));
        let _ = write!(
            six.chains,
            r#"  chain loop_out {{
    type route hook output priority -300; policy accept;
    ip6 saddr ::1 ip6 daddr ::1 tcp dport @loop_tcp {out}
    ip6 saddr ::1 ip6 daddr ::1 udp dport @loop_udp {out}
  }}
  chain loop_in {{
    type filter hook input priority 200; policy accept;
    ip6 saddr {PORT} ip6 daddr {CLIENT} ct direction reply {back}
  }}
"#
        );
        six
    }
}

/// The text of the whole table, in place of whatever stands there.
pub(crate) fn table(
    networks: &[Network],
    elements: &Elements,
    overlay: Option<&Rules>,
    services: Option<&services::Rules>,
) -> String {
    let mut forward = overlay.map(Rules::forward).unwrap_or_default();
    let with_services = services.is_some();
    let services = services.map(services::Rules::parts).unwrap_or_default();
    let mut postrouting = services.postrouting;
    let bridges: Vec<_> = networks
        .iter()
        .filter(|n| n.driver == Driver::Bridge)
        .collect();
    for n in &bridges {
        let (b, s) = (&n.bridge, &n.subnet);
        if crate::options::of(&n.options).together {
            let _ = writeln!(forward, "    iifname \"{b}\" oifname \"{b}\" accept");
        } else {
            // What goes by the machine is not kept apart by the bridge.
            let _ = writeln!(
                forward,
                "    iifname \"{b}\" oifname \"{b}\" ct status dnat accept\n    iifname \"{b}\" oifname \"{b}\" drop"
            );
        }
        // By address, not by incoming link: what is turned round inside the bridge has none here.
        let _ = writeln!(
            postrouting,
            "    oifname \"{b}\" ip saddr {s} ct status dnat masquerade"
        );
        let _ = writeln!(
            postrouting,
            "    oifname \"{b}\" ip saddr 127.0.0.0/8 masquerade"
        );
        // On lo the machine asks its own door and names by the bridge's address, and must be known by it.
        let leads_out = !n.internal && crate::options::of(&n.options).masquerade;
        if leads_out {
            // Between members nobody has another's address.
            let past = match overlay {
                Some(rules) if rules.bridge == *b => format!(", \"{LINK}\""),
                _ => String::new(),
            };
            let _ = writeln!(
                postrouting,
                "    oifname != {{ \"lo\", \"{b}\"{past} }} ip saddr {s} ip daddr != 127.0.0.0/8 masquerade"
            );
        }
        let Some((s, _)) = n.v6() else { continue };
        let _ = writeln!(
            postrouting,
            "    oifname \"{b}\" ip6 saddr {s} ct status dnat masquerade\n    \
             oifname \"{b}\" ip6 saddr {CLIENT} masquerade"
        );
        if leads_out {
            let _ = writeln!(
                postrouting,
                "    oifname != {{ \"lo\", \"{b}\" }} ip6 saddr {s} masquerade"
            );
        }
    }
    let six = if bridges.iter().any(|n| n.v6().is_some()) {
        Six::new()
    } else {
        Six::default()
    };
    let (maps6, guard6, publish6, chains6) = (six.maps, six.guard, six.publish, six.chains);
    let names: Vec<_> = bridges.iter().map(|n| n.bridge.as_str()).collect();
    let overlay = overlay
        .map(|o| o.chains(&names, with_services))
        .unwrap_or_default();
    let mut doors = String::new();
    for n in &bridges {
        let (b, gateway) = (&n.bridge, n.gateway);
        let _ = writeln!(
            doors,
            "    iifname != {{ \"lo\", \"{b}\" }} ip daddr {gateway} tcp dport {DOOR_PORT} drop"
        );
    }
    for n in bridges.iter().filter(|n| n.internal) {
        let _ = writeln!(
            forward,
            "    iifname \"{b}\" drop\n    oifname \"{b}\" drop",
            b = n.bridge
        );
    }
    for n in &bridges {
        let _ = writeln!(
            forward,
            "    oifname \"{b}\" ct status dnat accept\n    oifname \"{b}\" drop",
            b = n.bridge
        );
    }
    format!(
        r#"table inet coracle
delete table inet coracle
table inet coracle {{
  map publish_tcp {{ type ipv4_addr . inet_service : ipv4_addr . inet_service; }}
  map publish_udp {{ type ipv4_addr . inet_service : ipv4_addr . inet_service; }}
  map publish_any_tcp {{ type inet_service : ipv4_addr . inet_service; }}
  map publish_any_udp {{ type inet_service : ipv4_addr . inet_service; }}
{maps6}  chain guard {{
    type filter hook prerouting priority -300; policy accept;
    iifname != "lo" ip daddr 127.0.0.0/8 drop
{doors}{guard6}  }}
{chains6}{overlay}{}  chain prerouting {{
    type nat hook prerouting priority -100; policy accept;
{}    fib daddr type local jump publish
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
{}    fib daddr type local jump publish
  }}
  chain publish {{
    meta nfproto ipv4 dnat ip to ip daddr . tcp dport map @publish_tcp
    meta nfproto ipv4 dnat ip to ip daddr . udp dport map @publish_udp
    meta nfproto ipv4 dnat ip to tcp dport map @publish_any_tcp
    meta nfproto ipv4 dnat ip to udp dport map @publish_any_udp
{publish6}{}  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    ct state established,related accept
{forward}  }}
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
{postrouting}  }}
}}
{}{}"#,
        services.chains,
        services.prerouting,
        services.output,
        services.publish,
        add(elements),
        services.after
    )
}

/// Feeds `rules` to `nft -f -` as one transaction.
pub(crate) fn load(rules: &str) -> Result<(), NetworkError> {
    let spawn = |e| NetworkError::Spawn("nft", "nftables", e);
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(spawn)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A refusal shows in the exit status; a closed pipe tells less.
        let _ = stdin.write_all(rules.as_bytes());
    }
    let output = child.wait_with_output().map_err(spawn)?;
    if output.status.success() {
        return Ok(());
    }
    Err(NetworkError::Nft(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}

/// Removes the table if it is there.
pub(crate) fn unload() -> Result<(), NetworkError> {
    load("table inet coracle\ndelete table inet coracle\n")
}

fn run(program: &'static str, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// True when our table stands, chains and all.
pub(crate) fn loaded() -> bool {
    run("nft", &["list", "chain", "inet", "coracle", "postrouting"])
        .is_some_and(|t| t.contains("hook postrouting"))
}

const LINKS: [&str; 2] = ["coracle0", "cor-+"];

/// The chains of foreign firewalls that are meant for others' rules, and what we may ask there.
/// docker's takes both directions. ufw's takes only what containers send: whether a published port
/// is open stays the host firewall's decision, and `diagnose` names the command that opens it.
const HOOKS: [(&str, &str, &[&str]); 4] = [
    ("iptables", "DOCKER-USER", &["-i", "-o"]),
    ("iptables", "ufw-user-forward", &["-i"]),
    ("ip6tables", "DOCKER-USER", &["-i", "-o"]),
    ("ip6tables", "ufw6-user-forward", &["-i"]),
];

/// Asks a foreign firewall that drops forwarded packets to let ours through, those of IPv6 too if `ipv6`. `present`
/// false takes the rules out again.
pub(crate) fn foreign_hooks(present: bool, ipv6: bool) {
    for (program, chain, directions) in HOOKS {
        let other_family = program == "ip6tables" && !ipv6;
        if other_family || run(program, &["-w", "-n", "-L", chain]).is_none() {
            continue;
        }
        for (link, direction) in LINKS
            .iter()
            .flat_map(|l| directions.iter().map(move |d| (l, d)))
        {
            let rule = [*direction, *link, "-j", "ACCEPT"];
            let with = |verb| {
                ["-w", verb, chain]
                    .into_iter()
                    .chain(rule)
                    .collect::<Vec<_>>()
            };
            let there = run(program, &with("-C")).is_some();
            if there != present && run(program, &with(if present { "-I" } else { "-D" })).is_none()
            {
                tracing::warn!(
                    program,
                    chain,
                    link,
                    "cannot change the host firewall's chain"
                );
            }
        }
    }
}

/// What of the host's firewall stands in our way, in words for a person. `overlay` is the UDP port that members send to, if there are
/// members.
pub(crate) fn diagnose(overlay: Option<u16>) -> Vec<String> {
    let mut out = Vec::new();
    let rules = run("nft", &["list", "ruleset"]).unwrap_or_default();
    let (mut table, mut chain) = ("", "");
    for line in rules.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("table ") {
            table = rest.trim_end_matches(" {");
        } else if let Some(rest) = line.strip_prefix("chain ") {
            chain = rest.trim_end_matches(" {");
        } else if line.contains("hook forward") && line.contains("policy drop") {
            let way = if rules.contains("chain DOCKER-USER") {
                continue;
            } else if rules.contains("chain ufw-user-forward") {
                "published ports need `ufw route allow proto tcp to any port PORT`"
            } else {
                "accept forwarding from and to coracle0 and cor-* there"
            };
            out.push(format!(
                "chain {chain} of table {table} drops forwarded packets: {way}"
            ));
        } else if line.contains("hook input")
            && line.contains("policy drop")
            && let Some(port) = overlay
        {
            out.push(format!(
                "chain {chain} of table {table} drops what it does not know: accept port {port}/udp from the other machines there, \
                 or their containers do not reach those here"
            ));
        } else if table == "inet firewalld"
            && line.contains("reject with icmpx")
            && chain.starts_with("filter_FORWARD")
        {
            out.push("firewalld rejects forwarded packets: run `firewall-cmd --zone=trusted --add-interface=coracle0`".into());
        }
    }
    out
}
