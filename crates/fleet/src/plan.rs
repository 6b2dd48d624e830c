//! What to do next with one unit. Pure: what is wanted, what is seen and the time go in, one step comes out.
//!
//! Worked example: a unit is to run (generation 3), its container of generation 3 ended with code 1 two seconds ago, and it
//! has `Restart=on-failure`, `RestartSec=5`. The step is to wait three seconds. Then nothing else has changed and the step
//! is to start it. The sixth end within ten seconds is one too many (`StartLimitBurst=5`): the unit has failed, and stays so
//! until somebody asks again, which is generation 4.

use crate::model::{Active, Actual, Desired};
use chrono::{DateTime, Utc};
use std::time::Duration;

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goal {
    /// To run or not.
    pub desired: Desired,
    /// Which request that is.
    pub generation: u64,
}

/// What the unit's file says about ends and restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// `Restart=`.
    pub restart: String,
    /// `RestartSec=`.
    pub restart_sec: Duration,
    /// `StartLimitIntervalSec=`; absent is no limit.
    pub limit_interval: Option<Duration>,
    /// `StartLimitBurst=`.
    pub limit_burst: u32,
    /// `SuccessExitStatus=`, as numbers (signals as 128 + n).
    pub success: Vec<i32>,
    /// An end with success leaves it active (`RemainAfterExit=`).
    pub remain: bool,
    /// It is up only once its health test says so.
    pub waits_for_health: bool,
    /// `HealthOnFailure=`: `none`, `kill`, `restart` or `stop`.
    pub on_unhealthy: String,
}

/// What is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nothing of it is there.
    Missing,
    /// It runs; with the status of its health test, if it has one.
    Running {
        /// `starting`, `healthy` or `unhealthy`.
        health: Option<&'static str>,
    },
    /// It ran and ended.
    Ended {
        /// Exit code; 128 + n after signal n.
        code: i32,
        /// When.
        at: DateTime<Utc>,
        /// Ended by the out-of-memory killer.
        oom: bool,
    },
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing but to say where it stands.
    Rest {
        /// State.
        active: Active,
        /// Finer.
        sub: &'static str,
        /// Why.
        reason: String,
        /// Nothing more is to be done for this request.
        settled: bool,
    },
    /// Start it.
    Start {
        /// From its present text, as a new thing; otherwise what ended is started again.
        fresh: bool,
        /// Why.
        reason: String,
    },
    /// Wait that long, then look again.
    Wait {
        /// How long.
        time: Duration,
        /// Why.
        reason: String,
    },
    /// Stop it.
    Stop {
        /// Why.
        reason: String,
    },
}

/// Codes after which systemd takes a service's end for a clean one: SIGHUP, SIGINT, SIGTERM, SIGPIPE.
const CLEAN: [i32; 4] = [129, 130, 143, 141];

/// Whether an end counts as success.
pub fn success(policy: &Policy, code: i32) -> bool {
    code == 0 || CLEAN.contains(&code) || policy.success.contains(&code)
}

/// Whether `Restart=` says to start again after this end.
pub fn restarts(policy: &Policy, code: i32) -> bool {
    let good = success(policy, code);
    let by_signal = code > 128 && !good;
    match policy.restart.as_str() {
        "always" => true,
        "on-success" => good,
        "on-failure" => !good,
        "on-abnormal" | "on-abort" => by_signal,
        _ => false,
    }
}

/// The next step. `starts` are the recent starts of this request, the oldest first.
pub fn next(
    goal: Goal,
    policy: &Policy,
    seen: &Seen,
    actual: &Actual,
    boot_id: &str,
    starts: &[DateTime<Utc>],
    now: DateTime<Utc>,
) -> Step {
    let running = matches!(seen, Seen::Running { .. });
    if goal.desired == Desired::Inactive {
        return if running {
            stop("it was asked to stop")
        } else {
            rest(
                Active::Inactive,
                "dead",
                actual.reason_if(Active::Inactive, "it was asked to stop"),
                true,
            )
        };
    }
    if actual.generation != goal.generation {
        return if running {
            stop("it is to be started anew")
        } else {
            Step::Start {
                fresh: true,
                reason: "it was asked to run".into(),
            }
        };
    }
    match seen {
        Seen::Running { health } => up(policy, *health),
        _ if actual.boot_id != boot_id => Step::Start {
            fresh: true,
            reason: "the machine was restarted".into(),
        },
        _ if actual.settled => Step::Rest {
            active: actual.active,
            sub: static_sub(&actual.sub),
            reason: actual.reason.clone(),
            settled: true,
        },
        Seen::Missing => down(
            policy,
            137,
            // It left no time of its end; the wait for the next start began when it was missed.
            if actual.sub == "auto-restart" {
                actual.since
            } else {
                now
            },
            "it was removed by somebody else".into(),
            starts,
            now,
        ),
        Seen::Ended { code, at, oom } => {
            let how = match (oom, code) {
                (true, _) => "it used more memory than it may and was killed (OOM)".to_owned(),
                (_, code) if *code > 128 => format!("ended by signal {} (code {code})", code - 128),
                (_, code) => format!("exited with code {code}"),
            };
            down(policy, *code, *at, how, starts, now)
        }
    }
}

