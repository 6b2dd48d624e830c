//! Units that really run, each test on a machine of its own.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Machine, machine};
use coracle_fleet::{Active, FleetError};

#[test]
fn a_service_goes_through_its_commands() {
    machine(
        "a_service_goes_through_its_commands",
        &[|m| {
            Box::pin(async move {
                let text = m.text(
                    "[Unit]\nDescription=counts\n[Service]\nEnvironment=WORD=hello\n\
                     ExecStartPre=/bin/sh -c 'echo pre >> DIR/steps'\n\
                     ExecStart=/bin/sh -c 'echo main >> DIR/steps; echo $0 said; exec sleep 1000' $WORD\n\
                     ExecStartPost=/bin/sh -c 'echo post >> DIR/steps'\n\
                     ExecReload=/bin/sh -c 'kill -0 $MAINPID && echo reload >> DIR/steps'\n\
                     ExecStop=/bin/sh -c 'echo stop >> DIR/steps'\n\
                     ExecStopPost=/bin/sh -c 'echo stoppost >> DIR/steps'\n",
                );
                let view = m.submit("steps-a.service", &text).await;
                assert_eq!(
                    (view.active, view.kind.as_str()),
                    (Active::Inactive, "service")
                );
                let view = m.start("steps-a").await;
                assert_eq!(
                    (view.active, view.sub.as_str()),
                    (Active::Active, "running")
                );
                assert_eq!(view.description, "counts");
                m.until_file("steps", "main").await;
                let steps = m.read("steps");
                let sorted: Vec<_> = steps.lines().collect();
                assert_eq!(sorted[0], "pre");
                assert!(sorted.contains(&"post"), "{steps}");
                assert!(m.said("steps-a").await.contains("hello said"));
                m.fleet.reload("steps-a").await.unwrap();
                let view = m.fleet.stop("steps-a", true).await.unwrap();
                assert_eq!((view.active, view.sub.as_str()), (Active::Inactive, "dead"));
                let error = m.fleet.reload("steps-a").await.unwrap_err().to_string();
                assert!(error.contains("does not run"), "{error}");
                assert!(
                    m.read("steps").ends_with("reload\nstop\nstoppost\n"),
                    "{}",
                    m.read("steps")
                );
                assert!(m.engine.processes().await.is_empty());
            })
        }],
    );
}

#[test]
fn what_fails_tells_its_cause_and_its_last_lines() {
    machine(
        "what_fails_tells_its_cause_and_its_last_lines",
        &[|m| {
            Box::pin(async move {
                let text =
                    "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo no paper; exit 3'\n";
                m.submit("fails-a.service", text).await;
                let error = m.fleet.start("fails-a", true).await.unwrap_err();
                assert!(matches!(error, FleetError::Failed { .. }), "{error}");
                let text = error.to_string();
                for word in ["fails-a.service", "code 3", "no paper"] {
                    assert!(text.contains(word), "{word}: {text}");
                }
                assert_eq!(m.view("fails-a.service").active, Active::Failed);
                m.submit("fails-b.service", "[Service]\nExecStart=/no/such/program\n")
                    .await;
                let error = m
                    .fleet
                    .start("fails-b", true)
                    .await
                    .unwrap_err()
                    .to_string();
                assert!(error.contains("/no/such/program"), "{error}");
                let error = m.fleet.start("gone", true).await.unwrap_err().to_string();
                assert!(error.contains("gone"), "{error}");
            })
        }],
    );
}

#[test]
fn what_is_wrong_or_not_honoured_is_refused_at_submit() {
    machine(
        "what_is_wrong_or_not_honoured_is_refused_at_submit",
        &[|m| {
            Box::pin(async move {
                for (name, text, word) in [
                    (
                        "x.container",
                        "[Container]\nImage=x\nPublishPrt=1\n",
                        "PublishPort",
                    ),
                    (
                        "x.container",
                        "[Container]\nImage=x\n[X-Fleet]\nGlobal=true\nMachineID=a\n",
                        "MachineID and Global",
                    ),
                    (
                        "x.container",
                        "[Container]\nImage=x\nMask=/proc/x\n",
                        "Mask",
                    ),
                    (
                        "x.service",
                        "[Service]\nType=forking\nExecStart=/bin/true\n",
                        "forking",
                    ),
                ] {
                    let error = m
                        .fleet
                        .submit(name, text, vec![])
                        .await
                        .unwrap_err()
                        .to_string();
                    assert!(error.contains(word), "{word}: {error}");
                }
                assert!(m.fleet.list().is_empty());
            })
        }],
    );
}

