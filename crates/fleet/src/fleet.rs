//! Units as people handle them: submitted, started, stopped, looked at, destroyed.

use crate::error::{FleetError, Result};
use crate::machine;
use crate::model::{
    Active, Actual, Desired, Dropin, Machine, RevisionRecord, UnitRecord, UnitView, VERSION, keys,
};
use crate::order::{self, Units};
use crate::plan::Goal;
use crate::supervise::Supervised;
use crate::translate::{self, TranslateError, UID_LABEL};
use chrono::Utc;
use coracle_engine::logs::{LogLine, LogQuery};
use coracle_engine::remove::RemoveOptions;
use coracle_engine::{Engine, EngineError};
use coracle_store::{
    DeleteRangeRequest, PutRequest, Store, StoreError, StoreExt, TxnOp, TxnRequest,
};
use coracle_unit::fleet::FleetSection;
use coracle_unit::{Diagnostic, Diagnostics, Kind, Unit, UnitKind, UnitName, load};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Seconds of the machine's lease.
const LEASE: i64 = 10;
/// Lines of output that a failed start shows.
const LAST_LINES: usize = 10;

/// The units of one machine. Cheap to clone; all clones are one fleet.
#[derive(Clone)]
pub struct Fleet(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    engine: Engine,
    machine: Machine,
    boot_id: String,
    units: RwLock<BTreeMap<String, Arc<Supervised>>>,
    /// Ticks whenever a unit's state changes.
    changes: watch::Sender<u64>,
    /// One change at a time.
    change: tokio::sync::Mutex<()>,
}

/// A unit with its text.
#[derive(Debug, Clone)]
pub struct UnitText {
    /// The file.
    pub text: String,
    /// Drop-ins.
    pub dropins: Vec<Dropin>,
}

impl Fleet {
    /// Reads the units from the store, registers this machine, and brings every unit to where it was asked to be.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(store: Arc<dyn Store>, engine: Engine) -> Result<Self> {
        let machine = machine::facts(engine.machine_id());
        let fleet = Self(Arc::new(Inner {
            store,
            engine,
            machine,
            boot_id: machine::boot_id(),
            units: RwLock::default(),
            changes: watch::Sender::new(0),
            change: tokio::sync::Mutex::default(),
        }));
        fleet.register().await?;
        fleet.load_all().await?;
        for supervised in fleet.all() {
            fleet.drive(&supervised);
        }
        Ok(fleet)
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(crate) fn boot_id(&self) -> &str {
        &self.0.boot_id
    }

    pub(crate) fn changes(&self) -> &watch::Sender<u64> {
        &self.0.changes
    }

    /// This machine.
    pub fn machine(&self) -> &Machine {
        &self.0.machine
    }

    /// Every machine that is known, and whether it is alive.
    ///
    /// # Errors
    /// [`FleetError::Store`].
    pub async fn machines(&self) -> Result<Vec<(Machine, bool)>> {
        let mut all = Vec::new();
        for kv in self.0.store.list(keys::machine("")).await?.kvs {
            let Ok(machine) = serde_json::from_slice::<Machine>(&kv.value) else {
                continue;
            };
            let alive = self.0.store.get(keys::alive(&machine.id)).await?.is_some();
            all.push((machine, alive));
        }
        Ok(all)
    }

