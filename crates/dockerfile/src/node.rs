//! Lines and nodes: what BuildKit's parser makes of a text before anything has a meaning.
//!
//! Worked example: `RUN a \` with the next line `  b` is one node, keyword `RUN`, one value `a   b`. A line that consists of a
//! comment is skipped also in the middle of a continuation, and an empty one there is skipped with a warning.

use crate::error::{DockerfileError, Warning};
use crate::flags;
use crate::heredoc::{self, Heredoc};
use serde_json::Value;

/// An instruction, taken apart.
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    pub keyword: String,
    pub flags: Vec<String>,
    pub values: Vec<String>,
    /// Whether the values were a JSON list.
    pub json: bool,
    /// Of ONBUILD.
    pub child: Option<Box<Node>>,
    pub heredocs: Vec<Heredoc>,
    /// Continuation joined.
    pub original: String,
    pub line: usize,
    pub end_line: usize,
    /// `ENV name value`.
    pub old_form: bool,
}

/// A file, taken apart.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub nodes: Vec<Node>,
    pub escape: char,
    pub syntax: Option<String>,
    pub warnings: Vec<Warning>,
}

/// What the comments at the top say.
struct Directives {
    escape: char,
    seen: Vec<String>,
    syntax: Option<String>,
    done: bool,
}

impl Directives {
    /// Looks at a line; after the first that is no directive none follows.
    fn look(&mut self, line: &str) -> Result<(), String> {
        if self.done {
            return Ok(());
        }
        let Some((name, value)) = directive(line) else {
            self.done = true;
            return Ok(());
        };
        if !matches!(name.as_str(), "escape" | "syntax" | "check") {
            return Ok(());
        }
        if self.seen.contains(&name) {
            return Err(format!("only one {name} parser directive can be used"));
        }
        match name.as_str() {
            "escape" => match value {
                "\\" => self.escape = '\\',
                "`" => self.escape = '`',
                other => {
                    return Err(format!(
                        "invalid escape token '{other}' does not match ` or \\"
                    ));
                }
            },
            "syntax" => self.syntax = Some(value.to_owned()),
            _ => {}
        }
        self.seen.push(name);
        Ok(())
    }
}

/// `# name = value`.
fn directive(line: &str) -> Option<(String, &str)> {
    let (name, value) = line.strip_prefix('#')?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let letter = name.starts_with(|c: char| c.is_ascii_alphabetic());
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric());
    (letter && plain && !value.is_empty()).then(|| (name.to_ascii_lowercase(), value))
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

fn without_end(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

/// The line without the escape character at its end, if it goes on.
fn continued(line: &str, escape: char) -> Option<&str> {
    let rest = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!rest.ends_with(escape)).then_some(rest)
}

/// Takes a text apart.
pub(crate) fn read(text: &str) -> Result<Nodes, DockerfileError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.split_inclusive('\n').enumerate().peekable();
    let mut directives = Directives {
        escape: '\\',
        seen: Vec::new(),
        syntax: None,
        done: false,
    };
    let (mut nodes, mut warnings) = (Vec::new(), Vec::new());
    while let Some((number, raw)) = lines.next() {
        let first = number + 1;
        let at = |text: String| DockerfileError::at(first, text);
        directives.look(without_end(raw)).map_err(at)?;
        if is_comment(raw) {
            continue;
        }
        let escape = directives.escape;
        let start = without_end(raw).trim_start();
        let mut line = String::new();
        let (mut last, mut empty) = (first, false);
        match continued(start, escape) {
            None => line.push_str(start),
            Some(start) => {
                line.push_str(start);
                for (number, raw) in lines.by_ref() {
                    last = number + 1;
                    let next = without_end(raw);
                    if is_comment(next) {
                        continue;
                    }
                    if next.trim().is_empty() {
                        empty = true;
                        continue;
                    }
                    match continued(next, escape) {
                        Some(next) => line.push_str(next),
                        None => {
                            line.push_str(next);
                            break;
                        }
                    }
                }
            }
        }
        if line.trim().is_empty() {
            continue;
        }
        if empty {
            warnings.push(Warning {
                line: first,
                text: "empty continuation lines are skipped; take them out".into(),
            });
        }
        let mut node = node(&line, escape, 0).map_err(at)?;
        if may_hold(&node) && line.contains("<<") {
            for mut document in heredoc::of_line(&line).map_err(|e| at(e.to_string()))? {
                let mut ended = false;
                for (number, raw) in lines.by_ref() {
                    last = number + 1;
                    let mut end = without_end(raw);
                    if document.chomp {
                        end = end.trim_start_matches('\t');
                    }
                    if end == document.name {
                        ended = true;
                        break;
                    }
                    document.content.push_str(raw);
                }
                if !ended {
                    let text = format!("unterminated heredoc: no line {} follows", document.name);
                    return Err(at(text));
                }
                node.heredocs.push(document);
            }
        }
        (node.line, node.end_line) = (first, last);
        nodes.push(node);
    }
    if nodes.is_empty() {
        return Err(DockerfileError::at(
            0,
            "file with no instructions; begin it with FROM",
        ));
    }
    Ok(Nodes {
        nodes,
        escape: directives.escape,
        syntax: directives.syntax,
        warnings,
    })
}