async fn web(m: &Machine) {
    m.image().await;
    m.submit("data-w.volume", "[Volume]\n").await;
    m.submit("back-w.network", "[Network]\n").await;
    let text = m.text(
        "[Container]\nImage=IMAGE\nExec=sh -c 'echo hi from $(hostname); echo kept > /data/file; exec sleep 1000'\n\
         Volume=data-w.volume:/data\nNetwork=back-w.network\nHostName=web%i\nStopTimeout=0\n[Service]\nRestart=always\nRestartSec=0\n",
    );
    m.submit("web-w@.container", &text).await;
}

#[test]
fn a_container_comes_up_with_what_it_needs() {
    machine(
        "a_container_comes_up_with_what_it_needs",
        &[|m| {
            Box::pin(async move {
                web(&m).await;
                let error = m.fleet.start("web-w@", true).await.unwrap_err().to_string();
                assert!(error.contains("web-w@1.container"), "{error}");
                let view = m.start("web-w@1").await;
                assert_eq!(
                    (view.active, view.sub.as_str()),
                    (Active::Active, "running")
                );
                for need in ["data-w.volume", "back-w.network"] {
                    assert_eq!(m.view(need).active, Active::Active, "{need}");
                }
                let found = m.engine.get("web-w-1").unwrap();
                assert_eq!(Some(found.record.id.to_string()), view.container);
                assert_eq!(found.record.config.labels["coracle.service"], "web-w");
                m.start("web-w@2").await;
                assert_eq!(m.engine.list().len(), 2);
                m.until("web-w@1.container", "running", |v| {
                    v.active == Active::Active
                })
                .await;
                let said = m.said("web-w@1").await;
                assert!(said.is_empty() || said.contains("hi from web1"), "{said}");
                // It comes back when it dies.
                m.engine.kill("web-w-1", "KILL").await.unwrap();
                m.until("web-w@1.container", "restarted", |v| {
                    v.restarts == 1 && v.active == Active::Active
                })
                .await;
                m.fleet.destroy("web-w@1").await.unwrap();
                assert!(m.engine.get("web-w-1").is_err());
                assert!(
                    m.engine.volumes().get("data-w").is_ok(),
                    "data outlives its user"
                );
                m.fleet.stop("web-w@2", true).await.unwrap();
                assert_eq!(m.view("web-w@2.container").active, Active::Inactive);
            })
        }],
    );
}

#[test]
fn what_keeps_failing_is_given_up() {
    machine(
        "what_keeps_failing_is_given_up",
        &[|m| {
            Box::pin(async move {
                let text = m.text(
                    "[Unit]\nStartLimitBurst=3\nStartLimitIntervalSec=1h\n[Service]\nRestart=on-failure\nRestartSec=0\n\
                     ExecStart=/bin/sh -c 'echo run >> DIR/runs; exit 1'\n",
                );
                m.submit("limit-a.service", &text).await;
                m.fleet.start("limit-a", false).await.unwrap();
                let view = m
                    .until("limit-a.service", "given up", |v| {
                        v.active == Active::Failed
                    })
                    .await;
                assert_eq!(view.sub, "start-limit-hit");
                assert!(view.reason.contains("3 times"), "{}", view.reason);
                assert_eq!(m.read("runs").lines().count(), 3);
            })
        }],
    );
}

