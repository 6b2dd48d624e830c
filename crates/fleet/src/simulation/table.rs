//! A machine's containers as a table: starts and stops take time and may fail, all of it outlives the daemon, nothing runs on
//! without power. What is exclusive ends by itself at its deadline, which its daemon moves on.

use super::books::{Books, Ran};
use super::world::World;
use crate::containers::{Containers, Doing, Look, Processes};
use crate::model::Pinned;
use crate::service::NotUp;
use crate::translate::{UID_LABEL, UNIT_LABEL};
use chrono::{DateTime, Utc};
use coracle_engine::events::Event;
use coracle_engine::exclusive::Permit;
use coracle_engine::logs::{LogLine, LogQuery};
use coracle_engine::model::CreateRequest;
use coracle_engine::record::Phase;
use coracle_engine::{EngineError, PublishedPort};
use coracle_unit::unit::VolumeUnit;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};

/// See the module.
pub(crate) struct Table {
    pub world: World,
    /// The machine's number.
    pub machine: usize,
    pub books: Arc<Books>,
    all: Mutex<BTreeMap<String, Container>>,
    events: broadcast::Sender<Event>,
    /// Until when what is exclusive may run, as the daemon said last.
    permit: Mutex<Permit>,
    /// Whether its watchdogs do what they should.
    guarded: bool,
    dir: PathBuf,
}

struct Container {
    name: String,
    unit: String,
    uid: String,
    running: bool,
    code: i32,
    ended: Option<DateTime<Utc>>,
    error: String,
    /// From when it is healthy, if it has a test.
    healthy: Option<Duration>,
    /// Until when it may run, if it is exclusive.
    deadline: Option<Duration>,
    watchdog: bool,
    stop: Duration,
    /// It never comes up.
    broken: bool,
}

/// In the environment of what never comes up.
pub(crate) const BROKEN: &str = "BROKEN=1";

/// Whether a unit is one of which there are never two, by its name here.
pub(crate) fn is_exclusive(unit: &str) -> bool {
    ["ex-", "vol-", "res-"]
        .iter()
        .any(|kind| unit.starts_with(kind))
}

