//! Is the store one that does one thing at a time, whoever asks and however often it is killed?
//!
//! Clients ask for random things at once, while the server is killed again and again; what they asked, what they were
//! answered and when is kept, and an order is looked for in which all answers are right (see [`search`]). A watch that
//! goes on after each crash tells each change once, in that order. The same is asked of the real etcd.
//!
//! `CORACLE_ROUNDS` says how often our store is killed; etcd, which is slower to start, is half as often.
//!
//! [`search`]: linearizable::search
#![allow(clippy::unwrap_used)]

mod common;
mod linearizable {
    mod all_orders;
    mod by_hand;
    pub mod check;
    pub mod clients;
    pub mod history;
    pub mod model;
    pub mod rounds;
    pub mod search;
    pub mod servers;
    pub mod wire;
}

use std::path::Path;
use std::time::{Duration, Instant};

use linearizable::check::check;
use linearizable::history::{History, What};
use linearizable::rounds::{Plan, Server as _, record};
use linearizable::servers::{Forgetful, Ours, Theirs, serve_if_child};

/// How often a server is killed in one history.
const KILLS: u64 = 10;

/// Looks for an order; keeps the history where there is none.
fn assert_linearizable(name: &str, history: &History) {
    let operations = &history.operations;
    let unknown = operations.iter();
    let unknown = unknown.filter(|one| matches!(one.what, What::Unknown(_)));
    let (unknown, all) = (unknown.count(), operations.len());
    let begun = Instant::now();
    let linear = match check(history) {
        Ok(linear) => linear,
        Err(why) => {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR"));
            let path = path.join(format!("{name}-{}.txt", std::process::id()));
            std::fs::write(&path, history.to_string()).unwrap();
            panic!("{why}\nthe whole history is in {}", path.display());
        }
    };
    let (placed, revision) = (linear.order.len() + unknown - all, linear.state.revision);
    println!(
        "{name}: {all} operations to revision {revision}, {unknown} without an answer, {placed} of them placed; {} tried in {:?}",
        linear.tried,
        begun.elapsed()
    );
    assert!(unknown > 0 && revision > 100, "little has happened");
}

/// Each is that of a new store, which is killed [`KILLS`] times.
fn histories(default: u64) -> u64 {
    let kills = std::env::var("CORACLE_ROUNDS");
    kills.map_or(default, |n| n.parse::<u64>().unwrap().div_ceil(KILLS))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_is_linearizable_through_crashes() {
    serve_if_child().await;
    let mut runner = common::runner(1);
    let plan = Plan {
        kills: KILLS,
        answers: 20..500,
        starting: Duration::from_millis(60),
    };
    for _ in 0..histories(4) {
        let dir = tempfile::tempdir().unwrap();
        let name = "the_embedded_store_is_linearizable_through_crashes";
        let mut server = Ours::new(name, dir.path());
        let history = record(&mut server, &plan, &mut runner).await;
        assert_linearizable("embedded", &history);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_is_linearizable_through_crashes() {
    let mut runner = common::runner(1);
    let plan = Plan {
        kills: KILLS / 2,
        answers: 20..500,
        starting: Duration::from_millis(300),
    };
    for _ in 0..histories(1) {
        let mut server = Theirs::new().await;
        let history = record(&mut server, &plan, &mut runner).await;
        assert_linearizable("etcd", &history);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_forgets_is_found_out() {
    serve_if_child().await;
    let plan = Plan {
        kills: 2,
        answers: 100..200,
        starting: Duration::ZERO,
    };
    let dir = tempfile::tempdir().unwrap();
    let name = "a_disk_that_forgets_is_found_out";
    let mut server = Forgetful {
        ours: Ours::new(name, &dir.path().join("store")),
        copy: dir.path().join("copy"),
    };
    let history = record(&mut server, &plan, &mut common::runner(1)).await;
    let why = check(&history).err().expect("writes are lost");
    assert!(why.contains("none of these can be next"), "{why}");
}

/// Waits until the first bytes of a store are in the directory.
fn wait_for_bytes(dir: &Path) {
    let deadline = Instant::now() + common::PATIENCE;
    let length = |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.metadata().ok();
    while Instant::now() < deadline {
        let mut files = std::fs::read_dir(dir).unwrap().filter_map(length);
        if files.any(|file| file.is_file() && file.len() > 0) {
            return;
        }
        std::thread::yield_now();
    }
    panic!("nothing comes into {}", dir.display());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_killed_while_it_is_made_is_made_again() {
    serve_if_child().await;
    let name = "a_store_that_is_killed_while_it_is_made_is_made_again";
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Ours::new(name, dir.path());
        drop(server.start());
        wait_for_bytes(dir.path());
        server.kill();
        let again = tokio::time::timeout(common::PATIENCE, server.start()).await;
        again.expect("it serves");
    }
}
