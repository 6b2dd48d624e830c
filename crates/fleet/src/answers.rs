//! Until when a request waits, and with what it is answered then.

use crate::error::FleetError;
use crate::leader::{Leader, Target, keeps_failing};
use crate::model::{Active, Actual};
use crate::plan::Goal;
use crate::presence::LEASE;
use std::time::Duration;

/// How long a machine that gives signs may take to begin with what it is asked. One that gives none is lost before.
pub(crate) const ANSWER: Duration = Duration::from_secs(LEASE as u64 + 5);
/// How long is waited for what becomes of a unit that has failed where it is.
const MOVE: Duration = Duration::from_secs(5);

/// Whether it is nowhere, or nowhere where it could run.
pub(crate) fn waits(actual: &Actual) -> bool {
    matches!(actual.sub.as_str(), "waiting" | "lost")
}

/// Waits until a start has an end: it is up, has ended, or waits for something that does not come by itself. None if something else was
/// asked meanwhile, or nobody can tell any more.
pub(crate) async fn up_or_not(leader: &Leader, target: &Target, goal: Goal) -> Option<Actual> {
    let mut actual = target.actual.subscribe();
    let stays = |a: &Actual| waits(a) && !target.waits().is_some_and(|w| w.briefly());
    let there = |a: &Actual| {
        a.generation == goal.generation && (a.active == Active::Active || a.settled) && !waits(a)
            || stays(a)
            || *target.goal.borrow() != goal
    };
    // The leader has still to say whether it is tried elsewhere.
    let may_move = |a: &Actual| {
        a.active == Active::Failed
            && *target.goal.borrow() == goal
            && keeps_failing(a)
            && !target.waits().is_some_and(|w| w.failing())
            && leader.machines().len() > 1
    };
    loop {
        let ended = actual.wait_for(there).await.ok()?.clone();
        if *target.goal.borrow() != goal {
            return None;
        }
        if !may_move(&ended) {
            return Some(ended);
        }
        let moved = actual.wait_for(|a| !there(a) || !may_move(a));
        if !matches!(crate::pace::within(MOVE, moved).await, Some(Ok(_))) {
            return Some(ended);
        }
    }
}

/// Ends with an error when machines that give signs do not begin with what they are asked.
pub(crate) async fn silence(
    leader: &Leader,
    target: &Target,
    goal: Goal,
    asked: &'static str,
) -> FleetError {
    let mut actual = target.actual.subscribe();
    // One that is still at the end of something else has not gone.
    let heard = |a: &Actual| {
        a.order >= goal.order
            || a.active == Active::Deactivating
            || waits(a)
            || *target.goal.borrow() != goal
    };
    let answered = crate::pace::within(ANSWER, actual.wait_for(heard));
    let answered = answered.await.is_some();
    let machines = target.silent();
    if answered || machines.is_empty() {
        return std::future::pending().await;
    }
    let machines: Vec<String> = machines.iter().map(|m| leader.called(m)).collect();
    FleetError::Silent {
        unit: target.unit().name.to_string(),
        asked,
        machines: machines.join(", "),
        seconds: ANSWER.as_secs(),
    }
}
