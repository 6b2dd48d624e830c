//! Unit names: `prefix[@instance].kind`, fleet's limits, and ranges in commands.
use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Longest name in characters.
pub const NAME_MAX: usize = 256;
/// Most names that one range expression may give.
pub const EXPANSION_MAX: usize = 1000;

/// Marks, at the end of its stem, the unit that takes another's place. Nobody can submit one.
const SUCCESSOR: char = '+';

/// What a unit is, told by its suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "each variant is the suffix of its name")]
pub enum UnitKind {
    Container,
    Volume,
    Network,
    Service,
    Timer,
    Target,
    Pod,
    Image,
    Build,
    Kube,
    Socket,
    Path,
    Mount,
    Automount,
    Device,
    Swap,
    Slice,
    Scope,
}

const KINDS: [(&str, UnitKind); 18] = [
    ("container", UnitKind::Container),
    ("volume", UnitKind::Volume),
    ("network", UnitKind::Network),
    ("service", UnitKind::Service),
    ("timer", UnitKind::Timer),
    ("target", UnitKind::Target),
    ("pod", UnitKind::Pod),
    ("image", UnitKind::Image),
    ("build", UnitKind::Build),
    ("kube", UnitKind::Kube),
    ("socket", UnitKind::Socket),
    ("path", UnitKind::Path),
    ("mount", UnitKind::Mount),
    ("automount", UnitKind::Automount),
    ("device", UnitKind::Device),
    ("swap", UnitKind::Swap),
    ("slice", UnitKind::Slice),
    ("scope", UnitKind::Scope),
];

impl UnitKind {
    /// The suffix without its dot.
    pub fn suffix(self) -> &'static str {
        KINDS
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |(suffix, _)| suffix)
    }
    fn of(suffix: &str) -> Option<UnitKind> {
        KINDS
            .iter()
            .find(|(known, _)| *known == suffix)
            .map(|(_, kind)| *kind)
    }
}

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it; each carries the name")]
pub enum NameError {
    #[error("unit name is empty; write for example web.container")]
    Empty,
    #[error("unit name {0:?} is longer than {NAME_MAX} characters")]
    TooLong(String),
    #[error("unit name {0:?} holds {1:?}; allowed are letters, digits and : - _ . \\ @")]
    Charset(String, char),
    #[error("unit name {0:?} starts with '@'; write the prefix first, as in web@1.container")]
    LeadingAt(String),
    #[error("unit name {0:?} has no known suffix; write for example web.container or job.service")]
    Suffix(String),
    #[error("unit name {0:?} has nothing before its suffix")]
    NoPrefix(String),
    #[error("{0} is not a template; only names such as web@.container take an instance")]
    NotTemplate(String),
    #[error("{0:?}: a range is written {{1..3}} or {{a,b}}")]
    Range(String),
    #[error("{0:?} names more than {EXPANSION_MAX} units")]
    TooMany(String),
}

/// A valid unit name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnitName {
    text: String,
    kind: UnitKind,
}

impl UnitName {
    /// Checks a full name.
    pub fn new(text: &str) -> Result<UnitName, NameError> {
        let owned = || text.to_owned();
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NAME_MAX {
            return Err(NameError::TooLong(text.chars().take(40).collect()));
        }
        let foreign = |c: char| !(c.is_ascii_alphanumeric() || ":-_.\\@".contains(c));
        let marked = text.rsplit_once('.').and_then(|(stem, suffix)| {
            let stem = stem.strip_suffix(SUCCESSOR)?;
            (!stem.ends_with('@')).then(|| format!("{stem}.{suffix}"))
        });
        let plain = marked.as_deref().unwrap_or(text);
        if let Some(c) = plain.chars().find(|c| foreign(*c)) {
            return Err(NameError::Charset(owned(), c));
        }
        if text.starts_with('@') {
            return Err(NameError::LeadingAt(owned()));
        }
        let (stem, suffix) = plain
            .rsplit_once('.')
            .ok_or_else(|| NameError::Suffix(owned()))?;
        let kind = UnitKind::of(suffix).ok_or_else(|| NameError::Suffix(owned()))?;
        // "." and ".." would be directories where names become file names.
        if stem.trim_matches('.').is_empty() {
            return Err(NameError::NoPrefix(owned()));
        }
        Ok(UnitName {
            text: owned(),
            kind,
        })
    }

    /// Checks a name as a person types it: without a known suffix it means `.container`.
    pub fn with_default_suffix(text: &str) -> Result<UnitName, NameError> {
        match UnitName::new(text) {
            Err(NameError::Suffix(_)) => UnitName::new(&format!("{text}.container")),
            other => other,
        }
    }

