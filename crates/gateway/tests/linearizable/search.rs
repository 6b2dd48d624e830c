//! The search for a linearization: an order of the operations, each at a moment between its call and its return, in
//! which one store that does one thing at a time would have answered as the clients were answered.
//!
//! It is that of Wing and Gong with Lowe's memory, as in porcupine. Calls and returns stand in one list in the order of
//! time. The search takes the first call that the store allows out of the list together with its return, and begins at
//! the list's start again. At a return it is stuck, for its operation must have happened by then: it puts the
//! last that it took back, and goes on behind that one's call. What was taken and the state that this led to are
//! remembered, for they need no second try.
//!
//! ```text
//! c1:  |--- put k0 7 -> revision 2 ---|
//! c2:       |- get k0 -> nothing; revision 1 -|       list: call 1, call 2, return 1, return 2
//! ```
//! Call 1 is taken: the state is at revision 2. Call 2 would be answered with 7: not allowed. Return 2 comes: stuck.
//! Call 1 is put back, call 2 is taken (at revision 1), then call 1 (revision 2). Both are placed: get, put.
//!
//! An operation without an answer is taken where it changes something, or never: at its return, which is
//! when nothing of it can happen any more, it is dropped. Four things keep the search short and lose no linearization:
//! - answers bear revisions, so that a write whose answer is known fits at one revision only;
//! - a revision that a known answer claims is given to no unknown one, nor one that nobody has seen;
//! - what changes nothing, once it fits, is not tried elsewhere: there it hinders no other;
//! - where a watch told what a revision changed, only what changes that fits there.

use std::collections::{BTreeMap, HashSet};

use super::history::*;
use super::model::State;

type Changes = BTreeMap<Revision, Vec<Event>>;

/// What is remembered at most, which bounds time and memory. A history of a right store needs little more than
/// its operations.
const MEMORY: usize = 200_000;

/// An order was found.
pub struct Linear {
    /// Indices of operations; those left out are missing.
    pub order: Vec<usize>,
    pub state: State,
    /// How many combinations of what was taken and the state were seen.
    pub tried: usize,
}

/// There is none; this much of one there is.
pub struct Stuck {
    pub order: Vec<usize>,
    pub state: State,
    /// Not all was tried.
    pub gave_up: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Bits(Vec<u64>);

impl Bits {
    fn flip(&mut self, n: usize) {
        self.0[n / 64] ^= 1 << (n % 64);
    }
}

#[derive(Clone, Copy)]
enum Entry {
    Call(usize),
    Return(usize),
}

/// Calls and returns in the order of time, doubly linked; place 0 is before all.
struct Timeline {
    entries: Vec<Entry>,
    places: Vec<[usize; 2]>,
    next: Vec<usize>,
    prev: Vec<usize>,
}

impl Timeline {
    fn new(operations: &[Operation]) -> Self {
        let ends = operations.iter().enumerate().flat_map(|(n, operation)| {
            let call = (operation.called, false, Entry::Call(n));
            [call, (operation.returned, true, Entry::Return(n))]
        });
        let mut ends: Vec<_> = ends.collect();
        ends.sort_by_key(|(tick, is_return, _)| (*tick, *is_return));
        let entries: Vec<_> = ends.into_iter().map(|(_, _, entry)| entry).collect();
        let mut places = vec![[0; 2]; operations.len()];
        for (place, entry) in (1..).zip(&entries) {
            match *entry {
                Entry::Call(n) => places[n][0] = place,
                Entry::Return(n) => places[n][1] = place,
            }
        }
        let all = entries.len() + 2;
        Self {
            entries,
            places,
            next: (1..=all).collect(),
            prev: (0..all).map(|place| place.saturating_sub(1)).collect(),
        }
    }

    /// None at the end.
    fn at(&self, place: usize) -> Option<Entry> {
        self.entries.get(place - 1).copied()
    }

    fn take(&mut self, operation: usize) {
        for place in self.places[operation] {
            let (prev, next) = (self.prev[place], self.next[place]);
            self.next[prev] = next;
            self.prev[next] = prev;
        }
    }

    /// The last taken is the first put back.
    fn put_back(&mut self, operation: usize) {
        for place in self.places[operation].into_iter().rev() {
            let (prev, next) = (self.prev[place], self.next[place]);
            self.next[prev] = place;
            self.prev[next] = place;
        }
    }
}

struct Rules<'a> {
    changes: Option<&'a Changes>,
    /// By writes whose answers are known.
    claimed: HashSet<Revision>,
    highest: Revision,
}

impl<'a> Rules<'a> {
    fn new(operations: &[Operation], changes: Option<&'a Changes>) -> Self {
        let mut claimed = HashSet::new();
        let mut highest = 1;
        for operation in operations {
            match &operation.what {
                What::Answered(request, answer) => {
                    highest = highest.max(answer.revision);
                    let steps = request.steps(answer.succeeded).iter();
                    let mut steps = steps.zip(&answer.outcomes);
                    let changed = steps.any(|(_, outcome)| match outcome {
                        Outcome::Got(_) | Outcome::Deleted(0, _) => false,
                        Outcome::Put(_) | Outcome::Deleted(..) => true,
                    });
                    if changed {
                        claimed.insert(answer.revision);
                    }
                }
                What::Heard(revision) => highest = highest.max(*revision),
                What::Unknown(_) => {}
            }
        }
        Self {
            changes,
            claimed,
            highest,
        }
    }

