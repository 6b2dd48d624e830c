//! Reading and writing systemd's unit-file syntax (systemd.syntax(7)), without meaning.
//!
//! A file is an ordered list of sections, each an ordered list of `Key=value` entries. Values are
//! kept as written, continuation lines included; [`Entry::value`] gives the joined line. Lines
//! before the first section are kept apart in [`UnitFile::stray`], so that a loader can refuse them.
use std::fmt::Write as _;
use std::sync::Arc;

/// Longest physical line in bytes: systemd's LONG_LINE_MAX.
pub const LINE_MAX: usize = 1024 * 1024;
/// Longest file in bytes.
pub const FILE_MAX: usize = 8 * 1024 * 1024;

/// One assignment.
#[derive(Debug, Clone)]
pub struct Entry {
    /// File the entry was read from.
    pub file: Arc<str>,
    /// Line of the key, counted from 1.
    pub line: usize,
    /// The key, trimmed.
    pub key: String,
    /// The value as written, continuation lines and comments between them included.
    pub raw: String,
}

impl Entry {
    /// The value as one line: continuations become a blank, comments between them vanish.
    pub fn value(&self) -> String {
        let mut out = String::new();
        let mut lines = self.raw.split('\n').enumerate().peekable();
        while let Some((number, line)) = lines.next() {
            if number > 0 && is_comment(line) {
                continue;
            }
            let more = lines.peek().is_some() && continues(line);
            let kept = if more { &line[..line.len() - 1] } else { line };
            out.push_str(if number > 0 {
                kept.trim_start_matches(BLANK)
            } else {
                kept
            });
            if more {
                out.push(' ');
            }
        }
        out.trim_matches(BLANK).to_owned()
    }
}

/// One `[Name]` block. A name may occur several times in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// Name without brackets.
    pub name: String,
    /// Line of the header, counted from 1.
    line: LineNumber,
    /// Entries in file order.
    pub entries: Vec<Entry>,
}

/// A line number that does not take part in comparisons.
#[derive(Debug, Clone, Copy)]
struct LineNumber(usize);

impl PartialEq for LineNumber {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Section {
    /// Line of the header, counted from 1.
    pub fn line(&self) -> usize {
        self.line.0
    }
}

/// Entries are equal when key and value are; where they stand does not count.
impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.raw == other.raw
    }
}

/// A parsed file. Equality is that of its sections.
#[derive(Debug, Clone)]
pub struct UnitFile {
    /// Name for messages.
    pub file: Arc<str>,
    /// Sections in file order.
    pub sections: Vec<Section>,
    /// Lines (number, text) before the first section header. systemd ignores them with a warning.
    pub stray: Vec<(usize, String)>,
}

impl PartialEq for UnitFile {
    fn eq(&self, other: &Self) -> bool {
        self.sections == other.sections
    }
}

/// Why a line cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {kind}")]
pub struct SyntaxError {
    /// File name as given.
    pub file: String,
    /// Line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub kind: SyntaxErrorKind,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxErrorKind {
    /// `[` without a closing `]` at the end of the line.
    #[error("a section header must be one [Name] on its own line")]
    BadHeader,
    /// No `=`.
    #[error("expected Key=value, found {0:?}")]
    NoAssignment(String),
    /// `=value`.
    #[error("the key before '=' is missing")]
    EmptyKey,
    /// Over the bound, [`LINE_MAX`] unless another was given.
    #[error("the line is longer than {0} bytes")]
    LineTooLong(usize),
    /// Over [`FILE_MAX`].
    #[error("the file is larger than {FILE_MAX} bytes")]
    FileTooLarge,
    /// A NUL character.
    #[error("the line holds a NUL character; unit files are plain UTF-8 text")]
    Nul,
}

const BLANK: [char; 3] = [' ', '\t', '\r'];

fn is_comment(line: &str) -> bool {
    line.trim_start_matches(BLANK).starts_with(['#', ';'])
}

/// Whether a line ends in a backslash that is not itself escaped.
fn continues(line: &str) -> bool {
    line.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1
}

