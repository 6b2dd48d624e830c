//! The engine as a whole: what it keeps, how it is opened, and how it looks things up.

use crate::client::Holder;
use crate::container::{Container, Snapshot};
use crate::door::Doors;
use crate::error::{EngineError, Result};
use crate::events::{Event, Events};
use crate::exec::Execs;
use crate::spec::caps;
use crate::table::Table;
use crate::volumes::Volumes;
use coracle_image::{ImageStore, RegistryConfig};
use coracle_network::dns::Zone;
use coracle_network::{Networks, Options as NetworkOptions};
use coracle_sys::cgroup::Layout;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::broadcast;

/// Where an engine keeps what, and how it reaches registries.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Survives a reboot: images, containers, volumes.
    pub state_dir: PathBuf,
    /// Does not: sockets, shims.
    pub run_dir: PathBuf,
    /// Registries.
    pub registry: RegistryConfig,
    /// Networks.
    pub network: NetworkOptions,
    /// The holder's program; beside this program if absent.
    pub holder: Option<PathBuf>,
}

impl EngineOptions {
    /// Everything by default but the directories.
    pub fn new(state_dir: impl Into<PathBuf>, run_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            run_dir: run_dir.into(),
            registry: RegistryConfig::default(),
            network: NetworkOptions::default(),
            holder: None,
        }
    }
}

/// The engine. Cheap to clone; all clones are one engine.
#[derive(Clone)]
pub struct Engine(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub options: EngineOptions,
    pub images: ImageStore,
    pub networks: Arc<Networks>,
    pub volumes: Arc<Volumes>,
    pub events: Events,
    pub holder: Holder,
    pub zone: Arc<Zone>,
    /// What runs on other machines.
    pub remote: std::sync::Mutex<Vec<coracle_network::dns::Remote>>,
    /// Services, and what has become of them.
    pub traffic: crate::services::Traffic,
    /// Held while the names are made anew.
    pub naming: std::sync::Mutex<()>,
    /// Ticks when they have been.
    pub named: tokio::sync::watch::Sender<u64>,
    pub cgroups: Layout,
    /// This daemon's part of each hierarchy.
    pub cgroup_root: String,
    pub machine_id: String,
    /// Capabilities that this machine can give.
    pub available_caps: Vec<String>,
    pub execs: Execs,
    table: RwLock<Table>,
    pub dns: tokio::sync::Mutex<BTreeMap<String, tokio::task::AbortHandle>>,
    pub doors: Doors,
    /// Until when what is exclusive may run.
    pub permit: tokio::sync::watch::Sender<crate::exclusive::Permit>,
    /// Host processes that are exclusive, and how they end: those of this daemon's time, and of earlier ones that it was told of.
    pub permitted: std::sync::Mutex<BTreeMap<String, crate::exclusive::Ending>>,
    /// Everything is being taken down; held for reading while a host process is started.
    pub ends: tokio::sync::RwLock<bool>,
}

