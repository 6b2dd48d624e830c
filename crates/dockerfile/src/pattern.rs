//! The patterns of `${name#pattern}` and its kin: `*`, `?`, and backslashes before these.

use crate::words::WordError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Char(char),
    One,
    Many,
}

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(pub Vec<Part>);

impl Pattern {
    pub fn read(text: &str) -> Result<Self, WordError> {
        let mut parts = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let part = match c {
                '*' => Part::Many,
                '?' => Part::One,
                '\\' => match chars.next() {
                    // The first two are escaped for the substitution's sake.
                    Some(c @ ('}' | '/' | '*' | '?' | '\\')) => Part::Char(c),
                    other => {
                        return Err(WordError::Escape(
                            other.map(String::from).unwrap_or_default(),
                        ));
                    }
                },
                c => Part::Char(c),
            };
            if part != Part::Many || parts.last() != Some(&Part::Many) {
                parts.push(part);
            }
        }
        Ok(Self(parts))
    }

    pub fn reversed(&self) -> Self {
        Self(self.0.iter().rev().copied().collect())
    }

    /// For each place of a text, the end of a match that begins there, if there is one: the nearest, or the farthest. Takes as
    /// many steps as both lengths multiplied, whatever the pattern.
    fn ends(&self, text: &[char], farthest: bool) -> Vec<Option<usize>> {
        let mut ends: Vec<Option<usize>> = (0..=text.len()).map(Some).collect();
        for part in self.0.iter().rev() {
            let mut later = None;
            for place in (0..=text.len()).rev() {
                let c = text.get(place);
                let here = ends[place];
                ends[place] = match part {
                    Part::Char(wanted) if c != Some(wanted) => None,
                    Part::One if c.is_none() => None,
                    Part::Char(_) | Part::One => later,
                    Part::Many if farthest => later.max(here),
                    Part::Many => match (here, later) {
                        (Some(a), Some(b)) => Some(a.min(b)),
                        (a, b) => a.or(b),
                    },
                };
                later = match part {
                    Part::Many => ends[place],
                    _ => here,
                };
            }
        }
        ends
    }

    pub fn without_prefix(&self, value: &str, longest: bool) -> String {
        let text: Vec<char> = value.chars().collect();
        let end = self.ends(&text, longest)[0].unwrap_or(0);
        text[end..].iter().collect()
    }

    pub fn without_suffix(&self, value: &str, longest: bool) -> String {
        let text: Vec<char> = value.chars().rev().collect();
        let end = self.reversed().ends(&text, longest)[0].unwrap_or(0);
        text[end..].iter().rev().collect()
    }

    /// Replaces the first match, as long as it can be, or all of them from left to right.
    pub fn replace(&self, value: &str, with: &str, all: bool) -> String {
        let text: Vec<char> = value.chars().collect();
        let ends = self.ends(&text, true);
        let (mut out, mut at, mut open) = (String::new(), 0, true);
        let mut before = None;
        while at <= text.len() {
            // Nothing is not replaced where a match has just ended.
            match ends[at].filter(|end| open && (*end > at || before != Some(at))) {
                Some(end) if end > at => {
                    out.push_str(with);
                    (at, before) = (end, Some(end));
                    open = all;
                }
                found => {
                    if found.is_some() {
                        out.push_str(with);
                        open = all;
                    }
                    out.extend(text.get(at));
                    at += 1;
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn nearest_and_farthest() {
        let pattern = |text: &str| Pattern::read(text).unwrap();
        assert_eq!(pattern("*/").without_prefix("a/b/c", false), "b/c");
        assert_eq!(pattern("*/").without_prefix("a/b/c", true), "c");
        assert_eq!(pattern("/*").without_suffix("a/b/c", false), "a/b");
        assert_eq!(pattern("/*").without_suffix("a/b/c", true), "a");
        assert_eq!(pattern("x").without_prefix("abc", true), "abc");
        assert_eq!(pattern("?").without_suffix("äö", false), "ä");
        assert_eq!(pattern("b*d").replace("abcdabcd", "-", false), "a-");
        assert_eq!(pattern("b?").replace("abcabc", "-", true), "a-a-");
        assert_eq!(pattern("").replace("ab", "-", true), "-a-b-");
        assert_eq!(pattern("*").replace("ab", "-", true), "-");
        assert_eq!(pattern("b").replace("ab", "", true), "a");
        assert_eq!(pattern("*").replace("", "-", true), "-");
    }
}