    /// Writes the facts, and the presence under a lease that is kept as long as this daemon lives.
    async fn register(&self) -> Result<()> {
        let machine = &self.0.machine;
        self.0
            .store
            .put_json(&keys::machine(&machine.id), machine)
            .await?;
        let lease = self.0.store.lease_grant(LEASE, 0).await?.id;
        let alive =
            PutRequest::new(keys::alive(&machine.id), machine.since.to_rfc3339()).with_lease(lease);
        self.0.store.put(alive).await?;
        let weak = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(3)).await;
                let Some(inner) = weak.upgrade() else { return };
                if let Err(error) = inner.store.lease_keep_alive(lease).await {
                    tracing::error!(
                        error = coracle_engine::full_error(&error),
                        "the machine's lease could not be kept"
                    );
                }
            }
        });
        Ok(())
    }

    async fn load_all(&self) -> Result<()> {
        let mut loaded = BTreeMap::new();
        for kv in self.0.store.list(keys::UNITS).await?.kvs {
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            let name = key.strip_prefix(keys::UNITS).unwrap_or(&key).to_owned();
            let read = async {
                let record: UnitRecord =
                    serde_json::from_slice(&kv.value).map_err(|e| StoreError::Json {
                        key: key.clone(),
                        source: Arc::new(e),
                    })?;
                let revision = self.revision(&record).await?;
                let unit = self.parse(&name, &revision.text, &revision.dropins)?;
                let actual = self
                    .0
                    .store
                    .get_json::<Actual>(&keys::actual(&self.0.machine.id, &record.uid))
                    .await?;
                let actual = actual.map_or_else(|| Actual::new(&name, Utc::now()), |(a, _)| a);
                Ok::<_, FleetError>(Supervised::new(record, unit, actual))
            };
            match read.await {
                Ok(supervised) => {
                    loaded.insert(name, supervised);
                }
                // One that cannot be read, perhaps of a newer release, must not keep the others from running.
                Err(error) => tracing::error!(
                    unit = name,
                    error = coracle_engine::full_error(&error),
                    "the unit cannot be read"
                ),
            }
        }
        *self.0.units.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(())
    }

    async fn revision(&self, record: &UnitRecord) -> Result<RevisionRecord> {
        let key = keys::revision(&record.uid, record.revision);
        let found = self.0.store.get_json::<RevisionRecord>(&key).await?;
        Ok(found.ok_or_else(|| FleetError::NotFound(key))?.0)
    }

    pub(crate) async fn write_actual(&self, uid: &str, actual: &Actual) -> Result<()> {
        self.0
            .store
            .put_json(&keys::actual(&self.0.machine.id, uid), actual)
            .await?;
        Ok(())
    }

    pub(crate) fn all(&self) -> Vec<Arc<Supervised>> {
        self.0
            .units
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    pub(crate) fn supervised(&self, name: &str) -> Option<Arc<Supervised>> {
        self.0
            .units
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    /// Every unit's file, by name.
    pub(crate) fn units(&self) -> Units {
        self.all()
            .iter()
            .map(|s| (s.unit().name.to_string(), (*s.unit()).clone()))
            .collect()
    }

    fn parse(&self, name: &str, text: &str, dropins: &[Dropin]) -> Result<Unit> {
        let name = UnitName::new(name)?;
        let dropins: Vec<(String, String)> = dropins
            .iter()
            .map(|d| (d.file.clone(), d.text.clone()))
            .collect();
        load(&name, text, &dropins, &machine::specifiers(&self.0.machine))
            .map_err(FleetError::Refused)
    }

    /// What is read and not honoured yet is refused here, by name.
    fn honour(&self, unit: &Unit) -> Result<()> {
        let none = FleetSection::default();
        let fleet = &unit.fleet;
        let other_machine = fleet
            .machine_id
            .as_ref()
            .is_some_and(|id| *id != self.0.machine.id);
        let refused = [
            ("MachineID", other_machine),
            ("MachineOf", fleet.machine_of != none.machine_of),
            (
                "MachineMetadata",
                fleet.machine_metadata != none.machine_metadata,
            ),
            ("Conflicts", fleet.conflicts != none.conflicts),
            ("Global", fleet.global),
            ("Replaces", fleet.replaces != none.replaces),
        ];
        if let Some((key, _)) = refused.iter().find(|(_, given)| *given) {
            return Err(FleetError::Unsupported {
                unit: unit.name.to_string(),
                what: format!("[X-Fleet] {key}="),
                way_out: "it places units on machines, and this release runs one machine: leave it out",
            });
        }
        let unsupported = |what: &str, way_out| FleetError::Unsupported {
            unit: unit.name.to_string(),
            what: what.to_owned(),
            way_out,
        };
        if let Some(service) = crate::service::section(unit) {
            let limited = [
                ("MemoryMax", service.memory_max.is_some()),
                ("CPUQuota", service.cpu_quota.is_some()),
                ("TasksMax", service.tasks_max.is_some()),
            ];
            if let Some((key, _)) = limited.iter().find(|(_, given)| *given) {
                return Err(unsupported(
                    &format!("[Service] {key}="),
                    "limits are set on containers: use Memory= and PidsLimit= of a [Container]",
                ));
            }
            let commands = [
                &service.exec_condition,
                &service.exec_start_pre,
                &service.exec_start,
                &service.exec_start_post,
                &service.exec_stop,
                &service.exec_stop_post,
            ];
            if commands
                .iter()
                .any(|list| list.iter().any(|c| c.argv0.is_some()))
            {
                return Err(unsupported(
                    "[Service] a command with @",
                    "its program is called by its own name: leave the @ out",
                ));
            }
            if !service.exec_reload.is_empty() {
                return Err(unsupported(
                    "[Service] ExecReload=",
                    "restart the unit, or send a signal with `coracle kill`",
                ));
            }
        }
        if let Kind::Network(network) = &unit.kind
            && network.disable_dns
        {
            return Err(unsupported(
                "[Network] DisableDNS=",
                "names are served on every network: leave it out",
            ));
        }
        if let Kind::Container { .. } = &unit.kind {
            let mut units = self.units();
            units.insert(unit.name.to_string(), unit.clone());
            match translate::request(unit, "", &units) {
                Ok(request) => coracle_engine::model::check::check(&request)?,
                // Volumes and networks may be submitted later, files may be written later; starting needs them.
                Err(
                    TranslateError::File { .. }
                    | TranslateError::Unsupported {
                        way_out: "submit that unit first",
                        ..
                    },
                ) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes a unit's text. A unit of that name gets it as its next revision, which runs from its next start on.
    ///
    /// # Errors
    /// [`FleetError::Refused`] with everything that is wrong, [`FleetError::Unsupported`].
    pub async fn submit(&self, name: &str, text: &str, dropins: Vec<Dropin>) -> Result<UnitView> {
        let name = UnitName::new(name)?;
        let unit = self.parse(name.as_str(), text, &dropins)?;
        self.honour(&unit)?;
        let _one = self.0.change.lock().await;
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
        };
        self.write(name.as_str(), &record, Some(&revision)).await?;
        let supervised = Supervised::new(record, unit, Actual::new(name.as_str(), Utc::now()));
        let mut units = self.0.units.write().unwrap_or_else(PoisonError::into_inner);
        units.insert(name.to_string(), supervised.clone());
        drop(units);
        self.drive(&supervised);
        Ok(supervised)
    }

    /// Writes a unit, its desired state, and a new text, all at one revision of the store.
    async fn write(
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
            Desired::Inactive => TxnOp::Delete(DeleteRangeRequest::key(desired)),
        });
        self.0
            .store
            .txn(TxnRequest {
                compare: vec![],
                success,
                failure: vec![],
            })
            .await?;
        Ok(())
    }

    /// Finds a unit as a person names it: with its suffix, or without if that is clear. An instance of a template that was
    /// submitted is made here.
    async fn find(&self, text: &str) -> Result<Arc<Supervised>> {
        let candidates: Vec<String> = if UnitName::new(text).is_ok() {
            vec![text.to_owned()]
        } else {
            ["container", "service", "volume", "network"]
                .map(|s| format!("{text}.{s}"))
                .to_vec()
        };
        for candidate in &candidates {
            if let Some(found) = self.supervised(candidate) {
                return Ok(found);
            }
        }
        for candidate in &candidates {
            let name = UnitName::new(candidate)?;
            let Some(template) = name.template().filter(|_| name.instance().is_some()) else {
                continue;
            };
            if let Some(template) = self.supervised(template.as_str()) {
                let revision = self.revision(&template.record()).await?;
                let unit = self.parse(name.as_str(), &revision.text, &revision.dropins)?;
                return self.store_text(&name, revision, unit).await;
            }
        }
        Err(FleetError::NotFound(text.to_owned()))
    }

    /// An instance takes its template's present text when it is started.
    async fn refresh(&self, supervised: &Arc<Supervised>) -> Result<()> {
        let name = supervised.unit().name.clone();
        let Some(template) = name.template().filter(|_| name.instance().is_some()) else {
            return Ok(());
        };
        if let Some(template) = self.supervised(template.as_str()) {
            let revision = self.revision(&template.record()).await?;
            let unit = self.parse(name.as_str(), &revision.text, &revision.dropins)?;
            self.store_text(&name, revision, unit).await?;
        }
        Ok(())
    }

    /// Starts a unit and all that it needs; with `block` returns once it is up.
    ///
    /// # Errors
    /// What is missing or goes in a circle, by name; with `block` also why it did not come up.
    pub async fn start(&self, name: &str, block: bool) -> Result<UnitView> {
        let supervised = self.ask(name, false).await?;
        self.finish(supervised, block).await
    }

    /// Stops a unit, with those that need it, and starts them again.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn restart(&self, name: &str, block: bool) -> Result<UnitView> {
        let supervised = self.ask(name, true).await?;
        self.finish(supervised, block).await
    }

    async fn finish(&self, supervised: Arc<Supervised>, block: bool) -> Result<UnitView> {
        if block {
            self.wait_up(&supervised).await?;
        }
        Ok(self.view(&supervised))
    }

    async fn ask(&self, name: &str, anew: bool) -> Result<Arc<Supervised>> {
        let _one = self.0.change.lock().await;
        let supervised = self.find(name).await?;
        let unit = supervised.unit();
        if unit.name.is_template() {
            let example = unit
                .name
                .instantiate("1")
                .map_or_else(|_| String::new(), |n| n.to_string());
            return Err(FleetError::Template(unit.name.to_string(), example));
        }
        self.refresh(&supervised).await?;
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

    async fn halt(&self, name: &str) -> Result<()> {
        let Some(one) = self.supervised(name) else {
            return Ok(());
        };
        let mut record = one.record();
        if record.desired == Desired::Active {
            record.desired = Desired::Inactive;
            self.write(name, &record, None).await?;
            one.set(record, None);
        } else {
            // A failed one is asked to be forgiven.
            one.set(record, None);
        }
        Ok(())
    }

    /// Stops a unit and those that need it; with `block` returns once it is down.
    ///
    /// # Errors
    /// [`FleetError::NotFound`], [`FleetError::Store`].
    pub async fn stop(&self, name: &str, block: bool) -> Result<UnitView> {
        let supervised = {
            let _one = self.0.change.lock().await;
            let supervised = self.find(name).await?;
            let own = supervised.unit().name.to_string();
            for one in order::stop(&[own], &self.units()) {
                self.halt(&one).await?;
            }
            supervised
        };
        if block {
            self.wait_down(&supervised).await;
        }
        Ok(self.view(&supervised))
    }

    async fn wait_down(&self, supervised: &Arc<Supervised>) {
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
        let name = {
            let found = self.supervised(name);
            let found = match found {
                Some(found) => found,
                None => self.find(name).await?,
            };
            found.unit().name.to_string()
        };
        self.stop(&name, true).await?;
        let _one = self.0.change.lock().await;
        let Some(supervised) = self.supervised(&name) else {
            return Err(FleetError::NotFound(name));
        };
        supervised.set_task(None);
        let record = supervised.record();
        for old in self.0.engine.list() {
            if old
                .record
                .config
                .labels
                .get(UID_LABEL)
                .is_some_and(|l| *l == record.uid)
            {
                let options = RemoveOptions {
                    force: true,
                    volumes: true,
                };
                match self.0.engine.remove(old.record.id.as_str(), options).await {
                    Ok(()) | Err(EngineError::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        let machine = &self.0.machine.id;
        let success = vec![
            TxnOp::Delete(DeleteRangeRequest::key(keys::unit(&name))),
            TxnOp::Delete(DeleteRangeRequest::prefix(keys::revisions(&record.uid))),
            TxnOp::Delete(DeleteRangeRequest::key(keys::desired(machine, &record.uid))),
            TxnOp::Delete(DeleteRangeRequest::key(keys::actual(machine, &record.uid))),
        ];
        self.0
            .store
            .txn(TxnRequest {
                compare: vec![],
                success,
                failure: vec![],
            })
            .await?;
        self.0
            .units
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&name);
        let _ = std::fs::remove_dir_all(
            self.0
                .engine
                .options()
                .state_dir
                .join("units")
                .join(&record.uid),
        );
        Ok(())
    }

    /// One unit.
    ///
    /// # Errors
    /// [`FleetError::NotFound`].
    pub async fn get(&self, name: &str) -> Result<(UnitView, UnitText)> {
        let supervised = self.named(name)?;
        let revision = self.revision(&supervised.record()).await?;
        Ok((
            self.view(&supervised),
            UnitText {
                text: revision.text,
                dropins: revision.dropins,
            },
        ))
    }

    /// As [`Self::find`], without making instances.
    fn named(&self, text: &str) -> Result<Arc<Supervised>> {
        let with = ["", ".container", ".service", ".volume", ".network"];
        with.iter()
            .find_map(|s| self.supervised(&format!("{text}{s}")))
            .ok_or_else(|| FleetError::NotFound(text.to_owned()))
    }

    /// Every unit, by name.
    pub fn list(&self) -> Vec<UnitView> {
        self.all().iter().map(|s| self.view(s)).collect()
    }

    fn view(&self, supervised: &Supervised) -> UnitView {
        let (record, unit, actual) = (supervised.record(), supervised.unit(), supervised.actual());
        let container = actual
            .container
            .as_deref()
            .and_then(|id| self.0.engine.get(id).ok());
        let ports = container.as_ref().map_or_else(Vec::new, |c| {
            let port = |p: &coracle_network::PortMapping| {
                format!(
                    "{}:{}->{}/{}",
                    p.host_ip, p.host_port, p.container_port, p.protocol
                )
            };
            c.record.state.ports.iter().map(port).collect()
        });
        UnitView {
            name: unit.name.to_string(),
            kind: unit.name.kind().suffix().to_owned(),
            description: unit.description.clone(),
            desired: record.desired,
            active: actual.active,
            sub: actual.sub.clone(),
            since: (actual.generation > 0).then_some(actual.since),
            machine: self.0.machine.id.clone(),
            health: container
                .as_ref()
                .and_then(|c| c.health.as_ref())
                .map(|h| h.status.to_owned()),
            container: container.map(|c| c.record.id.to_string()),
            reason: actual.reason.clone(),
            ports,
            template: unit.name.is_template(),
            outdated: actual.generation > 0 && actual.revision != record.revision,
            restarts: actual.restarts,
        }
    }

    /// A unit's output.
    ///
    /// # Errors
    /// [`FleetError::NotFound`], or [`FleetError::Unsupported`] for units that say nothing.
    pub fn logs(&self, name: &str, query: LogQuery) -> Result<mpsc::Receiver<LogLine>> {
        let supervised = self.named(name)?;
        let unit = supervised.unit();
        match unit.name.kind() {
            UnitKind::Container => match supervised.actual().container {
                Some(id) => Ok(self.0.engine.logs(&id, query)?),
                None => Ok(mpsc::channel(1).1),
            },
            UnitKind::Service => Ok(self
                .0
                .engine
                .process_logs(supervised.log_path(&self.0.engine), query)),
            _ => Err(FleetError::Unsupported {
                unit: unit.name.to_string(),
                what: "a log".into(),
                way_out: "volumes and networks say nothing",
            }),
        }
    }

    /// Lets go of every unit, which stay as they were asked to be for the next daemon. For a machine that goes down.
    pub async fn shutdown(&self) {
        let _one = self.0.change.lock().await;
        for supervised in self.all() {
            supervised.set_task(None);
            // The next daemon starts them again: what ended now ended because everything did.
            let actual = supervised.actual();
            if supervised.goal.borrow().desired == Desired::Active
                && actual.active != Active::Failed
            {
                let next = Actual {
                    boot_id: String::new(),
                    settled: false,
                    ..actual
                };
                if let Err(error) = self.write_actual(&supervised.record().uid, &next).await {
                    tracing::error!(
                        unit = next.unit,
                        error = coracle_engine::full_error(&error),
                        "where the unit stands could not be written"
                    );
                }
            }
        }
    }
}

/// Everything that is wrong with files, without a daemon.
pub fn problems(error: &FleetError) -> Vec<Diagnostic> {
    match error {
        FleetError::Refused(Diagnostics(all)) => all.clone(),
        _ => Vec::new(),
    }
}

/// What a goal looks like in messages.
impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = if self.desired == Desired::Active {
            "active"
        } else {
            "inactive"
        };
        write!(f, "{word} (request {})", self.generation)
    }
}
