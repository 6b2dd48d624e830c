//! What is exclusive runs as long as its machine counts as there, and no longer.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Machine, machine_in_cluster};
use coracle_engine::process::State;
use coracle_engine::record::Phase;
use coracle_fleet::model::{Actual, keys};
use coracle_fleet::{Active, FleetError};
use coracle_store::{DeleteRangeRequest, PutRequest, StoreExt as _};
use std::time::Duration;

const CONTAINER: &str = "[Container]\nImage=IMAGE\nStopTimeout=2\n\
    Exec=sh -c 'trap \"exit 0\" TERM; while :; do sleep 0.05; done'\n[X-Deploy]\nExclusive=yes\n";
const SERVICE: &str = "[Service]\nExecStart=/bin/sh -c 'echo $CORACLE_FENCE >>DIR/fence; exec sleep 1000'\n\
    TimeoutStopSec=2\n[X-Deploy]\nExclusive=yes\n";

fn pid(m: &Machine) -> u32 {
    m.engine.get("db").unwrap().record.state.pid
}

/// What the machine has told of the service.
async fn told(m: &Machine) -> Actual {
    let told = m.store.list(keys::actual_of(m.engine.machine_id())).await;
    let told = told.unwrap().kvs.into_iter();
    let mut told = told.map(|kv| serde_json::from_slice::<Actual>(&kv.value).unwrap());
    told.find(|actual| actual.unit == "host.service").unwrap()
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

#[test]
fn it_runs_as_long_as_its_machine_counts_as_there() {
    machine_in_cluster(
        "it_runs_as_long_as_its_machine_counts_as_there",
        &[
            |m| {
                Box::pin(async move {
                    m.image().await;
                    for (name, text) in [("db.container", CONTAINER), ("host.service", SERVICE)] {
                        m.submit(name, &m.text(text)).await;
                        m.start(name).await;
                    }
                    m.write("pid", &pid(&m).to_string());
                    // Its number is the revision at which it was placed.
                    let placed = m.store.list(keys::desired_of(m.engine.machine_id())).await;
                    let placed = placed.unwrap().kvs;
                    let of = |name: &str| {
                        let text = format!("\"unit\":\"{name}\"");
                        let is = |kv: &&coracle_store::KeyValue| {
                            String::from_utf8_lossy(&kv.value).contains(&text)
                        };
                        placed.iter().find(is).unwrap().create_revision
                    };
                    let env = m.engine.get("db").unwrap().record.config.env;
                    let fence = format!("CORACLE_FENCE={}", of("db.container"));
                    assert!(env.contains(&fence), "{env:?}");
                    let fence = of("host.service");
                    m.until_file("fence", &format!("{fence}\n")).await;

                    // Its time is what its text says, and what it cannot keep to is refused.
                    let slow = CONTAINER.replace("StopTimeout=2", "StopTimeout=7");
                    let refused = m
                        .fleet
                        .submit("slow.container", &m.text(&slow), vec![])
                        .await;
                    assert!(matches!(refused, Err(FleetError::Refused(_))));
                    let data = slow
                        .replace("Exclusive=yes", "")
                        .replace("Stop", "Volume=x:/x\nStop");
                    let refused = m
                        .fleet
                        .submit("data.container", &m.text(&data), vec![])
                        .await;
                    let refused = refused.unwrap_err().to_string();
                    assert!(
                        refused.contains("7 s") && refused.contains("10 s"),
                        "{refused}"
                    );
                    assert!(refused.contains("Exclusive=no"), "{refused}");
                    let data = data.replace("[X-Deploy]", "[X-Deploy]\nExclusive=no");
                    m.submit("data.container", &m.text(&data)).await;
                })
            },
            |m| {
                Box::pin(async move {
                    // A daemon's death is nothing, if the next one comes soon.
                    assert_eq!(m.read("pid"), pid(&m).to_string());
                    let key = keys::alive(m.engine.machine_id());
                    // Its key is under a short lease, which the former daemon had as well.
                    let alive = loop {
                        let alive = m.store.get(key.clone()).await.unwrap().unwrap();
                        let lease = m.store.lease_time_to_live(alive.lease, false).await;
                        if lease.is_ok_and(|lease| lease.granted_ttl == 4) {
                            break alive;
                        }
                        a_moment().await;
                    };
                    // As if the lease had run out.
                    let gone = DeleteRangeRequest::key(key.clone());
                    m.store.delete_range(gone).await.unwrap();
                    m.sees("the container's watchdog stops it", || {
                        let state = m.engine.get("db").unwrap().record.state;
                        state.watchdog && state.phase == Phase::Exited
                    })
                    .await;
                    let state = m.engine.get("db").unwrap().record.state;
                    assert_eq!(state.exit_code, 0);
                    assert!(state.error.contains("the store could not be asked for"));
                    while !told(&m).await.reason.contains("stopped by its watchdog") {
                        a_moment().await;
                    }
                    // By hand neither.
                    let by_hand = m.engine.start("db").await.unwrap_err().to_string();
                    assert!(by_hand.contains("db is exclusive"), "{by_hand}");

                    // It is there again, and goes on, though it ended well and has no Restart=.
                    let back = PutRequest::new(key, alive.value).with_lease(alive.lease);
                    m.store.put(back).await.unwrap();
                    for name in ["db.container", "host.service"] {
                        m.until(name, "up again", |u| {
                            u.active == Active::Active && u.sub == "running"
                        })
                        .await;
                    }
                    assert!(pid(&m) > 0 && !m.engine.get("db").unwrap().record.state.watchdog);
                    let process = told(&m).await.process.unwrap();
                    let state = m.engine.process_state(&process).await;
                    assert!(matches!(state, Some(State::Running { .. })), "{state:?}");
                    // The same place, and so the same number.
                    m.sees("both have said it", || m.read("fence").lines().count() == 2)
                        .await;
                    let fences = m.read("fence");
                    let mut fences = fences.lines();
                    assert_eq!(fences.next(), fences.next());
                })
            },
        ],
    );
}
