//! Histories written by hand: right ones, and what a wrong store would make of them.

use super::check::check;
use super::history::*;
use super::search::linearize;

fn at(client: u64, [called, returned]: [Tick; 2], what: What) -> Operation {
    Operation {
        client,
        called,
        returned,
        what,
    }
}

fn answered(request: Request, outcomes: &[Outcome], revision: Revision) -> What {
    let answer = Answer {
        revision,
        succeeded: true,
        outcomes: outcomes.to_vec(),
    };
    What::Answered(request, answer)
}

fn kv(value: u64, created: Revision, modified: Revision, version: i64) -> Option<Kv> {
    Some(Kv {
        value,
        created,
        modified,
        version,
    })
}

fn got(key: Key, kv: Option<Kv>, revision: Revision) -> What {
    answered(Request::One(Step::Get(key)), &[Outcome::Got(kv)], revision)
}

fn put(key: Key, value: u64, revision: Revision) -> What {
    let request = Request::One(Step::Put(key, value, false));
    answered(request, &[Outcome::Put(None)], revision)
}

fn put_over(key: Key, value: u64, prev: Option<Kv>, revision: Revision) -> What {
    let request = Request::One(Step::Put(key, value, true));
    answered(request, &[Outcome::Put(prev)], revision)
}

fn swap(key: Key, from: Revision, value: u64) -> Request {
    Request::Txn {
        compare: vec![Compare::Modified(key, from)],
        success: vec![Step::Put(key, value, false)],
        failure: vec![Step::Get(key)],
    }
}

fn swapped(key: Key, from: Revision, value: u64, revision: Revision) -> What {
    answered(swap(key, from, value), &[Outcome::Put(None)], revision)
}

fn not_swapped(key: Key, from: Revision, value: u64, now: Option<Kv>, revision: Revision) -> What {
    let answer = Answer {
        revision,
        succeeded: false,
        outcomes: vec![Outcome::Got(now)],
    };
    What::Answered(swap(key, from, value), answer)
}

fn unknown(key: Key, value: u64) -> What {
    What::Unknown(Request::One(Step::Put(key, value, false)))
}

fn linearizable(operations: &[Operation]) -> bool {
    match linearize(operations, None) {
        Ok(_) => true,
        Err(stuck) => {
            assert!(!stuck.gave_up);
            false
        }
    }
}

/// Two clients want to be the one that follows 10; a third is cut off by a crash at 9, and the store is back at 13.
fn story() -> Vec<Operation> {
    vec![
        at(0, [0, 1], put(0, 10, 2)),
        at(1, [2, 3], got(0, kv(10, 2, 2, 1), 2)),
        at(0, [4, 7], swapped(0, 2, 11, 3)),
        at(1, [5, 6], not_swapped(0, 2, 12, kv(11, 2, 3, 2), 3)),
        at(2, [8, 13], unknown(1, 20)),
        at(3, [14, 15], got(1, kv(20, 4, 4, 1), 4)),
        at(3, [16, 17], put_over(0, 13, kv(11, 2, 3, 2), 5)),
        at(4, [18, 19], What::Heard(5)),
    ]
}

/// The story with its end, from operation `from` on, told otherwise.
fn story_but(from: usize, end: Vec<Operation>) -> Vec<Operation> {
    let mut operations = story();
    operations.truncate(from);
    operations.extend(end);
    operations
}

/// The story with one operation that ended otherwise.
fn story_with(n: usize, what: What) -> Vec<Operation> {
    let mut operations = story();
    operations[n].what = what;
    operations
}

#[test]
fn right_histories_are_accepted() {
    assert!(linearizable(&[]));
    assert!(linearizable(&story()));
    // The write without an answer was lost.
    assert!(linearizable(&story_but(
        5,
        vec![
            at(3, [14, 15], got(1, None, 3)),
            at(3, [16, 17], put_over(0, 13, kv(11, 2, 3, 2), 4)),
        ]
    )));
    // It is there, but nobody has looked; only the next revision tells.
    assert!(linearizable(&story_but(
        5,
        vec![at(3, [16, 17], put_over(0, 13, kv(11, 2, 3, 2), 5))]
    )));
    // Reads during a write see it or not, in any order of their calls.
    assert!(linearizable(&[
        at(0, [0, 9], put(0, 10, 2)),
        at(1, [1, 8], got(0, kv(10, 2, 2, 1), 2)),
        at(2, [2, 7], got(0, None, 1)),
    ]));
}

