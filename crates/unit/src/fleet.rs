//! `[X-Fleet]`: where a unit may run. Legacy `X-Condition…` names are read as their successors.
use crate::{name::UnitName, reader::Reader, value::parse_bool};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Placement.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct FleetSection {
    /// Full id of the one machine; the first value wins.
    pub machine_id: Option<String>,
    /// Units whose machine this one must share.
    pub machine_of: Vec<String>,
    /// Values of one key are alternatives; all keys must hold.
    pub machine_metadata: BTreeMap<String, BTreeSet<String>>,
    /// Globs of unit names that must not share the machine.
    pub conflicts: Vec<String>,
    /// Runs on every machine that fits.
    pub global: bool,
    /// Globs of units that make room by moving elsewhere.
    pub replaces: Vec<String>,
}

impl FleetSection {
    /// Whether a machine's labels satisfy MachineMetadata.
    pub fn metadata_fits(&self, labels: &BTreeMap<String, String>) -> bool {
        self.machine_metadata
            .iter()
            .all(|(k, any)| labels.get(k).is_some_and(|v| any.contains(v)))
    }

    pub(crate) fn read(r: &mut Reader<'_>, name: &UnitName) -> FleetSection {
        let mut fleet = FleetSection::default();
        for key in [
            "MachineID",
            "X-ConditionMachineID",
            "X-ConditionMachineBootID",
        ] {
            if fleet.machine_id.is_none() {
                fleet.machine_id = r.plain_words(key).into_iter().next();
            }
        }
        for key in ["MachineOf", "X-ConditionMachineOf"] {
            fleet.machine_of.extend(r.plain_words(key));
        }
        for key in ["Conflicts", "X-Conflicts"] {
            fleet.conflicts.extend(r.plain_words(key));
        }
        fleet.replaces = r.plain_words("Replaces");
        for key in ["MachineMetadata", "X-ConditionMachineMetadata"] {
            for (entry, word) in r.words(key) {
                match word.split_once('=') {
                    Some((k, v)) if !k.is_empty() && !v.is_empty() && !v.contains('=') => {
                        fleet
                            .machine_metadata
                            .entry(k.into())
                            .or_default()
                            .insert(v.into());
                    }
                    _ => r.fail(entry, format!("{word:?} is not key=value with one '='")),
                }
            }
        }
        fleet.global = r.parse("Global", parse_bool).unwrap_or(false);
        fleet.check(r, name);
        fleet
    }

    fn check(&self, r: &mut Reader<'_>, name: &UnitName) {
        let id = self.machine_id.is_some();
        let (of, conflicts) = (!self.machine_of.is_empty(), !self.conflicts.is_empty());
        let replaces = !self.replaces.is_empty();
        for (refused, pair) in [
            (id && of, "MachineID and MachineOf"),
            (id && conflicts, "MachineID and Conflicts"),
            (id && self.global, "MachineID and Global"),
            (id && replaces, "MachineID and Replaces"),
            (self.global && of, "Global and MachineOf"),
            (self.global && replaces, "Global and Replaces"),
            (conflicts && replaces, "Conflicts and Replaces"),
        ] {
            if refused {
                r.fail_section("", format!("{pair} cannot stand together; remove one"));
            }
        }
        for (key, globs) in [("Conflicts", &self.conflicts), ("Replaces", &self.replaces)] {
            for peer in &self.machine_of {
                if let Some(glob) = globs.iter().find(|g| glob_match(g, peer)) {
                    r.fail_section(
                        key,
                        format!("{glob} matches {peer}, which MachineOf needs on the same machine"),
                    );
                }
            }
        }
        if self.machine_of.iter().any(|peer| peer == name.as_str()) {
            r.fail_section("MachineOf", "a unit cannot follow itself");
        }
    }
}

/// Path globs as fleet's: `*`, `?`, `[a-z]`, `[^a]`, backslash escapes; `*` does not cross `/`.
pub fn glob_match(pattern: &str, name: &str) -> bool {
    let (p, n): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut i, mut j) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if p.get(i) == Some(&'*') {
            star = Some((i + 1, j));
            i += 1;
            continue;
        }
        if i == p.len() && j == n.len() {
            return true;
        }
        match n.get(j).and_then(|c| one(&p, i, *c)) {
            Some(next) => (i, j) = (next, j + 1),
            // Only the last star need be retried, so the work is bounded by both lengths.
            None => match star {
                Some((after, from)) if from < n.len() && n[from] != '/' => {
                    star = Some((after, from + 1));
                    (i, j) = (after, from + 1);
                }
                _ => return false,
            },
        }
    }
}

/// Where the pattern goes on when its item at `i` takes `c`.
fn one(p: &[char], i: usize, c: char) -> Option<usize> {
    match *p.get(i)? {
        '?' => (c != '/').then_some(i + 1),
        '\\' => (*p.get(i + 1)? == c).then_some(i + 2),
        '[' => {
            let negated = matches!(p.get(i + 1), Some('^' | '!'));
            let first = i + 1 + usize::from(negated);
            let (mut k, mut found) = (first, false);
            while k == first || *p.get(k)? != ']' {
                let low = *p.get(k)?;
                let ranged = p.get(k + 1) == Some(&'-') && p.get(k + 2).is_some_and(|h| *h != ']');
                let high = if ranged { p[k + 2] } else { low };
                found |= low <= c && c <= high;
                k += if ranged { 3 } else { 1 };
            }
            (found != negated).then_some(k + 1)
        }
        literal => (literal == c).then_some(i + 1),
    }
}
