//! The DNS server asked by `dig`, beside a real upstream (dnsmasq), in a namespace of its own.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_network::dns::{Container, Place, Ports, Records, Remote, Zone, bind_dns, serve};
use coracle_sys::netns;

struct Kill(Child);
impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn dig(args: &[&str]) -> String {
    let mut dig = Command::new("dig");
    let out = dig
        .args(["@127.0.0.2", "-b", "127.0.0.1", "+tries=8", "+timeout=1"])
        .args(args);
    String::from_utf8(out.output().unwrap().stdout).unwrap()
}

/// Runs `test` where 127.0.0.2 serves these containers, and 127.0.0.3 is the resolver behind it.
fn with_names(containers: Vec<Container>, test: impl FnOnce() + Send) {
    with_records(Records::new(containers, vec![]), test);
}

fn with_records(records: Records, test: impl FnOnce() + Send) {
    let ns = netns::create_anonymous().unwrap();
    netns::run_in(ns.as_fd(), || {
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        let upstream = [
            "-k",
            "-C",
            "/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--port=53",
            "--bind-interfaces",
            "--listen-address=127.0.0.3",
            "--address=/example.org/192.0.2.9",
            "--srv-host=_sip._udp.example.org,sip.example.org,5060",
            "--pid-file",
        ];
        let upstream = Command::new("dnsmasq").args(upstream).spawn().unwrap();
        let _upstream = Kill(upstream);
        let zone = Arc::new(Zone::default());
        zone.replace(records);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (udp, tcp) = runtime
            .block_on(bind_dns("127.0.0.2".parse().unwrap()))
            .unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                runtime.block_on(async {
                    let upstream = Arc::from(["127.0.0.3:53".parse().unwrap()]);
                    tokio::select! { _ = serve(udp, tcp, zone, upstream) => {}, _ = stopped => {} }
                });
            });
            // Dropped at the end of this block, even when an assertion fails.
            let _stop = stop;
            test();
        });
    })
    .unwrap();
}

fn here(name: &str, ip: &str) -> Container {
    Container {
        id: format!("{name:0<64}"),
        name: name.into(),
        healthy: true,
        places: vec![Place {
            network: "A".into(),
            ip: ip.parse().unwrap(),
            ip6: (name == "both").then(|| "fd00:9::9".parse().unwrap()),
            aliases: Vec::new(),
        }],
        ..Container::default()
    }
}

#[test]
fn dig_gets_names_and_the_rest_is_forwarded() {
    let containers = vec![
        here("me", "127.0.0.1"),
        here("web", "10.0.0.9"),
        here("both", "10.0.0.8"),
    ];
    with_names(containers, || {
        assert_eq!(dig(&["+short", "web"]), "10.0.0.9\n");
        let domained = dig(&["+short", "+tcp", "WEB.coracle.internal"]);
        assert_eq!(domained, "10.0.0.9\n");
        assert!(dig(&["web", "AAAA"]).contains("status: NOERROR"));
        assert_eq!(dig(&["+short", "web", "AAAA"]), "");
        assert_eq!(dig(&["+short", "both", "AAAA"]), "fd00:9::9\n");
        assert_eq!(dig(&["+short", "both"]), "10.0.0.8\n");
        assert!(dig(&["nobody", "AAAA"]).contains("status: NXDOMAIN"));
        let pointer = dig(&["+short", "-x", "fd00:9::9"]);
        assert_eq!(pointer, "both.coracle.internal.\n");
        assert!(dig(&["nobody"]).contains("status: NXDOMAIN"));
        let pointer = dig(&["+short", "-x", "10.0.0.9"]);
        assert_eq!(pointer, "web.coracle.internal.\n");
        assert_eq!(dig(&["+short", "example.org"]), "192.0.2.9\n");
        assert_eq!(dig(&["+short", "+tcp", "example.org"]), "192.0.2.9\n");
    });
}

