//! What is shown of a store to apps: all that is theirs, as a store of its own would show it, and nothing else.
//!
//! `CORACLE_ROUNDS` says how many sequences of random requests are run.
#![allow(clippy::unwrap_used)]

mod common;
mod scope {
    pub mod ops;
    pub mod run;
}

use proptest::test_runner::{Config, TestCaseError, TestRunner};
use scope::ops::{Op, sequence};
use scope::run::Pair;

/// Random requests to a scoped store, in which the machine writes too, and to one that has the app's keys only: the same answers, and
/// afterwards the machine's are as it wrote them.
fn alike(offset: i64) {
    let cases = std::env::var("CORACLE_ROUNDS").map_or(100, |n| n.parse().unwrap());
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let differ = async |ops: &[Op]| {
        let mut pair = Pair::new(offset).await;
        for op in ops {
            pair.run(op).await?;
        }
        pair.finish().await
    };
    let ran = TestRunner::new(config).run(&sequence(), |ops| {
        runtime.block_on(differ(&ops)).map_err(TestCaseError::fail)
    });
    if let Err(error) = ran {
        panic!("{error}");
    }
}

#[test]
fn an_app_sees_its_own_and_nothing_else() {
    alike(0);
}

#[test]
fn the_same_after_a_move() {
    alike(1_000_000);
}