    /// The full name.
    pub fn as_str(&self) -> &str {
        &self.text
    }
    /// The kind that the suffix names.
    pub fn kind(&self) -> UnitKind {
        self.kind
    }
    /// The name without its suffix: `web@1`. A successor has that of the unit whose place it takes.
    pub fn stem(&self) -> &str {
        let stem = self.text.rsplit_once('.');
        let stem = stem.map_or(&*self.text, |(stem, _)| stem);
        stem.strip_suffix(SUCCESSOR).unwrap_or(stem)
    }
    /// Whether it is a unit that is about to take the place of the one of the same [`Self::base`]: `web@1+.container`.
    pub fn is_successor(&self) -> bool {
        let stem = self.text.rsplit_once('.');
        stem.is_some_and(|(stem, _)| stem.ends_with(SUCCESSOR))
    }
    /// The unit that is about to take this one's place; of a template, itself.
    #[must_use]
    pub fn successor(&self) -> UnitName {
        if self.is_template() || self.is_successor() {
            return self.clone();
        }
        UnitName {
            text: format!("{}{SUCCESSOR}.{}", self.stem(), self.kind.suffix()),
            kind: self.kind,
        }
    }
    /// The unit whose place a successor takes; of any other, itself.
    #[must_use]
    pub fn base(&self) -> UnitName {
        UnitName {
            text: format!("{}.{}", self.stem(), self.kind.suffix()),
            kind: self.kind,
        }
    }
    /// What stands before the first `@`: `web`.
    pub fn prefix(&self) -> &str {
        self.stem()
            .split_once('@')
            .map_or(self.stem(), |(prefix, _)| prefix)
    }
    /// What stands after the first `@`, unless that is nothing (a template).
    pub fn instance(&self) -> Option<&str> {
        self.stem()
            .split_once('@')
            .map(|(_, instance)| instance)
            .filter(|i| !i.is_empty())
    }
    /// Whether this is a template, `web@.container`.
    pub fn is_template(&self) -> bool {
        self.stem()
            .split_once('@')
            .is_some_and(|(_, instance)| instance.is_empty())
    }
    /// The template that an instance is made from; nothing for plain names.
    pub fn template(&self) -> Option<UnitName> {
        self.stem().contains('@').then(|| UnitName {
            text: format!("{}@.{}", self.prefix(), self.kind.suffix()),
            kind: self.kind,
        })
    }
    /// An instance of this template.
    pub fn instantiate(&self, instance: &str) -> Result<UnitName, NameError> {
        if !self.is_template() || instance.is_empty() {
            return Err(NameError::NotTemplate(self.text.clone()));
        }
        UnitName::new(&format!(
            "{}@{instance}.{}",
            self.prefix(),
            self.kind.suffix()
        ))
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl AsRef<str> for UnitName {
    fn as_ref(&self) -> &str {
        &self.text
    }
}
impl FromStr for UnitName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<UnitName, NameError> {
        UnitName::new(text)
    }
}
impl TryFrom<String> for UnitName {
    type Error = NameError;
    fn try_from(text: String) -> Result<UnitName, NameError> {
        UnitName::new(&text)
    }
}
impl Serialize for UnitName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// Expands `web@{1..3}` and `{a,b}`, several per word, left to right; `{3..1}` counts down.
pub fn expand_ranges(text: &str) -> Result<Vec<String>, NameError> {
    let bad = || NameError::Range(text.to_owned());
    let mut done = vec![String::new()];
    let mut rest = text;
    while let Some(open) = rest.find(['{', '}']) {
        let after = rest[open..].strip_prefix('{').ok_or_else(bad)?;
        let close = after.find(['{', '}']).ok_or_else(bad)?;
        let tail = after[close..].strip_prefix('}').ok_or_else(bad)?;
        let items = range_items(&after[..close]).ok_or_else(bad)?;
        if items.len().saturating_mul(done.len()) > EXPANSION_MAX {
            return Err(NameError::TooMany(text.to_owned()));
        }
        done = done
            .iter()
            .flat_map(|head| {
                items
                    .iter()
                    .map(move |item| format!("{head}{}{item}", &rest[..open]))
            })
            .collect();
        rest = tail;
    }
    Ok(done.into_iter().map(|head| head + rest).collect())
}

fn range_items(body: &str) -> Option<Vec<String>> {
    if let Some((from, to)) = body.split_once("..") {
        let (a, b): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
        if a.abs_diff(b) as usize >= EXPANSION_MAX * 2 {
            return None;
        }
        return Some(if a <= b {
            (a..=b).map(|n| n.to_string()).collect()
        } else {
            (b..=a).rev().map(|n| n.to_string()).collect()
        });
    }
    let items: Vec<String> = body.split(',').map(str::to_owned).collect();
    (items.len() > 1 && items.iter().all(|i| !i.is_empty())).then_some(items)
}
