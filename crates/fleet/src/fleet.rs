//! The fleet: what it keeps, how it is opened, and what it shows.

use crate::error::{FleetError, Result};
use crate::machine;
use crate::model::{Actual, Dropin, Machine, RevisionRecord, UnitRecord, UnitView, keys};
use crate::order::Units;
use crate::supervise::Supervised;
use chrono::Utc;
use coracle_engine::Engine;
use coracle_engine::logs::{LogLine, LogQuery};
use coracle_store::{PutRequest, Store, StoreError, StoreExt, own_lease};
use coracle_unit::{Kind, Unit, UnitKind, UnitName, load};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Seconds of the machine's lease.
const LEASE: i64 = 10;
/// The units of one machine. Cheap to clone; all clones are one fleet.
#[derive(Clone)]
pub struct Fleet(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub store: Arc<dyn Store>,
    engine: Engine,
    pub machine: Machine,
    boot_id: String,
    pub units: RwLock<BTreeMap<String, Arc<Supervised>>>,
    /// Ticks whenever a unit's state changes.
    changes: watch::Sender<u64>,
    /// One change at a time.
    pub change: tokio::sync::Mutex<()>,
    /// Set when everything goes down: the longest wait for one that is to end, if it is not as its unit says.
    pub leaving: OnceLock<Option<Duration>>,
}

/// A unit with its text.
#[derive(Debug, Clone)]
pub struct UnitText {
    /// The file.
    pub text: String,
    /// Drop-ins.
    pub dropins: Vec<Dropin>,
}

impl Inner {
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Says what this machine is, and that it is there as long as the lease that is returned is kept.
    async fn be_present(&self) -> Result<i64, StoreError> {
        let machine = &self.machine;
        self.store
            .put_json(&keys::machine(&machine.id), machine)
            .await?;
        let lease = self.store.lease_grant(LEASE, own_lease()).await?.id;
        let since = self.machine.since.to_rfc3339();
        let alive = PutRequest::new(keys::alive(&self.machine.id), since).with_lease(lease);
        self.store.put(alive).await?;
        Ok(lease)
    }
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
            leaving: OnceLock::new(),
        }));
        let lease = fleet.register().await?;
        fleet.announce(lease);
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

    /// Writes the facts, and the presence under a lease that is kept as long as this daemon lives. A full disk does not keep
    /// the daemon from looking after what runs: it is tried again.
    ///
    /// Answers the lease, 0 while there is none.
    async fn register(&self) -> Result<watch::Receiver<i64>> {
        let mut lease = match self.0.be_present().await {
            Ok(lease) => Some(lease),
            Err(error @ StoreError::NoSpace { .. }) => {
                tracing::error!(
                    error = coracle_engine::full_error(&error),
                    "the machine could not be written down"
                );
                None
            }
            Err(error) => return Err(error.into()),
        };
        let known = watch::Sender::new(lease.unwrap_or(0));
        let follow = known.subscribe();
        let weak = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(3)).await;
                let Some(inner) = weak.upgrade() else { return };
                let kept = match lease {
                    Some(id) => inner.store.lease_keep_alive(id).await.map(|_| id),
                    None => inner.be_present().await,
                };
                match kept {
                    Ok(id) => lease = Some(id),
                    // It ran out while the machine slept.
                    Err(StoreError::LeaseNotFound(_)) => lease = None,
                    Err(error) => tracing::error!(
                        error = coracle_engine::full_error(&error),
                        "the machine's lease could not be kept"
                    ),
                }
                let now = lease.unwrap_or(0);
                known.send_if_modified(|known| std::mem::replace(known, now) != now);
            }
        });
        Ok(follow)
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
                let running = self.running_text(&name, &record, &actual).await;
                Ok::<_, FleetError>(Supervised::new(record, unit, running, actual))
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

    /// The text that a unit runs, if that is not its present one.
    async fn running_text(&self, name: &str, record: &UnitRecord, actual: &Actual) -> Option<Unit> {
        if actual.revision == 0 || actual.revision == record.revision {
            return None;
        }
        let former = UnitRecord {
            revision: actual.revision,
            ..record.clone()
        };
        let read = async {
            let revision = self.revision(&former).await?;
            self.parse(name, &revision.text, &revision.dropins)
        };
        let unread = |error: &FleetError| {
            tracing::warn!(
                unit = name,
                error = coracle_engine::full_error(error),
                "the text that it runs cannot be read; it is stopped as its present text says"
            );
        };
        read.await.inspect_err(unread).ok()
    }

    pub(crate) async fn revision(&self, record: &UnitRecord) -> Result<RevisionRecord> {
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
            .map(|s| s.unit())
            .map(|unit| (unit.name.to_string(), unit))
            .collect()
    }

    pub(crate) fn parse(&self, name: &str, text: &str, dropins: &[Dropin]) -> Result<Unit> {
        let name = UnitName::new(name)?;
        let dropins: Vec<(String, String)> = dropins
            .iter()
            .map(|d| (d.file.clone(), d.text.clone()))
            .collect();
        load(&name, text, &dropins, &machine::specifiers(&self.0.machine))
            .map_err(FleetError::Refused)
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

    /// Images that units name. One that ends with `*` has a specifier there: a template's.
    pub fn images(&self) -> std::collections::BTreeSet<String> {
        let of = |unit: &Unit| match &unit.kind {
            Kind::Container { container, .. } => match container.image.split_once('%') {
                Some((start, _)) => Some(format!("{start}*")),
                None => Some(container.image.clone()),
            },
            _ => None,
        };
        self.all().iter().filter_map(|s| of(&s.unit())).collect()
    }

    /// Every unit, by name.
    pub fn list(&self) -> Vec<UnitView> {
        self.all().iter().map(|s| self.view(s)).collect()
    }

    pub(crate) fn view(&self, supervised: &Supervised) -> UnitView {
        let (record, unit, actual) = (supervised.record(), supervised.unit(), supervised.actual());
        let container = actual
            .container
            .as_deref()
            .and_then(|id| self.0.engine.get(id).ok());
        let ports = container.as_ref().map_or_else(Vec::new, |c| {
            let ports = c.record.state.published();
            ports.map(ToString::to_string).collect()
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
}
