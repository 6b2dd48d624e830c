//! The same random operations on our gateway and on the real etcd: the same answers, revisions, errors and watches.
//!
//! Both begin empty and see the same writes, so that even revisions must be the same number. Left out of the comparison,
//! each because it is of one server and not of the API's meaning: cluster and member ids and the raft term in headers;
//! the seconds that a lease still has (compared to within two); in how many pieces a watch's events come;
//! a compaction at revision 0, which etcd lets through once in its life, to no effect;
//! a deletion at the revision of a compaction, which etcd before 3.5.18 does not tell a watch that starts there;
//! a transaction that deletes a range without an end and puts within it, or puts in one inner transaction what another
//! deletes, which etcd lets through by mistake.
//!
//! `CORACLE_ROUNDS` says how many sequences are run.
#![allow(clippy::unwrap_used)]

mod common;
mod differential {
    pub mod ops;
    pub mod run;
}

use coracle_gateway::Role;
use differential::ops::sequence;
use differential::run::Side;
use proptest::strategy::{Strategy as _, ValueTree as _};

/// One of each, empty.
struct Pair {
    sides: [Side; 2],
    _servers: (common::Etcd, common::Ours, Option<common::Etcd>),
}

/// What is behind our gateway.
#[derive(Clone, Copy)]
enum Behind {
    Embedded,
    Etcd,
}

impl Pair {
    async fn new(behind: Behind) -> Self {
        let etcd = common::etcd().await;
        let (ours, other) = match behind {
            Behind::Embedded => (common::ours(Role::Operator).await, None),
            Behind::Etcd => {
                let other = common::etcd().await;
                (common::over(&other, Role::Operator).await, Some(other))
            }
        };
        let sides = [
            Side::new(common::channel(etcd.address).await),
            Side::new(common::channel(ours.address).await),
        ];
        Self {
            sides,
            _servers: (etcd, ours, other),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_cannot_tell_the_embedded_store_from_etcd() {
    rounds(Behind::Embedded, 150).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_cannot_tell_the_gateway_over_etcd_from_etcd() {
    rounds(Behind::Etcd, 60).await;
}

async fn rounds(behind: Behind, default: u32) {
    let mut pair = Pair::new(behind).await;
    let rounds = std::env::var("CORACLE_ROUNDS").map_or(default, |n| n.parse().unwrap());
    let mut runner = common::runner(rounds);
    let strategy = sequence();
    for _ in 0..rounds {
        let mut tree = strategy.new_tree(&mut runner).unwrap();
        let Err(first) = differ(&mut pair.sides, &tree.current()).await else {
            continue;
        };
        println!("the first difference:\n{first}");
        // The smallest sequence that still shows it, on servers that have seen no other.
        let (mut smallest, mut last) = (tree.current(), first);
        let mut more = tree.simplify();
        for _ in 0..200 {
            if !more {
                break;
            }
            pair = Pair::new(behind).await;
            match differ(&mut pair.sides, &tree.current()).await {
                Err(difference) => {
                    (smallest, last) = (tree.current(), difference);
                    more = tree.simplify();
                }
                Ok(()) => more = tree.complicate(),
            }
        }
        let steps: Vec<_> = smallest.iter().map(|op| format!("{op:?}\n")).collect();
        panic!("{}\n{last}", steps.concat());
    }
}

/// Runs a sequence on both; says where they differ.
async fn differ(
    [etcd, ours]: &mut [Side; 2],
    sequence: &[differential::ops::Op],
) -> Result<(), String> {
    etcd.clear().await;
    ours.clear().await;
    for (at, op) in sequence.iter().enumerate() {
        let (theirs, mine) = (etcd.run(op).await, ours.run(op).await);
        if theirs != mine {
            etcd.drop_watches();
            ours.drop_watches();
            return Err(format!(
                "step {at}: {op:?}\netcd: {theirs:#?}\nours: {mine:#?}"
            ));
        }
    }
    let (theirs, mine) = (etcd.watched().await, ours.watched().await);
    for (at, (theirs, mine)) in theirs.iter().zip(&mine).enumerate() {
        if theirs != mine {
            return Err(format!("watch {at}\netcd: {theirs:#?}\nours: {mine:#?}"));
        }
    }
    Ok(())
}
