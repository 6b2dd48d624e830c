//! Answers are those of Docker's definition: every JSON answer of a scenario is held against the definitions of the versions that
//! are exact, asked by that version's path.
//!
//! What is answered otherwise, and what is never answered, stands in `exact/exceptions.rs` with its reason.
#![allow(clippy::unwrap_used)]

mod common;
mod definition;
mod http;

#[path = "exact/changes.rs"]
mod changes;
#[path = "exact/checker.rs"]
mod checker;
#[path = "exact/exceptions.rs"]
mod exceptions;
#[path = "exact/scenario.rs"]
mod scenario;

use checker::Checker;
use common::Daemon;
use definition::{Definition, VERSIONS};
use exceptions::{Exception, MORE, NULLS, UNSENT};
use scenario::Scenario;
use std::collections::BTreeSet;

/// What a table does not explain, and what of it explains nothing.
fn unexplained(
    what: &str,
    version: &str,
    found: &BTreeSet<String>,
    table: &[Exception],
) -> Vec<String> {
    let concerns = |e: &&Exception| e.versions.is_empty() || e.versions.contains(&version);
    let known: Vec<&Exception> = table.iter().filter(concerns).collect();
    let mut all: Vec<String> = Vec::new();
    for place in found {
        if !known.iter().any(|e| e.place == place) {
            all.push(format!("{version}: {what}: {place}"));
        }
    }
    for e in known {
        if !e.sometimes && !found.contains(e.place) {
            let (place, reason) = (e.place, e.reason);
            all.push(format!(
                "{version}: not {what}, as the table has it ({reason}): {place}"
            ));
        }
    }
    all
}

#[test]
fn answers_are_those_of_the_definition() {
    let d = Daemon::start();
    let scenario = Scenario::begin(&d);
    let mut wrong = Vec::new();
    for version in VERSIONS {
        let definition = Definition::read(version);
        let mut checker = Checker::new(&definition);
        scenario.ask(version, &definition, &mut checker);
        wrong.extend(checker.wrong.iter().map(|w| format!("{version}: {w}")));
        let unsent = checker.known.difference(&checker.sent).cloned().collect();
        for (what, found, table) in [
            ("not in the definition", &checker.unknown, MORE),
            ("null", &checker.nulls, NULLS),
            ("never sent", &unsent, UNSENT),
        ] {
            wrong.extend(unexplained(what, version, found, table));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Where an answer is asked, what is looked for in it, the version that has it first, and the one that has it no more.
type Difference = (&'static str, &'static str, u16, u16);

const DIFFERENCES: &[Difference] = &[
    ("/images/json", "/0/VirtualSize", 0, 44),
    ("/images/bb/json", "/VirtualSize", 0, 44),
    ("/images/bb/json", "/ContainerConfig", 0, 45),
    ("/images/bb/json", "/Config/Hostname", 0, 50),
    (
        "/containers/web/json",
        "/NetworkSettings/Networks/back/DNSNames",
        44,
        99,
    ),
    (
        "/containers/web/json",
        "/NetworkSettings/Networks/back/GwPriority",
        48,
        99,
    ),
    // The short id.
    (
        "/containers/web/json",
        "/NetworkSettings/Networks/back/Aliases/1",
        0,
        45,
    ),
    (
        "/containers/json",
        "/0/NetworkSettings/Networks/back/Aliases/1",
        0,
        45,
    ),
    ("/containers/json", "/0/HostConfig/Annotations", 46, 99),
    ("/networks/back", "/EnableIPv4", 47, 99),
    ("/info", "/BridgeNfIptables", 0, 50),
    ("/info", "/FirewallBackend", 49, 99),
    ("/info", "/RuncCommit/Expected", 0, 49),
    (
        "/info",
        "/RegistryConfig/AllowNondistributableArtifactsCIDRs",
        0,
        49,
    ),
];

#[test]
fn versions_differ_as_dockers_do() {
    let d = Daemon::start();
    d.ok(["network", "create", "back"]);
    let post = |path: &str, body: serde_json::Value| {
        let answer = http::ask(&d, "POST", path, &body);
        assert!(answer.status < 300, "{path}: {}", answer.text());
    };
    let body = serde_json::json!({
        "Image": "bb", "Cmd": ["sleep", "1000"],
        "HostConfig": { "NetworkMode": "back", "Annotations": { "a": "b" } },
        "NetworkingConfig": { "EndpointsConfig": { "back": { "Aliases": ["db"] } } },
    });
    post("/containers/create?name=web", body);
    post("/containers/web/start", serde_json::Value::Null);
    let asked = |minor: u16, path: &str| http::get(&d, &format!("/v1.{minor}{path}")).json();
    for (path, pointer, from, until) in DIFFERENCES {
        for minor in 40..=51 {
            let answer = asked(minor, path);
            let there = answer.pointer(pointer).is_some();
            let wanted = (*from..*until).contains(&minor);
            assert_eq!(there, wanted, "{pointer} of {path} in 1.{minor}: {answer}");
        }
    }
    assert_eq!(asked(50, "/images/json")[0]["Containers"], -1);
    assert_eq!(asked(51, "/images/json")[0]["Containers"], 1);
}