impl Table {
    pub fn new(
        world: &World,
        machine: usize,
        books: &Arc<Books>,
        guarded: bool,
        dir: PathBuf,
    ) -> Arc<Self> {
        Arc::new(Self {
            world: world.clone(),
            machine,
            books: books.clone(),
            all: Mutex::default(),
            events: broadcast::channel(64).0,
            permit: Mutex::default(),
            guarded,
            dir,
        })
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Container>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shims of exclusive units: they need no daemon.
    pub async fn guard(self: Arc<Self>) {
        loop {
            let now = self.world.now();
            let late: Vec<String> = {
                let all = self.all();
                let over = |c: &Container| c.running && c.deadline.is_some_and(|end| now >= end);
                let late = all.iter().filter(|(_, c)| over(c));
                late.map(|(id, _)| id.clone()).collect()
            };
            for id in late.iter().filter(|_| self.guarded) {
                if let Some(container) = self.all().get_mut(id) {
                    container.watchdog = true;
                    container.error = "its watchdog ended it".into();
                }
                self.ends(id, 137, "its watchdog ended it");
            }
            let half = Duration::from_millis(500);
            let next = self
                .all()
                .values()
                .filter(|c| c.running)
                .filter_map(|c| c.deadline)
                .min();
            let rest = next.map_or(2 * half, |end| end.saturating_sub(now));
            self.world
                .sleep(rest.clamp(Duration::from_millis(1), 2 * half))
                .await;
        }
    }

    fn publish(&self, action: &str, id: &str) {
        // Nobody listening is no error.
        let _ = self
            .events
            .send(Event::now("container", action, id, BTreeMap::new()));
    }

    fn ran(&self, id: &str, container: &Container) -> Ran {
        Ran {
            machine: self.machine,
            id: id.to_owned(),
            unit: container.unit.clone(),
            uid: container.uid.clone(),
            healthy_from: container.healthy.unwrap_or(Duration::ZERO),
        }
    }

    /// It has ended.
    pub fn ends(&self, id: &str, code: i32, why: &str) {
        let mut all = self.all();
        let Some(container) = all.get_mut(id).filter(|c| c.running) else {
            return;
        };
        container.running = false;
        container.code = code;
        container.ended = Some(self.world.utc());
        let ran = self.ran(id, container);
        drop(all);
        self.books.ended(&ran, why);
        self.publish("die", id);
    }

    /// One that runs, drawn.
    pub fn any_running(&self) -> Option<String> {
        let all = self.all();
        let running: Vec<&String> = all
            .iter()
            .filter(|(_, c)| c.running)
            .map(|(id, _)| id)
            .collect();
        if running.is_empty() {
            return None;
        }
        Some((*self.world.of(&running)).clone())
    }

    /// The power is gone.
    pub fn loses_power(&self) {
        let ids: Vec<String> = self.all().keys().cloned().collect();
        for id in ids {
            self.ends(&id, 255, "the power went");
        }
    }

    /// Every container: its unit, its uid, whether it runs.
    pub fn list(&self) -> Vec<(String, String, bool)> {
        let all = self.all();
        all.values()
            .map(|c| (c.unit.clone(), c.uid.clone(), c.running))
            .collect()
    }

    fn none(id: &str) -> EngineError {
        EngineError::NotFound {
            kind: "container",
            name: id.to_owned(),
        }
    }

    async fn takes(&self, most: u64) {
        let time = self.world.below(most);
        self.world.sleep(Duration::from_millis(time)).await;
    }

    /// A start that is refused.
    fn refused(&self, id: &str, why: &str) -> EngineError {
        let mut all = self.all();
        if let Some(container) = all.get_mut(id) {
            container.error = why.to_owned();
            container.code = 127;
            container.ended = Some(self.world.utc());
        }
        EngineError::Start {
            code: 127,
            message: why.to_owned(),
        }
    }

    async fn starts(&self, id: &str, permit: Option<Duration>) -> Result<(), EngineError> {
        self.takes(100).await;
        let (unit, runs, broken) = {
            let all = self.all();
            let found = all.get(id).ok_or_else(|| Self::none(id))?;
            (found.unit.clone(), found.running, found.broken)
        };
        if runs {
            return Err(EngineError::NotModified);
        }
        if broken || self.books.fails_on(&unit, self.machine) {
            self.world
                .note(|| format!("m{} {unit} cannot be started", self.machine));
            return Err(self.refused(id, "it cannot be started here"));
        }
        if permit.is_some_and(|until| self.world.now() >= until) {
            return Err(EngineError::NotPermitted("its permit is over".into()));
        }
        {
            let mut all = self.all();
            let container = all.get_mut(id).ok_or_else(|| Self::none(id))?;
            container.running = true;
            (container.deadline, container.watchdog) = (permit, false);
            container.error.clear();
            let tested = container.healthy.is_some();
            container.healthy = tested
                .then(|| self.world.now() + Duration::from_millis(500 + self.world.below(4000)));
            let ran = self.ran(id, container);
            drop(all);
            self.books.started(&ran);
        }
        self.publish("start", id);
        self.becomes_healthy(id);
        self.takes(30).await;
        Ok(())
    }

    /// Says so when it does.
    fn becomes_healthy(&self, id: &str) {
        let healthy = self.all().get(id).and_then(|c| c.healthy);
        if let Some(at) = healthy {
            let (world, events, id) = (self.world.clone(), self.events.clone(), id.to_owned());
            self.world.spawn_in(0, async move {
                world.sleep(at.saturating_sub(world.now())).await;
                let event = Event::now("container", "health_status: healthy", &id, BTreeMap::new());
                let _ = events.send(event);
            });
        }
    }

    async fn stops(&self, id: &str) -> Result<(), EngineError> {
        let time = {
            let all = self.all();
            let found = all.get(id).ok_or_else(|| Self::none(id))?;
            if !found.running {
                return Err(EngineError::NotModified);
            }
            found.stop
        };
        self.world.sleep(time).await;
        self.ends(id, 143, "it was stopped");
        self.takes(20).await;
        Ok(())
    }
}

impl Containers for Table {
    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn look(&self, id: &str) -> Option<Look> {
        let now = self.world.now();
        let all = self.all();
        let found = all.get(id)?;
        let phase = match (found.running, found.ended.is_some()) {
            (true, _) => Phase::Running,
            (false, true) => Phase::Exited,
            (false, false) => Phase::Created,
        };
        let health = found.healthy.filter(|_| found.running);
        Some(Look {
            phase,
            exit_code: found.code,
            finished_at: found.ended,
            name: found.name.clone(),
            image: None,
            oom_killed: false,
            watchdog: found.watchdog,
            error: found.error.clone(),
            health: health.map(|at| if now >= at { "healthy" } else { "starting" }),
            ports: Vec::new(),
        })
    }