#[test]
fn the_daemon_dies_and_nothing_that_runs_notices() {
    machine(
        "the_daemon_dies_and_nothing_that_runs_notices",
        &[
            |m| {
                Box::pin(async move {
                    web(&m).await;
                    let text = m.text(
                        "[Service]\nExecStart=/bin/sh -c 'echo run >> DIR/runs; exec sleep 1000'\n",
                    );
                    m.submit("stays-a.service", &text).await;
                    m.submit("idle-a.service", "[Service]\nExecStart=/bin/sleep 1000\n")
                        .await;
                    let view = m.start("web-w@1").await;
                    m.start("stays-a").await;
                    m.until_file("runs", "run").await;
                    m.write("before", &format!("{view:?}"));
                })
            },
            |m| {
                Box::pin(async move {
                    let up = |v: &coracle_fleet::UnitView| v.active == Active::Active;
                    let view = m.until("web-w@1.container", "up", up).await;
                    assert_eq!(view.restarts, 0);
                    let before = m.read("before");
                    assert!(
                        before.contains(&view.container.clone().unwrap()),
                        "{before}\n{view:?}"
                    );
                    let view = m.until("stays-a.service", "up", up).await;
                    assert_eq!(view.restarts, 0);
                    assert_eq!(m.read("runs").lines().count(), 1);
                    assert_eq!(m.view("idle-a.service").active, Active::Inactive);
                    // Stopping reaches what a former daemon started.
                    m.fleet.stop("stays-a", true).await.unwrap();
                    assert!(m.engine.processes().await.is_empty());
                    let machines = m.fleet.machines().await.unwrap();
                    assert_eq!(machines.len(), 1);
                    assert!(machines[0].alive);
                })
            },
        ],
    );
}

#[test]
fn a_new_text_runs_from_the_next_start_on() {
    machine(
        "a_new_text_runs_from_the_next_start_on",
        &[|m| {
            Box::pin(async move {
                m.submit("text-a.service", "[Service]\nExecStart=/bin/sleep 1001\n")
                    .await;
                let view = m.start("text-a").await;
                assert!(!view.outdated);
                let view = m
                    .submit("text-a.service", "[Service]\nExecStart=/bin/sleep 1002\n")
                    .await;
                assert!(view.outdated);
                assert_eq!(view.active, Active::Active);
                let view = m.fleet.restart("text-a", true).await.unwrap();
                assert!(!view.outdated);
                let (_, text) = m.fleet.get("text-a").await.unwrap();
                assert!(text.text.contains("1002"));
                m.fleet.destroy("text-a").await.unwrap();
                assert!(m.fleet.get("text-a").await.is_err());
            })
        }],
    );
}

#[test]
fn a_failure_of_what_is_required_is_told() {
    machine(
        "a_failure_of_what_is_required_is_told",
        &[|m| {
            Box::pin(async move {
                let text = m.text("[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo run >> DIR/runs; exit 4'\n");
                m.submit("req-db.service", &text).await;
                m.submit(
                    "req-web.service",
                    "[Unit]\nRequires=req-db.service\nAfter=req-db.service\n[Service]\nExecStart=/bin/sleep 1000\n",
                )
                .await;
                let error = m
                    .fleet
                    .start("req-web", true)
                    .await
                    .unwrap_err()
                    .to_string();
                assert!(
                    error.contains("req-web.service") && error.contains("req-db.service"),
                    "{error}"
                );
                assert_eq!(m.view("req-web.service").active, Active::Failed);
                assert_eq!(m.read("runs").lines().count(), 1);
            })
        }],
    );
}

#[test]
fn what_needs_a_unit_stops_before_it() {
    machine(
        "what_needs_a_unit_stops_before_it",
        &[|m| {
            Box::pin(async move {
                let text = m.text(
                    "[Service]\nExecStart=/bin/sleep 1000\nExecStopPost=/bin/sh -c 'echo db >> DIR/order'\n",
                );
                m.submit("first-db.service", &text).await;
                let text = m.text(
                    "[Unit]\nRequires=first-db.service\nAfter=first-db.service\n[Service]\nKillMode=process\n\
                     ExecStart=/bin/sleep 1000\nExecStop=/bin/sleep 0.3\nExecStopPost=/bin/sh -c 'echo web >> DIR/order'\n",
                );
                m.submit("first-web.service", &text).await;
                m.start("first-web").await;
                m.fleet.stop("first-db", true).await.unwrap();
                assert_eq!(m.read("order"), "web\ndb\n");
                assert_eq!(m.view("first-web.service").active, Active::Inactive);
                m.start("first-web").await;
                m.fleet.restart("first-db", true).await.unwrap();
                assert_eq!(m.read("order"), "web\ndb\nweb\ndb\n");
                let up = |v: &coracle_fleet::UnitView| v.active == Active::Active;
                m.until("first-web.service", "up again", up).await;
            })
        }],
    );
}

