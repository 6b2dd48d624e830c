//! What operators say of machines and volumes. One machine is real; the other is there by its keys in the store.
#![allow(clippy::unwrap_used)]

mod common;

use common::fake::Fake;
use common::{IMAGE, Machine, machine, machine_in_cluster};
use coracle_fleet::{Active, FleetError, Mark};
use coracle_store::StoreExt as _;
use std::collections::BTreeMap;

const SLEEPS: &str = "[Service]\nExecStart=/bin/sleep 1000\n";

fn labels(those: &[(&str, Option<&str>)]) -> Mark {
    let owned = those
        .iter()
        .map(|(k, v)| ((*k).to_owned(), v.map(Into::into)));
    Mark::Labels(owned.collect())
}

/// It goes from where it was first.
async fn up_on(m: &Machine, name: &str, machine: &str) {
    m.fleet.start(name, false).await.unwrap();
    m.until(name, "up there", |u| {
        u.machine == machine && u.active == Active::Active
    })
    .await;
}

async fn refused(m: &Machine, name: &str, mark: Mark, words: &str) {
    let error = m.fleet.mark(name, &mark).await.unwrap_err().to_string();
    assert!(error.contains(words), "{words}: {error}");
}

#[test]
fn labels_and_cordons_decide_where_units_go() {
    machine(
        "labels_and_cordons_decide_where_units_go",
        &[|m| {
            Box::pin(async move {
                let own = m.fleet.machine().id.clone();
                refused(&m, &own, Mark::Drain, "it is the only one").await;
                let fake = Fake::beside(&m).await;
                refused(&m, "nobody", Mark::Cordon, "no machine \"nobody\" is known").await;
                refused(&m, "fff", labels(&[("a b", Some("c"))]), "label a b=c").await;
                let seen = m.fleet.machine_named("fff").unwrap();
                assert_eq!(seen.machine.labels["rack"], "there");

                let set = labels(&[("rack", Some("b")), ("disk", Some("ssd"))]);
                let seen = m.fleet.mark("fake-f", &set).await.unwrap();
                assert_eq!(seen.machine.labels["rack"], "b");
                let take = labels(&[("disk", None)]);
                m.fleet.mark(&fake.id, &take).await.unwrap();
                let all = m.fleet.machines().await.unwrap();
                let of = all.iter().find(|s| s.machine.id == fake.id).unwrap();
                let expected: BTreeMap<_, _> = [("rack".to_owned(), "b".to_owned())].into();
                assert_eq!(of.machine.labels, expected);
                let key = format!("/coracle/v1/marks/{}", fake.id);
                assert!(m.store.get(key).await.unwrap().is_some());

                // What is started right after the answer goes by it.
                m.fleet.mark("fake-f", &Mark::Cordon).await.unwrap();
                let text = format!("{SLEEPS}[X-Fleet]\nMachineMetadata=rack=b\n");
                m.submit("rack-a.service", &text).await;
                let error = m.fleet.start("rack-a", true).await.unwrap_err();
                assert!(matches!(error, FleetError::Waits { .. }), "{error}");
                let why = m.fleet.explain("rack-a").unwrap();
                assert!(why.placements.is_empty());
                assert!(why.waits.unwrap().contains("no machine fits"));
                let on = |id: &str| why.machines.iter().find(|v| v.machine == *id).unwrap();
                assert_eq!(on(&fake.id).hostname, "fake-f");
                assert_eq!(on(&fake.id).reasons, ["the machine is cordoned"]);
                let said = on(&own).reasons.join(";");
                assert!(said.contains("rack=b, and it has no rack"), "{said}");

                let seen = m.fleet.mark("fake-f", &Mark::Uncordon).await.unwrap();
                assert!(!seen.cordoned);
                m.until("rack-a.service", "on the other", |u| {
                    u.machine == fake.id && u.active == Active::Active
                })
                .await;
                let why = m.fleet.explain("rack-a.service").unwrap();
                assert_eq!(why.placements[0].hostname, "fake-f");
                let reason = why.placements[0].reason.clone().unwrap();
                assert!(reason.contains("least loaded"), "{reason}");
                assert!(why.machines.iter().any(|v| v.here && v.machine == fake.id));
                let error = m.fleet.explain("nothing").unwrap_err();
                assert!(matches!(error, FleetError::NotFound(_)), "{error}");
            })
        }],
    );
}

