//! Machines as the store has them. Their facts, signs and marks are watched one by one, and come in any order. Pure.

use crate::error::{FleetError, Result};
use crate::model::{Machine, Marks};
use crate::presence::Seen;
use coracle_store::Revision;
use std::collections::BTreeMap;
use std::ops::Deref;

/// See the module.
#[derive(Default)]
pub(crate) struct Roll {
    known: BTreeMap<String, Seen>,
    /// Signs and marks of machines whose facts have not come yet.
    early: BTreeMap<String, (bool, Marks)>,
    /// When what is known of marks was written.
    marked: BTreeMap<String, Revision>,
}

impl Deref for Roll {
    type Target = BTreeMap<String, Seen>;

    fn deref(&self) -> &Self::Target {
        &self.known
    }
}

impl Roll {
    pub fn new(known: BTreeMap<String, Seen>) -> Self {
        Self {
            known,
            ..Self::default()
        }
    }

    pub fn all(&self) -> BTreeMap<String, Seen> {
        self.known.clone()
    }

    /// A machine says what it is.
    pub fn facts(&mut self, id: &str, machine: Machine) {
        let (alive, marks) = match self.known.remove(id) {
            Some(former) => (former.alive, former.marks),
            None => self.early.remove(id).unwrap_or_default(),
        };
        let seen = Seen::new(machine, alive, marks);
        self.known.insert(id.to_owned(), seen);
    }

    /// A machine gives signs, or does not any more.
    pub fn signs(&mut self, id: &str, alive: bool) {
        match self.known.get_mut(id) {
            Some(seen) => seen.alive = alive,
            None => self.early.entry(id.to_owned()).or_default().0 = alive,
        }
    }

    /// Whether a machine is there.
    pub fn gives_signs(&self, id: &str) -> bool {
        self.known.get(id).is_some_and(|seen| seen.alive)
    }

    /// An operator says something of a machine; what is older than what is known is left.
    pub fn mark(&mut self, id: &str, marks: Marks, written: Revision) {
        let known = self.marked.entry(id.to_owned()).or_default();
        if written < *known {
            return;
        }
        *known = written;
        match self.known.get_mut(id) {
            Some(seen) => seen.mark(marks),
            None => self.early.entry(id.to_owned()).or_default().1 = marks,
        }
    }

    /// A machine is no more. Its signs and marks go by themselves.
    pub fn remove(&mut self, id: &str) {
        if let Some(former) = self.known.remove(id) {
            let left = (former.alive, former.marks);
            self.early.insert(id.to_owned(), left);
        }
    }

    /// As people call a machine: its host name, with the id's beginning if others have that name, too.
    pub fn called(&self, id: &str) -> String {
        let Some(seen) = self.known.get(id) else {
            return id.to_owned();
        };
        let name = &seen.machine.hostname;
        let same = self.known.values().filter(|s| s.machine.hostname == *name);
        match same.count() {
            1 if !name.is_empty() => name.clone(),
            _ => named(&seen.machine),
        }
    }

    /// With machines as people call them instead of their ids.
    pub fn in_words(&self, text: &str) -> String {
        let mut words = text.to_owned();
        let parts = text.split(|c: char| !c.is_ascii_alphanumeric());
        for id in parts.filter(|part| self.known.contains_key(*part)) {
            words = words.replace(id, &self.called(id));
        }
        words
    }

