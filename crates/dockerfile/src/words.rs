//! Words and variables as a shell reads them, but for the commands in between: BuildKit's `shell.Lex`.
//!
//! Understood: `'…'`, `"…"`, the escape character, `$name`, `${name}`, `${name:-word}`, `-`, `:+`, `+`, `:?`, `?`,
//! `${name#pattern}`, `##`, `%`, `%%`, `${name/pattern/with}` and `//`.

use crate::pattern::Pattern;
use std::cell::RefCell;
use std::collections::HashSet;
use std::iter::Peekable;
use std::str::Chars;

/// Why a text cannot be taken apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// A quote is open at the end.
    #[error("unexpected end of statement while looking for matching {0}-quote; close it")]
    Quote(&'static str),
    /// A `${` is open at the end.
    #[error("syntax error: missing '}}'; write ${{name}}")]
    Brace,
    /// A substitution without its second slash.
    #[error("syntax error: missing '/' in ${{; write ${{name/pattern/replacement}}")]
    Slash,
    /// `${}`, `${{` and `${:`.
    #[error("syntax error: bad substitution; write ${{name}}, or a backslash before the $")]
    Name,
    /// `${name^…}` and the like.
    #[error("unsupported modifier ({0}) in substitution; use - + ? (also after :), # % or /")]
    Modifier(String),
    /// `${name:?why}` of a variable that is not there, or empty.
    #[error("{name}: {why}")]
    Needed {
        /// The variable.
        name: String,
        /// The text after `?`.
        why: String,
    },
    /// A backslash in a pattern before something that needs none, or before nothing.
    #[error(
        "invalid escape '\\{0}' in a pattern; write a backslash only before * ? / }} and itself"
    )]
    Escape(String),
    /// More substitutions within substitutions than anybody writes.
    #[error("substitutions in substitutions, deeper than is read; use a variable in between")]
    Depth,
}

/// What is kept of quotes and variables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Quoting {
    /// Quotes stay.
    pub quotes: bool,
    /// Escape characters stay.
    pub escapes: bool,
    /// Variables without a value stay as they are written.
    pub unset: bool,
    /// Quotes are plain characters.
    pub plain: bool,
}

type Vars<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Replaces variables and takes quotes and escapes off: BuildKit's `ProcessWord`. Variables that `vars` does not know are empty.
///
/// # Errors
/// [`WordError`].
pub fn expand(
    text: &str,
    escape: char,
    vars: &dyn Fn(&str) -> Option<String>,
) -> Result<String, WordError> {
    lex(text, escape, vars, Quoting::default()).map(|(text, _)| text)
}

/// As [`expand`], in words: split at blanks outside quotes, also at those that variables bring. Empty words are none.
///
/// # Errors
/// [`WordError`].
pub fn expand_words(
    text: &str,
    escape: char,
    vars: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<String>, WordError> {
    lex(text, escape, vars, Quoting::default()).map(|(_, words)| words)
}

/// As [`expand`] for the body of a here-document: quotes are characters like any other. An escape character goes, as with BuildKit, so
/// that `\$name` is the text `$name`; BuildKit's is the backslash there, whatever the file's.
///
/// # Errors
/// [`WordError`].
pub fn expand_raw(
    text: &str,
    escape: char,
    vars: &dyn Fn(&str) -> Option<String>,
) -> Result<String, WordError> {
    let quoting = Quoting {
        plain: true,
        ..Quoting::default()
    };
    lex(text, escape, vars, quoting).map(|(text, _)| text)
}

/// Names of the variables that a text refers to, each once, in the order in which they come; also those in the words of
/// substitutions, whether these would be used or not. Of a text that cannot be read, those before what is wrong.
#[must_use]
pub fn names_used(text: &str, escape: char) -> Vec<String> {
    let found = RefCell::new((Vec::new(), HashSet::new()));
    let look = |name: &str| {
        let (names, known) = &mut *found.borrow_mut();
        if !name.is_empty() && known.insert(name.to_owned()) {
            names.push(name.to_owned());
        }
        None
    };
    // A variable that stays as it is written is neither asked for nor matched.
    let quoting = Quoting {
        unset: true,
        ..Quoting::default()
    };
    // What is wrong with it is said where it is expanded.
    let _ = lex(text, escape, &look, quoting);
    found.into_inner().0
}

/// Takes a text apart: the whole, and its words.
pub(crate) fn lex(
    text: &str,
    escape: char,
    vars: Vars<'_>,
    quoting: Quoting,
) -> Result<(String, Vec<String>), WordError> {
    let mut lexer = Lexer {
        left: text.chars().peekable(),
        escape,
        vars,
        quoting,
        depth: 0,
    };
    lexer.read(None)
}

/// Substitutions within substitutions, at most.
const DEPTH: usize = 64;

struct Lexer<'a> {
    left: Peekable<Chars<'a>>,
    escape: char,
    vars: Vars<'a>,
    quoting: Quoting,
    depth: usize,
}

