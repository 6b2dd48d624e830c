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
