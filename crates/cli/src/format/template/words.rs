//! What stands between the braces: words, in commands, in pipelines.

use super::bad;
use crate::error::Result;
use serde_json::Value;

/// Commands, of which each gets what the one before it gave.
pub type Pipeline = Vec<Vec<Word>>;

/// One word.
#[derive(Debug, Clone, PartialEq)]
pub enum Word {
    /// A function.
    Name(String),
    /// `.A.B`
    Path(Vec<String>),
    /// `$a.B`; without a name the whole value.
    Variable(String, Vec<String>),
    /// A text, number or truth.
    Literal(Value),
    /// `(…).A`
    Group(Pipeline, Vec<String>),
}

/// Reads all of a text.
pub fn pipeline(text: &str) -> Result<Pipeline> {
    let mut rest = text.trim();
    let found = commands(&mut rest, text)?;
    if rest.is_empty() {
        Ok(found)
    } else {
        Err(bad(format!("{text}: a bracket closes nothing")))
    }
}

/// Reads up to the end, or to a closing bracket, which is left.
fn commands(rest: &mut &str, text: &str) -> Result<Pipeline> {
    let mut all: Pipeline = vec![Vec::new()];
    loop {
        *rest = rest.trim_start();
        let Some(first) = rest.chars().next() else {
            break;
        };
        let word = match first {
            ')' => break,
            '|' => {
                *rest = &rest[1..];
                all.push(Vec::new());
                continue;
            }
            '"' | '`' => Word::Literal(Value::String(quoted(rest, first, text)?)),
            '(' => {
                *rest = &rest[1..];
                let inside = commands(rest, text)?;
                *rest = rest
                    .strip_prefix(')')
                    .ok_or_else(|| bad(format!("{text}: a bracket is not closed")))?;
                let fields = if rest.starts_with('.') {
                    plain(rest)
                } else {
                    ""
                };
                Word::Group(inside, path(fields))
            }
            _ => named(plain(rest)),
        };
        if let Some(command) = all.last_mut() {
            command.push(word);
        }
    }
    if all.len() > 1 && all.iter().any(Vec::is_empty) {
        return Err(bad(format!("{text}: nothing stands beside a pipe")));
    }
    Ok(all)
}

/// A text in quotes; in double ones a backslash says that the next character is itself.
fn quoted(rest: &mut &str, quote: char, text: &str) -> Result<String> {
    let mut out = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if quote == '"' => out.extend(chars.next().map(|(_, c)| c)),
            c if c == quote => {
                *rest = &rest[at + 1..];
                return Ok(out);
            }
            c => out.push(c),
        }
    }
    Err(bad(format!("{text}: a text is not closed")))
}

/// Takes a word off that has neither blanks nor brackets.
fn plain<'a>(rest: &mut &'a str) -> &'a str {
    let ends = |c: char| c.is_whitespace() || matches!(c, '(' | ')' | '|');
    let (word, after) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
    *rest = after;
    word
}

fn path(text: &str) -> Vec<String> {
    let parts = text.split('.').filter(|s| !s.is_empty());
    parts.map(str::to_owned).collect()
}

fn named(word: &str) -> Word {
    if word.starts_with('.') {
        return Word::Path(path(word));
    }
    if let Some(variable) = word.strip_prefix('$') {
        let (name, fields) = variable.split_once('.').unwrap_or((variable, ""));
        return Word::Variable(name.to_owned(), path(fields));
    }
    match word {
        "true" | "false" => Word::Literal(Value::Bool(word == "true")),
        "nil" => Word::Literal(Value::Null),
        _ => word.parse::<i64>().map_or_else(
            |_| Word::Name(word.to_owned()),
            |number| Word::Literal(number.into()),
        ),
    }
}
