//! The way down: whom a unit waits for, and what is stopped.

use crate::fleet::Fleet;
use crate::model::{Active, Actual, Desired, Due, Outcome};
use crate::order;
use crate::plan::Cause;
use crate::service::{Run, section};
use crate::supervise::Supervised;
use coracle_engine::process::State;
use coracle_engine::{EngineError, full_error};
use coracle_unit::service::ServiceSection;
use coracle_unit::value::TimeSpan;
use coracle_unit::{Kind, Unit};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long those who have just found an instance have to reach it.
const LEAVE: Duration = Duration::from_secs(1);
/// How often is looked whether somebody is still connected.
const LOOK: Duration = Duration::from_millis(200);
/// How long a container has to end that says nothing of it.
const USUAL: Duration = Duration::from_secs(10);
/// What cannot be stopped is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);

impl Fleet {
    /// Stops it; `cause` is what its end is to be remembered as.
    pub(crate) async fn bring_down(&self, unit: &Supervised, file: &Unit, cause: &Cause) {
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
        self.last_commands(unit, file).await;
        let outcome = (*cause != Cause::Itself).then(|| Outcome {
            code: 137,
            cause: cause.clone(),
            at: crate::pace::utc(),
        });
        let actual = unit.actual();
        if actual.outcome != outcome {
            self.keep(unit, Actual { outcome, ..actual }).await;
        }
    }

    /// Runs those of `ExecStop=` and `ExecStopPost=` that are due. A daemon that dies meanwhile leaves those that it had
    /// not got through to the next one.
    pub(crate) async fn last_commands(&self, unit: &Supervised, file: &Unit) {
        let Some(service) = section(file) else {
            return;
        };
        let run = self.run(unit, file, service);
        self.commands_at_stop(unit, &run).await;
        if unit.actual().due == Due::StopPost {
            run.stop_post().await;
            self.owe(unit, service, Due::Nothing).await;
        }
    }

    async fn commands_at_stop(&self, unit: &Supervised, run: &Run<'_>) {
        if unit.actual().due == Due::Stop {
            run.commands_at_stop().await;
            self.owe(unit, run.service, Due::StopPost).await;
        }
    }

    /// Ends what a start left that died with its daemon.
    pub(crate) async fn clear(&self, unit: &Supervised, file: &Unit) {
        if let Some(service) = section(file) {
            self.run(unit, file, service).clear(None).await;
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

    /// What goes for good is found no more a moment before it is asked to end: who has just found it still reaches it.
    pub(crate) async fn leave_service(&self, unit: &Supervised) {
        let text = unit.running();
        let serves = !text.deploy.headless && !unit.is_exclusive();
        let runs = unit.actual().active == Active::Active;
        let container = unit.actual().container.filter(|_| serves && runs);
        let Some(id) = container.filter(|_| !self.is_leaving()) else {
            return;
        };
        unit.left.store(true, std::sync::atomic::Ordering::Relaxed);
        self.containers().serve(&id, false);
        let drain = text.deploy.drain.duration().unwrap_or(LEAVE);
        crate::pace::sleep(drain.min(LEAVE)).await;
    }

    /// Stops a container that has left its service. As long as somebody is still connected to it, it may go on for the unit's `DrainSec=`.
    async fn drain(&self, id: &str, file: &Unit) -> Result<(), EngineError> {
        let own = coracle_unit::unit::stop_time(&file.kind);
        let own = own.map_or(Some(USUAL), TimeSpan::duration);
        let drain = file.deploy.drain.duration();
        let (Some(own), Some(drain)) = (own, drain) else {
            return self.containers().stop(id, None, None).await;
        };
        let mut ports = BTreeSet::new();
        // Those that it listens to before it is asked to end.
        self.containers().inbound(id, &mut ports);
        let alone = async {
            crate::pace::sleep(own).await;
            while self.containers().inbound(id, &mut ports).unwrap_or(0) > 0 {
                crate::pace::sleep(LOOK).await;
            }
        };
        tokio::select! {
            biased;
            stopped = self.containers().stop(id, None, Some(drain.max(own))) => stopped,
            () = alone => self.containers().stop(id, Some("KILL"), None).await,
        }
    }

    /// Whether it is down.
    async fn stop_container(&self, unit: &Supervised, file: &Unit, kill: bool) -> bool {
        let Some(id) = unit.actual().container else {
            return true;
        };
        let has_left = unit.left.load(std::sync::atomic::Ordering::Relaxed);
        let stopped = if has_left && !kill && self.hurry().is_none() {
            self.drain(&id, file).await
        } else {
            let (signal, time) = (kill.then_some("KILL"), self.hurry());
            self.containers().stop(&id, signal, time).await
        };
        match stopped {
            Ok(()) | Err(EngineError::NotModified | EngineError::NotFound { .. }) => true,
            Err(error) => {
                tracing::error!(unit = %file.name, error = full_error(&error), "its container could not be stopped");
                crate::pace::sleep(RETRY).await;
                false
            }
        }
    }

    async fn stop_service(&self, unit: &Supervised, file: &Unit, service: &ServiceSection) {
        let mut run = self.run(unit, file, service);
        let main = unit.actual().process;
        if let Some(main) = &main
            && let Some(State::Running { pid, .. }) = self.engine().process_state(main).await
        {
            run.main_pid = Some(pid);
        }
        self.commands_at_stop(unit, &run).await;
        // A oneshot has none.
        if let Some(main) = main {
            run.stop(&main).await;
            let stopped = Actual {
                process: None,
                ..unit.actual()
            };
            self.keep(unit, stopped).await;
        }
    }
}
