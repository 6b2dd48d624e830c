//! Here-documents: `<<EOF`, `<<-EOF` (leading tabs are taken off), `<<"EOF"` (variables stay).

use crate::words::{Quoting, WordError, lex};

/// A file that is written in the Dockerfile itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The word after `<<`, without quotes.
    pub name: String,
    /// The lines, each with its end. Tabs are still there if the document belongs to a command.
    pub content: String,
    /// Whether variables are replaced.
    pub expand: bool,
    /// Whether leading tabs are to be taken off.
    pub chomp: bool,
}

impl Heredoc {
    /// What is in it for whoever reads it, leading tabs off if they are to be.
    #[must_use]
    pub fn text(&self) -> String {
        if self.chomp {
            chomped(&self.content)
        } else {
            self.content.clone()
        }
    }
}

/// Reads one word.
pub(crate) fn of_word(word: &str) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = rest.strip_prefix("<<")?;
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start();
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let none = |_: &str| None;
    let read = |quoting| lex(rest, '\\', &none, quoting).map(|(_, words)| words);
    let plain = Quoting {
        unset: true,
        ..Quoting::default()
    };
    let raw = Quoting {
        quotes: true,
        escapes: true,
        ..plain
    };
    let (Ok(words), Ok(quoted)) = (read(plain), read(raw)) else {
        return None;
    };
    let [name] = &words[..] else { return None };
    Some(Heredoc {
        name: name.clone(),
        content: String::new(),
        // Some part of it was quoted if it looks different with its quotes.
        expand: words == quoted,
        chomp,
    })
}

/// All that a line begins.
pub(crate) fn of_line(line: &str) -> Result<Vec<Heredoc>, WordError> {
    let raw = Quoting {
        quotes: true,
        escapes: true,
        unset: true,
        plain: false,
    };
    let (_, words) = lex(line, '\\', &|_| None, raw)?;
    let mut all = Vec::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let mark = word.trim_start_matches(|c: char| c.is_ascii_digit());
        // A blank may stand between the mark and the name.
        match words.peek().filter(|_| matches!(mark, "<<" | "<<-")) {
            Some(name) => {
                all.extend(of_word(&format!("{word} {name}")));
                words.next();
            }
            None => all.extend(of_word(word)),
        }
    }
    Ok(all)
}

/// Takes leading tabs off every line.
fn chomped(text: &str) -> String {
    let lines = text.split_inclusive('\n');
    lines.map(|l| l.trim_start_matches('\t')).collect()
}
