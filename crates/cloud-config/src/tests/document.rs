//! First line, YAML, keys.
use super::{ED25519, good, one_problem, read, shown};
use crate::{CloudConfig, Parsed, parse};

#[test]
fn first_lines() {
    for text in [
        "#cloud-config",
        "#cloud-config\n",
        "#cloud-config  \t\r\n\r\n",
        "\u{feff}#cloud-config\n---\n",
        "#cloud-config\n# only a comment\n",
        "#cloud-config\n{}\n",
        "#cloud-config\n---\n...\n",
    ] {
        assert_eq!(parse(text), Parsed::default(), "{text:?}");
    }
    for (text, words) in [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("#!/bin/sh\nhostname: a\n", "is a script"),
        (
            "#include\nhttps://example.com\n",
            "begins with \"#include\"",
        ),
        (
            "## template: jinja\n#cloud-config\nhostname: a",
            "another kind",
        ),
        ("{\"ignition\": {}}", "Ignition"),
        ("hostname: a\n", "does not begin with #cloud-config"),
    ] {
        let parsed = parse(text);
        assert_eq!(parsed.config, CloudConfig::default(), "{text:?}");
        let shown = shown(&parsed);
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert!(
            shown[0].starts_with("line 1: the document ") && shown[0].contains(words),
            "{shown:?}"
        );
    }
}

#[test]
fn a_first_line_that_is_nearly_right_is_told_and_the_rest_read() {
    for first in [
        "#cloud_config",
        "# cloud-config",
        "#Cloud-Config:",
        "\n#cloud-config",
    ] {
        let parsed = parse(&format!("{first}\nhostname: a\n"));
        assert_eq!(parsed.config.hostname.as_deref(), Some("a"), "{first:?}");
        assert_eq!(parsed.problems.len(), 1, "{first:?}");
    }
}

#[test]
fn line_ends_of_windows() {
    let parsed = parse(
        "\u{feff}#cloud-config\r\nhostname: web1\r\nwrite_files:\r\n- path: /etc/a\r\n  content: |\r\n    x\r\n    y\r\n",
    );
    assert_eq!(parsed.problems, []);
    assert_eq!(parsed.config.hostname.as_deref(), Some("web1"));
    assert_eq!(parsed.config.write_files[0].content, b"x\ny\n");
}

#[test]
fn unknown_keys() {
    one_problem(
        "host-name: a\n",
        "line 2: host_name: ",
        "did you mean hostname?",
    );
    one_problem(
        "coreos:\n  unit: []\n",
        "line 3: coreos.unit: ",
        "did you mean units?",
    );
    one_problem(
        "a: 1\n",
        "line 2: a: ",
        "there are hostname, ssh_authorized_keys,",
    );
    one_problem("1: 1\n", "line 2: 1: ", "unknown key");
    one_problem("? [a, b]\n: 1\n", "line 2: ", "a key has to be a word");
    one_problem("<<: {hostname: a}\n", "line 2: <<: ", "unknown key");
}

#[test]
fn keys_of_cloud_init_that_are_refused() {
    for (key, words) in [
        ("users", "write keys with ssh_authorized_keys"),
        ("fqdn", "hostname"),
        ("prefer_fqdn_over_hostname", "hostname"),
        ("runcmd", "coreos.units"),
        ("package-update", "read-only"),
        ("network", "coracle.network"),
    ] {
        one_problem(&format!("{key}: true\n"), "line 2: ", words);
    }
}

#[test]
fn dashes_and_underscores() {
    let config = good(&format!(
        "ssh-authorized-keys: ['{ED25519}']\nwrite-files: [{{path: /etc/a}}]\nmanage-etc_hosts: localhost\ncoreos: {{update: {{reboot-strategy: off}}}}\n"
    ));
    assert_eq!(config.ssh_authorized_keys, [ED25519]);
    assert_eq!(config.write_files.len(), 1);
    assert!(config.manage_etc_hosts);
    assert_eq!(config.update.reboot_strategy, crate::RebootStrategy::Off);
}

