//! A unit on a machine that says nothing, which is played by its keys.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::fake::Fake;
use common::{Machine, machine_in_cluster};
use coracle_fleet::model::{DesiredRecord, keys};
use coracle_fleet::{Active, Mark};
use coracle_store::StoreExt as _;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const SLEEPS: &str = "[Service]\nExecStart=/bin/sleep 1000\n";
const THERE: &str = "[X-Fleet]\nMachineMetadata=rack=there\n";

/// What the other machine is asked of units, by their names.
async fn asked(m: &Machine, fake: &Fake) -> BTreeMap<String, DesiredRecord> {
    let found = m.store.list(keys::desired_of(&fake.id)).await.unwrap();
    let read = |kv: coracle_store::KeyValue| serde_json::from_slice(&kv.value).unwrap();
    let records = found.kvs.into_iter().map(read);
    records
        .map(|r: DesiredRecord| (r.unit.clone(), r))
        .collect()
}

#[test]
fn a_machine_that_is_silent_is_not_waited_for_without_bound() {
    machine_in_cluster(
        "a_machine_that_is_silent_is_not_waited_for_without_bound",
        &[|m| {
            Box::pin(async move {
                let fake = Fake::beside(&m).await;
                m.submit("quiet-a.service", &format!("{SLEEPS}{THERE}"))
                    .await;
                m.fleet.start("quiet-a", true).await.unwrap();
                fake.say("quiet-a.service", None);
                let begun = Instant::now();
                let error = m.fleet.stop("quiet-a", true).await.unwrap_err();
                let error = error.to_string();
                assert!(begun.elapsed() < Duration::from_secs(25));
                for words in [
                    "quiet-a.service was asked to stop",
                    "fake-f gives signs but has not answered",
                    "as soon as fake-f answers",
                ] {
                    assert!(error.contains(words), "{error}");
                }
                // It was asked all the same.
                fake.say("quiet-a.service", Some(Active::Active));
                m.until("quiet-a.service", "down", |u| u.active == Active::Inactive)
                    .await;
            })
        }],
    );
}

#[test]
fn what_a_machine_has_said_nothing_of_has_not_gone_from_it() {
    machine_in_cluster(
        "what_a_machine_has_said_nothing_of_has_not_gone_from_it",
        &[|m| {
            Box::pin(async move {
                let own = m.fleet.machine().id.clone();
                let fake = Fake::beside(&m).await;
                fake.say("alone-a.service", None);
                let text = format!("{SLEEPS}{THERE}[X-Deploy]\nExclusive=yes\n");
                m.submit("alone-a.service", &text).await;
                m.fleet.start("alone-a", false).await.unwrap();
                assert_eq!(m.view("alone-a.service").machine, fake.id);
                assert!(!asked(&m, &fake).await["alone-a.service"].leaving);

                let label = |key: &str, value: Option<&str>| {
                    Mark::Labels([(key.to_owned(), value.map(str::to_owned))].into())
                };
                let there = label("rack", Some("there"));
                m.fleet.mark(&own, &there).await.unwrap();
                m.fleet.mark("fake-f", &label("rack", None)).await.unwrap();
                m.sees("it is asked to leave", || {
                    let why = m.fleet.explain("alone-a").unwrap();
                    why.waits
                        .is_some_and(|w| w.contains("it has not gone from fake-f yet"))
                })
                .await;
                assert!(asked(&m, &fake).await["alone-a.service"].leaving);
                tokio::time::sleep(Duration::from_millis(500)).await;
                assert_ne!(m.view("alone-a.service").machine, own, "placed too early");

                fake.say("alone-a.service", Some(Active::Active));
                m.until("alone-a.service", "up here", |u| {
                    u.machine == own && u.active == Active::Active
                })
                .await;
                assert!(asked(&m, &fake).await.is_empty());
            })
        }],
    );
}

#[test]
fn a_unit_waits_until_its_rival_elsewhere_has_ended() {
    machine_in_cluster(
        "a_unit_waits_until_its_rival_elsewhere_has_ended",
        &[|m| {
            Box::pin(async move {
                let fake = Fake::beside(&m).await;
                m.submit("red-a.service", &format!("{SLEEPS}{THERE}")).await;
                let here = "[X-Fleet]\nMachineMetadata=rack=here\n";
                let blue = format!("[Unit]\nConflicts=red-a.service\n{SLEEPS}{here}");
                m.submit("blue-a.service", &blue).await;
                m.fleet.start("red-a", true).await.unwrap();
                fake.say("red-a.service", None);
                m.fleet.start("blue-a", false).await.unwrap();
                m.until("blue-a.service", "begun", |u| u.since.is_some())
                    .await;
                tokio::time::sleep(Duration::from_millis(500)).await;
                assert_ne!(m.view("blue-a.service").active, Active::Active);
                fake.say("red-a.service", Some(Active::Active));
                m.until("blue-a.service", "up", |u| u.active == Active::Active)
                    .await;
            })
        }],
    );
}
