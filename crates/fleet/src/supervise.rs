//! One unit's driver: observe, ask [`plan`] for the next step, do it, write down where the unit stands.
//!
//! Everything that must outlive the daemon is in the store ([`Actual`]) or with the engine (the container's labels, the
//! process's id); a driver that starts anew observes and goes on.

use crate::fleet::Fleet;
use crate::model::{Active, Actual, DesiredRecord, Due, Instance, Outcome};
use crate::pace::{self, Task};
use crate::plan::{self, Goal, Seen, Step};
use crate::service::{self, NotUp, Wanted};
use chrono::{DateTime, Utc};
use coracle_engine::events::Event;
use coracle_engine::full_error;
use coracle_unit::Unit;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// Looked at again this often even if nothing was heard.
const RESYNC: Duration = Duration::from_secs(30);

/// A unit that this machine has, and its driver.
pub struct Supervised {
    /// Which of the unit's instances it is.
    pub instance: Instance,
    record: Mutex<DesiredRecord>,
    /// Its text as submitted last.
    unit: Mutex<Arc<Unit>>,
    /// The text that it runs, or ran last.
    running: Mutex<Arc<Unit>>,
    pub(crate) goal: watch::Sender<Goal>,
    pub(crate) actual: watch::Sender<Actual>,
    /// See [`Fleet::fence`].
    fence: AtomicI64,
    /// It goes for good, and is found as an instance no more.
    pub(crate) left: std::sync::atomic::AtomicBool,
    /// The exit code of the run that ended last.
    code: Mutex<Option<i32>>,
    task: Mutex<Option<Task>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every change under these locks is one assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Supervised {
    /// `running` is the text that it ran last, if that is not its present one.
    pub(crate) fn new(
        instance: Instance,
        record: DesiredRecord,
        unit: Unit,
        running: Option<Unit>,
        actual: Actual,
    ) -> Arc<Self> {
        let goal = Goal::of(&record);
        let unit = Arc::new(unit);
        Arc::new(Self {
            instance,
            record: Mutex::new(record),
            running: Mutex::new(running.map_or_else(|| unit.clone(), Arc::new)),
            unit: Mutex::new(unit),
            goal: watch::Sender::new(goal),
            actual: watch::Sender::new(actual),
            fence: AtomicI64::new(0),
            left: std::sync::atomic::AtomicBool::new(false),
            code: Mutex::default(),
            task: Mutex::default(),
        })
    }

    pub(crate) fn record(&self) -> DesiredRecord {
        locked(&self.record).clone()
    }

    /// The number of this instance to fence what lies outside; 0 if it is not known.
    pub(crate) fn fence(&self) -> i64 {
        self.fence.load(Ordering::Relaxed)
    }

    pub(crate) fn set_fence(&self, fence: i64) {
        self.fence.store(fence, Ordering::Relaxed);
    }

    pub(crate) fn uid(&self) -> &str {
        &self.instance.uid
    }

    /// Its text as submitted last.
    pub(crate) fn unit(&self) -> Arc<Unit> {
        locked(&self.unit).clone()
    }

    /// The text that it runs, or ran last.
    pub(crate) fn running(&self) -> Arc<Unit> {
        locked(&self.running).clone()
    }

    /// From here on it runs its present text.
    pub(crate) fn renew(&self) -> Arc<Unit> {
        let unit = self.unit();
        locked(&self.running).clone_from(&unit);
        unit
    }

    /// What is asked of it now.
    pub(crate) fn set(&self, record: DesiredRecord, unit: Option<Unit>) {
        let goal = Goal::of(&record);
        *locked(&self.record) = record;
        if let Some(unit) = unit {
            *locked(&self.unit) = Arc::new(unit);
        }
        self.goal.send_replace(goal);
    }

    pub(crate) fn actual(&self) -> Actual {
        self.actual.borrow().clone()
    }

    /// `state_dir` is the machine's.
    pub(crate) fn log_path(&self, state_dir: &Path) -> PathBuf {
        let units = state_dir.join("units");
        units.join(self.uid()).join("unit.log")
    }

    /// Whether it may be found as an instance of its service.
    pub(crate) fn serves(&self) -> bool {
        !self.record().held && !self.left.load(Ordering::Relaxed)
    }

    pub(crate) fn set_task(&self, task: Option<Task>) {
        if let Some(former) = std::mem::replace(&mut *locked(&self.task), task) {
            former.abort();
        }
    }
}

/// What is remembered between steps.
#[derive(Default)]
pub struct Memory {
    /// Recent starts of this request, the oldest first.
    pub starts: Vec<DateTime<Utc>>,
    generation: u64,
}

/// What a driver listens to.
struct Ears {
    goals: watch::Receiver<Goal>,
    events: broadcast::Receiver<Event>,
}

impl Fleet {
    /// Starts the driver of a unit, unless it has one.
    pub(crate) fn drive(&self, supervised: &Arc<Supervised>) {
        if supervised.unit().name.is_template() || locked(&supervised.task).is_some() {
            return;
        }
        let (fleet, driven) = (self.clone(), supervised.clone());
        let task = pace::spawn(async move { fleet.supervise(driven).await });
        supervised.set_task(Some(task));
    }

