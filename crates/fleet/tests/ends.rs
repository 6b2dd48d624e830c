//! How units end: which of their last commands are run, once, and who ends with whom.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Machine, machine};
use coracle_engine::process::State;
use coracle_engine::record::Phase;
use coracle_engine::remove::RemoveOptions;
use coracle_fleet::{Active, UnitView};
use std::time::Duration;

const STOP: &str = "ExecStop=/bin/sh -c 'echo stop >> DIR/NAME'\n";
const POST: &str = "ExecStopPost=/bin/sh -c 'echo post >> DIR/NAME'\n";

fn up(view: &UnitView) -> bool {
    view.active == Active::Active
}

/// Submits a unit that writes its last commands into a file of its own name. A container has no `ExecStop=`.
async fn submit(m: &Machine, name: &str, text: &str) {
    let stop = if name.ends_with(".container") {
        ""
    } else {
        STOP
    };
    let text = m.text(&format!("{text}{stop}{POST}"));
    let file = name.split('.').next().unwrap();
    m.submit(name, &text.replace("NAME", file)).await;
}

fn running(m: &Machine) -> usize {
    let all = m.engine.list();
    all.iter()
        .filter(|s| s.record.state.phase == Phase::Running)
        .count()
}

async fn processes(m: &Machine) -> usize {
    let all = m.engine.processes().await;
    all.iter()
        .filter(|(_, state)| matches!(state, State::Running { .. }))
        .count()
}

#[test]
fn what_never_ran_has_no_last_commands() {
    machine(
        "what_never_ran_has_no_last_commands",
        &[|m| {
            Box::pin(async move {
                submit(
                    &m,
                    "end-slow.service",
                    "[Service]\nType=oneshot\nExecStart=/bin/sleep 1000\n",
                )
                .await;
                submit(
                    &m,
                    "end-waits.service",
                    "[Unit]\nRequires=end-slow.service\nAfter=end-slow.service\n[Service]\nExecStart=/bin/sleep 1000\n",
                )
                .await;
                m.fleet.start("end-waits", false).await.unwrap();
                let view = |v: &UnitView| v.active == Active::Activating;
                m.until("end-slow.service", "starting", view).await;
                m.until("end-waits.service", "starting", view).await;
                m.fleet.stop("end-waits", true).await.unwrap();
                assert_eq!(m.read("end-waits"), "");
                m.fleet.stop("end-slow", true).await.unwrap();
                // Some of it was run, so there may be something to tidy; it did not come up, so there is nothing to ask.
                assert_eq!(m.read("end-slow"), "post\n");
                assert!(m.engine.processes().await.is_empty());

                submit(
                    &m,
                    "end-pre.service",
                    "[Service]\nExecStart=/bin/sleep 1000\nExecStartPre=/bin/sh -c 'echo pre > DIR/pre; exec sleep 1000'\n",
                )
                .await;
                m.fleet.start("end-pre", false).await.unwrap();
                m.until_file("pre", "pre").await;
                m.fleet.stop("end-pre", true).await.unwrap();
                assert_eq!(m.read("end-pre"), "post\n");
                assert!(m.engine.processes().await.is_empty());
            })
        }],
    );
}

#[test]
fn a_container_that_does_not_come_up_does_not_run_on() {
    machine(
        "a_container_that_does_not_come_up_does_not_run_on",
        &[|m| {
            Box::pin(async move {
                m.image().await;
                let text = "[Container]\nImage=IMAGE\nExec=sleep 1000\n[Service]\nExecStartPost=/bin/false\n";
                submit(&m, "end-post.container", text).await;
                let error = m.fleet.start("end-post", true).await.unwrap_err();
                assert!(error.to_string().contains("ExecStartPost"), "{error}");
                assert_eq!(m.view("end-post.container").active, Active::Failed);
                assert_eq!(running(&m), 0);
                m.until_file("end-post", "post\n").await;
                assert_eq!(m.read("end-post"), "post\n");
            })
        }],
    );
}