#[test]
fn a_stale_read_is_rejected() {
    assert!(!linearizable(&story_with(1, got(0, None, 1))));
    assert!(!linearizable(&story_with(1, got(0, None, 2))));
    // Two reads one after the other, during one write: what was seen stays.
    let reads = |first: What, second: What| {
        let write = at(0, [0, 9], put(0, 10, 2));
        linearizable(&[write, at(1, [1, 2], first), at(2, [3, 4], second)])
    };
    let (old, new) = (|| got(0, None, 1), || got(0, kv(10, 2, 2, 1), 2));
    assert!(reads(old(), new()));
    assert!(!reads(new(), old()));
}

#[test]
fn a_lost_acknowledged_write_is_rejected() {
    // The crash took revision 3 with it, and the next write has it again.
    let end = |prev, revision| vec![at(3, [16, 17], put_over(0, 13, prev, revision))];
    assert!(linearizable(&story_but(5, end(kv(11, 2, 3, 2), 4))));
    assert!(!linearizable(&story_but(5, end(kv(10, 2, 2, 1), 3))));
    // The revision is counted, but what was written is not there.
    assert!(!linearizable(&story_but(5, end(kv(10, 2, 2, 1), 4))));
    let gone = got(0, kv(10, 2, 2, 1), 3);
    assert!(!linearizable(&story_but(5, vec![at(3, [14, 15], gone)])));
}

#[test]
fn a_write_applied_twice_is_rejected() {
    let twice = |kv, revision| {
        let read = at(1, [2, 3], got(0, kv, revision));
        linearizable(&[at(0, [0, 1], put(0, 10, 2)), read])
    };
    assert!(twice(kv(10, 2, 2, 1), 2));
    assert!(!twice(kv(10, 2, 3, 2), 3));
    assert!(!twice(kv(10, 2, 2, 2), 2));
    // And one of which nobody heard whether it was applied once.
    let twice = |kv, revision| story_but(5, vec![at(3, [14, 15], got(1, kv, revision))]);
    assert!(linearizable(&twice(kv(20, 4, 4, 1), 4)));
    assert!(!linearizable(&twice(kv(20, 4, 5, 2), 5)));
}

#[test]
fn a_revision_that_goes_backwards_is_rejected() {
    let mut operations = story();
    operations.push(at(5, [20, 21], got(2, None, 5)));
    assert!(linearizable(&operations));
    operations[8].what = got(2, None, 4);
    assert!(!linearizable(&operations));
    // Also where only a watch has heard of the newer one.
    let heard = |revision| {
        let write = at(0, [0, 9], put(0, 10, 2));
        let heard = at(4, [1, 2], What::Heard(2));
        linearizable(&[write, heard, at(1, [3, 4], got(1, None, revision))])
    };
    assert!(heard(2));
    assert!(!heard(1));
}

#[test]
fn a_comparison_that_holds_twice_is_rejected() {
    let end = |second| {
        let mut operations = story_with(3, second);
        operations.truncate(4);
        operations
    };
    let failed = not_swapped(0, 2, 12, kv(11, 2, 3, 2), 3);
    assert!(linearizable(&end(failed)));
    assert!(linearizable(&end(swapped(0, 3, 12, 4))));
    assert!(!linearizable(&end(swapped(0, 2, 12, 4))));
    assert!(!linearizable(&end(swapped(0, 2, 12, 3))));
    // Nor may one fail for no reason.
    let failed = not_swapped(0, 2, 12, kv(10, 2, 2, 1), 2);
    assert!(!linearizable(&end(failed)));
}

