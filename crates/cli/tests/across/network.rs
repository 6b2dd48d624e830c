//! Containers on different machines reach each other by address and by name.

use super::*;
use crate::cluster::network;
use serde_json::Value;

/// A machine that is lost is out of names by then, and its routes are withdrawn by the second.
const NAMES: Duration = Duration::from_secs(20);
const ROUTES: Duration = Duration::from_secs(45);

/// Sends a word to port 9999 of a container as another container would, wrapped in vxlan for a machine. Arguments: the machine, its
/// Ethernet address in the overlay, the container's address, and the one that it claims to be from.
const FORGE: &str = r"
import socket, struct, sys
machine, mac, to, claimed = sys.argv[1:]
def checksum(data):
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
word = b'word'
udp = struct.pack('!HHHH', 9998, 9999, 8 + len(word), 0) + word
def ip(total):
    return struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(udp), 0, 0, 64, 17, total, socket.inet_aton(claimed), socket.inet_aton(to))
packet = ip(checksum(ip(0))) + udp
frame = bytes.fromhex(mac) + bytes.fromhex('02c1c0000209') + b'\x08\x00' + packet
vxlan = struct.pack('!II', 0x08000000, 7373 << 8)
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(vxlan + frame, (machine, 7373))
";

/// Sends one datagram of so many bytes, which may not be cut.
const WHOLE: &str = r"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, 10, 2)
s.sendto(bytes(int(sys.argv[2])), (sys.argv[1], 9997))
";

fn address(machine: &Machine, container: &str) -> String {
    machine.field(container, ".NetworkSettings.Networks.bridge.IPAddress")
}

fn subnet(machine: &Machine) -> String {
    let format = "{{(index .IPAM.Config 0).Subnet}}";
    machine.ok(&["network", "inspect", "bridge", "-f", format])
}

/// Addresses that a container of machine `from` finds for a name.
fn found(from: &Machine, name: &str) -> BTreeSet<String> {
    let said = text(&from.coracle(&["exec", "asker", "nslookup", name]));
    let answer = said.split_once("\n\n").map_or("", |(_, answer)| answer);
    let address = |line: &str| Some(line.split_once("Address")?.1.rsplit(' ').next()?.to_owned());
    answer.lines().filter_map(address).collect()
}

fn find(from: &Machine, name: &str, expected: &BTreeSet<String>, within: Duration) {
    wait_until(
        &format!("{} finds {expected:?}", from.name()),
        within,
        || {
            let found = found(from, name);
            (found == *expected)
                .then_some(())
                .ok_or(format!("{found:?}"))
        },
    );
}

/// One container of each machine by which it is asked. They are the machines' own, of no unit.
fn askers(cluster: &Cluster) {
    cluster.each(|machine| {
        machine.ok(&[
            "run",
            "-d",
            "--name",
            "asker",
            "--restart",
            "always",
            "bb",
            "sleep",
            "100000",
        ]);
    });
}

fn meet(cluster: &Cluster) {
    for machine in cluster.machines() {
        wait_until("it has routes to the others", MINUTE, || {
            let said = asked(machine, &["info"])?;
            let all = format!("{0} of {0} machines routed", cluster.machines().len() - 1);
            said.contains(&all).then_some(()).ok_or(said)
        });
    }
}

