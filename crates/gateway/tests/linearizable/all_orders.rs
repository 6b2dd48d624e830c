//! The search beside one that simply tries all orders, on small random histories, right ones and wrong ones.

use proptest::prelude::RngExt as _;
use proptest::test_runner::TestRng;

use super::history::*;
use super::model::State;
use super::search::linearize;
use crate::common;

const OPERATIONS: usize = 6;

fn request(rng: &mut TestRng, value: u64) -> Request {
    let (one, two) = match rng.random_range(0..2) {
        0 => (0, 1),
        _ => (1, 0),
    };
    match rng.random_range(0..6) {
        0 | 1 => Request::One(Step::Get(one)),
        2 => Request::One(Step::Put(one, value, true)),
        3 => Request::One(Step::Delete(one, false)),
        4 => Request::Txn {
            compare: vec![Compare::Modified(one, rng.random_range(0..4))],
            success: vec![Step::Put(one, value, false)],
            failure: vec![Step::Get(one)],
        },
        _ => Request::Txn {
            compare: vec![Compare::Value(one, rng.random_range(0..OPERATIONS as u64))],
            success: vec![Step::Delete(one, true), Step::Put(two, value, false)],
            failure: vec![Step::Put(two, value, false), Step::Get(two)],
        },
    }
}

/// What a right store could have answered. The operations happen 16 ticks apart, each called before and answered after.
fn right(rng: &mut TestRng) -> Vec<Operation> {
    let mut state = State::new();
    let operations = (0..OPERATIONS as u64).map(|n| {
        let request = request(rng, n);
        let applied = state.apply(&request);
        let what = match rng.random_range(0..8) {
            // Without an answer, it happened or not.
            0 => What::Unknown(request),
            1 => {
                state = applied.state;
                What::Unknown(request)
            }
            2 => What::Heard(rng.random_range(1..=state.revision)),
            _ => {
                state = applied.state;
                What::Answered(request, applied.answer)
            }
        };
        let (before, after) = (rng.random_range(0..4), rng.random_range(0..4));
        let moment = 100 + 16 * n;
        Operation {
            client: n,
            called: moment - 16 * before + 1 + n,
            returned: moment + 16 * after + 8 + n,
            what,
        }
    });
    operations.collect()
}

/// Changes something that may matter.
fn spoil(rng: &mut TestRng, operations: &mut [Operation]) {
    let (one, two) = (
        rng.random_range(0..OPERATIONS),
        rng.random_range(0..OPERATIONS),
    );
    let other = operations[two].clone();
    let operation = &mut operations[one];
    match (rng.random_range(0..3), &mut operation.what) {
        (0, What::Answered(_, answer)) => answer.revision += [-1, 1][rng.random_range(0..2)],
        (0, What::Heard(revision)) => *revision += 1,
        (1, What::Answered(_, answer)) => {
            let some = rng.random_range(0..answer.outcomes.len());
            match &mut answer.outcomes[some] {
                Outcome::Got(kv) | Outcome::Put(kv) | Outcome::Deleted(_, kv) => *kv = None,
            }
        }
        // It happened when another did.
        _ => (operation.called, operation.returned) = (other.called + 30, other.returned + 30),
    }
}

fn fits(state: &State, operation: &Operation) -> Option<State> {
    match &operation.what {
        What::Heard(revision) => (state.revision >= *revision).then_some(*state),
        What::Unknown(request) => Some(state.apply(request).state),
        What::Answered(request, answer) => {
            let applied = state.apply(request);
            (applied.answer == *answer).then_some(applied.state)
        }
    }
}

/// Whether there is an order of `left`, none of which may have ended before `called`, from `state` on.
fn possible(left: &[&Operation], called: Tick, state: &State) -> bool {
    if left.iter().all(|one| matches!(one.what, What::Unknown(_))) {
        return true;
    }
    left.iter().enumerate().any(|(n, next)| {
        let after = fits(state, next).filter(|_| next.returned >= called);
        after.is_some_and(|after| {
            let rest = [&left[..n], &left[n + 1..]].concat();
            possible(&rest, called.max(next.called), &after)
        })
    })
}

#[test]
fn the_search_finds_an_order_where_there_is_one() {
    let mut rng = common::runner(1).new_rng();
    let mut counts = [0; 2];
    for n in 0..2000 {
        let mut operations = right(&mut rng);
        if n % 2 == 0 {
            spoil(&mut rng, &mut operations);
        }
        let all: Vec<_> = operations.iter().collect();
        let possible = possible(&all, 0, &State::new());
        let found = linearize(&operations, None);
        let text = || {
            let lines = operations.iter().map(|one| format!("{one}\n"));
            lines.collect::<String>()
        };
        assert!(possible || n % 2 == 0, "a right history:\n{}", text());
        assert_eq!(found.is_ok(), possible, "\n{}", text());
        counts[usize::from(possible)] += 1;
        let Ok(linear) = found else { continue };
        // The order that is told is one.
        let (mut state, mut called) = (State::new(), 0);
        for n in &linear.order {
            let operation = &operations[*n];
            assert!(
                operation.returned >= called,
                "{:?}\n{}",
                linear.order,
                text()
            );
            called = called.max(operation.called);
            state = fits(&state, operation).unwrap();
        }
        assert!(state == linear.state);
        let answered = operations.iter().enumerate();
        let mut answered = answered.filter(|(_, one)| !matches!(one.what, What::Unknown(_)));
        assert!(answered.all(|(n, _)| linear.order.contains(&n)));
    }
    assert!(counts.iter().all(|count| *count > 200), "{counts:?}");
}
