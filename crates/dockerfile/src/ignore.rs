//! `.dockerignore`: patterns as moby's `patternmatcher` reads them. The last that fits decides, `!` takes back, `**` is any number
//! of directories, and what is below an excluded directory is excluded.

use crate::glob::{Part, PatternError, class, matches, may_go_on, reached};

/// Patterns, ready to be asked.
#[derive(Debug, Clone)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

/// One of them.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    exception: bool,
    /// The pattern, cleaned, without its `!`.
    text: String,
    pub how: How,
    /// What it is in pieces, however it is compared.
    pub parts: Vec<Part>,
}

/// How a pattern is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// It is the path.
    Exact,
    /// The path begins with what is before its `**`.
    Prefix,
    /// The path ends with what is after its `**`.
    Suffix,
    /// By its parts.
    Parts,
}

/// As Go's `filepath.Clean`.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|p| *p != "..") => _ = parts.pop(),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

impl Ignore {
    /// Patterns of a file, as `ignorefile.ReadAll`: comments and empty lines are left out, paths are made relative to the context.
    #[must_use]
    pub fn read(text: &str) -> Vec<String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().filter(|l| !l.starts_with('#')).map(str::trim);
        let one = |line: &str| {
            let (mark, pattern) = match line.strip_prefix('!') {
                Some(rest) => ("!", rest.trim()),
                None => ("", line),
            };
            if pattern.is_empty() {
                return mark.to_owned();
            }
            let pattern = clean(pattern);
            let relative = pattern.strip_prefix('/').filter(|p| !p.is_empty());
            format!("{mark}{}", relative.unwrap_or(&pattern))
        };
        lines.filter(|l| !l.is_empty()).map(one).collect()
    }

    /// Reads patterns; empty ones are left out.
    ///
    /// # Errors
    /// [`PatternError`] for brackets that are not closed or whose ranges go down, and for a `!` alone.
    pub fn new(patterns: &[String]) -> Result<Self, PatternError> {
        let texts = patterns.iter().map(|p| p.trim()).filter(|p| !p.is_empty());
        let patterns = texts.map(Pattern::read).collect::<Result<_, _>>()?;
        Ok(Self { patterns })
    }

    /// Whether a path is left out, itself or with a directory above it. It is relative to the context, with slashes between its parts.
    #[must_use]
    pub fn excludes(&self, path: &str) -> bool {
        let chars: Vec<char> = path.chars().collect();
        // The last that fits decides, so only what would change it need be asked.
        self.patterns.iter().fold(false, |excluded, pattern| {
            excluded ^ (pattern.exception == excluded && pattern.covers(path, &chars))
        })
    }

    /// Whether any pattern takes something back.
    #[must_use]
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|p| p.exception)
    }

    /// Whether something below a directory that is left out may be taken back, so that it must be entered. Only what comes after the
    /// last pattern that leaves it out can do so.
    #[must_use]
    pub fn may_hold_exceptions(&self, dir: &str) -> bool {
        let mut chars: Vec<char> = dir.chars().collect();
        let out = |p: &Pattern| !p.exception && p.covers(dir, &chars);
        let later = self.patterns.iter().rposition(out).map_or(0, |at| at + 1);
        let later = self.patterns.get(later..).unwrap_or_default();
        chars.push('/');
        let mut later = later.iter().filter(|p| p.exception);
        later.any(|p| may_go_on(&p.parts, &chars))
    }
}

impl Pattern {
    pub fn read(text: &str) -> Result<Self, PatternError> {
        let text = clean(text);
        let (exception, text) = match text.strip_prefix('!') {
            Some("") => return Err(PatternError::Exception),
            Some(rest) => (true, rest.to_owned()),
            None => (false, text),
        };
        matches(&text, ".")?;
        let (how, parts) = compile(&text).ok_or_else(|| PatternError::Syntax(text.clone()))?;
        Ok(Self {
            exception,
            text,
            how,
            parts,
        })
    }