#[test]
fn servers_are_found_by_name_everywhere() {
    let cluster = joined(3);
    let [m1, m2, m3] = [1, 2, 3].map(|n| cluster.machine(n));
    meet(&cluster);
    askers(&cluster);
    m2.load(&parts::redis(), "redis");
    m3.load(&parts::redis(), "redis");
    m3.load(&parts::nginx(), "nginx");
    let on = |machine: &Machine| format!("[X-Fleet]\nMachineID={}\n", machine.id());
    let plain = parts::REDIS_UNIT.replace("Volume=redis.volume:/data\n", "");
    let redis = m1.unit("redis.container", &format!("{plain}{}", on(m2)));
    let nginx = m1.unit(
        "front.container",
        &format!("{}{}", parts::NGINX_UNIT, on(m3)),
    );
    let tell = m1.unit("web@.container", parts::TELL_UNIT);
    m1.ok(&["unit", "start", &redis, &nginx, &tell, "web@{1..3}"]);

    // Real servers, asked from other machines by name and by address.
    wait_until("Redis is asked from m3", MINUTE, || {
        asked(
            m3,
            &[
                "run",
                "--rm",
                "redis",
                "redis-cli",
                "-h",
                "redis",
                "set",
                "key",
                "far",
            ],
        )
    });
    let at = address(m2, "redis");
    let said = m3.ok(&["run", "--rm", "redis", "redis-cli", "-h", &at, "get", "key"]);
    assert_eq!(said, "far");
    for machine in cluster.machines() {
        let said = machine.ok(&["exec", "redis", "redis-cli", "get", "key"]);
        assert_eq!(said, "far", "asked on {}", machine.name());
    }
    let page = wait_until("nginx is asked from m1", MINUTE, || {
        asked(m1, &["exec", "asker", "wget", "-qO-", "http://front/"])
    });
    assert_eq!(page, "served by nginx");

    // One instance is on each machine; all of them are found on each.
    let instance = |n: usize| -> (usize, String) {
        let name = format!("web-{n}");
        let all = cluster.machines().iter();
        let mut home = all.filter(|m| {
            m.ok(&["ps", "--format", "{{.Names}}"])
                .lines()
                .any(|l| l == name)
        });
        let home = home.next().unwrap();
        (home.n(), address(home, &name))
    };
    let webs: Vec<(usize, String)> = (1..=3).map(instance).collect();
    let homes: BTreeSet<usize> = webs.iter().map(|(home, _)| *home).collect();
    assert_eq!(homes, (1..=3).collect());
    let all: BTreeSet<String> = webs.iter().map(|(_, ip)| ip.clone()).collect();
    let own = found(m1, "web");
    assert!(own.len() == 1 && own.is_disjoint(&all), "{own:?}");
    for machine in cluster.machines() {
        find(machine, "tasks.web", &all, NAMES);
        // One address everywhere, behind which all of them are.
        assert_eq!(found(machine, "web"), own);
        let met = || {
            let page = machine.ok(&["exec", "asker", "wget", "-qO-", "http://web/"]);
            page.split(' ').next().unwrap().to_owned()
        };
        let mut homes = BTreeSet::new();
        wait_until("each of them answers", MINUTE, || {
            homes.insert(met());
            (homes.len() == 3).then_some(()).ok_or(format!("{homes:?}"))
        });
        for (home, ip) in &webs {
            let page = machine.ok(&["exec", "asker", "wget", "-qO-", &format!("http://{ip}/")]);
            assert!(page.starts_with(&format!("m{home} ")), "{page}");
        }
    }
    // One that is not well is left out, and is back when it is well.
    let index = webs.iter().position(|(home, _)| *home == 2).unwrap();
    let name = format!("web-{}", index + 1);
    let but = |ip: &str| all.iter().filter(|a| *a != ip).cloned().collect();
    m2.ok(&["exec", &name, "killall", "-STOP", "httpd"]);
    find(m1, "tasks.web", &but(&webs[index].1), NAMES);
    m2.ok(&["exec", &name, "killall", "-CONT", "httpd"]);
    find(m1, "tasks.web", &all, NAMES);

    // A lost machine's names go, then its routes; its units come elsewhere with addresses of their new machine.
    let (_, lost) = webs.iter().find(|(home, _)| *home == 3).unwrap();
    let subnets: Vec<String> = cluster.machines().iter().map(subnet).collect();
    cluster.settles();
    m3.kill_all();
    wait_until("it is not found any more", NAMES, || {
        let found = found(m1, "tasks.web");
        (!found.contains(lost))
            .then_some(())
            .ok_or(format!("{found:?}"))
    });
    assert!(found(m2, "tasks.front").is_empty());
    let route = |from: &Machine, to: &str| {
        let output = from
            .inside("ip")
            .args(["route", "get", to])
            .output()
            .unwrap();
        format!("{}{}", text(&output), errors(&output))
    };
    // Meanwhile another one restarts, and has its subnet and its place again.
    m2.reboot();
    for machine in [m1, m2] {
        wait_until("its route is withdrawn", ROUTES, || {
            let said = route(machine, lost);
            (said.contains("unreachable") || said.contains("No route"))
                .then_some(())
                .ok_or(said)
        });
    }
    assert_eq!(subnet(m2), subnets[1]);
    m3.start();
    wait_until("it is reached again", MINUTE, || {
        let said = route(m1, lost);
        said.contains("cor-overlay").then_some(()).ok_or(said)
    });
    assert_eq!(subnet(m3), subnets[2]);

    // One that moves is found where it went, and of a global one all that there are.
    let text = format!("{}[X-Fleet]\nGlobal=yes\n", parts::TELL_UNIT);
    let every = m1.unit("every.container", &text);
    m3.ok(&["unit", "start", &every]);
    m1.ok(&["machine", "drain", "--no-wait", "m2"]);
    let network = |n: usize| subnets[n - 1].rsplit_once('.').unwrap().0.to_owned();
    for machine in [m1, m3] {
        wait_until("all three are found, and none on m2", MINUTE, || {
            let found = found(machine, "tasks.web");
            let right = found.len() == 3 && !found.iter().any(|ip| ip.starts_with(&network(2)));
            right.then_some(()).ok_or(format!("{found:?}"))
        });
    }
    m1.ok(&["machine", "uncordon", "m2"]);
    for machine in [m1, m3] {
        wait_until("all of the global unit are found", MINUTE, || {
            let found = found(machine, "tasks.every");
            let of = |n: usize| found.iter().any(|ip| ip.starts_with(&network(n)));
            (found.len() == 3 && (1..=3).all(of))
                .then_some(())
                .ok_or(format!("{found:?}"))
        });
    }
}

