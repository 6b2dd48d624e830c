//! Updates by themselves: a channel is looked at, and what is newer there is taken when the window is open and the machine has its turn.
//!
//! An image is fetched as soon as it is seen and written only when it is this machine's turn, right before the restart: a machine whose power goes
//! while it waits starts what it ran before.

mod back;
mod drained;
mod keep;
mod settings;
mod turn;

pub use settings::{Updates, UpdatesOf};

use super::{
    Os,
    error::OsError,
    update::{Allowed, Tell},
};
use coracle_cloud_config::RebootStrategy;
use coracle_image::{Reference, Silent};
use coracle_os::{
    files::replace,
    history::{Outcome, Update},
    release::Release,
    turns::{Proof, Verdict, Wait},
};
use semver::Version;
use serde::Serialize;
use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::{Notify, watch};

/// Where `coracle os channel` keeps what it was told.
const CHANNEL: &str = "/var/lib/coracle-os/channel";
/// Pause between two looks at something that others do: a turn, the end of a drain.
const LOOK: Duration = Duration::from_secs(3);
/// How long somebody waits for a look that was asked for.
const LOOKED: Duration = Duration::from_secs(60);
/// Pause after what failed, at most that between two looks at the channel.
const RETRY: Duration = Duration::from_secs(60);

/// What updates by themselves need beside [`Os`].
pub struct Rollout {
    settings: Updates,
    /// The daemon's own socket: drains and machines are asked for as an operator would.
    client: crate::client::Client,
    progress: Mutex<Progress>,
    /// Somebody wants it to be looked at now.
    wake: Notify,
    /// How many looks have begun, and ended.
    looks: watch::Sender<(u64, u64)>,
    /// What the channel had when it was looked at last: the registry is not asked each time that a turn is.
    fetched: Mutex<Option<Fetched>>,
    /// How many looks have failed one after the other.
    failures: AtomicU32,
}

/// An image with a release, whose signature is good.
#[derive(Debug, Clone)]
struct Fetched {
    channel: String,
    at: Instant,
    image: String,
    release: Release,
}

/// How far it is.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Progress {
    /// When the channel was looked at last, in seconds since 1970.
    pub checked_at: Option<u64>,
    /// The release that was there.
    pub found: Option<Version>,
    /// What is going on.
    pub state: String,
}

impl Rollout {
    pub fn new(settings: Updates, run_dir: &Path) -> Self {
        Self {
            settings,
            client: crate::client::Client::silent(&run_dir.join("coracle.sock")),
            progress: Mutex::default(),
            wake: Notify::new(),
            looks: watch::Sender::new((0, 0)),
            fetched: Mutex::default(),
            failures: AtomicU32::new(0),
        }
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

impl Os {
    /// Judges the release that runs, gives a turn back, and then keeps the machine up to date, for ever.
    pub async fn keep(self: Arc<Self>) {
        let back = tokio::spawn({
            let os = self.clone();
            async move { os.lift().await }
        });
        let before = self.last();
        self.watch().await;
        let os = self.clone();
        let coming = tokio::spawn(async move {
            // It ends once the cluster could be asked.
            back.await.ok();
            os.come_back(before).await;
            tokio::spawn(async move { os.absolve().await });
        });
        if self.takes_turns() {
            coming.await.ok();
        }
        let looks = &self.rollout.looks;
        loop {
            looks.send_modify(|(begun, _)| *begun += 1);
            let pause = self.look_once().await;
            looks.send_modify(|(begun, ended)| *ended = *begun);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.rollout.wake.notified() => {
                    *self.fetched() = None;
                }
            }
        }
    }

    /// Whether restarts by themselves are agreed upon through the store.
    fn takes_turns(&self) -> bool {
        use RebootStrategy::{BestEffort, EtcdLock};
        matches!(self.rollout.settings.reboot, EtcdLock | BestEffort)
    }

    fn fetched(&self) -> std::sync::MutexGuard<'_, Option<Fetched>> {
        let fetched = self.rollout.fetched.lock();
        fetched.unwrap_or_else(PoisonError::into_inner)
    }

