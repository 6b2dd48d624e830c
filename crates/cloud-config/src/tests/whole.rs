//! A document as people wrote them for CoreOS, with what Coracle adds.
use super::ED25519;
use crate::{CloudConfig, Command, RebootStrategy, UpdateServer, parse, substitute};

pub(super) const DOCUMENT: &str = r##"#cloud-config

# The machine
hostname: core-01
ssh_authorized_keys:
  - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPtGzrHMV7vyqpUKB5JFCJY6TBpHMq+q57Dyxfq+IiG1 core@example
manage_etc_hosts: localhost

coreos:
  update:
    group: stable
    server: 10.0.2.2:5000/coracle/os
    reboot-strategy: best-effort
  locksmith:
    window-start: Thu 04:00
    window-length: 1h
  fleet:
    public-ip: $public_ipv4
    metadata: region=us-west,disk=ssd
  units:
    - name: data.volume
      content: |
        [Volume]
    - name: web.container
      command: start
      enable: true
      content: |
        [Unit]
        Description=Web of %H

        [Container]
        Image=docker.io/library/nginx:1
        PublishPort=$private_ipv4:80:80
        Volume=data.volume:/data

        [Install]
        WantedBy=multi-user.target
      drop-ins:
        - name: 10-memory.conf
          content: |
            [Container]
            Memory=256m
    - name: noisy.service
      mask: true

write_files:
  - path: /etc/motd
    permissions: "0644"
    owner: root
    content: |
      Hello.
  - path: /etc/ssl/own.pem
    permissions: 0600
    encoding: gz+b64
    content: H4sIAAAAAAACA8tIzcnJ5wIAIDA6NgYAAAA=

coracle:
  join:
    address: 10.0.0.1
    token: coracle_1_abc
  labels:
    rack: "3"
  registries:
    - host: 10.0.2.2:5000
      plain_http: true
      mirror_of: docker.io
  network:
    dns: [10.0.0.53]
    interfaces:
      - name: eth0
      - mac: 52:54:00:12:34:56
        address: 10.1.0.2/24
        gateway: 10.1.0.1
  update_keys:
    - RWQAAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyAhIiMkJSYn
"##;

fn config() -> CloudConfig {
    let text = substitute(
        DOCUMENT,
        Some([10, 0, 0, 2].into()),
        Some([192, 0, 2, 7].into()),
    );
    let parsed = parse(&text.unwrap());
    assert_eq!(super::shown(&parsed), Vec::<String>::new());
    parsed.config
}

#[test]
fn everything_is_understood() {
    let config = config();
    assert_eq!(config.hostname.as_deref(), Some("core-01"));
    assert_eq!(config.ssh_authorized_keys, [ED25519]);
    assert!(config.manage_etc_hosts);
    let update = &config.update;
    assert_eq!(update.group.as_deref(), Some("stable"));
    assert_eq!(
        update.server,
        Some(UpdateServer::Repository("10.0.2.2:5000/coracle/os".into()))
    );
    assert_eq!(update.reboot_strategy, RebootStrategy::BestEffort);
    assert_eq!(
        update.window.map(|w| (w.minute_of_day, w.length_minutes)),
        Some((240, 60))
    );
    assert_eq!(config.advertise.as_deref(), Some("192.0.2.7"));
    assert_eq!(
        config.labels.keys().collect::<Vec<_>>(),
        ["disk", "rack", "region"]
    );
    let units: Vec<_> = config
        .units
        .iter()
        .map(|u| (u.name.as_str(), u.enable, u.command, u.mask))
        .collect();
    let want = [
        ("data.volume", false, None, false),
        ("web.container", true, Some(Command::Start), false),
        ("noisy.service", false, None, true),
    ];
    assert_eq!(units, want);
    assert!(
        config.units[1]
            .content
            .as_ref()
            .unwrap()
            .contains("PublishPort=10.0.0.2:80:80\n")
    );
    assert_eq!(
        config.units[1].drop_ins[0].content,
        "[Container]\nMemory=256m\n"
    );
    let files: Vec<_> = config
        .write_files
        .iter()
        .map(|f| (&*f.path, &*f.content, f.mode))
        .collect();
    assert_eq!(
        files,
        [
            ("/etc/motd", &b"Hello.\n"[..], 0o644),
            ("/etc/ssl/own.pem", b"hello\n", 0o600)
        ]
    );
    assert_eq!(config.join.as_ref().unwrap().token, "coracle_1_abc");
    assert_eq!(config.registries.len(), 1);
    assert_eq!(config.network.interfaces.len(), 2);
    assert_eq!(config.update_keys.len(), 1);
}

#[test]
fn it_can_be_kept() {
    let config = config();
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<CloudConfig>(&text).unwrap(), config);
}

/// Whatever is wrong with the units, the machine can be reached.
#[test]
fn a_mistake_in_the_units_leaves_keys_and_network() {
    let whole = config();
    for (from, to) in [
        ("    - name: web.container\n", "\t- name: web.container\n"),
        ("      command: start\n", "   command: start\n"),
        (
            "        Image=docker.io/library/nginx:1\n",
            "        Imago=\n",
        ),
        ("  units:\n", "  units: {\n"),
        ("    group: stable\n", "    group: \"stable\n"),
    ] {
        let broken = DOCUMENT
            .replace("$public_ipv4", "192.0.2.7")
            .replace("$private_ipv4", "10.0.0.2")
            .replacen(from, to, 1);
        let parsed = parse(&broken);
        assert!(!parsed.problems.is_empty(), "{to:?}");
        assert_eq!(
            parsed.config.ssh_authorized_keys, whole.ssh_authorized_keys,
            "{to:?}"
        );
        assert_eq!(parsed.config.network, whole.network, "{to:?}");
        assert_eq!(parsed.config.join, whole.join, "{to:?}");
    }
}
