//! Go's `filepath.Match`, which COPY and ADD use: `*` and `?` stop at slashes, `[a-z]` and `[^a]`, backslash escapes. What
//! `.dockerignore` has on top of it is matched here as well.

use std::iter::Peekable;
use std::str::Chars;

/// A pattern that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Brackets that are not closed, empty or wrong inside, or a backslash at the end.
    #[error(
        "syntax error in pattern \"{0}\"; close brackets and write a backslash before plain ones"
    )]
    Syntax(String),
    /// A `!` with nothing to take back.
    #[error("illegal exclusion pattern: \"!\"; write what is taken back after it")]
    Exception,
}

/// Whether a text has characters that mean something in a pattern.
#[must_use]
pub fn is_glob(text: &str) -> bool {
    let mut escaped = false;
    text.chars().any(|c| {
        let plain = std::mem::replace(&mut escaped, false);
        escaped = !plain && c == '\\';
        !plain && matches!(c, '*' | '?' | '[')
    })
}

/// Whether a pattern matches the whole of a path, slashes in the one by slashes in the other. A class in brackets matches a slash as
/// well if it is in it, as with Go.
///
/// # Errors
/// [`PatternError`], whether or not the path fits as far as the mistake.
pub fn matches(pattern: &str, path: &str) -> Result<bool, PatternError> {
    let parts = parts(pattern).ok_or_else(|| PatternError::Syntax(pattern.to_owned()))?;
    let text: Vec<char> = path.chars().collect();
    Ok(reached(&parts, &text)[text.len()])
}

/// A piece of a pattern.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Part {
    /// A character.
    Char(char),
    /// Any character but a slash.
    One,
    /// Any number of them.
    Many,
    /// Any number of characters, slashes as well.
    All,
    /// Nothing, or any number of directories with their slashes.
    Directories,
    /// One of some characters, or none of them.
    Class(bool, Vec<(char, char)>),
}

impl Part {
    /// Whether it is this character.
    fn is(&self, c: char) -> bool {
        match self {
            Self::Char(wanted) => c == *wanted,
            Self::One => c != '/',
            Self::Class(negated, ranges) => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
            _ => false,
        }
    }

    /// From the places of a text that are reached before this part to those that are reached after it.
    fn step(&self, text: &[char], before: &[bool]) -> Vec<bool> {
        let mut after = vec![false; before.len()];
        let mut open = false;
        for (place, reached) in before.iter().copied().enumerate() {
            let c = text.get(place).copied();
            match self {
                Self::Many | Self::All => {
                    open |= reached;
                    after[place] = open;
                    open &= *self == Self::All || c != Some('/');
                }
                Self::Directories => {
                    let slash = place > 0 && text[place - 1] == '/';
                    after[place] = reached || (open && slash);
                    open |= reached;
                }
                part => {
                    if reached && c.is_some_and(|c| part.is(c)) {
                        after[place + 1] = true;
                    }
                }
            }
        }
        after
    }
}

fn start(text: &[char]) -> Vec<bool> {
    let mut places = vec![false; text.len() + 1];
    places[0] = true;
    places
}

/// For each place of a text, whether the parts together match what is before it. Each part moves all places on at once, so no pattern
/// takes longer than its length times the text's.
pub(crate) fn reached(parts: &[Part], text: &[char]) -> Vec<bool> {
    let step = |places: Vec<bool>, part: &Part| part.step(text, &places);
    parts.iter().fold(start(text), step)
}

/// Whether a text that begins with this one may match: its end is reached and parts are left.
pub(crate) fn may_go_on(parts: &[Part], text: &[char]) -> bool {
    let mut places = start(text);
    for part in parts {
        if places[text.len()] {
            return true;
        }
        places = part.step(text, &places);
    }
    // The last part may have no end of its own.
    places[text.len()] && matches!(parts.last(), Some(Part::Many | Part::All))
}

fn parts(pattern: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        parts.push(match c {
            '*' => Part::Many,
            '?' => Part::One,
            '[' => class(&mut chars)?,
            '\\' => Part::Char(chars.next()?),
            c => Part::Char(c),
        });
    }
    Some(parts)
}

/// Reads `[…]` after its bracket.
pub(crate) fn class(chars: &mut Peekable<Chars<'_>>) -> Option<Part> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Some(Part::Class(negated, ranges));
        }
        let low = member(chars)?;
        let high = match chars.next_if_eq(&'-') {
            Some(_) => member(chars)?,
            None => low,
        };
        ranges.push((low, high));
    }
}

fn member(chars: &mut Peekable<Chars<'_>>) -> Option<char> {
    match chars.next()? {
        '\\' => chars.next(),
        '-' | ']' => None,
        c => Some(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_matches_paths() {
        for (pattern, path, wanted) in [
            ("a*", "ab/c", false),
            ("a?/[^x]*", "ab/c", true),
            ("a[^b]c", "a/c", true),
            ("a\\[b", "a[b", true),
            ("[z-a]", "m", false),
            ("", "", true),
            ("*", "", true),
            ("**", "a/b", false),
            ("ä?", "äö", true),
        ] {
            assert_eq!(matches(pattern, path), Ok(wanted), "{pattern} {path}");
        }
        for pattern in ["a[", "[a-]", "[]", "b[^]", "a\\"] {
            assert!(matches(pattern, "x").is_err(), "{pattern}");
        }
    }

    #[test]
    fn what_is_a_pattern() {
        assert!(is_glob("a*") && is_glob("[a]") && is_glob("\\\\?"));
        assert!(!is_glob("a") && !is_glob("a\\*") && !is_glob("]\\"));
    }
}
