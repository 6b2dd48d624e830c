//! Here-documents: `<<EOF`, `<<-EOF` (leading tabs are taken off), `<<"EOF"` (variables stay).

use crate::split::BLANKS;
use crate::words::{Quoting, WordError, lex};

/// A file that is written in the Dockerfile itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The word after `<<`, without quotes.
    pub name: String,
    /// The lines, each with its end. Leading tabs are still there if the document belongs to RUN; see [`Heredoc::text`].
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
        if !self.chomp {
            return self.content.clone();
        }
        let lines = self.content.split_inclusive('\n');
        lines.map(|l| l.trim_start_matches('\t')).collect()
    }
}

/// What stands after `<<` and `<<-` in the beginning of a word, and whether there is a dash. A file descriptor may stand before.
fn mark(word: &str) -> Option<(bool, &str)> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = rest.strip_prefix("<<")?;
    Some(match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    })
}

/// Reads one word; nothing if it begins no document.
pub(crate) fn of_word(word: &str) -> Result<Option<Heredoc>, WordError> {
    let Some((chomp, rest)) = mark(word) else {
        return Ok(None);
    };
    let rest = rest.trim_start_matches(BLANKS);
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let read = |quotes| {
        let quoting = Quoting {
            quotes,
            unset: true,
            ..Quoting::default()
        };
        lex(rest, '\\', &|_| None, quoting).map(|(_, words)| words)
    };
    let (plain, quoted) = (read(false)?, read(true)?);
    let ([name], [quoted]) = (&plain[..], &quoted[..]) else {
        return Ok(None);
    };
    let marks = |word: &str| word.matches(['\'', '"']).count();
    Ok(Some(Heredoc {
        name: name.clone(),
        content: String::new(),
        // Quotes that are escaped are in both; of those that quote, only one has them.
        expand: marks(name) == marks(quoted),
        chomp,
    }))
}

/// All that an instruction's line begins, in order; with an error, the word.
pub(crate) fn of_line(line: &str) -> Result<Vec<Heredoc>, (String, WordError)> {
    let raw = Quoting {
        quotes: true,
        escapes: true,
        unset: true,
        plain: false,
    };
    // A line that is no words for us may be one for the shell: it is for the shell to say.
    let words = lex(line, '\\', &|_| None, raw).map_or_else(|_| Vec::new(), |(_, words)| words);
    let (mut all, mut arithmetic) = (Vec::new(), false);
    let mut words = words.into_iter().peekable();
    while let Some(mut word) = words.next() {
        // In `$((1 << 2))` it is a shift.
        let inside = arithmetic;
        match (word.rfind("$(("), word.rfind("))")) {
            (Some(open), close) => arithmetic = close.is_none_or(|close| close < open),
            (None, Some(_)) => arithmetic = false,
            (None, None) => {}
        }
        if inside {
            continue;
        }
        // A blank may stand between the mark and the name.
        if mark(&word).is_some_and(|(_, rest)| rest.is_empty())
            && let Some(name) = words.next()
        {
            word = format!("{word} {name}");
        }
        all.extend(of_word(&word).map_err(|e| (word, e))?);
    }
    Ok(all)
}

/// Arguments of ADD and COPY: split at blanks, but for those of a delimiter, as in `<< "a b"`.
pub(crate) fn arguments(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut left = text.trim_start_matches(BLANKS);
    while !left.is_empty() {
        let end = delimiter_end(left)
            .or_else(|| left.find(BLANKS))
            .unwrap_or(left.len());
        all.push(left[..end].to_owned());
        left = left[end..].trim_start_matches(BLANKS);
    }
    all
}

/// Where a word that begins a document ends; nothing for another, or if its quote is open.
fn delimiter_end(text: &str) -> Option<usize> {
    let (_, rest) = mark(text)?;
    let name = rest.trim_start_matches(BLANKS);
    let start = text.len() - name.len();
    let (mut quote, mut chars) = (None, name.char_indices());
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (None, c) if BLANKS.contains(&c) => return Some(start + at),
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            (None | Some('"'), '\\') => _ = chars.next(),
            _ => {}
        }
    }
    quote.is_none().then_some(text.len())
}
