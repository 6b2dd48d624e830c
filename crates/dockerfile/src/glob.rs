//! Go's `filepath.Match`, which COPY and ADD use: `*` and `?` stop at slashes, `[a-z]` and `[^a]`, backslash escapes.

/// A pattern that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern \"{0}\"; close brackets and write a backslash before plain ones")]
pub struct PatternError(pub(crate) String);

/// Whether a text has characters that mean something in a pattern.
#[must_use]
pub fn is_glob(text: &str) -> bool {
    let mut escaped = false;
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
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

/// Reads `[…]` after its bracket.
pub(crate) fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Part> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    let one = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| match chars.next()? {
        '\\' => chars.next(),
        '-' | ']' => None,
        c => Some(c),
    };
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Some(Part::Class(negated, ranges));
        }
        let low = one(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() {
            one(chars)?
        } else {
            low
        };
        chars.peek()?;
        ranges.push((low, high));
    }
}

/// Whether parts match the whole of a text. Each part moves the places that can be reached on, so no pattern takes longer than
/// its length times the text's.
pub(crate) fn fits(parts: &[Part], text: &[char]) -> bool {
    let mut at = vec![false; text.len() + 1];
    at[0] = true;
    for part in parts {
        let mut next = vec![false; text.len() + 1];
        let mut open = false;
        for place in 0..=text.len() {
            let reached = at[place];
            let c = text.get(place).copied();
            match part {
                Part::Many => {
                    open |= reached;
                    next[place] = open;
                    open &= c != Some('/');
                }
                Part::All => {
                    open |= reached;
                    next[place] = open;
                }
                Part::Directories => {
                    next[place] |= reached || (open && place > 0 && text[place - 1] == '/');
                    open |= reached;
                }
                Part::One => {
                    if reached && c.is_some_and(|c| c != '/') {
                        next[place + 1] = true;
                    }
                }
                Part::Char(wanted) => {
                    if reached && c == Some(*wanted) {
                        next[place + 1] = true;
                    }
                }
                Part::Class(negated, ranges) => {
                    let inside =
                        |c: char| ranges.iter().any(|(low, high)| (*low..=*high).contains(&c));
                    if reached && c.is_some_and(|c| c != '/' && inside(c) != *negated) {
                        next[place + 1] = true;
                    }
                }
            }
        }
        at = next;
    }
    at[text.len()]
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

/// Whether a pattern matches the whole of a path.
///
/// # Errors
/// [`PatternError`].
pub fn matches(pattern: &str, path: &str) -> Result<bool, PatternError> {
    let parts = parts(pattern).ok_or_else(|| PatternError(pattern.to_owned()))?;
    let text: Vec<char> = path.chars().collect();
    Ok(fits(&parts, &text))
}
