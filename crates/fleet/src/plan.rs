//! What to do next with one unit. Pure: what is wanted, what is seen and the time go in, one step comes out.
//!
//! Worked example: a unit is to run (generation 3), its container of generation 3 ended with code 1 two seconds ago, and it
//! has `Restart=on-failure`, `RestartSec=5`. The step is to wait three seconds. Then nothing else has changed and the step
//! is to start it. The sixth end within ten seconds is one too many (`StartLimitBurst=5`): the unit has failed, and stays so
//! until somebody asks again, which is generation 4.

use crate::model::{Active, Actual, Desired, DesiredRecord};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::time::Duration;

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goal {
    /// To run or not.
    pub desired: Desired,
    /// Which request to start that is.
    pub generation: u64,
    /// Which request of any kind.
    pub order: u64,
}

impl Goal {
    /// As the record says.
    pub fn of(record: &DesiredRecord) -> Self {
        Self {
            desired: record.desired,
            generation: record.generation,
            order: record.order,
        }
    }
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
        /// What ended it.
        cause: Cause,
    },
}

/// What ended a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The program itself, or a signal.
    Itself,
    /// The out-of-memory killer.
    Memory,
    /// Ourselves, because its health test failed.
    Unhealthy,
    /// It was not run: a condition said no.
    Skipped,
    /// All of its commands were run.
    Done,
    /// Ourselves, because something else was asked for before it was up.
    Left,
    /// Its shim: it is exclusive, and its time was over. In words.
    Watchdog(String),
    /// Known in words only, such as why it could not be started.
    Told(String),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing but to say where it stands.
    Rest {
        /// State.
        active: Active,
        /// Finer.
        sub: Cow<'static, str>,
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
        /// What its end is to be remembered as.
        cause: Cause,
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
    // What is done and remains is stopped like what runs.
    let remains = actual.active == Active::Active && actual.settled && actual.boot_id == boot_id;
    let running = remains || matches!(seen, Seen::Running { .. });
    if goal.desired != Desired::Active {
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
            sub: actual.sub.clone().into(),
            reason: actual.reason.clone(),
            settled: true,
        },
        // A daemon that was killed before it had made anything of it.
        Seen::Missing if actual.active == Active::Activating && actual.sub == "start" => {
            Step::Start {
                fresh: true,
                reason: "its start was cut short".into(),
            }
        }
        // It left no time of its end; the wait for the next start began when it was missed.
        Seen::Missing => {
            let at = if actual.sub == "auto-restart" {
                actual.since
            } else {
                now
            };
            let cause = Cause::Told("it was removed by somebody else".into());
            down(policy, 137, at, &cause, starts, now)
        }
        Seen::Ended { code, at, cause } => down(policy, *code, *at, cause, starts, now),
    }
}

/// An end in words.
fn told(code: i32, cause: &Cause) -> String {
    match cause {
        Cause::Told(words) | Cause::Watchdog(words) => words.clone(),
        Cause::Memory => "it used more memory than it may and was killed (OOM)".into(),
        Cause::Unhealthy => "its health test failed".into(),
        Cause::Done => "it has done its work".into(),
        Cause::Left => "its start was given up for another request".into(),
        Cause::Skipped => "a condition said no (ExecCondition=)".into(),
        Cause::Itself if code > 128 => format!("ended by signal {} (code {code})", code - 128),
        Cause::Itself => format!("exited with code {code}"),
    }
}

fn up(policy: &Policy, health: Option<&'static str>) -> Step {
    match health {
        // One that has just begun or is ending has a test but no answer of it.
        Some("starting") | None if policy.waits_for_health => rest(
            Active::Activating,
            "start-post",
            "it runs, and is not healthy yet".into(),
            false,
        ),
        Some("unhealthy") if policy.on_unhealthy != "none" => Step::Stop {
            reason: "its health test failed".into(),
            cause: Cause::Unhealthy,
        },
        Some("unhealthy") => rest(
            Active::Active,
            "running",
            "it runs, but its health test fails".into(),
            false,
        ),
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
    cause: &Cause,
    starts: &[DateTime<Utc>],
    now: DateTime<Utc>,
) -> Step {
    let how = told(code, cause);
    // Not its own doing: neither Restart= nor the start limit has anything to say.
    if let Cause::Watchdog(_) = cause {
        return Step::Start {
            fresh: false,
            reason: format!("{how}; it starts again when the store answers"),
        };
    }
    let good = match cause {
        Cause::Unhealthy => false,
        Cause::Skipped => true,
        _ => success(policy, code),
    };
    let again = match (cause, policy.on_unhealthy.as_str()) {
        (Cause::Skipped, _) | (Cause::Unhealthy, "stop") => false,
        (Cause::Unhealthy, "restart") => true,
        // What stopped was killed, whatever code its program made of that.
        (Cause::Unhealthy, _) => restarts(policy, 137),
        _ => restarts(policy, code),
    };
    if !again {
        return match (good, policy.remain && *cause != Cause::Skipped) {
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
    // Where the clock was set back it is not known how long ago that was, and not waited until it has caught up.
    let since = (now - at).to_std().unwrap_or(Duration::MAX);
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
        sub: sub.into(),
        reason,
        settled,
    }
}

fn stop(reason: &str) -> Step {
    Step::Stop {
        reason: reason.into(),
        cause: Cause::Itself,
    }
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
mod tests;
