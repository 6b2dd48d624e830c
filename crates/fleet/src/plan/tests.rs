//! Rows of what is decided when.
use super::*;
use chrono::TimeDelta;

fn policy(restart: &str) -> Policy {
    Policy {
        restart: restart.into(),
        restart_sec: Duration::from_secs(5),
        limit_interval: Some(Duration::from_secs(10)),
        limit_burst: 2,
        success: vec![3],
        remain: false,
        waits_for_health: true,
        on_unhealthy: "none".into(),
    }
}

fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_000_000 + seconds, 0).unwrap_or_default()
}

fn ran(generation: u64) -> Actual {
    Actual {
        generation,
        boot_id: "b".into(),
        active: Active::Active,
        ..Actual::new("x.container", time(0))
    }
}

fn goal(desired: Desired, generation: u64) -> Goal {
    Goal {
        desired,
        generation,
        order: 0,
    }
}

fn ended(code: i32) -> Seen {
    Seen::Ended {
        code,
        at: time(0),
        cause: Cause::Itself,
    }
}

/// A step in a line, as golden text.
fn told(goal: Goal, policy: &Policy, seen: &Seen, actual: &Actual, now: i64) -> String {
    let starts = [time(-1)];
    match next(goal, policy, seen, actual, "b", &starts, time(now)) {
        Step::Rest {
            active,
            sub,
            settled,
            ..
        } => {
            format!(
                "{}/{sub}{}",
                active.as_str(),
                if settled { " settled" } else { "" }
            )
        }
        Step::Start { fresh, .. } => if fresh { "start fresh" } else { "start again" }.into(),
        Step::Wait { time, .. } => format!("wait {}s", time.as_secs()),
        Step::Stop { .. } => "stop".into(),
    }
}

#[test]
fn what_has_no_test_is_up_when_it_runs() {
    let untested = Policy {
        waits_for_health: false,
        ..policy("no")
    };
    let running = Seen::Running { health: None };
    let line = told(goal(Desired::Active, 1), &untested, &running, &ran(1), 0);
    assert_eq!(line, "active/running");
}

#[test]
fn what_is_done_when() {
    use Desired::{Active as On, Inactive as Off};
    let run = |health| Seen::Running { health };
    let settled = Actual {
        settled: true,
        active: Active::Failed,
        sub: "failed".into(),
        ..ran(1)
    };
    let rebooted = Actual {
        boot_id: "a".into(),
        ..settled.clone()
    };
    let begun = Actual {
        active: Active::Activating,
        sub: "start".into(),
        ..ran(1)
    };
    let rows: Vec<(Goal, &str, Seen, Actual, i64, &str)> = vec![
        (
            goal(Off, 0),
            "no",
            Seen::Missing,
            ran(0),
            0,
            "inactive/dead settled",
        ),
        (goal(Off, 1), "always", run(None), ran(1), 0, "stop"),
        (
            goal(Off, 1),
            "always",
            ended(1),
            ran(1),
            9,
            "inactive/dead settled",
        ),
        (goal(On, 1), "no", Seen::Missing, ran(0), 0, "start fresh"),
        (goal(On, 2), "no", run(None), ran(1), 0, "stop"),
        (goal(On, 1), "no", Seen::Missing, begun, 0, "start fresh"),
        // Its test has not begun, or has ended with it.
        (
            goal(On, 1),
            "no",
            run(None),
            ran(1),
            0,
            "activating/start-post",
        ),
        (
            goal(On, 1),
            "no",
            run(Some("starting")),
            ran(1),
            0,
            "activating/start-post",
        ),
        (
            goal(On, 1),
            "no",
            run(Some("unhealthy")),
            ran(1),
            0,
            "active/running",
        ),
        (
            goal(On, 1),
            "no",
            ended(0),
            ran(1),
            9,
            "inactive/dead settled",
        ),
        (
            goal(On, 1),
            "no",
            ended(3),
            ran(1),
            9,
            "inactive/dead settled",
        ),
        (
            goal(On, 1),
            "no",
            ended(1),
            ran(1),
            9,
            "failed/failed settled",
        ),
        (
            goal(On, 1),
            "on-failure",
            ended(0),
            ran(1),
            9,
            "inactive/dead settled",
        ),
        (
            goal(On, 1),
            "on-failure",
            ended(143),
            ran(1),
            9,
            "inactive/dead settled",
        ),
        (goal(On, 1), "on-failure", ended(1), ran(1), 2, "wait 3s"),
        (
            goal(On, 1),
            "on-failure",
            ended(1),
            ran(1),
            5,
            "start again",
        ),
        (
            goal(On, 1),
            "on-abnormal",
            ended(1),
            ran(1),
            5,
            "failed/failed settled",
        ),
        (
            goal(On, 1),
            "on-abnormal",
            ended(139),
            ran(1),
            5,
            "start again",
        ),
        (
            goal(On, 1),
            "on-success",
            ended(0),
            ran(1),
            5,
            "start again",
        ),
        (goal(On, 1), "always", Seen::Missing, ran(1), 0, "wait 5s"),
        (
            goal(On, 1),
            "always",
            ended(1),
            settled.clone(),
            9,
            "failed/failed settled",
        ),
        (goal(On, 2), "always", ended(1), settled, 9, "start fresh"),
        (goal(On, 1), "no", ended(255), rebooted, 9, "start fresh"),
    ];
    for (number, (goal, restart, seen, actual, now, wanted)) in rows.into_iter().enumerate() {
        assert_eq!(
            told(goal, &policy(restart), &seen, &actual, now),
            wanted,
            "row {number}"
        );
    }
}

