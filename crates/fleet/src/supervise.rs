//! One unit's driver: observe, ask [`plan`] for the next step, do it, write down where the unit stands.
//!
//! Everything that must outlive the daemon is in the store ([`Actual`]) or with the engine (the container's labels, the
//! process's id); a driver that starts anew observes and goes on.

use crate::fleet::Fleet;
use crate::model::{Active, Actual, Desired, UnitRecord};
use crate::order;
use crate::plan::{self, Goal, Policy, Seen, Step};
use crate::service::{NotUp, Run, section, success_codes};
use crate::translate::{self, UID_LABEL};
use chrono::{DateTime, Utc};
use coracle_engine::record::Phase;
use coracle_engine::remove::RemoveOptions;
use coracle_engine::{Engine, EngineError, full_error};
use coracle_image::{ErrorKind, Reference, Silent};
use coracle_network::NetworkSpec;
use coracle_shim_protocol::shim::State;
use coracle_unit::{Kind, Unit};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio::task::AbortHandle;

/// Looked at again this often even if nothing was heard.
const RESYNC: Duration = Duration::from_secs(30);

/// A unit and its driver.
pub struct Supervised {
    pub(crate) record: Mutex<UnitRecord>,
    pub(crate) unit: Mutex<Arc<Unit>>,
    pub(crate) goal: watch::Sender<Goal>,
    pub(crate) actual: watch::Sender<Actual>,
    pub(crate) task: Mutex<Option<AbortHandle>>,
    /// The command that is running now, so that a stop can end it.
    process: Mutex<Option<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every change under these locks is one assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Supervised {
    pub(crate) fn new(record: UnitRecord, unit: Unit, actual: Actual) -> Arc<Self> {
        let goal = Goal {
            desired: record.desired,
            generation: record.generation,
        };
        Arc::new(Self {
            record: Mutex::new(record),
            unit: Mutex::new(Arc::new(unit)),
            goal: watch::Sender::new(goal),
            actual: watch::Sender::new(actual),
            task: Mutex::default(),
            process: Mutex::default(),
        })
    }

    pub(crate) fn record(&self) -> UnitRecord {
        locked(&self.record).clone()
    }

    pub(crate) fn unit(&self) -> Arc<Unit> {
        locked(&self.unit).clone()
    }

    pub(crate) fn set(&self, record: UnitRecord, unit: Option<Unit>) {
        let goal = Goal {
            desired: record.desired,
            generation: record.generation,
        };
        *locked(&self.record) = record;
        if let Some(unit) = unit {
            *locked(&self.unit) = Arc::new(unit);
        }
        self.goal.send_replace(goal);
    }

    pub(crate) fn actual(&self) -> Actual {
        self.actual.borrow().clone()
    }

    pub(crate) fn running_process(&self, id: Option<String>) {
        *locked(&self.process) = id;
    }

    pub(crate) fn log_path(&self, engine: &Engine) -> PathBuf {
        let uid = self.record().uid;
        engine
            .options()
            .state_dir
            .join("units")
            .join(uid)
            .join("unit.log")
    }

    pub(crate) fn set_task(&self, task: Option<AbortHandle>) {
        if let Some(former) = std::mem::replace(&mut *locked(&self.task), task) {
            former.abort();
        }
    }
}

/// What is remembered between steps.
#[derive(Default)]
struct Memory {
    starts: Vec<DateTime<Utc>>,
    generation: u64,
    /// A start that failed before anything ran, or a oneshot that is done.
    outcome: Option<(NotUp, DateTime<Utc>)>,
    /// Whether `ExecStopPost=` has run for this run.
    post_done: bool,
}

fn policy(unit: &Unit) -> Policy {
    let mut policy = Policy {
        restart: "no".into(),
        restart_sec: Duration::ZERO,
        limit_interval: None,
        limit_burst: 0,
        success: Vec::new(),
        remain: false,
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
        let tested = container
            .texts
            .get("HealthCmd")
            .is_some_and(|c| c != "none")
            || unit.deploy.probe.is_some();
        policy.waits_for_health = tested;
        policy.on_unhealthy = container
            .texts
            .get("HealthOnFailure")
            .cloned()
            .unwrap_or_default();
    }
    policy
}

impl Fleet {
    /// Starts the driver of a unit, unless it has one.
    pub(crate) fn drive(&self, supervised: &Arc<Supervised>) {
        if supervised.unit().name.is_template() || locked(&supervised.task).is_some() {
            return;
        }
        let (fleet, driven) = (self.clone(), supervised.clone());
        let task = tokio::spawn(async move { fleet.supervise(driven).await });
        supervised.set_task(Some(task.abort_handle()));
    }

