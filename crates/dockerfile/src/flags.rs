//! `--name=value` before an instruction's arguments.

/// Takes the flags off the beginning of a line: what is left, and the flags without quotes and escapes.
pub(crate) fn split(line: &str) -> (&str, Vec<String>) {
    let mut flags = Vec::new();
    let mut left = line;
    loop {
        let trimmed = left.trim_start();
        if !trimmed.starts_with("--") {
            return (trimmed, flags);
        }
        let (word, rest) = word(trimmed);
        left = rest;
        if word == "--" {
            return (rest, flags);
        }
        flags.push(word);
    }
}

/// The first word, with what follows it.
fn word(text: &str) -> (String, &str) {
    let (mut word, mut quote) = (String::new(), None);
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => return (word, &text[at..]),
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            // One at the very end is dropped.
            (_, '\\') => word.extend(chars.next().map(|(_, c)| c)),
            (_, c) => word.push(c),
        }
    }
    (word, "")
}

/// Flags of one instruction, each taken once.
pub(crate) struct Flags<'a> {
    keyword: &'a str,
    all: Vec<(&'a str, Option<&'a str>)>,
    known: Vec<&'static str>,
}

impl<'a> Flags<'a> {
    pub fn of(keyword: &'a str, flags: &'a [String]) -> Self {
        let one = |flag: &'a String| {
            let flag = flag.strip_prefix("--").unwrap_or(flag);
            flag.split_once('=')
                .map_or((flag, None), |(n, v)| (n, Some(v)))
        };
        Self {
            keyword,
            all: flags.iter().map(one).collect(),
            known: Vec::new(),
        }
    }

    fn take(&mut self, name: &'static str) -> Vec<Option<&'a str>> {
        self.known.push(name);
        let (mine, rest) = self.all.iter().partition(|(n, _)| *n == name);
        self.all = rest;
        let mine: Vec<(&str, Option<&str>)> = mine;
        mine.into_iter().map(|(_, v)| v).collect()
    }

    pub fn list(&mut self, name: &'static str) -> Result<Vec<String>, String> {
        let missing = || format!("missing a value on flag: {name}");
        self.take(name)
            .into_iter()
            .map(|v| v.map(str::to_owned).ok_or_else(missing))
            .collect()
    }

    pub fn text(&mut self, name: &'static str) -> Result<Option<String>, String> {
        let mut all = self.list(name)?;
        match all.len() {
            0 | 1 => Ok(all.pop()),
            _ => Err(format!("duplicate flag specified: {name}")),
        }
    }

    pub fn maybe(&mut self, name: &'static str) -> Result<Option<bool>, String> {
        match self.take(name)[..] {
            [] => Ok(None),
            [None | Some("true")] => Ok(Some(true)),
            [Some("false")] => Ok(Some(false)),
            [Some(other)] => Err(format!(
                "expecting boolean value for flag {name}, not: {other}"
            )),
            _ => Err(format!("duplicate flag specified: {name}")),
        }
    }

    pub fn switch(&mut self, name: &'static str) -> Result<bool, String> {
        Ok(self.maybe(name)?.unwrap_or(false))
    }

    /// What nobody took is a mistake.
    pub fn end(&self) -> Result<(), String> {
        let Some((name, _)) = self.all.first() else {
            return Ok(());
        };
        let known: Vec<String> = self.known.iter().map(|k| format!("--{k}")).collect();
        Err(format!(
            "unknown flag: --{name}; {} {}",
            self.keyword,
            if known.is_empty() {
                "takes no flags".into()
            } else {
                format!("takes {}", known.join(", "))
            }
        ))
    }
}