    /// The machine with this id or host name, or the only one whose id or host name begins so.
    ///
    /// # Errors
    /// [`FleetError::NoMachine`], [`FleetError::AmbiguousMachine`].
    pub fn find(&self, text: &str) -> Result<&Seen> {
        if let Some(found) = self.known.get(text) {
            return Ok(found);
        }
        let all = || self.known.values();
        let whole: Vec<&Seen> = all().filter(|s| s.machine.hostname == text).collect();
        let begins =
            |s: &&Seen| s.machine.id.starts_with(text) || s.machine.hostname.starts_with(text);
        let fits = match whole.is_empty() {
            true => all().filter(begins).collect(),
            false => whole,
        };
        let names = |those: &mut dyn Iterator<Item = &Seen>| {
            let names: Vec<String> = those.map(|s| named(&s.machine)).collect();
            names.join(", ")
        };
        match fits.as_slice() {
            [one] if !text.is_empty() => Ok(one),
            several if !text.is_empty() && several.len() > 1 => Err(FleetError::AmbiguousMachine {
                text: text.to_owned(),
                fits: names(&mut several.iter().copied()),
            }),
            _ => Err(FleetError::NoMachine {
                text: text.to_owned(),
                known: names(&mut all()),
            }),
        }
    }
}

/// Host name and the id's beginning: `web-2 (4f3a9c01d2e3)`.
fn named(machine: &Machine) -> String {
    let short = machine.id.get(..12).unwrap_or(&machine.id);
    format!("{} ({short})", machine.hostname)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn machine(id: &str, hostname: &str) -> Machine {
        let mut facts = crate::machine::facts(&id.repeat(8));
        hostname.clone_into(&mut facts.hostname);
        facts.labels.insert("rack".into(), "own".into());
        facts
    }

    fn roll(those: &[(&str, &str)]) -> Roll {
        let mut roll = Roll::default();
        for (id, hostname) in those {
            roll.facts(&id.repeat(8), machine(id, hostname));
        }
        roll
    }

    fn label(value: &str) -> Marks {
        let mut marks = Marks::default();
        marks.labels.insert("rack".into(), value.into());
        marks
    }

    #[test]
    fn machines_are_found_by_id_name_and_beginning() {
        let roll = roll(&[
            ("4f3a", "web-1"),
            ("4f7b", "web-2"),
            ("d00d", "web"),
            ("c0de", "db"),
            ("beef", "db"),
        ]);
        let found = |text: &str| roll.find(text).map(|s| s.machine.id[..4].to_owned());
        assert_eq!(found("web-1").unwrap(), "4f3a");
        assert_eq!(found(&"4f7b".repeat(8)).unwrap(), "4f7b");
        assert_eq!(found("4f3").unwrap(), "4f3a");
        assert_eq!(
            found("web").unwrap(),
            "d00d",
            "a whole name is no beginning"
        );
        let told = |text: &str| found(text).unwrap_err().to_string();
        assert!(told("4f").contains("ambiguous"), "{}", told("4f"));
        assert!(told("db").contains("beefbeefbeef"), "{}", told("db"));
        assert!(
            told("mail").contains("web-2 (4f7b4f7b4f7b)"),
            "{}",
            told("mail")
        );
        assert!(told("").contains("no machine"), "{}", told(""));
        assert_eq!(roll.in_words(&format!("on {}", "d00d".repeat(8))), "on web");
        let twice = roll.in_words(&format!("on {}", "beef".repeat(8)));
        assert_eq!(twice, "on db (beefbeefbeef)");
    }

    #[test]
    fn what_comes_before_the_facts_is_kept() {
        let (mut roll, id) = (Roll::default(), "4f3a".repeat(8));
        roll.signs(&id, true);
        roll.mark(&id, label("a"), 7);
        assert!(roll.is_empty());
        roll.facts(&id, machine("4f3a", "web-1"));
        let seen = roll.get(&id).unwrap();
        assert!(seen.alive);
        assert_eq!(seen.machine.labels["rack"], "a");
        roll.mark(&id, label("older"), 6);
        assert_eq!(roll.get(&id).unwrap().machine.labels["rack"], "a");
        roll.mark(&id, Marks::default(), 8);
        assert_eq!(roll.get(&id).unwrap().machine.labels["rack"], "own");
        roll.mark(&id, label(""), 9);
        assert!(roll.get(&id).unwrap().machine.labels.is_empty());
        roll.facts(&id, machine("4f3a", "web-1"));
        assert!(roll.get(&id).unwrap().alive);
    }
}
