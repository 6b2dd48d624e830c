//! What a store is: a revision, and what each key holds.

use std::fmt;

use super::history::*;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    pub revision: Revision,
    keys: [Option<Kv>; KEYS],
}

/// What a request makes of a state.
pub struct Applied {
    pub state: State,
    pub answer: Answer,
    pub events: Vec<Event>,
}

impl State {
    /// An empty store.
    pub fn new() -> Self {
        Self {
            revision: 1,
            keys: [None; KEYS],
        }
    }

    pub fn apply(&self, request: &Request) -> Applied {
        let succeeded = match request {
            Request::One(_) => true,
            Request::Txn { compare, .. } => compare.iter().all(|compare| self.holds(compare)),
        };
        let revision = self.revision + 1;
        let mut keys = self.keys;
        let mut events = Vec::new();
        let mut change = |key: Key, kv: Option<Kv>, prev: Option<Kv>| {
            events.push(Event {
                key,
                revision,
                kv,
                prev,
            });
            kv
        };
        let steps = request.steps(succeeded).iter();
        let outcomes = steps.map(|step| match *step {
            Step::Get(key) => Outcome::Got(keys[key]),
            Step::Put(key, value, asked) => {
                let prev = keys[key];
                let kv = Kv {
                    value,
                    created: prev.map_or(revision, |prev| prev.created),
                    modified: revision,
                    version: prev.map_or(1, |prev| prev.version + 1),
                };
                keys[key] = change(key, Some(kv), prev);
                Outcome::Put(prev.filter(|_| asked))
            }
            Step::Delete(key, asked) => match keys[key].take() {
                None => Outcome::Deleted(0, None),
                prev => {
                    change(key, None, prev);
                    Outcome::Deleted(1, prev.filter(|_| asked))
                }
            },
        });
        let outcomes = outcomes.collect();
        // What changes nothing takes no revision.
        let revision = if events.is_empty() {
            self.revision
        } else {
            revision
        };
        Applied {
            state: Self { revision, keys },
            answer: Answer {
                revision,
                succeeded,
                outcomes,
            },
            events,
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        match *compare {
            Compare::Value(key, value) => self.keys[key].is_some_and(|kv| kv.value == value),
            Compare::Modified(key, revision) => {
                self.keys[key].map_or(0, |kv| kv.modified) == revision
            }
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "revision {}", self.revision)?;
        for (key, kv) in self.keys.iter().enumerate() {
            write!(f, ", k{key}: {}", Maybe(*kv))?;
        }
        Ok(())
    }
}
