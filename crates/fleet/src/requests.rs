//! What people ask of the machine that leads: submit, start, stop, restart.
//!
//! One change at a time: each is written to the store as one transaction, then told to the machines, whose units' drivers do it.

use crate::answers::{silence, up_or_not, waits};
use crate::error::{FleetError, Result};
use crate::fleet::Fleet;
use crate::leader::{Change, Leader, Target};
use crate::model::{Active, Actual, Desired, Dropin, RevisionRecord, UnitRecord, UnitView, keys};
use crate::order;
use crate::rollout::has_its_ports;
use crate::supervise::Supervised;
use coracle_engine::logs::LogQuery;
use coracle_engine::process::State;
use coracle_unit::name::NameError;
use coracle_unit::{Kind, Unit, UnitName};
use std::sync::Arc;

/// Lines of output that a failed start shows.
const LAST_LINES: usize = 10;
/// Longest that one of them is kept, in characters.
const LONGEST: usize = 500;

fn indented(lines: &[String]) -> String {
    let lines: Vec<String> = lines.iter().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

/// A unit that is there, as a person names it.
pub(crate) fn named(leader: &Leader, text: &str) -> Result<Arc<Target>> {
    candidates(text)
        .iter()
        .find_map(|name| leader.target(name))
        .ok_or_else(|| FleetError::NotFound(text.to_owned()))
}

/// The full names that a person may mean.
fn candidates(text: &str) -> Vec<String> {
    if UnitName::new(text).is_ok() {
        return vec![text.to_owned()];
    }
    let kinds = ["container", "service", "volume", "network"];
    kinds.map(|kind| format!("{text}.{kind}")).to_vec()
}

impl Fleet {
    /// The leader, if this machine is it.
    pub(crate) fn leading(&self) -> Result<Arc<Leader>> {
        self.0.leader.borrow().clone().ok_or(FleetError::NotLeader)
    }

    /// Takes a unit's text. A unit of that name gets it as its next revision, which runs from its next start on.
    ///
    /// # Errors
    /// [`FleetError::Refused`] with everything that is wrong, [`FleetError::Unsupported`].
    pub async fn submit(&self, name: &str, text: &str, dropins: Vec<Dropin>) -> Result<UnitView> {
        let name = UnitName::new(name)?;
        if name.is_successor() {
            return Err(NameError::Charset(name.to_string(), '+').into());
        }
        let leader = self.leading()?;
        let unit = leader.parse(name.as_str(), text, &dropins)?;
        self.honour(&unit, &leader)?;
        let _one = self.change(&leader).await?;
        let revision = RevisionRecord::new(text, dropins);
        for of in std::iter::once(&name).chain(name.template().as_ref()) {
            self.not_under_way(&leader, of)?;
        }
        leader.write_services().await?;
        has_its_ports(&leader, &unit)?;
        let target = self
            .store_text(&leader, &name, revision, unit, None)
            .await?;
        Ok(self.view(&target))
    }

    /// `of` is the revision of its template that it is, of an instance.
    async fn store_text(
        &self,
        leader: &Leader,
        name: &UnitName,
        revision: RevisionRecord,
        unit: Unit,
        of: Option<u64>,
    ) -> Result<Arc<Target>> {
        if let Some(target) = leader.target(name.as_str()) {
            let mut record = target.record();
            let present = leader.revision(&record).await?;
            if present.is_same(&revision) {
                return Ok(target);
            }
            let mut also = None;
            if record.service.is_some() {
                // Its texts have numbers of their own, the service's go on.
                let number = record.next();
                also = Some(keys::revision(record.service(), number));
                (record.of, record.last) = (Some(number), None);
                record.revision += 1;
            } else if name.instance().is_some() {
                // Its numbers are its own, and its template's stand beside them.
                record.of = of;
                record.revision += 1;
            } else {
                record.revision = record.next();
                (record.of, record.last) = (None, None);
            }
            let text = Some((revision, unit));
            let change = Change {
                text,
                also,
                ..Change::new(&target, record)
            };
            leader.write_units(vec![change]).await?;
            return Ok(target);
        }
        let record = UnitRecord {
            of,
            ..UnitRecord::new(crate::pace::new_uid()?)
        };
        let target = Target::new(record.clone(), unit.clone());
        let change = Change {
            text: Some((revision, unit)),
            ..Change::new(&target, record)
        };
        leader.write_units(vec![change]).await?;
        leader.insert(name.as_str(), target.clone());
        Ok(target)
    }

    /// One change at a time, and none any more when everything goes down.
    pub(crate) async fn change<'a>(
        &self,
        leader: &'a Leader,
    ) -> Result<tokio::sync::MutexGuard<'a, ()>> {
        let one = leader.change_lock.lock().await;
        if self.is_leaving() {
            return Err(FleetError::Leaving);
        }
        Ok(one)
    }

    /// Finds a unit as a person names it. An instance of a template that was submitted is made here.
    pub(crate) async fn find(&self, leader: &Leader, text: &str) -> Result<Arc<Target>> {
        if let Ok(found) = named(leader, text) {
            return Ok(found);
        }
        for candidate in candidates(text) {
            let name = UnitName::new(&candidate)?;
            if let Some(made) = self.instance(leader, &name).await? {
                return Ok(made);
            }
        }
        Err(FleetError::NotFound(text.to_owned()))
    }

    /// An instance with its template's present text; nothing for other names, or without the template.
    async fn instance(&self, leader: &Leader, name: &UnitName) -> Result<Option<Arc<Target>>> {
        let is_one = name.instance().is_some() && !name.is_successor();
        let template = name.template().filter(|_| is_one);
        let Some(template) = template.and_then(|t| leader.target(t.as_str())) else {
            return Ok(None);
        };
        let record = template.record();
        let revision = leader.revision(&record).await?;
        let unit = leader.parse(name.as_str(), &revision.text, &revision.dropins)?;
        let of = Some(record.present());
        self.store_text(leader, name, revision, unit, of)
            .await
            .map(Some)
    }

    /// Starts a unit and all that it needs; with `block` returns once it is up.
    ///
    /// # Errors
    /// What is missing or goes in a circle, by name; with `block` also why it did not come up.
    pub async fn start(&self, name: &str, block: bool) -> Result<UnitView> {
        self.start_once(name, block, None).await
    }

    /// As [`Self::start`]; a request of an id that started it last does nothing more, even if that run has ended.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_once(
        &self,
        name: &str,
        block: bool,
        request: Option<&str>,
    ) -> Result<UnitView> {
        let (leader, target) = self.ask(name, false, request).await?;
        self.finish(&leader, target, block).await
    }

    /// Stops a unit, with those that need it, and starts them again.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn restart(&self, name: &str, block: bool) -> Result<UnitView> {
        let (leader, target) = self.ask(name, true, None).await?;
        self.finish(&leader, target, block).await
    }

    /// Runs a service's `ExecReload=`.
    ///
    /// # Errors
    /// [`FleetError::Unsupported`] for a unit without it, [`FleetError::Failed`] if it does not run or a command fails.
    pub async fn reload(&self, name: &str) -> Result<UnitView> {
        let supervised = self.here(name)?;
        let unit = supervised.running();
        let failed = |reason: String| FleetError::Failed {
            unit: unit.name.to_string(),
            reason,
            log: String::new(),
        };
        let service = match &unit.kind {
            Kind::Service(service) if !service.exec_reload.is_empty() => service,
            _ => {
                return Err(FleetError::Unsupported {
                    unit: unit.name.to_string(),
                    what: "a reload without [Service] ExecReload=".into(),
                    way_out: "add it, or restart the unit",
                });
            }
        };
        let state = match supervised.actual().process {
            Some(main) => self.engine().process_state(&main).await,
            None => None,
        };
        let Some(State::Running { pid, .. }) = state else {
            return Err(failed("it does not run; start it first".into()));
        };
        let mut run = self.run(&supervised, &unit, service);
        run.main_pid = Some(pid);
        match run.reload().await {
            Ok(()) => Ok(self.view_here(&supervised)),
            Err(problem) => {
                let log = self.last_lines(&supervised).await;
                Err(FleetError::Failed {
                    unit: unit.name.to_string(),
                    reason: problem.to_string(),
                    log: indented(&log),
                })
            }
        }
    }

    async fn finish(&self, leader: &Leader, target: Arc<Target>, block: bool) -> Result<UnitView> {
        if block {
            self.wait_up(leader, &target).await?;
        }
        Ok(self.view(&target))
    }

    async fn ask(
        &self,
        name: &str,
        anew: bool,
        request: Option<&str>,
    ) -> Result<(Arc<Leader>, Arc<Target>)> {
        let leader = self.leading()?;
        let one = self.change(&leader).await?;
        let target = self.find(&leader, name).await?;
        if request.is_none() || target.record().started_by.as_deref() != request {
            self.ask_of(&leader, &target, anew, request).await?;
        }
        drop(one);
        Ok((leader, target))
    }

    async fn ask_of(
        &self,
        leader: &Leader,
        target: &Arc<Target>,
        anew: bool,
        request: Option<&str>,
    ) -> Result<()> {
        let unit = target.unit();
        if unit.name.is_template() {
            let example = unit
                .name
                .instantiate("1")
                .map_or_else(|_| String::new(), |n| n.to_string());
            return Err(FleetError::Template(unit.name.to_string(), example));
        }
        // It takes its template's present text whenever it is started.
        self.instance(leader, &unit.name).await?;
        let own = unit.name.to_string();
        self.have_instances(leader, &target.unit()).await?;
        let order = order::start(std::slice::from_ref(&own), leader)?;
        for enemy in order.iter().flat_map(|n| order::conflicts(n, leader)) {
            leader.halt(&enemy).await?;
        }
        let mut again: Vec<String> = Vec::new();
        if anew {
            // Those that need it go down and come up with it.
            let with = order::stop(std::slice::from_ref(&own), leader);
            let runs = |n: &String| {
                let target = leader.target(n);
                target.is_some_and(|t| t.goal.borrow().desired == Desired::Active)
            };
            again = with
                .into_iter()
                .filter(|n| *n != own)
                .filter(runs)
                .collect();
        }
        let mut changes = Vec::new();
        for name in order.iter().chain(&again) {
            let Some(one) = leader.target(name) else {
                continue;
            };
            let mut record = one.record();
            let actual = one.actual();
            let ended = actual.generation == record.generation
                && actual.settled
                && actual.active != Active::Active;
            let up = record.desired == Desired::Active && !ended;
            let renew = (anew && *name == own) || again.contains(name);
            if up && !renew {
                continue;
            }
            record.desired = Desired::Active;
            record.unloaded = false;
            record.generation += 1;
            record.order += 1;
            record.started_by = request.filter(|_| *name == own).map(str::to_owned);
            changes.push(Change::new(&one, record));
        }
        leader.write_units(changes).await
    }

    /// Instances of templates that a unit requires.
    pub(crate) async fn have_instances(&self, leader: &Leader, unit: &Unit) -> Result<()> {
        let needs: Vec<String> = order::requires(unit)
            .into_iter()
            .chain(unit.unit.wants.clone())
            .collect();
        for need in needs {
            if leader.target(&need).is_none()
                && UnitName::new(&need).is_ok_and(|n| n.instance().is_some())
            {
                match Box::pin(self.find(leader, &need)).await {
                    Ok(_) | Err(FleetError::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    async fn wait_up(&self, leader: &Leader, target: &Arc<Target>) -> Result<()> {
        let goal = *target.goal.borrow();
        let mut over = leader.over();
        let ended = tokio::select! {
            biased;
            ended = up_or_not(leader, target, goal) => ended,
            silent = silence(leader, target, goal, "start") => return Err(silent),
            _ = over.wait_for(|over| *over) => return Err(FleetError::NotLeader),
        };
        let Some(ended) = ended else {
            return Ok(());
        };
        let unit = ended.unit.clone();
        if waits(&ended) {
            return Err(FleetError::Waits {
                unit,
                reason: ended.reason,
            });
        }
        if ended.active == Active::Failed {
            return Err(FleetError::Failed {
                unit,
                reason: ended.reason,
                log: indented(&ended.last_lines),
            });
        }
        Ok(())
    }

    /// The last lines of a unit's output.
    pub(crate) async fn last_lines(&self, unit: &Supervised) -> Vec<String> {
        let query = LogQuery {
            stdout: true,
            stderr: true,
            tail: Some(LAST_LINES),
            ..LogQuery::default()
        };
        let Ok(mut lines) = self.logs_of(unit, query) else {
            return Vec::new();
        };
        let mut text = Vec::new();
        while let Some(line) = lines.recv().await {
            let line = String::from_utf8_lossy(&line.text);
            text.push(line.trim_end().chars().take(LONGEST).collect());
        }
        text
    }

    /// Stops a unit and those that need it; with `block` returns once it is down.
    ///
    /// # Errors
    /// [`FleetError::NotFound`], [`FleetError::Store`].
    pub async fn stop(&self, name: &str, block: bool) -> Result<UnitView> {
        let leader = self.leading()?;
        let (target, order) = {
            let _one = self.change(&leader).await?;
            let target = self.find(&leader, name).await?;
            let own = target.unit().name.to_string();
            let order = order::stop(&[own], &*leader);
            for one in &order {
                leader.halt(one).await?;
            }
            (target, order)
        };
        if block {
            for one in order.iter().filter_map(|n| leader.target(n)) {
                self.wait_down(&leader, &one).await?;
            }
        }
        Ok(self.view(&target))
    }

    pub(crate) async fn wait_down(&self, leader: &Leader, target: &Arc<Target>) -> Result<()> {
        if target.unit().name.is_template() {
            return Ok(());
        }
        let mut actual = target.actual.subscribe();
        let down = |a: &Actual| {
            let goal = *target.goal.borrow();
            target.has_ended(goal.order, a) || goal.desired == Desired::Active
        };
        let (mut over, goal) = (leader.over(), *target.goal.borrow());
        tokio::select! {
            biased;
            _ = actual.wait_for(down) => Ok(()),
            silent = silence(leader, target, goal, "stop") => Err(silent),
            _ = over.wait_for(|over| *over) => Err(FleetError::NotLeader),
        }
    }

    /// A unit that this machine has, as a person names it.
    pub(crate) fn here(&self, text: &str) -> Result<Arc<Supervised>> {
        candidates(text)
            .iter()
            .find_map(|name| self.supervised(name))
            .ok_or_else(|| FleetError::NotFound(text.to_owned()))
    }
}
