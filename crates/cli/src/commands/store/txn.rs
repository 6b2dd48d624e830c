//! `txn`: transactions in etcdctl's words.
//!
//! ```text
//! value("a") = "1"        compares, a line each
//!                         an empty line after each part
//! put a 2
//!
//! get a
//!
//! ```

use super::kv::{Del, Get, Put};
use super::model::base64;
use crate::error::{CliError, Result};
use clap::Parser;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

/// A step's line.
#[derive(Debug, Parser)]
#[command(
    no_binary_name = true,
    disable_help_flag = true,
    args_override_self = true
)]
struct Line {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, clap::Subcommand)]
#[command(disable_help_subcommand = true)]
enum Step {
    Get(Get),
    Put(Put),
    Del(Del),
}

fn malformed(line: &str, why: &str) -> CliError {
    CliError::Usage(format!("transaction, in the line `{line}`: {why}"))
}

/// The request of what stdin has.
///
/// # Errors
/// `Usage`, naming the line.
pub fn request(text: &str) -> Result<Value> {
    let mut lines = text.split_inclusive('\n');
    let mut part = |name: &str| {
        let mut found = Vec::new();
        loop {
            // Without the empty line at the end it may be half of what was meant.
            let line = lines.next().filter(|line| line.ends_with('\n'));
            let Some(line) = line.map(str::trim) else {
                return Err(CliError::Usage(format!(
                    "the transaction ends within its {name}; write compares, requests for success and requests for failure, and an empty line after each of the three"
                )));
            };
            if line.is_empty() {
                return Ok(found);
            }
            found.push(line);
        }
    };
    let compares = part("compares")?;
    let success = part("requests for success")?;
    let failure = part("requests for failure")?;
    let all = |lines: Vec<&str>, read: fn(&str) -> Result<Value>| {
        lines.into_iter().map(read).collect::<Result<Vec<Value>>>()
    };
    Ok(json!({
        "compare": all(compares, compare)?,
        "success": all(success, step)?,
        "failure": all(failure, step)?,
    }))
}

/// `target("key") op "value"`
fn compare(line: &str) -> Result<Value> {
    let form = || malformed(line, "write a compare as value(\"key\") = \"value\"");
    let (target, rest) = line.split_once('(').ok_or_else(form)?;
    let (key, rest) = string(rest.trim_start()).ok_or_else(form)?;
    let rest = rest.trim_start().strip_prefix(')').ok_or_else(form)?;
    let rest = rest.trim_start();
    let (op, rest) = rest.split_at(rest.find('"').ok_or_else(form)?);
    let (value, rest) = string(rest).ok_or_else(form)?;
    if !rest.trim().is_empty() {
        return Err(form());
    }
    let result = match op.trim() {
        "=" => "EQUAL",
        "!=" => "NOT_EQUAL",
        "<" => "LESS",
        ">" => "GREATER",
        _ => return Err(malformed(line, "the operator is one of =, !=, < and >")),
    };
    let text = String::from_utf8_lossy(&value);
    let number = || {
        let number = text.parse::<i64>();
        number.map_err(|_| malformed(line, &format!("\"{text}\" is no number")))
    };
    let (target, field, operand) = match target.trim() {
        "ver" | "version" => ("VERSION", "version", number()?.to_string()),
        "c" | "create" => ("CREATE", "create_revision", number()?.to_string()),
        "m" | "mod" => ("MOD", "mod_revision", number()?.to_string()),
        "val" | "value" => ("VALUE", "value", base64(&value)),
        "lease" => {
            let id = super::lease::id(&text).map_err(|why| malformed(line, &why))?;
            ("LEASE", "lease", id.to_string())
        }
        _ => {
            let why = "compare one of value, version, create, mod and lease";
            return Err(malformed(line, why));
        }
    };
    Ok(json!({ "key": base64(&key), "target": target, "result": result, field: operand }))
}

/// `get`, `put` or `del` with their flags.
fn step(line: &str) -> Result<Value> {
    let words = words(line).ok_or_else(|| malformed(line, "a quoted word does not end"))?;
    let read = Line::try_parse_from(words);
    let read = read.map_err(|error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        malformed(line, first.trim_start_matches("error: "))
    })?;
    Ok(match read.step {
        Step::Get(get) => json!({ "request_range": get.request() }),
        Step::Put(put) => {
            let request = put.request().ok_or_else(|| {
                malformed(line, "the value is missing; an empty one is written \"\"")
            })?;
            json!({ "request_put": request })
        }
        Step::Del(del) => json!({ "request_delete_range": del.request() }),
    })
}

