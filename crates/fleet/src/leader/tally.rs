//! How much a leader has to look after, and what that costs it.

use super::{Leader, locked};
use crate::error::Result;
use crate::fleet::Fleet;
use coracle_planner::{Decision, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What the machine that leads knows, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Units, templates among them.
    pub units: usize,
    /// Machines that give signs.
    pub machines: usize,
    /// Instances of units that such machines are asked to have.
    pub placed: usize,
    /// Those of them whose machine has answered to the last request.
    pub answered: usize,
    /// Those that run by that answer.
    pub running: usize,
    /// Decisions since it leads.
    pub decisions: u64,
    /// Seconds that these took; what is read and written is not among it.
    pub deciding: f64,
    /// Transactions since it leads.
    pub transactions: u64,
}

/// Counts what a leader does.
#[derive(Default)]
pub(crate) struct Work {
    decisions: AtomicU64,
    /// Microseconds.
    deciding: AtomicU64,
    transactions: AtomicU64,
}

impl Work {
    /// A transaction is written.
    pub fn writes(&self) {
        self.transactions.fetch_add(1, Ordering::Relaxed);
    }
}

/// Now, as the planner counts.
pub(super) fn now() -> Timestamp {
    Timestamp(u64::try_from(crate::pace::utc().timestamp_millis()).unwrap_or_default())
}

impl Leader {
    /// What is decided now.
    pub(super) fn plan(&self) -> Vec<Decision> {
        let begun = Instant::now();
        let decisions = self.with_planner(|planner| planner.plan(now()));
        let (work, took) = (&self.work, begun.elapsed().as_micros());
        let count = u64::try_from(decisions.len()).unwrap_or(u64::MAX);
        work.decisions.fetch_add(count, Ordering::Relaxed);
        let took = u64::try_from(took).unwrap_or(u64::MAX);
        work.deciding.fetch_add(took, Ordering::Relaxed);
        decisions
    }

    fn tally(&self) -> Tally {
        let all = self.all();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut tally = Tally {
            units: all.len(),
            machines: locked(&self.machines).values().filter(|m| m.alive).count(),
            decisions: read(&self.work.decisions),
            deciding: Duration::from_micros(read(&self.work.deciding)).as_secs_f64(),
            transactions: read(&self.work.transactions),
            ..Tally::default()
        };
        for target in all {
            let (placed, answered, running) = target.tally();
            tally.placed += placed;
            tally.answered += answered;
            tally.running += running;
        }
        tally
    }
}

impl Fleet {
    /// Units and machines in numbers.
    ///
    /// # Errors
    /// [`crate::FleetError::NotLeader`].
    pub fn tally(&self) -> Result<Tally> {
        Ok(self.leading()?.tally())
    }
}
