//! Which units go with a unit, and in which order. Pure.
//!
//! Worked example: `web` has `Requires=db` and `After=db`, `db` needs `data.volume`. Starting `web` starts `data.volume`, then
//! `db`, then `web`. Stopping `db` stops `web` first.

use coracle_unit::{Unit, UnitName, implied_dependencies};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Units by name.
pub type Units = BTreeMap<String, Arc<Unit>>;

/// Units that are known, and who says what of whom. A map looks through all of its units; who has many keeps an index.
pub trait Known {
    /// The unit of that name.
    fn unit(&self, name: &str) -> Option<Arc<Unit>>;

    /// Who says that it comes before that one (`Before=`).
    fn before(&self, name: &str) -> Vec<String>;

    /// Who says that it cannot run beside that one (`Conflicts=`).
    fn against(&self, name: &str) -> Vec<String>;

    /// Who stops with that one (`Requires=`, `BindsTo=`, `PartOf=`).
    fn stops_with(&self, name: &str) -> Vec<String>;
}

/// Those with whom a unit stops.
pub(crate) fn holds_to(unit: &Unit) -> impl Iterator<Item = &String> {
    let unit = &unit.unit;
    let needs = unit.requires.iter().chain(&unit.binds_to);
    needs.chain(&unit.part_of)
}

fn who<'a, I: Iterator<Item = &'a String>>(
    units: &'a Units,
    names: impl Fn(&'a Unit) -> I,
    name: &str,
) -> Vec<String> {
    let say = units
        .iter()
        .filter(|(_, unit)| names(unit).any(|n| n == name));
    say.map(|(other, _)| other.clone()).collect()
}

impl Known for Units {
    fn unit(&self, name: &str) -> Option<Arc<Unit>> {
        self.get(name).cloned()
    }

    fn before(&self, name: &str) -> Vec<String> {
        who(self, |unit| unit.unit.before.iter(), name)
    }

    fn against(&self, name: &str) -> Vec<String> {
        who(self, |unit| unit.unit.conflicts.iter(), name)
    }

    fn stops_with(&self, name: &str) -> Vec<String> {
        who(self, holds_to, name)
    }
}

/// Why a start is impossible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// A unit that is required is not there.
    #[error("{unit} requires {missing}, which was not submitted; submit it first")]
    Missing {
        /// Who requires.
        unit: String,
        /// Whom.
        missing: String,
    },
    /// Units wait for one another.
    #[error("the order of {} is a circle: each waits for the next (After=, Before=); take one out", units.join(", "))]
    Circle {
        /// The circle.
        units: Vec<String>,
    },
}

fn strong(unit: &Unit) -> Vec<String> {
    let named = unit
        .unit
        .requires
        .iter()
        .chain(&unit.unit.binds_to)
        .cloned();
    named
        .chain(implied_dependencies(unit).iter().map(ToString::to_string))
        .collect()
}

/// Whom a unit waits for, of those that start with it.
pub fn waits_for(name: &str, units: &impl Known) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    if let Some(unit) = units.unit(name) {
        found.extend(unit.unit.after.iter().cloned());
        // Volumes and networks must be there whatever the file says.
        found.extend(implied_dependencies(&unit).iter().map(ToString::to_string));
    }
    found.extend(units.before(name));
    found.remove(name);
    found
}

/// Who waits for a unit, and so is stopped before it. Units that wait for one another in a circle stop as they come.
pub fn waiters(name: &str, units: &Units) -> Vec<String> {
    let mut before = BTreeSet::new();
    let mut todo = vec![name.to_owned()];
    while let Some(one) = todo.pop() {
        todo.extend(
            waits_for(&one, units)
                .into_iter()
                .filter(|n| before.insert(n.clone())),
        );
    }
    let waits = |n: &&String| !before.contains(*n) && waits_for(n, units).contains(name);
    units.keys().filter(waits).cloned().collect()
}

/// Whose failure is this unit's failure.
pub fn requires(unit: &Unit) -> Vec<String> {
    strong(unit)
}

/// Every unit that starts with these, in an order in which they can.
///
/// # Errors
/// [`OrderError`] naming what is missing or goes in a circle.
pub fn start(names: &[String], units: &impl Known) -> Result<Vec<String>, OrderError> {
    let mut all = BTreeSet::new();
    let mut todo: Vec<String> = names.to_vec();
    while let Some(name) = todo.pop() {
        if !all.insert(name.clone()) {
            continue;
        }
        let Some(unit) = units.unit(&name) else {
            continue;
        };
        for missing in strong(&unit) {
            if units.unit(&missing).is_none() {
                return Err(OrderError::Missing {
                    unit: name,
                    missing,
                });
            }
            todo.push(missing);
        }
        // What is only wanted may be missing.
        todo.extend(
            unit.unit
                .wants
                .iter()
                .filter(|w| units.unit(w).is_some())
                .cloned(),
        );
    }
    sort(all, units)
}

