//! Taking a tree apart: mappings with known keys, lists, texts. What does not fit is told and left out.
use crate::nearest::nearest;
use crate::problem::{Mark, Problems, quoted};
use crate::tree::{Kind, Node, Scalar};
use std::collections::BTreeMap;

/// Characters of a key that a path shows.
const KEY_SHOWN: usize = 64;

/// The keys of one mapping.
pub(crate) struct Keys {
    /// Keys that are read, with `_`.
    pub known: &'static [&'static str],
    /// Keys that others have: blank-separated, with `_`, and what to do instead.
    pub refused: &'static [(&'static str, &'static str)],
}

/// A node and the path to it.
#[derive(Debug, Clone)]
pub(crate) struct At<'n> {
    pub path: String,
    pub node: &'n Node,
}

/// What a mapping has of its known keys, each once.
pub(crate) struct Fields<'n> {
    at: At<'n>,
    found: BTreeMap<&'static str, At<'n>>,
}

impl<'n> Fields<'n> {
    pub fn get(&self, key: &str) -> Option<&At<'n>> {
        self.found.get(key)
    }

    /// A key that has to be there; `example` says how it is written.
    pub fn need(&self, key: &str, example: &str, out: &mut Problems) -> Option<&At<'n>> {
        let found = self.found.get(key);
        if found.is_none() {
            self.at.fail(
                out,
                format!("{key} is missing; write for example {example}"),
            );
        }
        found
    }

    /// A truth that is `default` where nothing is written.
    pub fn truth(&self, key: &str, default: bool, out: &mut Problems) -> bool {
        self.get(key)
            .and_then(|at| at.truth(out))
            .unwrap_or(default)
    }
}

impl<'n> At<'n> {
    pub fn fail(&self, out: &mut Problems, message: impl Into<String>) {
        out.add(self.node.mark, &self.path, message);
    }