#[test]
fn a_drain_moves_units_and_names_what_cannot() {
    machine(
        "a_drain_moves_units_and_names_what_cannot",
        &[|m| {
            Box::pin(async move {
                let own = m.fleet.machine().id.clone();
                let host = m.fleet.machine().hostname.clone();
                let fake = Fake::beside(&m).await;
                fake.say("moves-a.service", None);
                m.fleet.mark("fake-f", &Mark::Cordon).await.unwrap();
                m.submit("moves-a.service", SLEEPS).await;
                let text = format!("{SLEEPS}[X-Fleet]\nMachineID={own}\n");
                m.submit("stays-a.service", &text).await;
                for name in ["moves-a.service", "stays-a.service"] {
                    assert_eq!(m.start(name).await.machine, own);
                }
                m.fleet.mark("fake-f", &Mark::Uncordon).await.unwrap();
                let seen = m.fleet.mark(&host, &Mark::Drain).await.unwrap();
                assert!(seen.draining && seen.drain.is_some_and(|d| !d.finished));
                let drain = || m.fleet.machine_named(&own).unwrap().drain.unwrap();
                m.sees("one moves", || drain().moving == ["moves-a.service"])
                    .await;
                // It runs on here until it is well there.
                let here = m.fleet.machine_named(&own).unwrap().placed;
                assert!(here.iter().any(|p| p.unit == "moves-a.service"), "{here:?}");
                fake.say("moves-a.service", Some(Active::Active));
                m.sees("only what cannot move is left", || {
                    let drain = drain();
                    drain.moving.is_empty() && drain.next.is_empty() && drain.stuck.len() == 1
                })
                .await;
                let drain = drain();
                assert!(!drain.finished);
                assert_eq!(drain.stuck[0].unit, "stays-a.service");
                let reason = &drain.stuck[0].reason;
                assert!(reason.contains(&host) && !reason.contains(&own), "{reason}");
                let why = m.fleet.explain("moves-a").unwrap();
                assert_eq!(why.placements[0].hostname, "fake-f");
                let reason = why.placements[0].reason.clone().unwrap();
                assert!(
                    reason.contains(&format!("its machine {host} is being drained")),
                    "{reason}"
                );

                let seen = m.fleet.mark(&own, &Mark::Uncordon).await.unwrap();
                assert!(!seen.draining && seen.drain.is_none());
                let stays = m.view("stays-a.service");
                assert_eq!((stays.machine, stays.active), (own, Active::Active));
                assert_eq!(
                    m.view("moves-a.service").machine,
                    fake.id,
                    "nothing moves back"
                );
            })
        }],
    );
}

