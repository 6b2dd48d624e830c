//! What people ask: submit, start, stop, restart, destroy.
//!
//! One change at a time: each is written to the store as one transaction, then told to the units' drivers, which do it.

use crate::error::{FleetError, Result};
use crate::fleet::Fleet;
use crate::model::{
    Active, Actual, Desired, Dropin, RevisionRecord, UnitRecord, UnitView, VERSION, keys,
};
use crate::order;
use crate::supervise::Supervised;
use crate::translate::UID_LABEL;
use chrono::Utc;
use coracle_engine::EngineError;
use coracle_engine::logs::LogQuery;
use coracle_engine::process::State;
use coracle_engine::remove::RemoveOptions;
use coracle_store::{DeleteRangeRequest, PutRequest, StoreError, TxnOp, TxnRequest};
use coracle_unit::{Kind, Unit, UnitName};
use std::sync::{Arc, PoisonError};

/// Lines of output that a failed start shows.
const LAST_LINES: usize = 10;

/// The full names that a person may mean.
fn candidates(text: &str) -> Vec<String> {
    if UnitName::new(text).is_ok() {
        return vec![text.to_owned()];
    }
    let kinds = ["container", "service", "volume", "network"];
    kinds.map(|kind| format!("{text}.{kind}")).to_vec()
}

impl Fleet {
    /// Takes a unit's text. A unit of that name gets it as its next revision, which runs from its next start on.
    ///
    /// # Errors
    /// [`FleetError::Refused`] with everything that is wrong, [`FleetError::Unsupported`].
    pub async fn submit(&self, name: &str, text: &str, dropins: Vec<Dropin>) -> Result<UnitView> {
        let name = UnitName::new(name)?;
        let unit = self.parse(name.as_str(), text, &dropins)?;
        self.honour(&unit)?;
        let _one = self.change().await?;
        let revision = RevisionRecord {
            version: VERSION,
            text: text.to_owned(),
            dropins,
            created: Utc::now(),
        };
        let supervised = self.store_text(&name, revision, unit).await?;
        Ok(self.view(&supervised))
    }

    async fn store_text(
        &self,
        name: &UnitName,
        revision: RevisionRecord,
        unit: Unit,
    ) -> Result<Arc<Supervised>> {
        if let Some(supervised) = self.supervised(name.as_str()) {
            let mut record = supervised.record();
            let present = self.revision(&record).await?;
            if present.text == revision.text && present.dropins == revision.dropins {
                return Ok(supervised);
            }
            record.revision += 1;
            self.write(name.as_str(), &record, Some(&revision)).await?;
            supervised.set(record, Some(unit));
            return Ok(supervised);
        }
        let uid = coracle_engine::id::random_hex().map_err(EngineError::from)?[..32].to_owned();
        let record = UnitRecord {
            version: VERSION,
            uid,
            revision: 1,
            desired: Desired::Inactive,
            generation: 0,
            started_by: None,
        };
        self.write(name.as_str(), &record, Some(&revision)).await?;
        let supervised =
            Supervised::new(record, unit, None, Actual::new(name.as_str(), Utc::now()));
        let mut units = self.0.units.write().unwrap_or_else(PoisonError::into_inner);
        units.insert(name.to_string(), supervised.clone());
        drop(units);
        self.drive(&supervised);
        Ok(supervised)
    }

    /// Writes a unit, its desired state, and a new text, all at one revision of the store.
    pub(crate) async fn write(
        &self,
        name: &str,
        record: &UnitRecord,
        revision: Option<&RevisionRecord>,
    ) -> Result<()> {
        let json = |key: String, value: serde_json::Result<Vec<u8>>| match value {
            Ok(value) => Ok(TxnOp::Put(PutRequest::new(key, value))),
            Err(source) => Err(StoreError::Json {
                key,
                source: Arc::new(source),
            }),
        };
        let desired = keys::desired(&self.0.machine.id, &record.uid);
        let mut success = vec![json(keys::unit(name), serde_json::to_vec(record))?];
        if let Some(revision) = revision {
            success.push(json(
                keys::revision(&record.uid, record.revision),
                serde_json::to_vec(revision),
            )?);
        }
        success.push(match record.desired {
            Desired::Active => json(desired, serde_json::to_vec(&serde_json::json!({
                "version": VERSION, "unit": name, "revision": record.revision, "generation": record.generation,
            })))?,
            Desired::Inactive | Desired::Loaded => {
                TxnOp::Delete(DeleteRangeRequest::key(desired))
            }
        });
        let all = TxnRequest {
            success,
            ..TxnRequest::default()
        };
        self.0.store.txn(all).await?;
        Ok(())
    }

