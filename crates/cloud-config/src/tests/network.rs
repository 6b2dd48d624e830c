//! `coracle.network`.
use super::{good, one_problem};
use crate::{Interface, Network, Selector};

fn network(body: &str) -> Network {
    good(&format!("coracle:\n  network:\n{body}")).network
}

#[track_caller]
fn wrong(item: &str, place: &str, words: &str) -> Vec<Interface> {
    let body = format!("coracle:\n  network:\n    interfaces:\n    - {item}\n");
    one_problem(
        &body,
        &format!("line 5: coracle.network.interfaces[0]{place}: "),
        words,
    )
    .network
    .interfaces
}

#[test]
fn interfaces() {
    let found = network(
        "    dns: [10.0.0.53, 127.0.0.53]\n    interfaces:\n    - name: eth0\n    - mac: 52-54-00-AB-34-56\n      address: 10.0.0.2/24\n      gateway: 10.0.0.1\n      mtu: 1400\n      dns: [1.1.1.1]\n    - {name: eth1, dhcp: true, address: 10.1.0.0/31}\n    - {name: eth2, dhcp: no}\n",
    );
    assert_eq!(found.dns.len(), 2);
    let [eth0, mac, eth1, eth2] = &found.interfaces[..] else {
        panic!("{found:?}");
    };
    assert_eq!(
        (&eth0.which, eth0.dhcp, eth0.address),
        (&Selector::Name("eth0".into()), true, None)
    );
    let want = Interface {
        which: Selector::Mac("52:54:00:ab:34:56".into()),
        dhcp: false,
        address: Some("10.0.0.2/24".parse().unwrap()),
        gateway: Some([10, 0, 0, 1].into()),
        mtu: Some(1400),
        dns: vec![[1, 1, 1, 1].into()],
    };
    assert_eq!(*mac, want);
    assert!(eth1.dhcp && eth1.address.is_some());
    assert!(!eth2.dhcp && eth2.address.is_none());
}

#[test]
fn which() {
    assert_eq!(wrong("{dhcp: true}", "", "says of no interface"), []);
    assert_eq!(
        wrong(
            "{name: eth0, mac: '52:54:00:12:34:56'}",
            ".mac",
            "write one of both"
        ),
        []
    );
    for name in ["''", "lo", "a b", "a/b", "'eth*'", "abcdefghijklmnop"] {
        assert_eq!(
            wrong(&format!("{{name: {name}}}"), ".name", "is no interface"),
            []
        );
    }
    for mac in [
        "52:54:00:12:34",
        "52:54:00:12:34:5g",
        "525400123456",
        "01:00:5e:00:00:01",
        "00:00:00:00:00:00",
        "5:54:00:12:34:56",
        "52:54:00:12:34:56:78",
    ] {
        assert_eq!(
            wrong(
                &format!("{{mac: '{mac}'}}"),
                ".mac",
                "is no hardware address"
            ),
            []
        );
    }
    let twice = "coracle: {network: {interfaces: [{mac: '52:54:00:AB:34:56'}, {mac: '52-54-00-ab-34-56', mtu: 1400}]}}\n";
    let config = one_problem(
        twice,
        "line 2: coracle.network.interfaces[1]: ",
        "on line 2 already",
    );
    assert_eq!(
        (
            config.network.interfaces.len(),
            config.network.interfaces[0].mtu
        ),
        (1, None)
    );
}

#[test]
fn an_address_that_is_wrong_leaves_dhcp() {
    for (address, words) in [
        ("10.0.0.2", "write for example 10.0.0.2/24"),
        ("10.0.0.2/0", "no length from 1 to 32"),
        ("10.0.0.2/33", "no length from 1 to 32"),
        ("10.0.0.2/+8", "no length from 1 to 32"),
        ("10.0.0.0/24", "first or last one"),
        ("10.0.0.255/24", "first or last one"),
        ("10.0.0/24", "is no IPv4 address"),
        ("224.0.0.1/24", "is no IPv4 address"),
        ("fd00::2/64", "IPv6"),
    ] {
        let found = wrong(
            &format!("{{name: eth0, address: '{address}', gateway: 10.0.0.1}}"),
            ".address",
            words,
        );
        assert_eq!(
            (found[0].dhcp, found[0].address, found[0].gateway),
            (true, None, None),
            "{address}"
        );
    }
    let found = wrong(
        "{name: eth0, dhcp: false, address: x}",
        ".address",
        "is no IPv4",
    );
    assert!(!found[0].dhcp);
}

#[test]
fn gateways() {
    for (rest, words) in [
        (
            "address: 10.0.0.2/24, gateway: 10.0.1.1",
            "is not within 10.0.0.0/24",
        ),
        ("address: 10.0.0.2/24, gateway: 10.0.0.2", "own address"),
        ("gateway: 10.0.0.1", "without an address"),
        ("address: 10.0.0.2/24, gateway: 'fe80::1'", "IPv6"),
    ] {
        let found = wrong(&format!("{{name: eth0, {rest}}}"), ".gateway", words);
        assert_eq!((found.len(), found[0].gateway), (1, None));
    }
}

#[test]
fn the_rest() {
    for mtu in ["0", "575", "65536", "x", "-1"] {
        let found = wrong(
            &format!("{{name: eth0, mtu: {mtu}}}"),
            ".mtu",
            "is no size of packets",
        );
        assert_eq!(found[0].mtu, None);
    }
    wrong("{name: eth0, dns: [x]}", ".dns[0]", "is no IPv4 address");
    wrong("{name: eth0, dns: ['::1']}", ".dns[0]", "IPv6");
    wrong("{name: eth0, dhcp6: true}", ".dhcp6", "IPv6 is not done");
    wrong(
        "{name: eth0, adress: 10.0.0.2/24}",
        ".adress",
        "did you mean address?",
    );
    one_problem(
        "coracle: {network: {dns: 1.1.1.1}}\n",
        "line 2: coracle.network.dns: ",
        "has to be a list",
    );
}
