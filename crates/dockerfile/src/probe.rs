//! What the reference tables ask of the parts inside, in the form in which they ask it. For tests only.

use crate::flags::Flags;
use crate::glob::Part;
use crate::heredoc::{self, Heredoc};
use crate::ignore::{How, Pattern as Excluded};
use crate::lines::Lines;
use crate::node;
use crate::pattern::{self, Pattern};
use crate::split;
use crate::words::WordError;
use crate::{DockerfileError, PatternError};

/// First and last line of each instruction.
pub fn lines(text: &str) -> Result<Vec<[usize; 2]>, DockerfileError> {
    let nodes = node::read(Lines::of_file(text))?.nodes;
    Ok(nodes.iter().map(|n| [n.line, n.end_line]).collect())
}

/// Here-documents of each instruction.
pub fn heredocs(text: &str) -> Result<Vec<Vec<Heredoc>>, DockerfileError> {
    let nodes = node::read(Lines::of_file(text))?.nodes;
    Ok(nodes.into_iter().map(|n| n.heredocs).collect())
}

/// What a word begins.
pub fn heredoc_of_word(word: &str) -> Result<Option<Heredoc>, WordError> {
    heredoc::of_word(word)
}

/// What a line begins.
pub fn heredocs_of_line(line: &str) -> Result<Vec<Heredoc>, WordError> {
    heredoc::of_line(line).map_err(|(_, error)| error)
}

/// Words of ENV, LABEL and ARG.
pub fn words(text: &str) -> Vec<String> {
    split::words(text, '\\')
}

/// Flags and switches that are given, with their values.
pub fn flags(
    args: &[String],
    texts: &[&str],
    switches: &[&str],
) -> Result<Vec<(String, String)>, DockerfileError> {
    let known: Vec<&str> = texts.iter().chain(switches).copied().collect();
    let flags = Flags::of(1, "TEST", args, &known)?;
    let mut all = Vec::new();
    for name in texts {
        all.extend(flags.text(name)?.map(|v| ((*name).to_owned(), v)));
    }
    for name in switches {
        let value = flags.switch(name)?.map(|v| v.to_string());
        all.extend(value.map(|v| ((*name).to_owned(), v)));
    }
    Ok(all)
}

/// A substitution's pattern as a regular expression from the beginning, from the front or from behind.
pub fn substitution(pattern: &str, reversed: bool) -> Result<String, WordError> {
    let mut pattern = Pattern::read(pattern)?;
    if reversed {
        pattern = pattern.reversed();
    }
    let mut out = String::from("^");
    for part in &pattern.0 {
        match part {
            pattern::Part::Many => out.push_str(".*"),
            pattern::Part::One => out.push('.'),
            pattern::Part::Char(c) => plain(*c, "[]{}.+()|^$*?\\", &mut out),
        }
    }
    Ok(out)
}

/// How moby calls the way in which a pattern of `.dockerignore` is compared, and its regular expression if it has one.
pub fn ignore(pattern: &str) -> Result<(&'static str, String), PatternError> {
    let pattern = Excluded::read(pattern)?;
    let name = match pattern.how {
        How::Exact => "exactMatch",
        How::Prefix => "prefixMatch",
        How::Suffix => "suffixMatch",
        How::Parts => "regexpMatch",
    };
    if pattern.how != How::Parts {
        return Ok((name, String::new()));
    }
    let mut out = String::from("^");
    for part in &pattern.parts {
        match part {
            Part::Char(c) => plain(*c, ".+()|{}$*?\\", &mut out),
            Part::One => out.push_str("[^/]"),
            Part::Many => out.push_str("[^/]*"),
            Part::All => out.push_str(".*"),
            Part::Directories => out.push_str("(.*/)?"),
            Part::Class(negated, ranges) => {
                out.push_str(if *negated { "[^" } else { "[" });
                for (low, high) in ranges {
                    out.push(*low);
                    if low != high {
                        out.extend(['-', *high]);
                    }
                }
                out.push(']');
            }
        }
    }
    Ok((name, out + "$"))
}

fn plain(c: char, escaped: &str, out: &mut String) {
    if escaped.contains(c) {
        out.push('\\');
    }
    out.push(c);
}
