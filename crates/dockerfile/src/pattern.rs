//! The patterns of `${name#pattern}` and its kin: `*`, `?`, and backslashes before these.

use crate::words::WordError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Char(char),
    One,
    Many,
}

/// A pattern.
#[derive(Debug)]
pub(crate) struct Pattern(Vec<Part>);

impl Pattern {
    pub fn read(text: &str) -> Result<Self, WordError> {
        let mut parts = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '*' => Part::Many,
                '?' => Part::One,
                '\\' => match chars.next() {
                    // These are escaped for the substitution's sake.
                    Some(c @ ('}' | '/' | '*' | '?' | '\\')) => Part::Char(c),
                    Some(c) => return Err(WordError::Escape(c)),
                    None => Part::Char('\\'),
                },
                c => Part::Char(c),
            });
        }
        Ok(Self(parts))
    }

    /// Where a match that begins at the beginning may end: the first place, or the last.
    fn end(parts: impl Iterator<Item = Part>, text: &[char], longest: bool) -> Option<usize> {
        // One bit for each place that can be reached; each part moves them on.
        let mut at = vec![false; text.len() + 1];
        at[0] = true;
        for part in parts {
            let mut next = vec![false; text.len() + 1];
            let mut open = false;
            for (place, reached) in at.iter().enumerate() {
                match part {
                    Part::Many => {
                        open |= reached;
                        next[place] = open;
                    }
                    Part::One if *reached && place < text.len() => next[place + 1] = true,
                    Part::Char(c) if *reached && text.get(place) == Some(&c) => {
                        next[place + 1] = true;
                    }
                    _ => {}
                }
            }
            at = next;
        }
        if longest {
            at.iter().rposition(|r| *r)
        } else {
            at.iter().position(|r| *r)
        }
    }

    pub fn without_prefix(&self, value: &str, longest: bool) -> String {
        let text: Vec<char> = value.chars().collect();
        let end = Self::end(self.0.iter().copied(), &text, longest);
        text[end.unwrap_or(0)..].iter().collect()
    }

    pub fn without_suffix(&self, value: &str, longest: bool) -> String {
        let text: Vec<char> = value.chars().rev().collect();
        let end = Self::end(self.0.iter().rev().copied(), &text, longest);
        text[end.unwrap_or(0)..].iter().rev().collect()
    }

    /// Replaces the first place that matches, as long as it can be, or all of them.
    pub fn replace(&self, value: &str, with: &str, all: bool) -> String {
        let text: Vec<char> = value.chars().collect();
        let (mut out, mut at) = (String::new(), 0);
        while at <= text.len() {
            match Self::end(self.0.iter().copied(), &text[at..], true) {
                Some(length) => {
                    out.push_str(with);
                    at += length;
                    if !all {
                        break;
                    }
                    if length == 0 {
                        out.extend(text.get(at));
                        at += 1;
                    } else if at == text.len() {
                        break;
                    }
                }
                None => {
                    out.extend(text.get(at));
                    at += 1;
                }
            }
        }
        out.extend(text.get(at..).into_iter().flatten());
        out
    }
}