impl UnitFile {
    /// Reads a file, stopping at the first bad line.
    pub fn parse(file: &str, text: &str) -> Result<UnitFile, SyntaxError> {
        let (unit, errors) = UnitFile::parse_all(file, text);
        match errors.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(unit),
        }
    }

    /// Reads a file, skipping bad lines and telling all of them.
    pub fn parse_all(file: &str, text: &str) -> (UnitFile, Vec<SyntaxError>) {
        UnitFile::parse_bounded(file, text, LINE_MAX)
    }

    /// As [`UnitFile::parse_all`], with another bound for the bytes of a physical line.
    pub fn parse_bounded(file: &str, text: &str, line_max: usize) -> (UnitFile, Vec<SyntaxError>) {
        let name: Arc<str> = Arc::from(file);
        let mut unit = UnitFile {
            file: name.clone(),
            sections: Vec::new(),
            stray: Vec::new(),
        };
        let mut errors = Vec::new();
        let mut fail = |line, kind| {
            errors.push(SyntaxError {
                file: file.to_owned(),
                line,
                kind,
            })
        };
        if text.len() > FILE_MAX {
            fail(1, SyntaxErrorKind::FileTooLarge);
            return (unit, errors);
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut lines = text
            .split('\n')
            .map(|l| l.strip_suffix('\r').unwrap_or(l))
            .enumerate();
        let mut lines = std::iter::from_fn(move || lines.next()).peekable();
        while let Some((index, line)) = lines.next() {
            let number = index + 1;
            let trimmed = line.trim_matches(BLANK);
            if line.len() > line_max {
                fail(number, SyntaxErrorKind::LineTooLong(line_max));
                continue;
            }
            if line.contains('\0') {
                fail(number, SyntaxErrorKind::Nul);
                continue;
            }
            if trimmed.is_empty() || is_comment(trimmed) {
                continue;
            }
            if trimmed.starts_with('[') {
                match trimmed.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
                    Some(name) if !name.is_empty() => unit.sections.push(Section {
                        name: name.to_owned(),
                        line: LineNumber(number),
                        entries: Vec::new(),
                    }),
                    _ => fail(number, SyntaxErrorKind::BadHeader),
                }
                continue;
            }
            // The whole logical line is taken before it is judged, so that one fault is told once.
            let mut raw = line.trim_matches(BLANK).to_owned();
            let mut open = continues(line);
            let mut bad = None;
            while open {
                let Some((index, next)) = lines.peek().copied() else {
                    break;
                };
                if next.len() > line_max {
                    bad = Some((index + 1, SyntaxErrorKind::LineTooLong(line_max)));
                } else if next.contains('\0') {
                    bad = Some((index + 1, SyntaxErrorKind::Nul));
                }
                let comment = is_comment(next);
                let after_comment = raw
                    .rsplit_once('\n')
                    .is_some_and(|(_, last)| is_comment(last));
                // A blank line ends a continuation; after a comment it need not be part of the value.
                if after_comment && next.trim_matches(BLANK).is_empty() {
                    break;
                }
                lines.next();
                raw.push('\n');
                raw.push_str(next.trim_end_matches(BLANK));
                open = comment || continues(next);
            }
            if let Some((line, kind)) = bad {
                fail(line, kind);
                continue;
            }
            let Some(section) = unit.sections.last_mut() else {
                unit.stray.push((number, raw));
                continue;
            };
            let first_line_end = raw.find('\n').unwrap_or(raw.len());
            let Some(equals) = raw[..first_line_end].find('=') else {
                fail(
                    number,
                    SyntaxErrorKind::NoAssignment(raw.chars().take(60).collect()),
                );
                continue;
            };
            let key = raw[..equals].trim_end_matches(BLANK).to_owned();
            if key.is_empty() {
                fail(number, SyntaxErrorKind::EmptyKey);
                continue;
            }
            let raw = raw[equals + 1..].trim_start_matches(BLANK).to_owned();
            section.entries.push(Entry {
                file: name.clone(),
                line: number,
                key,
                raw,
            });
        }
        (unit, errors)
    }

    /// Builds a file from (section, key, value), grouping by section in order of first occurrence.
    /// Names and values are taken as given.
    pub fn from_entries<'a>(
        file: &str,
        entries: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>,
    ) -> UnitFile {
        let name: Arc<str> = Arc::from(file);
        let mut sections: Vec<Section> = Vec::new();
        for (section, key, value) in entries {
            let entry = Entry {
                file: name.clone(),
                line: 0,
                key: key.to_owned(),
                raw: value.to_owned(),
            };
            match sections.iter_mut().find(|s| s.name == section) {
                Some(found) => found.entries.push(entry),
                None => sections.push(Section {
                    name: section.to_owned(),
                    line: LineNumber(0),
                    entries: vec![entry],
                }),
            }
        }
        UnitFile {
            file: name,
            sections,
            stray: Vec::new(),
        }
    }

    /// Writes the file: sections parted by a blank line, comments between entries left out.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        for (index, section) in self.sections.iter().enumerate() {
            if index > 0 {
                out.push('\n');
            }
            let _ = writeln!(out, "[{}]", section.name);
            for entry in &section.entries {
                let _ = write!(out, "{}={}", entry.key, entry.raw);
                let last = entry.raw.rsplit('\n').next().unwrap_or("");
                if entry.raw.contains('\n') && is_comment(last) {
                    // A comment does not end a continuation; the blank line does.
                    out.push('\n');
                } else if continues(last) {
                    // A literal backslash at the end must not swallow the next line.
                    out.push(' ');
                }
                out.push('\n');
            }
        }
        out
    }

    /// All entries of all sections of that name, in order.
    pub fn entries<'a>(&'a self, section: &'a str) -> impl Iterator<Item = &'a Entry> + 'a {
        self.sections
            .iter()
            .filter(move |s| s.name == section)
            .flat_map(|s| s.entries.iter())
    }

    /// Raw value lists as systemd reads them: an empty assignment drops what came before.
    pub fn values<'a>(&'a self, section: &'a str, key: &str) -> Vec<&'a Entry> {
        let mut out = Vec::new();
        for entry in self.entries(section).filter(|e| e.key == key) {
            if entry.raw.is_empty() {
                out.clear();
            } else {
                out.push(entry);
            }
        }
        out
    }
}

/// Adds drop-ins after the base file in the order given (the caller sorts them by file name), so
/// that the last single value wins, lists grow, and an empty assignment resets a list.
pub fn merge(base: &UnitFile, dropins: &[UnitFile]) -> UnitFile {
    let mut merged = base.clone();
    for dropin in dropins {
        merged.sections.extend(dropin.sections.iter().cloned());
    }
    merged
}
