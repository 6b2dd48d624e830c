//! Is a history that of one store that does one thing at a time, and do its watches tell the same?

use super::history::*;
use super::search::{Linear, Stuck, linearize};

/// How many of the last operations that could be placed are shown.
const SHOWN: usize = 8;

/// # Errors
/// What is wrong, as text to be read: how far an order goes, and what cannot come next.
pub fn check(history: &History) -> Result<Linear, String> {
    let History {
        operations,
        told,
        replayed,
    } = history;
    let faults = [&told.faults[..], &replayed.faults].concat();
    if !faults.is_empty() {
        return Err(faults.join("\n"));
    }
    let linear = match linearize(operations, Some(&told.events)) {
        Ok(linear) => linear,
        // Whose fault it is: the answers' among themselves, or the watch's.
        Err(stuck) => {
            return Err(match linearize(operations, None) {
                Ok(_) => format!(
                    "the answers are linearizable, but not as the watch tells it\n{}",
                    why(history, &stuck, true)
                ),
                Err(stuck) => why(history, &stuck, false),
            });
        }
    };
    let (last, revision) = (told.last(), linear.state.revision);
    if last != revision {
        return Err(format!(
            "the watch ends at revision {last}, and the answers at {revision}"
        ));
    }
    let both = told.events.iter().zip(&replayed.events);
    let lengths = told.events.len() == replayed.events.len();
    match both.into_iter().find(|(one, two)| one != two) {
        None if lengths => Ok(linear),
        None => Err("a watch from the beginning tells more, or less".into()),
        Some(((revision, _), _)) => Err(format!(
            "a watch from the beginning tells another revision {revision}"
        )),
    }
}

fn why(history: &History, stuck: &Stuck, with_watch: bool) -> String {
    let History {
        operations, told, ..
    } = history;
    let Stuck {
        order,
        state,
        gave_up,
    } = stuck;
    let mut lines = Vec::new();
    let mut line = |line: String| lines.push(line);
    if *gave_up {
        line("NOT DECIDED: too many orders are possible; so far:".into());
    }
    let (placed, all) = (order.len(), operations.len());
    line(format!(
        "no order of the operations explains the answers; {placed} of {all} could be placed, the last of them:"
    ));
    for n in &order[placed.saturating_sub(SHOWN)..] {
        line(operations[*n].to_string());
    }
    line(format!("then the store is at {state}"));
    let now = order.iter().map(|n| operations[*n].called).max();
    let left = (0..all).filter(|n| !order.contains(n));
    let left = left.map(|n| &operations[n]);
    // Those without an answer that can have happened before only are no candidates.
    let left = left.filter(|one| Some(one.returned) > now);
    let left: Vec<_> = left.collect();
    let answered = left
        .iter()
        .filter(|one| !matches!(one.what, What::Unknown(_)));
    let until = answered.map(|one| one.returned).min().unwrap_or(NEVER);
    line("and none of these can be next:".into());
    for operation in left.iter().filter(|one| one.called < until) {
        line(operation.to_string());
        if let What::Answered(request, answer) = &operation.what {
            let would = state.apply(request).answer;
            if would != *answer {
                line(format!("{:>15} would be {would}", ""));
            }
        }
    }
    if with_watch {
        match told.events.get(&(state.revision + 1)) {
            Some(events) => events
                .iter()
                .for_each(|event| line(format!("the watch tells {event}"))),
            None => line("the watch tells nothing more".into()),
        }
    }
    lines.join("\n")
}