    /// One change at a time, and none any more when everything goes down.
    pub(crate) async fn change(&self) -> Result<tokio::sync::MutexGuard<'_, ()>> {
        let one = self.0.change.lock().await;
        if self.is_leaving() {
            return Err(FleetError::Leaving);
        }
        Ok(one)
    }

    /// Finds a unit as a person names it. An instance of a template that was submitted is made here.
    pub(crate) async fn find(&self, text: &str) -> Result<Arc<Supervised>> {
        if let Ok(found) = self.named(text) {
            return Ok(found);
        }
        for candidate in candidates(text) {
            if let Some(made) = self.instance(&UnitName::new(&candidate)?).await? {
                return Ok(made);
            }
        }
        Err(FleetError::NotFound(text.to_owned()))
    }

    /// An instance with its template's present text; nothing for other names, or without the template.
    async fn instance(&self, name: &UnitName) -> Result<Option<Arc<Supervised>>> {
        let template = name.template().filter(|_| name.instance().is_some());
        let Some(template) = template.and_then(|t| self.supervised(t.as_str())) else {
            return Ok(None);
        };
        let revision = self.revision(&template.record()).await?;
        let unit = self.parse(name.as_str(), &revision.text, &revision.dropins)?;
        self.store_text(name, revision, unit).await.map(Some)
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
        let supervised = self.ask(name, false, request).await?;
        self.finish(supervised, block).await
    }

    /// Stops a unit, with those that need it, and starts them again.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn restart(&self, name: &str, block: bool) -> Result<UnitView> {
        let supervised = self.ask(name, true, None).await?;
        self.finish(supervised, block).await
    }

    /// Runs a service's `ExecReload=`.
    ///
    /// # Errors
    /// [`FleetError::Unsupported`] for a unit without it, [`FleetError::Failed`] if it does not run or a command fails.
    pub async fn reload(&self, name: &str) -> Result<UnitView> {
        let supervised = self.named(name)?;
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
            Ok(()) => Ok(self.view(&supervised)),
            Err(problem) => {
                let log = self.last_lines(&supervised.actual()).await;
                Err(FleetError::Failed {
                    unit: unit.name.to_string(),
                    reason: problem.to_string(),
                    log,
                })
            }
        }
    }

    async fn finish(&self, supervised: Arc<Supervised>, block: bool) -> Result<UnitView> {
        if block {
            self.wait_up(&supervised).await?;
        }
        Ok(self.view(&supervised))
    }

    async fn ask(&self, name: &str, anew: bool, request: Option<&str>) -> Result<Arc<Supervised>> {
        let _one = self.change().await?;
        let supervised = self.find(name).await?;
        if request.is_some() && supervised.record().started_by.as_deref() == request {
            return Ok(supervised);
        }
        let unit = supervised.unit();
        if unit.name.is_template() {
            let example = unit
                .name
                .instantiate("1")
                .map_or_else(|_| String::new(), |n| n.to_string());
            return Err(FleetError::Template(unit.name.to_string(), example));
        }
        // It takes its template's present text whenever it is started.
        self.instance(&unit.name).await?;
        let own = unit.name.to_string();
        self.have_instances(&supervised.unit()).await?;
        let units = self.units();
        let order = order::start(std::slice::from_ref(&own), &units)?;
        for enemy in order.iter().flat_map(|n| order::conflicts(n, &units)) {
            self.halt(&enemy).await?;
        }
        let mut again: Vec<String> = Vec::new();
        if anew {
            // Those that need it go down and come up with it.
            let with = order::stop(std::slice::from_ref(&own), &units);
            let runs = |n: &String| {
                self.supervised(n)
                    .is_some_and(|s| s.goal.borrow().desired == Desired::Active)
            };
            again = with
                .into_iter()
                .filter(|n| *n != own)
                .filter(runs)
                .collect();
        }
        for name in order.iter().chain(&again) {
            let Some(one) = self.supervised(name) else {
                continue;
            };
            let mut record = one.record();
            let actual = one.actual();
            let up = record.desired == Desired::Active
                && !(actual.settled && actual.active != Active::Active);
            let renew = (anew && *name == own) || again.contains(name);
            if up && !renew {
                continue;
            }
            record.desired = Desired::Active;
            record.generation += 1;
            record.started_by = request.filter(|_| *name == own).map(str::to_owned);
            self.write(name, &record, None).await?;
            one.set(record, None);
        }
        Ok(supervised)
    }

    /// Instances of templates that a unit requires.
    async fn have_instances(&self, unit: &Unit) -> Result<()> {
        let needs: Vec<String> = order::requires(unit)
            .into_iter()
            .chain(unit.unit.wants.clone())
            .collect();
        for need in needs {
            if self.supervised(&need).is_none()
                && UnitName::new(&need).is_ok_and(|n| n.instance().is_some())
            {
                match Box::pin(self.find(&need)).await {
                    Ok(_) | Err(FleetError::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    async fn wait_up(&self, supervised: &Arc<Supervised>) -> Result<()> {
        let goal = *supervised.goal.borrow();
        let mut actual = supervised.actual.subscribe();
        let there = |a: &Actual| {
            a.generation == goal.generation && (a.active == Active::Active || a.settled)
                || *supervised.goal.borrow() != goal
        };
        let Ok(ended) = actual.wait_for(there).await.map(|a| a.clone()) else {
            return Ok(());
        };
        if ended.active == Active::Failed {
            let log = self.last_lines(&ended).await;
            return Err(FleetError::Failed {
                unit: ended.unit.clone(),
                reason: ended.reason.clone(),
                log,
            });
        }
        Ok(())
    }

    async fn last_lines(&self, actual: &Actual) -> String {
        let query = LogQuery {
            stdout: true,
            stderr: true,
            tail: Some(LAST_LINES),
            ..LogQuery::default()
        };
        let Ok(mut lines) = self.logs(&actual.unit, query) else {
            return String::new();
        };
        let mut text = Vec::new();
        while let Some(line) = lines.recv().await {
            text.push(format!(
                "    {}",
                String::from_utf8_lossy(&line.text).trim_end()
            ));
        }
        text.join("\n")
    }

    pub(crate) async fn halt(&self, name: &str) -> Result<()> {
        let Some(one) = self.supervised(name) else {
            return Ok(());
        };
        let mut record = one.record();
        if record.desired == Desired::Active {
            record.desired = Desired::Inactive;
            self.write(name, &record, None).await?;
        }
        // Also said to one that has failed: it is to be forgiven.
        one.set(record, None);
        Ok(())
    }

    /// Stops a unit and those that need it; with `block` returns once it is down.
    ///
    /// # Errors
    /// [`FleetError::NotFound`], [`FleetError::Store`].
    pub async fn stop(&self, name: &str, block: bool) -> Result<UnitView> {
        let (supervised, order) = {
            let _one = self.change().await?;
            let supervised = self.find(name).await?;
            let own = supervised.unit().name.to_string();
            let order = order::stop(&[own], &self.units());
            for one in &order {
                self.halt(one).await?;
            }
            (supervised, order)
        };
        if block {
            for one in order.iter().filter_map(|n| self.supervised(n)) {
                self.wait_down(&one).await;
            }
        }
        Ok(self.view(&supervised))
    }

    pub(crate) async fn wait_down(&self, supervised: &Arc<Supervised>) {
        if supervised.unit().name.is_template() {
            return;
        }
        let mut actual = supervised.actual.subscribe();
        let down = |a: &Actual| {
            matches!(a.active, Active::Inactive | Active::Failed)
                || supervised.goal.borrow().desired == Desired::Active
        };
        let _ = actual.wait_for(down).await;
    }

    /// Stops a unit and forgets it with its container and texts. Volumes stay.
    ///
    /// # Errors
    /// [`FleetError::NotFound`], [`FleetError::Store`].
    pub async fn destroy(&self, name: &str) -> Result<()> {
        let name = self.named(name)?.unit().name.to_string();
        let (supervised, _one) = loop {
            self.stop(&name, true).await?;
            let one = self.change().await?;
            let Some(supervised) = self.supervised(&name) else {
                return Err(FleetError::NotFound(name));
            };
            // Somebody may have started it again meanwhile, and a driver is never ended in the middle of a step.
            let down = matches!(
                supervised.actual().active,
                Active::Inactive | Active::Failed
            );
            if supervised.goal.borrow().desired != Desired::Active && down {
                break (supervised, one);
            }
        };
        supervised.set_task(None);
        let record = supervised.record();
        self.remove_containers(&record.uid).await?;
        self.clear(&supervised, &supervised.running()).await;
        let machine = &self.0.machine.id;
        let success = vec![
            TxnOp::Delete(DeleteRangeRequest::key(keys::unit(&name))),
            TxnOp::Delete(DeleteRangeRequest::prefix(keys::revisions(&record.uid))),
            TxnOp::Delete(DeleteRangeRequest::key(keys::desired(machine, &record.uid))),
            TxnOp::Delete(DeleteRangeRequest::key(keys::actual(machine, &record.uid))),
        ];
        let all = TxnRequest {
            success,
            ..TxnRequest::default()
        };
        self.0.store.txn(all).await?;
        self.0
            .units
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&name);
        if let Some(dir) = supervised.log_path(self.engine()).parent() {
            let _ = std::fs::remove_dir_all(dir);
        }
        Ok(())
    }

    /// A unit that is there, as a person names it.
    pub(crate) fn named(&self, text: &str) -> Result<Arc<Supervised>> {
        candidates(text)
            .iter()
            .find_map(|name| self.supervised(name))
            .ok_or_else(|| FleetError::NotFound(text.to_owned()))
    }

    /// Removes every container of a unit, with its volumes that have no name.
    pub(crate) async fn remove_containers(&self, uid: &str) -> Result<(), EngineError> {
        let own = |s: &coracle_engine::Snapshot| {
            s.record
                .config
                .labels
                .get(UID_LABEL)
                .is_some_and(|l| l == uid)
        };
        for old in self.engine().list().iter().filter(|s| own(s)) {
            let options = RemoveOptions {
                force: true,
                volumes: true,
            };
            match self.engine().remove(old.record.id.as_str(), options).await {
                Ok(()) | Err(EngineError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
