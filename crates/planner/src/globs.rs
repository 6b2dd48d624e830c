//! Globs of Conflicts and Replaces, each matched against each name once: when the later of the two comes.
//!
//! A placement then costs a few counters, and whether two units get along on a machine is read from counters.
use crate::ids::{M, P, U};
use crate::slab::Slab;
use coracle_unit::fleet::glob_match;
use std::collections::{BTreeMap, BTreeSet};

/// How many placements of a kind are on each machine.
#[derive(Debug, Default)]
pub(crate) struct Counts(BTreeMap<M, u32>);

impl Counts {
    pub(crate) fn on(&self, m: M) -> u32 {
        self.0.get(&m).copied().unwrap_or(0)
    }
    pub(crate) fn machines(&self) -> impl Iterator<Item = M> {
        self.0.keys().copied()
    }
    pub(crate) fn change(&mut self, m: M, more: bool, by: u32) {
        let count = self.0.entry(m).or_default();
        *count = if more {
            *count + by
        } else {
            count.saturating_sub(by)
        };
        if *count == 0 {
            self.0.remove(&m);
        }
    }
}

/// One glob.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub text: String,
    refs: usize,
    /// Units whose names it matches.
    pub matches: BTreeSet<U>,
    /// Placements of these.
    pub matched: Counts,
    /// Placements of units that have it as Conflicts.
    pub conflicting: Counts,
    /// Placements of units that have it as Replaces.
    pub replacing: Counts,
}

/// All globs in use.
#[derive(Debug, Default)]
pub(crate) struct Globs {
    patterns: Slab<Pattern>,
    /// By what stands before the first special character, then by text.
    by_prefix: BTreeMap<String, BTreeMap<String, P>>,
}

/// What every match begins with.
pub(crate) fn literal_prefix(glob: &str) -> &str {
    &glob[..glob.find(['*', '?', '[', '\\']).unwrap_or(glob.len())]
}

impl Globs {
    pub(crate) fn get(&self, p: P) -> &Pattern {
        &self.patterns[p.0]
    }
    pub(crate) fn get_mut(&mut self, p: P) -> &mut Pattern {
        &mut self.patterns[p.0]
    }

    /// The glob's number; true if it is new, so that its matches are still to be found.
    pub(crate) fn hold(&mut self, text: &str) -> (P, bool) {
        let prefix = literal_prefix(text);
        if let Some(p) = self.by_prefix.get(prefix).and_then(|all| all.get(text)) {
            self.patterns[p.0].refs += 1;
            return (*p, false);
        }
        let p = P(self.patterns.insert(Pattern {
            text: text.to_owned(),
            refs: 1,
            matches: BTreeSet::new(),
            matched: Counts::default(),
            conflicting: Counts::default(),
            replacing: Counts::default(),
        }));
        let all = self.by_prefix.entry(prefix.to_owned()).or_default();
        all.insert(text.to_owned(), p);
        (p, true)
    }

    /// Gives one hold back; the units it matched, if that was the last.
    pub(crate) fn release(&mut self, p: P) -> BTreeSet<U> {
        let pattern = &mut self.patterns[p.0];
        pattern.refs -= 1;
        if pattern.refs > 0 {
            return BTreeSet::new();
        }
        let matches = std::mem::take(&mut pattern.matches);
        let prefix = literal_prefix(&pattern.text).to_owned();
        if let Some(all) = self.by_prefix.get_mut(&prefix) {
            all.remove(&pattern.text);
            if all.is_empty() {
                self.by_prefix.remove(&prefix);
            }
        }
        self.patterns.remove(p.0);
        matches
    }

    /// The globs that match a name.
    pub(crate) fn matching(&self, name: &str) -> Vec<P> {
        if self.by_prefix.is_empty() {
            return Vec::new();
        }
        let mut found = BTreeSet::new();
        let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
        for end in ends {
            for (text, p) in self.by_prefix.get(&name[..end]).into_iter().flatten() {
                if glob_match(text, name) {
                    found.insert(*p);
                }
            }
        }
        found.into_iter().collect()
    }
}
