//! The way down: whom a unit waits for, and what is stopped.

use crate::fleet::Fleet;
use crate::model::{Active, Actual, Desired};
use crate::order;
use crate::plan::{Cause, Seen};
use crate::service::{NotUp, section};
use crate::supervise::{Memory, Supervised};
use chrono::Utc;
use coracle_engine::process::State;
use coracle_engine::{EngineError, full_error};
use coracle_unit::service::ServiceSection;
use coracle_unit::{Kind, Unit};
use std::time::Duration;

/// What cannot be stopped is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);

impl Fleet {
    /// Stops it; `cause` is what its end is to be remembered as.
    pub(crate) async fn bring_down(
        &self,
        unit: &Supervised,
        file: &Unit,
        cause: &Cause,
        memory: &mut Memory,
    ) {
        // A command that was on its way.
        if let Some(id) = unit.running_process(None) {
            let _ = self.engine().process_signal(&id, 9, true).await;
            let _ = self.engine().process_wait(&id).await;
            let _ = self.engine().process_forget(&id).await;
        }
        if *cause == Cause::Itself {
            self.wait_for_dependents(file).await;
        }
        match &file.kind {
            Kind::Container { container, .. } => {
                let kill = *cause == Cause::Unhealthy
                    && container
                        .texts
                        .get("HealthOnFailure")
                        .is_some_and(|a| a == "kill");
                if !self.stop_container(unit, file, kill).await {
                    return;
                }
            }
            Kind::Service(service) => self.stop_service(unit, file, service).await,
            // What they stand for stays: data is not lost by a stop.
            Kind::Volume(_) | Kind::Network(_) => {}
        }
        memory.outcome = None;
        memory.post_due = false;
        self.stop_post(unit, file).await;
        if *cause != Cause::Itself
            && !matches!(self.see(unit, file, memory).await, Seen::Running { .. })
        {
            let ended = NotUp {
                code: 137,
                cause: cause.clone(),
            };
            memory.outcome = Some((ended, Utc::now()));
        }
    }

    /// Units that were started after this one and go down too are down.
    async fn wait_for_dependents(&self, file: &Unit) {
        for name in order::waiters(file.name.as_str(), &self.units()) {
            let Some(other) = self.supervised(&name) else {
                continue;
            };
            let stays_or_is_down = |a: &Actual| {
                let goal = *other.goal.borrow();
                matches!(a.active, Active::Inactive | Active::Failed)
                    || (goal.desired == Desired::Active && goal.generation == a.generation)
            };
            let _ = other.actual.subscribe().wait_for(stays_or_is_down).await;
        }
    }

    /// Whether it is down.
    async fn stop_container(&self, unit: &Supervised, file: &Unit, kill: bool) -> bool {
        let Some(id) = unit.actual().container else {
            return true;
        };
        let stopped = self.engine().stop(&id, kill.then_some("KILL"), None).await;
        match stopped {
            Ok(()) | Err(EngineError::NotModified | EngineError::NotFound { .. }) => true,
            Err(error) => {
                tracing::error!(unit = %file.name, error = full_error(&error), "its container could not be stopped");
                tokio::time::sleep(RETRY).await;
                false
            }
        }
    }

    async fn stop_service(&self, unit: &Supervised, file: &Unit, service: &ServiceSection) {
        let mut run = self.run(unit, file, service);
        let actual = unit.actual();
        // A start may have been cut off before the id was written.
        let main = actual.process.clone().unwrap_or_else(|| run.id("main"));
        match self.engine().process_state(&main).await {
            Some(state) => {
                if let State::Running { pid, .. } = state {
                    run.main_pid = Some(pid);
                }
                run.stop(&main).await;
            }
            // A oneshot that was done.
            None => run.commands_at_stop().await,
        }
        self.keep(
            unit,
            Actual {
                process: None,
                ..actual
            },
        )
        .await;
    }

    pub(crate) async fn stop_post(&self, unit: &Supervised, file: &Unit) {
        if let Some(service) = section(file) {
            self.run(unit, file, service).stop_post().await;
        }
    }
}
