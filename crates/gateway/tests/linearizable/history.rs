//! What clients asked, what they were answered, and when.

use std::collections::BTreeMap;
use std::fmt;

/// The keys that clients use, `k0` and on.
pub const KEYS: usize = 4;

pub type Key = usize;
pub type Revision = i64;

/// A moment: the how many-th of all that was noted.
pub type Tick = u64;

/// Later than all others.
pub const NEVER: Tick = Tick::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kv {
    pub value: u64,
    pub created: Revision,
    pub modified: Revision,
    pub version: i64,
}

#[derive(Clone, Copy)]
pub enum Step {
    Get(Key),
    /// With the previous value in the answer, or without.
    Put(Key, u64, bool),
    Delete(Key, bool),
}

/// Equality.
#[derive(Clone, Copy)]
pub enum Compare {
    Value(Key, u64),
    /// The revision 0 is that of a key that is not there.
    Modified(Key, Revision),
}

#[derive(Clone)]
pub enum Request {
    One(Step),
    Txn {
        compare: Vec<Compare>,
        success: Vec<Step>,
        failure: Vec<Step>,
    },
}

impl Request {
    /// What it does if its comparisons hold, or if not.
    pub fn steps(&self, succeeded: bool) -> &[Step] {
        match self {
            Self::One(step) => std::slice::from_ref(step),
            Self::Txn { success, .. } if succeeded => success,
            Self::Txn { failure, .. } => failure,
        }
    }

    pub fn writes(&self) -> bool {
        let steps = [self.steps(true), self.steps(false)].concat();
        steps.iter().any(|step| !matches!(step, Step::Get(_)))
    }
}

#[derive(Clone, Copy, PartialEq)]
pub enum Outcome {
    Got(Option<Kv>),
    /// The previous value, where it was asked for and there was one.
    Put(Option<Kv>),
    Deleted(i64, Option<Kv>),
}

#[derive(Clone, PartialEq)]
pub struct Answer {
    /// The header's.
    pub revision: Revision,
    pub succeeded: bool,
    pub outcomes: Vec<Outcome>,
}

#[derive(Clone)]
pub enum What {
    Answered(Request, Answer),
    /// The connection ended before the answer.
    Unknown(Request),
    /// A watch heard that the store is at this revision, or past it.
    Heard(Revision),
}

/// One request of a client. It happened between `called` and `returned`; without an answer, then or never.
#[derive(Clone)]
pub struct Operation {
    pub client: u64,
    pub called: Tick,
    pub returned: Tick,
    pub what: What,
}

/// A change as a watch tells it; without a `kv` a deletion.
#[derive(Clone, Copy, PartialEq)]
pub struct Event {
    pub key: Key,
    pub revision: Revision,
    pub kv: Option<Kv>,
    pub prev: Option<Kv>,
}

/// What a watch of all keys from revision 2 told, over all its connections.
#[derive(Clone, Default)]
pub struct Told {
    pub events: BTreeMap<Revision, Vec<Event>>,
    /// Where it told a revision twice, in parts, too early or not at all.
    pub faults: Vec<String>,
}

impl Told {
    /// The newest revision that was told.
    pub fn last(&self) -> Revision {
        self.events.last_key_value().map_or(1, |(last, _)| *last)
    }

    /// Takes the events of one response. A revision is told whole or not at all, and each changes one of the keys.
    pub fn hear(&mut self, events: &[Event]) {
        for whole in events.chunk_by(|one, two| one.revision == two.revision) {
            let (last, revision) = (self.last(), whole[0].revision);
            if revision == last + 1 {
                self.events.insert(revision, whole.to_vec());
            } else {
                let fault = format!("the watch tells revision {revision} after {last}");
                self.faults.push(fault);
            }
        }
    }
}

#[derive(Clone, Default)]
pub struct History {
    pub operations: Vec<Operation>,
    /// Of a watch that goes on behind what it has, after each crash.
    pub told: Told,
    /// Of a watch that reads all from the beginning, in the end.
    pub replayed: Told,
}

impl fmt::Display for Kv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            value,
            created,
            modified,
            version,
        } = self;
        write!(
            f,
            "{value} (created {created}, modified {modified}, version {version})"
        )
    }
}

/// A key's value, or that there is none.
pub struct Maybe(pub Option<Kv>);

impl fmt::Display for Maybe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(kv) => kv.fmt(f),
            None => f.write_str("nothing"),
        }
    }
}

/// One after the other, with commas.
struct List<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, one) in self.0.iter().enumerate() {
            write!(f, "{}{one}", if n == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prev = |prev: &bool| if *prev { " (prev)" } else { "" };
        match self {
            Self::Get(key) => write!(f, "get k{key}"),
            Self::Put(key, value, asked) => write!(f, "put k{key} {value}{}", prev(asked)),
            Self::Delete(key, asked) => write!(f, "delete k{key}{}", prev(asked)),
        }
    }
}

impl fmt::Display for Compare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(key, value) => write!(f, "k{key} is {value}"),
            Self::Modified(key, revision) => write!(f, "k{key} is of {revision}"),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(step) => step.fmt(f),
            Self::Txn {
                compare,
                success,
                failure,
            } => {
                let (compare, success, failure) = (List(compare), List(success), List(failure));
                write!(f, "if [{compare}] then [{success}] else [{failure}]")
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Got(kv) => write!(f, "{}", Maybe(*kv)),
            Self::Put(None) => write!(f, "put"),
            Self::Put(Some(prev)) => write!(f, "put over {prev}"),
            Self::Deleted(count, None) => write!(f, "{count} deleted"),
            Self::Deleted(count, Some(prev)) => write!(f, "{count} deleted: {prev}"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.succeeded { "" } else { "else, " };
        let outcomes = List(&self.outcomes);
        write!(f, "{not}{outcomes}; revision {}", self.revision)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            client,
            called,
            returned,
            what,
        } = self;
        write!(f, "{called:>6} ")?;
        match returned {
            &NEVER => write!(f, " never ")?,
            tick => write!(f, "{tick:>6} ")?,
        }
        match what {
            What::Answered(request, answer) => write!(f, "c{client}: {request} -> {answer}"),
            What::Unknown(request) => write!(f, "c{client}: {request} -> ?"),
            What::Heard(revision) => write!(f, "watch: revision {revision} or later"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            revision,
            kv,
            prev,
        } = self;
        let (kv, prev) = (Maybe(*kv), Maybe(*prev));
        write!(f, "revision {revision}: k{key} is {kv}, was {prev}")
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for operation in &self.operations {
            writeln!(f, "{operation}")?;
        }
        for (name, told) in [("told", &self.told), ("replayed", &self.replayed)] {
            writeln!(f, "{name}:")?;
            for event in told.events.values().flatten() {
                writeln!(f, "{event}")?;
            }
        }
        Ok(())
    }
}