    async fn supervise(&self, unit: Arc<Supervised>) {
        let before = self.take_over(&unit).await;
        let mut memory = Memory {
            generation: before.generation,
            ..Memory::default()
        };
        // The former daemon died on the way up: what does not run was not started, whatever is left of it.
        let mut cut = before.active == Active::Activating && before.sub == "start";
        let mut ears = Ears {
            goals: unit.goal.subscribe(),
            events: self.containers().events(),
        };
        loop {
            let goal = *ears.goals.borrow_and_update();
            if memory.generation != goal.generation {
                memory = Memory {
                    generation: goal.generation,
                    ..Memory::default()
                };
            }
            let file = unit.running();
            let mut seen = self.see(&unit, &file).await;
            let runs = matches!(seen, Seen::Running { .. });
            if let Some(id) = unit.actual().container.filter(|_| runs) {
                self.containers().serve(&id, unit.serves());
            }
            if let Seen::Ended { code, .. } = &seen {
                *locked(&unit.code) = Some(*code);
            }
            if std::mem::take(&mut cut) {
                match service::section(&file) {
                    Some(service) if runs => self.owe(&unit, service, Due::Stop).await,
                    _ if runs => {}
                    _ => {
                        self.clear(&unit, &file).await;
                        self.last_commands(&unit, &file).await;
                        seen = Seen::Missing;
                    }
                }
            }
            let step = plan::next(
                goal,
                &Self::policy(&file),
                &seen,
                &unit.actual(),
                self.boot_id(),
                &memory.starts,
                pace::utc(),
            );
            let over = match &step {
                Step::Rest { active, .. } => !runs && *active != Active::Active,
                Step::Start { .. } | Step::Wait { .. } => true,
                Step::Stop { .. } => false,
            };
            if over && unit.actual().due != Due::Nothing {
                self.last_commands(&unit, &file).await;
                continue;
            }
            match step {
                Step::Rest {
                    active,
                    sub,
                    reason,
                    settled,
                } => {
                    self.say(&unit, goal, active, &sub, reason, settled).await;
                    if runs {
                        self.take_name(&unit, &unit.running()).await;
                    }
                    self.hear(&unit, &mut ears).await;
                }
                Step::Wait { time, reason } => {
                    let (active, sub) = (Active::Activating, "auto-restart");
                    self.say(&unit, goal, active, sub, reason, false).await;
                    tokio::select! {
                        biased;
                        _ = ears.goals.changed() => {}
                        () = pace::sleep(time) => {}
                    }
                }
                Step::Stop { reason, cause } => {
                    let (active, sub) = (Active::Deactivating, "stop");
                    self.say(&unit, goal, active, sub, reason, false).await;
                    self.bring_down(&unit, &file, &cause).await;
                }
                Step::Start { fresh, reason } => {
                    let (active, sub) = (Active::Activating, "start");
                    self.say(&unit, goal, active, sub, reason, false).await;
                    let file = if fresh { unit.renew() } else { file };
                    let wanted = Wanted::new(unit.goal.subscribe(), goal);
                    let up = self
                        .bring_up(&unit, &file, fresh, &mut memory, &wanted)
                        .await;
                    if let Err(NotUp { code, cause }) = up {
                        let at = pace::utc();
                        let ended = Actual {
                            outcome: Some(Outcome { code, cause, at }),
                            ..unit.actual()
                        };
                        self.keep(&unit, ended).await;
                    }
                }
            }
        }
    }