    fn have_ports<'a>(
        &'a self,
        _service: &'a str,
        _ports: &'a [PublishedPort],
    ) -> Doing<'a, (), String> {
        Box::pin(async { Ok(()) })
    }

    fn of_unit(&self, uid: &str) -> Vec<String> {
        let all = self.all();
        let own = all.iter().filter(|(_, c)| c.uid == uid);
        own.map(|(id, _)| id.clone()).collect()
    }

    fn create(&self, name: String, request: CreateRequest) -> Doing<'_, String> {
        Box::pin(async move {
            self.takes(100).await;
            let label = |key: &str| request.config.labels.get(key).cloned().unwrap_or_default();
            let (unit, uid) = (label(UNIT_LABEL), label(UID_LABEL));
            let id = format!("{:032x}", self.world.below(u64::MAX));
            {
                let mut all = self.all();
                if let Some((_, other)) = all.iter().find(|(_, c)| c.name == name) {
                    let of = &other.uid;
                    return Err(EngineError::Conflict(format!("{name} is there, of {of}")));
                }
                let container = Container {
                    name,
                    deadline: None,
                    watchdog: false,
                    healthy: request
                        .config
                        .healthcheck
                        .is_some()
                        .then_some(Duration::ZERO),
                    stop: Duration::from_millis(self.world.below(1500)),
                    broken: request.config.env.iter().any(|e| e == BROKEN),
                    unit,
                    uid,
                    running: false,
                    code: 0,
                    ended: None,
                    error: String::new(),
                };
                all.insert(id.clone(), container);
            }
            self.publish("create", &id);
            self.takes(30).await;
            Ok(id)
        })
    }

    fn rename<'a>(&'a self, id: &'a str, name: &'a str) -> Doing<'a, ()> {
        Box::pin(async move {
            self.takes(20).await;
            let mut all = self.all();
            if all.values().any(|c| c.name == name) {
                return Err(EngineError::Conflict(format!("{name} is there")));
            }
            let found = all.get_mut(id).ok_or_else(|| Self::none(id))?;
            name.clone_into(&mut found.name);
            Ok(())
        })
    }

    fn start<'a>(&'a self, id: &'a str) -> Doing<'a, ()> {
        Box::pin(self.starts(id, None))
    }

    fn start_permitted<'a>(&'a self, id: &'a str, permit: Permit) -> Doing<'a, ()> {
        Box::pin(self.starts(id, until(permit)))
    }

    fn permit(&self, permit: Permit) {
        let mut known = self.permit.lock().unwrap_or_else(PoisonError::into_inner);
        let end = |permit| until(permit).unwrap_or_default();
        let is_older = matches!(
            (*known, permit),
            (Permit::Until { .. }, Permit::Until { .. })
        ) && end(permit) < end(*known);
        if !is_older {
            *known = permit;
        }
    }

    fn claim(&self, _: &str) {
        // Nobody starts anything by hand here.
    }

    fn release<'a>(&'a self, id: &'a str) -> Doing<'a, ()> {
        if let Some(container) = self.all().get_mut(id) {
            container.deadline = None;
        }
        Box::pin(async { Ok(()) })
    }

    fn prolong<'a>(&'a self, id: &'a str) -> Doing<'a, ()> {
        let known = *self.permit.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(container) = self.all().get_mut(id).filter(|c| c.running) {
            container.deadline = match known {
                Permit::Unknown => container.deadline,
                Permit::Unlimited => None,
                Permit::Until { .. } => container.deadline.max(until(known)),
            };
        }
        Box::pin(async { Ok(()) })
    }

    fn prolong_commands(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {})
    }

    fn serve(&self, _: &str, _: bool) {}

    fn inbound(&self, _: &str, _: &mut BTreeSet<u16>) -> Option<usize> {
        None
    }

    fn stop<'a>(&'a self, id: &'a str, _: Option<&'a str>, _: Option<Duration>) -> Doing<'a, ()> {
        Box::pin(self.stops(id))
    }

    fn remove<'a>(&'a self, id: &'a str) -> Doing<'a, ()> {
        Box::pin(async move {
            self.takes(50).await;
            if self.books.never_removes {
                return Ok(());
            }
            self.ends(id, 137, "it was removed");
            let gone = self.all().remove(id);
            if gone.is_none() {
                return Err(Self::none(id));
            }
            self.publish("destroy", id);
            self.takes(20).await;
            Ok(())
        })
    }

    fn have_image<'a>(&'a self, _: &'a str, _: &'a str) -> Doing<'a, (), NotUp> {
        Box::pin(async move {
            self.takes(if self.world.one_in(10) { 5000 } else { 50 })
                .await;
            Ok(())
        })
    }

    fn pinned(&self, _: &str) -> Option<Pinned> {
        None
    }

    fn have_volume(&self, _: &VolumeUnit) -> Result<(), EngineError> {
        Ok(())
    }

    fn processes(&self) -> Pin<Box<dyn Future<Output = Processes> + Send + '_>> {
        Box::pin(async { Vec::new() })
    }

    fn logs(&self, _: &str, _: LogQuery) -> Result<mpsc::Receiver<LogLine>, EngineError> {
        Ok(mpsc::channel(1).1)
    }

    fn state_dir(&self) -> &Path {
        &self.dir
    }
}

/// The end of a permit.
fn until(permit: Permit) -> Option<Duration> {
    match permit {
        Permit::Until { until_ms, .. } => Some(Duration::from_millis(until_ms)),
        Permit::Unknown => Some(Duration::ZERO),
        Permit::Unlimited => None,
    }
}

/// Units that cannot be started on some machines.
pub(crate) type Bad = BTreeMap<String, BTreeSet<usize>>;
