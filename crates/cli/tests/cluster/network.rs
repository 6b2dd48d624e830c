//! The bridge between machines, and what befalls packets there.
//!
//! Machine `n` is at the bridge's port `p<n>`, or, while it is delayed, behind `u<n>`:
//!
//! ```text
//!             eth0 ── p1 ── br0                        eth0 ── p1 ── d1 ── t1 ╌ delay.py ╌ u1 ── br0
//! ```
//!
//! Rules are in the room's own table of the bridge; machines' tables are their own. Delay is done by a program, since kernels
//! without `netem` are common.

use super::holding::{self, Holding};
use crate::common::outside::succeed;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

/// The number of what is beside the machines.
pub const OUTSIDE: usize = 254;

pub fn address(n: usize) -> String {
    format!("192.0.2.{n}")
}

pub fn address6(n: usize) -> String {
    format!("2001:db8::{n:x}")
}

/// The Ethernet address, the same after each boot.
pub fn hardware(n: usize) -> String {
    format!("02:00:c0:00:02:{n:02x}")
}

/// What befalls packets, by machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// Nothing reaches it.
    pub deaf: BTreeSet<usize>,
    /// Nothing leaves it.
    pub mute: BTreeSet<usize>,
    /// Nothing of the first reaches the second.
    pub apart: BTreeSet<(usize, usize)>,
    /// Percent of its packets that are lost, each way.
    pub loss: BTreeMap<usize, u8>,
}

fn port(n: usize) -> String {
    format!("{{ \"p{n}\", \"u{n}\" }}")
}

impl Faults {
    pub fn heal(&mut self, n: usize) {
        self.deaf.remove(&n);
        self.mute.remove(&n);
        self.apart.retain(|(from, to)| *from != n && *to != n);
        self.loss.remove(&n);
    }

    /// The whole table, for nft(8); it replaces the one before at once.
    pub fn rules(&self) -> String {
        let mut rules = String::from(
            "table bridge faults\ndelete table bridge faults\ntable bridge faults {\n chain forward {\n  \
             type filter hook forward priority 0; policy accept;\n  iifname \"t*\" accept\n  oifname \"t*\" accept\n",
        );
        for n in &self.deaf {
            let _ = writeln!(rules, "  oifname {} drop", port(*n));
        }
        for n in &self.mute {
            let _ = writeln!(rules, "  iifname {} drop", port(*n));
        }
        for (from, to) in &self.apart {
            let _ = writeln!(
                rules,
                "  iifname {} oifname {} drop",
                port(*from),
                port(*to)
            );
        }
        for (n, percent) in &self.loss {
            // nft takes no comparison that is always true.
            let lost = match percent {
                100.. => String::new(),
                _ => format!(" numgen random mod 100 < {percent}"),
            };
            for way in ["iifname", "oifname"] {
                let _ = writeln!(rules, "  {way} {}{lost} drop", port(*n));
            }
        }
        rules + " }\n}\n"
    }
}

pub struct Network {
    faults: Faults,
    delays: BTreeMap<usize, Child>,
}

/// Must succeed with this on its input.
fn feed(command: &mut Command, text: &str) {
    let child = command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}\n{text}");
}

/// Commands of ip(8), one a line.
pub fn ip(at: &Holding, lines: &str) {
    feed(at.in_network("ip").args(["-batch", "-"]), lines);
}

impl Network {
    pub fn new(room: &Holding) -> Self {
        ip(
            room,
            "link set lo up\nlink add br0 type bridge mcast_snooping 0\nlink set br0 up\n",
        );
        // Bridged packets are to pass no rules but ours. Kernels without that have nothing to switch off.
        let off =
            "for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $f ] || echo 0 >$f; done";
        succeed(room.in_network("sh").args(["-c", off]));
        Self {
            faults: Faults::default(),
            delays: BTreeMap::new(),
        }
    }

