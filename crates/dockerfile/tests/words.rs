//! BuildKit's reference tables of words, variables and substitutions.
#![allow(clippy::unwrap_used)]

mod common;
use common::*;
use coracle_dockerfile::*;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

const SHELL: &str = "buildkit-dockerfile/frontend/dockerfile/shell";

#[test]
fn variables() {
    let env = BTreeMap::from([
        ("PWD", "/home"),
        ("SHELL", "bash"),
        ("KOREAN", "한국어"),
        ("NULL", ""),
    ]);
    let mut counts = BTreeMap::new();
    let text = read(&format!("{SHELL}/envVarTest"));
    for line in text.lines() {
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        }
        let parts: Vec<&str> = line.split('|').map(str::trim).collect();
        let [system, word, wanted] = parts[..] else {
            panic!("{line}")
        };
        *counts.entry(system).or_insert(0) += 1;
        // Those of Windows alone are for it alone.
        if system == "W" {
            continue;
        }
        let found = expand(word, '\\', &|name| env.get(name).map(|v| (*v).to_owned()));
        match wanted {
            "error" => assert!(found.is_err(), "{word}: {found:?}"),
            wanted => assert_eq!(found.as_deref(), Ok(wanted), "{word}"),
        }
    }
    assert!(counts["A"] >= 225 && counts["U"] >= 2, "{counts:?}");
}

#[test]
fn words_of_lines() {
    let mut env = BTreeMap::new();
    let mut count = 0;
    for line in read(&format!("{SHELL}/wordsTest")).lines() {
        if line.starts_with('#') {
            continue;
        }
        if let Some(pair) = line.strip_prefix("ENV ") {
            let (name, value) = pair.trim_start_matches(' ').split_once('=').unwrap();
            env.insert(name.to_owned(), value.to_owned());
            continue;
        }
        let (word, wanted) = line.split_once('|').unwrap();
        let found = expand_words(word.trim(), '\\', &|name| env.get(name).cloned());
        let wanted: Vec<&str> = wanted.trim_start_matches(' ').split(',').collect();
        match found {
            Ok(found) => assert_eq!(found, wanted, "{word}"),
            Err(_) => assert_eq!(wanted, ["error"], "{word}"),
        }
        count += 1;
    }
    assert!(count >= 23, "{count}");
}

#[test]
fn substitutions() {
    let path = format!("{BUILDKIT}/lex_test.json");
    for row in rows(&path, "TestProcessWithMatches", "tc", 47) {
        let (known, unknown) = (RefCell::new(BTreeSet::new()), RefCell::new(BTreeSet::new()));
        let vars = |name: &str| {
            let value = row["envs"][name].as_str().map(str::to_owned);
            let asked = if value.is_some() { &known } else { &unknown };
            asked.borrow_mut().insert(name.to_owned());
            value
        };
        let input = s(&row, "input");
        let found = expand(input, '\\', &vars);
        if row["expectedErr"] == true {
            assert!(found.is_err(), "{row}: {found:?}");
            continue;
        }
        assert_eq!(found.as_deref(), Ok(s(&row, "expected")), "{row}");
        let names = |key: &str| -> BTreeSet<String> {
            let of = row[key].as_object();
            of.map(|o| o.keys().cloned().collect()).unwrap_or_default()
        };
        assert_eq!(known.take(), names("matches"), "{row}");
        assert_eq!(unknown.take(), names("unmatched"), "{row}");
        let used: BTreeSet<String> = names_used(input, '\\').into_iter().collect();
        let both: BTreeSet<String> = &names("matches") | &names("unmatched");
        assert_eq!(used, both, "{row}");
    }
}

#[test]
fn patterns_of_substitutions() {
    let path = format!("{BUILDKIT}/lex_test.json");
    let func = "TestConvertShellPatternToRegex";
    let cases = tables(&path, func, "cases").remove(0);
    let cases = cases.as_object().unwrap();
    assert!(cases.len() >= 4);
    for (pattern, wanted) in cases {
        let found = probe::substitution(pattern, false).unwrap();
        assert_eq!(found, wanted.as_str().unwrap(), "{pattern}");
    }
    for pattern in rows(&path, func, "invalid", 3) {
        let found = probe::substitution(pattern.as_str().unwrap(), false);
        assert!(found.is_err(), "{pattern}: {found:?}");
    }
    // Ours are turned round when they are read, not before: what is no pattern is none in both directions.
    let cases = tables(&path, "TestReversePattern", "cases").remove(0);
    let cases = cases.as_object().unwrap();
    assert!(cases.len() >= 5);
    for (pattern, wanted) in cases {
        let found = probe::substitution(pattern, true);
        let wanted = probe::substitution(wanted.as_str().unwrap(), false);
        assert_eq!(found.ok(), wanted.ok(), "{pattern}");
    }
}

#[test]
fn variables_that_must_be_there() {
    let path = format!("{BUILDKIT}/lex_test.json");
    let words = ["${VAR:?message here$ARG}", "${VAR?message here$ARG}"];
    for (name, wanted) in [
        ("setEnvs", [Some("plain"), Some("plain")]),
        ("emptyEnvs", [None, Some("")]),
        ("unsetEnvs", [None, None]),
    ] {
        let env = tables(&path, "TestShellParserMandatoryEnvVars", name).remove(0);
        let env = strings(&env);
        let vars = |name: &str| {
            let mut pairs = env.iter().filter_map(|e| e.split_once('='));
            pairs.find(|(n, _)| *n == name).map(|(_, v)| v.to_owned())
        };
        for (word, wanted) in words.iter().zip(wanted) {
            match (expand(word, '\\', &vars), wanted) {
                (Ok(found), Some(wanted)) => assert_eq!(found, wanted, "{name} {word}"),
                (Err(e), None) => assert!(e.to_string().contains("message herex"), "{e}"),
                (found, wanted) => panic!("{name} {word}: {found:?}, not {wanted:?}"),
            }
        }
    }
}

#[test]
fn quotes_escapes_and_names() {
    let vars = |name: &str| (name == "A").then(|| "1  2".to_owned());
    assert_eq!(expand("`$A '$A' \"`$A\"", '`', &vars).unwrap(), "$A $A $A");
    assert_eq!(
        expand_raw("'$A' \"$A\" \\$A a\\\\b $B.", '\\', &vars).unwrap(),
        "'1  2' \"1  2\" $A a\\b ."
    );
    assert_eq!(
        expand_words("x$A\"$A\" \"\" ''", '\\', &vars).unwrap(),
        ["x1", "21  2"]
    );
    assert_eq!(
        names_used(
            "$a ${b:-$c} '$no' \\$no \"$d\" ${e/$f/${a}} $$ ${g:?why $h}",
            '\\'
        ),
        ["a", "b", "c", "d", "e", "f", "$", "g", "h"]
    );
    // Up to what is wrong.
    assert_eq!(names_used("$a ${b^} $c", '\\'), ["a", "b"]);
    // A default within a pattern is no pattern.
    assert_eq!(expand("${A#${B:-1\\ }}", '\\', &vars).unwrap(), " 2");
}
