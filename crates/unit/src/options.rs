//! A unit file as fleet's API has it: a list of options, each with its section, name and value.
//!
//! Values are kept as written, continuation lines included. Comments are left out, and sections of one name become one, in
//! the order in which names occur first. What is read back from a file that was made of options are the same options; a list
//! for which that cannot be, such as one with a line break in a name, is refused.
use crate::syntax::{SyntaxError, UnitFile};
use serde::{Deserialize, Serialize};

/// One option.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnitOption {
    /// Section, without brackets.
    pub section: String,
    /// Key.
    pub name: String,
    /// Value as written.
    pub value: String,
}

/// Why a list of options cannot be a unit file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// The file made of them cannot be read.
    #[error(
        "the options make no unit file, line by line: give each its section, name and value as a file would have them"
    )]
    Syntax(#[from] SyntaxError),
    /// The file made of them says something else.
    #[error(
        "option {number}, [{section}] {name:?}, cannot stand in a unit file; a section and a name are each one plain line, and a \
         line break in a value follows a backslash"
    )]
    Unlike {
        /// Its place in the list, counted from 1, sections of one name put together.
        number: usize,
        /// Its section.
        section: String,
        /// Its name.
        name: String,
    },
}

/// A file's options in order.
pub fn options(file: &UnitFile) -> Vec<UnitOption> {
    let sections = file.sections.iter();
    let entries = sections.flat_map(|s| s.entries.iter().map(move |e| (&s.name, e)));
    grouped(entries.map(|(section, entry)| UnitOption {
        section: section.clone(),
        name: entry.key.clone(),
        value: entry.raw.clone(),
    }))
}

/// The file that a list of options makes; its text is [`UnitFile::to_text`].
///
/// # Errors
/// [`OptionError`], if the file does not have just these options. Blanks around values and at the ends of their lines, which
/// no file keeps, do not count.
pub fn file(name: &str, list: &[UnitOption]) -> Result<UnitFile, OptionError> {
    let list = grouped(list.iter().cloned());
    let entries = list
        .iter()
        .map(|o| (o.section.as_str(), o.name.as_str(), o.value.as_str()));
    let read = UnitFile::parse(name, &UnitFile::from_entries(name, entries).to_text())?;
    let found = options(&read);
    let same = |a: &UnitOption, b: Option<&UnitOption>| {
        b.is_some_and(|b| {
            a.section == b.section && a.name == b.name && bare(&a.value) == bare(&b.value)
        })
    };
    let wrong = list
        .iter()
        .enumerate()
        .find(|(n, o)| !same(o, found.get(*n)));
    match wrong {
        None if found.len() == list.len() => Ok(read),
        // More than was given came of the last one that was given.
        None => Err(unlike(list.len(), list.last())),
        Some((n, option)) => Err(unlike(n + 1, Some(option))),
    }
}

fn unlike(number: usize, option: Option<&UnitOption>) -> OptionError {
    let option = option.cloned().unwrap_or_default();
    OptionError::Unlike {
        number,
        section: option.section,
        name: option.name,
    }
}

fn grouped(list: impl Iterator<Item = UnitOption>) -> Vec<UnitOption> {
    let mut groups: Vec<Vec<UnitOption>> = Vec::new();
    for option in list {
        match groups.iter_mut().find(|g| g[0].section == option.section) {
            Some(group) => group.push(option),
            None => groups.push(vec![option]),
        }
    }
    groups.concat()
}

/// A value without the blanks that no file keeps.
fn bare(value: &str) -> String {
    let lines: Vec<&str> = value
        .split('\n')
        .map(|l| l.trim_end_matches(BLANK))
        .collect();
    lines.join("\n").trim_matches(BLANK).to_owned()
}

const BLANK: [char; 3] = [' ', '\t', '\r'];
