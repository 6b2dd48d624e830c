//! What the daemon reads.
use super::good;
use crate::{CloudConfig, Registry, render_settings};
use serde::Deserialize;
use std::collections::BTreeMap;

/// As `crates/cli/src/settings.rs` reads it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    advertise: Option<String>,
    api_listen: Option<String>,
    api_names: Vec<String>,
    api_clients: Vec<String>,
    machine: Machine,
    registry: Vec<RegistryOf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Machine {
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RegistryOf {
    host: String,
    #[serde(default)]
    plain_http: bool,
    mirror_of: Option<String>,
}

#[test]
fn nothing() {
    assert_eq!(render_settings(&CloudConfig::default()), "");
}

#[test]
fn everything_comes_back() {
    let mut config = good(
        "hostname: a\ncoracle: {join: {address: a, token: secret}, advertise: '10.0.0.2:1', registries: [{host: '10.0.2.2:5000', plain_http: true, mirror_of: docker.io}, {host: b}]}\n",
    );
    config.api_listen = Some("0.0.0.0:2376".to_owned());
    config.api_names = vec!["web1.example.com".to_owned(), "203.0.113.7".to_owned()];
    config.clients = vec![format!("sha256:{} ann's \"laptop\"", "0f".repeat(32))];
    let odd = "\"quoted\" \\ 'x'\n[machine]";
    config.labels = [
        ("a.b".to_owned(), odd.to_owned()),
        (odd.to_owned(), "x".to_owned()),
    ]
    .into();
    let text = render_settings(&config);
    assert!(!text.contains("secret"));
    let read: Settings = toml::from_str(&text).unwrap();
    assert_eq!(read.advertise, config.advertise);
    assert_eq!(read.api_listen, config.api_listen);
    assert_eq!(read.api_names, config.api_names);
    assert_eq!(read.api_clients, config.clients);
    assert_eq!(read.machine.labels, config.labels);
    let of = |r: RegistryOf| Registry {
        host: r.host,
        plain_http: r.plain_http,
        mirror_of: r.mirror_of,
    };
    assert_eq!(
        read.registry.into_iter().map(of).collect::<Vec<_>>(),
        config.registries
    );
}

#[test]
fn as_a_person_would_write_it() {
    let config = good(
        "coracle: {advertise: 10.0.0.2, labels: {region: us-west}, registries: [{host: a, plain_http: true}]}\n",
    );
    let want = "advertise = \"10.0.0.2\"\n\n[machine.labels]\nregion = \"us-west\"\n\n[[registry]]\nhost = \"a\"\nplain_http = true\n";
    assert_eq!(render_settings(&config), want);
}

#[test]
fn updates_are_told_as_far_as_they_are_not_as_usual() {
    let config = good(
        "coreos: {update: {server: '10.0.2.2:5000/os', group: beta, reboot-strategy: 'off'}, locksmith: {window-start: 'thu 4:00', window-length: 1h30m}}\n",
    );
    let want = "[updates]\nchannel = \"beta\"\nfrom = \"10.0.2.2:5000/os\"\nreboot = \"off\"\nwindow_length = \"90m\"\nwindow_start = \"Thu 04:00\"\n";
    assert_eq!(render_settings(&config), want);
    let usual = good("coreos: {update: {server: disabled, reboot-strategy: etcd-lock}}\n");
    assert_eq!(render_settings(&usual), "");
}
