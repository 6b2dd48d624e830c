//! What of the engine a driver of containers needs. The engine has it, and so has the simulation's table of containers.
//!
//! What only services, networks and logs need is asked of the engine itself.

use crate::model::Pinned;
use crate::service::NotUp;
use crate::translate::UID_LABEL;
use chrono::{DateTime, Utc};
use coracle_engine::events::Event;
use coracle_engine::exclusive::Permit;
use coracle_engine::logs::{LogLine, LogQuery};
use coracle_engine::model::CreateRequest;
use coracle_engine::process::State;
use coracle_engine::record::Phase;
use coracle_engine::remove::RemoveOptions;
use coracle_engine::{Engine, EngineError, PublishedPort, full_error};
use coracle_image::{ErrorKind, Reference, Silent};
use coracle_unit::unit::VolumeUnit;
use std::collections::BTreeSet;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};

/// What is being done.
pub(crate) type Doing<'a, T, E = EngineError> =
    Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// Processes of services, by id.
pub(crate) type Processes = Vec<(String, State)>;

/// A container as it is seen.
pub(crate) struct Look {
    pub name: String,
    /// The digest of its image's config, if images are known.
    pub image: Option<String>,
    pub phase: Phase,
    /// Of one that has ended.
    pub exit_code: i32,
    /// None of one that never ran.
    pub finished_at: Option<DateTime<Utc>>,
    pub oom_killed: bool,
    /// Its watchdog ended it: it is exclusive, and its time was over.
    pub watchdog: bool,
    /// Why it could not be started; empty if it was.
    pub error: String,
    /// `starting`, `healthy` or `unhealthy`, if it runs and has a test.
    pub health: Option<&'static str>,
    /// `0.0.0.0:8080->80/tcp`.
    pub ports: Vec<String>,
}

/// See the module.
pub(crate) trait Containers: Send + Sync + 'static {
    /// What happens to containers from now on.
    fn events(&self) -> broadcast::Receiver<Event>;

    /// None of one that is not there.
    fn look(&self, id: &str) -> Option<Look>;

    /// Ids of a unit's containers.
    fn of_unit(&self, uid: &str) -> Vec<String>;

    /// Makes one; answers its id.
    fn create(&self, name: String, request: CreateRequest) -> Doing<'_, String>;

    /// Gives one another name.
    fn rename<'a>(&'a self, id: &'a str, name: &'a str) -> Doing<'a, ()>;

    /// Errors: [`EngineError::NotModified`] for one that runs.
    fn start<'a>(&'a self, id: &'a str) -> Doing<'a, ()>;

    /// As [`Self::start`], of one that is exclusive. Errors besides: [`EngineError::NotPermitted`].
    fn start_permitted<'a>(&'a self, id: &'a str, permit: Permit) -> Doing<'a, ()>;

    /// Says until when what is exclusive may run here.
    fn permit(&self, permit: Permit);

    /// From now on one is exclusive, also if it was not made so.
    fn claim(&self, id: &str);

    /// One that was not made so is exclusive no more.
    fn release<'a>(&'a self, id: &'a str) -> Doing<'a, ()>;

    /// Moves on the deadline of one to what was said last.
    fn prolong<'a>(&'a self, id: &'a str) -> Doing<'a, ()>;

    /// As [`Self::prolong`], of commands of services.
    fn prolong_commands(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// Whether it may be found as an instance of its service.
    fn serve(&self, id: &str, serves: bool);

    /// Returns once ports of a service are this machine's, or says why they cannot be.
    fn have_ports<'a>(
        &'a self,
        service: &'a str,
        ports: &'a [PublishedPort],
    ) -> Doing<'a, (), String>;

    /// Connections that others have to the ports of one; see [`Engine::inbound`].
    fn inbound(&self, id: &str, before: &mut BTreeSet<u16>) -> Option<usize>;

    /// Returns once it has ended. Without signal and time as it was made to be stopped.
    fn stop<'a>(
        &'a self,
        id: &'a str,
        signal: Option<&'a str>,
        time: Option<Duration>,
    ) -> Doing<'a, ()>;

    /// Removes one, also while it runs, with its volumes that have no name.
    fn remove<'a>(&'a self, id: &'a str) -> Doing<'a, ()>;

    /// Returns once an image is here. `pull` as in `Pull=`.
    fn have_image<'a>(&'a self, name: &'a str, pull: &'a str) -> Doing<'a, (), NotUp>;

    /// What an image's name stands for here; None if it stands for nothing.
    fn pinned(&self, name: &str) -> Option<Pinned>;

    /// Makes a volume, unless it is there.
    fn have_volume(&self, volume: &VolumeUnit) -> Result<(), EngineError>;

    /// Processes of services, by id.
    fn processes(&self) -> Pin<Box<dyn Future<Output = Processes> + Send + '_>>;

    /// A container's output.
    fn logs(&self, id: &str, query: LogQuery) -> Result<mpsc::Receiver<LogLine>, EngineError>;

    /// Below it is what the machine keeps.
    fn state_dir(&self) -> &Path;
}

impl Containers for Engine {
    fn events(&self) -> broadcast::Receiver<Event> {
        self.subscribe().1
    }

