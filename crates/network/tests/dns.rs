//! The DNS server asked by `dig`, beside a real upstream (dnsmasq), in a namespace of its own.
#![allow(clippy::unwrap_used)]

use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::sync::Arc;

use coracle_network::dns::{Container, Place, Records, Zone, bind_dns, serve};
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

#[test]
fn dig_gets_names_and_the_rest_is_forwarded() {
    let ns = netns::create_anonymous().unwrap();
    netns::run_in(ns.as_fd(), || {
        assert!(
            Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status()
                .unwrap()
                .success()
        );
        let upstream = [
            "-k",
            "-C",
            "/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--port=53",
            "--bind-interfaces",
        ];
        let upstream = Command::new("dnsmasq")
            .args(upstream)
            .args([
                "--listen-address=127.0.0.3",
                "--address=/example.org/192.0.2.9",
                "--pid-file",
            ])
            .spawn()
            .unwrap();
        let _upstream = Kill(upstream);
        let zone = Arc::new(Zone::default());
        let here = |name: &str, ip: &str| Container {
            name: name.into(),
            healthy: true,
            places: vec![Place {
                network: "A".into(),
                ip: ip.parse().unwrap(),
                ip6: (name == "both").then(|| "fd00:9::9".parse().unwrap()),
                aliases: Vec::new(),
            }],
            ..Container::default()
        };
        zone.replace(Records::new(
            vec![
                here("me", "127.0.0.1"),
                here("web", "10.0.0.9"),
                here("both", "10.0.0.8"),
            ],
            vec![],
        ));
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
            assert_eq!(dig(&["+short", "web"]), "10.0.0.9\n");
            assert_eq!(
                dig(&["+short", "+tcp", "WEB.coracle.internal"]),
                "10.0.0.9\n"
            );
            assert!(dig(&["web", "AAAA"]).contains("status: NOERROR"));
            assert_eq!(dig(&["+short", "web", "AAAA"]), "");
            assert_eq!(dig(&["+short", "both", "AAAA"]), "fd00:9::9\n");
            assert_eq!(dig(&["+short", "both"]), "10.0.0.8\n");
            assert!(dig(&["nobody", "AAAA"]).contains("status: NXDOMAIN"));
            assert_eq!(
                dig(&["+short", "-x", "fd00:9::9"]),
                "both.coracle.internal.\n"
            );
            assert!(dig(&["nobody"]).contains("status: NXDOMAIN"));
            assert_eq!(
                dig(&["+short", "-x", "10.0.0.9"]),
                "web.coracle.internal.\n"
            );
            assert_eq!(dig(&["+short", "example.org"]), "192.0.2.9\n");
            assert_eq!(dig(&["+short", "+tcp", "example.org"]), "192.0.2.9\n");
        });
    })
    .unwrap();
}