    fn step(&self, state: &State, operation: &Operation) -> Option<State> {
        let applied = match &operation.what {
            What::Heard(revision) => return (state.revision >= *revision).then_some(*state),
            What::Answered(_, answer) if !(0..=1).contains(&(answer.revision - state.revision)) => {
                return None;
            }
            What::Answered(request, answer) => {
                let applied = state.apply(request);
                (applied.answer == *answer).then_some(applied)?
            }
            What::Unknown(request) => {
                let applied = state.apply(request);
                let revision = applied.state.revision;
                let fits = revision > state.revision
                    && revision <= self.highest
                    && !self.claimed.contains(&revision);
                fits.then_some(applied)?
            }
        };
        let told = match self.changes {
            Some(changes) if !applied.events.is_empty() => {
                changes.get(&applied.state.revision) == Some(&applied.events)
            }
            _ => true,
        };
        told.then_some(applied.state)
    }
}

fn must_happen(operation: &Operation) -> bool {
    !matches!(operation.what, What::Unknown(_))
}

/// What the search stands on.
struct Search<'a> {
    operations: &'a [Operation],
    timeline: Timeline,
    /// Of the operations that must happen, those not yet taken.
    missing: usize,
    state: State,
    taken: Bits,
    stack: Vec<Taken>,
    seen: HashSet<(Bits, State)>,
}

struct Taken {
    operation: usize,
    before: State,
    /// Or it was dropped.
    happened: bool,
}

impl<'a> Search<'a> {
    fn new(operations: &'a [Operation]) -> Self {
        Self {
            operations,
            timeline: Timeline::new(operations),
            missing: operations.iter().filter(|one| must_happen(one)).count(),
            state: State::new(),
            taken: Bits(vec![0; operations.len().div_ceil(64)]),
            stack: Vec::new(),
            seen: HashSet::new(),
        }
    }

    /// Takes an operation, unless what this leads to was seen before.
    fn take(&mut self, operation: usize, after: State, happened: bool) -> bool {
        self.taken.flip(operation);
        if !self.seen.insert((self.taken.clone(), after)) {
            self.taken.flip(operation);
            return false;
        }
        self.timeline.take(operation);
        self.missing -= usize::from(must_happen(&self.operations[operation]));
        let before = std::mem::replace(&mut self.state, after);
        self.stack.push(Taken {
            operation,
            before,
            happened,
        });
        true
    }

    /// Puts back the last that changed something, and all after it; the place behind its call.
    fn put_back(&mut self) -> Option<usize> {
        loop {
            let Taken {
                operation, before, ..
            } = self.stack.pop()?;
            self.timeline.put_back(operation);
            self.taken.flip(operation);
            self.missing += usize::from(must_happen(&self.operations[operation]));
            let after = std::mem::replace(&mut self.state, before);
            if after != before {
                return Some(self.timeline.next[self.timeline.places[operation][0]]);
            }
        }
    }

    fn order(&self) -> Vec<usize> {
        let happened = self.stack.iter().filter(|taken| taken.happened);
        happened.map(|taken| taken.operation).collect()
    }
}

/// Looks for an order, from an empty store on. Where `changes` are given, they are what each revision changes.
///
/// # Errors
/// The longest beginning of an order that was found, where there is no whole one or memory ends.
pub fn linearize(operations: &[Operation], changes: Option<&Changes>) -> Result<Linear, Stuck> {
    let rules = Rules::new(operations, changes);
    let mut search = Search::new(operations);
    let mut longest = Stuck {
        order: Vec::new(),
        state: search.state,
        gave_up: false,
    };
    let mut least = usize::MAX;
    let mut place = search.timeline.next[0];
    while search.missing > 0 {
        let moved = match search.timeline.at(place) {
            Some(Entry::Call(n)) => {
                let after = rules.step(&search.state, &operations[n]);
                if !after.is_some_and(|after| search.take(n, after, true)) {
                    place = search.timeline.next[place];
                    continue;
                }
                true
            }
            Some(Entry::Return(n)) if !must_happen(&operations[n]) => {
                search.take(n, search.state, false)
            }
            Some(Entry::Return(_)) | None => false,
        };
        if moved {
            place = search.timeline.next[0];
            continue;
        }
        if search.missing < least {
            least = search.missing;
            (longest.order, longest.state) = (search.order(), search.state);
        }
        longest.gave_up = search.seen.len() > MEMORY;
        match search.put_back() {
            Some(next) if !longest.gave_up => place = next,
            _ => return Err(longest),
        }
    }
    Ok(Linear {
        order: search.order(),
        state: search.state,
        tried: search.seen.len(),
    })
}