    /// Looks at what a former daemon left: commands that it waited for are ended, what went with the machine is owed nothing.
    async fn take_over(&self, unit: &Supervised) -> Actual {
        let file = unit.running();
        let before = unit.actual();
        // Its last commands are given it, too.
        unit.set_fence(self.fence(&unit.instance).await);
        if let Some(service) = service::section(&file) {
            let run = self.run(unit, &file, service);
            run.clear(before.process.as_deref()).await;
        }
        if before.boot_id == self.boot_id() || before.boot_id.is_empty() && before.run == 0 {
            return before;
        }
        let mut now = before.clone();
        if matches!(self.see(unit, &file).await, Seen::Running { .. }) {
            // The former daemon died while it took everything down, and this was still to come.
            self.boot_id().clone_into(&mut now.boot_id);
        } else {
            now.due = Due::Nothing;
        }
        if now != before {
            self.keep(unit, now.clone()).await;
        }
        now
    }

    /// Waits until something may have changed.
    async fn hear(&self, unit: &Supervised, ears: &mut Ears) {
        let (container, process) = {
            let actual = unit.actual.borrow();
            (actual.container.clone(), actual.process.clone())
        };
        // What has ended and stays active has nothing that could end.
        let runs = {
            let actual = unit.actual.borrow();
            actual.active == Active::Active && !actual.settled
        };
        let ended = async {
            match process {
                Some(id) if runs => {
                    let _ = self.engine().process_wait(&id).await;
                }
                _ => std::future::pending().await,
            }
        };
        let told = async {
            loop {
                match ears.events.recv().await {
                    Ok(event) if Some(&event.actor.id) == container.as_ref() => return,
                    Ok(_) => {}
                    // Some were missed: look.
                    Err(broadcast::error::RecvError::Lagged(_)) => return,
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            biased;
            _ = ears.goals.changed() => {}
            () = ended => {}
            () = told => {}
            () = pace::sleep(RESYNC) => {}
        }
    }

    /// Writes down where a unit stands, if that is news.
    pub(crate) async fn say(
        &self,
        unit: &Supervised,
        goal: Goal,
        active: Active,
        sub: &str,
        reason: String,
        settled: bool,
    ) {
        let before = unit.actual();
        let (health, ports) = self.shown(&before);
        let mut next = Actual {
            order: goal.order,
            active,
            sub: sub.to_owned(),
            reason,
            settled,
            health,
            ports,
            ..before.clone()
        };
        if next == before {
            return;
        }
        if (next.active, &next.sub) != (before.active, &before.sub) {
            next.since = pace::utc();
            let ends = match next.active {
                Active::Failed => true,
                // It may be removed soon, and what it said in the end with it.
                Active::Inactive => unit.unit().name.is_successor(),
                _ => next.sub == "auto-restart",
            };
            (next.last_lines, next.code) = match ends {
                true => (self.last_lines(unit).await, *locked(&unit.code)),
                false => (Vec::new(), None),
            };
        }
        self.keep(unit, next).await;
    }

    pub(crate) async fn keep(&self, unit: &Supervised, actual: Actual) {
        let written = self.to_write(unit, &actual);
        if let Err(error) = self.write_actual(&unit.instance, &written).await {
            tracing::error!(
                unit = actual.unit,
                error = full_error(&error),
                "where the unit stands could not be written"
            );
        }
        unit.actual.send_replace(actual);
    }
}
