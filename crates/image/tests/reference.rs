//! The reference tables of the distribution project, row by row.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use coracle_image::{DigestError, Reference, ReferenceError};
use serde_json::Value;

fn table(file: &str, func: &str, name: &str) -> Vec<Value> {
    let root = std::env::var_os("CORACLE_REFERENCE").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference"),
        PathBuf::from,
    );
    let path = root.join("distribution-reference/json").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| {
        panic!(
            "{}: {e}; set CORACLE_REFERENCE to the folder of reference data",
            path.display()
        )
    });
    let groups: Vec<Value> = serde_json::from_str(&text).unwrap();
    let group = groups
        .iter()
        .find(|g| g["func"] == func && g["name"] == name);
    let rows = group.unwrap_or_else(|| panic!("{file} has no {func}/{name}"))["cases"].clone();
    let rows: Vec<Value> = serde_json::from_value(rows).unwrap();
    assert!(!rows.is_empty());
    rows
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or("")
}

/// A field that is a Go expression is not plain data.
fn plain(row: &Value, key: &str) -> bool {
    row.get(key).is_none_or(|v| v.is_string())
}

#[test]
fn parse() {
    let mut seen = 0;
    for row in table("reference_test.json", "TestReferenceParse", "tests") {
        if !plain(&row, "input") {
            continue;
        }
        seen += 1;
        let input = text(&row, "input");
        let result = Reference::parse(input);
        match row["err"]["$expr"].as_str() {
            None => {
                let r = result.unwrap_or_else(|e| panic!("{input}: {e}"));
                assert_eq!(r.name(), text(&row, "repository"), "{input}");
                assert_eq!(r.domain(), text(&row, "domain"), "{input}");
                assert_eq!(r.tag().unwrap_or(""), text(&row, "tag"), "{input}");
                let digest = r.digest().map(|d| d.to_string()).unwrap_or_default();
                assert_eq!(digest, text(&row, "digest"), "{input}");
                assert_eq!(r.to_string(), input);
            }
            Some(wanted) => {
                let got = match result.expect_err(input) {
                    ReferenceError::Empty => "ErrNameEmpty",
                    ReferenceError::Format(_) => "ErrReferenceInvalidFormat",
                    ReferenceError::Uppercase(_) => "ErrNameContainsUppercase",
                    ReferenceError::TooLong(_) => "ErrNameTooLong",
                    ReferenceError::Digest {
                        source: DigestError::Length(_),
                        ..
                    } => "digest.ErrDigestInvalidLength",
                    ReferenceError::Digest {
                        source: DigestError::Unsupported(_),
                        ..
                    } => "digest.ErrDigestUnsupported",
                    other => panic!("{input}: {other}"),
                };
                assert_eq!(got, wanted, "{input}");
            }
        }
    }
    assert!(seen > 40, "{seen}");
}

#[test]
fn matching_tables() {
    for row in table("regexp_test.json", "TestReferenceRegexp", "tests") {
        let input = text(&row, "input");
        let matched = Reference::parse(input);
        assert_eq!(matched.is_ok(), row["match"].as_bool().unwrap(), "{input}");
        if let (Ok(r), Some(subs)) = (matched, row["subs"].as_array()) {
            let digest = r.digest().map(|d| d.to_string()).unwrap_or_default();
            assert_eq!(
                [r.name(), r.tag().unwrap_or("").into(), digest].as_slice(),
                subs.as_slice()
            );
        }
    }
    for row in table("regexp_test.json", "TestFullNameRegexp", "tests") {
        let input = text(&row, "input");
        // The table is about names alone: a tag cannot make up for one.
        let matched = Reference::parse(input).ok().filter(|r| r.tag().is_none());
        let matched = matched.or_else(|| match Reference::parse(input) {
            Err(ReferenceError::TooLong(_)) => Reference::parse("too/long").ok(),
            _ => None,
        });
        assert_eq!(
            matched.is_some(),
            row["match"].as_bool().unwrap(),
            "{input}"
        );
        if let (Some(r), Some(subs)) = (matched, row["subs"].as_array()) {
            assert_eq!(
                [r.domain(), r.path()].as_slice(),
                subs.as_slice(),
                "{input}"
            );
        }
    }
    for row in table("regexp_test.json", "TestDomainRegexp", "tests") {
        let input = text(&row, "input");
        let matched = Reference::parse(&format!("{input}/x")).is_ok_and(|r| r.domain() == input);
        assert_eq!(matched, row["match"].as_bool().unwrap(), "{input}");
    }
    for row in table("regexp_test.json", "TestIdentifierRegexp", "tests") {
        let input = text(&row, "input");
        let matched = matches!(
            Reference::parse_normalized(input),
            Err(ReferenceError::IsId(_))
        );
        assert_eq!(matched, row["match"].as_bool().unwrap(), "{input}");
    }
}

