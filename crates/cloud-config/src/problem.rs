//! Problems of a document: all of them at once, each with its place.
use serde::Serialize;
use std::fmt;

/// How many problems are told of one document.
const PROBLEMS_MAX: usize = 1000;
/// Characters of what was written that a message repeats.
const QUOTED_MAX: usize = 60;

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Line of the document, counted from 1.
    pub line: usize,
    /// Character of the line, counted from 1.
    pub column: usize,
    /// Path of the key, such as `coreos.units[1].content`; empty where the document as a whole is meant.
    pub key: String,
    /// Cause and way out.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// A place in the document; both are counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub line: usize,
    pub column: usize,
}

impl Mark {
    /// Where the document begins.
    pub const START: Mark = Mark { line: 1, column: 1 };
}

/// Takes up problems. A hostile document has as many as it has lines, of which most are only counted.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    list: Vec<Problem>,
    further: usize,
}

impl Problems {
    pub fn add(&mut self, mark: Mark, key: &str, message: impl Into<String>) {
        if self.list.len() >= PROBLEMS_MAX {
            self.further += 1;
            return;
        }
        // Messages go to a terminal.
        let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        self.list.push(Problem {
            line: mark.line,
            column: mark.column,
            key: key.to_owned(),
            message: message.into().chars().map(plain).collect(),
        });
    }

    /// In the order of the document.
    pub fn finish(self) -> Vec<Problem> {
        let Problems { mut list, further } = self;
        list.sort_by_key(|p| (p.line, p.column));
        if let Some(last) = list.last().filter(|_| further > 0) {
            list.push(Problem {
                key: String::new(),
                message: format!("{further} further problems are not told; mend these first"),
                ..last.clone()
            });
        }
        list
    }
}

/// What was written, short enough for a message.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_MAX) {
        Some((end, _)) => format!("{:?}", format!("{}…", &text[..end])),
        None => format!("{text:?}"),
    }
}
