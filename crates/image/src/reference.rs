//! Image references as the distribution specification's reference grammar reads them, and docker's
//! short names for them.
//!
//! ```text
//! reference := name [ ":" tag ] [ "@" digest ]
//! name      := [ domain "/" ] path
//! domain    := host [ ":" port ]          host: a DNS-like name, an IPv4 or a bracketed IPv6 address
//! path      := component *( "/" component )
//! component := [a-z0-9]+ *( ( "." | "_" | "__" | "-"+ ) [a-z0-9]+ )
//! tag       := [A-Za-z0-9_] [A-Za-z0-9_.-]{0,127}
//! ```
//!
//! Worked example: `redis` is docker's short name. [`Reference::parse`] reads it as the path `redis`
//! without a domain; [`Reference::parse_normalized`] makes it `docker.io/library/redis:latest`, and
//! [`Reference::familiar`] gives `redis:latest` back.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{Digest, DigestError};

/// The registry meant by names without a domain.
pub const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
/// The tag meant by names without one.
pub const DEFAULT_TAG: &str = "latest";
/// The longest path of a name, in bytes.
const PATH_MAX: usize = 255;

/// Why a text is no image reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// Nothing was given.
    #[error("an image name is needed, such as debian:12")]
    Empty,
    /// The grammar does not hold.
    #[error("{0:?} is no image reference: write [registry/]name[:tag][@digest]")]
    Format(String),
    /// Upper-case letters in the path.
    #[error("the repository name in {0:?} has upper-case letters: it must be lower-case")]
    Uppercase(String),
    /// The path is too long.
    #[error("the repository name in {0:?} is longer than {PATH_MAX} bytes")]
    TooLong(String),
    /// The digest is not one that we take.
    #[error("the digest in {name:?} cannot be used")]
    Digest {
        /// The whole reference.
        name: String,
        /// What is wrong with it.
        #[source]
        source: DigestError,
    },
    /// 64 hex digits: an image id.
    #[error("{0:?} is an image id, not a name: 64 hex digits cannot name a repository")]
    IsId(String),
}

/// A parsed image reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: Option<String>,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads a reference as it stands, adding nothing.
    ///
    /// # Errors
    /// [`ReferenceError`], which quotes the text.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        match Self::parse_grammar(text) {
            Err(ReferenceError::Format(_)) if Self::parse_grammar(&text.to_lowercase()).is_ok() => {
                Err(ReferenceError::Uppercase(text.to_owned()))
            }
            other => other,
        }
    }

    fn parse_grammar(text: &str) -> Result<Self, ReferenceError> {
        let bad = || ReferenceError::Format(text.to_owned());
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest)),
            Some(_) => return Err(bad()),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(bad());
        }
        let (domain, path) = match name.split_once('/') {
            Some((domain, path)) if is_domain(domain) && is_path(path) => (Some(domain), path),
            _ if is_path(name) => (None, name),
            _ => return Err(bad()),
        };
        if path.len() > PATH_MAX {
            return Err(ReferenceError::TooLong(text.to_owned()));
        }
        let digest =
            digest
                .map(str::parse)
                .transpose()
                .map_err(|source| ReferenceError::Digest {
                    name: text.to_owned(),
                    source,
                })?;
        Ok(Self {
            domain: domain.map(str::to_owned),
            path: path.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// Reads a name as docker users write it: `redis` becomes `docker.io/library/redis:latest`. When
    /// tag and digest are both given, the digest counts and the tag is left out, as docker does.
    ///
    /// # Errors
    /// As [`Reference::parse`], and for 64 hex digits, which are an id.
    pub fn parse_normalized(text: &str) -> Result<Self, ReferenceError> {
        let mut reference = Self::parse_familiar(text)?;
        if reference.digest.is_some() {
            reference.tag = None;
        } else if reference.tag.is_none() {
            reference.tag = Some(DEFAULT_TAG.to_owned());
        }
        Ok(reference)
    }

    /// As [`Reference::parse_normalized`] without touching tag and digest.
    ///
    /// # Errors
    /// As [`Reference::parse_normalized`].
    pub fn parse_familiar(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if Digest::from_hex(text).is_ok() {
            return Err(ReferenceError::IsId(text.to_owned()));
        }
        let (domain, rest) = match text.split_once('/') {
            // No repository has capitals, but a host may.
            Some((first, rest)) if first.to_lowercase() != first => (first, rest),
            _ => registry_of(text),
        };
        let official = domain == DEFAULT_DOMAIN && !rest.contains('/');
        let remote = rest.split([':', '@']).next().unwrap_or(rest);
        if remote.to_lowercase() != remote {
            return Err(ReferenceError::Uppercase(text.to_owned()));
        }
        let full = format!("{domain}/{}{rest}", if official { OFFICIAL } else { "" });
        let reference = Self::parse(&full).map_err(|e| e.of(text))?;
        if reference.domain.is_none() {
            return Err(ReferenceError::Format(text.to_owned()));
        }
        Ok(reference)
    }

    /// The registry's host and port; empty when the reference has none.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.domain.as_deref().unwrap_or("")
    }

    /// The repository within the registry.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Domain and path, without tag and digest.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.domain {
            Some(domain) => format!("{domain}/{}", self.path),
            None => self.path.clone(),
        }
    }

    /// The name as docker shows it: without `docker.io/` and `library/`.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.domain() != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(rest) if !rest.contains('/') => rest.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The whole reference as docker shows it.
    #[must_use]
    pub fn familiar(&self) -> String {
        self.suffixed(self.familiar_name())
    }

    /// The same repository with this tag and no digest.
    ///
    /// # Errors
    /// When the tag breaks the grammar.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Format(format!("{}:{tag}", self.name())));
        }
        Ok(Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// The same repository with this digest and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    fn suffixed(&self, mut text: String) -> String {
        use fmt::Write as _;
        // Writing to a String cannot fail.
        if let Some(tag) = &self.tag {
            let _ = write!(text, ":{tag}");
        }
        if let Some(digest) = &self.digest {
            let _ = write!(text, "@{digest}");
        }
        text
    }
}