    fn last(&self) -> Option<Update> {
        self.history().ok()?.updates.pop()
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.noting(|progress| progress.clone())
    }

    fn noting<T>(&self, act: impl FnOnce(&mut Progress) -> T) -> T {
        let progress = self.rollout.progress.lock();
        act(&mut progress.unwrap_or_else(PoisonError::into_inner))
    }

    fn say(&self, state: impl Into<String>) {
        let state = state.into();
        if self.noting(|p| std::mem::replace(&mut p.state, state.clone())) != state {
            tracing::info!(state, "updates");
        }
    }

    /// Has the channel looked at now, and answers once it was; a minute later in any case, since an update may be under way.
    ///
    /// # Errors
    /// [`OsError::NoChannel`].
    pub async fn look_now(&self) -> Result<Progress, OsError> {
        if self.rollout.settings.from.is_none() {
            return Err(OsError::NoChannel);
        }
        let mut looks = self.rollout.looks.subscribe();
        let next = looks.borrow().0 + 1;
        self.rollout.wake.notify_one();
        let looked = looks.wait_for(|(_, ended)| *ended >= next);
        let looked = tokio::time::timeout(LOOKED, looked).await.is_ok();
        let mut progress = self.progress();
        if !looked {
            // An image is being fetched, or an update is under way.
            progress.state = format!("the look at the channel goes on; last: {}", progress.state);
        }
        Ok(progress)
    }

    /// The channel: an operator's word, the configuration's, or the usual one.
    pub fn channel(&self) -> String {
        let told = std::fs::read_to_string(CHANNEL).unwrap_or_default();
        match told.trim() {
            "" => self.rollout.settings.channel.clone(),
            told => told.to_owned(),
        }
    }