#[test]
fn what_is_removed_by_hand_has_its_last_commands() {
    machine(
        "what_is_removed_by_hand_has_its_last_commands",
        &[|m| {
            Box::pin(async move {
                m.image().await;
                let text = "[Container]\nImage=IMAGE\nExec=sleep 1000\n[Service]\nRestart=no\n";
                submit(&m, "end-hand.container", text).await;
                let id = m.start("end-hand").await.container.unwrap();
                let options = RemoveOptions {
                    force: true,
                    volumes: false,
                };
                m.engine.remove(&id, options).await.unwrap();
                let failed = |v: &UnitView| v.active == Active::Failed;
                m.until("end-hand.container", "failed", failed).await;
                assert_eq!(m.read("end-hand"), "post\n");
            })
        }],
    );
}

#[test]
fn what_has_ended_and_remains_has_its_last_commands_when_it_is_stopped() {
    machine(
        "what_has_ended_and_remains_has_its_last_commands_when_it_is_stopped",
        &[
            |m| {
                Box::pin(async move {
                    let text = "[Service]\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'until test -e DIR/go; do sleep 0.01; done'\n";
                    submit(&m, "end-stays.service", text).await;
                    m.start("end-stays").await;
                    m.write("go", "");
                    let exited = |v: &UnitView| v.sub == "exited";
                    let view = m.until("end-stays.service", "exited", exited).await;
                    assert_eq!(view.active, Active::Active);
                })
            },
            |m| {
                Box::pin(async move {
                    assert_eq!(m.read("end-stays"), "");
                    m.fleet.stop("end-stays", true).await.unwrap();
                    assert_eq!(m.read("end-stays"), "stop\npost\n");
                })
            },
        ],
    );
}

#[test]
fn last_commands_are_not_repeated_by_the_next_daemon() {
    machine(
        "last_commands_are_not_repeated_by_the_next_daemon",
        &[
            |m| {
                Box::pin(async move {
                    m.image().await;
                    let again = "Restart=always\nRestartSec=1000\n";
                    let text = format!("[Service]\n{again}ExecStart=/bin/true\n");
                    submit(&m, "end-again.service", &text).await;
                    let text = format!("[Container]\nImage=IMAGE\nExec=true\n[Service]\n{again}");
                    submit(&m, "end-box.container", &text).await;
                    let waits = |v: &UnitView| v.sub == "auto-restart";
                    for name in ["end-again.service", "end-box.container"] {
                        m.fleet.start(name, false).await.unwrap();
                        m.until(name, "waiting", waits).await;
                    }
                    // Another one dies in the midst of them.
                    let text = "[Service]\nExecStart=/bin/sleep 1000\nExecStop=/bin/sh -c 'echo first >> DIR/end-cut'\n\
                                ExecStopPost=/bin/sh -c 'echo begun >> DIR/end-cut; test -e DIR/second || exec sleep 1000'\n";
                    submit(&m, "end-cut.service", text).await;
                    m.start("end-cut").await;
                    m.fleet.stop("end-cut", false).await.unwrap();
                    m.until_file("end-cut", "begun").await;
                    m.write("second", "");
                })
            },
            |m| {
                Box::pin(async move {
                    m.until_file("end-cut", "post").await;
                    let gone = |v: &UnitView| v.active == Active::Inactive;
                    m.until("end-cut.service", "down", gone).await;
                    assert_eq!(m.read("end-cut"), "first\nstop\nbegun\nbegun\npost\n");
                    for (name, file, last) in [
                        ("end-again.service", "end-again", "stop\npost\n"),
                        ("end-box.container", "end-box", "post\n"),
                    ] {
                        let view = m.view(name);
                        assert_eq!(view.sub, "auto-restart", "{view:?}");
                        assert_eq!(m.read(file), last);
                        m.fleet.stop(name, true).await.unwrap();
                        assert_eq!(m.read(file), last);
                    }
                })
            },
        ],
    );
}