#[test]
fn what_was_removed_by_others_is_started_after_its_wait() {
    let waiting = Actual {
        active: Active::Activating,
        sub: "auto-restart".into(),
        since: time(0),
        ..ran(1)
    };
    let goal = goal(Desired::Active, 1);
    let told = |now| told(goal, &policy("always"), &Seen::Missing, &waiting, now);
    assert_eq!(told(2), "wait 3s");
    assert_eq!(told(5), "start again");
}

#[test]
fn too_many_starts_are_a_failure_until_asked_again() {
    let starts = [time(0), time(1)];
    let step = next(
        goal(Desired::Active, 1),
        &policy("always"),
        &ended(1),
        &ran(1),
        "b",
        &starts,
        time(6),
    );
    assert!(
        matches!(&step, Step::Rest { active: Active::Failed, sub, settled: true, .. } if sub == "start-limit-hit"),
        "{step:?}"
    );
    let later = time(6) + TimeDelta::seconds(10);
    let step = next(
        goal(Desired::Active, 1),
        &policy("always"),
        &ended(1),
        &ran(1),
        "b",
        &starts,
        later,
    );
    assert!(matches!(step, Step::Start { fresh: false, .. }), "{step:?}");
}

#[test]
fn an_oneshot_that_remains() {
    let policy = Policy {
        remain: true,
        ..policy("no")
    };
    assert_eq!(
        told(goal(Desired::Active, 1), &policy, &ended(0), &ran(1), 1),
        "active/exited settled"
    );
    assert_eq!(
        told(goal(Desired::Active, 1), &policy, &ended(1), &ran(1), 1),
        "failed/failed settled"
    );
}

#[test]
fn a_health_test_that_fails_does_what_was_asked() {
    let unhealthy = Seen::Running {
        health: Some("unhealthy"),
    };
    let after = Seen::Ended {
        code: 143,
        at: time(0),
        cause: Cause::Unhealthy,
    };
    for (action, restart, first, then) in [
        ("none", "always", "active/running", "start again"),
        ("kill", "on-failure", "stop", "start again"),
        ("kill", "no", "stop", "failed/failed settled"),
        ("restart", "no", "stop", "start again"),
        ("stop", "always", "stop", "failed/failed settled"),
    ] {
        let policy = Policy {
            on_unhealthy: action.into(),
            ..policy(restart)
        };
        let goal = goal(Desired::Active, 1);
        assert_eq!(
            told(goal, &policy, &unhealthy, &ran(1), 9),
            first,
            "{action}"
        );
        assert_eq!(told(goal, &policy, &after, &ran(1), 9), then, "{action}");
    }
}

#[test]
fn what_a_condition_kept_from_running_is_not_tried_again() {
    let skipped = Seen::Ended {
        code: 0,
        at: time(0),
        cause: Cause::Skipped,
    };
    let goal = goal(Desired::Active, 1);
    assert_eq!(
        told(goal, &policy("always"), &skipped, &ran(1), 9),
        "inactive/dead settled"
    );
}