#[test]
fn a_key_twice() {
    let config = one_problem(
        "hostname: a\nhostname: b\n",
        "line 3: hostname: ",
        "twice, and only the first is read (line 2)",
    );
    assert_eq!(config.hostname.as_deref(), Some("a"));
    one_problem(
        "write_files: []\nwrite-files: []\n",
        "line 3: write_files: ",
        "twice",
    );
    one_problem(
        "coracle: {labels: {a: b, c: d, a: e}}\n",
        "line 2: coracle.labels.a: ",
        "twice",
    );
    let config = good("coracle: {labels: {a-b: c, a_b: d}}\n");
    assert_eq!(config.labels.len(), 2);
}

#[test]
fn wrong_kinds() {
    one_problem(
        "- hostname: a\n",
        "line 2: ",
        "has to be a mapping (lines of `key: value`), but is a list",
    );
    one_problem("just text\n", "line 2: ", "but is text");
    one_problem(
        "hostname: [a]\n",
        "line 2: hostname: ",
        "has to be text, but is a list",
    );
    one_problem("hostname:\n", "line 2: hostname: ", "has no value");
    one_problem(
        "ssh_authorized_keys: ssh-rsa\n",
        "line 2: ssh_authorized_keys: ",
        "has to be a list",
    );
    one_problem("coreos: []\n", "line 2: coreos: ", "has to be a mapping");
    one_problem(
        "manage_etc_hosts: {}\n",
        "line 2: manage_etc_hosts: ",
        "but is a mapping",
    );
    one_problem(
        "hostname: !name web\n",
        "line 2: hostname: ",
        "the tag \"!name\" has no meaning",
    );
    good(
        "ssh_authorized_keys:\ncoreos:\n  units:\n  fleet:\n  update:\n  locksmith:\ncoracle:\n  join:\n  labels:\n  network:\nwrite_files: ~\n",
    );
}

#[test]
fn columns() {
    let parsed = read("coracle:\n  join: {address: '', token: t}\n");
    assert_eq!(
        (parsed.problems[0].line, parsed.problems[0].column),
        (3, 19)
    );
    assert_eq!(parsed.problems[0].key, "coracle.join.address");
}

#[test]
fn all_problems_in_the_order_of_the_document() {
    let parsed =
        read("coracle: {advertise: x}\nhostname: a_b\nfoo: 1\ncoreos: {update: {group: A}}\n");
    let lines: Vec<_> = parsed.problems.iter().map(|p| p.line).collect();
    assert_eq!(lines, [2, 3, 4, 5]);
}

#[test]
fn what_is_no_yaml_does_not_take_its_neighbours_along() {
    let body = format!(
        "hostname: web1\ncoreos:\n  units:\n  - name: a.service\n\t  content: x\nssh_authorized_keys:\n- {ED25519}\n"
    );
    let config = one_problem(&body, "line 5: ", "this is no valid YAML: ");
    assert_eq!(config.hostname.as_deref(), Some("web1"));
    assert_eq!(config.ssh_authorized_keys, [ED25519]);
    let two = format!(
        "hostname: \"web1\nwrite_files: [\nssh_authorized_keys: ['{ED25519}']\ncoracle: {{join: {{address: a, token: t}}}}\n"
    );
    let parsed = read(&two);
    let lines: Vec<_> = parsed.problems.iter().map(|p| p.line).collect();
    assert_eq!(lines.len(), 2, "{:?}", shown(&parsed));
    assert!(parsed.config.join.is_some() && parsed.config.ssh_authorized_keys.len() == 1);
    // Problems behind the broken part have their lines still.
    let parsed = read("hostname: \"a\nwrite_files:\n- path: /usr/x\n");
    assert!(
        parsed
            .problems
            .iter()
            .any(|p| p.line == 4 && p.key == "write_files[0].path"),
        "{:?}",
        shown(&parsed)
    );
}

#[test]
fn a_second_document() {
    let config = one_problem(
        "hostname: a\n---\nhostname: b\n",
        "line 3: ",
        "a second document",
    );
    assert_eq!(config.hostname.as_deref(), Some("a"));
}