    async fn supervise(&self, unit: Arc<Supervised>) {
        let mut memory = Memory::default();
        let mut goals = unit.goal.subscribe();
        let (_, mut events) = self.engine().subscribe();
        let mut changes = self.changes().subscribe();
        loop {
            let goal = *goals.borrow_and_update();
            changes.borrow_and_update();
            if memory.generation != goal.generation {
                memory = Memory {
                    generation: goal.generation,
                    ..Memory::default()
                };
            }
            let file = unit.unit();
            if self.lost_binding(&file, goal) {
                if let Err(error) = self.stop(file.name.as_str(), false).await {
                    tracing::warn!(unit = %file.name, error = full_error(&error), "it could not be stopped with the unit it is bound to");
                }
                continue;
            }
            let (seen, why) = self.see(&unit, &file, &memory).await;
            if matches!(seen, Seen::Ended { .. })
                && !memory.post_done
                && unit.actual().process.is_some()
            {
                memory.post_done = true;
                self.stop_post(&unit, &file).await;
            }
            let now = Utc::now();
            let mut step = plan::next(
                goal,
                &policy(&file),
                &seen,
                &unit.actual(),
                self.boot_id(),
                &memory.starts,
                now,
            );
            if let (
                Some(why),
                Step::Rest {
                    reason,
                    settled: true,
                    active: Active::Failed | Active::Inactive,
                    ..
                },
            ) = (&why, &mut step)
                && goal.desired == Desired::Active
            {
                reason.clone_from(why);
            }
            match step {
                Step::Rest {
                    active,
                    sub,
                    reason,
                    settled,
                } => {
                    self.say(&unit, active, sub, reason, |a| a.settled = settled)
                        .await;
                    self.hear(&unit, &mut goals, &mut events, &mut changes, &file)
                        .await;
                }
                Step::Wait { time, reason } => {
                    self.say(&unit, Active::Activating, "auto-restart", reason, |_| {})
                        .await;
                    tokio::select! {
                        () = tokio::time::sleep(time) => {}
                        _ = goals.changed() => {}
                    }
                }
                Step::Stop { reason } => {
                    self.say(&unit, Active::Deactivating, "stop", reason, |_| {})
                        .await;
                    self.bring_down(&unit, &file).await;
                }
                Step::Start { fresh, reason } => {
                    self.say(&unit, Active::Activating, "start", reason, |_| {})
                        .await;
                    let before = *goals.borrow();
                    let outcome = tokio::select! {
                        outcome = self.bring_up(&unit, &file, fresh, &mut memory, goal) => Some(outcome),
                        _ = goals.wait_for(|g| *g != before) => None,
                    };
                    match outcome {
                        Some(Ok(())) => {}
                        Some(Err(problem)) => memory.outcome = Some((problem, Utc::now())),
                        None => self.bring_down(&unit, &file).await,
                    }
                }
            }
        }
    }

    /// Whether a unit that this one is bound to has gone.
    fn lost_binding(&self, file: &Unit, goal: Goal) -> bool {
        goal.desired == Desired::Active
            && file.unit.binds_to.iter().any(|name| {
                self.supervised(name).is_none_or(|u| {
                    let there = u.actual();
                    u.goal.borrow().desired == Desired::Inactive
                        || (there.settled && there.active != Active::Active)
                })
            })
    }

