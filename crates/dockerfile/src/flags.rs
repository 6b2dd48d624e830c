//! `--name=value` before an instruction's arguments.

use crate::error::{DockerfileError, short};

/// Takes the flags off the beginning of a line: what is left, and the flags without quotes and escapes.
pub(crate) fn split(line: &str) -> (&str, Vec<String>) {
    let mut flags = Vec::new();
    let mut left = line.trim_start();
    while left.starts_with("--") {
        let (flag, rest) = word(left);
        left = rest.trim_start();
        // Two dashes alone end the flags.
        if flag == "--" {
            break;
        }
        flags.push(flag);
    }
    (left, flags)
}

/// The first word, with what follows it. The escape is a backslash here, whatever the file's.
fn word(text: &str) -> (String, &str) {
    let (mut word, mut quote) = (String::new(), None);
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => return (word, &text[at..]),
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            (_, '\\') => word.extend(chars.next().map(|(_, c)| c)),
            (_, c) => word.push(c),
        }
    }
    (word, "")
}

/// An instruction's flags.
#[derive(Debug)]
pub(crate) struct Flags<'a> {
    line: usize,
    all: Vec<(&'a str, Option<&'a str>)>,
}

impl<'a> Flags<'a> {
    /// Takes them apart. One that is not `known` is refused.
    pub fn of(
        line: usize,
        keyword: &str,
        flags: &'a [String],
        known: &[&str],
    ) -> Result<Self, DockerfileError> {
        let mut all = Vec::new();
        for flag in flags.iter().take_while(|f| *f != "--") {
            let flag = flag.strip_prefix("--").unwrap_or(flag);
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag, None),
            };
            if !known.contains(&name) {
                let names: Vec<String> = known.iter().map(|k| format!("--{k}")).collect();
                return Err(DockerfileError::UnknownFlag {
                    line,
                    flag: short(name),
                    keyword: keyword.to_owned(),
                    known: match names.is_empty() {
                        true => "no flags".to_owned(),
                        false => names.join(", "),
                    },
                });
            }
            all.push((name, value));
        }
        Ok(Self { line, all })
    }

    /// What is wrong with a flag's value.
    pub fn wrong(&self, name: &str, cause: String) -> DockerfileError {
        DockerfileError::FlagValue {
            line: self.line,
            flag: name.to_owned(),
            cause,
        }
    }

    fn missing(&self, name: &str) -> DockerfileError {
        self.wrong(
            name,
            format!("missing a value on flag: {name}; write --{name}=VALUE"),
        )
    }

    fn given(&self, name: &str) -> impl Iterator<Item = Option<&'a str>> {
        self.all
            .iter()
            .filter(move |(n, _)| *n == name)
            .map(|(_, v)| *v)
    }

    fn once(&self, name: &str) -> Result<Option<Option<&'a str>>, DockerfileError> {
        let mut given = self.given(name);
        let first = given.next();
        match given.next() {
            None => Ok(first),
            Some(_) => Err(DockerfileError::DuplicateFlag {
                line: self.line,
                flag: name.to_owned(),
            }),
        }
    }

    /// Values of a flag that may be given more than once.
    pub fn list(&self, name: &str) -> Result<Vec<String>, DockerfileError> {
        self.given(name)
            .map(|v| v.map(str::to_owned).ok_or_else(|| self.missing(name)))
            .collect()
    }

    /// The value of a flag; an empty one as well.
    pub fn text(&self, name: &str) -> Result<Option<String>, DockerfileError> {
        match self.once(name)? {
            None => Ok(None),
            Some(None) => Err(self.missing(name)),
            Some(Some(value)) => Ok(Some(value.to_owned())),
        }
    }

    /// The value of a flag for which an empty one is as good as none.
    pub fn some(&self, name: &str) -> Result<Option<String>, DockerfileError> {
        Ok(self.text(name)?.filter(|v| !v.is_empty()))
    }

    /// `--name`, `--name=true` or `--name=false`.
    pub fn switch(&self, name: &str) -> Result<Option<bool>, DockerfileError> {
        match self.once(name)? {
            None => Ok(None),
            Some(None) => Ok(Some(true)),
            Some(Some("")) => Err(self.missing(name)),
            Some(Some(value)) if value.eq_ignore_ascii_case("true") => Ok(Some(true)),
            Some(Some(value)) if value.eq_ignore_ascii_case("false") => Ok(Some(false)),
            Some(Some(value)) => Err(self.wrong(
                name,
                format!(
                    "expecting boolean value for flag {name}, not: {}; write true or false",
                    short(value)
                ),
            )),
        }
    }
}
