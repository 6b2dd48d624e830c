//! `coreos` but for its units.
use super::{good, one_problem, read};
use crate::{RebootStrategy, UpdateServer, Weekday, Window};

#[test]
fn what_coracle_does_itself() {
    for key in ["etcd", "etcd2", "flannel"] {
        one_problem(
            &format!("coreos: {{{key}: {{discovery: x}}}}\n"),
            &format!("line 2: coreos.{key}: "),
            "coracle.join",
        );
    }
    one_problem(
        "coreos: {oem: {id: x}}\n",
        "line 2: coreos.oem: ",
        "remove it",
    );
}

#[test]
fn fleet() {
    let config =
        good("coreos: {fleet: {metadata: 'region=us-west, disk=ssd,', public-ip: 10.0.0.2}}\n");
    let labels: Vec<_> = config.labels.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(labels, [("disk", "ssd"), ("region", "us-west")]);
    assert_eq!(config.advertise.as_deref(), Some("10.0.0.2"));
    for (text, words) in [
        ("region", "has no ="),
        ("=a", "its key is empty"),
        ("a=", "its value is empty"),
        ("a b=c", "space"),
        ("a-=c", "dash"),
    ] {
        let config = one_problem(
            &format!("coreos: {{fleet: {{metadata: '{text},x=y'}}}}\n"),
            "line 2: coreos.fleet.metadata: ",
            words,
        );
        assert_eq!(config.labels.len(), 1);
    }
    one_problem(
        "coreos: {fleet: {metadata: 'a=1,a=2'}}\n",
        "line 2: coreos.fleet.metadata: ",
        "contradicts",
    );
    one_problem(
        "coreos: {fleet: {metadata: {a: b}}}\n",
        "line 2: coreos.fleet.metadata: ",
        "has to be text",
    );
    one_problem(
        "coreos: {fleet: {public_ip: $public_ipv4}}\n",
        "line 2: coreos.fleet.public_ip: ",
        "was not replaced",
    );
    for key in ["etcd_servers", "etcd-cafile", "agent_ttl"] {
        one_problem(
            &format!("coreos: {{fleet: {{{key}: x}}}}\n"),
            "line 2: coreos.fleet.",
            "remove it",
        );
    }
}

#[test]
fn labels_of_both() {
    let config = good("coreos: {fleet: {metadata: 'a=1,b=2'}}\ncoracle: {labels: {b: 2, c: x}}\n");
    let labels: Vec<_> = config.labels.into_iter().map(|(k, v)| k + &v).collect();
    assert_eq!(labels, ["a1", "b2", "cx"]);
    let config = one_problem(
        "coreos: {fleet: {metadata: 'a=1'}}\ncoracle: {labels: {a: 2}}\n",
        "line 3: coracle.labels.a: ",
        "\"a=2\" contradicts \"a=1\" on line 2",
    );
    assert_eq!(config.labels["a"], "1");
}

#[test]
fn updates() {
    let update = good("").update;
    assert_eq!(
        (update.group, update.server, update.window),
        (None, None, None)
    );
    assert_eq!(update.reboot_strategy, RebootStrategy::EtcdLock);
    for (text, strategy) in [
        ("reboot", RebootStrategy::Reboot),
        ("etcd-lock", RebootStrategy::EtcdLock),
        ("best-effort", RebootStrategy::BestEffort),
        ("off", RebootStrategy::Off),
        ("'off'", RebootStrategy::Off),
        ("false", RebootStrategy::Off),
    ] {
        let update = good(&format!(
            "coreos: {{update: {{reboot-strategy: {text}}}}}\n"
        ))
        .update;
        assert_eq!(update.reboot_strategy, strategy, "{text}");
    }
    one_problem(
        "coreos: {update: {reboot_strategy: never}}\n",
        "line 2: coreos.update.reboot_strategy: ",
        "best-effort or off",
    );
    assert_eq!(
        good("coreos: {update: {group: stable-1.2_x}}\n")
            .update
            .group
            .as_deref(),
        Some("stable-1.2_x")
    );
    for group in ["Stable", "a/b", "''", "-a", ".a", "a:b"] {
        one_problem(
            &format!("coreos: {{update: {{group: {group}}}}}\n"),
            "line 2: coreos.update.group: ",
            "is no channel",
        );
    }
}