fn sort(mut left: BTreeSet<String>, units: &impl Known) -> Result<Vec<String>, OrderError> {
    let mut sorted = Vec::new();
    while !left.is_empty() {
        let free = left
            .iter()
            .find(|n| waits_for(n, units).is_disjoint(&left))
            .cloned();
        match free {
            Some(name) => {
                left.remove(&name);
                sorted.push(name);
            }
            None => {
                return Err(OrderError::Circle {
                    units: circle(&left, units),
                });
            }
        }
    }
    Ok(sorted)
}

/// One circle among units that all wait for another of them.
fn circle(among: &BTreeSet<String>, units: &impl Known) -> Vec<String> {
    let mut path: Vec<String> = Vec::new();
    let mut at = among.iter().next().cloned();
    while let Some(name) = at {
        if let Some(start) = path.iter().position(|p| *p == name) {
            return path.split_off(start);
        }
        at = waits_for(&name, units)
            .into_iter()
            .find(|n| among.contains(n));
        path.push(name);
    }
    path
}

/// Every unit that stops when these are stopped, those that need others before the others.
pub fn stop(names: &[String], units: &impl Known) -> Vec<String> {
    let mut all = BTreeSet::new();
    let mut todo: Vec<String> = names.to_vec();
    while let Some(name) = todo.pop() {
        if all.insert(name.clone()) {
            todo.extend(units.stops_with(&name));
        }
    }
    // A circle stops nobody from stopping.
    let names: Vec<String> = all.iter().cloned().collect();
    let mut order = sort(all, units).unwrap_or(names);
    order.reverse();
    order
}

/// Units that cannot run beside this one.
pub fn conflicts(name: &str, units: &impl Known) -> Vec<String> {
    let own = units.unit(name).map(|u| u.unit.conflicts.clone());
    let all = own.unwrap_or_default().into_iter();
    all.chain(units.against(name))
        .filter(|n| n != name)
        .collect()
}

/// The name of the volume or network that a unit stands for.
pub fn resource_name(name: &UnitName, units: &Units) -> Option<String> {
    match &units.get(name.as_str())?.kind {
        coracle_unit::Kind::Volume(volume) => Some(volume.volume_name.clone()),
        coracle_unit::Kind::Network(network) => Some(network.network_name.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use coracle_unit::{SpecifierContext, load};

    fn units(texts: &[(&str, &str)]) -> Units {
        let load = |(name, unit): &(&str, &str)| {
            let body = if name.ends_with(".container") {
                "[Container]\nImage=x"
            } else {
                "[Volume]"
            };
            let more = if unit.contains('[') { "" } else { body };
            let text = format!("[Unit]\n{unit}\n{more}\n");
            let name = UnitName::new(name).unwrap();
            (
                name.to_string(),
                Arc::new(load(&name, &text, &[], &SpecifierContext::default()).unwrap()),
            )
        };
        texts.iter().map(load).collect()
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn what_is_required_comes_along_and_first() {
        let all = units(&[
            (
                "web.container",
                "Requires=db.container\nAfter=db.container\nWants=nice.container gone.container",
            ),
            (
                "db.container",
                "[Container]\nImage=x\nVolume=data.volume:/data",
            ),
            ("data.volume", ""),
            ("nice.container", "Before=web.container"),
            ("other.container", ""),
        ]);
        let order = start(&names(&["web.container"]), &all).unwrap();
        assert_eq!(
            order,
            [
                "data.volume",
                "db.container",
                "nice.container",
                "web.container"
            ]
        );
        assert_eq!(
            stop(&names(&["db.container"]), &all),
            ["web.container", "db.container"]
        );
        assert_eq!(stop(&names(&["nice.container"]), &all), ["nice.container"]);
        assert_eq!(waiters("db.container", &all), ["web.container"]);
        assert!(waiters("web.container", &all).is_empty());
    }

    #[test]
    fn circles_and_missing_units_are_named() {
        let all = units(&[
            ("a.container", "After=b.container\nRequires=b.container"),
            ("b.container", "After=a.container\nRequires=a.container"),
        ]);
        let error = start(&names(&["a.container"]), &all)
            .unwrap_err()
            .to_string();
        assert!(error.contains("a.container, b.container"), "{error}");
        assert_eq!(stop(&names(&["a.container"]), &all).len(), 2);
        assert!(waiters("a.container", &all).is_empty());
        let all = units(&[("a.container", "Requires=gone.container")]);
        let error = start(&names(&["a.container"]), &all)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("gone.container") && error.contains("a.container"),
            "{error}"
        );
    }

    #[test]
    fn conflicts_go_both_ways() {
        let all = units(&[
            ("a.container", "Conflicts=b.container"),
            ("b.container", ""),
        ]);
        assert_eq!(conflicts("a.container", &all), ["b.container"]);
        assert_eq!(conflicts("b.container", &all), ["a.container"]);
    }
}
