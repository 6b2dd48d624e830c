//! Filters: `{"label":["a=b"],"status":["running"]}`, or the older `{"label":{"a=b":true}}`.

use crate::error::{ApiError, Result};
use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use std::collections::BTreeMap;

/// What a list is narrowed to. Values of one key are alternatives, keys must all hold.
#[derive(Debug, Default)]
pub struct Filters {
    all: BTreeMap<String, Vec<String>>,
    names: Vec<Name>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    List(Vec<String>),
    Set(BTreeMap<String, bool>),
}

impl Filters {
    /// Reads the parameter and refuses keys that are not in `known`.
    ///
    /// # Errors
    /// 400 naming the key, or what cannot be read.
    pub fn read(text: Option<&str>, known: &[&str]) -> Result<Self> {
        let Some(text) = text else {
            return Ok(Self::default());
        };
        let all: BTreeMap<String, Values> = serde_json::from_str(text)
            .map_err(|e| ApiError::invalid(format!("invalid filters {text}: {e}")))?;
        let mut found = BTreeMap::new();
        for (key, values) in all {
            if !known.contains(&key.as_str()) {
                return Err(ApiError::invalid(format!(
                    "invalid filter '{key}'; this list takes {}",
                    known.join(", ")
                )));
            }
            let values = match values {
                Values::List(list) => list,
                Values::Set(set) => set
                    .into_iter()
                    .filter(|(_, on)| *on)
                    .map(|(v, _)| v)
                    .collect(),
            };
            found.insert(key, values);
        }
        let names = found.get("name").map_or(&[][..], Vec::as_slice);
        Ok(Self {
            names: names.iter().map(|n| Name::read(n)).collect(),
            all: found,
        })
    }

    /// The values of a key.
    pub fn of(&self, key: &str) -> &[String] {
        self.all.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether there is nothing to ask of this key, or one of its values holds.
    pub fn any(&self, key: &str, holds: impl Fn(&str) -> bool) -> bool {
        let values = self.of(key);
        values.is_empty() || values.iter().any(|v| holds(v))
    }

    /// Whether there is nothing to ask of names, or one that is asked for fits.
    pub fn name(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|n| n.fits(name))
    }

    /// Whether every `label` (`key` or `key=value`) is there, and no `label!`.
    pub fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
            None => labels.contains_key(wanted),
        };
        self.of("label").iter().all(has) && !self.of("label!").iter().any(has)
    }

    /// A filter that is a switch: `dangling=true`.
    pub fn switch(&self, key: &str) -> Option<bool> {
        self.of(key)
            .first()
            .map(|v| matches!(v.to_ascii_lowercase().as_str(), "true" | "1"))
    }
}

/// Bytes that a regular expression of a filter may take.
const LIMIT: usize = 64 << 10;

/// What a name is asked to have in it, as docker fits names.
#[derive(Debug)]
enum Name {
    Plain(String),
    /// Found in the name, with a slash before it or without.
    Pattern(Regex),
    /// It cannot be read, and fits nothing.
    Nothing,
}

impl Name {
    fn read(wanted: &str) -> Self {
        // Most are plain, and a regular expression takes longer to read than to use.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if wanted.chars().all(plain) {
            return Self::Plain(wanted.to_owned());
        }
        let pattern = RegexBuilder::new(wanted).size_limit(LIMIT).build();
        pattern.map_or(Self::Nothing, Self::Pattern)
    }

    fn fits(&self, name: &str) -> bool {
        match self {
            Self::Plain(wanted) => name.contains(wanted),
            Self::Pattern(pattern) => {
                pattern.is_match(name) || pattern.is_match(&format!("/{name}"))
            }
            Self::Nothing => false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_forms_and_unknown_keys() {
        let new = Filters::read(Some(r#"{"label":["a=b","c"]}"#), &["label"]).unwrap();
        let old = Filters::read(
            Some(r#"{"label":{"a=b":true,"c":true,"d":false}}"#),
            &["label"],
        )
        .unwrap();
        for filters in [new, old] {
            let labels =
                BTreeMap::from([("a".to_owned(), "b".to_owned()), ("c".into(), "x".into())]);
            assert!(filters.labels(&labels));
            assert!(!filters.labels(&BTreeMap::new()));
        }
        let error = Filters::read(Some(r#"{"nope":["x"]}"#), &["label"]).unwrap_err();
        assert!(error.message().contains("nope") && error.message().contains("label"));
        assert!(Filters::read(Some("x"), &[]).is_err());
    }

    #[test]
    fn names() {
        for (name, wanted, fits) in [
            ("web-1", "web", true),
            ("web-1", "^web$", false),
            ("web-1", "^/web-1$", true),
            ("my-web", "^web", false),
            ("my-web", "web$", true),
            ("web", "(", false),
        ] {
            assert_eq!(Name::read(wanted).fits(name), fits, "{name} {wanted}");
        }
    }
}