#[test]
fn half_a_transaction_and_values_from_nowhere_are_rejected() {
    let both = Request::Txn {
        compare: Vec::new(),
        success: vec![Step::Put(0, 10, false), Step::Put(1, 11, false)],
        failure: Vec::new(),
    };
    let both = answered(both, &[Outcome::Put(None), Outcome::Put(None)], 2);
    let with = |read| linearizable(&[at(0, [0, 5], both.clone()), at(1, [6, 7], read)]);
    assert!(with(got(1, kv(11, 2, 2, 1), 2)));
    assert!(!with(got(1, None, 2)));
    assert!(!with(got(2, kv(12, 2, 2, 1), 2)));
    let deleted = |count| {
        let request = Request::One(Step::Delete(1, false));
        answered(request, &[Outcome::Deleted(count, None)], 3)
    };
    assert!(with(deleted(1)));
    assert!(!with(deleted(0)));
}

#[test]
fn a_write_that_comes_after_the_next_start_is_rejected() {
    let mut late = story_but(
        5,
        vec![
            at(3, [14, 15], got(1, None, 3)),
            at(3, [16, 17], got(1, kv(20, 4, 4, 1), 4)),
        ],
    );
    assert!(!linearizable(&late));
    // It could, where it still is on its way.
    late[4].returned = NEVER;
    assert!(linearizable(&late));
}

fn events() -> Vec<Event> {
    let event = |revision, key, kv, prev| Event {
        key,
        revision,
        kv,
        prev,
    };
    vec![
        event(2, 0, kv(10, 2, 2, 1), None),
        event(3, 0, kv(11, 2, 3, 2), kv(10, 2, 2, 1)),
        event(4, 1, kv(20, 4, 4, 1), None),
        event(5, 0, kv(13, 2, 5, 3), kv(11, 2, 3, 2)),
    ]
}

/// Whether the watch may tell these responses, and then one from the beginning those.
fn told(responses: &[&[Event]], replayed: &[Event]) -> Result<(), String> {
    let mut history = History {
        operations: story(),
        ..History::default()
    };
    responses.iter().for_each(|told| history.told.hear(told));
    history.replayed.hear(replayed);
    check(&history).map(|_| ())
}

#[test]
fn a_watch_tells_each_change_once_and_in_order() {
    let right = events();
    told(&[&right], &right).unwrap();
    told(&[&right[..1], &[], &right[1..3], &right[3..]], &right).unwrap();
    let wrong = |responses: &[&[Event]], says: &str| {
        let why = told(responses, &right).unwrap_err();
        assert!(why.contains(says), "{why}");
    };
    wrong(&[&right[..2], &right[1..]], "revision 3 after 3");
    wrong(&[&right[..1], &right[2..]], "revision 4 after 2");
    wrong(&[&right[1..2], &right[..1]], "revision 3 after 1");
    wrong(&[&right[..3]], "the watch tells nothing more");
    let mut other = events();
    other[2].key = 2;
    wrong(&[&other], "not as the watch tells it");
    let mut other = events();
    other[3].prev = None;
    wrong(&[&other], "not as the watch tells it");
    let mut more = events();
    more.push(Event {
        revision: 6,
        ..more[3]
    });
    wrong(&[&more], "ends at revision 6");
    assert!(told(&[&right], &right[..3]).is_err());
    assert!(told(&[&right], &other).is_err());
}

#[test]
fn what_cannot_be_placed_is_said() {
    let history = History {
        operations: story_with(5, got(1, kv(21, 4, 4, 1), 4)),
        ..History::default()
    };
    let why = check(&history).err().unwrap();
    for part in [
        // What came before, where this leads to, what is asked then, and what a right store would answer.
        "c0: if [k0 is of 2] then [put k0 11] else [get k0] -> put; revision 3\n",
        "then the store is at revision 4,",
        "c3: get k1 -> 21 (created 4, modified 4, version 1); revision 4\n",
        "would be 20 (created 4, modified 4, version 1); revision 4",
    ] {
        assert!(why.contains(part), "{part:?} is not in:\n{why}");
    }
}