fn may_hold(node: &Node) -> bool {
    let keyword = node.keyword.to_ascii_uppercase();
    match &node.child {
        Some(child) if keyword == "ONBUILD" => may_hold(child),
        _ => matches!(keyword.as_str(), "ADD" | "COPY" | "RUN") && !node.json,
    }
}

/// Takes one instruction apart. `depth` counts the ONBUILDs around it.
pub(crate) fn node(line: &str, escape: char, depth: usize) -> Result<Node, String> {
    let trimmed = line.trim();
    let (keyword, rest) = trimmed
        .split_once(char::is_whitespace)
        .unwrap_or((trimmed, ""));
    let (args, flags) = flags::split(rest);
    let args = args.trim();
    let mut node = Node {
        keyword: keyword.to_owned(),
        flags,
        original: line.to_owned(),
        ..Node::default()
    };
    match keyword.to_ascii_uppercase().as_str() {
        "CMD" | "ENTRYPOINT" | "RUN" | "SHELL" => maybe_json(&mut node, args)?,
        "ADD" | "COPY" | "VOLUME" => {
            maybe_json(&mut node, args)?;
            if !node.json {
                node.values = blanks(args);
            }
        }
        "ARG" => node.values = words(args, escape),
        "ENV" | "LABEL" => pairs(&mut node, args, escape)?,
        "EXPOSE" | "FROM" => node.values = blanks(args),
        "HEALTHCHECK" => {
            let (kind, command) = args.split_once(char::is_whitespace).unwrap_or((args, ""));
            maybe_json(&mut node, command.trim_start())?;
            if !kind.is_empty() {
                node.values.insert(0, kind.to_owned());
            }
        }
        "ONBUILD" if !args.is_empty() => {
            if depth > 0 {
                return Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".into());
            }
            node.child = Some(Box::new(self::node(args, escape, depth + 1)?));
            node.values.push(args.to_owned());
        }
        "MAINTAINER" | "STOPSIGNAL" | "USER" | "WORKDIR" if !args.is_empty() => {
            node.values.push(args.to_owned());
        }
        // What it is, is found out later.
        _ => {}
    }
    Ok(node)
}

fn blanks(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// A JSON list of strings, or the text as it is.
fn maybe_json(node: &mut Node, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    if text.starts_with('[')
        && let Ok(Value::Array(list)) = serde_json::from_str::<Value>(text)
    {
        let strings: Option<Vec<String>> = list
            .into_iter()
            .map(|v| match v {
                Value::String(s) => Some(s),
                _ => None,
            })
            .collect();
        node.values = strings
            .ok_or("when using JSON array syntax, arrays must be comprised of strings only")?;
        node.json = true;
        return Ok(());
    }
    node.values = vec![text.to_owned()];
    Ok(())
}

/// `name=value …`, or `name the whole rest`.
fn pairs(node: &mut Node, text: &str, escape: char) -> Result<(), String> {
    let words = words(text, escape);
    let Some(first) = words.first() else {
        return Ok(());
    };
    if !first.contains('=') {
        let keyword = node.keyword.to_ascii_uppercase();
        let (name, value) = text.split_once(char::is_whitespace).ok_or_else(|| {
            format!("{keyword} must have two arguments; write {keyword} name=value")
        })?;
        node.values = vec![
            name.to_owned(),
            value.trim_start().to_owned(),
            String::new(),
        ];
        node.old_form = true;
        return Ok(());
    }
    for word in words {
        let Some((name, value)) = word.split_once('=') else {
            return Err(format!(
                "Syntax error - can't find = in \"{word}\". Must be of the form: name=value"
            ));
        };
        node.values
            .extend([name.to_owned(), value.to_owned(), "=".to_owned()]);
    }
    Ok(())
}

/// Words with their quotes and escapes.
fn words(text: &str, escape: char) -> Vec<String> {
    let (mut all, mut word, mut quote, mut inside) = (Vec::new(), String::new(), None, false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if inside {
                    all.push(std::mem::take(&mut word));
                    inside = false;
                }
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(q) if c == q => quote = None,
            _ => {}
        }
        if c == escape && quote != Some('\'') {
            // One at the very end is dropped.
            if let Some(next) = chars.next() {
                inside = true;
                word.extend([c, next]);
            }
            continue;
        }
        inside = true;
        word.push(c);
    }
    if inside && !word.is_empty() {
        all.push(word);
    }
    all
}

/// The nodes as BuildKit's tests print them.
///
/// # Errors
/// As [`crate::parse`]'s first step.
pub fn sexpr(text: &str) -> Result<String, DockerfileError> {
    let all = read(text)?;
    let printed = all.nodes.iter().map(|n| format!("({})\n", print(n)));
    Ok(printed.collect::<String>().trim().to_owned())
}

fn print(node: &Node) -> String {
    let mut text = node.keyword.to_ascii_lowercase();
    if !node.flags.is_empty() {
        let flags: Vec<String> = node.flags.iter().map(|f| quoted(f)).collect();
        text.push_str(&format!(" [{}]", flags.join(" ")));
    }
    if let Some(child) = &node.child {
        text.push_str(&format!(" ({})", print(child)));
        return text;
    }
    for value in &node.values {
        text.push_str(&format!(" {}", quoted(value)));
    }
    text
}

/// As Go's `strconv.Quote`, as far as these tests go.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