#[test]
fn dig_gets_what_runs_on_other_machines() {
    let remote = Remote {
        machine: "bb".repeat(16),
        service: "web".into(),
        name: "web-2".into(),
        container: "ab".repeat(32),
        ip: "10.212.0.9".parse().unwrap(),
        ports: Ports::read(["80"]),
        healthy: true,
    };
    let local = vec![here("me", "127.0.0.1"), instance("web-1", "10.0.0.1")];
    let records = Records::new(local, vec![]).with_remote([&remote], "A");
    with_records(records, || {
        let sorted = |name: &[&str]| {
            let answer = dig(&[&["+short"], name].concat());
            let mut lines: Vec<_> = answer.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&["web"]), ["10.0.0.1", "10.212.0.9"]);
        let targets = [
            "0 1 80 web-1.coracle.internal.",
            "0 1 80 web-2.coracle.internal.",
        ];
        assert_eq!(sorted(&["_http._tcp.web", "SRV"]), targets);
        assert_eq!(sorted(&["web-2.coracle.internal"]), ["10.212.0.9"]);
    });
}

/// An instance of `web` on port 80.
fn instance(name: &str, ip: &str) -> Container {
    Container {
        service: Some("web".into()),
        ports: Ports::read(["80/tcp"]),
        ..here(name, ip)
    }
}

#[test]
fn dig_gets_ports_with_the_addresses_of_their_targets() {
    let containers = vec![
        here("me", "127.0.0.1"),
        instance("both", "10.0.0.8"),
        Container {
            ports: Ports::read(["80-81"]),
            ..instance("four", "10.0.0.9")
        },
    ];
    with_names(containers, || {
        let sorted = |args: &[&str]| {
            let answer = dig(args);
            let mut lines: Vec<_> = answer.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let both = "0 1 80 both.coracle.internal.";
        let four = "0 1 80 four.coracle.internal.";
        let other = "0 1 81 four.coracle.internal.";
        assert_eq!(sorted(&["+short", "web", "SRV"]), [both, four, other]);
        let tasks = sorted(&["+short", "+tcp", "tasks.web.coracle.internal", "SRV"]);
        assert_eq!(tasks, [both, four, other]);
        let http = sorted(&["+short", "_http._tcp.web.coracle.internal", "SRV"]);
        assert_eq!(http, [both, four]);
        assert_eq!(sorted(&["+short", "_81._tcp.web", "SRV"]), [other]);
        let additional = sorted(&["+noall", "+additional", "web", "SRV"]);
        let words = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let additional: Vec<_> = additional.iter().map(words).collect();
        let expected = [
            "both.coracle.internal. 5 IN A 10.0.0.8",
            "both.coracle.internal. 5 IN AAAA fd00:9::9",
            "four.coracle.internal. 5 IN A 10.0.0.9",
        ];
        assert_eq!(additional, expected);
        assert_eq!(dig(&["+short", "both.coracle.internal."]), "10.0.0.8\n");
        // A name of a port is known, whatever it is asked for; those of others are not.
        let address = dig(&["_80._tcp.web", "A"]);
        assert!(address.contains("status: NOERROR") && address.contains("ANSWER: 0"));
        assert!(dig(&["me", "SRV"]).contains("status: NOERROR"));
        assert!(dig(&["_82._tcp.web", "SRV"]).contains("status: NXDOMAIN"));
        assert!(dig(&["_80._udp.web", "SRV"]).contains("status: NXDOMAIN"));
        assert!(dig(&["nobody", "SRV"]).contains("status: NXDOMAIN"));
        let forwarded = dig(&["+short", "_sip._udp.example.org", "SRV"]);
        assert_eq!(forwarded, "0 0 5060 sip.example.org.\n");
    });
}

#[test]
fn many_instances_are_cut_in_a_datagram_and_whole_by_tcp() {
    let many = (0..80).map(|n| instance(&format!("web-{n:02}"), &format!("10.0.1.{n}")));
    let containers = std::iter::once(here("me", "127.0.0.1"))
        .chain(many)
        .collect();
    with_names(containers, || {
        // As numbers: whether it is cut, answers, additional records.
        let counts = |args: &[&str]| {
            let said = dig(&[args, &["web.coracle.internal"]].concat());
            let number = |word: &str| -> usize {
                let (_, rest) = said.split_once(word).unwrap_or_else(|| panic!("{said}"));
                let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
                digits.unwrap().parse().unwrap()
            };
            let cut = said.contains("flags: qr tc rd");
            (cut, number("ANSWER: "), number("ADDITIONAL: "))
        };
        // 43 bytes each after 38 of head and question; EDNS takes another 11.
        assert_eq!(counts(&["+ignore", "+noedns", "SRV"]), (true, 11, 0));
        assert_eq!(counts(&["+ignore", "+bufsize=512", "SRV"]), (true, 10, 1));
        // Without the targets' addresses it fits.
        assert_eq!(counts(&["+ignore", "+bufsize=4096", "SRV"]), (false, 80, 1));
        assert_eq!(counts(&["+tcp", "SRV"]), (false, 80, 81));
        assert_eq!(counts(&["+tcp", "+noedns", "SRV"]), (false, 80, 80));
        // dig asks again by TCP by itself.
        assert_eq!(counts(&["+noedns", "SRV"]), (false, 80, 80));
        // Addresses are cut in the same way, at 16 bytes each.
        assert_eq!(counts(&["+ignore", "+noedns", "A"]), (true, 29, 0));
        assert_eq!(counts(&["+noedns", "A"]), (false, 80, 0));
    });
}

#[test]
fn one_address_has_so_many_connections_and_no_more() {
    // A question for `web`, with its length before it.
    let question = b"\0\x15\0\x07\x01\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01";
    let ask = |stream: &mut TcpStream| -> Option<Vec<u8>> {
        stream.write_all(question).ok()?;
        let mut length = [0; 2];
        stream.read_exact(&mut length).ok()?;
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer).ok()?;
        Some(answer)
    };
    let connect = || TcpStream::connect("127.0.0.2:53").unwrap();
    let containers = vec![here("me", "127.0.0.1"), here("web", "10.0.0.9")];
    with_names(containers, || {
        let mut open: Vec<_> = (0..32).map(|_| connect()).collect();
        for stream in &mut open {
            let answer = ask(stream).unwrap();
            assert!(answer.ends_with(&[10, 0, 0, 9]), "{answer:?}");
        }
        assert_eq!(ask(&mut connect()), None);
        // Those that are open are served on, and so are others.
        assert!(ask(&mut open[31]).is_some());
        let other = dig(&["-b", "127.0.0.5", "+tcp", "web"]);
        assert!(other.contains("status: NXDOMAIN"), "{other}");
        drop(open);
        let deadline = Instant::now() + Duration::from_secs(10);
        while ask(&mut connect()).is_none() {
            assert!(Instant::now() < deadline, "closed ones count for ever");
        }
    });
}