    /// Sets the channel, or leaves it to the configuration again, and has it looked at.
    ///
    /// # Errors
    /// That the name is none, or those of writing.
    pub fn set_channel(&self, name: Option<&str>) -> Result<(), OsError> {
        let failed = |error| OsError::Write(CHANNEL.to_owned(), error);
        match name {
            Some(name) => {
                let from = self.rollout.settings.from.as_deref();
                settings::reference(from.unwrap_or("localhost/os"), name)
                    .map_err(|_| OsError::Channel(name.to_owned()))?;
                replace(Path::new(CHANNEL), format!("{name}\n").as_bytes(), 0o644)
                    .map_err(failed)?;
            }
            None => match std::fs::remove_file(CHANNEL) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
                _ => {}
            },
        }
        self.rollout.wake.notify_one();
        Ok(())
    }

    /// One look at the channel and what follows from it; the pause until the next one.
    async fn look_once(self: &Arc<Self>) -> Duration {
        let every = self.rollout.settings.every;
        if self.rollout.settings.from.is_none() {
            self.say(
                "no repository is named (`coreos.update.server`), so nobody looks for updates",
            );
            return every;
        }
        let looked = match self.tidy().await {
            Ok(()) => self.look().await,
            Err(error) => Err(error),
        };
        let before = self.rollout.failures.swap(0, Ordering::Relaxed);
        match looked {
            Ok(pause) => pause.min(every),
            Err(OsError::Wait(wait @ Wait::Stopped { .. })) => {
                self.say(wait.to_string());
                RETRY.min(every)
            }
            Err(OsError::Wait(wait)) => {
                self.say(wait.to_string());
                // Two that give way to each other are not to do so for ever.
                let id = self.engine.machine_id().as_bytes();
                LOOK + Duration::from_millis(id.iter().fold(0, |sum, b| sum + u64::from(*b)) % 997)
            }
            Err(error @ OsError::StoreWouldStop(_)) => {
                self.say(error.to_string());
                LOOK
            }
            Err(error) => {
                self.say(coracle_engine::full_error(&error));
                *self.fetched() = None;
                // What fails again and again is not to move units away each minute.
                let failures = before.saturating_add(1);
                self.rollout.failures.store(failures, Ordering::Relaxed);
                (RETRY * 2_u32.saturating_pow(before.min(10))).min(every)
            }
        }
    }

    /// What a look begins with: a turn that came to nothing is given back, and what is written and was stopped elsewhere is not started.
    async fn tidy(&self) -> Result<(), OsError> {
        let waits = |update: &Update| update.outcome == Outcome::Written && update.by_itself;
        if let Some(update) = self.last().filter(waits) {
            let verdict = self.verdict(&update.to).await;
            self.stopped(&update.to, &verdict)?;
        }
        match self.hand_back().await {
            // Whoever takes no turns is not kept by a store that is away.
            Err(error) if !self.takes_turns() => {
                let error = coracle_engine::full_error(&error);
                tracing::warn!(error, "whether this machine has a turn is not known");
                Ok(())
            }
            handed => handed,
        }
    }

    async fn look(self: &Arc<Self>) -> Result<Duration, OsError> {
        let settings = &self.rollout.settings;
        let from = settings.from.as_deref().ok_or(OsError::NoChannel)?;
        let channel = self.channel();
        let reference = settings::reference(from, &channel)?;
        let known = self.fetched().clone();
        let known = known.filter(|f| f.channel == channel && f.at.elapsed() < settings.every);
        let (image, release) = match known {
            Some(known) => (known.image, known.release),
            None => {
                let (image, release) = self.fetch(&reference).await?;
                self.noting(|p| {
                    (p.checked_at, p.found) = (Some(now()), Some(release.version.clone()));
                });
                *self.fetched() = Some(Fetched {
                    channel,
                    at: Instant::now(),
                    image: image.clone(),
                    release: release.clone(),
                });
                (image, release)
            }
        };
        if release.version <= self.machine.about.version {
            self.say("up to date");
            return Ok(settings.every);
        }
        self.fits(&release, Allowed::default())?;
        let verdict = self.verdict(&release.version).await;
        if let Some(stopped) = self.stopped(&release.version, &verdict)? {
            return Err(stopped.into());
        }
        let by_hand = |u: &Update| u.outcome == Outcome::Written && !u.by_itself;
        if let Some(update) = self.last().filter(by_hand) {
            let to = &update.to;
            self.say(format!(
                "release {to}, which somebody wrote, waits for the restart"
            ));
            return Ok(settings.every);
        }
        let verdict = verdict.ok().flatten();
        let resumes = verdict.as_ref().map_or(0, |v| v.resumes);
        if let Some(update) = self.declined(&release.version, resumes)? {
            let outcome = match update.outcome {
                Outcome::RolledBack => "somebody went back from it",
                _ => update.reason.as_deref().unwrap_or("it failed"),
            };
            self.say(format!(
                "release {to} is not tried again here ({outcome}); `coracle os update {reference}` does, and so does a later one",
                to = release.version
            ));
            return Ok(settings.every);
        }
        if settings.reboot == RebootStrategy::Off {
            return self.only_write(&image, &release, resumes).await;
        }
        if let Some(closed) = self.closed() {
            return Ok(closed);
        }
        let locked = match settings.reboot {
            RebootStrategy::Reboot | RebootStrategy::Off => false,
            RebootStrategy::EtcdLock => true,
            RebootStrategy::BestEffort => self.is_one_of_many().await?,
        };
        match locked {
            true => self.turn(&image, &release, resumes).await,
            false => {
                let before = self.before().await;
                let well = async || Ok(());
                self.write_and_restart(&image, &release, resumes, before, well)
                    .await
            }
        }
    }

    /// That a release failed somewhere; one that is written here, by itself, is not started by the next restart then.
    fn stopped(
        &self,
        version: &Version,
        verdict: &Result<Option<Verdict>, OsError>,
    ) -> Result<Option<Wait>, OsError> {
        let Ok(Some(failed)) = verdict else {
            return Ok(None);
        };
        if failed.standing != Proof::Failed {
            return Ok(None);
        }
        let wait = failed.stops(version);
        self.withdraw(version, &wait.to_string())?;
        Ok(Some(wait))
    }

    /// Has an update by itself that waits for the restart not started after all.
    fn withdraw(&self, version: &Version, why: &str) -> Result<(), OsError> {
        let waits = |update: &Update| {
            // Also one that was being taken back.
            let there = matches!(update.outcome, Outcome::Written | Outcome::Writing);
            there && update.by_itself && update.to == *version
        };
        if !self.last().is_some_and(|update| waits(&update)) {
            return Ok(());
        }
        let _alone = self.busy.try_acquire().map_err(|_| OsError::Busy)?;
        self.take_back(|update| {
            update.outcome = Outcome::Failed;
            update.reason = Some(why.to_owned());
            update.cut_short = true;
        })
    }

    /// Fetches an image; its id and the release in it, whose signature is good.
    async fn fetch(self: &Arc<Self>, reference: &Reference) -> Result<(String, Release), OsError> {
        let images = self.engine.images();
        let image = images.pull(reference, None, None, &Silent).await?;
        let (os, id) = (self.clone(), image.id.to_string());
        let reading = tokio::task::spawn_blocking(move || os.peek(&id).map(|r| (id, r)));
        reading.await.map_err(|_| OsError::Interrupted)?
    }

    /// The update to that release that failed here, or that somebody went back from; nothing if an operator has said since that it is to be tried.
    fn declined(&self, version: &Version, resumes: u64) -> Result<Option<Update>, OsError> {
        let history = self.history()?;
        let last = history.tried(version).filter(|u| {
            let ended = matches!(u.outcome, Outcome::Failed | Outcome::RolledBack);
            ended && resumes <= u.resumes
        });
        Ok(last.cloned())
    }

    fn allowed(resumes: u64) -> Allowed {
        Allowed {
            downgrade: false,
            by_itself: true,
            resumes,
        }
    }

    /// Writes it, for somebody's restart.
    async fn only_write(
        self: &Arc<Self>,
        image: &str,
        release: &Release,
        resumes: u64,
    ) -> Result<Duration, OsError> {
        let last = self.last();
        let written =
            last.is_some_and(|u| u.to == release.version && u.outcome == Outcome::Written);
        if !written {
            let before = self.before().await;
            self.update_from_image(image, Self::allowed(resumes), before, self.telling())
                .await?;
        }
        self.say(format!(
            "release {} is started with the next restart",
            release.version
        ));
        Ok(self.rollout.settings.every)
    }

    /// Seconds until the window opens, if it is closed; that is told.
    fn closed(&self) -> Option<Duration> {
        let window = self.rollout.settings.window?;
        let rest = Duration::from_secs(window.opens_in(now()));
        (!rest.is_zero()).then(|| {
            self.say(format!("waits for the window, {window}"));
            rest
        })
    }

    fn telling(self: &Arc<Self>) -> Tell {
        let os = self.clone();
        Arc::new(move |line| os.say(line))
    }

    /// Writes it and restarts, unless something speaks against that by then: the window, a failure elsewhere, or what `well` says. Comes back with
    /// an error only.
    async fn write_and_restart(
        self: &Arc<Self>,
        image: &str,
        release: &Release,
        resumes: u64,
        before: coracle_os::history::Before,
        well: impl AsyncFnOnce() -> Result<(), OsError>,
    ) -> Result<Duration, OsError> {
        let version = &release.version;
        self.update_from_image(image, Self::allowed(resumes), before, self.telling())
            .await?;
        let verdict = self.verdict(version).await;
        if let Some(stopped) = self.stopped(version, &verdict)? {
            return Err(stopped.into());
        }
        let against = match self.closed() {
            Some(_) => Err(OsError::Closed),
            None => well().await,
        };
        let restarted = against.and_then(|()| {
            self.say(format!("restarts into release {version}"));
            self.restart()
        });
        if let Err(error) = restarted {
            self.withdraw(version, &coracle_engine::full_error(&error))?;
            return Err(error);
        }
        // Until the daemon is taken down, nothing is to begin.
        std::future::pending().await
    }
}
