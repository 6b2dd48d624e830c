//! Reads one section: refuses what is unknown, hands out typed values, collects every problem.
use crate::diag::{Diagnostic, nearest};
use crate::keys::Table;
use crate::name::UnitName;
use crate::specifier::SpecifierContext;
use crate::syntax::{Entry, UnitFile};
use crate::words::split_words;
use std::collections::BTreeMap;
use std::fmt::Display;

pub(crate) struct Reader<'a> {
    pub unit: &'a UnitFile,
    pub name: &'a UnitName,
    pub ctx: &'a SpecifierContext,
    pub table: &'static Table,
    pub problems: &'a mut Vec<Diagnostic>,
}

impl<'a> Reader<'a> {
    /// Tells every key that the table does not honour.
    pub(crate) fn check_keys(&mut self) {
        for entry in self.unit.entries(self.table.section) {
            if self.table.honours(&entry.key) {
                continue;
            }
            let called = self.table.called;
            match self.table.refusal(&entry.key) {
                Some(way_out) => {
                    self.fail(entry, format!("{called} that is not honoured; {way_out}"));
                }
                None => {
                    let near = nearest(&entry.key, self.table.all()).map(str::to_owned);
                    self.fail(entry, "unknown key");
                    if let Some(last) = self.problems.last_mut() {
                        last.suggestion = near;
                    }
                }
            }
        }
    }

    pub(crate) fn fail(&mut self, entry: &Entry, message: impl Display) {
        self.problems.push(Diagnostic {
            file: entry.file.to_string(),
            line: entry.line,
            section: self.table.section.to_owned(),
            key: entry.key.clone(),
            message: message.to_string(),
            suggestion: None,
        });
    }

    /// A problem of the section as a whole, such as a missing key.
    pub(crate) fn fail_section(&mut self, key: &str, message: impl Display) {
        let section = self
            .unit
            .sections
            .iter()
            .find(|s| s.name == self.table.section);
        self.problems.push(Diagnostic {
            file: self.unit.file.to_string(),
            line: section.map_or(0, |s| s.line()),
            section: self.table.section.to_owned(),
            key: key.to_owned(),
            message: message.to_string(),
            suggestion: None,
        });
    }

    pub(crate) fn entries(&self, key: &str) -> Vec<&'a Entry> {
        self.unit.values(self.table.section, key)
    }

    fn expand(&mut self, entry: &Entry, text: &str) -> Option<String> {
        match self.ctx.expand(self.name, text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.fail(entry, error);
                None
            }
        }
    }

    /// Every assignment of a list key, specifiers expanded.
    pub(crate) fn list(&mut self, key: &str) -> Vec<(&'a Entry, String)> {
        let entries = self.entries(key);
        entries
            .into_iter()
            .filter_map(|e| Some((e, self.expand(e, &e.value())?)))
            .collect()
    }

    /// The last assignment, specifiers expanded.
    pub(crate) fn last(&mut self, key: &str) -> Option<(&'a Entry, String)> {
        let entry = self.entries(key).pop()?;
        Some((entry, self.expand(entry, &entry.value())?))
    }

    pub(crate) fn string(&mut self, key: &str) -> Option<String> {
        self.last(key).map(|(_, value)| value)
    }

    pub(crate) fn parse<T, E: Display>(
        &mut self,
        key: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let (entry, value) = self.last(key)?;
        self.read(entry, &value, read)
    }

    /// As [`Self::parse`], of a value in which `%` is a percent sign and no specifier.
    pub(crate) fn parse_share<T, E: Display>(
        &mut self,
        key: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let entry = self.entries(key).pop()?;
        self.read(entry, &entry.value(), read)
    }

    fn read<T, E: Display>(
        &mut self,
        entry: &Entry,
        value: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        match read(value) {
            Ok(value) => Some(value),
            Err(error) => {
                self.fail(entry, error);
                None
            }
        }
    }

    pub(crate) fn parse_list<T, E: Display>(
        &mut self,
        key: &str,
        mut read: impl FnMut(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let mut out = Vec::new();
        for (entry, value) in self.list(key) {
            match read(&value) {
                Ok(value) => out.push(value),
                Err(error) => self.fail(entry, error),
            }
        }
        out
    }

    /// The words of one entry; specifiers are expanded after splitting, so that their values
    /// never split a word.
    pub(crate) fn split(&mut self, entry: &Entry) -> Vec<String> {
        match split_words(&entry.value()) {
            Ok(words) => words.iter().filter_map(|w| self.expand(entry, w)).collect(),
            Err(error) => {
                self.fail(entry, error);
                Vec::new()
            }
        }
    }

    /// The words of all assignments, each with its entry.
    pub(crate) fn words(&mut self, key: &str) -> Vec<(&'a Entry, String)> {
        let mut out = Vec::new();
        for entry in self.entries(key) {
            out.extend(self.split(entry).into_iter().map(|word| (entry, word)));
        }
        out
    }

    pub(crate) fn plain_words(&mut self, key: &str) -> Vec<String> {
        self.words(key).into_iter().map(|(_, word)| word).collect()
    }

    pub(crate) fn parse_words<T, E: Display>(
        &mut self,
        key: &str,
        mut read: impl FnMut(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let mut out = Vec::new();
        for (entry, word) in self.words(key) {
            match read(&word) {
                Ok(value) => out.push(value),
                Err(error) => self.fail(entry, error),
            }
        }
        out
    }

    /// `NAME=value` words; a later one replaces an earlier one.
    pub(crate) fn pairs(&mut self, key: &str) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        for (entry, word) in self.words(key) {
            match word.split_once('=') {
                Some((name, value)) if !name.is_empty() => {
                    out.insert(name.to_owned(), value.to_owned());
                }
                _ => self.fail(entry, format!("{word:?} is not NAME=value")),
            }
        }
        out
    }
}
