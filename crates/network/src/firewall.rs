//! The one nftables table of ours, `inet coracle`.
//!
//! The whole table is rendered from memory and loaded in one transaction, so it is either the old
//! one or the new one, never half. Published ports are elements of two maps for each protocol: one
//! keyed by host address and port, one by port alone. Publishing adds elements only.
//!
//! Worked example: `127.0.0.1:8080 -> 10.210.0.2:80` is the element
//! `127.0.0.1 . 8080 : 10.210.0.2 . 80` of `publish_tcp`. A local client's packet is translated in
//! `output`, leaves by the bridge (its `route_localnet` lets 127/8 through) and is masqueraded, as
//! the container could not answer 127.0.0.1. From elsewhere a packet to 127/8 is dropped in
//! `guard`, before any translation.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use crate::error::NetworkError;
use crate::model::{Driver, Network, Protocol};

/// Host side of a published port.
pub(crate) type Published = (Protocol, Ipv4Addr, u16);

/// Published ports and where each goes.
pub(crate) type Elements = BTreeMap<Published, (Ipv4Addr, u16)>;

fn element((protocol, ip, port): &Published) -> (String, String) {
    if ip.is_unspecified() {
        (format!("publish_any_{protocol}"), port.to_string())
    } else {
        (format!("publish_{protocol}"), format!("{ip} . {port}"))
    }
}

/// The text that adds `elements` to the loaded table.
pub(crate) fn add(elements: &Elements) -> String {
    elements
        .iter()
        .fold(String::new(), |mut out, (key, (ip, port))| {
            let (map, key) = element(key);
            let _ = writeln!(
                out,
                "add element inet coracle {map} {{ {key} : {ip} . {port} }}"
            );
            out
        })
}

/// The text that takes the elements with these keys out of the loaded table.
pub(crate) fn delete<'a>(keys: impl Iterator<Item = &'a Published>) -> String {
    keys.fold(String::new(), |mut out, key| {
        let (map, key) = element(key);
        let _ = writeln!(out, "delete element inet coracle {map} {{ {key} }}");
        out
    })
}

/// The text of the whole table, in place of whatever stands there.
pub(crate) fn table(networks: &[Network], elements: &Elements) -> String {
    let mut forward = String::new();
    let mut postrouting = String::new();
    let bridges: Vec<_> = networks
        .iter()
        .filter(|n| n.driver == Driver::Bridge)
        .collect();
    for n in &bridges {
        let (b, s) = (&n.bridge, &n.subnet);
        let _ = writeln!(forward, "    iifname \"{b}\" oifname \"{b}\" accept");
        // By address, not by incoming link: what is turned round inside the bridge has none here.
        let _ = writeln!(
            postrouting,
            "    oifname \"{b}\" ip saddr {s} ct status dnat masquerade"
        );
        let _ = writeln!(
            postrouting,
            "    oifname \"{b}\" ip saddr 127.0.0.0/8 masquerade"
        );
        if !n.internal {
            let _ = writeln!(
                postrouting,
                "    oifname != \"{b}\" ip saddr {s} ip daddr != 127.0.0.0/8 masquerade"
            );
        }
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
  chain guard {{
    type filter hook prerouting priority -300; policy accept;
    iifname != "lo" ip daddr 127.0.0.0/8 drop
  }}
  chain prerouting {{
    type nat hook prerouting priority -100; policy accept;
    fib daddr type local jump publish
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    fib daddr type local jump publish
  }}
  chain publish {{
    meta nfproto ipv4 dnat ip to ip daddr . tcp dport map @publish_tcp
    meta nfproto ipv4 dnat ip to ip daddr . udp dport map @publish_udp
    meta nfproto ipv4 dnat ip to tcp dport map @publish_any_tcp
    meta nfproto ipv4 dnat ip to udp dport map @publish_any_udp
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    ct state established,related accept
{forward}  }}
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
{postrouting}  }}
}}
{}"#,
        add(elements)
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
const HOOKS: [(&str, &[&str]); 2] = [
    ("DOCKER-USER", &["-i", "-o"]),
    ("ufw-user-forward", &["-i"]),
];

/// Asks a foreign firewall that drops forwarded packets to let ours through. `present` false takes
/// the rules out again.
pub(crate) fn foreign_hooks(present: bool) {
    for (chain, directions) in HOOKS {
        if run("iptables", &["-w", "-n", "-L", chain]).is_none() {
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
            let there = run("iptables", &with("-C")).is_some();
            if there != present
                && run("iptables", &with(if present { "-I" } else { "-D" })).is_none()
            {
                tracing::warn!(chain, link, "cannot change the host firewall's chain");
            }
        }
    }
}

/// What of the host's firewall stands in our way, in words for a person.
pub(crate) fn diagnose() -> Vec<String> {
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
        } else if table == "inet firewalld"
            && line.contains("reject with icmpx")
            && chain.starts_with("filter_FORWARD")
        {
            out.push("firewalld rejects forwarded packets: run `firewall-cmd --zone=trusted --add-interface=coracle0`".into());
        }
    }
    out
}
