//! `coracle` but for its network.
use super::{good, one_problem};
use crate::{Join, Registry};

#[test]
fn join() {
    let join = |address: &str| {
        good(&format!(
            "coracle: {{join: {{address: '{address}', token: tok}}}}\n"
        ))
        .join
    };
    for address in ["10.0.0.2", "10.0.0.2:4911", "web1", "web1.example.com:1"] {
        let token = "tok".to_owned();
        assert_eq!(
            join(address),
            Some(Join {
                address: address.into(),
                token
            })
        );
    }
    let folded =
        good("coracle:\n  join:\n    address: a\n    token: |\n      coracle_1_ab\n      cd\n");
    assert_eq!(
        folded.join.map(|j| j.token).as_deref(),
        Some("coracle_1_abcd")
    );
    for (address, words) in [
        ("", "is no name"),
        ("10.0.0.300", "neither a name nor an IPv4 address"),
        ("10.0.0.2:0", "no port"),
        ("10.0.0.2:x", "no port"),
        ("10.0.0.2:1:2", "no port"),
        ("a b", "has a ' '"),
        ("fd00::1", "IPv6"),
        ("[fd00::1]:4911", "IPv6"),
        ("https://10.0.0.2/", "write 10.0.0.2 without https://"),
    ] {
        let config = one_problem(
            &format!("coracle: {{join: {{address: '{address}', token: t}}}}\n"),
            "line 2: coracle.join.address: ",
            words,
        );
        assert_eq!(config.join, None);
    }
    one_problem(
        "coracle: {join: {address: a}}\n",
        "line 2: coracle.join: ",
        "token is missing",
    );
    one_problem(
        "coracle: {join: {token: a}}\n",
        "line 2: coracle.join: ",
        "address is missing",
    );
    one_problem(
        "coracle: {join: {address: a, token: ' '}}\n",
        "line 2: coracle.join.token: ",
        "is empty",
    );
}