    /// Connects the namespaces of `to` as machine `n`, with the addresses of number `at`.
    pub fn plug(&self, room: &Holding, n: usize, at: usize, to: &Holding) {
        let bridge = if self.delays.contains_key(&n) {
            format!("d{n}")
        } else {
            "br0".into()
        };
        let (mac, pid) = (hardware(n), to.pid());
        ip(
            room,
            &format!(
                "link add p{n} type veth peer name eth0 address {mac} netns {pid}\nlink set p{n} master {bridge} up\n"
            ),
        );
        let (address, address6) = (address(at), address6(at));
        let mut lines = format!(
            "addr add {address}/24 dev eth0\naddr add {address6}/64 dev eth0 nodad\nlink set eth0 up\n"
        );
        if n != OUTSIDE {
            let gateway = self::address(OUTSIDE);
            let _ = writeln!(lines, "route add default via {gateway}");
        }
        ip(to, &lines);
    }

    /// Gives the machine in the namespaces of `at` other addresses: those of number `then` for those of number `now`.
    pub fn renumber(at: &Holding, now: usize, then: usize) {
        let gateway = address(OUTSIDE);
        let lines = [
            // First, since a second address would go with it.
            format!("addr del {}/24 dev eth0", address(now)),
            format!("addr del {}/64 dev eth0", address6(now)),
            format!("addr add {}/24 dev eth0", address(then)),
            format!("addr add {}/64 dev eth0 nodad", address6(then)),
            // It went as well.
            format!("route replace default via {gateway}"),
        ];
        ip(at, &(lines.join("\n") + "\n"));
    }

    /// Pulls the plug: what is sent from now on is lost, and nobody is told.
    pub fn unplug(&self, room: &Holding, n: usize) {
        let line = format!("link del p{n}");
        // It may be gone with its namespace.
        let _ = room.in_network("ip").args(line.split(' ')).output();
    }

    pub fn change(&mut self, room: &Holding, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults);
        self.apply(room);
    }

    fn apply(&self, room: &Holding) {
        feed(
            room.in_network("nft").args(["-f", "-"]),
            &self.faults.rules(),
        );
    }

    pub fn heal(&mut self, room: &Holding, n: usize) {
        self.faults.heal(n);
        self.apply(room);
        self.undelay(room, n);
    }

    pub fn heal_all(&mut self, room: &Holding) {
        self.faults = Faults::default();
        self.apply(room);
        for n in self.delays.keys().copied().collect::<Vec<_>>() {
            self.undelay(room, n);
        }
    }

    /// Holds each packet of machine `n` back for so many milliseconds, each way.
    pub fn delay(&mut self, room: &Holding, n: usize, milliseconds: u32) {
        if milliseconds == 0 {
            return self.undelay(room, n);
        }
        if let Some(program) = self.delays.get_mut(&n) {
            let input = program.stdin.as_mut().unwrap();
            let line = format!("{milliseconds}\n");
            return input.write_all(line.as_bytes()).unwrap();
        }
        let mut program = room
            .command("/usr/bin/python3")
            .args([
                "-c",
                include_str!("delay.py"),
                &format!("t{n}"),
                &format!("u{n}"),
            ])
            .arg(milliseconds.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = program.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "delay.py (Debian package python3)");
        self.delays.insert(n, program);
        let mut lines = format!(
            "link add d{n} type bridge mcast_snooping 0\nlink set d{n} up\nlink set t{n} master d{n} up\nlink set u{n} master br0 up\n"
        );
        if self.has_port(room, n) {
            let _ = writeln!(lines, "link set p{n} master d{n}");
        }
        ip(room, &lines);
    }

    fn has_port(&self, room: &Holding, n: usize) -> bool {
        let port = format!("p{n}");
        let mut command = room.in_network("ip");
        command
            .args(["link", "show", &port])
            .output()
            .unwrap()
            .status
            .success()
    }

    fn undelay(&mut self, room: &Holding, n: usize) {
        let Some(mut program) = self.delays.remove(&n) else {
            return;
        };
        // It ends with its input, and its links with it.
        drop(program.stdin.take());
        holding::wait(&mut program);
        if self.has_port(room, n) {
            ip(room, &format!("link set p{n} master br0\n"));
        }
        ip(room, &format!("link del d{n}\n"));
    }
}