#[derive(Default)]
struct Words {
    word: String,
    words: Vec<String>,
    inside: bool,
}

impl Words {
    fn char(&mut self, c: char) {
        if !c.is_whitespace() {
            self.raw(c);
        } else if self.inside && !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
            self.inside = false;
        }
    }

    fn raw(&mut self, c: char) {
        self.word.push(c);
        self.inside = true;
    }

    fn text(&mut self, text: &str, raw: bool) {
        if raw {
            self.word.push_str(text);
            self.inside = true;
        } else {
            text.chars().for_each(|c| self.char(c));
        }
    }

    fn done(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        self.words
    }
}

impl Lexer<'_> {
    /// Reads on until `stop`; escape characters stay in a pattern, which has a use for them, and nowhere else.
    fn until(&mut self, stop: char, escapes: bool) -> Result<String, WordError> {
        let kept = std::mem::replace(&mut self.quoting.escapes, escapes);
        let read = self.read(Some(stop));
        self.quoting.escapes = kept;
        read.map(|(text, _)| text)
    }

    /// Reads on until `stop`, or the end if there is none.
    fn read(&mut self, stop: Option<char>) -> Result<(String, Vec<String>), WordError> {
        let (mut all, mut words) = (String::new(), Words::default());
        while let Some(c) = self.left.peek().copied() {
            if Some(c) == stop {
                self.left.next();
                return Ok((all, words.done()));
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    words.text(&value, false);
                    all.push_str(&value);
                }
                '\'' if !self.quoting.plain => {
                    let text = self.single()?;
                    words.text(&text, true);
                    all.push_str(&text);
                }
                '"' if !self.quoting.plain => {
                    let text = self.double()?;
                    words.text(&text, true);
                    all.push_str(&text);
                }
                c if c == self.escape => {
                    self.left.next();
                    if self.quoting.escapes {
                        words.raw(c);
                        all.push(c);
                    }
                    let Some(next) = self.left.next() else { break };
                    words.raw(next);
                    all.push(next);
                }
                c => {
                    self.left.next();
                    words.char(c);
                    all.push(c);
                }
            }
        }
        match stop {
            None => Ok((all, words.done())),
            Some('/') => Err(WordError::Slash),
            Some(_) => Err(WordError::Brace),
        }
    }

    fn single(&mut self) -> Result<String, WordError> {
        let mut text = String::new();
        let open = self.left.next();
        text.extend(open.filter(|_| self.quoting.quotes));
        loop {
            match self.left.next() {
                None => return Err(WordError::Quote("single")),
                Some('\'') => {
                    text.extend(open.filter(|_| self.quoting.quotes));
                    return Ok(text);
                }
                Some(c) => text.push(c),
            }
        }
    }

    fn double(&mut self) -> Result<String, WordError> {
        let mut text = String::new();
        let open = self.left.next();
        text.extend(open.filter(|_| self.quoting.quotes));
        loop {
            match self.left.peek().copied() {
                None => return Err(WordError::Quote("double")),
                Some('"') => {
                    self.left.next();
                    text.extend(open.filter(|_| self.quoting.quotes));
                    return Ok(text);
                }
                Some('$') => text.push_str(&self.dollar()?),
                Some(c) => {
                    self.left.next();
                    if c != self.escape {
                        text.push(c);
                        continue;
                    }
                    if self.quoting.escapes {
                        text.push(c);
                    }
                    match self.left.peek().copied() {
                        // One at the very end is dropped.
                        None => {}
                        Some(next) if next == '"' || next == '$' || next == self.escape => {
                            self.left.next();
                            text.push(next);
                        }
                        Some(_) => text.push(c),
                    }
                }
            }
        }
    }

    fn dollar(&mut self) -> Result<String, WordError> {
        self.left.next();
        if self.left.peek() != Some(&'{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            return Ok(match (self.vars)(&name) {
                Some(value) => value,
                None if self.quoting.unset => format!("${name}"),
                None => String::new(),
            });
        }
        self.left.next();
        match self.left.peek() {
            None => return Err(WordError::Brace),
            Some('{' | '}' | ':') => return Err(WordError::Name),
            Some(_) => {}
        }
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(WordError::Depth);
        }
        let value = self.braced();
        self.depth -= 1;
        value
    }

    fn braced(&mut self) -> Result<String, WordError> {
        let name = self.name();
        let mut modifier = String::new();
        let mut mark = self.left.next();
        let empty_is_unset = mark == Some(':');
        if empty_is_unset {
            modifier.push(':');
            mark = self.left.next();
        }
        modifier.extend(mark);
        let value = (self.vars)(&name);
        let kept = self.quoting.unset && value.is_none();
        match mark {
            None => Err(WordError::Brace),
            Some('}') if !empty_is_unset => Ok(match value {
                None if kept => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            }),
            Some('/') if !empty_is_unset => self.replaced(&name, value, kept),
            // Empty or not is no question for a pattern.
            Some('#' | '%') if empty_is_unset => Err(WordError::Modifier(modifier)),
            Some(mark @ ('+' | '-' | '?' | '#' | '%')) => {
                let word = self.until('}', matches!(mark, '#' | '%'))?;
                if kept {
                    return Ok(format!("${{{name}{modifier}{word}}}"));
                }
                let missing = value
                    .as_ref()
                    .is_none_or(|v| empty_is_unset && v.is_empty());
                match mark {
                    '-' if missing => Ok(word),
                    '+' if missing => Ok(String::new()),
                    '+' => Ok(word),
                    '?' if missing => {
                        let why = match (word.is_empty(), value) {
                            (false, _) => word,
                            (true, None) => "is not allowed to be unset".into(),
                            (true, Some(_)) => "is not allowed to be empty".into(),
                        };
                        Err(WordError::Needed { name, why })
                    }
                    '#' | '%' => trimmed(&word, &value.unwrap_or_default(), mark),
                    _ => Ok(value.unwrap_or_default()),
                }
            }
            Some(_) => Err(WordError::Modifier(modifier)),
        }
    }

    fn replaced(
        &mut self,
        name: &str,
        value: Option<String>,
        kept: bool,
    ) -> Result<String, WordError> {
        let all = self.left.next_if_eq(&'/').is_some();
        let pattern = self.until('/', true)?;
        let with = self.until('}', true)?;
        if kept {
            let slashes = if all { "//" } else { "/" };
            return Ok(format!("${{{name}{slashes}{pattern}/{with}}}"));
        }
        let pattern = Pattern::read(&pattern)?;
        Ok(pattern.replace(&value.unwrap_or_default(), &with, all))
    }

    /// Letters, digits and `_`; only digits if it begins with one; or one of the shell's own.
    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.left.peek().copied() {
            let fits = match name.chars().next() {
                None if c.is_ascii_digit() => true,
                None if "@*#?-$!".contains(c) => {
                    self.left.next();
                    return c.to_string();
                }
                Some(first) if first.is_ascii_digit() => c.is_ascii_digit(),
                _ => c.is_alphanumeric() || c == '_',
            };
            if !fits {
                break;
            }
            name.push(c);
            self.left.next();
        }
        name
    }
}

fn trimmed(word: &str, value: &str, mark: char) -> Result<String, WordError> {
    let greedy = word.starts_with(mark);
    let word = if greedy {
        &word[mark.len_utf8()..]
    } else {
        word
    };
    let pattern = Pattern::read(word)?;
    Ok(if mark == '#' {
        pattern.without_prefix(value, greedy)
    } else {
        pattern.without_suffix(value, greedy)
    })
}