impl ReferenceError {
    /// The same error quoting what the person wrote rather than what it was expanded to.
    fn of(self, text: &str) -> Self {
        let text = text.to_owned();
        match self {
            Self::Format(_) => Self::Format(text),
            Self::Uppercase(_) => Self::Uppercase(text),
            Self::TooLong(_) => Self::TooLong(text),
            Self::Digest { source, .. } => Self::Digest { name: text, source },
            other => other,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.suffixed(self.name()))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The registry that a name or a search term begins with, and the rest of it: docker.io if it begins with none.
#[must_use]
pub fn registry_of(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((LEGACY_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) => (first, rest),
        _ => (DEFAULT_DOMAIN, text),
    }
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = text.as_bytes();
    (1..=128).contains(&bytes.len())
        && word(bytes[0])
        && bytes.iter().all(|b| word(*b) || matches!(b, b'.' | b'-'))
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else {
        return false;
    };
    let component = |c: &str| {
        c.starts_with(|c: char| c.is_ascii_alphabetic())
            && c.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(component)
        && hex.len() >= 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_path(text: &str) -> bool {
    text.split('/').all(is_component)
}

fn is_component(text: &str) -> bool {
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut rest = text.as_bytes();
    loop {
        let word = rest.iter().take_while(|b| alnum(b)).count();
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        let separator = rest.iter().take_while(|b| !alnum(b)).count();
        match &rest[..separator] {
            [] => return rest.is_empty(),
            b"." | b"_" | b"__" => {}
            dashes if dashes.iter().all(|b| *b == b'-') => {}
            _ => return false,
        }
        rest = &rest[separator..];
    }
}

/// Whether the text may stand as a registry's host and port.
pub(crate) fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rfind(':') {
        Some(at) if !text.ends_with(']') => (&text[..at], Some(&text[at + 1..])),
        _ => (text, None),
    };
    if port.is_some_and(|p| p.is_empty() || !p.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    }
    host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })
}

#[cfg(test)]
mod tests {
    use super::{is_domain, registry_of};

    #[test]
    fn registries() {
        for (text, registry, rest) in [
            ("redis", "docker.io", "redis"),
            ("team/redis", "docker.io", "team/redis"),
            ("docker.io/redis", "docker.io", "redis"),
            ("index.docker.io/team/redis", "docker.io", "team/redis"),
            ("localhost/redis", "localhost", "redis"),
            ("reg.example/some words", "reg.example", "some words"),
            ("reg:5000/team/redis", "reg:5000", "team/redis"),
        ] {
            assert_eq!(registry_of(text), (registry, rest), "{text}");
        }
    }

    #[test]
    fn domains() {
        for good in [
            "a",
            "A.b-c",
            "localhost:1",
            "[::1]",
            "[fe80::1]:5000",
            "0101.com",
        ] {
            assert!(is_domain(good), "{good}");
        }
        for bad in [
            "", "a.", "-a", "a-", "a:", "a:x", "[]", "[::1%e]", "[::1]x", "a_b", "::1",
        ] {
            assert!(!is_domain(bad), "{bad}");
        }
    }
}
