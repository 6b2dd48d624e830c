//! Which unit asks for which: kept as texts change, so that nothing has to look through all units. Pure.

use crate::order::holds_to;
use coracle_unit::{Unit, implied_dependencies};
use std::collections::{BTreeMap, BTreeSet};

type Names = BTreeSet<String>;

/// What one unit's text says.
#[derive(Default)]
struct Said {
    /// Units that it needs in order to be made: volumes, networks.
    resources: Names,
    /// Units that it waits for, or that its end follows.
    after: Names,
    /// Units that are to wait for it.
    before: Names,
    binds: Names,
    /// Units that it cannot run beside.
    conflicts: Names,
    /// Units with which it stops.
    holds_to: Names,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Needs {
    said: BTreeMap<String, Said>,
    /// Resource to those that need it.
    users: BTreeMap<String, Names>,
    /// Unit to those that wait for it.
    waiters: BTreeMap<String, Names>,
    /// Unit to those that say that they come before it.
    earlier: BTreeMap<String, Names>,
    /// Unit to those that are bound to it.
    bound: BTreeMap<String, Names>,
    /// Unit to those that say that they cannot run beside it.
    against: BTreeMap<String, Names>,
    /// Unit to those that stop with it.
    held: BTreeMap<String, Names>,
}

fn put(index: &mut BTreeMap<String, Names>, keys: &Names, name: &str) {
    for key in keys {
        index
            .entry(key.clone())
            .or_default()
            .insert(name.to_owned());
    }
}

fn take(index: &mut BTreeMap<String, Names>, keys: &Names, name: &str) {
    for key in keys {
        if let Some(names) = index.get_mut(key) {
            names.remove(name);
            if names.is_empty() {
                index.remove(key);
            }
        }
    }
}

fn of(index: &BTreeMap<String, Names>, name: &str) -> Vec<String> {
    let names = index.get(name).into_iter().flatten();
    names.cloned().collect()
}

impl Needs {
    /// A unit says this now; None of one that is no more.
    pub fn set(&mut self, name: &str, unit: Option<&Unit>) {
        if let Some(former) = self.said.remove(name) {
            take(&mut self.users, &former.resources, name);
            take(&mut self.waiters, &former.after, name);
            take(&mut self.earlier, &former.before, name);
            take(&mut self.bound, &former.binds, name);
            take(&mut self.against, &former.conflicts, name);
            take(&mut self.held, &former.holds_to, name);
        }
        let Some(unit) = unit else { return };
        let names = |list: &[String]| list.iter().cloned().collect::<Names>();
        let resources: Names = implied_dependencies(unit)
            .iter()
            .map(ToString::to_string)
            .collect();
        let said = Said {
            after: names(&unit.unit.after),
            before: names(&unit.unit.before),
            binds: names(&unit.unit.binds_to),
            conflicts: names(&unit.unit.conflicts),
            holds_to: holds_to(unit).cloned().collect(),
            resources,
        };
        put(&mut self.users, &said.resources, name);
        put(&mut self.waiters, &said.after, name);
        put(&mut self.earlier, &said.before, name);
        put(&mut self.bound, &said.binds, name);
        put(&mut self.against, &said.conflicts, name);
        put(&mut self.held, &said.holds_to, name);
        self.said.insert(name.to_owned(), said);
    }

    /// The volumes and networks that a unit needs where it is.
    pub fn resources(&self, name: &str) -> Vec<String> {
        let said = self.said.get(name);
        said.map(|s| s.resources.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Who needs a volume or network.
    pub fn users(&self, resource: &str) -> Vec<String> {
        of(&self.users, resource)
    }

    /// Units that say that they come before this one.
    pub fn before(&self, name: &str) -> Vec<String> {
        of(&self.earlier, name)
    }

    /// Units that this one cannot run beside, by its own text or by theirs.
    pub fn conflicts(&self, name: &str) -> Vec<String> {
        let said = self.said.get(name).map(|s| s.conflicts.clone());
        let mut names = said.unwrap_or_default();
        names.extend(of(&self.against, name));
        names.remove(name);
        names.into_iter().collect()
    }

    /// Whom a unit waits for by its own text or by theirs: to be up, or to be down.
    pub fn awaited(&self, name: &str) -> Names {
        let said = self.said.get(name).map(|s| s.after.clone());
        let mut names = said.unwrap_or_default();
        names.extend(self.before(name));
        names.extend(self.conflicts(name));
        names
    }

    /// Whether anybody waits for a unit.
    pub fn is_waited_for(&self, name: &str) -> bool {
        let said = self.said.get(name);
        said.is_some_and(|s| !s.before.is_empty() || !s.conflicts.is_empty())
            || self.waiters.contains_key(name)
            || self.against.contains_key(name)
    }

    /// Every unit that somebody waits for.
    pub fn all_awaited(&self) -> Names {
        let say = |said: &Said| !said.before.is_empty() || !said.conflicts.is_empty();
        let said = self.said.iter().filter(|(_, said)| say(said));
        let named = self.waiters.keys().chain(self.against.keys());
        said.map(|(name, _)| name).chain(named).cloned().collect()
    }

    /// Who says that it cannot run beside a unit.
    pub fn against(&self, name: &str) -> Vec<String> {
        of(&self.against, name)
    }

    /// Who stops with a unit.
    pub fn stops_with(&self, name: &str) -> Vec<String> {
        of(&self.held, name)
    }

    /// Who is bound to a unit.
    pub fn bound(&self, name: &str) -> Vec<String> {
        of(&self.bound, name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use coracle_unit::{SpecifierContext, UnitName, load};

    fn unit(name: &str, said: &str) -> Unit {
        let text = format!("[Unit]\n{said}\n[Service]\nExecStart=/bin/true\n");
        let name = UnitName::new(name).unwrap();
        load(&name, &text, &[], &SpecifierContext::default()).unwrap()
    }

    #[test]
    fn rivals_are_known_from_both_sides() {
        let mut needs = Needs::default();
        let (red, blue, web) = ("red.service", "blue.service", "web.service");
        needs.set(red, Some(&unit(red, "")));
        needs.set(
            blue,
            Some(&unit(blue, "Conflicts=red.service\nAfter=web.service")),
        );
        needs.set(web, Some(&unit(web, "")));
        assert_eq!(needs.conflicts(red), [blue]);
        assert_eq!(needs.conflicts(blue), [red]);
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Names>();
        assert_eq!(needs.awaited(blue), names(&[red, web]));
        assert_eq!(needs.awaited(red), names(&[blue]));
        assert_eq!(needs.all_awaited(), names(&[blue, red, web]));
        assert!(needs.is_waited_for(red) && needs.is_waited_for(web));
        needs.set(blue, None);
        assert!(needs.all_awaited().is_empty() && needs.conflicts(red).is_empty());
    }
}
