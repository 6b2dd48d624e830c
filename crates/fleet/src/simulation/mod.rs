//! Leaders, agents and drivers of many machines in one thread, against one simulated store, from one seed.
//!
//! What runs is the product: [`Fleet`](crate::Fleet) as it is, but for what lies below it. Time, waits, tasks and chance are the world's
//! ([`crate::pace`]), containers are a table ([`crate::containers`]), and the stores have etcd's meaning and a line that may be slow,
//! cut one way or both, or lose what it was asked. Daemons are killed in the midst of anything, machines lose power or are taken
//! off the list, operators ask whoever says that it leads. Then all is well again, and everything has to be as it was asked within
//! [`story::BOUND`] of simulated time, and to stay so.
//!
//! | module | job |
//! | --- | --- |
//! | `world` | clock, tasks, dice |
//! | `data`, `link` | the store; a machine's way to it |
//! | `table` | containers, and the watchdogs of what is exclusive |
//! | `cluster` | machines and their daemons |
//! | `story` | what happens |
//! | `books`, `check` | what is true at every moment; in the end |
//!
//! `CORACLE_ROUNDS` says how many seeds are played (`make soak`); `CORACLE_SEED` plays one and prints what happened.

mod books;
mod check;
mod cluster;
mod data;
mod directed;
mod link;
mod story;
mod table;
mod tests;
mod texts;
mod world;

pub(crate) use world::{Spawned, World, here};

use cluster::{Broken, Cluster};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use story::Story;

/// How one seed went.
struct Played {
    /// What was not as it should be.
    wrong: Vec<String>,
    trace: Vec<String>,
    /// The same for the same course of events.
    sum: u64,
}

/// Plays a seed. `loud` is whether what happens is written down.
fn play(seed: u64, broken: Broken, loud: bool, dir: &Path) -> Played {
    let world = World::new(seed, loud);
    let machines = 2 + world.below(3) as usize;
    let voters = 1 + world.below(machines as u64) as usize;
    let bad = BTreeMap::from([(
        "bad-a.container".to_owned(),
        BTreeSet::from([world.below(machines as u64) as usize]),
    )]);
    let cluster = Cluster::new(&world, machines, voters, bad, broken, dir);
    let run = Story::new(&cluster).run();
    let panicked = catch_unwind(AssertUnwindSafe(|| world.run(run))).err();
    let mut wrong = cluster.books.wrong();
    if let Some(panic) = panicked {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        wrong.push(format!("panicked: {}", text.unwrap_or("without a word")));
    }
    Played {
        wrong,
        trace: world.trace(),
        sum: world.sum(),
    }
}