#[test]
fn a_volume_is_bound_to_another_machine() {
    machine(
        "a_volume_is_bound_to_another_machine",
        &[|m| {
            Box::pin(async move {
                let own = m.fleet.machine().id.clone();
                let host = m.fleet.machine().hostname.clone();
                let fake = Fake::beside(&m).await;
                m.image().await;
                m.submit("data-a.volume", "[Volume]\nVolumeName=data-a\n")
                    .await;
                let text = format!(
                    "[Container]\nImage={IMAGE}\nExec=sleep 1000\nVolume=data-a.volume:/data\n[Service]\nTimeoutStopSec=1\n"
                );
                m.submit("keeps-a.container", &text).await;
                let rebind = async |volume: &str, machine: &str| {
                    m.fleet
                        .rebind(volume, machine)
                        .await
                        .map_err(|e| e.to_string())
                };
                m.fleet.mark(&own, &Mark::Cordon).await.unwrap();
                assert_eq!(m.start("keeps-a").await.machine, fake.id);
                m.fleet.mark(&own, &Mark::Uncordon).await.unwrap();
                for (volume, to, words) in [
                    ("nothing", "fake-f", "no unit uses a volume nothing"),
                    ("data-a", "nobody", "no machine \"nobody\""),
                    (
                        "data-a",
                        host.as_str(),
                        "keeps-a.container runs on fake-f with its data",
                    ),
                ] {
                    let error = rebind(volume, to).await.unwrap_err();
                    assert!(error.contains(words), "{words}: {error}");
                }
                let why = m.fleet.explain("keeps-a").unwrap();
                let here = why.machines.iter().find(|v| v.machine == own).unwrap();
                assert_eq!(here.reasons, ["the data of volume data-a is on fake-f"]);

                // Nothing changes for one that is there already.
                assert_eq!(
                    rebind("data-a.volume", "fake-f").await.unwrap().machine,
                    fake.id
                );
                m.fleet.stop("keeps-a", true).await.unwrap();
                let done = rebind("data-a.volume", &host).await.unwrap();
                assert_eq!((done.volume.as_str(), &done.hostname), ("data-a", &host));
                assert_eq!(done.before.as_deref(), Some("fake-f"));
                assert_eq!(done.units, ["keeps-a.container"]);
                up_on(&m, "keeps-a.container", &own).await;
                let why = m.fleet.explain("data-a.volume").unwrap();
                let there = why.placements.iter().find(|p| p.machine == own).unwrap();
                let reason = there.reason.clone().unwrap();
                assert_eq!(reason, "keeps-a.container, which needs it, is here");

                // Back, and then its machine is lost: it waits until somebody says where the data is.
                m.fleet.stop("keeps-a", true).await.unwrap();
                rebind("data-a", "fake-f").await.unwrap();
                up_on(&m, "keeps-a.container", &fake.id).await;
                fake.is_lost().await;
                m.until("keeps-a.container", "waiting for its data", |u| {
                    u.reason
                        .contains("the data of volume data-a is on fake-f, which is lost")
                })
                .await;
                let error = rebind("data-a", "fake-f").await.unwrap_err();
                assert!(error.contains("fake-f is lost"), "{error}");
                rebind("data-a", &host).await.unwrap();
                m.until("keeps-a.container", "up here", |u| {
                    u.machine == own && u.active == Active::Active
                })
                .await;
            })
        }],
    );
}

#[test]
fn a_unit_waits_for_one_on_another_machine() {
    machine_in_cluster(
        "a_unit_waits_for_one_on_another_machine",
        &[|m| {
            Box::pin(async move {
                let own = m.fleet.machine().id.clone();
                let fake = Fake::beside(&m).await;
                let there = format!("{SLEEPS}[X-Fleet]\nMachineMetadata=rack=there\n");
                m.submit("first-a.service", &there).await;
                m.submit(
                    "first-b.service",
                    &format!("[Unit]\nBefore=then-b.service\n{there}"),
                )
                .await;
                let unit = "[Unit]\nRequires=first-a.service\nAfter=first-a.service\n";
                let here = "[X-Fleet]\nMachineMetadata=rack=here\n";
                m.submit("then-a.service", &format!("{unit}{SLEEPS}{here}"))
                    .await;
                m.submit("then-b.service", &format!("{SLEEPS}{here}")).await;

                for (first, then) in [
                    ("first-a.service", "then-a.service"),
                    ("first-b.service", "then-b.service"),
                ] {
                    fake.say(first, Some(Active::Activating));
                    m.fleet.start(first, false).await.unwrap();
                    m.until(first, "there", |u| {
                        u.machine == fake.id && u.active == Active::Activating
                    })
                    .await;
                    m.fleet.start(then, false).await.unwrap();
                    let key = format!("/coracle/v1/status/{first}");
                    assert!(m.store.get(key).await.unwrap().is_some());
                    // The driver has begun, and waits.
                    m.until(then, "begun", |u| u.machine == own && u.since.is_some())
                        .await;
                    assert_ne!(m.view(then).active, Active::Active);
                    fake.say(first, Some(Active::Active));
                    m.until(then, "up", |u| u.active == Active::Active).await;
                }

                m.fleet.stop("then-a", true).await.unwrap();
                m.fleet.stop("first-a", true).await.unwrap();
                fake.say("first-a.service", Some(Active::Failed));
                let error = m.fleet.start("then-a", true).await.unwrap_err().to_string();
                assert!(
                    error.contains("first-a.service, which it requires, failed"),
                    "{error}"
                );
            })
        }],
    );
}