    /// Whether it fits a path or a directory above it.
    fn covers(&self, path: &str, chars: &[char]) -> bool {
        // What is above ends before a slash.
        let ends_at = |at: usize| path[at..].is_empty() || path[at..].starts_with('/');
        let is = |text: &str| path.starts_with(text) && ends_at(text.len());
        match self.how {
            How::Exact => is(&self.text),
            How::Prefix => path.starts_with(self.text.trim_end_matches("**")),
            How::Suffix => {
                let end = self.text.strip_prefix("**").unwrap_or(&self.text);
                let slashes = path.match_indices('/').map(|(at, _)| at);
                let mut ends = slashes.chain([path.len()]);
                end.strip_prefix('/').is_some_and(is) || ends.any(|at| path[..at].ends_with(end))
            }
            How::Parts => {
                let places = reached(&self.parts, chars);
                let mut places = places.iter().enumerate();
                places.any(|(at, found)| *found && chars.get(at).is_none_or(|c| *c == '/'))
            }
        }
    }
}

/// Takes a pattern apart as moby does: how it is compared hangs on where its `**` are.
fn compile(text: &str) -> Option<(How, Vec<Part>)> {
    let (mut parts, mut how) = (Vec::new(), How::Exact);
    let mut chars = text.chars().peekable();
    let mut first = true;
    while let Some(c) = chars.next() {
        let start = std::mem::replace(&mut first, false);
        let part = match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                let slash = chars.next_if_eq(&'/').is_some();
                let last = chars.peek().is_none();
                how = match how {
                    _ if start => How::Suffix,
                    How::Exact if last => How::Prefix,
                    _ => How::Parts,
                };
                match last || (start && !slash && !chars.clone().any(special)) {
                    true => Part::All,
                    false => Part::Directories,
                }
            }
            '*' => Part::Many,
            '?' => Part::One,
            '[' => class(&mut chars)?,
            '\\' => Part::Char(chars.next()?),
            c => {
                parts.push(Part::Char(c));
                // A bracket that closes nothing makes it no plain text.
                how = if c == ']' { How::Parts } else { how };
                continue;
            }
        };
        let downwards = |(low, high): &(char, char)| low > high;
        if matches!(&part, Part::Class(_, ranges) if ranges.iter().any(downwards)) {
            return None;
        }
        if !matches!(part, Part::All | Part::Directories) {
            how = How::Parts;
        }
        parts.push(part);
    }
    Some((how, parts))
}

/// What makes the rest of a pattern more than plain text.
fn special(c: char) -> bool {
    matches!(c, '*' | '?' | '[' | ']' | '\\')
}

#[cfg(test)]
mod tests {
    use super::Ignore;

    fn ignore(patterns: &[&str]) -> Ignore {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        Ignore::new(&patterns).unwrap()
    }

    #[test]
    fn the_last_that_fits_decides() {
        let all = ignore(&["*", "!keep", "keep/not", "!keep/not/but"]);
        for (path, out) in [
            ("a", true),
            ("a/b", true),
            ("keep", false),
            ("keep/x", false),
            ("keep/not", true),
            ("keep/not/x", true),
            ("keep/not/but", false),
            ("keep/not/but/x", false),
        ] {
            assert_eq!(all.excludes(path), out, "{path}");
        }
        assert!(all.has_exceptions() && !ignore(&["a"]).has_exceptions());
    }

    #[test]
    fn directories_that_must_be_entered() {
        for (patterns, dir, wanted) in [
            (&["*", "!a/b/c"][..], "a", true),
            (&["*", "!a/b/c"], "a/b", true),
            (&["*", "!a/b/c"], "a/b/d", false),
            (&["*", "!a/b/c"], "ab", false),
            (&["*", "!**/*.md"], "x/y", true),
            (&["*", "!docs/*.md"], "src", false),
            (&["*", "!docs/*.md"], "docs", true),
            (&["*", "!docs/*.md"], "docs/more", false),
            (&["*", "!docs/**"], "docs/more", true),
            (&["*", "!**file"], "x", true),
            (&["*", "!a?c/d"], "abc", true),
            (&["*", "!a[x]c/d"], "abc", false),
            // What is taken back before is left out again.
            (&["!a/b", "a"], "a", false),
            (&["a", "!a/b", "a/b/c", "!a/b/c/d"], "a/b/c", true),
        ] {
            assert_eq!(
                ignore(patterns).may_hold_exceptions(dir),
                wanted,
                "{patterns:?} {dir}"
            );
        }
    }

    #[test]
    fn files_as_they_are_written() {
        let text = "\u{feff}a/../b \r\n#no\n #yes\n/\n  ! ./c/ \n\n../x\n";
        assert_eq!(Ignore::read(text), ["b", "#yes", "/", "!c", "../x"]);
    }
}