/// Words apart by white space; `'as it is'` and `"with \n as in Go"` hold together.
fn words(line: &str) -> Option<Vec<OsString>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, after) = match first {
            '"' => string(rest)?,
            '\'' => {
                let (word, after) = rest[1..].split_once('\'')?;
                (word.as_bytes().to_vec(), after)
            }
            _ => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                (rest.as_bytes()[..end].to_vec(), &rest[end..])
            }
        };
        words.push(OsString::from_vec(word));
        rest = after.trim_start();
    }
    Some(words)
}

/// A string in Go's double quotes (or backquotes, which keep all as it is) at the beginning of `text`, and what comes after it.
fn string(text: &str) -> Option<(Vec<u8>, &str)> {
    if let Some(raw) = text.strip_prefix('`') {
        let (word, rest) = raw.split_once('`')?;
        return Some((word.as_bytes().to_vec(), rest));
    }
    let mut chars = text.strip_prefix('"')?.chars();
    let mut bytes = Vec::new();
    let digits = |chars: &mut std::str::Chars<'_>, first: Option<char>, more, base| {
        let mut number = first.map_or(Some(0), |c| c.to_digit(base))?;
        for _ in 0..more {
            number = number.checked_mul(base)? + chars.next()?.to_digit(base)?;
        }
        Some(number)
    };
    loop {
        let c = match chars.next()? {
            '"' => return Some((bytes, chars.as_str())),
            '\\' => match chars.next()? {
                'a' => '\x07',
                'b' => '\x08',
                'f' => '\x0c',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'v' => '\x0b',
                c @ ('\\' | '"') => c,
                'x' => {
                    bytes.push(u8::try_from(digits(&mut chars, None, 2, 16)?).ok()?);
                    continue;
                }
                c @ '0'..='7' => {
                    bytes.push(u8::try_from(digits(&mut chars, Some(c), 2, 8)?).ok()?);
                    continue;
                }
                'u' => char::from_u32(digits(&mut chars, None, 4, 16)?)?,
                'U' => char::from_u32(digits(&mut chars, None, 8, 16)?)?,
                _ => return None,
            },
            c => c,
        };
        bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn words_hold_together_as_they_are_quoted() {
        let found = words(r#"put "a \x00\u00e9\"" 'b\n c' --lease=1 """#).unwrap();
        let expected = ["put", "a \0é\"", "b\\n c", "--lease=1", ""];
        assert_eq!(found, expected.map(OsString::from));
        assert!(words("put \"a").is_none() && words("put 'a").is_none());
        assert!(words(r#"put "\q""#).is_none());
    }

    #[test]
    fn three_parts_with_an_empty_line_after_each() {
        let text =
            "ver(\"a\")=\"5\"\nlease(\"a\") != \"ff\"\n\nget a b --limit 1\n\ndel --prefix a\n\n";
        let request = request(text).unwrap();
        assert_eq!(request["compare"][0]["version"], "5");
        assert_eq!(request["compare"][1]["lease"], "255");
        assert_eq!(request["success"][0]["request_range"]["limit"], "1");
        let range_end = &request["failure"][0]["request_delete_range"]["range_end"];
        assert_eq!(*range_end, base64(b"b"));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (text, words) in [
            ("", "ends within its compares"),
            ("\n\nput a b", "within its requests for failure"),
            ("\n\nput a b\n", "within its requests for failure"),
            ("x(\"a\") = \"1\"\n\n\n\n", "one of value, version"),
            ("ver(\"a\") = \"z\"\n\n\n\n", "is no number"),
            ("ver(\"a\") ~ \"1\"\n\n\n\n", "the operator is"),
            ("ver(a) = 1\n\n\n\n", "write a compare as"),
            ("ver(\"a\") = \"1\" x\n\n\n\n", "write a compare as"),
            ("\nput a\n\n\n", "value is missing"),
            ("\nget a --bogus\n\n\n", "--bogus"),
            ("\nget a b --prefix\n\n\n", "--prefix"),
            ("\nfoo a\n\n\n", "foo"),
        ] {
            let error = request(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }
}
