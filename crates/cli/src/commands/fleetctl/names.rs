//! From what a person writes to units' names.

use super::api;
use crate::client::Client;
use crate::error::{CliError, Result};
use coracle_unit::fleet::glob_match;
use std::path::Path;

/// Suffixes of units, fleet's and ours. A name without one is that of a service.
const KINDS: [&str; 11] = [
    "service",
    "socket",
    "timer",
    "path",
    "device",
    "mount",
    "automount",
    "container",
    "volume",
    "network",
    "pod",
];

/// With `.service`, unless it has a unit's suffix.
pub fn with_kind(word: &str) -> String {
    match word.rsplit_once('.') {
        Some((_, kind)) if KINDS.contains(&kind) => word.to_owned(),
        _ => format!("{word}.service"),
    }
}

/// The name of the unit that a word means: the last part of a path, with a suffix.
pub fn mangle(word: &str) -> String {
    with_kind(word.rsplit('/').next().unwrap_or(word))
}

/// The names that words mean. One with `*`, `?` or `[` means all units there are that it matches, unless it is a file.
///
/// # Errors
/// A pattern that matches nothing.
pub async fn names(client: &Client, words: &[String]) -> Result<Vec<String>> {
    let mut known = None;
    let mut all: Vec<String> = Vec::new();
    for word in words {
        if !word.contains(['*', '?', '[']) || Path::new(word).exists() {
            all.push(mangle(word));
            continue;
        }
        let known = match &mut known {
            Some(known) => known,
            None => known.insert(api::units(client).await?),
        };
        let whole = with_kind(word);
        let found = known.iter().map(|u| &u.name);
        let found = found.filter(|n| glob_match(word, n) || glob_match(&whole, n));
        let before = all.len();
        all.extend(found.cloned());
        if all.len() == before {
            return Err(CliError::Usage(format!("no unit matches \"{word}\"")));
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|name| seen.insert(name.clone()));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_words_mean() {
        for (word, name) in [
            ("hello", "hello.service"),
            ("hello.service", "hello.service"),
            ("units/hello.service", "hello.service"),
            ("/units/web@1", "web@1.service"),
            ("hello.1", "hello.1.service"),
            ("hello.link", "hello.link.service"),
            ("db.container", "db.container"),
        ] {
            assert_eq!(mangle(word), name);
        }
    }
}