#[test]
fn a_wait_for_the_next_start_ends_for_the_next_daemon_too() {
    machine(
        "a_wait_for_the_next_start_ends_for_the_next_daemon_too",
        &[
            |m| {
                Box::pin(async move {
                    m.image().await;
                    let text = "[Container]\nImage=IMAGE\nExec=/not/there\n[Service]\nRestart=always\nRestartSec=3\n";
                    submit(&m, "end-wait.container", text).await;
                    m.fleet.start("end-wait", false).await.unwrap();
                    let waits = |v: &UnitView| v.sub == "auto-restart";
                    m.until("end-wait.container", "waiting", waits).await;
                })
            },
            |m| {
                Box::pin(async move {
                    let again = |v: &UnitView| v.restarts > 0 && v.sub == "auto-restart";
                    let view = m.until("end-wait.container", "again", again).await;
                    assert!(view.reason.contains("/not/there"), "{}", view.reason);
                })
            },
        ],
    );
}

#[test]
fn a_start_that_is_given_up_leaves_nothing_running() {
    machine(
        "a_start_that_is_given_up_leaves_nothing_running",
        &[|m| {
            Box::pin(async move {
                m.image().await;
                let text =
                    "[Container]\nImage=IMAGE\nExec=sleep 1000\nStopSignal=KILL\n[Service]\n";
                submit(&m, "end-up.container", text).await;
                for wait in 0..12 {
                    m.fleet.start("end-up", false).await.unwrap();
                    // At another step of the start each time.
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                    m.fleet.stop("end-up", true).await.unwrap();
                    assert_eq!(running(&m), 0, "after {wait} ms");
                }
                m.start("end-up").await;
                assert_eq!(running(&m), 1);
            })
        }],
    );
}

#[test]
fn failures_of_what_is_required_count_as_starts() {
    machine(
        "failures_of_what_is_required_count_as_starts",
        &[|m| {
            Box::pin(async move {
                m.submit(
                    "end-bad.service",
                    "[Service]\nType=oneshot\nExecStart=/bin/false\n",
                )
                .await;
                m.submit(
                    "end-needs.service",
                    "[Unit]\nRequires=end-bad.service\nAfter=end-bad.service\nStartLimitBurst=3\nStartLimitIntervalSec=1000\n\
                     [Service]\nRestart=always\nRestartSec=0\nExecStart=/bin/sleep 1000\n",
                )
                .await;
                m.fleet.start("end-needs", false).await.unwrap();
                let failed = |v: &UnitView| v.active == Active::Failed;
                let view = m.until("end-needs.service", "failed", failed).await;
                assert_eq!(view.sub, "start-limit-hit", "{view:?}");
            })
        }],
    );
}

#[test]
fn what_is_bound_comes_up_with_it_and_ends_with_it() {
    machine(
        "what_is_bound_comes_up_with_it_and_ends_with_it",
        &[|m| {
            Box::pin(async move {
                let bound = "[Unit]\nBindsTo=end-db.service\nAfter=end-db.service\n";
                let service = "[Service]\nExecStart=/bin/sleep 1000\nKillSignal=SIGKILL\n";
                m.submit(
                    "end-db.service",
                    "[Service]\nExecStart=/bin/sleep 1000\nKillSignal=SIGKILL\n",
                )
                .await;
                m.submit("end-bound.service", &format!("{bound}{service}"))
                    .await;
                for _ in 0..5 {
                    let view = m.start("end-bound").await;
                    assert!(up(&view), "{view:?}");
                    assert!(up(&m.view("end-db.service")));
                    m.fleet.stop("end-db", true).await.unwrap();
                    assert_eq!(m.view("end-bound.service").active, Active::Inactive);
                }
                // Its end by itself counts, too.
                m.submit(
                    "end-db.service",
                    &m.text("[Service]\nExecStart=/bin/sh -c 'until test -e DIR/end; do sleep 0.01; done; exit 1'\n"),
                )
                .await;
                m.start("end-bound").await;
                m.write("end", "");
                let failed = |v: &UnitView| v.active == Active::Failed;
                m.until("end-db.service", "failed", failed).await;
                let down = |v: &UnitView| v.active == Active::Inactive;
                m.until("end-bound.service", "down", down).await;
                // What is bound no more is not held back by its former text.
                m.submit("end-bound.service", service).await;
                let view = m.start("end-bound").await;
                assert!(up(&view), "{view:?}");
                assert_eq!(m.view("end-db.service").active, Active::Failed);
            })
        }],
    );
}

