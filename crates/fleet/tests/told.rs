//! What a leader tells machines of units that they do not have. The other machine is its keys alone.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Machine, machine};
use coracle_fleet::model::StatusRecord;
use coracle_fleet::{Active, Desired};
use coracle_store::StoreExt as _;
use std::time::{Duration, Instant};

const SLEEP: &str = "[Service]\nExecStart=/bin/sleep 1000\n";

fn after(name: &str) -> String {
    format!("[Unit]\nAfter={name}\n{SLEEP}")
}

async fn status(m: &Machine, name: &str) -> Option<StatusRecord> {
    let key = format!("/coracle/v1/status/{name}");
    let found = m.store.get_json::<StatusRecord>(&key).await.unwrap();
    found.map(|(status, _)| status)
}

fn is_up(status: &StatusRecord) -> bool {
    status.desired == Desired::Active && status.active == Active::Active && status.answered
}

#[test]
fn who_waits_on_another_machine_finds_how_things_stand() {
    machine(
        "who_waits_on_another_machine_finds_how_things_stand",
        &[|m| {
            Box::pin(async move {
                m.submit("told-db.service", SLEEP).await;
                m.submit("told-web.service", &after("told-db.service"))
                    .await;
                m.start("told-db").await;
                assert_eq!(status(&m, "told-db.service").await, None, "it is alone");

                // What ran before another machine came is told when it comes.
                let mut other = m.fleet.machine().clone();
                other.id = "0123456789abcdef".repeat(2);
                let key = format!("/coracle/v1/machines/{}", other.id);
                m.store.put_json(&key, &other).await.unwrap();
                let deadline = Instant::now() + Duration::from_secs(60);
                while !status(&m, "told-db.service")
                    .await
                    .is_some_and(|s| is_up(&s))
                {
                    assert!(Instant::now() < deadline, "it was never told");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }

                // What ran before anybody waited for it is told to whoever begins to.
                m.submit("told-late.service", SLEEP).await;
                m.start("told-late").await;
                m.submit("told-last.service", &after("told-late.service"))
                    .await;
                assert_eq!(status(&m, "told-late.service").await, None, "nobody waits");
                m.start("told-last").await;
                assert!(is_up(&status(&m, "told-late.service").await.unwrap()));

                m.fleet.destroy("told-late").await.unwrap();
                assert_eq!(status(&m, "told-late.service").await, None);
            })
        }],
    );
}