impl Engine {
    /// Opens the state, finds or starts the holder, takes over what runs, and applies restart policies to what ended
    /// meanwhile.
    ///
    /// # Errors
    /// When a directory cannot be used, another daemon has it, or the holder does not come up.
    pub async fn open(options: EngineOptions) -> Result<Self> {
        for (dir, mode) in [
            (options.state_dir.clone(), 0o711),
            (options.state_dir.join("containers"), 0o710),
            (options.run_dir.clone(), 0o755),
            (options.run_dir.join("shims"), 0o700),
        ] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(&dir)
                .map_err(EngineError::file("making", &dir))?;
        }
        // The store's lock comes first: it keeps a second daemon out.
        let images = ImageStore::open(&options.state_dir, options.registry.clone())?;
        crate::skeleton::make(&options.state_dir)?;
        let volumes = Volumes::open(&options.state_dir, &options.run_dir)?;
        let machine_id = crate::machine::id(&options.state_dir)?;
        let dir = options.state_dir.clone();
        let network = coracle_network::Options {
            ula: coracle_network::Options::ula_of(&machine_id),
            ..options.network.clone()
        };
        let networks = tokio::task::spawn_blocking(move || Networks::open(&dir, network)).await??;
        let cgroups = Layout::detect()?;
        let holder = crate::holder::find_or_start(&options).await?;
        let engine = Self(Arc::new(Inner {
            images,
            networks: Arc::new(networks),
            volumes: Arc::new(volumes),
            events: Events::default(),
            holder,
            zone: Arc::default(),
            remote: std::sync::Mutex::default(),
            traffic: crate::services::Traffic::default(),
            naming: std::sync::Mutex::default(),
            named: tokio::sync::watch::Sender::new(0),
            cgroups,
            cgroup_root: format!("/coracle/{}", &machine_id[..12]),
            machine_id,
            available_caps: caps::available(),
            execs: Execs::default(),
            table: RwLock::default(),
            dns: tokio::sync::Mutex::default(),
            doors: Doors::default(),
            permit: tokio::sync::watch::Sender::default(),
            permitted: std::sync::Mutex::default(),
            ends: tokio::sync::RwLock::default(),
            options,
        }));
        engine.restore().await?;
        engine.enforce();
        engine.direct_traffic();
        Ok(engine)
    }

    /// Images.
    pub fn images(&self) -> &ImageStore {
        &self.0.images
    }

    /// Volumes. Removal goes through [`Engine::remove_volume`], which knows the users.
    pub fn volumes(&self) -> &Volumes {
        &self.0.volumes
    }

    /// Networks, for reading; changes go through the engine, which serves their names.
    pub fn networks(&self) -> &Networks {
        &self.0.networks
    }

    /// The options it was opened with.
    pub fn options(&self) -> &EngineOptions {
        &self.0.options
    }

    /// The machine's id: 32 hexadecimal digits.
    pub fn machine_id(&self) -> &str {
        &self.0.machine_id
    }

    /// How this machine's control groups are laid out.
    pub fn cgroups(&self) -> &Layout {
        &self.0.cgroups
    }

    /// A container by id, name or the beginning of an id.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] or [`EngineError::Ambiguous`].
    pub fn get(&self, key: &str) -> Result<Snapshot> {
        let container = self.find(key)?;
        Ok(self.shown(&container))
    }

    /// Every container, the newest first.
    pub fn list(&self) -> Vec<Snapshot> {
        self.snapshots().collect()
    }

    /// As [`Self::list`], each copied when it is asked for.
    pub fn snapshots(&self) -> impl Iterator<Item = Snapshot> + use<> {
        let mut all = self.containers();
        all.sort_by_cached_key(|c| std::cmp::Reverse(c.read(|r| r.created)));
        let engine = self.clone();
        all.into_iter().map(move |c| engine.shown(&c))
    }

    /// Past events that are kept, and those to come.
    pub fn subscribe(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        self.0.events.subscribe()
    }

    /// Tells listeners of something that happened above the engine, such as a pull.
    pub fn publish(&self, event: Event) {
        self.0.events.publish(event);
    }

    pub(crate) fn find(&self, key: &str) -> Result<Arc<Container>> {
        self.table().find(key)
    }

    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        self.table().all()
    }

    pub(crate) fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.0.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn container_dir(&self, id: &crate::ContainerId) -> PathBuf {
        self.0
            .options
            .state_dir
            .join("containers")
            .join(id.as_str())
    }

    pub(crate) fn shim_dir(&self, id: &str) -> PathBuf {
        shim_dir(&self.0.options.run_dir, id)
    }

    /// Tells listeners what happened to a container; `more` is added to its attributes.
    pub(crate) fn tell(&self, container: &Container, action: &str, more: &[(&str, String)]) {
        let mut attributes = container.attributes();
        for (key, value) in more {
            attributes.insert((*key).to_owned(), value.clone());
        }
        self.publish(Event::now(
            "container",
            action,
            container.id.as_str(),
            attributes,
        ));
    }
}

pub(crate) fn shim_dir(run_dir: &Path, id: &str) -> PathBuf {
    run_dir.join("shims").join(id)
}