#[test]
fn everything_goes_down_in_order_and_comes_back() {
    machine(
        "everything_goes_down_in_order_and_comes_back",
        &[
            |m| {
                Box::pin(async move {
                    m.image().await;
                    let told = |name: &str| {
                        m.text(&format!(
                            "Exec=/bin/sh -c 'exec sleep 1000'\nStopSignal=KILL\n[Service]\nExecStopPost=/bin/sh -c 'echo {name} >> DIR/order'\n"
                        ))
                    };
                    let text = m.text("[Container]\nImage=IMAGE\n");
                    m.submit("all-db.container", &format!("{text}{}", told("db")))
                        .await;
                    m.submit(
                        "all-web.service",
                        &m.text(
                            "[Unit]\nRequires=all-db.container\nAfter=all-db.container\nBindsTo=all-db.container\n[Service]\n\
                             ExecStart=/bin/sh -c \"trap 'echo term >> DIR/order; exit' TERM; echo >> DIR/trapped; while true; do sleep 0.01; done\"\n\
                             ExecStop=/bin/sh -c 'echo stop >> DIR/order'\nExecStopPost=/bin/sh -c 'echo web >> DIR/order'\n",
                        ),
                    )
                    .await;
                    m.submit("all-bad.service", "[Service]\nExecStart=/bin/false\n")
                        .await;
                    m.submit("all-idle.service", "[Service]\nExecStart=/bin/sleep 1000\n")
                        .await;
                    m.fleet.start("all-bad", false).await.unwrap();
                    let failed = |v: &UnitView| v.active == Active::Failed;
                    m.until("all-bad.service", "failed", failed).await;
                    m.start("all-web").await;
                    m.until_file("trapped", "\n").await;
                    m.fleet.shutdown(None).await;
                    assert_eq!(m.read("order"), "stop\nterm\nweb\ndb\n");
                    assert_eq!(running(&m), 0);
                    let error = m.fleet.start("all-idle", false).await.unwrap_err();
                    assert!(error.to_string().contains("taken down"), "{error}");
                })
            },
            |m| {
                Box::pin(async move {
                    m.until("all-web.service", "up again", up).await;
                    assert!(up(&m.view("all-db.container")));
                    assert_eq!(m.view("all-bad.service").active, Active::Failed);
                    assert_eq!(m.view("all-idle.service").active, Active::Inactive);
                    // This time the daemon is killed on the way.
                    let text = m.text(
                        "[Service]\nExecStart=/bin/sleep 1000\nExecStop=/bin/sh -c 'until test -e DIR/free; do sleep 0.01; done'\n",
                    );
                    m.submit("all-slow.service", &text).await;
                    m.start("all-slow").await;
                    let fleet = m.fleet.clone();
                    tokio::spawn(async move { fleet.shutdown(None).await });
                    let down = |v: &UnitView| v.active == Active::Inactive;
                    m.until("all-db.container", "down", down).await;
                    assert_eq!(m.view("all-slow.service").active, Active::Deactivating);
                })
            },
            |m| {
                Box::pin(async move {
                    m.until("all-web.service", "up again", up).await;
                    m.until("all-slow.service", "up still", up).await;
                    assert_eq!(processes(&m).await, 2, "no ExecStop= runs on");
                    // And with little time.
                    m.fleet.shutdown(Some(Duration::ZERO)).await;
                    assert_eq!(processes(&m).await, 0);
                })
            },
            |m| {
                Box::pin(async move {
                    m.until("all-slow.service", "up again", up).await;
                    m.write("free", "");
                })
            },
        ],
    );
}