#[test]
fn a_oneshot_has_its_last_commands_when_it_is_over() {
    machine(
        "a_oneshot_has_its_last_commands_when_it_is_over",
        &[
            |m| {
                Box::pin(async move {
                    let text = "[Service]\nType=oneshot\nREMAIN\nExecStart=/bin/sh -c 'echo start >> DIR/NAME'\n\
                                ExecStop=/bin/sh -c 'echo stop >> DIR/NAME'\nExecStopPost=/bin/sh -c 'echo post >> DIR/NAME'\n";
                    let text = m.text(text);
                    let gone = text.replace("REMAIN\n", "").replace("NAME", "gone");
                    m.submit("once-gone.service", &gone).await;
                    let stays = text.replace("REMAIN", "RemainAfterExit=yes");
                    m.submit("once-stays.service", &stays.replace("NAME", "stays"))
                        .await;
                    let view = m.start("once-gone").await;
                    assert_eq!((view.active, view.sub.as_str()), (Active::Inactive, "dead"));
                    assert_eq!(m.read("gone"), "start\nstop\npost\n");
                    let view = m.start("once-stays").await;
                    assert_eq!((view.active, view.sub.as_str()), (Active::Active, "exited"));
                    assert_eq!(m.read("stays"), "start\n");
                })
            },
            |m| {
                Box::pin(async move {
                    // The next daemon does none of it again.
                    let view = m.view("once-stays.service");
                    assert_eq!((view.active, view.sub.as_str()), (Active::Active, "exited"));
                    m.fleet.stop("once-stays", true).await.unwrap();
                    assert_eq!(m.read("stays"), "start\nstop\npost\n");
                    assert_eq!(m.read("gone"), "start\nstop\npost\n");
                    assert!(m.engine.processes().await.is_empty());
                })
            },
        ],
    );
}

#[test]
fn what_runs_is_stopped_as_its_own_text_says() {
    machine(
        "what_runs_is_stopped_as_its_own_text_says",
        &[
            |m| {
                Box::pin(async move {
                    let text = m.text(
                        "[Service]\nExecStart=/bin/sleep 1000\nExecStop=/bin/sh -c 'echo former >> DIR/stops'\n",
                    );
                    m.submit("own-a.service", &text).await;
                    m.start("own-a").await;
                    m.submit("own-a.service", &text.replace("former", "later"))
                        .await;
                })
            },
            |m| {
                Box::pin(async move {
                    assert!(m.view("own-a.service").outdated);
                    m.fleet.restart("own-a", true).await.unwrap();
                    assert_eq!(m.read("stops"), "former\n");
                    m.fleet.stop("own-a", true).await.unwrap();
                    assert_eq!(m.read("stops"), "former\nlater\n");
                })
            },
        ],
    );
}

#[test]
fn a_container_that_ends_by_itself_has_its_last_commands_once() {
    machine(
        "a_container_that_ends_by_itself_has_its_last_commands_once",
        &[|m| {
            Box::pin(async move {
                m.image().await;
                let text = m.text(
                    "[Container]\nImage=IMAGE\nExec=sh -c 'exit 3'\n[Service]\nExecStopPost=/bin/sh -c 'echo post >> DIR/posts'\n",
                );
                m.submit("ends-a.container", &text).await;
                m.fleet.start("ends-a", false).await.unwrap();
                let view = m
                    .until("ends-a.container", "failed", |v| v.active == Active::Failed)
                    .await;
                assert!(view.reason.contains("code 3"), "{}", view.reason);
                m.fleet.stop("ends-a", true).await.unwrap();
                assert_eq!(m.read("posts"), "post\n");
            })
        }],
    );
}

#[test]
fn a_start_that_dies_with_its_daemon_is_made_again() {
    machine(
        "a_start_that_dies_with_its_daemon_is_made_again",
        &[
            |m| {
                Box::pin(async move {
                    let text = m.text(
                        "[Service]\nExecStartPre=/bin/sh -c 'echo pre >> DIR/pre; test -e DIR/second || exec sleep 1000'\n\
                         ExecStart=/bin/sleep 1000\n",
                    );
                    m.submit("cut-a.service", &text).await;
                    m.fleet.start("cut-a", false).await.unwrap();
                    m.until_file("pre", "pre").await;
                    m.write("second", "");
                })
            },
            |m| {
                Box::pin(async move {
                    let up = |v: &coracle_fleet::UnitView| v.active == Active::Active;
                    m.until("cut-a.service", "up", up).await;
                    assert_eq!(m.read("pre"), "pre\npre\n");
                    assert_eq!(m.engine.processes().await.len(), 1, "only its main process");
                })
            },
        ],
    );
}
