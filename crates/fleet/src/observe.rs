//! What is seen of a unit, and what its file says about ends and restarts.

use crate::fleet::Fleet;
use crate::model::Active;
use crate::plan::{Cause, Policy, Seen};
use crate::service::{section, success_codes};
use crate::supervise::Supervised;
use coracle_engine::process::State;
use coracle_engine::record::Phase;
use coracle_unit::{Kind, Unit};
use std::time::Duration;

impl Fleet {
    pub(crate) fn policy(unit: &Unit) -> Policy {
        let mut policy = Policy {
            restart: "no".into(),
            restart_sec: Duration::ZERO,
            limit_interval: None,
            limit_burst: 0,
            success: Vec::new(),
            // A volume or network is done once it is there, and stays so.
            remain: true,
            waits_for_health: false,
            on_unhealthy: "none".into(),
        };
        if let Some(s) = section(unit) {
            policy.restart.clone_from(&s.restart);
            policy.restart_sec = s.restart_sec.duration().unwrap_or(Duration::MAX);
            policy.limit_interval = s.start_limit_interval.duration();
            policy.limit_burst = s.start_limit_burst;
            policy.success = success_codes(s);
            policy.remain = s.remain_after_exit;
        }
        if let Kind::Container { container, .. } = &unit.kind {
            let command = container.texts.get("HealthCmd");
            policy.waits_for_health =
                command.is_some_and(|c| c != "none") || unit.deploy.probe.is_some();
            if let Some(action) = container.texts.get("HealthOnFailure") {
                policy.on_unhealthy.clone_from(action);
            }
        }
        policy
    }

    pub(crate) async fn see(&self, unit: &Supervised, file: &Unit) -> Seen {
        if let Some(outcome) = unit.actual().outcome {
            return Seen::Ended {
                code: outcome.code,
                at: outcome.at,
                cause: outcome.cause,
            };
        }
        match &file.kind {
            Kind::Container { .. } => self.see_container(unit),
            Kind::Service(_) => self.see_process(unit).await,
            // What they stand for is made once and stays.
            Kind::Volume(_) | Kind::Network(_) if unit.actual().active == Active::Active => {
                Seen::Ended {
                    code: 0,
                    at: crate::pace::utc(),
                    cause: Cause::Told("it is there".into()),
                }
            }
            Kind::Volume(_) | Kind::Network(_) => Seen::Missing,
        }
    }

    fn see_container(&self, unit: &Supervised) -> Seen {
        let id = unit.actual().container;
        let Some(found) = id.and_then(|id| self.containers().look(&id)) else {
            return Seen::Missing;
        };
        match found.phase {
            Phase::Running | Phase::Restarting => Seen::Running {
                health: found.health,
            },
            Phase::Removing | Phase::Dead => Seen::Missing,
            Phase::Created | Phase::Exited => Seen::Ended {
                code: found.exit_code,
                // One that never ran has no such time; the wait for its next start began when that was seen.
                at: found.finished_at.unwrap_or_else(|| unit.actual().since),
                cause: cause(found.watchdog, found.oom_killed, Some(found.error)),
            },
        }
    }

    async fn see_process(&self, unit: &Supervised) -> Seen {
        let Some(id) = unit.actual().process else {
            return Seen::Missing;
        };
        match self.engine().process_state(&id).await {
            None => Seen::Missing,
            Some(State::Running { .. }) => Seen::Running { health: None },
            Some(State::Exited { status }) => Seen::Ended {
                code: status.code,
                at: status.finished_at,
                cause: cause(status.watchdog, status.oom_killed, status.error),
            },
            // A daemon that was killed on the way of starting it: nobody will start it any more.
            Some(State::Prepared) => Seen::Ended {
                code: 255,
                at: unit.actual().since,
                cause: Cause::Told("its start was cut short".into()),
            },
        }
    }
}

fn cause(watchdog: bool, oom_killed: bool, error: Option<String>) -> Cause {
    match error.filter(|e| !e.is_empty()) {
        Some(error) if watchdog => Cause::Watchdog(error),
        _ if oom_killed => Cause::Memory,
        Some(error) => Cause::Told(error),
        None => Cause::Itself,
    }
}