    /// Waits until something may have changed.
    async fn hear(
        &self,
        unit: &Supervised,
        goals: &mut watch::Receiver<Goal>,
        events: &mut broadcast::Receiver<coracle_engine::events::Event>,
        changes: &mut watch::Receiver<u64>,
        file: &Unit,
    ) {
        let (container, process) = {
            let actual = unit.actual.borrow();
            (actual.container.clone(), actual.process.clone())
        };
        let ended = async {
            match process {
                Some(id) if unit.actual.borrow().active == Active::Active => {
                    let _ = self.engine().process_wait(&id).await;
                }
                _ => std::future::pending().await,
            }
        };
        let told = async {
            loop {
                match events.recv().await {
                    Ok(event) if Some(&event.actor.id) == container.as_ref() => return,
                    Ok(_) => {}
                    // Some were missed: look.
                    Err(broadcast::error::RecvError::Lagged(_)) => return,
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        let bound = async {
            if file.unit.binds_to.is_empty() {
                std::future::pending::<()>().await;
            }
            let _ = changes.changed().await;
        };
        tokio::select! {
            _ = goals.changed() => {}
            () = ended => {}
            () = told => {}
            () = bound => {}
            () = tokio::time::sleep(RESYNC) => {}
        }
    }

    /// Observes. The second value is a reason in more words than the plan has.
    async fn see(&self, unit: &Supervised, file: &Unit, memory: &Memory) -> (Seen, Option<String>) {
        if let Some((outcome, at)) = &memory.outcome {
            return (
                Seen::Ended {
                    code: outcome.code,
                    at: *at,
                    oom: false,
                },
                Some(outcome.reason.clone()),
            );
        }
        let actual = unit.actual();
        let nothing = (Seen::Missing, None);
        match &file.kind {
            Kind::Container { .. } => {
                let Some(found) = actual
                    .container
                    .as_deref()
                    .and_then(|id| self.engine().get(id).ok())
                else {
                    return nothing;
                };
                let state = &found.record.state;
                let health = found.health.as_ref().map(|h| h.status);
                match state.phase {
                    Phase::Running | Phase::Restarting => (Seen::Running { health }, None),
                    Phase::Removing | Phase::Dead => nothing,
                    Phase::Created | Phase::Exited => {
                        let why = Some(state.error.clone()).filter(|e| !e.is_empty());
                        let at = state.finished_at.unwrap_or_else(Utc::now);
                        (
                            Seen::Ended {
                                code: state.exit_code,
                                at,
                                oom: state.oom_killed,
                            },
                            why,
                        )
                    }
                }
            }
            Kind::Service(_) => {
                let Some(id) = &actual.process else {
                    return nothing;
                };
                match self
                    .engine()
                    .processes()
                    .await
                    .into_iter()
                    .find(|(i, _)| i == id)
                {
                    Some((_, State::Running { .. })) => (Seen::Running { health: None }, None),
                    // A list that is made while a shim leaves may take its process for lost; waiting reads what the shim
                    // wrote before it left.
                    Some((_, State::Exited { .. })) => match self.engine().process_wait(id).await {
                        Ok(status) => (
                            Seen::Ended {
                                code: status.code,
                                at: status.finished_at,
                                oom: status.oom_killed,
                            },
                            status.error,
                        ),
                        Err(_) => nothing,
                    },
                    _ => nothing,
                }
            }
            Kind::Volume(_) | Kind::Network(_) => {
                if actual.active == Active::Active && actual.boot_id == self.boot_id() {
                    (Seen::Running { health: None }, None)
                } else {
                    nothing
                }
            }
        }
    }

    /// Writes down where a unit stands, if that is news.
    async fn say(
        &self,
        unit: &Supervised,
        active: Active,
        sub: &str,
        reason: String,
        more: impl FnOnce(&mut Actual),
    ) {
        let before = unit.actual();
        let mut next = before.clone();
        next.active = active;
        sub.clone_into(&mut next.sub);
        next.reason = reason;
        next.settled = false;
        more(&mut next);
        if next == before {
            return;
        }
        if (next.active, &next.sub) != (before.active, &before.sub) {
            next.since = Utc::now();
        }
        self.keep(unit, next).await;
    }

    async fn keep(&self, unit: &Supervised, actual: Actual) {
        if let Err(error) = self.write_actual(&unit.record().uid, &actual).await {
            tracing::error!(
                unit = actual.unit,
                error = full_error(&error),
                "where the unit stands could not be written"
            );
        }
        unit.actual.send_replace(actual);
        self.changes().send_modify(|n| *n += 1);
    }

    async fn bring_up(
        &self,
        unit: &Arc<Supervised>,
        file: &Unit,
        fresh: bool,
        memory: &mut Memory,
        goal: Goal,
    ) -> Result<(), NotUp> {
        let record = unit.record();
        memory.outcome = None;
        memory.post_done = false;
        let mut actual = unit.actual();
        if actual.generation == goal.generation && !fresh {
            actual.restarts += 1;
        } else {
            actual.restarts = 0;
        }
        actual.generation = goal.generation;
        actual.revision = record.revision;
        self.boot_id().clone_into(&mut actual.boot_id);
        actual.run += 1;
        if fresh {
            actual.container = None;
        }
        actual.process = None;
        // Before waiting, so that a failure of another unit is the answer to this request and not a reason to ask again.
        self.keep(unit, actual.clone()).await;
        self.wait_for_others(file).await?;
        memory.starts.push(Utc::now());
        match &file.kind {
            Kind::Volume(volume) => {
                self.engine()
                    .volumes()
                    .ensure(Some(&volume.volume_name), &volume.labels)?;
            }
            Kind::Network(network) => self.bring_up_network(network).await?,
            Kind::Service(service) => {
                let run = Run {
                    engine: self.engine(),
                    unit: file,
                    service,
                    supervised: unit,
                    run: actual.run,
                    main_pid: None,
                };
                let dir = run.log();
                let dir = dir.parent().unwrap_or(&dir);
                std::fs::create_dir_all(dir)
                    .map_err(|e| NotUp::new(1, format!("{}: {e}", dir.display())))?;
                let started = async {
                    run.before().await?;
                    actual.process = run.main().await?;
                    if actual.process.is_some() {
                        self.keep(unit, actual.clone()).await;
                    }
                    run.after().await
                }
                .await;
                if let Err(problem) = started {
                    if let Some(main) = &actual.process {
                        run.stop(main).await;
                    }
                    run.stop_post().await;
                    return Err(problem);
                }
                if actual.process.is_none() {
                    // A oneshot that is done.
                    return Err(NotUp::new(0, "it has done its work"));
                }
            }
            Kind::Container { service, .. } => {
                let run = Run {
                    engine: self.engine(),
                    unit: file,
                    service,
                    supervised: unit,
                    run: actual.run,
                    main_pid: None,
                };
                run.before().await?;
                let id = match actual
                    .container
                    .clone()
                    .filter(|id| self.engine().get(id).is_ok())
                {
                    Some(id) => id,
                    None => self.make_container(file, &record.uid).await?,
                };
                actual.container = Some(id.clone());
                self.keep(unit, actual).await;
                match self.engine().start(&id).await {
                    Ok(()) | Err(EngineError::NotModified) => {}
                    Err(error) => return Err(error.into()),
                }
                run.after().await?;
            }
        }
        if matches!(file.kind, Kind::Volume(_) | Kind::Network(_)) {
            self.say(unit, Active::Active, "exited", "it is there".into(), |_| {})
                .await;
        }
        Ok(())
    }

    /// Units that come first are up, or have failed.
    async fn wait_for_others(&self, file: &Unit) -> Result<(), NotUp> {
        let units = self.units();
        let required = order::requires(file);
        for name in order::waits_for(file.name.as_str(), &units) {
            let Some(other) = self.supervised(&name) else {
                continue;
            };
            let goal = *other.goal.borrow();
            if goal.desired == Desired::Inactive {
                continue;
            }
            let mut actual = other.actual.subscribe();
            let there = actual
                .wait_for(|a| {
                    a.generation == goal.generation && (a.settled || a.active == Active::Active)
                        || *other.goal.borrow() != goal
                })
                .await
                .map(|a| a.clone());
            let failed = there.is_ok_and(|a| a.active == Active::Failed);
            if failed && required.contains(&name) {
                return Err(NotUp::new(
                    1,
                    format!(
                        "{name}, which it requires, failed: `coracle unit status {name}` says why"
                    ),
                ));
            }
        }
        Ok(())
    }

    async fn bring_up_network(
        &self,
        network: &coracle_unit::unit::NetworkUnit,
    ) -> Result<(), NotUp> {
        if self.engine().networks().get(&network.network_name).is_ok() {
            return Ok(());
        }
        let bad = |what: &str, text: &str| NotUp::new(1, format!("{what}={text} cannot be read"));
        let first = |list: &[String]| list.first().cloned();
        let spec = NetworkSpec {
            name: network.network_name.clone(),
            subnet: first(&network.subnets)
                .map(|t| t.parse().map_err(|_| bad("Subnet", &t)))
                .transpose()?,
            gateway: first(&network.gateways)
                .map(|t| t.parse().map_err(|_| bad("Gateway", &t)))
                .transpose()?,
            ip_range: first(&network.ip_ranges)
                .map(|t| t.parse().map_err(|_| bad("IPRange", &t)))
                .transpose()?,
            internal: network.internal,
            ipv6: network.ipv6,
            labels: network.labels.clone(),
            ..NetworkSpec::default()
        };
        self.engine().create_network(spec).await?;
        Ok(())
    }

    /// Makes the unit's container anew from its present text.
    async fn make_container(&self, file: &Unit, uid: &str) -> Result<String, NotUp> {
        let failed = |error: &dyn std::error::Error| NotUp::new(125, full_error(error));
        let request = translate::request(file, uid, &self.units()).map_err(|e| failed(&e))?;
        // What an earlier run, or one that was cut short, left.
        for old in self.engine().list() {
            if old
                .record
                .config
                .labels
                .get(UID_LABEL)
                .is_some_and(|l| l == uid)
            {
                let options = RemoveOptions {
                    force: true,
                    volumes: true,
                };
                self.engine()
                    .remove(old.record.id.as_str(), options)
                    .await?;
            }
        }
        if let Kind::Container { container, .. } = &file.kind {
            self.have_image(&container.image, &container.pull).await?;
        }
        let created = self
            .engine()
            .create(Some(&translate::container_name(file)), request)
            .await?;
        Ok(created.id.to_string())
    }

    async fn have_image(&self, name: &str, pull: &str) -> Result<(), NotUp> {
        let images = self.engine().images();
        let here = match images.get(name) {
            Ok(_) => true,
            Err(e) if e.kind() == ErrorKind::NotFound => false,
            Err(e) => return Err(NotUp::new(125, full_error(&e))),
        };
        if (here && pull != "always") || pull == "never" {
            return Ok(());
        }
        let failed = |error: &dyn std::error::Error| NotUp::new(125, full_error(error));
        let reference = Reference::parse_normalized(name).map_err(|e| failed(&e))?;
        if reference.domain() == "localhost" {
            return Err(NotUp::new(
                125,
                format!(
                    "image {name} is not here, and localhost/ is no registry; make it with `coracle import` or `coracle load`"
                ),
            ));
        }
        images
            .pull(&reference, None, None, &Silent)
            .await
            .map_err(|e| failed(&e))?;
        Ok(())
    }

    async fn bring_down(&self, unit: &Arc<Supervised>, file: &Unit) {
        let actual = unit.actual();
        // A command that was on its way.
        let command = locked(&unit.process).take();
        if let Some(id) = command {
            let _ = self.engine().process_signal(&id, 9, true).await;
            let _ = self.engine().process_wait(&id).await;
            let _ = self.engine().process_forget(&id).await;
        }
        match &file.kind {
            Kind::Container { service, .. } => {
                if let Some(id) = &actual.container {
                    match self.engine().stop(id, None, None).await {
                        Ok(()) | Err(EngineError::NotModified | EngineError::NotFound { .. }) => {}
                        Err(error) => {
                            tracing::error!(unit = %file.name, error = full_error(&error), "its container could not be stopped");
                            tokio::time::sleep(Duration::from_secs(1)).await;
                        }
                    }
                }
                let run = Run {
                    engine: self.engine(),
                    unit: file,
                    service,
                    supervised: unit,
                    run: actual.run,
                    main_pid: None,
                };
                run.stop_post().await;
            }
            Kind::Service(service) => {
                let mut run = Run {
                    engine: self.engine(),
                    unit: file,
                    service,
                    supervised: unit,
                    run: actual.run,
                    main_pid: None,
                };
                let main = match actual.process.clone() {
                    Some(main) => Some(main),
                    // A start that was cut off before the id was written.
                    None => {
                        let id = run.id("main");
                        self.engine()
                            .processes()
                            .await
                            .into_iter()
                            .map(|(i, _)| i)
                            .find(|i| *i == id)
                    }
                };
                if let Some(main) = main {
                    let running = self
                        .engine()
                        .processes()
                        .await
                        .into_iter()
                        .find(|(i, _)| *i == main);
                    if let Some((_, State::Running { pid, .. })) = running {
                        run.main_pid = Some(pid);
                    }
                    run.stop(&main).await;
                }
                run.stop_post().await;
                self.keep(
                    unit,
                    Actual {
                        process: None,
                        ..actual
                    },
                )
                .await;
            }
            Kind::Volume(_) | Kind::Network(_) => {
                // What they stand for stays: data is not lost by a stop.
                self.say(
                    unit,
                    Active::Inactive,
                    "dead",
                    "it was asked to stop".into(),
                    |_| {},
                )
                .await;
            }
        }
    }

    async fn stop_post(&self, unit: &Arc<Supervised>, file: &Unit) {
        let actual = unit.actual();
        if let Kind::Service(service) = &file.kind {
            let run = Run {
                engine: self.engine(),
                unit: file,
                service,
                supervised: unit,
                run: actual.run,
                main_pid: None,
            };
            run.stop_post().await;
        }
    }
}