#[test]
fn the_token_is_not_shown() {
    let config = good("coracle: {join: {address: a, token: secret}}\n");
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn labels() {
    let config = good("coracle: {labels: {region: us-west, rack: 3, on: true}}\n");
    let labels: Vec<_> = config.labels.into_iter().collect();
    let want = [("on", "true"), ("rack", "3"), ("region", "us-west")];
    assert_eq!(labels, want.map(|(k, v)| (k.to_owned(), v.to_owned())));
    one_problem(
        "coracle: {labels: {a b: c}}\n",
        "line 2: coracle.labels.a b: ",
        "has a space",
    );
    one_problem(
        "coracle: {labels: {a: [b]}}\n",
        "line 2: coracle.labels.a: ",
        "has to be text",
    );
    one_problem(
        "coracle: {labels: [a]}\n",
        "line 2: coracle.labels: ",
        "has to be a mapping",
    );
}

#[test]
fn advertise() {
    for text in ["192.0.2.7", "192.0.2.7:4911"] {
        assert_eq!(
            good(&format!("coracle: {{advertise: '{text}'}}\n"))
                .advertise
                .as_deref(),
            Some(text)
        );
    }
    for (text, words) in [
        ("web1", "is no IPv4 address"),
        ("0.0.0.0", "is no IPv4 address"),
        ("127.0.0.1", "is no IPv4 address"),
        ("192.0.2.7:0", "no port"),
        ("fd00::1", "IPv6"),
        ("$private_ipv4", "was not replaced"),
        ("${private_ipv4}:4911", "was not replaced"),
    ] {
        let config = one_problem(
            &format!("coracle: {{advertise: '{text}'}}\n"),
            "line 2: coracle.advertise: ",
            words,
        );
        assert_eq!(config.advertise, None);
    }
    let both = "coreos: {fleet: {public_ip: 10.0.0.2}}\ncoracle: {advertise: '10.0.0.";
    assert_eq!(
        good(&format!("{both}2:1'}}\n")).advertise.as_deref(),
        Some("10.0.0.2:1")
    );
    let config = one_problem(
        &format!("{both}3'}}\n"),
        "line 2: coreos.fleet.public_ip: ",
        "contradicts coracle.advertise",
    );
    assert_eq!(config.advertise.as_deref(), Some("10.0.0.3"));
}

#[test]
fn registries() {
    let config = good(
        "coracle:\n  registries:\n  - host: 10.0.2.2:5000\n    plain-http: true\n    mirror_of: docker.io\n  - {host: 10.0.2.2:5000, mirror_of: quay.io}\n  - {host: example.com}\n",
    );
    let of = |host: &str, plain_http, mirror: Option<&str>| Registry {
        host: host.into(),
        plain_http,
        mirror_of: mirror.map(Into::into),
    };
    let want = [
        of("10.0.2.2:5000", true, Some("docker.io")),
        of("10.0.2.2:5000", false, Some("quay.io")),
        of("example.com", false, None),
    ];
    assert_eq!(config.registries, want);
    for (item, place, words) in [
        (
            "{plain_http: true}",
            "line 4: coracle.registries[0]: ",
            "host is missing",
        ),
        (
            "{host: 'http://a'}",
            "line 4: coracle.registries[0].host: ",
            "without http://",
        ),
        (
            "{host: a/b}",
            "line 4: coracle.registries[0].host: ",
            "has a '/'",
        ),
        (
            "{host: a, mirror_of: ''}",
            "line 4: coracle.registries[0].mirror_of: ",
            "is no name",
        ),
    ] {
        let config = one_problem(
            &format!("coracle:\n  registries:\n  - {item}\n"),
            place,
            words,
        );
        assert_eq!(config.registries, []);
    }
    let config = one_problem(
        "coracle:\n  registries:\n  - {host: a}\n  - {host: a, plain_http: true}\n",
        "line 5: coracle.registries[1]: ",
        "twice",
    );
    assert_eq!(config.registries.len(), 1);
    let config = one_problem(
        "coracle:\n  registries:\n  - {host: a, insecure: true}\n",
        "line 4: coracle.registries[0].insecure: ",
        "there are host, plain_http, mirror_of",
    );
    assert_eq!(config.registries.len(), 1);
}

#[test]
fn update_keys() {
    let key = "RWQAAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyAhIiMkJSYn";
    assert_eq!(
        good(&format!("coracle: {{update_keys: [{key}]}}\n")).update_keys,
        [key]
    );
    for (text, words) in [
        (
            "RUQAAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyAhIiMkJSYn",
            "of another kind",
        ),
        (&key[..52], "not as long as a key"),
        ("RW!", "is no base64"),
        (
            "'untrusted comment: minisign public key'",
            "is the whole file",
        ),
    ] {
        let config = one_problem(
            &format!("coracle: {{update_keys: [{text}, {key}]}}\n"),
            "line 2: coracle.update_keys[0]: ",
            words,
        );
        assert_eq!(config.update_keys, [key]);
    }
}

#[test]
fn workstations() {
    let key = format!("sha256:{}", "0f".repeat(32));
    let config = good(&format!(
        "coracle: {{api_listen: true, api_names: [web1.example.com, 203.0.113.7], clients: [{key}, '{key}  ann']}}\n"
    ));
    assert_eq!(config.api_listen.as_deref(), Some("0.0.0.0:2376"));
    assert_eq!(config.api_names, ["web1.example.com", "203.0.113.7"]);
    assert_eq!(config.clients, [key.clone(), format!("{key} ann")]);
    for (text, address) in [
        ("10.0.0.2", Some("10.0.0.2:2376")),
        ("'[::]:99'", Some("[::]:99")),
        ("off", None),
    ] {
        let config = good(&format!("coracle: {{api_listen: {text}}}\n"));
        assert_eq!(config.api_listen.as_deref(), address, "{text}");
    }
    for (text, key, words) in [
        (
            "api_listen: web1",
            "api_listen",
            "no address of the machine",
        ),
        ("api_listen: '1.2.3.4:0'", "api_listen", "write true"),
        ("api: true", "api", "api_listen: true"),
        ("api_names: ['a b']", "api_names[0]", "has a ' '"),
        (
            "api_listen: on, clients: [ann]",
            "clients[0]",
            "no fingerprint",
        ),
        (
            "api_listen: on, clients: ['sha256:0f']",
            "clients[0]",
            "64 hexadecimal",
        ),
        (
            "api_listen: on, clients: ['-----BEGIN CERTIFICATE-----']",
            "clients[0]",
            "is a certificate",
        ),
        (
            "api_listen: on, clients: ['-----BEGIN PRIVATE KEY----- x']",
            "clients[0]",
            "belongs to its owner alone",
        ),
    ] {
        let config = one_problem(
            &format!("coracle: {{{text}}}\n"),
            &format!("line 2: coracle.{key}: "),
            words,
        );
        assert!(config.clients.is_empty());
    }
    let alone = one_problem(
        &format!("coracle: {{clients: [{key}]}}\n"),
        "line 2: coracle.clients: ",
        "api_listen: true",
    );
    assert_eq!(alone.clients, [key]);
}
