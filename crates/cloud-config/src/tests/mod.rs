//! Documents and what comes of them.
use crate::{CloudConfig, Parsed, parse};

mod coracle;
mod coreos;
mod document;
mod files;
mod hostile;
mod keys;
mod network;
mod robust;
mod settings;
mod substitute;
mod units;
mod whole;

/// A key as `ssh-keygen -t ed25519` makes it.
const ED25519: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPtGzrHMV7vyqpUKB5JFCJY6TBpHMq+q57Dyxfq+IiG1 core@example";

/// What comes of these lines after the first.
fn read(body: &str) -> Parsed {
    parse(&format!("#cloud-config\n{body}"))
}

/// The configuration of a document in which nothing is wrong.
#[track_caller]
fn good(body: &str) -> CloudConfig {
    let parsed = read(body);
    assert_eq!(shown(&parsed), Vec::<String>::new());
    parsed.config
}

fn shown(parsed: &Parsed) -> Vec<String> {
    parsed.problems.iter().map(ToString::to_string).collect()
}

/// Reads a document with one problem, which begins and ends with these words or has them, and gives what was understood.
#[track_caller]
fn one_problem(body: &str, place: &str, words: &str) -> CloudConfig {
    let parsed = read(body);
    let shown = shown(&parsed);
    assert_eq!(shown.len(), 1, "{shown:#?}");
    assert!(
        shown[0].starts_with(place),
        "{} does not begin with {place}",
        shown[0]
    );
    assert!(shown[0].contains(words), "{} has no {words}", shown[0]);
    parsed.config
}