    /// The mapping's known keys; the rest is told.
    pub fn fields(&self, keys: &Keys, out: &mut Problems) -> Option<Fields<'n>> {
        let mut found: BTreeMap<&'static str, At<'n>> = BTreeMap::new();
        for (mark, text, node) in self.entries(out)? {
            let plain = text.replace('-', "_");
            let path = self.path_of(&plain);
            if let Some(known) = keys.known.iter().find(|k| **k == plain) {
                match found.get(known) {
                    Some(first) => out.add(mark, &path, twice(first)),
                    None => drop(found.insert(known, At { path, node })),
                }
                continue;
            }
            let all = keys.refused.iter();
            let mut refusals = all.filter(|(k, _)| k.split_whitespace().any(|k| k == plain));
            match refusals.next() {
                Some((_, why)) => out.add(mark, &path, *why),
                None => out.add(mark, &path, unknown(&plain, keys)),
            }
        }
        let at = self.clone();
        Some(Fields { at, found })
    }

    /// A mapping whose keys are anybody's: key, its place, value.
    pub fn pairs(&self, out: &mut Problems) -> Vec<(String, Mark, At<'n>)> {
        let mut pairs: Vec<(String, Mark, At<'n>)> = Vec::new();
        let mut seen: BTreeMap<&str, At<'n>> = BTreeMap::new();
        for (mark, text, node) in self.entries(out).unwrap_or_default() {
            let at = At {
                path: self.path_of(text),
                node,
            };
            match seen.get(text) {
                Some(first) => out.add(mark, &at.path, twice(first)),
                None => {
                    seen.insert(text, at.clone());
                    pairs.push((text.to_owned(), mark, at));
                }
            }
        }
        pairs
    }

    /// Nothing is as good as an empty mapping, since all its lines may be comments.
    fn entries(&self, out: &mut Problems) -> Option<Vec<(Mark, &'n str, &'n Node)>> {
        if self.node.is_null() {
            return Some(Vec::new());
        }
        let Kind::Map(entries) = &self.node.kind else {
            self.wrong_kind("a mapping (lines of `key: value`)", out);
            return None;
        };
        if !self.tag_is(&["!!map"], out) {
            return None;
        }
        let mut found = Vec::new();
        for (key, node) in entries {
            match &key.text {
                Some(text) => found.push((key.mark, &**text, node)),
                None => out.add(
                    key.mark,
                    &self.path,
                    "a key has to be a word; write `key: value`",
                ),
            }
        }
        Some(found)
    }

    /// The items of a list; nothing is as good as an empty one.
    pub fn items(&self, out: &mut Problems) -> Vec<At<'n>> {
        if self.node.is_null() {
            return Vec::new();
        }
        let Kind::List(items) = &self.node.kind else {
            self.wrong_kind("a list (lines of `- item`)", out);
            return Vec::new();
        };
        if !self.tag_is(&["!!seq"], out) {
            return Vec::new();
        }
        let at = |(index, node)| At {
            path: format!("{}[{index}]", self.path),
            node,
        };
        items.iter().enumerate().map(at).collect()
    }

    /// A scalar with one of some tags, or without.
    pub fn scalar(&self, tags: &[&str], out: &mut Problems) -> Option<&'n Scalar> {
        if self.node.is_null() {
            self.fail(out, "has no value; write one or remove the key");
            return None;
        }
        match &self.node.kind {
            Kind::Scalar(scalar) => self.tag_is(tags, out).then_some(scalar),
            _ => {
                self.wrong_kind("text", out);
                None
            }
        }
    }

    /// Text as it is written; of a plain number or truth too.
    pub fn text(&self, out: &mut Problems) -> Option<&'n str> {
        self.scalar(&["!!str"], out).map(|scalar| &*scalar.text)
    }

    /// Text that a function makes something of, or says what is wrong with it.
    pub fn read<T>(
        &self,
        out: &mut Problems,
        make: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let made = make(self.text(out)?);
        made.map_err(|why| self.fail(out, why)).ok()
    }

    /// As YAML 1.1 writes it, which is what CoreOS and cloud-init read.
    pub fn truth(&self, out: &mut Problems) -> Option<bool> {
        self.read(out, |text| {
            truth_of(text).ok_or_else(|| format!("{} is neither true nor false", quoted(text)))
        })
    }

    fn wrong_kind(&self, wanted: &str, out: &mut Problems) {
        let is = match &self.node.kind {
            Kind::Alias => {
                self.fail(
                    out,
                    "aliases (*name) are not followed; write the value itself",
                );
                return;
            }
            Kind::Scalar(_) => "text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        };
        self.fail(out, format!("has to be {wanted}, but is {is}"));
    }

    fn tag_is(&self, tags: &[&str], out: &mut Problems) -> bool {
        let tag = &*self.node.tag;
        let good = tag.is_empty() || tags.contains(&tag);
        if !good {
            self.fail(
                out,
                format!("the tag {} has no meaning here; remove it", quoted(tag)),
            );
        }
        good
    }

    fn path_of(&self, key: &str) -> String {
        let shown: String = key
            .chars()
            .filter(|c| !c.is_control())
            .take(KEY_SHOWN)
            .collect();
        match self.path.is_empty() {
            true => shown,
            false => format!("{}.{shown}", self.path),
        }
    }
}

fn twice(first: &At<'_>) -> String {
    format!(
        "is here twice, and only the first is read (line {}); make one of both",
        first.node.mark.line
    )
}

fn unknown(key: &str, keys: &Keys) -> String {
    match nearest(key, keys.known.iter().copied()) {
        Some(near) => format!("unknown key; did you mean {near}?"),
        None => format!("unknown key; there are {}", keys.known.join(", ")),
    }
}

/// A truth as YAML 1.1 writes it.
pub fn truth_of(text: &str) -> Option<bool> {
    match &*text.to_lowercase() {
        "true" | "yes" | "on" => Some(true),
        "false" | "no" | "off" => Some(false),
        _ => None,
    }
}
