//! What is exclusive runs as long as its machine counts as there, and no longer.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Machine, machine_in_cluster};
use coracle_engine::process::State;
use coracle_engine::record::Phase;
use coracle_fleet::model::{Actual, keys};
use coracle_fleet::{Active, FleetError};
use coracle_store::{DeleteRangeRequest, KeyValue, PutRequest, StoreExt as _};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
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

/// As if the machine's lease had run out; gives what was there.
async fn goes(m: &Machine) -> KeyValue {
    let key = keys::alive(m.engine.machine_id());
    // From then on nobody writes it anew: it is under the lease that something exclusive asks for.
    let alive = loop {
        let alive = m.store.get(key.clone()).await.unwrap().unwrap();
        let lease = m.store.lease_time_to_live(alive.lease, false).await;
        if lease.is_ok_and(|lease| lease.granted_ttl == 4) {
            break alive;
        }
        a_moment().await;
    };
    let gone = DeleteRangeRequest::key(key);
    m.store.delete_range(gone).await.unwrap();
    alive
}

/// It is there again.
async fn is_back(m: &Machine, alive: KeyValue) {
    let back = PutRequest::new(alive.key, alive.value).with_lease(alive.lease);
    m.store.put(back).await.unwrap();
}

/// Processes of this machine whose titles begin so: its shims and their guards.
fn titled(m: &Machine, title: &str) -> Vec<Pid> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let titled = pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).starts_with(title)
    });
    let here = titled.filter(|pid| {
        let log = fs::read_link(format!("/proc/{pid}/fd/2")).unwrap_or_default();
        log.starts_with(&m.dir)
    });
    here.filter_map(Pid::from_raw).collect()
}

fn signal(pids: &[Pid], signal: Signal) {
    pids.iter()
        .for_each(|pid| kill_process(*pid, signal).unwrap());
}

/// Whether nothing of a process runs; who has not been waited for may be in the table still.
fn is_dead(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_none_or(|(_, rest)| rest.starts_with(" Z"))
}