#[test]
fn update_servers() {
    let server = |text: &str| {
        good(&format!("coreos: {{update: {{server: '{text}'}}}}\n"))
            .update
            .server
    };
    assert_eq!(server(""), Some(UpdateServer::Disabled));
    assert_eq!(server("disabled"), Some(UpdateServer::Disabled));
    for text in [
        "10.0.2.2:5000/coracle/os",
        "registry.example.com/a/b-c__d.e/f",
        "localhost/os",
        "host:1/os",
    ] {
        assert_eq!(server(text), Some(UpdateServer::Repository(text.into())));
    }
    for (text, words) in [
        (
            "https://public.update.core-os.net/v1/update/",
            "without https://",
        ),
        ("coracle/os", "names no registry"),
        ("os", "names no registry"),
        (
            "example.com/os:stable",
            "has a tag, which is what coreos.update.group says",
        ),
        ("example.com:5000/os:stable", "has a tag"),
        ("example.com/os@sha256:00", "has a digest"),
        ("example.com/Os", "is no repository"),
        ("example.com/", "is no repository"),
        ("example.com/a//b", "is no repository"),
        ("example.com/a___b", "is no repository"),
        ("example.com/-a", "is no repository"),
        ("example.com:0/os", "port"),
    ] {
        let config = one_problem(
            &format!("coreos: {{update: {{server: '{text}'}}}}\n"),
            "line 2: coreos.update.server: ",
            words,
        );
        assert_eq!(config.update.server, None);
    }
}

#[test]
fn windows() {
    let window = |start: &str, length: &str| {
        good(&format!(
            "coreos: {{locksmith: {{window-start: {start}, window-length: {length}}}}}\n"
        ))
        .update
        .window
    };
    let of = |weekday, minute_of_day, length_minutes| {
        Some(Window {
            weekday,
            minute_of_day,
            length_minutes,
        })
    };
    assert_eq!(
        window("Thu 23:00", "1h"),
        of(Some(Weekday::Thursday), 1380, 60)
    );
    assert_eq!(window("23:00", "30m"), of(None, 1380, 30));
    assert_eq!(
        window("sunday 4:05", "1h30m"),
        of(Some(Weekday::Sunday), 245, 90)
    );
    assert_eq!(window("00:00", "24h"), of(None, 0, 1440));
    assert_eq!(
        window("Mon 00:00", "168h"),
        of(Some(Weekday::Monday), 0, 10080)
    );
    assert_eq!(window("0:00", "120s"), of(None, 0, 2));
    for start in [
        "24:00",
        "23:60",
        "23:5",
        "2300",
        "Foo 23:00",
        "Thu",
        "''",
        "+1:00",
        "Thu 23:00 UTC",
        "th 1:00",
    ] {
        let body = format!(
            "coreos: {{locksmith: {{window_start: '{}', window_length: 1h}}}}\n",
            start.trim_matches('\'')
        );
        assert_eq!(
            one_problem(
                &body,
                "line 2: coreos.locksmith.window_start: ",
                "is no time"
            )
            .update
            .window,
            None
        );
    }
    for length in [
        "1",
        "h",
        "1d",
        "30s",
        "0m",
        "1.5h",
        "-1h",
        "",
        "99999999999h",
        "9999999h",
    ] {
        let body =
            format!("coreos: {{locksmith: {{window_start: '1:00', window_length: '{length}'}}}}\n");
        one_problem(
            &body,
            "line 2: coreos.locksmith.window_length: ",
            "is no duration",
        );
    }
    one_problem(
        "coreos: {locksmith: {window_start: '1:00', window_length: 25h}}\n",
        "line 2: coreos.locksmith.window_length: ",
        "longer than 24 h",
    );
    one_problem(
        "coreos: {locksmith: {window_start: 'Mon 1:00', window_length: 169h}}\n",
        "line 2: coreos.locksmith.window_length: ",
        "longer than 168 h",
    );
    one_problem(
        "coreos: {locksmith: {window_start: '1:00'}}\n",
        "line 2: coreos.locksmith.window_start: ",
        "window_length is missing",
    );
    one_problem(
        "coreos: {locksmith: {window_length: 1h}}\n",
        "line 2: coreos.locksmith.window_length: ",
        "window_start is missing",
    );
    one_problem(
        "coreos: {locksmith: {max: 2}}\n",
        "line 2: coreos.locksmith.max: ",
        "remove it",
    );
    one_problem(
        "coreos: {update: {window_start: '1:00'}}\n",
        "line 2: coreos.update.window_start: ",
        "coreos.locksmith",
    );
    let both = read("coreos: {locksmith: {window_start: x, window_length: y}}\n");
    assert_eq!(both.problems.len(), 2);
}
