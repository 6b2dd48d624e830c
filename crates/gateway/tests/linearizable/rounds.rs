//! A server that is killed and started again, while clients ask.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::BoxFuture;
use proptest::prelude::RngExt as _;
use proptest::test_runner::TestRunner;
use tokio::task::JoinSet;

use super::clients::{Client, Recorder, Up, keep_watching, replay};
use super::history::*;
use crate::common::PATIENCE;

const CLIENTS: usize = 8;

/// What is killed, and keeps what it has in one place.
pub trait Server {
    /// Starts it; its URL, once it answers.
    fn start(&mut self) -> BoxFuture<'static, String>;
    /// `kill -9`; it is dead then.
    fn kill(&mut self);
}

pub struct Plan {
    pub kills: u64,
    /// How many answers clients get between a start and a kill.
    pub answers: Range<u64>,
    /// How long a server that is killed while it starts has, at most; none is, at 0.
    pub starting: Duration,
}

/// What clients and watches were told by a server that is killed again and again.
pub async fn record(server: &mut impl Server, plan: &Plan, runner: &mut TestRunner) -> History {
    let recorder = Recorder::new();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(Client::new(&recorder, runner.new_rng()).run());
    }
    let mut watching = JoinSet::new();
    watching.spawn(keep_watching(recorder.clone()));
    let mut rng = runner.new_rng();
    let mut starts = Vec::new();
    for killed in 0.. {
        let last = killed == plan.kills;
        let ready = server.start();
        let may = !last && !plan.starting.is_zero();
        let dies_early = may && rng.random_range(0..4) == 0;
        let patience = if dies_early {
            rng.random_range(Duration::ZERO..plan.starting)
        } else {
            PATIENCE
        };
        let address = match tokio::time::timeout(patience, ready).await {
            Ok(address) => address,
            Err(_) if dies_early => {
                server.kill();
                continue;
            }
            Err(_) => panic!("it does not start"),
        };
        starts.push(recorder.tick());
        let generation = starts.len() as u64;
        recorder.up.send_replace(Up {
            generation,
            address,
        });
        let target = *recorder.answered.borrow() + rng.random_range(plan.answers.clone());
        let mut answered = recorder.answered.subscribe();
        let answered = answered.wait_for(|answered| *answered >= target);
        let answered = tokio::time::timeout(PATIENCE, answered).await;
        answered.expect("clients are answered").unwrap();
        if last {
            break;
        }
        // Not only just after an answer, but at any point of what comes then.
        let more = Duration::from_micros(rng.random_range(0..3000));
        tokio::task::block_in_place(|| std::thread::sleep(more));
        recorder.doomed.store(generation, Ordering::SeqCst);
        server.kill();
    }
    recorder.stop.store(true, Ordering::SeqCst);
    let stopped = tokio::time::timeout(PATIENCE, clients.join_all());
    stopped.await.expect("clients stop");
    let last = Client::new(&recorder, runner.new_rng()).look().await;
    let mut watched = recorder.watched.subscribe();
    let told = tokio::time::timeout(PATIENCE, watched.wait_for(|told| *told >= last)).await;
    // What a watch may not say ends it.
    while let Some(ended) = watching.try_join_next() {
        ended.unwrap();
    }
    told.expect("the watch tells all").unwrap();
    watching.shutdown().await;
    let replayed = replay(&recorder, last).await;
    let mut operations = recorder.operations();
    for operation in &mut operations {
        if let What::Unknown(_) = operation.what {
            // A server that is dead does nothing more, and what it did is there when the next one answers.
            let start = starts.iter().find(|start| **start > operation.returned);
            operation.returned = start.copied().unwrap_or(NEVER);
        }
    }
    let told = std::mem::take(&mut *recorder.told.lock().unwrap());
    History {
        operations,
        told,
        replayed,
    }
}