fn short(m: &Machine, name: &str) -> String {
    m.engine.get(name).unwrap().record.id.short().to_owned()
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
                    // Its key is under a short lease, which the former daemon had as well.
                    let alive = goes(&m).await;
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
                    is_back(&m, alive).await;
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

/// The main processes of services, by the beginnings of their ids.
async fn main_pid(m: &Machine, name: &str) -> u32 {
    loop {
        let all = m.engine.processes().await;
        let found = all.into_iter().find_map(|(id, state)| match state {
            State::Running { pid, .. } if id.starts_with(name) && id.ends_with(".main") => {
                Some(pid)
            }
            _ => None,
        });
        if let Some(pid) = found {
            return pid;
        }
        a_moment().await;
    }
}

#[test]
fn a_shim_that_hangs_keeps_no_other_from_running_on() {
    machine_in_cluster(
        "a_shim_that_hangs_keeps_no_other_from_running_on",
        &[|m| {
            Box::pin(async move {
                m.image().await;
                // With the stop timeout that it has without a word, there is the least time to tell it.
                let db = CONTAINER.replace("StopTimeout=2\n", "");
                m.submit("db.container", &m.text(&db)).await;
                m.start("db.container").await;
                let host = "[Service]\nExecStart=/bin/sleep 1000\n[X-Deploy]\nExclusive=yes\n";
                let mut hung = Vec::new();
                for name in ["host1", "host2", "host3"] {
                    let unit = format!("{name}.service");
                    m.submit(&unit, host).await;
                    m.start(&unit).await;
                    hung.push(main_pid(&m, name).await);
                }
                let before = pid(&m);
                let shims = titled(&m, "coracle-shim process-host");
                assert_eq!(shims.len(), 3);
                signal(&shims, Signal::STOP);
                // Nobody can move theirs on, and their guards see to that.
                m.sees("the time of those that hang is over", || {
                    hung.iter().all(|pid| is_dead(*pid))
                })
                .await;
                let state = m.engine.get("db").unwrap().record.state;
                assert!(!state.watchdog, "{}", state.error);
                assert_eq!((state.phase, state.pid), (Phase::Running, before));
                signal(&shims, Signal::CONT);
                for (name, before) in ["host1", "host2", "host3"].into_iter().zip(hung) {
                    while main_pid(&m, name).await == before {
                        a_moment().await;
                    }
                }
                assert_eq!(pid(&m), before);
            })
        }],
    );
}

#[test]
fn a_start_that_its_watchdog_cuts_off_is_begun_anew() {
    machine_in_cluster(
        "a_start_that_its_watchdog_cuts_off_is_begun_anew",
        &[|m| {
            Box::pin(async move {
                m.image().await;
                // The first time it takes for ever.
                let slow = |name: &str| {
                    format!(
                        "/bin/sh -c 'echo run >>DIR/{name}; [ $(wc -l <DIR/{name}) -gt 1 ] || exec sleep 1000'"
                    )
                };
                let service = |name: &str, key: &str, more: &str| {
                    let text = format!(
                        "[Service]\n{key}={}\n{more}\nTimeoutStopSec=2\n[X-Deploy]\nExclusive=yes\n",
                        slow(name)
                    );
                    (format!("{name}.service"), text)
                };
                let main = "ExecStart=/bin/sleep 1000";
                let post = CONTAINER.replace(
                    "[X-Deploy]",
                    &format!("[Service]\nExecStartPost={}\n[X-Deploy]", slow("after")),
                );
                let units = [
                    service("once", "ExecStart", "Type=oneshot"),
                    service("pre", "ExecStartPre", main),
                    service("lenient", "ExecStartPre", main),
                    service("condition", "ExecCondition", main),
                    service("post", "ExecStartPost", main),
                    ("after.container".to_owned(), post),
                ];
                let files = ["once", "pre", "lenient", "condition", "post", "after"];
                for (name, text) in &units {
                    let text = match name.as_str() {
                        // What it ends with is nothing to go by either.
                        "lenient.service" => text.replace("ExecStartPre=", "ExecStartPre=-"),
                        _ => text.clone(),
                    };
                    m.submit(name, &m.text(&text)).await;
                    m.fleet.start(name, false).await.unwrap();
                }
                m.sees("all are on their way", || {
                    files.iter().all(|file| m.read(file) == "run\n")
                })
                .await;
                let alive = goes(&m).await;
                for (name, _) in &units {
                    m.until(name, "cut off", |u| {
                        u.reason.contains("stopped by its watchdog")
                    })
                    .await;
                }
                is_back(&m, alive).await;
                m.until("once.service", "done", |u| {
                    u.active == Active::Inactive && u.reason.contains("it has done its work")
                })
                .await;
                for (name, _) in units.iter().skip(1) {
                    m.until(name, "up", |u| u.active == Active::Active).await;
                }
                for file in files {
                    assert_eq!(m.read(file), "run\nrun\n", "{file}");
                }
            })
        }],
    );
}

#[test]
fn what_becomes_exclusive_while_it_runs_is_so_at_once() {
    machine_in_cluster(
        "what_becomes_exclusive_while_it_runs_is_so_at_once",
        &[|m| {
            Box::pin(async move {
                m.image().await;
                let units = [("db.container", CONTAINER), ("host.service", SERVICE)];
                for (name, text) in units {
                    m.submit(
                        name,
                        &m.text(&text.replace("Exclusive=yes", "Exclusive=no")),
                    )
                    .await;
                    m.start(name).await;
                }
                let (db, host) = (pid(&m), main_pid(&m, "host").await);
                assert_eq!(titled(&m, "coracle-guard"), []);
                for (name, text) in units {
                    m.submit(name, &m.text(text)).await;
                }
                m.sees("both are given a deadline", || {
                    titled(&m, "coracle-guard").len() == 2
                })
                .await;
                assert_eq!((pid(&m), main_pid(&m, "host").await), (db, host));
                let alive = goes(&m).await;
                m.sees("both are ended", || {
                    m.engine.get("db").unwrap().record.state.watchdog && is_dead(host)
                })
                .await;
                // By hand neither, nor by its own Restart=.
                let by_hand = m.engine.start("db").await.unwrap_err().to_string();
                assert!(by_hand.contains("db is exclusive"), "{by_hand}");
                is_back(&m, alive).await;
                for (name, _) in units {
                    m.until(name, "up again", |u| u.active == Active::Active)
                        .await;
                }
                m.sees("both have a deadline again", || {
                    titled(&m, "coracle-guard").len() == 2
                })
                .await;
            })
        }],
    );
}

/// The last line: whoever stops a shim and its guard has not stopped what they are to end.
#[test]
fn the_daemon_ends_what_nobody_else_does() {
    machine_in_cluster(
        "the_daemon_ends_what_nobody_else_does",
        &[|m| {
            Box::pin(async move {
                m.image().await;
                for (name, text) in [("db.container", CONTAINER), ("host.service", SERVICE)] {
                    m.submit(name, &m.text(text)).await;
                    m.start(name).await;
                }
                let (db, host) = (pid(&m), main_pid(&m, "host").await);
                let stopped: Vec<Pid> = ["shim", "guard"]
                    .into_iter()
                    .flat_map(|kind| {
                        let own = titled(&m, &format!("coracle-{kind} {}", short(&m, "db")));
                        own.into_iter()
                            .chain(titled(&m, &format!("coracle-{kind} process-host")))
                    })
                    .collect();
                assert_eq!(stopped.len(), 4);
                let alive = goes(&m).await;
                signal(&stopped, Signal::STOP);
                m.sees("both are killed", || is_dead(db) && is_dead(host))
                    .await;
                signal(&stopped, Signal::CONT);
                m.sees("it is known why", || {
                    m.engine.get("db").unwrap().record.state.watchdog
                })
                .await;
                is_back(&m, alive).await;
                for name in ["db.container", "host.service"] {
                    m.until(name, "up again", |u| u.active == Active::Active)
                        .await;
                }
            })
        }],
    );
}
