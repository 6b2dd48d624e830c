//! `.dockerignore`: patterns as moby's `patternmatcher` reads them. The last that fits decides, `!` takes back, `**` is any number
//! of directories, and what is below an excluded directory is excluded.

use crate::glob::{Part, PatternError, class, fits, matches};

/// Patterns, ready to be asked.
#[derive(Debug, Clone)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    exception: bool,
    /// The pattern, cleaned, without its `!`.
    text: String,
    how: How,
}

/// How a pattern is compared.
#[derive(Debug, Clone, PartialEq)]
enum How {
    Exact,
    /// The text and `**`.
    Prefix(String),
    /// `**` and the text.
    Suffix(String),
    Parts(Vec<Part>),
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
        (false, true) => ".".into(),
        (false, false) => parts.join("/"),
    }
}

impl Ignore {
    /// Patterns of a file: comments and empty lines are left out, and paths are relative to the context.
    #[must_use]
    pub fn read(text: &str) -> Vec<String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut patterns = Vec::new();
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let (mark, pattern) = match line.strip_prefix('!') {
                Some(rest) => ("!", rest.trim()),
                None => ("", line),
            };
            let mut pattern = if pattern.is_empty() {
                String::new()
            } else {
                clean(pattern)
            };
            if pattern.len() > 1 && pattern.starts_with('/') {
                pattern.remove(0);
            }
            patterns.push(format!("{mark}{pattern}"));
        }
        patterns
    }

    /// Reads patterns.
    ///
    /// # Errors
    /// [`PatternError`] for brackets that are not closed and for a `!` alone.
    pub fn new(patterns: &[String]) -> Result<Self, PatternError> {
        let mut all = Vec::new();
        for text in patterns {
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            let text = clean(text);
            let (exception, text) = match text.strip_prefix('!') {
                Some("") => return Err(PatternError(text)),
                Some(rest) => (true, rest.to_owned()),
                None => (false, text),
            };
            matches(&text, ".")?;
            let how = compile(&text).ok_or_else(|| PatternError(text.clone()))?;
            all.push(Pattern {
                exception,
                text,
                how,
            });
        }
        Ok(Self { patterns: all })
    }

    /// Whether a path, relative to the context, is left out.
    #[must_use]
    pub fn excludes(&self, path: &str) -> bool {
        let parents: Vec<&str> = path.match_indices('/').map(|(at, _)| &path[..at]).collect();
        let mut excluded = false;
        for pattern in &self.patterns {
            // Only one that changes something need be asked.
            if pattern.exception != excluded {
                continue;
            }
            if pattern.fits(path) || parents.iter().any(|p| pattern.fits(p)) {
                excluded = !pattern.exception;
            }
        }
        excluded
    }

    /// Whether any pattern takes something back.
    #[must_use]
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|p| p.exception)
    }

    /// Whether something below a directory that is left out may be taken back, so that it must be entered.
    #[must_use]
    pub fn may_hold_exceptions(&self, dir: &str) -> bool {
        let inside = format!("{dir}/");
        self.patterns.iter().filter(|p| p.exception).any(|p| {
            let plain = p.text.find(['*', '?', '[', '\\']);
            match plain {
                None => p.text.starts_with(&inside),
                Some(at) => {
                    let start = &p.text[..at];
                    start.starts_with(&inside) || inside.starts_with(start)
                }
            }
        })
    }
}

impl Pattern {
    fn fits(&self, path: &str) -> bool {
        match &self.how {
            How::Exact => path == self.text,
            How::Prefix(start) => path.starts_with(start.as_str()),
            How::Suffix(end) => {
                path.ends_with(end.as_str()) || end.strip_prefix('/').is_some_and(|e| e == path)
            }
            How::Parts(parts) => fits(parts, &path.chars().collect::<Vec<char>>()),
        }
    }
}

fn compile(text: &str) -> Option<How> {
    let mut parts = Vec::new();
    let mut how = How::Exact;
    let mut chars = text.chars().peekable();
    let mut first = true;
    while let Some(c) = chars.next() {
        let start = std::mem::replace(&mut first, false);
        let regular = How::Parts(Vec::new());
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                if chars.peek().is_none() {
                    if how == How::Exact {
                        how = How::Prefix(text[..text.len() - 2].to_owned());
                    } else {
                        how = regular;
                    }
                    parts.push(Part::All);
                } else {
                    parts.push(Part::Directories);
                    how = regular;
                }
                if start {
                    how = How::Suffix(text[2..].to_owned());
                }
            }
            '*' => {
                parts.push(Part::Many);
                how = regular;
            }
            '?' => {
                parts.push(Part::One);
                how = regular;
            }
            '[' => {
                parts.push(class(&mut chars)?);
                how = regular;
            }
            '\\' => {
                parts.push(Part::Char(chars.next().unwrap_or('\\')));
                how = regular;
            }
            c => parts.push(Part::Char(c)),
        }
    }
    Some(match how {
        How::Parts(_) => How::Parts(parts),
        other => other,
    })
}
