//! moby's reference tables of `.dockerignore`.
#![allow(clippy::unwrap_used)]

mod common;
use common::*;
use coracle_dockerfile::*;
use serde_json::json;

const FILE: &str = "patternmatcher/json/patternmatcher_test.json";

fn ignore(patterns: &[String]) -> Ignore {
    Ignore::new(patterns).unwrap_or_else(|e| panic!("{patterns:?}: {e}"))
}

#[test]
fn paths() {
    for row in rows(FILE, "TestMatches", "tests", 67) {
        let found = ignore(&[s(&row, "pattern").to_owned()]).excludes(s(&row, "text"));
        assert_eq!(json!(found), row["pass"], "{row}");
    }
    for row in rows(FILE, "TestMatches", "multiPatternTests", 4) {
        let found = ignore(&strings(&row["patterns"])).excludes(s(&row, "text"));
        assert_eq!(json!(found), row["pass"], "{row}");
    }
}

#[test]
fn paths_as_go_matches_them() {
    let func = "TestCleanPatternsErrorSingleException";
    let mut wrong = 0;
    for row in rows(FILE, func, "matchTests", 54) {
        let found = Ignore::new(&[s(&row, "pattern").to_owned()]);
        // The error's name is all there is of it.
        match row["err"]["$expr"].as_str() {
            Some(name) => {
                assert_eq!(name, "filepath.ErrBadPattern");
                assert!(matches!(found, Err(PatternError::Syntax(_))), "{row}");
                assert!(matches(s(&row, "pattern"), s(&row, "s")).is_err(), "{row}");
                wrong += 1;
            }
            None => {
                assert_eq!(
                    json!(found.unwrap().excludes(s(&row, "s"))),
                    row["match"],
                    "{row}"
                );
                let whole = matches(s(&row, "pattern"), s(&row, "s")).unwrap();
                // By itself a pattern does not fit what is below a path that it fits.
                let below = row["match"] == true && s(&row, "s").contains('/') && !whole;
                assert!(json!(whole) == row["match"] || below, "{row}");
            }
        }
    }
    assert!(wrong >= 15, "{wrong}");
}

#[test]
fn how_patterns_are_compared() {
    for row in rows(FILE, "TestMatch", "compileTests", 21) {
        let (how, regexp) = probe::ignore(s(&row, "pattern")).unwrap();
        assert_eq!(how, s(&row["matchType"], "$expr"), "{row}");
        assert_eq!(regexp, s(&row, "compiledRegexp"), "{row}");
    }
}

#[test]
fn patterns_are_cleaned() {
    for (func, exceptions) in [
        ("TestCleanPatterns", false),
        ("TestCleanPatternsStripEmptyPatterns", false),
        ("TestCleanPatternsExceptionFlag", true),
        ("TestCleanPatternsLeadingSpaceTrimmed", true),
        ("TestCleanPatternsTrailingSpaceTrimmed", true),
    ] {
        let patterns = strings(&tables(FILE, func, "patterns").remove(0));
        let all = ignore(&patterns);
        assert_eq!(all.has_exceptions(), exceptions, "{func}");
        assert!(all.excludes("docs/x") && !all.excludes("other"), "{func}");
        assert_eq!(all.excludes("docs/README.md"), !exceptions, "{func}");
        assert_eq!(all.may_hold_exceptions("docs"), exceptions, "{func}");
    }
    let func = "TestCleanPatternsErrorSingleException";
    let patterns = strings(&tables(FILE, func, "patterns").remove(0));
    assert!(matches!(
        Ignore::new(&patterns),
        Err(PatternError::Exception)
    ));
}

#[test]
fn files() {
    // The table has only what is to be found.
    let wanted = rows(
        "patternmatcher/json/ignorefile_test.json",
        "TestReadAll",
        "expected",
        7,
    );
    let text = "\u{feff}test1\r\n/test2\n /a/./file//here/ \n\n  \nlastfile\n# not this\n! /inverted/abs/path\n!\n! ";
    assert_eq!(json!(Ignore::read(text)), json!(wanted));
}