    fn look(&self, id: &str) -> Option<Look> {
        let found = self.get(id).ok()?;
        let state = found.record.state;
        Some(Look {
            name: found.record.name,
            image: Some(found.record.image_id),
            phase: state.phase,
            exit_code: state.exit_code,
            finished_at: state.finished_at,
            oom_killed: state.oom_killed,
            watchdog: state.watchdog,
            health: found.health.map(|h| h.status),
            ports: state.published().map(ToString::to_string).collect(),
            error: state.error,
        })
    }

    fn of_unit(&self, uid: &str) -> Vec<String> {
        let all = self.list().into_iter();
        let own = all.filter(|s| {
            let label = s.record.config.labels.get(UID_LABEL);
            label.is_some_and(|l| l == uid)
        });
        own.map(|s| s.record.id.to_string()).collect()
    }

    fn create(&self, name: String, request: CreateRequest) -> Doing<'_, String> {
        Box::pin(async move {
            let created = Engine::create(self, Some(&name), request).await?;
            Ok(created.id.to_string())
        })
    }

    fn rename<'a>(&'a self, id: &'a str, name: &'a str) -> Doing<'a, ()> {
        Box::pin(Engine::rename(self, id, name))
    }

    fn start<'a>(&'a self, id: &'a str) -> Doing<'a, ()> {
        Box::pin(Engine::start(self, id))
    }

    fn start_permitted<'a>(&'a self, id: &'a str, permit: Permit) -> Doing<'a, ()> {
        Box::pin(Engine::start_permitted(self, id, permit))
    }

    fn have_ports<'a>(
        &'a self,
        service: &'a str,
        ports: &'a [PublishedPort],
    ) -> Doing<'a, (), String> {
        Box::pin(Engine::have_ports(self, service, ports))
    }

    fn permit(&self, permit: Permit) {
        Engine::permit(self, permit);
    }

    fn claim(&self, id: &str) {
        Engine::claim(self, id);
    }

    fn release<'a>(&'a self, id: &'a str) -> Doing<'a, ()> {
        Box::pin(Engine::release(self, id))
    }

    fn prolong<'a>(&'a self, id: &'a str) -> Doing<'a, ()> {
        Box::pin(Engine::prolong(self, id))
    }

    fn prolong_commands(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(Engine::prolong_commands(self))
    }

    fn serve(&self, id: &str, serves: bool) {
        // One that is not there is not found either.
        let _ = Engine::serve(self, id, serves);
    }

    fn inbound(&self, id: &str, before: &mut BTreeSet<u16>) -> Option<usize> {
        Engine::inbound(self, id, before)
    }

    fn stop<'a>(
        &'a self,
        id: &'a str,
        signal: Option<&'a str>,
        time: Option<Duration>,
    ) -> Doing<'a, ()> {
        Box::pin(Engine::stop(self, id, signal, time))
    }

    fn remove<'a>(&'a self, id: &'a str) -> Doing<'a, ()> {
        let options = RemoveOptions {
            force: true,
            volumes: true,
        };
        Box::pin(Engine::remove(self, id, options))
    }

    fn have_image<'a>(&'a self, name: &'a str, pull: &'a str) -> Doing<'a, (), NotUp> {
        Box::pin(have_image(self, name, pull))
    }

    fn pinned(&self, name: &str) -> Option<Pinned> {
        let image = self.images().get(name).ok()?;
        let reference = Reference::parse_normalized(name).ok()?;
        let repository = reference.familiar_name();
        let mut digests = image.repo_digests.into_iter();
        let of_registry = digests.find(|d| d.split('@').next() == Some(&repository));
        // What was made here other machines get by its digest, too.
        let own = || {
            let held = self.images().held(&reference).ok()?;
            Some(format!("{repository}@{}", held.manifest))
        };
        Some(Pinned {
            name: name.to_owned(),
            id: image.id.to_string(),
            digest: of_registry.or_else(own),
        })
    }

    fn have_volume(&self, volume: &VolumeUnit) -> Result<(), EngineError> {
        // It waits for the disk.
        tokio::task::block_in_place(|| {
            let (name, labels) = (Some(volume.volume_name.as_str()), &volume.labels);
            self.volumes().ensure(name, labels, &volume.options())
        })
        .map(drop)
    }

    fn processes(&self) -> Pin<Box<dyn Future<Output = Processes> + Send + '_>> {
        Box::pin(Engine::processes(self))
    }

    fn logs(&self, id: &str, query: LogQuery) -> Result<mpsc::Receiver<LogLine>, EngineError> {
        Engine::logs(self, id, query)
    }

    fn state_dir(&self) -> &Path {
        &self.options().state_dir
    }
}

async fn have_image(engine: &Engine, name: &str, pull: &str) -> Result<(), NotUp> {
    let images = engine.images();
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
        return match images.pull_from_peers(&reference, None, &Silent).await {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => Err(NotUp::new(
                125,
                format!(
                    "image {name} is neither here nor on another machine, and localhost/ is no registry; make it with `coracle build`, `coracle import` or `coracle load`"
                ),
            )),
            Err(e) => Err(failed(&e)),
        };
    }
    images
        .pull(&reference, None, None, &Silent)
        .await
        .map_err(|e| failed(&e))?;
    Ok(())
}
