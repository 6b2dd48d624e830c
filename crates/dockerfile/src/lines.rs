//! Lines: parser directives, comments, continuation, and the bodies of here-documents.
//!
//! `RUN a \` with the next line `  b` is one instruction, `RUN a   b`. A line that is a comment is left out also in the middle, and so
//! is an empty one, with a warning.

use crate::error::{DockerfileError, short};
use crate::heredoc::Heredoc;

/// An instruction's line, continuation joined.
#[derive(Debug)]
pub(crate) struct Logical {
    pub text: String,
    /// Its first line, from 1.
    pub first: usize,
    /// An empty line in its middle.
    pub blank: Option<usize>,
}

/// Takes a text line by line.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    raw: std::str::SplitInclusive<'a, char>,
    /// How many are taken, which is the last one's number.
    pub taken: usize,
    pub escape: char,
    /// The first word of the directive `syntax`.
    pub syntax: Option<String>,
    seen: Vec<&'static str>,
    /// Whether directives may still come.
    open: bool,
}

impl<'a> Lines<'a> {
    /// A file: a byte order mark is left out, directives are looked for.
    pub fn of_file(text: &'a str) -> Self {
        Self::of(text.strip_prefix('\u{feff}').unwrap_or(text), '\\', true)
    }

    /// A part of one, whose escape character is known.
    pub fn of_part(text: &'a str, escape: char) -> Self {
        Self::of(text, escape, false)
    }

    fn of(text: &'a str, escape: char, open: bool) -> Self {
        Self {
            raw: text.split_inclusive('\n'),
            taken: 0,
            escape,
            syntax: None,
            seen: Vec::new(),
            open,
        }
    }

    fn take(&mut self) -> Option<&'a str> {
        let line = self.raw.next()?;
        self.taken += 1;
        Some(line)
    }

    /// The next instruction's line, if there is one.
    pub fn instruction(&mut self) -> Result<Option<Logical>, DockerfileError> {
        while let Some(raw) = self.take() {
            let start = without_end(raw).trim_start();
            if self.open {
                self.directive(start)?;
            }
            if !start.is_empty() && !start.starts_with('#') {
                return Ok(Some(self.joined(start)));
            }
        }
        Ok(None)
    }

    fn joined(&mut self, start: &str) -> Logical {
        let (mut text, mut blank, first) = (String::new(), None, self.taken);
        let mut next = Some(start);
        while let Some(line) = next {
            match continued(line, self.escape) {
                Some(line) => text.push_str(line),
                None => {
                    text.push_str(line);
                    break;
                }
            }
            next = loop {
                let Some(line) = self.take().map(without_end) else {
                    break None;
                };
                let visible = line.trim_start();
                if visible.is_empty() {
                    blank = blank.or(Some(self.taken));
                } else if !visible.starts_with('#') {
                    break Some(line);
                }
            };
        }
        Logical { text, first, blank }
    }

    /// Reads a here-document's lines; whether its end came.
    pub fn document(&mut self, document: &mut Heredoc) -> bool {
        while let Some(raw) = self.take() {
            let line = without_end(raw);
            let end = match document.chomp {
                true => line.trim_start_matches('\t'),
                false => line,
            };
            if end == document.name {
                return true;
            }
            document.content.push_str(raw);
        }
        false
    }

    /// Looks whether a line is a directive; after the first that is none, none follows.
    fn directive(&mut self, line: &str) -> Result<(), DockerfileError> {
        let known = |name: &str| {
            ["escape", "syntax", "check"]
                .into_iter()
                .find(|k| k.eq_ignore_ascii_case(name))
        };
        let found = named(line).and_then(|(name, value)| Some((known(name)?, value)));
        let Some((name, value)) = found else {
            self.open = false;
            return Ok(());
        };
        let wrong = |cause| DockerfileError::Directive {
            line: self.taken,
            cause,
        };
        if self.seen.contains(&name) {
            return Err(wrong(format!(
                "only one {name} parser directive can be used; take this one out"
            )));
        }
        match (name, value) {
            ("escape", "\\") => self.escape = '\\',
            ("escape", "`") => self.escape = '`',
            ("escape", other) => {
                return Err(wrong(format!(
                    "invalid escape token '{}' does not match ` or \\",
                    short(other)
                )));
            }
            // What follows the first word is for the frontend named.
            ("syntax", value) => {
                self.syntax = value.split(' ').next().map(str::to_owned);
            }
            _ => {}
        }
        self.seen.push(name);
        Ok(())
    }
}

/// `# name = value`.
fn named(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.strip_prefix('#')?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let letter = name.starts_with(|c: char| c.is_ascii_alphabetic());
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric());
    (letter && plain && !value.is_empty()).then_some((name, value))
}

fn without_end(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

/// The line without the escape character at its end, if it goes on. Two of them are one that is escaped.
fn continued(line: &str, escape: char) -> Option<&str> {
    let rest = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!rest.ends_with(escape)).then_some(rest)
}