#[test]
fn normalized_names() {
    for row in table(
        "normalize_test.json",
        "TestValidateReferenceName",
        "validRepoNames",
    ) {
        let input = row.as_str().unwrap();
        Reference::parse_normalized(input).unwrap_or_else(|e| panic!("{input}: {e}"));
    }
    for row in table(
        "normalize_test.json",
        "TestValidateReferenceName",
        "invalidRepoNames",
    ) {
        let input = row.as_str().unwrap();
        assert!(Reference::parse_normalized(input).is_err(), "{input}");
    }
    for row in table(
        "normalize_test.json",
        "TestValidateRemoteName",
        "validRepositoryNames",
    ) {
        let input = row.as_str().unwrap();
        Reference::parse_normalized(input).unwrap_or_else(|e| panic!("{input}: {e}"));
    }
    for row in table(
        "normalize_test.json",
        "TestValidateRemoteName",
        "invalidRepositoryNames",
    ) {
        let input = row.as_str().unwrap();
        assert!(Reference::parse_normalized(input).is_err(), "{input}");
    }
    for row in table(
        "normalize_test.json",
        "TestNormalizedSplitHostname",
        "tests",
    ) {
        let r = Reference::parse_normalized(text(&row, "input")).unwrap();
        assert_eq!(
            (r.domain(), r.path()),
            (text(&row, "domain"), text(&row, "path"))
        );
    }
    for row in table("normalize_test.json", "TestParseDockerRef", "tests") {
        let r = Reference::parse_normalized(text(&row, "input")).unwrap();
        assert_eq!(r.to_string(), text(&row, "expected"));
    }
}

#[test]
fn familiar_and_full_names() {
    for row in table("normalize_test.json", "TestParseRepositoryInfo", "tests") {
        for key in ["FamiliarName", "FullName", "AmbiguousName"] {
            let input = text(&row, key);
            if input.is_empty() {
                continue;
            }
            let r = Reference::parse_familiar(input).unwrap_or_else(|e| panic!("{input}: {e}"));
            assert_eq!(r.domain(), text(&row, "Domain"), "{input}");
            assert_eq!(r.path(), text(&row, "RemoteName"), "{input}");
            assert_eq!(r.familiar(), text(&row, "FamiliarName"), "{input}");
            assert_eq!(r.to_string(), text(&row, "FullName"), "{input}");
        }
    }
    for row in table("normalize_test.json", "TestParseAnyReference", "tests") {
        let input = text(&row, "Reference");
        let equivalent = text(&row, "Equivalent");
        match Reference::parse_familiar(input) {
            Ok(r) if row.get("Expected").is_none() => assert_eq!(r.to_string(), equivalent),
            Err(ReferenceError::IsId(_)) => assert_eq!(format!("sha256:{input}"), equivalent),
            // A bare digest is an id with its algorithm; the store looks it up as such.
            other => assert_eq!(input, equivalent, "{other:?}"),
        }
    }
}