#[test]
fn dig_is_refused_what_is_not_spoken_and_nothing_of_our_domain_is_forwarded() {
    let containers = vec![here("me", "127.0.0.1"), here("web", "10.0.0.9")];
    with_names(containers, || {
        let refused = dig(&["-c", "CH", "web", "A"]);
        assert!(refused.contains("status: REFUSED"), "{refused}");
        let update = dig(&["+opcode=UPDATE", "web", "SOA"]);
        assert!(update.contains("status: NOTIMP"), "{update}");
        let newer = dig(&["+edns=1", "+noednsneg", "web"]);
        assert!(newer.contains("status: BADVERS"), "{newer}");
        let flagged = dig(&["+dnssec", "web"]);
        assert!(flagged.contains("flags: do;"), "{flagged}");
        assert!(flagged.contains("10.0.0.9"), "{flagged}");
        let plain = dig(&["web"]);
        assert!(plain.contains("flags:; udp: 4096"), "{plain}");
        // dnsmasq refuses what it has nobody to ask about.
        for (name, status) in [
            ("coracle.internal", "NOERROR"),
            ("_80._tcp.coracle.internal", "NXDOMAIN"),
            ("_80._tcp.nobody.coracle.internal", "NXDOMAIN"),
            ("_ldap._tcp.foreign", "REFUSED"),
        ] {
            let said = dig(&[name, "SRV"]);
            assert!(said.contains(&format!("status: {status}")), "{said}");
        }
    });
}