fn up(policy: &Policy, health: Option<&'static str>) -> Step {
    match health {
        Some("starting") if policy.waits_for_health => rest(
            Active::Activating,
            "start-post",
            "it runs, and is not healthy yet".into(),
            false,
        ),
        Some("unhealthy") => match policy.on_unhealthy.as_str() {
            "kill" | "restart" => stop("its health test failed"),
            "stop" => stop("its health test failed"),
            _ => rest(
                Active::Active,
                "running",
                "it runs, but its health test fails".into(),
                false,
            ),
        },
        Some("healthy") => rest(
            Active::Active,
            "running",
            "it runs and is healthy".into(),
            false,
        ),
        _ => rest(Active::Active, "running", "it runs".into(), false),
    }
}

fn down(
    policy: &Policy,
    code: i32,
    at: DateTime<Utc>,
    how: String,
    starts: &[DateTime<Utc>],
    now: DateTime<Utc>,
) -> Step {
    let good = success(policy, code);
    if !restarts(policy, code) {
        return match (good, policy.remain) {
            (true, true) => rest(Active::Active, "exited", how, true),
            (true, false) => rest(Active::Inactive, "dead", how, true),
            (false, _) => rest(Active::Failed, "failed", how, true),
        };
    }
    if let Some(interval) = policy.limit_interval.filter(|i| !i.is_zero()) {
        let recent = starts
            .iter()
            .filter(|s| (now - **s).to_std().is_ok_and(|age| age < interval));
        if policy.limit_burst > 0 && recent.count() >= policy.limit_burst as usize {
            let reason = format!(
                "{how}; started {} times within {} s, which is the limit (StartLimitBurst=)",
                policy.limit_burst,
                interval.as_secs()
            );
            return rest(Active::Failed, "start-limit-hit", reason, true);
        }
    }
    let since = (now - at).to_std().unwrap_or_default();
    match policy
        .restart_sec
        .checked_sub(since)
        .filter(|left| !left.is_zero())
    {
        Some(time) => Step::Wait {
            time,
            reason: format!(
                "{how}; it is started again soon (Restart={})",
                policy.restart
            ),
        },
        None => Step::Start {
            fresh: false,
            reason: format!("{how} (Restart={})", policy.restart),
        },
    }
}

fn rest(active: Active, sub: &'static str, reason: String, settled: bool) -> Step {
    Step::Rest {
        active,
        sub,
        reason,
        settled,
    }
}

fn stop(reason: &str) -> Step {
    Step::Stop {
        reason: reason.into(),
    }
}

fn static_sub(sub: &str) -> &'static str {
    ["dead", "failed", "exited", "running", "start-limit-hit"]
        .into_iter()
        .find(|s| *s == sub)
        .unwrap_or("dead")
}

impl Actual {
    fn reason_if(&self, active: Active, otherwise: &str) -> String {
        if self.active == active {
            self.reason.clone()
        } else {
            otherwise.into()
        }
    }
}

#[cfg(test)]
mod tests {
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
        }
    }

    fn ended(code: i32) -> Seen {
        Seen::Ended {
            code,
            at: time(0),
            oom: false,
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
            (goal(On, 1), "no", run(None), ran(1), 0, "active/running"),
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
            matches!(
                step,
                Step::Rest {
                    active: Active::Failed,
                    sub: "start-limit-hit",
                    settled: true,
                    ..
                }
            ),
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
}