#[test]
fn packets_between_machines() {
    let cluster = joined(3);
    let [m1, m2, m3] = [1, 2, 3].map(|n| cluster.machine(n));
    meet(&cluster);
    askers(&cluster);
    m2.ok(&[
        "run", "-d", "--name", "files", "bb", "httpd", "-f", "-h", "/tmp",
    ]);
    m2.ok(&[
        "exec",
        "files",
        "dd",
        "if=/dev/urandom",
        "of=/tmp/big",
        "bs=1M",
        "count=4",
    ]);
    let sum = |output: String| output.split(' ').next().unwrap_or_default().to_owned();
    let big = sum(m2.ok(&["exec", "files", "md5sum", "/tmp/big"]));
    let url = format!("http://{}/big", address(m2, "files"));
    let fetched = |machine: &Machine| {
        let line = format!("wget -qO- {url} | md5sum");
        sum(machine.ok(&["exec", "asker", "sh", "-c", &line]))
    };
    let mtu = |machine: &Machine| machine.ok(&["exec", "asker", "cat", "/sys/class/net/eth0/mtu"]);
    let mtus = |expected: &str| {
        for machine in cluster.machines() {
            wait_until("containers have the agreed size", MINUTE, || {
                let is = mtu(machine);
                (is == expected)
                    .then_some(())
                    .ok_or(format!("m{}: {is}", machine.n()))
            });
        }
    };
    mtus("1450");
    assert_eq!(fetched(m1), big);
    // As large as may be, and not to be cut on the way: IPv4's header has 20 bytes, UDP's 8.
    let whole = |from: &Machine, size: u32| {
        let mut python = from.inside("/usr/bin/python3");
        python.args(["-c", WHOLE, &address(m2, "files"), &(size - 28).to_string()]);
        python.output().unwrap().status.success()
    };
    assert!(whole(m1, 1450) && !whole(m1, 1451));

    // A member is believed, and a stranger is not, who says the same: nobody listens at that port, so what arrives is counted.
    let to = address(m2, "asker");
    let claimed = address(m1, "asker");
    let mac = format!("02c1c00002{:02x}", m2.n());
    let forge = |mut python: std::process::Command| {
        python.args(["-c", FORGE, &m2.address(), &mac, &to, &claimed]);
        let output = python.output().unwrap();
        assert!(output.status.success(), "{}", errors(&output));
    };
    let arrived = || -> u64 {
        let said = m2.ok(&["exec", "asker", "cat", "/proc/net/snmp"]);
        let mut lines = said.lines().filter(|l| l.starts_with("Udp:"));
        let [names, values] = [lines.next().unwrap(), lines.next().unwrap()];
        let index = names.split(' ').position(|n| n == "NoPorts").unwrap();
        values.split(' ').nth(index).unwrap().parse().unwrap()
    };
    let before = arrived();
    forge(cluster.outside().inside("/usr/bin/python3"));
    // What came before this answer has been looked at.
    let mut ping = cluster.outside().inside("busybox");
    let ping = ping.args(["ping", "-c", "1", &m2.address()]);
    assert!(ping.output().unwrap().status.success());
    assert_eq!(arrived(), before, "a stranger is believed");
    wait_for("the member is heard", MINUTE, || {
        forge(m1.inside("/usr/bin/python3"));
        arrived() > before
    });

    // The smallest link counts for all, and is told while everything runs.
    let set = |size: &str| {
        let mut ip = m3.inside("ip");
        assert!(
            ip.args(["link", "set", "eth0", "mtu", size])
                .status()
                .unwrap()
                .success()
        );
    };
    set("1400");
    mtus("1350");
    assert_eq!(fetched(m1), big);
    assert_eq!(fetched(m3), big);
    let overlay: Value = {
        let socket = m1.run_dir().join("coracle.sock");
        let mut curl = m1.inside("curl");
        curl.args(["-fsS", "--unix-socket"]).arg(socket);
        let output = curl.arg("http://x/v1/overlay").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert_eq!(overlay["mtu"], 1350);
    assert_eq!(overlay["own"], network::address(1));
    // IPv6 stays on its machine, which is said.
    let info = m1.coracle(&["info"]);
    assert!(text(&info).contains("IPv4 only"), "{}", text(&info));
    assert!(errors(&info).contains("vxlan is not encrypted"));
}
