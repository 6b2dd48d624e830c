//! Seeds played, and whether what is broken on purpose is found.

use super::{Broken, play};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use tempfile::TempDir;

/// Seeds of one run without `CORACLE_ROUNDS`.
const ROUNDS: u64 = 2000;

fn number(name: &str) -> Option<u64> {
    let given = std::env::var(name).ok()?;
    Some(
        given
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
    )
}

/// What is printed of a seed that failed.
fn told(seed: u64, dir: &Path) -> String {
    let again = play(seed, Broken::Nothing, true, dir);
    let (trace, wrong) = (again.trace.join("\n"), again.wrong.join("\n"));
    format!("{trace}\n{wrong}\nCORACLE_SEED={seed}")
}

/// Plays seeds on all processors; the first that says so, if any.
fn first(
    seeds: impl Iterator<Item = u64> + Send,
    of: impl Fn(u64, &Path) -> bool + Sync,
) -> Option<u64> {
    let seeds = std::sync::Mutex::new(seeds);
    let found = AtomicU64::new(u64::MAX);
    let threads = thread::available_parallelism().map_or(1, |n| n.get());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let dir = TempDir::new().unwrap();
                while found.load(Ordering::Relaxed) == u64::MAX {
                    let next = seeds.lock().unwrap().next();
                    let Some(seed) = next else { return };
                    if of(seed, dir.path()) {
                        found.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    Some(found.into_inner()).filter(|seed| *seed != u64::MAX)
}

#[test]
fn many_machines_come_to_what_was_asked() {
    let dir = TempDir::new().unwrap();
    if let Some(seed) = number("CORACLE_SEED") {
        let text = told(seed, dir.path());
        println!("{text}");
        assert!(
            play(seed, Broken::Nothing, false, dir.path())
                .wrong
                .is_empty(),
            "CORACLE_SEED={seed}"
        );
        return;
    }
    let rounds = number("CORACLE_ROUNDS").unwrap_or(ROUNDS);
    let wrong = |seed, dir: &Path| !play(seed, Broken::Nothing, false, dir).wrong.is_empty();
    if let Some(seed) = first(0..rounds, wrong) {
        panic!("{}", told(seed, dir.path()));
    }
}

#[test]
fn a_seed_is_played_the_same_again() {
    let dir = TempDir::new().unwrap();
    for seed in 0..5 {
        let once = play(seed, Broken::Nothing, true, dir.path());
        let again = play(seed, Broken::Nothing, true, dir.path());
        let unlike = once.trace.iter().zip(&again.trace).find(|(a, b)| a != b);
        assert!(
            unlike.is_none() && once.sum == again.sum,
            "seed {seed}: {unlike:?}"
        );
    }
}

#[test]
fn what_is_broken_is_found() {
    for broken in [
        Broken::Compares,
        Broken::Watchdogs,
        Broken::Removals,
        Broken::OwnStore,
    ] {
        let wrong = |seed, dir: &Path| !play(seed, broken, false, dir).wrong.is_empty();
        assert!(first(0..400, wrong).is_some(), "{broken:?} is not found");
    }
}
